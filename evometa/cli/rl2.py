"""``evometa rl2 FILE``: a recurrent policy learns to learn, on bandits, decision processes or trainings."""

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
    tested, unseen = derive_seed(config.seed, "test"), RL2(family.unseen(), config.training.hidden)
    found = rivals(config, unseen.family, tested)
    found["RL², drawn"] = unseen.rewards(weights, config.test_trials, tested, greedy=False)
    found["RL², likeliest action"] = unseen.rewards(weights, config.test_trials, tested)
    emit_report(_report(config, family, found, seconds), form)


def rivals(config: RL2Config, family: TrialFamily, seed: int) -> dict[str, Tensor]:
    """What others earn by every step of the test's trials, ``(S, n)`` each."""
    from evometa.environments.bandits import BernoulliBandits
    from evometa.environments.strategies import STRATEGIES, blind_rewards, rewards
    from evometa.environments.training_trials import TrainingTrials
    from evometa.rng import torch_generator
    from evometa.rules.controller import MOVES

    n_trials = config.test_trials
    if isinstance(family, BernoulliBandits):
        return {
            name: rewards(family, strategy, n_trials, torch_generator(seed, name))
            for name, strategy in STRATEGIES.items()
        }
    found = {"random": blind_rewards(family, n_trials, torch_generator(seed, "random"))}
    if isinstance(family, TrainingTrials):
        generator = torch_generator(seed, "trials")  # the policy's tasks
        found["constant rate"] = blind_rewards(family, n_trials, generator, MOVES.index(0))
    return found


def _report(config: RL2Config, family: TrialFamily, found: dict[str, Tensor], seconds: float) -> Report:
    rows = [_row(name, earned, family.n_episodes) for name, earned in found.items()]
    columns = [
        Column("strategy"),
        Column("total_reward"),
        Column("standard_error"),
        Column("first_episode", "first\nepisode"),
        Column("last_episode", "last\nepisode"),
        Column("gain", "more in\nthe last"),
        Column("gain_error", "standard\nerror"),
    ]
    facts = [
        Fact("family", family.name, "processes"),
        Fact("n_steps", family.n_steps, "steps of a trial"),
        Fact("n_episodes", family.n_episodes, "episodes of a trial"),
        Fact("n_trials", config.test_trials, "test trials"),
        Fact("training_seconds", seconds, "training", show=duration),
    ]
    listing = Listing("Total reward of a trial", columns, rows)
    return Report(config.description or "RL²", facts, [Section("strategies", listing)])


def _row(name: str, earned: Tensor, n_episodes: int) -> dict[str, object]:
    """Means over trials, with standard errors, of all rewards ``(S, n)`` and of two episodes'."""
    by_episode = earned.reshape(n_episodes, -1, earned.shape[1]).sum(dim=1)
    total, first, last = by_episode.sum(dim=0), by_episode[0], by_episode[-1]
    return {
        "strategy": name,
        "total_reward": float(total.mean()),
        "standard_error": float(total.std()) / len(total) ** 0.5,
        "first_episode": float(first.mean()),
        "last_episode": float(last.mean()),
        "gain": float((last - first).mean()),
        "gain_error": float((last - first).std()) / len(first) ** 0.5,
    }
