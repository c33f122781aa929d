"""Campaigns of one kind: struck until every phase has had its share, and judged by an undisturbed one."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from processes import MAIN
from schemas import downgrade

from evometa.campaign.doctor import diagnose
from evometa.store import CampaignStore, content_digest
from evometa.store.lock import is_held
from evometa.store.schema import SCHEMA_VERSION
from soak.campaigns import Kind
from soak.driver import Driver
from soak.tally import Fault

#: A driver that was asked to stop says so with this exit code, or, where it has not begun or has ended, dies.
_INTERRUPTED = 130
_RUN_SECONDS = 300.0
#: A unit of work whose worker is lost three times in a row counts as failed: a driver's workers are struck
#: less often, so that a candidate is never taken for what the soak did.
_MOST_LOST_WORKERS = 2
#: Faults that one campaign has to bear before it may go on to its end.
_MOST_FAULTS = 12
#: Share of drivers that are struck in the second refinement, evaluation or commit rather than the first.
_LATER = 0.35
_STRUCK_AT_INSTRUCTION = 0.5
_MOMENTS = ("commit", "migration")
#: The undisturbed campaigns: one that begins, and one that an older evometa has begun.
NEW, OLDER = "new", "older"


@dataclass(frozen=True)
class Seen:
    """A campaign as its latest driver has left it.

    Attributes:
        n_generations: that are stored.
        is_there, is_older: whether it has a database, and one of an older schema.
        problems: what is wrong with it.
    """

    n_generations: int = 0
    is_there: bool = False
    is_older: bool = False
    problems: tuple[str, ...] = ()


@dataclass
class Trial:
    """Campaigns of one kind under ``folder``, all of which have to come to the same content.

    Attributes:
        faults: what was injected, with whether it was survived.
        problems: what was lost, in words.
        n_campaigns: disturbed ones.
    """

    kind: Kind
    folder: Path
    draw: random.Random
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    n_campaigns: int = 0
    _expected: dict[str, dict[str, str]] = field(default_factory=dict)
    _seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _instructions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._experiment = self.folder / "struck.toml"
        self._experiment.write_text(self.kind.toml)
        self._log = self.folder / "log"

    def measure(self) -> None:
        """What campaigns of this kind come to undisturbed, and how long their phases take.

        There are two: one from its beginning, and one that an older evometa has begun.
        """
        self._expected[NEW] = self._run_undisturbed(self.folder / NEW)
        older = self.folder / "begun"
        with self._driver(older, "-", "evolution.generations=2") as driver:
            self._ran_to_the_end(driver)
        downgrade(self._database(older), 1)
        shutil.copytree(older, self.folder / OLDER)
        self._expected[OLDER] = self._run_undisturbed(self.folder / OLDER)

    def _run_undisturbed(self, root: Path) -> dict[str, str]:
        with self._driver(root, "count") as driver:
            self._ran_to_the_end(driver)
            moments = [moment for moment, _ in driver.told]
            for (began, phase), ended in zip(driver.told, moments[1:], strict=False):
                self._seconds[phase].append(ended - began)
            for phase, counts in driver.counted.items():
                self._instructions[phase] += counts
        return content_digest(self._database(root))

    def strike(self, shares: Mapping[str, int]) -> None:
        """Disturb campaign after campaign until so many faults have struck in each phase."""
        open_shares = Counter(shares)
        while open_shares.total() and self.n_campaigns < 4 + sum(shares.values()) // 2:
            self.n_campaigns += 1
            root = self.folder / f"struck-{self.n_campaigns}"
            begun = OLDER if open_shares["migration"] and self.n_campaigns % 2 else NEW
            if begun == OLDER:
                shutil.copytree(self.folder / "begun", root)
            else:
                root.mkdir()
                if self.n_campaigns % 4:  # else it tunes the baselines itself
                    shutil.copy(self.folder / NEW / ".baselines.json", root)
            struck = self._disturb(root, open_shares)
            lost = self._finish(root, self._expected[begun])
            self.faults += [fault._replace(survived=fault.survived and not lost) for fault in struck]
            self.problems += lost
            shutil.rmtree(root)
        if open_shares.total():
            self.problems.append(f"too few faults struck where they should: {dict(open_shares)} are open")

    def _disturb(self, root: Path, open_shares: Counter[str]) -> list[Fault]:
        """Faults that one campaign had to bear; it may have come to its end by itself."""
        struck: list[Fault] = []
        seen = self._look(root)
        while len(struck) < _MOST_FAULTS and (open_now := _open_now(seen, open_shares)):
            phase = self.draw.choice(open_now)
            hits = self._hit(root, phase)
            if not hits:
                break
            before, seen = seen, self._look(root)
            lost = list(seen.problems)
            if seen.n_generations < before.n_generations:
                lost.append(f"{seen.n_generations} generations are left of {before.n_generations}")
            self.problems += lost
            for kind, where in hits:
                struck.append(Fault(kind, where, not lost))
                wanted = "anywhere" if phase == "anywhere" else where
                open_shares[wanted] = max(0, open_shares[wanted] - 1)
        return struck

    def _look(self, root: Path) -> Seen:
        """What a copy of the campaign shows: to look at itself might mend what the next driver has to."""
        if not self._database(root).exists():
            return Seen()
        copy = self.folder / "copy" / "struck"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._database(root).parent, copy)
        problems = [f"unsound after a fault: {one.line}" for one in diagnose(copy / "campaign.db")]
        if is_held(self._database(root).with_name("campaign.lock")):
            problems.append("a dead driver holds the lock")
        with CampaignStore.open(copy / "campaign.db", readonly=True) as store:
            last = store.last_generation()
        with closing(sqlite3.connect(copy / "campaign.db")) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        n_generations = 0 if last is None else last + 1
        return Seen(n_generations, True, version < SCHEMA_VERSION, tuple(problems))

    def _hit(self, root: Path, phase: str) -> list[tuple[str, str]]:
        """Run a driver and strike in ``phase``; kinds and phases of the faults, [] where it ended before."""
        moment = "-"
        if phase in _MOMENTS and self.draw.random() < _STRUCK_AT_INSTRUCTION:
            moment = f"{phase}:{self.draw.randint(1, max(self._instructions[phase]))}"
        number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
        target = self.draw.choice(["driver", "all"] if self.kind.workers else ["driver"])
        with self._driver(root, moment) as driver:
            hits = []
            if self.kind.workers and phase in ("refinement", "evaluation"):
                hits = self._hit_workers(driver, phase)
            if moment != "-":
                if driver.wait(_RUN_SECONDS) == -signal.SIGKILL:
                    hits.append(("SIGKILL instruction", driver.phase))
                else:
                    self._ran_to_the_end(driver)
            elif self._is_reached(driver, phase) and driver.send(number, target):
                before = driver.phase
                if self._ended_by(driver, number, before):
                    hits.append((f"{number.name} {target}", driver.phase))
            else:
                self._ran_to_the_end(driver)
            return hits

    def _hit_workers(self, driver: Driver, phase: str) -> list[tuple[str, str]]:
        hits = []
        for times in range(1, 1 + self.draw.choice([0, _MOST_LOST_WORKERS, _MOST_LOST_WORKERS])):
            if not driver.reaches(phase, times, _RUN_SECONDS):
                break
            self._pause(driver, phase)
            number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
            where = driver.phase
            if driver.send(number, "worker", self.draw.randrange(2)):
                hits.append((f"{number.name} worker", where))
        return hits

    def _is_reached(self, driver: Driver, phase: str) -> bool:
        """Whether the driver has come to the drawn moment of ``phase``, or of the whole run."""
        if phase == "anywhere":
            seconds = sum(map(sum, self._seconds.values()))
            return not driver.reaches("no phase", 1, self.draw.uniform(0.0, seconds))
        later = phase in ("refinement", "evaluation", "commit") and self.draw.random() < _LATER
        if phase != "start-up" and not driver.reaches(phase, 1 + later, _RUN_SECONDS):
            return False
        self._pause(driver, phase)
        return True

    def _pause(self, driver: Driver, phase: str) -> None:
        """As long into the phase as an undisturbed one may have lasted."""
        lasted = self._seconds[phase] or [0.003]
        driver.reaches("no phase", 1, self.draw.random() * self.draw.choice(lasted))

    def _ended_by(self, driver: Driver, number: signal.Signals, before: str) -> bool:
        """Whether the signal ended the driver, and as it should."""
        try:
            code = driver.wait()
        except TimeoutError as error:
            self.problems.append(f"after {number.name} in {before}: {error}\n{driver.said()}")
            return True
        if code == 0:
            if before not in ("commit", "end"):
                self.problems.append(f"{number.name} in {before} was not heeded")
            return False
        if "Traceback" in driver.said() or code not in (-number, _INTERRUPTED):
            self.problems.append(f"{number.name} in {before}: exit code {code}\n{driver.said()}")
        if code == _INTERRUPTED and "Interrupted" not in driver.said():
            self.problems.append(f"{number.name} in {before}: not told how to go on\n{driver.said()}")
        return True

    def _finish(self, root: Path, expected: Mapping[str, str]) -> list[str]:
        """Resume to the end; what differs from the undisturbed campaign."""
        with self._driver(root) as driver:
            code = driver.wait(_RUN_SECONDS)
            if code:
                return [f"resuming ends with {code}: {driver.said()}"]
        database = self._database(root)
        lost = []
        if content_digest(database) != expected:
            lost.append(f"the content of {root.name} differs")
        doctor = subprocess.run(
            [*MAIN, "doctor", str(database)], capture_output=True, text=True, check=False, timeout=120
        )
        if doctor.returncode:
            lost.append(f"evometa doctor: {doctor.stdout}{doctor.stderr}")
        return lost

    def _ran_to_the_end(self, driver: Driver) -> None:
        code = driver.wait(_RUN_SECONDS)
        if code:
            raise AssertionError(f"a campaign that nobody struck ended with {code}: {driver.said()}")

    def _database(self, root: Path) -> Path:
        return root / "struck" / "campaign.db"

    def _driver(self, root: Path, moment: str = "-", *settings: str) -> Driver:
        words = ["run", self._experiment, "--storage", root, "--resume"]
        return Driver([*words, *(word for one in settings for word in ("--set", one))], self._log, moment)


def _open_now(seen: Seen, open_shares: Counter[str]) -> list[str]:
    """Phases that still want faults and that the next driver may come to, as often as they want them."""
    possible = {"creation": not seen.is_there, "migration": seen.is_older}
    phases = [phase for phase in open_shares.elements() if possible.get(phase, True)]
    return [phase for phase in phases if phase in ("creation", "migration")] or phases
