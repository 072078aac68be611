"""Benchmarks still run, in their quick form. What they measure is not looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Without those that take half a minute and use nothing that these do not.
NAMES = (
    "collect", "dagger_iteration", "env_step", "labels", "plan", "publication", "samplers",
    "windows",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_ends_with_one_line_of_json_and_a_ratio_to_its_reference(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["name"] == name
    assert line["reference"]
    assert line["ratio"] > 0
