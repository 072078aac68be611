"""Held-out environments during training: logged on their cadence, and without any effect."""

import json
from pathlib import Path

from tests.tiny_runs import checkpoint_values, differences, learnt

ENV = "Gridworld-DarkRoom-9x9-v0"
TINY = {"baseline_agent_type": "None", "augmentation_type": "None", "val_interval": "1"}


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_held_out_environments_are_played_on_their_cadence_and_choose_nothing(
    tmp_path: Path,
) -> None:
    with_them = learnt(tmp_path / "with", heldout_val_every="2", **TINY)
    without = learnt(tmp_path / "without", **TINY)
    played = [row["epoch"] for row in rows(tmp_path / "with/run") if "heldout/win_rate" in row]
    assert played == [1, 3]
    told = next(row for row in rows(tmp_path / "with/run") if "heldout/win_rate" in row)
    assert told["heldout/win_rate"] == told[f"heldout/win_rate/{ENV}"]
    assert told["heldout/episodes"] == 2
    assert not any("heldout/win_rate" in row for row in rows(tmp_path / "without/run"))
    assert with_them.progress.best_epoch == without.progress.best_epoch
    names = differences(
        checkpoint_values(tmp_path / "with/run"), checkpoint_values(tmp_path / "without/run")
    )
    assert names == []
    for name in ("planner_ema.safetensors", "state.json"):
        one, other = (tmp_path / kind / "run/best" / name for kind in ("with", "without"))
        if name.endswith("safetensors"):
            assert one.read_bytes() == other.read_bytes()
        else:
            best = [json.loads(f.read_text())["progress"]["best_score"] for f in (one, other)]
            assert best[0] == best[1]
