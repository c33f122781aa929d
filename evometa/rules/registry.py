"""The registered update rules and schedules; one row a member."""

from __future__ import annotations

from evometa.registry import Registry
from evometa.rules.attention import AttentionFamily
from evometa.rules.base import RuleFamily
from evometa.rules.controller import CONTROLLERS
from evometa.rules.graph import GraphFamily
from evometa.rules.hand_designed import HAND_DESIGNED
from evometa.rules.hierarchical import HierarchicalFamily
from evometa.rules.meta_lstm import MetaLSTMFamily
from evometa.rules.mlp import MLPFamily
from evometa.rules.muon import MuonFamily
from evometa.rules.proximal import ProximalFamily
from evometa.rules.recurrent import RecurrentFamily
from evometa.rules.schedule_base import ScheduleFamily
from evometa.rules.schedule_hypergradient import HypergradientFamily
from evometa.rules.schedule_learned import RecurrentScheduleFamily
from evometa.rules.schedules import FORMULA_SCHEDULES
from evometa.rules.symbolic import SymbolicFamily

RULES: Registry[RuleFamily] = Registry("rule", "evometa.rules")
for _family in (
    *HAND_DESIGNED,
    RecurrentFamily(),
    MLPFamily(),
    MetaLSTMFamily(),
    ProximalFamily(),
    MuonFamily(),
    *CONTROLLERS,
    HierarchicalFamily(),
    AttentionFamily(),
    GraphFamily(),
    SymbolicFamily(),
):
    RULES.add(_family.name, _family)

SCHEDULES: Registry[ScheduleFamily] = Registry("schedule", "evometa.schedules")
for _schedule in (*FORMULA_SCHEDULES, RecurrentScheduleFamily(), HypergradientFamily()):
    SCHEDULES.add(_schedule.name, _schedule)
