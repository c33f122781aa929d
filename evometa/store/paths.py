"""Where campaigns lie: ``ROOT/NAME/campaign.db``. A campaign's name is its directory's name."""

from __future__ import annotations

import errno
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

    It need not exist. Raises StoreError when it is a file, or in the home of a user that does not exist.
    """
    given = option or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ROOT
    root = expanded(Path(given))
    if os.path.isfile(root):
        raise StoreError(
            f"storage {root} is a file; give a directory with --storage or {ENVIRONMENT_VARIABLE}"
        )
    return root


def expanded(path: Path) -> Path:
    """``path`` with a leading ``~`` or ``~user`` replaced. Raises StoreError for a home nobody knows."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"{path}: there is no home directory for {path.parts[0]!r}; write the path in full"
        ) from error


def refusal(what: str, error: OSError) -> StoreError:
    """The error to raise where the disk refuses ``what``, as in "cannot lock FILE": why, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space there, or choose another --storage" if full else "choose another --storage"
    return StoreError(f"{what}: {error.strerror}; {remedy}")


def campaign_path(root: Path, name: str) -> Path:
    """The database file of campaign ``name``. Raises StoreError for a name that could leave ``root``."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"campaign name {name!r} is not allowed: use up to 100 letters, digits, '.', '_' or '-', "
            "the first a letter or digit"
        )
    return root / name / DATABASE


def campaign_names(root: Path) -> list[str]:
    """Names of the campaigns under ``root``, sorted; none where it does not exist.

    Raises StoreError when ``root`` cannot be read.
    """
    try:
        names = os.listdir(root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(
            f"storage {root} cannot be read ({error.strerror}); give another directory with --storage or "
            f"{ENVIRONMENT_VARIABLE}"
        ) from error
    return sorted(name for name in names if _NAME.fullmatch(name) and os.path.lexists(root / name / DATABASE))
