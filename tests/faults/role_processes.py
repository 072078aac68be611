"""The roles of one run as real processes, which are killed and started again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remdm.distributed.generations import GenerationLog
from remdm.distributed.labelling import LABELLING_FOLDER
from remdm.distributed.ownership import role_folder
from remdm.distributed.watching import Holder
from tests.faults.fork_server import Forked, ForkServer
from tests.tiny_runs import BINDINGS

ROOT = Path(__file__).parents[2]
POLL_S = 0.05
# What has not come after so long never will; the test fails then.
HANGS_S = 120.0
# The last line of what a process says when it has started.
_STARTED = re.compile(r"^epoch \d+ of \d+$", re.MULTILINE)


def wait_until(there: Callable[[], bool], what: str, poll_s: float = POLL_S) -> float:
    """Wait for a condition; returns how many seconds that took."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < HANGS_S, f"waited {HANGS_S:g} s in vain until {what}"
        time.sleep(poll_s)
    return time.monotonic() - began


@dataclass(frozen=True)
class Part:
    """What one process of a run does.

    Attributes:
        role: As after `--mode`.
        index: Which collector or labeller it is; None for all other roles.
    """

    role: str
    index: int | None = None

    @property
    def name(self) -> str:
        return self.role if self.index is None else f"{self.role}-{self.index}"

    def lease(self, run: Path) -> Path:
        """The folder that says who has this part."""
        if self.role == "label":
            return run / LABELLING_FOLDER / "members" / self.name
        return role_folder(run, self.name)


@dataclass
class Life:
    """One process, from its start to its end."""

    part: Part
    process: subprocess.Popen[bytes] | Forked
    log: Path
    lease: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def at_work(self) -> bool:
        """Whether it has its part of the run, and has started."""
        entry = GenerationLog(self.lease).newest()
        holder = Holder.decoded(entry.raw) if entry else None
        return holder is not None and holder.pid == self.pid and bool(_STARTED.search(self.text))

    def send(self, signal_number: int) -> None:
        """Send a signal to it and to all that it has started."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                os.killpg(self.pid, signal_number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        wait_until(lambda: self.code is not None, f"{self.part.name} is gone")

    def wait_for_work(self) -> float:
        """Wait until it is at work; returns how long that took."""

        def settled() -> bool:
            assert self.code is None, f"{self.part.name} ended with {self.code}:\n{self.text}"
            return self.at_work()

        return wait_until(settled, f"{self.part.name} works:\n{self.text}")

    def wait_for_end(self) -> int:
        """Wait until it has ended; returns its code."""
        wait_until(lambda: self.code is not None, f"{self.part.name} ends:\n{self.text}")
        assert self.code is not None
        return self.code

    def complaint(self) -> str:
        """What it said when it ended of its own will: one sentence, and no traceback."""
        assert "Traceback" not in self.text, self.text
        said = [line for line in self.text.splitlines() if line.startswith("remdm: ")]
        assert len(said) == 1, self.text
        return said[0]


@dataclass
class Roles:
    """The processes of a run. Use it in a `with` block: none outlives it.

    Attributes:
        base: Folder of run folders.
        bindings: Of gin.
        configs: Files of gin.
        env: Environment variables to change.
        logs: Folder of what the processes say; one beside the run folder when None.
        server: Starts them in an instant; None starts Python anew for each.
        module: With a server, whose `main` to call.
        package: Folder that holds the package `remdm` of those that are not forked.
        anew_every: With a server, each so many-th start is one of Python all the same; 0 for none.
    """

    base: Path
    bindings: Sequence[str]
    configs: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    logs: Path | None = None
    server: ForkServer | None = None
    module: str = "remdm.cli"
    package: Path = ROOT
    anew_every: int = 0
    lives: list[Life] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.base / "run"

    def words(self, part: Part) -> list[str]:
        """What to call `remdm` with."""
        words = ["train", "--mode", part.role, "--run_name", "run"]
        if part.index is not None:
            words += ["--index", str(part.index)]
        if self.configs:
            words += ["--configs", *self.configs]
        for binding in (*self.bindings, f"Experiment.ckpt_base_dir = {str(self.base)!r}"):
            words += ["--bind", binding]
        return words

    def start(self, role: str, index: int | None = None, **env: str) -> Life:
        part = Part(role, index)
        log = (self.logs or self.base / "logs") / f"{len(self.lives):04d}-{part.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {"OMP_NUM_THREADS": "1", **self.env, **env}
        words = self.words(part)
        anew = self.anew_every and (len(self.lives) + 1) % self.anew_every == 0
        if self.server is not None and not anew:
            process: subprocess.Popen[bytes] | Forked = self.server.start(
                words, log, env, self.module
            )
        else:
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "remdm", *words],
                    cwd=self.package,
                    env={**os.environ, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        life = Life(part, process, log, part.lease(self.run))
        self.lives.append(life)
        return life

    def again(self, life: Life) -> Life:
        """The same part once more."""
        return self.start(life.part.role, life.part.index)

    def living(self) -> list[Life]:
        return [life for life in self.lives if life.code is None]

    def __enter__(self) -> "Roles":
        return self

    def __exit__(self, *error: object) -> None:
        for life in self.living():
            life.kill()


def tiny_roles(
    folder: Path, server: ForkServer | None, values: Mapping[str, str] | None = None
) -> Roles:
    """The roles of a tiny run in a gridworld, with one agent.

    Args:
        folder: Of its run folder and its logs.
        server: See `Roles`.
        values: Bindings to change.
    """
    bindings = BINDINGS | {"Experiment.baseline_agent_type": "None"} | dict(values or {})
    del bindings["PolicyAgent.plan_horizon"]
    return Roles(folder, [f"{name} = {text}" for name, text in bindings.items()], server=server)
