"""Settings that every test shares."""

from __future__ import annotations

import os

# Before torch is imported: two tests at a time on a few cores must not each start a thread for every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for more, those that wait leave their core to those they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("EVOMETA_STORAGE", None)

from hypothesis import settings

# A shared machine's pauses are no failures; a fixed sequence of examples makes every failure repeatable.
settings.register_profile("evometa", deadline=None, derandomize=True)
settings.load_profile("evometa")
