"""Hypothesis strategies for genes and spaces, registered by type: ``st.from_type(Space)`` draws one."""

from __future__ import annotations

from hypothesis import strategies as st

from evometa.genome.genes import Choice, Gene, Integer, LogReal, Real, Subset
from evometa.genome.space import Space

OPTION_NAMES = ("relu", "tanh", "×2", "none", "two words")


@st.composite
def reals(draw: st.DrawFn) -> Real:
    low = draw(st.floats(-1e6, 1e6))
    high = low + draw(st.sampled_from([0.0, 1e-3, 1.0, 1e6]))
    return Real("gene", low, high, draw(st.sampled_from([low, high])))


@st.composite
def log_reals(draw: st.DrawFn) -> LogReal:
    low = draw(st.floats(1e-10, 1e3))
    high = low * draw(st.sampled_from([1.0, 1.5, 1e4, 1e8]))
    return LogReal("gene", low, high, draw(st.sampled_from([low, high])))


@st.composite
def integers(draw: st.DrawFn) -> Integer:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -50, 50))
    high = low + draw(st.integers(0, 300))
    return Integer("gene", low, high, draw(st.integers(low, high)), log=log)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    scalars = st.sampled_from(OPTION_NAMES) | st.booleans() | st.integers(2, 9) | st.sampled_from([0.5, 1.5])
    options = tuple(draw(st.lists(scalars, min_size=1, max_size=5, unique=True)))
    return Choice("gene", options, draw(st.sampled_from([None, *options])))


@st.composite
def subsets(draw: st.DrawFn) -> Subset:
    options = tuple(draw(st.lists(st.sampled_from(OPTION_NAMES), min_size=1, unique=True)))
    initial = tuple(draw(st.lists(st.sampled_from(options), unique=True)))
    return Subset("gene", options, initial, min_size=draw(st.integers(0, len(initial))))


genes = st.one_of(reals(), log_reals(), integers(), choices(), subsets())


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Up to eight genes; about half of them active only under a condition on an earlier choice."""
    drawn: list[Gene] = []
    for index, gene in enumerate(draw(st.lists(genes, max_size=8))):
        switches = [earlier for earlier in drawn if isinstance(earlier, Choice)]
        when = {}
        if switches and draw(st.booleans()):
            switch = draw(st.sampled_from(switches))
            when = {switch.name: tuple(draw(st.lists(st.sampled_from(switch.options), min_size=1)))}
        drawn.append(type(gene)(**{**vars(gene), "name": f"g{index}", "when": when}))
    return Space(tuple(drawn))


st.register_type_strategy(Gene, genes)
st.register_type_strategy(Real, reals())
st.register_type_strategy(LogReal, log_reals())
st.register_type_strategy(Integer, integers())
st.register_type_strategy(Space, spaces())
