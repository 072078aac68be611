"""`remdm collect`: real processes that are killed, and what users see."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remdm.cli import main
from remdm.data.shard_file import Shard
from remdm.training.demonstration_records import PIECE_EPISODES
from tests.cli.told_errors import errors_of

MAZE = "Gridworld-Maze-9x9-v0"
EPISODES = 20 * PIECE_EPISODES


def demonstrations(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "protected").glob("*"))}


def records(root: Path) -> list[Path]:
    return sorted((root / "demonstrations").glob("*.json"))


def arguments(root: Path) -> list[str]:
    return ["collect", "--envs", MAZE, "--episodes", str(EPISODES), "--out", str(root)]


def stopped_after(root: Path, pieces: int, number: int, processes: str) -> tuple[int, str]:
    """Code and words of a process that got a signal as soon as so many pieces were done."""
    command = [sys.executable, "-m", "remdm", *arguments(root), "--processes", processes]
    output = root.with_suffix(".txt")
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        while len(records(root)) < pieces:
            assert process.poll() is None, output.read_text()
            time.sleep(0.002)
        process.send_signal(number)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output.read_text()


def test_who_is_killed_or_stopped_goes_on_to_the_same_demonstrations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    code, _ = stopped_after(parts, 2, signal.SIGKILL, "2")
    assert code == -signal.SIGKILL
    done = len(records(parts))
    code, words = stopped_after(parts, done + 2, signal.SIGINT, "1")
    assert code == 130
    assert "go on with:" in words
    assert done + 2 <= len(records(parts)) < EPISODES // PIECE_EPISODES
    assert main(arguments(parts)) == 0
    assert main(arguments(whole)) == 0
    assert demonstrations(parts) == demonstrations(whole)
    assert len(demonstrations(whole)) == EPISODES // PIECE_EPISODES
    assert capsys.readouterr().out.count(f" {EPISODES:,} ") == 2


@pytest.mark.minihack
def test_nethack_is_played_kept_labelled_and_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nle")
    envs = ["MiniHack-Room-Random-5x5-v0", "MiniHack-MazeWalk-9x9-v0"]
    argv = ["collect", "--envs", *envs, "--episodes", "5", "--out", str(tmp_path / "demos")]
    table = tmp_path / "table.json"
    assert main([*argv, "--plan_horizon", "16", "--rows", "3", "--json", str(table)]) == 0
    found = json.loads(table.read_text())
    assert [(row["env"], row["episodes"]) for row in found["rows"]] == [(env, 5) for env in envs]
    shards = [Shard.open(path) for path in sorted((tmp_path / "demos/protected").iterdir())]
    assert [len(s.segments) for s in shards] == [row["kept"] for row in found["rows"][::-1]]
    assert sum(s.num_steps for s in shards) >= sum(row["won"] for row in found["rows"])
    assert all((tmp_path / "demos/labels" / s.path.name).is_file() for s in shards)
    out = capsys.readouterr().out
    assert "Room-Random-5x5" in out
    assert "95 %" in out


def test_what_makes_no_sense_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["collect", "--envs", MAZE, "--out", str(tmp_path / "demos")]
    assert "--episodes must be at least 1, got 0" in errors_of(capsys, *argv, "--episodes", "0")
    assert "memory" in errors_of(capsys, *argv, "--oracle", "memry")
    assert MAZE in errors_of(capsys, "collect", "--envs", "Gridworld-Maze-9x9", *argv[3:])
    assert "LinearBeta" in errors_of(capsys, *argv, "--bind", "LinearBeta.first = 0.1")
    assert not (tmp_path / "demos").exists()


def test_nothing_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["collect", "--envs", MAZE, "--out", str(tmp_path / "demos"), "--episodes", "2"]
    assert main([*argv, "--oracle", "random", "--max_steps", "1"]) == 0
    assert "--keep_lost keeps the lost ones" in capsys.readouterr().out
