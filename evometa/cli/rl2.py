"""``evometa rl2 FILE``: a recurrent policy learns to learn on bandits or small decision processes."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from evometa.cli.output import Column, Fact, Format, Listing, Report, Section, console, duration, emit_report
from evometa.cli.parameters import FormatOption

if TYPE_CHECKING:
    from torch import Tensor

    from evometa.config.rl2 import RL2Config
    from evometa.environments.trials import TrialFamily


def rl2(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study, a TOML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the file; may be repeated."),
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Train a recurrent policy over trials (RL², Duan et al. 2016), and measure it on fresh ones."""
    from evometa.config.rl2 import load_rl2
    from evometa.environments.rl2 import RL2
    from evometa.rng import derive_seed

    config = load_rl2(file, overrides or ())
    family = config.family()
    out, begun, n_updates = console(stderr=True), monotonic(), config.training.updates

    def report(update: int, earned: float) -> None:
        if update % max(1, n_updates // 20) == 0:
            out.print(f"update {update} of {n_updates}: {earned:.3f} a step")

    learner = RL2(family, config.training.hidden)
    weights = learner.train(config.training, config.seed, report)
    seconds = monotonic() - begun
    tested = derive_seed(config.seed, "test")
    found = rivals(config, family, tested)
    found["RL², drawn"] = learner.total_rewards(weights, config.test_trials, tested, greedy=False)
    found["RL², likeliest action"] = learner.total_rewards(weights, config.test_trials, tested)
    emit_report(_report(config, family, found, seconds), form)


def rivals(config: RL2Config, family: TrialFamily, seed: int) -> dict[str, Tensor]:
    """What strategies from the literature earn on the test's trials, ``(n,)`` each."""
    from evometa.environments.bandits import BernoulliBandits
    from evometa.environments.strategies import STRATEGIES, random_rewards, total_rewards
    from evometa.rng import torch_generator

    n_trials = config.test_trials
    if isinstance(family, BernoulliBandits):
        return {
            name: total_rewards(family, strategy, n_trials, torch_generator(seed, name))
            for name, strategy in STRATEGIES.items()
        }
    return {"random": random_rewards(family, n_trials, torch_generator(seed, "random"))}


def _report(config: RL2Config, family: TrialFamily, found: dict[str, Tensor], seconds: float) -> Report:
    rows = [
        {
            "strategy": name,
            "total_reward": float(earned.mean()),
            "standard_error": float(earned.std()) / len(earned) ** 0.5,
        }
        for name, earned in found.items()
    ]
    columns = [Column("strategy"), Column("total_reward"), Column("standard_error")]
    facts = [
        Fact("family", family.name, "processes"),
        Fact("n_steps", family.n_steps, "steps of a trial"),
        Fact("n_trials", config.test_trials, "test trials"),
        Fact("training_seconds", seconds, "training", show=duration),
    ]
    listing = Listing("Total reward of a trial", columns, rows)
    return Report(config.description or "RL²", facts, [Section("strategies", listing)])
