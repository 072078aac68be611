"""The roles of a run as processes of this machine."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from remdm.distributed.launch import Engine, Job, Part
from remdm.distributed.role_logs import RoleLogs

_TETHER = Path(__file__).with_name("tether.py")


class _Process(Job):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def code(self) -> int | None:
        """See `Job.code`."""
        return self._process.poll()

    def send(self, signal_number: int) -> None:
        """See `Job.send`."""
        self._process.send_signal(signal_number)

    def kill(self) -> None:
        """End it and wait for that."""
        self._process.kill()
        self._process.wait()


class LocalEngine(Engine):
    """Starts processes that live no longer than this one.

    Each writes to a file of its own, so that none depends on this process to read what it says.
    When this process dies, they are asked to stop: they write a checkpoint and end. Each has a
    session of its own, so that Ctrl-C reaches them only through this process.
    """

    def __init__(self, run: Path, num_processes: int) -> None:
        """Args:
        run: Folder of the run; made if missing.
        num_processes: How many share the cores, which decides the threads that each may use.
        """
        self._logs = RoleLogs(run)
        self._env = {"PYTHONUNBUFFERED": "1", **thread_settings(num_processes)}
        self._started: list[_Process] = []

    def start(self, part: Part, rank: int, env: Mapping[str, str]) -> Job:
        """See `Engine.start`."""
        log = self._logs.of(part.rank_name(rank))
        self.show()
        words = [sys.executable, *part.words]
        log.begin(shlex.join(words))
        tether = [sys.executable, "-I", str(_TETHER), str(os.getpid())]
        process = subprocess.Popen(
            [*tether, *words],
            env={**os.environ, **self._env, **env},
            stdin=subprocess.DEVNULL,
            stdout=log.fileno(),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        job = _Process(process)
        self._started = [old for old in self._started if old.code() is None]
        self._started.append(job)
        return job

    def meeting_settings(self, part: Part) -> dict[str, str]:
        """See `Engine.meeting_settings`."""
        import torch

        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        found = torch.cuda.device_count()
        if found == 0:
            return {"ACCELERATE_USE_CPU": "true", **meeting}
        if found < part.ranks and "ACCELERATE_USE_CPU" not in os.environ:
            raise ValueError(
                f"--learners {part.ranks} needs an accelerator for each, and this machine has "
                f"{found}; lower it, or set ACCELERATE_USE_CPU=true in the environment"
            )
        return meeting

    def show(self) -> None:
        """See `Engine.show`."""
        self._logs.show()

    def last_lines(self, part: Part) -> list[str]:
        """See `Engine.last_lines`."""
        return self._logs.last_lines([part.rank_name(rank) for rank in range(part.ranks)])

    def close(self) -> None:
        """See `Engine.close`."""
        for job in self._started:
            job.kill()
        self._logs.close()


def thread_settings(num_processes: int) -> dict[str, str]:
    """Threads of each of several processes that share the cores, unless a person has set them."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, cores // max(num_processes, 1)))}


def free_port() -> int:
    """A port of this machine that nobody uses now. Where somebody is faster, a restart mends it."""
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port
