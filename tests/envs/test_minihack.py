"""MiniHack behind our contract: equal to gym's environment, without its traps."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest

pytest.importorskip("minihack")


from remdm.envs.level_compiler import LevelError, level_compiler
from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS, MiniHackEnv, make_stock_env
from remdm.maps import ACTION_NAMES, Action, empty_observations

pytestmark = pytest.mark.minihack

ROOM = "MiniHack-Room-Random-15x15-v0"
LIMITS = (100, 300, 1000, 200, 300, 1000, 1000)

Build = Callable[..., MiniHackEnv]
Observation = dict[str, np.ndarray]


def observed(env: MiniHackEnv) -> Observation:
    out = empty_observations(env.observation_spec, ())
    env.observe(out)
    return out


def episode(env: MiniHackEnv, seed: int, num_steps: int = 60) -> list[bytes]:
    """All that is seen and got in one episode of random actions."""
    rng = np.random.default_rng(seed)
    env.reset(seed)
    seen = [b"".join(a.tobytes() for a in observed(env).values())]
    for _ in range(num_steps):
        result = env.step(int(rng.integers(env.num_actions)))
        seen.append(b"".join(a.tobytes() for a in observed(env).values()) + str(result).encode())
        if result.terminated or result.truncated:
            break
    return seen


def gym_env(name: str, **arguments: Any) -> Any:
    env = MiniHackEnv(name)
    actions = env._env.actions
    env.close()
    keys = ("glyphs", "blstats", "message")
    return make_stock_env(
        name, actions=actions, observation_keys=keys, fix_moon_phase=True, **arguments
    )


# What it is.


def test_the_seven_maps_are_known() -> None:
    assert len(TRAINING_ENVS) == 4
    assert len(HELD_OUT_ENVS) == 3
    assert not set(TRAINING_ENVS) & set(HELD_OUT_ENVS)


@pytest.mark.parametrize(
    ("name", "limit"),
    list(zip(TRAINING_ENVS + HELD_OUT_ENVS, LIMITS, strict=True)),
)
def test_every_map_has_the_same_actions_and_its_own_limit(
    make: Build, name: str, limit: int
) -> None:
    env = make(name)
    assert env.action_names == ACTION_NAMES
    assert env.num_actions == 12
    assert env.max_episode_steps == limit
    env.reset(0)
    for key, array in observed(env).items():
        assert array.shape == env.observation_spec[key].shape
        assert array.dtype == env.observation_spec[key].dtype


@pytest.mark.parametrize("name", TRAINING_ENVS + HELD_OUT_ENVS)
def test_episodes_are_those_of_gym(make: Build, name: str) -> None:
    env, other = make(name), gym_env(name)
    for seed in range(4):
        env.reset(seed)
        other.unwrapped.seed(core=seed, disp=seed, reseed=False)
        shown, _ = other.reset()
        rng = np.random.default_rng(seed)
        for _ in range(120):
            np.testing.assert_array_equal(env._glyphs, shown["glyphs"])
            np.testing.assert_array_equal(env._blstats, shown["blstats"])
            np.testing.assert_array_equal(env._message, shown["message"])
            action = int(rng.integers(12))
            result = env.step(action)
            shown, _, over, _, info = other.step(action)
            assert over == (result.terminated or result.truncated)
            assert result.won == (info["end_status"] == other.unwrapped.StepStatus.TASK_SUCCESSFUL)
            assert result.truncated == (info["end_status"] == other.unwrapped.StepStatus.ABORTED)
            if over:
                break
    other.close()


def test_a_task_with_its_own_end_is_judged_by_minihack(make: Build) -> None:
    name = "MiniHack-Eat-v0"
    env, other = make(name), gym_env(name)
    assert env._own_end
    for seed in range(3):
        env.reset(seed)
        other.unwrapped.seed(core=seed, disp=seed, reseed=False)
        other.reset()
        rng = np.random.default_rng(seed)
        for _ in range(60):
            action = int(rng.integers(8))
            result = env.step(action)
            shown, _, over, _, _ = other.step(action)
            assert over == (result.terminated or result.truncated)
            if over:
                break
            np.testing.assert_array_equal(env._glyphs, shown["glyphs"])
    other.close()


# What the field stumbled over.


def test_the_same_seed_gives_the_same_episode_again_and_elsewhere(make: Build) -> None:
    env, other = make("MiniHack-Corridor-R2-v0"), make("MiniHack-Corridor-R2-v0")
    first = episode(env, 5)
    episode(env, 6)  # NLE forgets a seed after one reset
    assert episode(env, 5) == first
    episode(other, 7)
    assert episode(other, 5) == first


def test_different_seeds_give_different_levels(make: Build) -> None:
    env = make("MiniHack-MazeWalk-9x9-v0")
    starts = set()
    for seed in range(6):
        env.reset(seed)
        starts.add(observed(env)["glyphs"].tobytes())
    assert len(starts) > 1


def test_an_episode_does_not_depend_on_the_one_cut_off_before(make: Build) -> None:
    env = make()
    first = episode(env, 3)
    env.reset(9)
    env.step(Action.KICK)
    assert env.pending
    assert episode(env, 3) == first


def test_observations_are_copies(make: Build) -> None:
    env = make()
    env.reset(1)
    before = observed(env)
    kept = {name: array.copy() for name, array in before.items()}
    for action in (Action.NORTH, Action.EAST, Action.SOUTH, Action.WEST, Action.SEARCH):
        env.step(action)
    for name, array in before.items():
        np.testing.assert_array_equal(array, kept[name])


def test_running_out_of_time_truncates(make: Build) -> None:
    env = make(max_episode_steps=5)
    assert env.max_episode_steps == 5
    env.reset(0)
    for _ in range(4):
        assert env.step(Action.WAIT) == (0.0, False, False, False, False)
    assert env.step(Action.WAIT) == (0.0, False, True, False, False)
    with pytest.raises(RuntimeError, match="no episode is running"):
        env.step(Action.WAIT)
    env.reset(0)
    assert not env.step(Action.WAIT).truncated


def test_the_limit_can_be_bound_by_gin(make: Build) -> None:
    gin.bind_parameter("MiniHackEnv.max_episode_steps", 7)
    assert make().max_episode_steps == 7


def test_levels_compile_once_for_all_environments(make: Build) -> None:
    make("MiniHack-Corridor-R5-v0")
    compiled = level_compiler().num_compiled
    make("MiniHack-Corridor-R5-v0")
    make("MiniHack-Corridor-R5-v0")
    assert level_compiler().num_compiled == compiled


def test_a_level_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bad level.des"
    file.write_text('MAZE: "mylevel"\nNONSENSE')
    with pytest.raises(LevelError, match="syntax error") as raised:
        MiniHackEnv(str(file))
    assert str(file) in str(raised.value)


def test_setuptools_without_pkg_resources_is_explained() -> None:
    program = (
        "import sys; sys.modules['pkg_resources'] = None\n"
        "from remdm.envs.minihack import MiniHackEnv\n"
        "MiniHackEnv('MiniHack-Room-5x5-v0')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'setuptools<81'" in done.stderr


def test_nothing_is_printed_or_warned(tmp_path: Path) -> None:
    program = (
        "from remdm.envs.minihack import MiniHackEnv\n"
        "env = MiniHackEnv('MiniHack-Room-5x5-v0'); env.reset(0); env.step(0); env.close()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_resets_leak_nothing(make: Build) -> None:
    env = make("MiniHack-Room-Random-5x5-v0")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4  # kB

    def resets(count: int) -> None:
        for seed in range(count):
            env.reset(seed)
            env.step(Action.WAIT)

    resets(100)
    before = resident()
    resets(500)
    # A game that is not quit leaves about 2 kB behind.
    assert resident() - before < 400


# Bad input.


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'MiniHack-Corridor-R2-v0'") as raised:
        MiniHackEnv("MiniHack-Coridor-R2-v0")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("nowhere.des", {}, "no level file|there is none"),
        ("MiniHack-Navigation-Custom-v0", {}, "give the path of a .des file"),
        ("MiniHack-MultiRoom-N2-v0", {}, "a seed does not reach them"),
        (ROOM, {"reward": "dense"}, "MiniHackEnv.reward"),
        (ROOM, {"max_episode_steps": 0}, "MiniHackEnv.max_episode_steps"),
        (ROOM, {"max_episode_steps": 40_000}, "MiniHackEnv.max_episode_steps"),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MiniHackEnv(name, **arguments)


def test_steps_before_the_first_reset_and_unknown_actions_are_refused(make: Build) -> None:
    env = make()
    with pytest.raises(RuntimeError, match=r"call reset\(seed\) first"):
        env.step(0)
    env.reset(0)
    with pytest.raises(ValueError, match=r"action must be in 0\.\.11 and is 12"):
        env.step(12)


def test_closing_deletes_the_games_folder(make: Build) -> None:
    env = make()
    folder = Path(env._env.nethack._vardir)
    assert folder.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.close()
    assert not folder.exists()
