"""Campaign configuration: TOML → frozen dataclasses, and one plain line for whatever is wrong with it."""

from evometa.config.code import code_named
from evometa.config.loading import config_from_json, config_to_json, load_config
from evometa.config.sections import (
    BaselineConfig,
    BudgetConfig,
    CampaignConfig,
    EvolutionConfig,
    ExecutionConfig,
    FinalConfig,
    ObjectivesConfig,
    RefinementConfig,
    TaskSource,
)

__all__ = [
    "BaselineConfig",
    "BudgetConfig",
    "CampaignConfig",
    "EvolutionConfig",
    "ExecutionConfig",
    "FinalConfig",
    "ObjectivesConfig",
    "RefinementConfig",
    "TaskSource",
    "code_named",
    "config_from_json",
    "config_to_json",
    "load_config",
]
