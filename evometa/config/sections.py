"""The sections of a campaign's configuration: keys, units, defaults and what each key allows.

Built in Python rather than loaded, a section raises pydantic's ValidationError (a ValueError) for a value
that is not allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass

from evometa.genome.genes import Value
from evometa.inner.modes import Backend, CompileMode, Precision

#: Unknown keys, silent conversions (``"64"`` for 64) and NaN are refused in every section.
_SECTION = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# A ``description`` says in words what is allowed where the type and its bounds do not say it well.
AtLeastOne = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
#: How a gene is narrowed: bounds of a numeric one, options of a choice or subset, the size of a formula.
GeneLimit = Literal["low", "high", "options", "size", "depth", "averages"]
GeneLimits = Annotated[
    Value | dict[GeneLimit, int | float | tuple[int | float | bool | str, ...]],
    Field(
        description="a value (finite number, text in quotes, true, false, list of texts),"
        " { low = NUMBER, high = NUMBER }, { options = LIST } or, of a formula, { size = NUMBER }"
    ),
]
CampaignName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="at most 100 letters, digits, '.', '_' or '-', the first a letter or digit",
    ),
]
DeviceName = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:[0-9]+(,[0-9]+)*)?)$",
        description='"auto", "cpu", "cuda", "cuda:N" or "cuda:N,M,…"',
    ),
]

PrecisionName = Annotated[Precision, Field(description='"float32", "tf32" or "bfloat16"')]
BackendName = Annotated[Backend, Field(description='"inline", "loky", "dask" or "ray"')]
CompileModeName = Annotated[CompileMode, Field(description='"auto", "never" or "always"')]


@dataclass(frozen=True, config=_SECTION)
class TaskSource:
    """One ``[[tasks]]`` table: where training tasks come from.

    Attributes:
        use: a registered task family, or ``pkg.module:attribute``.
        n_tasks: T, tasks drawn in each evaluation.
        horizon: K, inner steps of each training.
        options: passed to the family, which checks them itself.
    """

    use: Text
    n_tasks: AtLeastOne = 8
    horizon: AtLeastOne = 100
    options: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True, config=_SECTION)
class EvolutionConfig:
    """``[evolution]``: the genetic algorithm.

    Attributes:
        population: P, genomes in a generation.
        generations: generations after which the campaign is finished, generation 0 included.
        families: update-rule families that may appear; empty means all that are registered.
        seeds: genome files, or folders of them, that enter generation 0, relative to the current folder;
            ``builtin`` stands for those that come with evometa.
        tune_seeds: give seeds with a hand-designed rule the learning rate tuned for the campaign's tasks (the
            one its baseline has); False takes the rate in their file.
        mutation_rate: probability that a gene mutates.
        mutation_strength: standard deviation of a numeric mutation, in unit coordinates of the gene.
        crossover_probability: share of children that have two parents.
        continuation_probability: share of children that are their parent, refined further.
        family_change_probability: share of children that move to another update-rule family.
        fresh_probability: share of children that are new random genomes.
        tournament_size: genomes that compete to become a parent; at most ``population``.
        skip_equal: leave out children whose updates equal those of a genome of the campaign that was there
            before them.
    """

    population: Annotated[int, Field(ge=4)] = 24
    generations: AtLeastOne = 8
    families: tuple[Text, ...] = ()
    seeds: tuple[Text, ...] = ("builtin",)
    tune_seeds: bool = True
    mutation_rate: Probability = 0.2
    mutation_strength: Annotated[float, Field(gt=0, le=1)] = 0.15
    crossover_probability: Probability = 0.5
    continuation_probability: Probability = 0.2
    family_change_probability: Probability = 0.05
    fresh_probability: Probability = 0.05
    tournament_size: AtLeastOne = 2
    skip_equal: bool = True

    def __post_init__(self) -> None:
        if self.tournament_size > self.population:
            raise ValueError(
                f"tournament_size = {self.tournament_size}: allowed is a whole number from 1 to population"
                f" = {self.population}"
            )
        _refuse_repeats("families", self.families)


@dataclass(frozen=True, config=_SECTION)
class RefinementConfig:
    """``[refinement]``: meta-training of the learned rules' weights inside each generation.

    Attributes:
        enabled: False leaves every weight as it was drawn or inherited, whatever the genes say.
        n_tasks: meta_train tasks in one meta-batch.
        max_steps: most meta-updates in one lifetime, unless ``[genes]`` limits ``meta.steps`` itself.
    """

    enabled: bool = True
    n_tasks: AtLeastOne = 4
    max_steps: AtLeastOne = 20


@dataclass(frozen=True, config=_SECTION)
class ObjectivesConfig:
    """``[objectives]``: what is minimised.

    Attributes:
        use: registered objectives, or ``pkg.module:function``; NSGA-II ranks by all of them.
    """

    use: Annotated[tuple[Text, ...], Field(min_length=1, max_length=4)] = ("meta_loss", "state_floats")

    def __post_init__(self) -> None:
        _refuse_repeats("use", self.use)


@dataclass(frozen=True, config=_SECTION)
class Rung:
    """One ``[[racing.rungs]]`` table: on what little the genomes of a generation are compared.

    Attributes:
        tasks: share of each source's tasks that they have been trained on by then, rounded up.
        horizon: share of the inner steps of each training, rounded up. Below 1 these trainings decide who
            stays and nothing else; at 1 they are part of the whole evaluation.
        keep: share of the genomes in the race that stay, rounded up. Where ``horizon`` is below 1 as many
            as the population stay in any case.
    """

    tasks: Share = 0.25
    horizon: Share = 1.0
    keep: Share = 0.5


@dataclass(frozen=True, config=_SECTION)
class RacingConfig:
    """``[racing]``: successive halving of a generation, so that bad genomes are not trained on every task.

    Attributes:
        enabled: whether genomes race; False trains everyone on all tasks.
        rungs: where who stays is decided, by NSGA-II over all objectives; then comes the whole evaluation.
    """

    enabled: bool = False
    rungs: Annotated[
        tuple[Rung, ...],
        Field(min_length=1, description="one or more [[racing.rungs]] tables"),
    ] = (Rung(tasks=0.25), Rung(tasks=0.5))

    def __post_init__(self) -> None:
        reached = 0.0
        for number, rung in enumerate(self.rungs):
            if rung.horizon == 1.0 and not reached < rung.tasks < 1.0:
                raise ValueError(
                    f"rungs.{number}.tasks = {rung.tasks:g}: allowed with the whole horizon is a number"
                    f" between {reached:g}, which genomes have been trained on before, and 1"
                )
            reached = rung.tasks if rung.horizon == 1.0 else reached


@dataclass(frozen=True, config=_SECTION)
class FinalConfig:
    """``[final]``: the evaluations after the last generation.

    Attributes:
        n_tasks: fresh meta_valid tasks on which the final front is evaluated again.
        test_tasks: meta_test tasks of the report.
    """

    n_tasks: AtLeastOne = 32
    test_tasks: AtLeastOne = 32


@dataclass(frozen=True, config=_SECTION)
class ExecutionConfig:
    """``[execution]``: where cohorts run. The number of workers never changes a result.

    Attributes:
        backend: ``inline`` computes in the campaign's own process, ``loky`` in worker processes of this
            machine, ``dask`` and ``ray`` on a cluster.
        address: of a running cluster; without one it is made on this machine.
        device: ``auto`` takes a GPU where there is one; of several GPUs each has a worker.
        workers: 0 means one for every CPU core, up to four for each GPU of ``device``, or all of a cluster.
        precision: of inner training, see :mod:`evometa.inner.precision`.
        compile: where gradients are compiled, see :mod:`evometa.inner.gradient_choice`; settled when a
            campaign begins.
        max_memory_bytes: what the inner trainings and meta-gradients of all workers together may take in
            memory, on top of the interpreters and libraries that each process loads; 0 means half of the
            machine's memory on a CPU, and what a GPU has free. Work that does not fit goes another way,
            which may change last digits where PyTorch alone serves a rule, or ends as ``out_of_memory``.
        timeout_seconds: how long a worker may take for each genome it trains on the tasks of a source, or
            meta-trains. Several are trained at once; those that take longer are tried in halves, and a lone
            one ends as ``timeout``. 0 means no limit.
        max_failed_fraction: of the genomes evaluated on a source in a generation, how many may end as
            ``error``, ``timeout`` or ``out_of_memory`` before the campaign is stopped.
    """

    backend: BackendName = "loky"
    address: str = ""
    device: DeviceName = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    max_memory_bytes: Annotated[int, Field(ge=0)] = 0
    timeout_seconds: Annotated[float, Field(ge=0)] = 3600.0
    max_failed_fraction: Probability = 0.5
    precision: PrecisionName = "float32"
    compile: CompileModeName = "auto"

    def __post_init__(self) -> None:
        if self.address and self.backend not in ("dask", "ray"):
            raise ValueError(
                f'address = "{self.address}": backend "{self.backend}" has none; '
                'allowed is "dask" or "ray" with it'
            )
        if self.backend == "inline" and self.workers > 1:
            raise ValueError(f'workers = {self.workers}: backend "inline" is one process; allowed is 0 or 1')


@dataclass(frozen=True, config=_SECTION)
class BudgetConfig:
    """``[budget]``: what a campaign may cost, beside ``evolution.generations``; whatever comes first ends it.

    It is looked at when a generation is stored: the campaign then makes its final measurements and is
    finished, so that it costs a generation and these measurements more at most.

    Attributes:
        inner_steps: of meta-training, evaluations and tuning; 0 for as many as there are.
        seconds: in generations, of all sessions together; 0 for as long as it takes.
    """

    inner_steps: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, config=_SECTION)
class BaselineConfig:
    """``[baseline]``: tuning of the hand-designed rules that results are compared with.

    Attributes:
        n_tasks: meta_train tasks on which a learning rate is judged.
        n_points: learning rates tried.
    """

    n_tasks: AtLeastOne = 16
    n_points: Annotated[int, Field(ge=2)] = 15


@dataclass(frozen=True, config=_SECTION)
class CampaignConfig:
    """Everything a campaign needs to know.

    Attributes:
        name: of the campaign and of its folder; the TOML file's stem unless given.
        tasks: task sources, in order.
        seed: root of every random stream.
        description: a line for the people who read the listing.
        genes: genes held at one value (``hidden = 8``) or narrowed (``lr = { low = 1e-3, high = 0.1 }``)
            by name (``"meta.steps"``); checked against the search space.
    """

    name: CampaignName
    tasks: Annotated[
        tuple[TaskSource, ...],
        Field(min_length=1, description='one or more [[tasks]] tables, each with use = "a task family"'),
    ]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    description: str = ""
    evolution: EvolutionConfig = Field(default_factory=EvolutionConfig)
    genes: dict[str, GeneLimits] = Field(default_factory=dict)
    refinement: RefinementConfig = Field(default_factory=RefinementConfig)
    racing: RacingConfig = Field(default_factory=RacingConfig)
    objectives: ObjectivesConfig = Field(default_factory=ObjectivesConfig)
    final: FinalConfig = Field(default_factory=FinalConfig)
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    baseline: BaselineConfig = Field(default_factory=BaselineConfig)


def _refuse_repeats(key: str, names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f'{key} names "{repeated}" twice: allowed is once')
