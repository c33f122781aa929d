"""Where campaigns lie: ``ROOT/NAME/campaign.db``. A campaign's name is its directory's name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from evometa.errors import StoreError

DATABASE = "campaign.db"
LOCK = "campaign.lock"
ENVIRONMENT_VARIABLE = "EVOMETA_STORAGE"
DEFAULT_ROOT = Path("populations", "runs")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def storage_root(option: Path | None = None) -> Path:
    """The directory of campaigns: ``option``, else ``EVOMETA_STORAGE``, else ``populations/runs``.

    It need not exist. Raises StoreError when it is a file.
    """
    given = option or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ROOT
    root = Path(given).expanduser()
    if os.path.isfile(root):
        raise StoreError(
            f"storage {root} is a file; give a directory with --storage or {ENVIRONMENT_VARIABLE}"
        )
    return root


def campaign_path(root: Path, name: str) -> Path:
    """The database file of campaign ``name``. Raises StoreError for a name that could leave ``root``."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"campaign name {name!r} is not allowed: use up to 100 letters, digits, '.', '_' or '-', "
            "the first a letter or digit"
        )
    return root / name / DATABASE


def campaign_names(root: Path) -> list[str]:
    """Names of the campaigns under ``root``, sorted; none where it does not exist."""
    return sorted(
        path.parent.name for path in root.glob(f"*/{DATABASE}") if _NAME.fullmatch(path.parent.name)
    )
