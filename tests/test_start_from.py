"""Runs that begin with the weights of others."""

from pathlib import Path

import pytest
import torch

from remdm.training.checkpoint import CheckpointError
from tests.tiny_runs import learnt, started


def test_a_run_begins_with_the_best_weights_of_another_and_keeps_its_own_after(
    tmp_path: Path,
) -> None:
    teacher = learnt(tmp_path / "one")
    teacher.load_best()
    wanted = teacher.policy.state_dict()
    start_from = repr(str(teacher.folder.root))
    pupil = started(tmp_path / "two", start_from=start_from)
    try:
        for own in (pupil.agent.state_dict(), pupil.policy.state_dict()):
            assert all(torch.equal(own[name], wanted[name]) for name in wanted)
        assert pupil.trainers["planner"].updates == 0
        pupil.learn()
        learned = {k: v.clone() for k, v in pupil.agent.state_dict().items()}
    finally:
        pupil.close()
    assert not all(torch.equal(learned[name], wanted[name]) for name in wanted)
    again = started(tmp_path / "two", start_from=start_from)  # goes on with its own
    try:
        own = again.agent.state_dict()
        assert all(torch.equal(own[name], learned[name]) for name in learned)
    finally:
        again.close()


def test_weights_that_are_not_there_are_told_before_anything_is_learnt(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is neither a run folder nor a checkpoint"):
        started(tmp_path / "run", start_from=repr(str(tmp_path / "nowhere")))
