"""Starts commands of `remdm` in an instant: forks of one process that has imported all they need.

`python -m tests.faults.fork_server` reads one request per line and forks. What it forks is a
process like any other, with a process group, files and memory of its own; it can be killed, stopped
and limited.
"""

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
# What `remdm train` imports, directly, by a config, or with the first optimiser.
MODULES = (
    "remdm.experiment", "remdm.policy_agent", "remdm.training.augmentation", "remdm.envs.gridworld",
    "remdm.evaluation.report", "torch._dynamo",
)  # fmt: skip


class Forked:
    """A process of the server."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server, self.pid = server, pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._server.code(self.pid)


class ForkServer:
    """Use it in a `with` block; those who still run then are killed by whoever started them."""

    def __enter__(self) -> "ForkServer":
        self._codes: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(
        self, words: Sequence[str], log: Path, env: Mapping[str, str], module: str = "remdm.cli"
    ) -> Forked:
        """Run `main(words)` of a module."""
        request = {"words": list(words), "log": str(log), "env": dict(env), "module": module}
        return Forked(self, self._ask(request))

    def code(self, pid: int) -> int | None:
        """Exit code of a process, or minus the signal that ended it; None while it runs."""
        if pid not in self._codes and (code := self._ask({"pid": pid})) is not None:
            self._codes[pid] = code
        return self._codes.get(pid)

    def _ask(self, request: Mapping[str, object]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _run(words: Sequence[str], log: str, env: Mapping[str, str], module: str) -> int:
    """In a process of its own: one command, from its first word to its exit code."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((null, out, out)):
        os.dup2(source, target)
    os.environ.update(env)
    sys.argv = [str(ROOT / "remdm" / "__main__.py"), *words]
    code: int = importlib.import_module(module).main(words)
    return code


def _play_a_little() -> None:
    """Have what numba has compiled loaded from its cache."""
    from remdm.envs.making import make_vec_env
    from remdm.oracles.memory_oracle import MemoryOracle

    with contextlib.closing(make_vec_env(["Gridworld-Maze-9x9-v0"], env_mode="sync")) as env:
        seen = env.reset([0])
        env.execute(MemoryOracle().plan(seen, 8, np.random.default_rng(0)), 4)


def serve() -> None:
    """Fork as asked, until nobody asks any more."""
    for name in MODULES:
        importlib.import_module(name)
    _play_a_little()
    codes: dict[int, int] = {}
    running: set[int] = set()
    while True:
        ready = select.select([sys.stdin], [], [], 0.02)[0]
        for pid in tuple(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                running.remove(pid)
        if not ready:
            continue
        line = b""
        while not line.endswith(b"\n"):
            if not (read := os.read(0, 1 << 16)):
                return
            line += read
        request = json.loads(line)
        if "pid" in request:
            print(json.dumps(codes.get(request["pid"])), flush=True)
            continue
        if pid := os.fork():
            os.setpgid(pid, pid)  # here, so that it has a group of its own before it is told of
            running.add(pid)
            print(pid, flush=True)
            continue
        code = 1
        try:
            code = _run(**request)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    serve()
