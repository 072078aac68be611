"""Leases of dead and living processes for tests, and a clock that a test turns by hand."""

import json
from pathlib import Path

import pytest

from remdm.distributed import lease as lease_module
from remdm.distributed import watching
from remdm.distributed.generations import GenerationLog
from remdm.distributed.watching import Watch
from tests.distributed.processes import children

# Far above any scheduling delay: no lease is lost, and no dead one found by its silence.
NEVER_S = 3600.0
# A third of it is how long a rival must watch a living holder; all of it is room for delays.
CALM_S = 6.0

DIE_HOLDING = """
import os, signal, sys
from remdm.distributed.lease import Lease
Lease.acquire(sys.argv[2], "dead", ttl_seconds=float(sys.argv[3]))
print("held", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watching, "clock", lambda: self.now)
        monkeypatch.setattr(lease_module, "clock", lambda: self.now)


def newest(folder: Path) -> Path:
    return max(folder.glob("generation-*.json"))


def edit(folder: Path, **changes: object) -> None:
    path = newest(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def has_ended(folder: Path) -> bool:
    """Whether one look, which has no time for silence, finds that nobody holds a lease any more."""
    return Watch(GenerationLog(folder), NEVER_S).look().ended


def dead_lease(folder: Path, ttl_seconds: float = NEVER_S) -> Path:
    """A lease whose holder was killed."""
    with children(1, DIE_HOLDING, folder, ttl_seconds) as (child,):
        assert child.hear() == "held"
        child.process.wait()
    return folder
