"""``evometa tasks | rules | schedules | estimators | objectives``: what is registered, a line each."""

from __future__ import annotations

import inspect

from evometa.cli.output import Column, Format, Listing, emit
from evometa.cli.parameters import FormatOption

_NAME, _SUMMARY = Column("name"), Column("summary", "what it is")


def tasks(form: FormatOption = Format.TABLE) -> None:
    """List the task families: what optimizers are evolved on."""
    from evometa.tasks import TASKS

    rows = []
    for name, factory in TASKS:
        parameters = inspect.signature(factory).parameters
        summary = getattr(factory, "summary", "") or (inspect.getdoc(factory) or "").partition("\n")[0]
        rows.append({"name": name, "summary": summary, "options": list(parameters)})
    emit(Listing("Task families", [_NAME, _SUMMARY, Column("options")], rows), form)


def rules(form: FormatOption = Format.TABLE) -> None:
    """List the families of update rules that evolution draws from."""
    from evometa.rules.registry import RULES

    rows = [
        {"name": name, "learned": family.learned, "genes": len(family.space.genes), "summary": family.summary}
        for name, family in RULES
    ]
    emit(Listing("Update rules", [_NAME, Column("learned"), Column("genes"), _SUMMARY], rows), form)


def schedules(form: FormatOption = Format.TABLE) -> None:
    """List the schedules, each a factor on any rule's step."""
    from evometa.rules.registry import SCHEDULES

    rows = [
        {"name": name, "learned": family.learned, "genes": len(family.space.genes), "summary": family.summary}
        for name, family in SCHEDULES
    ]
    emit(Listing("Schedules", [_NAME, Column("learned"), Column("genes"), _SUMMARY], rows), form)


def estimators(form: FormatOption = Format.TABLE) -> None:
    """List the ways to meta-train a learned rule's weights."""
    from evometa.meta import ESTIMATORS

    rows = [
        {"name": name, "genes": len(member.space.genes), "summary": member.summary}
        for name, member in ESTIMATORS
    ]
    emit(Listing("Estimators of the meta-gradient", [_NAME, Column("genes"), _SUMMARY], rows), form)


def objectives(form: FormatOption = Format.TABLE) -> None:
    """List what evolution can minimise."""
    from evometa.objectives import OBJECTIVES, find_objective

    rows = []
    for name in OBJECTIVES.names():
        found = find_objective(name)
        rows.append({"name": name, "unit": found.unit, "scale": found.scale, "summary": found.summary})
    emit(Listing("Objectives, all minimised", [_NAME, Column("unit"), Column("scale"), _SUMMARY], rows), form)
