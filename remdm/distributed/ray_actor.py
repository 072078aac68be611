"""What runs in each process of a run on a Ray cluster."""

import contextlib
import os
import runpy
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remdm.distributed.launch import BROKEN, DONE
from remdm.distributed.local_engine import free_port
from remdm.distributed.scratch import scratch_folder


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor is.

    Attributes:
        node: Ray's id of its machine.
        address: Of that machine.
        port: A free one there.
        pid: Its process.
    """

    node: str
    address: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Apart:
    """What a collector must be given that sees no run folder.

    Attributes:
        hub: Its connection with the run, from `make_hub`.
        launch: A name that no other launch has.
        run_name: Of the run.
        config_text: The whole configuration.
    """

    hub: Any
    launch: str
    run_name: str
    config_text: str


class RoleActor:
    """One process of a run. Its methods run one after the other, in its main thread."""

    def __init__(self, name: str) -> None:
        """Args:
        name: What Ray calls it where it prints its lines.
        """
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def where(self) -> Place:
        """Where this process is."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Place(node, ray.util.get_node_ip_address(), free_port(), os.getpid())

    def run(
        self,
        words: tuple[str, ...],
        env: Mapping[str, str],
        folder: str,
        log: str | None,
        meeting: Place | None,
    ) -> int:
        """Run a command line of Python in this process.

        Args:
            words: What follows the name of the Python program.
            env: Environment variables.
            folder: Where to run, if it exists here.
            log: File for all that is written; None leaves it to Ray.
            meeting: Where processes that work as one find each other.

        Returns:
            Its exit code.
        """
        os.environ.update(env)
        if meeting is not None:
            os.environ.update(MASTER_ADDR=meeting.address, MASTER_PORT=str(meeting.port))
        with contextlib.suppress(FileNotFoundError):
            os.chdir(folder)
        if log is not None:
            _write_to(Path(log))
        try:
            return run_words(words)
        except Exception:  # what a Python program does with it
            traceback.print_exc()
            return BROKEN

    def collect(self, number: int, env: Mapping[str, str], apart: Apart) -> int:
        """Collect where neither the run folder nor the config files can be seen.

        Args:
            number: Which collector.
            env: Environment variables.
            apart: What comes over the network instead.

        Returns:
            Its exit code.
        """
        os.environ.update(env)
        from remdm.cli.launch import collect_apart
        from remdm.distributed.ray_transport import RayTransport

        try:
            with scratch_folder() as scratch:
                holder = f"{self._name} of launch {apart.launch}"
                transport = RayTransport(apart.hub, scratch / "transport", holder)
                return collect_apart(transport, scratch, apart.run_name, number, apart.config_text)
        except Exception:  # users' errors have their code by now; this is like `run`
            traceback.print_exc()
            return BROKEN


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def run_words(words: tuple[str, ...]) -> int:
    """Run what follows `python` on a command line, in this process; returns the exit code."""
    sys.argv = list(words)
    try:
        if words[0] == "-m":
            sys.argv = list(words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or DONE
        sys.stderr.write(f"{end.code}\n")
        return BROKEN
    return DONE
