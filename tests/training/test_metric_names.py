"""The published planner's names for what runs here measure."""

import pytest

from remdm.training.metric_names import ALIKE, BOTH, OWN, SEED, MetricNames

EPOCH = {
    "epoch": 9,
    "env_steps": 4000,
    "updates": 640,
    "seconds": 12.0,
    "progress": 0.5,
    "train/planner/loss": 1.5,
    "train/planner/goal_loss": 0.25,
    "train/single_step/loss": 2.0,
    "collect/beta": 0.1,
    "model/param_norm": 7.0,
    "val/episodes": 50.0,
    "val/win_rate": 0.75,
    "val/win_rate/MiniHack-Corridor-R2-v0": 0.5,
    "val/return/MiniHack-Corridor-R2-v0": 0.4,
    "heldout/episodes": 50.0,
    "heldout/win_rate": 0.25,
    "heldout/win_rate/MiniHack-Corridor-R5-v0": 0.25,
    "curriculum/MiniHack-Corridor-R2-v0/win_rate": 0.6,
}


def test_own_names_are_left_as_they_are() -> None:
    assert MetricNames(OWN, ckpt_interval=1).told(EPOCH) == EPOCH


def test_published_names_stand_in_place_of_ours_and_the_rest_stays() -> None:
    told = MetricNames(SEED, ckpt_interval=4).told(EPOCH)
    assert told == {
        "epoch": 9,
        "env_steps": 4000,
        "updates": 640,
        "seconds": 12.0,
        "iteration": 9,
        "train/env_steps": 4000,
        "train/progress": 0.5,
        "diffusion/loss": 1.5,
        "diffusion/loss_aux": 0.25,
        "diffusion/loss_diff": 1.25,
        "train/single_step/loss": 2.0,
        "collect/beta": 0.1,
        "model/param_norm": 7.0,
        "val/episodes": 50.0,
        "eval_id/mean_win_rate": 0.75,
        "eval_id/MiniHack-Corridor-R2-v0/win_rate": 0.5,
        "eval_id/MiniHack-Corridor-R2-v0/avg_reward": 0.4,
        "eval_id/MiniHack-Corridor-R2-v0/n_episodes": 50.0,
        "eval_id/MiniHack-Corridor-R2-v0/wins": 25,
        "heldout/episodes": 50.0,
        "eval_ood/mean_win_rate": 0.25,
        "eval_ood/MiniHack-Corridor-R5-v0/win_rate": 0.25,
        "eval_ood/MiniHack-Corridor-R5-v0/n_episodes": 50.0,
        "eval_ood/MiniHack-Corridor-R5-v0/wins": 12,
        "curriculum/MiniHack-Corridor-R2-v0/win_rate": 0.6,
    }


def test_both_keeps_all_of_ours() -> None:
    told = MetricNames(BOTH).told(EPOCH)
    assert EPOCH.items() <= told.items()
    assert told["eval_id/mean_win_rate"] == EPOCH["val/win_rate"]


@pytest.mark.parametrize(
    ("epoch", "progress", "interval", "there"),
    [(9, 0.5, 5, True), (9, 0.5, 4, False), (9, 1.0, 4, True), (9, 1.0, None, True)],
)
def test_results_before_a_checkpoint_are_told_as_that_checkpoints(
    epoch: int, progress: float, interval: int | None, there: bool
) -> None:
    line = {**EPOCH, "epoch": epoch, "progress": progress}
    told = MetricNames(SEED, ckpt_interval=interval).told(line)
    expected = {
        "ckpt_eval/id_winrate": 0.75,
        "ckpt_eval/ood_winrate": 0.25,
        "ckpt_eval_id/MiniHack-Corridor-R2-v0/win_rate": 0.5,
        "ckpt_eval_ood/MiniHack-Corridor-R5-v0/wins": 12,
    }
    if there:
        assert expected.items() <= told.items()
    else:
        assert not any(name.startswith("ckpt_eval") for name in told)
    within = {name: value for name, value in line.items() if name != "seconds"}
    assert not any(n.startswith("ckpt_eval") for n in MetricNames(SEED, interval).told(within))


def test_only_a_run_that_collects_nothing_has_offline_names() -> None:
    offline = MetricNames(SEED, windows_per_update=128).told(EPOCH)
    assert offline["offline/final_loss"] == 1.5
    assert offline["offline/total_steps"] == 640
    assert offline["offline/total_timesteps"] == 640 * 128
    assert not any(name.startswith("offline/") for name in MetricNames(SEED).told(EPOCH))


def test_no_published_name_is_given_twice() -> None:
    names = [name for theirs in ALIKE.values() for name in theirs]
    assert len(names) == len(set(names))
