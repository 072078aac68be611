"""Whole runs by `remdm launch`, whose processes are killed on the way."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remdm.data.shards import Shard
from remdm.distributed.generations import GenerationLog
from remdm.distributed.ownership import role_folder
from remdm.distributed.watching import Holder
from tests.distributed.processes import ROOT
from tests.tiny_runs import tiny_bindings

pytestmark = pytest.mark.slow
# A run that takes so long has come to a halt; then it is killed and the test fails.
HANGS_S = 300


class Launched:
    """`remdm launch` of a tiny run, and what it prints."""

    def __init__(self, folder: Path, *flags: str) -> None:
        bindings = tiny_bindings(folder, epochs="6", baseline_agent_type="None")
        words = [word for text in bindings for word in ("--bind", text)]
        self.run = folder / "run"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remdm", "launch", "--run_name", "run", *flags, *words],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + HANGS_S
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.02)

    def code(self) -> int:
        code = self.process.wait(HANGS_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def end(self) -> None:
        self.process.kill()
        self.code()


@contextmanager
def launched(folder: Path, *flags: str) -> Iterator[Launched]:
    run = Launched(folder, *flags)
    try:
        yield run
    finally:
        run.end()


def shards(run: Path) -> list[Path]:
    return sorted((run / "shards").glob("e*.safetensors"))


def holder(run: Path, role: str) -> Holder | None:
    """The process that has, or had, a role."""
    entry = GenerationLog(role_folder(run, role)).newest()
    return Holder.decoded(entry.raw) if entry else None


def parent(child: Holder | None) -> int:
    """Who started a process; 0 if it is gone."""
    try:
        text = Path(f"/proc/{child.pid if child else 0}/stat").read_text()
    except FileNotFoundError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def assert_whole(run: Path) -> None:
    """The run is over, and no step is there twice or missing."""
    assert (run / "DONE").exists()
    assert (run / "report").is_dir()
    seen: dict[tuple[str, str, int], int] = defaultdict(int)
    for path in shards(run):
        for segment in Shard.open(path, verify_data=True).segments:
            level = (segment.collector, segment.env, segment.seed)
            assert segment.first_step == seen[level], path
            seen[level] += segment.length


def test_a_run_outlives_its_launcher_and_whatever_else_is_killed(tmp_path: Path) -> None:
    flags = ("--collectors", "2", "--restart_seconds", "0.1")
    with launched(tmp_path, *flags) as first:
        for name in ("-c0-", "-c1-"):
            first.wait_until(lambda name=name: any(name in p.name for p in shards(first.run)))
    with launched(tmp_path, *flags) as second:  # waits for the roles of the first to stop
        for role in ("collect-0", "learn"):
            second.wait_until(lambda role=role: parent(holder(second.run, role)) == second.pid)
            os.kill(holder(second.run, role).pid, signal.SIGKILL)
        assert second.code() == 0, second.output
    assert "collect-0 was ended by signal 9; it is started again" in second.output
    assert "learn-0 was ended by signal 9; it is started again" in second.output
    assert holder(second.run, "collect-0").generation == 3
    assert_whole(second.run)


def test_a_killed_collector_without_the_run_folder_is_started_again_by_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    flags = ("--engine", "ray", "--transport", "ray", "--restart_seconds", "0.1")
    with launched(tmp_path, *flags) as run:
        said = re.compile(r"\(collect-0 pid=(\d+)\).* collector 0: epoch")
        run.wait_until(lambda: said.search(run.output) is not None)
        os.kill(int(said.findall(run.output)[0]), signal.SIGKILL)
        assert run.code() == 0, run.output
    assert "collect-0 was ended by signal 9; it is started again" in run.output
    assert holder(run.run, "collect-0").generation == 2
    assert_whole(run.run)


def test_the_ray_example_plays_all_roles(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the ray extra")
    flags = ["--configs", "gridworld.gin", "smoke.gin", "--run_name", "run", "--collectors", "1"]
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples/09_ray.py"),
            *flags,
            "--ckpt_base_dir",
            str(tmp_path),
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(tmp_path / "run")
    for name in ("learn-0", "label-0", "collect-0", "validate-0"):
        assert f"{name} is done" in done.stderr
