"""The configuration of a study of RL²: which processes, and how a policy is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from evometa.config.loading import Form, load_form
from evometa.environments.bandits import BernoulliBandits
from evometa.environments.rl2 import Training
from evometa.environments.tabular_mdps import TabularMDPs
from evometa.environments.training_trials import TrainingTrials
from evometa.environments.trials import TrialFamily
from evometa.errors import ConfigError, unknown

_SECTION = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_FAMILIES: dict[str, type[TrialFamily]] = {
    BernoulliBandits.name: BernoulliBandits,
    TabularMDPs.name: TabularMDPs,
    TrainingTrials.name: TrainingTrials,
}


@dataclass(frozen=True, config=_SECTION)
class TrialSource:
    """The ``[trials]`` table.

    Attributes:
        use: the family of processes.
        options: its options.
    """

    use: Literal["bandits", "tabular_mdps", "trainings"]
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, config=_SECTION)
class RL2Config:
    """The whole file.

    Attributes:
        trials, training: what is learned on, and how.
        description: one line for people.
        seed: root of all random streams.
        test_trials: fresh processes on which the policy and its rivals are measured.
    """

    trials: TrialSource
    training: Training = Field(default_factory=Training)
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    test_trials: Annotated[int, Field(ge=2)] = 10_000

    def family(self) -> TrialFamily:
        """The processes. Raises ConfigError for an option that they do not have, EvometaError for a value."""
        kind = _FAMILIES[self.trials.use]
        known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        for name in self.trials.options:
            if name not in known:
                raise ConfigError(f"trials.options: {unknown('option', name, known)}")
        return kind(**self.trials.options)


def load_rl2(path: Path, overrides: Sequence[str] = ()) -> RL2Config:
    """The study in a TOML file with ``overrides``, ``"training.updates=50"`` say. Raises ConfigError."""
    return load_form(path, overrides, Form(RL2Config))
