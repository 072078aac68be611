"""Runs with a curriculum and in pairs: stopping them, and splitting them up."""

from pathlib import Path

import pytest

from remdm.agent import BaseAgent
from remdm.data.shards import Shard
from remdm.experiment import Experiment
from remdm.training.collect_stats import CollectStats
from tests.distributed.test_roles import begun, play, shards
from tests.tiny_runs import assert_same_run, learnt, metric_rows

ROOM, MAZE = "Gridworld-Room-9x9-v0", "Gridworld-Maze-9x9-v0"
CURRICULUM = {"curriculum_type": "@WinRateCurriculum", "val_interval": "None", "epochs": "3"}
PAIRS = CURRICULUM | {"pairing_type": "@Pairing", "warm_start_timesteps": "0"}


class StopInCollecting(Experiment):
    """Is asked to stop while it collects, the way a signal does it."""

    at = 1
    calls = 0

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        super().interact(agent, stats, beta)
        self.calls += 1
        self.stop.requested = self.calls == self.at


def stopping(at: int) -> type[Experiment]:
    return type("Stopping", (StopInCollecting,), {"at": at})


@pytest.fixture(scope="module", params=[CURRICULUM, PAIRS], ids=["curriculum", "pairs"])
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], Path]:
    """Settings, and the folder of a run of them that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    learnt(folder, **request.param)
    return request.param, folder / "run"


def collected(folder: Path) -> list[dict[str, float]]:
    """What the run's epochs collected, and its curriculum."""
    names = ("collect/", "curriculum/", "env_steps")
    rows = [row for row in metric_rows(folder) if "collect/env_steps" in row]
    return [{k: v for k, v in row.items() if k.startswith(names)} for row in rows]


def steps_by_level(folder: Path, epochs: int) -> dict[tuple[str, int], bytes]:
    """Actions of the first epochs by level, pieces joined."""
    found: dict[tuple[str, int], bytes] = {}
    for path in sorted((folder / "shards").glob("*")):
        shard = Shard.open(path)
        if path.name >= f"e{epochs:06d}":
            continue
        for segment, start in zip(shard.segments, shard.offsets[:-1], strict=True):
            key = segment.env, segment.seed
            actions = shard.steps.actions[start : start + segment.length].tobytes()
            found[key] = found.get(key, b"") + actions
    return found


def test_run_stopped_after_collecting_goes_on_bit_for_bit(
    kind: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    settings, undisturbed = kind

    class Stopping(Experiment):
        def label_new_training_data(self) -> dict[str, float]:
            self.stop.requested = self.progress.epoch == 1
            return super().label_new_training_data()

    assert not learnt(tmp_path, Stopping, **settings).progress.finished
    learnt(tmp_path, **settings)
    assert_same_run(tmp_path / "run", undisturbed)


def test_run_stopped_while_collecting_plays_and_counts_the_same(
    kind: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    settings, undisturbed = kind
    first = learnt(tmp_path, stopping(7), **settings)
    assert not first.progress.collected
    learnt(tmp_path, **settings)
    # After that epoch weights may differ: its steps lie in two shards, and windows are drawn anew.
    epochs = first.progress.epoch + 1
    runs = tmp_path / "run", undisturbed
    rows = [collected(run)[:epochs] for run in runs]
    assert rows[0] == rows[1]
    levels = [steps_by_level(run, epochs) for run in runs]
    assert levels[0] == levels[1]
    assert levels[0]


def test_win_rates_of_the_curriculum_are_told(kind: tuple[dict[str, str], Path]) -> None:
    _, undisturbed = kind
    for row in collected(undisturbed):
        assert all(0.0 <= row[f"curriculum/{env}/win_rate"] <= 1.0 for env in (ROOM, MAZE))
    assert {env for env, _ in steps_by_level(undisturbed, 3)} == {ROOM, MAZE}


def test_steps_of_planner_and_oracle_use_up_the_budget_of_a_run_in_pairs(tmp_path: Path) -> None:
    run = learnt(tmp_path, **PAIRS | {"epochs": "1000", "total_timesteps": "300"})
    rows = collected(tmp_path / "run")
    assert run.progress.epoch == len(rows)
    for row in rows:
        assert row["collect/env_steps"] == row["collect/model_steps"] + row["collect/oracle_steps"]
        assert row["collect/episodes"] == 5
    assert rows[-1]["env_steps"] == sum(row["collect/env_steps"] for row in rows)
    assert rows[-1]["env_steps"] >= 300
    assert all(row["env_steps"] < 300 for row in rows[:-1])


def test_separate_collectors_have_a_curriculum_each_and_go_on_with_it(tmp_path: Path) -> None:
    settings = CURRICULUM | {"epochs": "2", "warm_start_timesteps": "0"}
    with pytest.raises(TimeoutError, match="env steps"):
        play(tmp_path, "learn", **settings)  # publishes the first weights
    play(tmp_path, "collect", 0, stopping(6), **settings)
    with pytest.raises(TimeoutError, match="learner"):
        play(tmp_path, "collect", 3, **settings)
    for index in (0, 3):
        newest = [s for s in shards(tmp_path) if f"-c{index}-" in s.path.name][-1]
        run = begun(tmp_path, "collect", index, **settings)
        try:
            assert run.collector.curriculum is not None
            state = run.collector.curriculum.state()
            assert state.tolist() == newest.state["curriculum"].tolist()
            names = [run.train_envs[i] for i in newest.state["curriculum_envs"]]
            assert list(run.envs.env_names) == names
        finally:
            run.close()


def test_separate_collectors_cannot_play_in_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"take --mode both.*Experiment\.pairing_type = None"):
        play(tmp_path, "collect", 0, **PAIRS)
