"""What a campaign may cost: looked at between generations, from what the store says it has cost."""

from __future__ import annotations

from evometa.config import CampaignConfig
from evometa.store import CampaignStore, JournalEntry


def spent_budget(store: CampaignStore, config: CampaignConfig) -> JournalEntry | None:
    """Which limit of ``[budget]`` the generations stored so far have reached; None for none."""
    last, budget = store.last_generation(), config.budget
    if last is None:
        return None
    n_steps, seconds = store.n_inner_steps(), store.seconds()
    if budget.inner_steps and n_steps >= budget.inner_steps:
        limit, spent = f"inner_steps = {budget.inner_steps}", f"{n_steps} inner steps"
    elif budget.seconds and seconds >= budget.seconds:
        limit, spent = f"seconds = {budget.seconds:g}", f"{seconds:.0f} s"
    else:
        return None
    line = f"budget.{limit} is spent after generation {last} ({spent}); what was found is measured now"
    return JournalEntry("budget", line, {"generation": last, "inner_steps": n_steps, "seconds": seconds})


def goes_on(store: CampaignStore, config: CampaignConfig) -> bool:
    """Whether ``config`` asks for more generations than there are, and has a budget for them."""
    last = store.last_generation()
    more = last is None or last + 1 < config.evolution.generations
    return more and spent_budget(store, config) is None
