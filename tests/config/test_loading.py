"""What a TOML file, its overrides and the stored JSON become."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evometa.config import (
    BaselineConfig,
    BudgetConfig,
    CampaignConfig,
    EvolutionConfig,
    ExecutionConfig,
    FinalConfig,
    ObjectivesConfig,
    RefinementConfig,
    TaskSource,
    config_from_json,
    config_to_json,
    load_config,
)
from evometa.errors import ConfigError
from evometa.inner.precision import PRECISIONS

DIGITS = '[[tasks]]\nuse = "digits"\n'

counts = st.integers(1, 10**6)
shares = st.floats(0, 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def distinct(max_size: int, min_size: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(texts, min_size=min_size, max_size=max_size, unique=True).map(tuple)


gene_values = st.booleans() | st.integers() | finite | texts | distinct(3)
numbers = st.integers() | finite
gene_limits = st.fixed_dictionaries({}, optional={"low": numbers, "high": numbers}) | st.fixed_dictionaries(
    {"options": st.lists(st.booleans() | numbers | texts, max_size=3).map(tuple)}
)
configs = st.builds(
    CampaignConfig,
    name=names,
    tasks=st.lists(
        st.builds(TaskSource, texts, counts, counts, st.dictionaries(texts, plain_values, max_size=3)),
        min_size=1,
        max_size=3,
    ).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    description=st.text(st.characters(exclude_categories=["Cs"])),
    evolution=st.builds(
        EvolutionConfig,
        population=st.integers(4, 10**6),
        generations=counts,
        families=distinct(3),
        seeds=distinct(3),
        mutation_rate=shares,
        mutation_strength=st.floats(0, 1, exclude_min=True),
        crossover_probability=shares,
        continuation_probability=shares,
        family_change_probability=shares,
        fresh_probability=shares,
        tournament_size=st.integers(1, 4),
    ),
    genes=st.dictionaries(texts, gene_values | gene_limits, max_size=3),
    refinement=st.builds(RefinementConfig, st.booleans(), counts, counts),
    objectives=st.builds(ObjectivesConfig, distinct(4, min_size=1)),
    final=st.builds(FinalConfig, counts, counts),
    execution=st.builds(
        ExecutionConfig,
        backend=st.sampled_from(["dask", "ray"]),
        address=texts,
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "cuda:0,2"]),
        workers=st.integers(0, 64),
        max_memory_bytes=st.integers(0, 2**50),
        timeout_seconds=st.floats(0, 1e9),
        max_failed_fraction=shares,
        precision=st.sampled_from(PRECISIONS),
        compile=st.sampled_from(["auto", "never", "always"]),
    ),
    budget=st.builds(BudgetConfig, st.integers(0, 2**50), st.floats(0, 1e9)),
    baseline=st.builds(BaselineConfig, counts, st.integers(2, 100)),
)


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str, name: str = "study.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


def types_within(value: object) -> object:
    """The types of all leaves: ``==`` alone does not tell 1 from 1.0 or True."""
    if isinstance(value, dict):
        return {key: types_within(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [types_within(child) for child in value]
    return type(value)


@given(config=configs)
def test_json_round_trip_is_lossless(config: CampaignConfig) -> None:
    again = config_from_json(config_to_json(config))
    assert again == config
    assert types_within(dataclasses.asdict(again)) == types_within(dataclasses.asdict(config))
    assert config_to_json(again) == config_to_json(config)


def test_a_file_that_names_only_a_task_gets_the_documented_defaults(write) -> None:
    config = load_config(write(DIGITS, "first_try.toml"))
    assert config == CampaignConfig(name="first_try", tasks=(TaskSource(use="digits"),))
    assert (config.tasks[0].n_tasks, config.tasks[0].horizon) == (8, 100)
    assert (config.evolution.population, config.evolution.generations) == (24, 8)
    assert config.objectives.use == ("meta_loss", "state_floats")


def test_every_section_is_read(write) -> None:
    config = load_config(
        write(
            """
            name = "mine"
            seed = 7
            [[tasks]]
            use = "quadratic"
            [[tasks]]
            use = "my_package.tasks:family"
            n_tasks = 3
            options = { width = [8, 16], scale = 1.5 }
            [evolution]
            mutation_rate = 1
            seeds = []
            [genes]
            hidden = 8
            features = ["gradient", "momentum"]
            [refinement]
            enabled = false
            [objectives]
            use = ["meta_loss"]
            [final]
            test_tasks = 64
            [execution]
            device = "cuda:1"
            [baseline]
            n_points = 5
            """
        )
    )
    assert config.name == "mine"
    assert config.seed == 7
    assert [source.use for source in config.tasks] == ["quadratic", "my_package.tasks:family"]
    assert config.tasks[1].options == {"width": [8, 16], "scale": 1.5}
    assert config.evolution.mutation_rate == 1.0
    assert type(config.evolution.mutation_rate) is float
    assert config.evolution.seeds == ()
    assert config.genes == {"hidden": 8, "features": ("gradient", "momentum")}
    assert config.refinement == RefinementConfig(enabled=False)
    assert config.objectives.use == ("meta_loss",)
    assert config.final == FinalConfig(test_tasks=64)
    assert config.execution.device == "cuda:1"
    assert config.baseline.n_points == 5


def test_a_configuration_cannot_be_changed(write) -> None:
    config = load_config(write(DIGITS))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.evolution.population = 8  # type: ignore[misc]


@given(population=st.integers(4, 10**9), rate=shares)
def test_overrides_are_read_as_toml(
    tmp_path_factory: pytest.TempPathFactory, population: int, rate: float
) -> None:
    path = tmp_path_factory.mktemp("config") / "study.toml"
    path.write_text(DIGITS + "[evolution]\npopulation = 99\n")
    config = load_config(path, [f"evolution.population={population}", f"evolution.mutation_rate = {rate!r}"])
    assert config.evolution.population == population
    assert config.evolution.mutation_rate == rate


def test_overrides_reach_lists_new_sections_and_bare_text(write) -> None:
    config = load_config(
        write(DIGITS),
        [
            "tasks.0.horizon=20",
            "tasks.0.options.depth=[1, 2]",
            "execution.device=cuda:1",
            'genes."meta.steps"=8',
            "genes.cell=lstm",
            'genes.note="8"',
            "evolution.generations=3",
            "evolution.generations=2",
            "description=a = b",
        ],
    )
    assert config.tasks[0].horizon == 20
    assert config.tasks[0].options == {"depth": [1, 2]}
    assert config.execution.device == "cuda:1"
    assert config.genes == {"meta.steps": 8, "cell": "lstm", "note": "8"}
    assert config.evolution.generations == 2
    assert config.description == "a = b"


@pytest.mark.parametrize(
    "text",
    [
        '"meta.lr" = { low = 0.001, high = 0.1 }\n"meta.steps" = { high = 8 }',
        "meta.lr = { low = 0.001, high = 0.1 }\nmeta.steps.high = 8",
        "[genes.meta]\nlr = { low = 0.001, high = 0.1 }\nsteps.high = 8",
    ],
)
def test_genes_with_dots_in_their_names_may_be_written_as_tables(write, text: str) -> None:
    path = write(f'{DIGITS}[genes]\nschedule = "cosine"\n"schedule.final" = 0.5\n{text}')
    genes = {
        "schedule": "cosine",
        "schedule.final": 0.5,
        "meta.lr": {"low": 0.001, "high": 0.1},
        "meta.steps": {"high": 8},
    }
    assert load_config(path).genes == genes
    overridden = load_config(
        path, ["genes.schedule.final=0.1", "genes.meta.lr.low=0.01", "genes.meta.steps={low=2}"]
    ).genes
    assert overridden == {
        "schedule": "cosine",
        "schedule.final": 0.1,
        "meta.lr": {"low": 0.01, "high": 0.1},
        "meta.steps": {"low": 2},
    }


def test_options_of_a_gene_keep_their_types(write) -> None:
    config = load_config(write(DIGITS + "[genes]\nmeta.unroll_length = { options = [10, 20] }"))
    assert config.genes == {"meta.unroll_length": {"options": (10, 20)}}


def test_a_name_given_on_the_command_line_is_text_and_wins(write) -> None:
    assert load_config(write('name = "old"\n' + DIGITS), name="2024").name == "2024"


@pytest.mark.parametrize("section", [EvolutionConfig, RefinementConfig, FinalConfig, BaselineConfig])
def test_sections_built_in_python_are_checked_as_well(section: type) -> None:
    first = dataclasses.fields(section)[0].name
    with pytest.raises(ValueError, match=first):
        section(**{first: "many"})


@pytest.mark.parametrize("text", ["", "[]", '"text"', "{", '{"name": "x"}', '{"tasks": [{"use": "x"}]}'])
def test_a_damaged_stored_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^campaign 'x'.*\S$"):
        config_from_json(text, "campaign 'x'")
