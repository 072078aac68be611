"""Jobs that crash, hang or raise: the others go on, and what was told is kept."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from remdm.evaluation.scan_processes import CRASHED, FINISHED, HUNG, Outcome, run_jobs

ENOUGH = 120.0  # seconds


@dataclass(frozen=True)
class Says:
    """Tells two things and does what its name says."""

    end: str

    def __call__(self, tell: Callable[[Any], None]) -> None:
        tell("begun")
        tell(f"about to {self.end}")
        if self.end == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.end == "leave":
            os._exit(7)
        elif self.end == "raise":
            raise LookupError("nothing here")


@dataclass(frozen=True)
class Waits:
    """Notes its process and never ends."""

    note: Path

    def __call__(self, tell: Callable[[Any], None]) -> None:
        self.note.write_text(str(os.getpid()))
        while True:
            signal.pause()


@dataclass(frozen=True)
class Prints:
    """Writes where games write: to the terminal, and into the folder for temporary files."""

    def __call__(self, tell: Callable[[Any], None]) -> None:
        import tempfile

        os.write(1, b"noise")
        os.write(2, b"noise")
        tell(tempfile.mkdtemp(prefix="game"))


def by_index(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.index)


def test_jobs_that_fail_do_not_stop_the_others() -> None:
    jobs = [Says(end) for end in ("die", "finish", "leave", "raise", "finish")]
    found = by_index(list(run_jobs(jobs, processes=2, limit_seconds=ENOUGH)))
    assert [outcome.ending for outcome in found] == [CRASHED, FINISHED, CRASHED, CRASHED, FINISHED]
    assert [outcome.told for outcome in found] == [f"about to {job.end}" for job in jobs]
    assert [outcome.detail for outcome in found] == [
        "SIGSEGV",
        "",
        "exit code 7",
        "LookupError: nothing here",
        "",
    ]


def test_a_job_that_hangs_is_ended_with_its_process(tmp_path: Path) -> None:
    jobs = [Waits(tmp_path / "pid"), Says("finish")]
    found = by_index(list(run_jobs(jobs[:1], processes=1, limit_seconds=2.0)))
    assert [outcome.ending for outcome in found] == [HUNG]
    if (tmp_path / "pid").exists():  # on a slow machine it was ended before
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_processes_that_nobody_waits_for_are_ended(tmp_path: Path) -> None:
    outcomes = run_jobs(
        [Says("finish"), Waits(tmp_path / "pid")], processes=2, limit_seconds=ENOUGH
    )
    assert next(outcomes).ending == FINISHED
    outcomes.close()
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_games_print_and_leave_behind_is_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    (outcome,) = run_jobs([Prints()], processes=1, limit_seconds=ENOUGH)
    assert outcome.ending == FINISHED
    assert not Path(outcome.told).exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("processes", "limit"), [(0, 1.0), (1, 0.0), (1, -2.0)])
def test_senseless_numbers_are_refused(processes: int, limit: float) -> None:
    with pytest.raises(ValueError, match="at least 1 process and a time limit above 0"):
        next(run_jobs([], processes=processes, limit_seconds=limit))
