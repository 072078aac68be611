"""Minari: what goes out comes back, and what does not fit is refused with a reason."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from remdm.cli import main
from remdm.data.disk import DiskTrajDataset
from remdm.data.folder import DatasetFolder
from remdm.data.records import Segment, StepArrays
from remdm.data.shard_file import Shard, write_shard
from remdm.data.shard_names import shard_name
from remdm.envs.making import make_env
from remdm.maps import ACTION_NAMES
from remdm.oracles.random_policy import RandomPolicy
from remdm.training.demonstration_pieces import Manner
from remdm.training.demonstrations import Demonstrations
from tests.cli.told_errors import errors_of
from tests.tiny_runs import learnt

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

MAZE, ROOM = "Gridworld-Maze-9x9-v0", "Gridworld-Room-9x9-v0"
NAME = "remdm/gridworld/random-v0"
EPISODES = 9


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps its datasets."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def collected(root: Path) -> Path:
    """Won and lost episodes of two environments, in two shards."""
    manner = Manner(max_steps=12, keep_lost=True)
    with Demonstrations(root, RandomPolicy(), 0, manner) as demonstrations:
        for env in (MAZE, ROOM):
            demonstrations.collect(env, EPISODES, lambda ended, won: False, max_episode_steps=12)
    return root


def shards(root: Path) -> list[Shard]:
    return [Shard.open(path) for path in DatasetFolder(root).shard_paths()]


def same_steps(some: list[Shard], others: list[Shard]) -> None:
    """All steps, one after another, are the same ones."""
    for name in some[0].steps.named():
        whole, other = (
            np.concatenate([shard.steps.named()[name] for shard in found])
            for found in (some, others)
        )
        assert whole.dtype == other.dtype
        np.testing.assert_array_equal(whole, other, name)


def all_segments(found: list[Shard]) -> list[Segment]:
    return [segment for shard in found for segment in shard.segments]


def foreign(change: Callable[[dict[str, Any], dict[str, Any]], None], name: str = NAME) -> None:
    """A dataset of somebody else who plays our room: one episode of three steps.

    Args:
        change: Alters the episode and the spaces.
        name: Of the dataset.
    """
    spec = make_env(ROOM).observation_spec
    boxes = {k: spaces.Box(0, 255, s.shape, np.int64) for k, s in spec.items()}
    space = {
        "observation_space": spaces.Dict({**boxes, "mission": spaces.Text(8)}),
        "action_space": spaces.Discrete(len(ACTION_NAMES)),
    }
    seen: dict[str, Any] = {k: np.ones((4, *s.shape), np.int64) for k, s in spec.items()}
    episode = {
        "observations": {**seen, "mission": ["find"] * 4},
        "actions": np.array([1, 2, 3]),
        "rewards": np.array([0.0, 0.0, 1.0]),
        "terminations": np.array([False, False, True]),
        "truncations": np.zeros(3, bool),
        "infos": {},
    }
    change(episode, space)
    buffer = minari.data_collector.EpisodeBuffer(**episode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about an author it was not told of
        minari.create_dataset_from_buffers(name, [buffer], jpeg_encoding=False, **space)


def as_it_is(episode: dict[str, Any], space: dict[str, Any]) -> None:
    pass


# There and back


def test_what_is_exported_and_imported_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = collected(tmp_path / "there")
    assert main(["minari", "export", str(there), NAME, "--algorithm", "chance"]) == 0
    assert main(["minari", "import", NAME, str(tmp_path / "back")]) == 0
    out = capsys.readouterr().out
    before, after = shards(there), shards(tmp_path / "back")
    same_steps(before, after)
    assert all_segments(before) == all_segments(after)
    won = sum(s.won is True for s in all_segments(before))
    assert 0 < won < 2 * EPISODES
    assert f"{2 * EPISODES} episodes of {MAZE}, {ROOM}, {won} won" in out
    assert list((tmp_path / "back").glob("manifest-*.json"))


def test_minari_sees_whole_episodes_that_end_and_say_where_they_are_from(tmp_path: Path) -> None:
    there = collected(tmp_path / "there")
    assert main(["minari", "export", str(there), NAME, "--algorithm", "chance"]) == 0
    dataset = minari.load_dataset(NAME)
    segments = all_segments(shards(there))
    assert dataset.total_episodes == len(segments) == 2 * EPISODES
    assert dataset.total_steps == sum(s.length for s in segments)
    assert dataset.storage.metadata["algorithm_name"] == "chance"
    attributes = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    for episode, segment, told in zip(dataset, segments, attributes, strict=True):
        steps = segment.length
        assert len(episode.rewards) == len(episode.actions) == steps
        assert len(episode.observations["terrain"]) == steps + 1
        assert dataset.observation_space.contains(
            {name: np.asarray(array[-1]) for name, array in episode.observations.items()}
        )
        assert (episode.terminations | episode.truncations).tolist() == [False] * (steps - 1) + [
            True
        ]
        assert (episode.infos["level_seed"] == segment.seed).all()
        assert {name.decode() for name in episode.infos["env"]} == {segment.env}
        assert (told["env"], told["level_seed"], told["won"]) == (
            segment.env,
            segment.seed,
            segment.won,
        )


def test_shards_of_a_training_go_out_as_whole_episodes(tmp_path: Path) -> None:
    run = learnt(tmp_path, run_name="run")
    root = run.folder.root
    pieces = all_segments(shards(root))
    assert any(piece.first_step for piece in pieces)
    assert main(["minari", "export", str(root), NAME]) == 0
    assert main(["minari", "import", NAME, str(tmp_path / "back")]) == 0
    episodes = all_segments(shards(tmp_path / "back"))
    assert sum(e.length for e in episodes) == sum(p.length for p in pieces)
    assert not any(episode.first_step for episode in episodes)
    key = {(p.collector, p.env, p.seed) for p in pieces}
    assert {(e.collector, e.env, e.seed) for e in episodes} == key
    assert len(episodes) == len(key)
    ended = [p.won for p in pieces if p.final]
    assert sorted(e.won for e in episodes if e.final) == sorted(ended)
    assert sum(not e.final for e in episodes) == len(key) - len(ended)


def test_a_planner_can_draw_from_an_import(tmp_path: Path) -> None:
    assert main(["minari", "export", str(collected(tmp_path / "there")), NAME]) == 0
    assert main(["minari", "import", NAME, str(tmp_path / "back")]) == 0
    dataset = DiskTrajDataset(str(tmp_path), "back", target="executed")
    dataset.configure(6, oracle=RandomPolicy(), may_edit=False)
    dataset.refresh()
    assert dataset.ready_for_training
    steps = sum(segment.length for segment in all_segments(shards(tmp_path / "back")))
    assert sum(entry.steps for entry in dataset.manifest.shards) == steps


# Of somebody else


def test_a_foreign_dataset_with_our_observations_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(as_it_is)
    assert "--env" in errors_of(capsys, "minari", "import", NAME, str(tmp_path / "in"))
    assert main(["minari", "import", NAME, str(tmp_path / "in"), "--env", ROOM]) == 0
    (shard,) = shards(tmp_path / "in")
    (segment,) = shard.segments
    assert (segment.env, segment.length, segment.won, segment.final) == (ROOM, 3, True, True)
    assert shard.steps.actions.tolist() == [1, 2, 3]
    spec = make_env(ROOM).observation_spec
    assert {k: a.dtype for k, a in shard.steps.observations.items()} == {
        k: s.dtype for k, s in spec.items()
    }


def test_who_lost_is_no_winner(tmp_path: Path) -> None:
    def lost(episode: dict[str, Any], space: dict[str, Any]) -> None:
        episode["infos"] = {"success": np.zeros(4, bool)}

    def going_on(episode: dict[str, Any], space: dict[str, Any]) -> None:
        episode["terminations"][-1] = False

    found = []
    for number, change in enumerate((lost, going_on)):
        name, root = f"remdm/other-v{number}", tmp_path / str(number)
        foreign(change, name)
        assert main(["minari", "import", name, str(root), "--env", ROOM]) == 0
        found += all_segments(shards(root))
    assert [(s.won, s.final) for s in found] == [(False, True), (None, False)]


def no_terrain(episode: dict[str, Any], space: dict[str, Any]) -> None:
    del episode["observations"]["terrain"], space["observation_space"].spaces["terrain"]


def small_terrain(episode: dict[str, Any], space: dict[str, Any]) -> None:
    episode["observations"]["terrain"] = np.ones((4, 5, 5), np.int64)
    space["observation_space"].spaces["terrain"] = spaces.Box(0, 255, (5, 5), np.int64)


def large_numbers(episode: dict[str, Any], space: dict[str, Any]) -> None:
    episode["observations"]["terrain"][1] = 300


def four_actions(episode: dict[str, Any], space: dict[str, Any]) -> None:
    space["action_space"] = spaces.Discrete(4)


def a_continuous_action(episode: dict[str, Any], space: dict[str, Any]) -> None:
    space["action_space"] = spaces.Box(-1, 1, (1,))


def an_action_too_many(episode: dict[str, Any], space: dict[str, Any]) -> None:
    episode["actions"][1] = len(ACTION_NAMES)


def an_early_end(episode: dict[str, Any], space: dict[str, Any]) -> None:
    episode["terminations"][0] = True


def a_step_missing(episode: dict[str, Any], space: dict[str, Any]) -> None:
    episode["actions"] = episode["actions"][:2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_terrain, "'terrain' of shape [9, 9]"),
        (small_terrain, "'terrain' of shape [9, 9]"),
        (large_numbers, "terrain must fit into uint8"),
        (four_actions, f"Discrete({len(ACTION_NAMES)})"),
        (a_continuous_action, f"Discrete({len(ACTION_NAMES)})"),
        (an_action_too_many, f"actions must be in 0..{len(ACTION_NAMES) - 1}"),
        (an_early_end, "may end at its last step only"),
        (a_step_missing, "actions must have shape [3]"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    words: str,
) -> None:
    foreign(change)
    told = errors_of(capsys, "minari", "import", NAME, str(tmp_path / "in"), "--env", ROOM)
    assert words in " ".join(told.split())
    assert not list((tmp_path / "in").glob("protected/*"))


def test_other_actions_of_the_same_number_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["minari", "export", str(collected(tmp_path / "there")), NAME]) == 0
    metadata = tmp_path / "minari" / NAME / "data/metadata.json"
    text = json.loads(metadata.read_text())
    text["remdm_action_names"][0] = "jump"
    metadata.write_text(json.dumps(text))
    told = errors_of(capsys, "minari", "import", NAME, str(tmp_path / "in"))
    assert "jump" in told


# What is refused


def test_names_places_and_repetitions_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = str(collected(tmp_path / "there")), str(tmp_path / "back")
    for name in ("../out-v0", "/out-v0", "noversion"):
        assert "named like" in errors_of(capsys, "minari", "export", there, name)
        assert "named like" in errors_of(capsys, "minari", "import", name, back)
    assert "on this machine" in errors_of(capsys, "minari", "import", "remdm/none-v0", back)
    assert "has none" in errors_of(capsys, "minari", "export", str(tmp_path / "no"), NAME)
    assert main(["minari", "export", there, NAME]) == 0
    assert "another name or version" in errors_of(capsys, "minari", "export", there, NAME)
    assert main(["minari", "import", NAME, back]) == 0
    assert "already" in errors_of(capsys, "minari", "import", NAME, back)


def test_shards_of_two_kinds_are_not_one_dataset_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = collected(tmp_path / "there")
    steps = StepArrays(
        {"other": np.zeros((1, 2), np.uint8)},
        np.zeros(1, np.int8),
        np.zeros(1, np.float32),
        np.ones(1, np.bool_),
        np.zeros(1, np.bool_),
    )
    segment = Segment("Other-v0", 1, 0, 1, False, True, 0, "zz")
    path = there / "protected" / shard_name(0, "zz", 0, 1)
    write_shard(path, [segment], [steps], ["stay"])
    told = errors_of(capsys, "minari", "export", str(there), NAME)
    assert "folders of their own" in " ".join(told.split())
    assert not (tmp_path / "minari" / NAME).exists()


def test_minari_is_loaded_by_its_command_alone() -> None:
    code = "import sys, remdm.cli; sys.exit('minari' in sys.modules or 'h5py' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
