"""The campaigns of the soak: a few seconds each, and unlike one another."""

from __future__ import annotations

from dataclasses import dataclass

_EVERY = """
seed = 5
[evolution]
population = 6
generations = 3
{evolution}
[refinement]
n_tasks = 3
[final]
n_tasks = 4
test_tasks = 4
[baseline]
n_tasks = 4
n_points = 3
[execution]
device = "cpu"
{execution}
"""
_QUADRATIC = '[[tasks]]\nuse = "quadratic"\nn_tasks = 6\nhorizon = 40\noptions = { dim = 4 }\n'
_ROSENBROCK = '[[tasks]]\nuse = "rosenbrock"\nn_tasks = 2\nhorizon = 20\n'
_DIGITS = '[[tasks]]\nuse = "digits"\nn_tasks = 3\nhorizon = 10\noptions = { tasks_per_architecture = 3 }\n'
_INLINE = 'backend = "inline"'
_TWO_WORKERS = 'backend = "loky"\nworkers = 2'
_LEARNED = """
[genes]
hidden = 4
"meta.write_back" = "lamarckian"
"meta.estimator" = "{estimator}"
"meta.steps" = {steps}
"meta.unroll_length" = 20
"meta.truncation" = 5
{more}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of campaign.

    Attributes:
        tasks, evolution, execution, genes: parts of its TOML.
        learns: whether its genomes are meta-trained.
        workers: whether there are worker processes.
    """

    tasks: str
    evolution: str
    execution: str
    genes: str = ""

    @property
    def learns(self) -> bool:
        return bool(self.genes)

    @property
    def workers(self) -> bool:
        return self.execution == _TWO_WORKERS

    @property
    def toml(self) -> str:
        """The campaign's configuration."""
        every = _EVERY.format(evolution=self.evolution, execution=self.execution)
        top, _, sections = every.partition("[evolution]")
        return f"{top}{self.tasks}[evolution]{sections}{self.genes}"


def _learned(estimator: str, steps: int, more: str = "") -> str:
    return _LEARNED.format(estimator=estimator, steps=steps, more=more)


def _of(*families: str, seeds: str = "") -> str:
    return f"families = {list(families)}\nseeds = [{seeds}]".replace("'", '"')


_PAIRS = '"meta.pairs" = 2'
KINDS: dict[str, Kind] = {
    "an LSTM by backpropagation": Kind(
        _QUADRATIC, _of("recurrent"), _INLINE, _learned("tbptt", 4, 'cell = "lstm"')
    ),
    "an LSTM by PES, two workers": Kind(
        _QUADRATIC, _of("recurrent"), _TWO_WORKERS, _learned("pes", 20, f'cell = "lstm"\n{_PAIRS}')
    ),
    "an MLP by ES": Kind(_QUADRATIC, _of("mlp"), _INLINE, _learned("es", 20, _PAIRS)),
    "an MLP by backpropagation, two workers": Kind(
        _QUADRATIC, _of("mlp", "adam"), _TWO_WORKERS, _learned("tbptt", 8)
    ),
    "hand-designed rules": Kind(_QUADRATIC, _of("sgd", "momentum", "adam", seeds='"builtin"'), _INLINE),
    "two task sources": Kind(
        _QUADRATIC + _ROSENBROCK, _of("adam", "recurrent"), _INLINE, _learned("tbptt", 4)
    ),
    "two task sources, two workers": Kind(
        _QUADRATIC + _ROSENBROCK, _of("adam", "mlp", "recurrent"), _TWO_WORKERS, _learned("pes", 10, _PAIRS)
    ),
    "digits": Kind(_DIGITS, _of("adam", "mlp"), _INLINE, _learned("tbptt", 2)),
}
