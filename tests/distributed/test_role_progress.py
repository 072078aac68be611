"""What counts as progress of a role: files that its work leaves, and nothing else."""

from pathlib import Path

import pytest

from remdm.data.folder import DatasetFolder
from remdm.distributed.launch import Part
from remdm.distributed.role_progress import RoleProgress
from remdm.training.run_folder import RunFolder

WORK = {
    "collect": "shards/e000002-c1-000000-64.safetensors",
    "label": "labels/e000002-c1-000000-64.safetensors",
    "learn": "ckpts/epoch_000003",
    "validate": "metrics-validate-0.jsonl",
}
OTHERS = (
    "shards/e000009-c11-000000-64.safetensors",
    "shards/.unfinished",
    "labels/.unfinished",
    "ckpts/.partial-1",
    "logs/learn-0.log",
    "roles/collect-1",
    "metrics-collect-0.jsonl",
)


def put(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).touch()


@pytest.mark.parametrize("role", WORK)
def test_only_work_that_is_done_counts(role: str, tmp_path: Path) -> None:
    progress = RoleProgress(RunFolder(tmp_path), DatasetFolder(tmp_path))
    part = Part(role, 1 if role in ("collect", "label") else 0, ())
    before = progress(part)
    for name in OTHERS:
        put(tmp_path, name)
    assert progress(part) == before
    put(tmp_path, WORK[role])
    assert progress(part) != before
    assert progress(part) == progress(part)


def test_the_weights_that_a_learner_publishes_count(tmp_path: Path) -> None:
    progress = RoleProgress(RunFolder(tmp_path), DatasetFolder(tmp_path))
    learner = Part("learn", 0, ())
    before = progress(learner)
    put(tmp_path, "latest/weights-000000001.safetensors")
    assert progress(learner) != before
