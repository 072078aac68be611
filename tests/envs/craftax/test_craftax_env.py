"""Craftax through the contract of vector environments, against the game's own step."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("craftax")

import jax

from remdm.envs.craftax.game import CLASSIC, FULL, load_game
from remdm.envs.craftax.single import CraftaxEnv
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.envs.craftax.worlds import level_keys, runner_of, seed_halves
from remdm.envs.making import make_env, make_vec_env
from remdm.tokens import end_token

pytestmark = pytest.mark.craftax

END = end_token(17)
CAP = 300
LEFT, SLEEP = 1, 6


@pytest.fixture(scope="module")
def worlds() -> Iterator[CraftaxVecEnv]:
    """Eight worlds of Classic, lives of 300 steps."""
    with closing(make_vec_env([CLASSIC] * 8, max_episode_steps=CAP)) as envs:
        assert isinstance(envs, CraftaxVecEnv)
        yield envs


def actions(rows: int, steps: int, seed: int = 0, count: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(rows, steps))


def by_hand(name: str, seed: int, plan: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat observations [K + 1], rewards and ends [K] of the game itself, until a life ends."""
    game = load_game(name)
    world_keys, step_keys = level_keys(seed_halves(np.array([seed])))
    flat, state = game.env.reset(world_keys[0], game.params)
    seen, rewards, ends = [flat], [], []
    for step, action in enumerate(plan):
        key = jax.random.fold_in(step_keys[0], step)
        flat, state, reward, done, _ = game.env.step(key, state, int(action), game.params)
        seen.append(flat)
        rewards.append(reward)
        ends.append(done)
        if done:
            break
    return np.stack(seen), np.array(rewards), np.array(ends)


def test_chunks_hold_what_the_game_itself_does(worlds: CraftaxVecEnv) -> None:
    """Rewards and ends are equal; observations up to the rounding of another compilation."""
    worlds.reset(list(range(8)))
    plans = actions(8, 40)
    chunks = [worlds.execute(plans[:, k : k + 8], 8) for k in range(0, 40, 8)]
    decode = worlds.game.codec.decode
    for row in (0, 5):
        flat, rewards, ends = by_hand(CLASSIC, row, plans[row])
        ours = np.concatenate(
            [decode({key: array[row] for key, array in c.observations.items()}) for c in chunks]
        )
        np.testing.assert_allclose(ours[: len(rewards)], flat[:-1], rtol=0, atol=1e-6)
        got = np.concatenate([chunk.rewards[row] for chunk in chunks])
        np.testing.assert_array_equal(got[: len(rewards)], rewards)
        done = np.concatenate([chunk.terminated[row] for chunk in chunks])
        np.testing.assert_array_equal(done[: len(ends)], ends)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [(CLASSIC, 17), (FULL, 43)])
def test_packed_observations_decode_bit_for_bit_over_ten_thousand_states(
    name: str, count: int
) -> None:
    game, runner = load_game(name), runner_of(name)
    worlds = runner.make_many(np.arange(64))
    render = jax.jit(jax.vmap(game.env.get_obs))
    encode = jax.jit(game.codec.encode)
    caps = np.full(64, 10_000, np.int32)
    seen = 0
    for turn in range(160):
        flat = render(worlds.state)
        decoded = game.codec.decode(encode(flat))
        assert decoded.dtype == np.float32
        assert decoded.tobytes() == np.asarray(flat).tobytes()
        # What the step itself packed: the same but for the rounding of another compilation.
        stepped = game.codec.decode(worlds.observations)
        np.testing.assert_allclose(stepped, decoded, rtol=0, atol=1e-6)
        seen += len(decoded)
        plans = actions(64, 2, turn, count).astype(np.int32)
        worlds, _ = runner.run(worlds, plans, caps)
        over = np.flatnonzero(~np.asarray(worlds.running))
        if len(over):
            worlds = runner.replace(worlds, over, 1000 + 64 * turn + over)
    assert seen >= 10_000


def test_a_world_depends_on_its_level_and_its_actions_alone(worlds: CraftaxVecEnv) -> None:
    seeds = [3, 4, 5, 6, 7, 8, 9, 2**40 + 7]
    worlds.reset(seeds)
    plans = actions(8, 8, seed=1)
    straight = worlds.execute(plans, 8)
    order = np.array([7, 2, 0, 0, 0, 0, 0, 1])
    worlds.reset([seeds[row] for row in order])
    mixed = worlds.execute(plans[order], 8)
    for name, array in mixed.observations.items():
        np.testing.assert_array_equal(array, straight.observations[name][order])
    np.testing.assert_array_equal(mixed.rewards, straight.rewards[order])
    assert not (straight.observations["tiles"][7, 0] == straight.observations["tiles"][4, 0]).all()


def test_branches_repeat_the_original_and_go_their_own_ways(worlds: CraftaxVecEnv) -> None:
    worlds.reset(list(range(20, 28)))
    worlds.execute(actions(8, 8, seed=2), 8)
    kept = worlds.worlds
    plans = actions(8, 8, seed=3)
    original = worlds.execute(plans, 8)
    worlds.worlds = kept
    replayed = worlds.execute(plans, 8)
    for name, array in original.observations.items():
        np.testing.assert_array_equal(array, replayed.observations[name])
    np.testing.assert_array_equal(original.rewards, replayed.rewards)
    np.testing.assert_array_equal(original.valid, replayed.valid)
    worlds.worlds = kept.take(np.zeros(8, int))  # eight branches of the first world
    branches = worlds.execute(plans, 8)
    np.testing.assert_array_equal(branches.rewards[0], original.rewards[0])
    seen = branches.final_observations["tiles"].reshape(8, -1)
    assert len(np.unique(seen, axis=0)) > 1
    with pytest.raises(ValueError, match="8 rows, got 3 worlds"):
        worlds.worlds = kept.take(np.arange(3))


def test_plans_end_at_end(worlds: CraftaxVecEnv) -> None:
    worlds.reset([0] * 8)
    plans = np.full((8, 8), LEFT)
    plans[0, 0], plans[1, 2], plans[2, 1] = END, END, 17  # 17 is MASK
    plans[3, 1:3] = END, LEFT
    chunk = worlds.execute(plans, 8)
    assert chunk.lengths.tolist() == [0, 2, 1, 1, 8, 8, 8, 8]
    assert not chunk.done.any()
    assert not chunk.blocked.any()


def test_lives_end_at_their_cap_and_rows_are_reset_alone() -> None:
    limits = [6, *[None] * 7]
    with closing(CraftaxVecEnv([CLASSIC] * 8, max_episode_steps=limits)) as envs:
        assert envs.max_episode_steps == (6, *[10_000] * 7)
        envs.reset([0, 0], rows=[0, 1])  # the others were never started
        plans = np.full((8, 8), SLEEP)
        first = envs.execute(plans, 8)
        assert first.lengths.tolist() == [6, 8, 0, 0, 0, 0, 0, 0]
        assert first.truncated[0].tolist() == [False] * 5 + [True] + [False] * 2
        assert not first.terminated.any()
        assert not first.won.any()
        assert envs.execute(plans, 8).lengths.tolist() == [0, 8, 0, 0, 0, 0, 0, 0]
        before = {key: array.copy() for key, array in envs.observations.items()}
        after = envs.reset([1], rows=[0])
        assert all((after[key][1:] == before[key][1:]).all() for key in before)
        assert envs.execute(plans, 8).lengths.tolist() == [6, 8, 0, 0, 0, 0, 0, 0]


def test_achievements_are_kept_beyond_the_end_of_a_life(worlds: CraftaxVecEnv) -> None:
    """A random life of 300 steps unlocks something, and some end in death, which wins nothing."""
    worlds.reset(list(range(50, 58)))
    total, died = np.zeros(8), np.zeros(8, bool)
    for turn in range(38):
        chunk = worlds.execute(actions(8, 8, turn), 8)
        died |= chunk.terminated.any(1)
        assert not chunk.won.any()
        total += chunk.rewards.sum(1)
    assert died.any()
    unlocked = worlds.achievements
    assert unlocked.shape == (8, 22)
    assert unlocked.any()
    # Rewards are achievements and a tenth of the change of health, which starts at 9.
    health = np.round(worlds.observations["scalars"][:, 12] * 10)
    np.testing.assert_allclose(total, unlocked.sum(1) + 0.1 * (health - 9), atol=1e-4)


def test_a_single_world_is_a_row_of_many() -> None:
    env = make_env(CLASSIC, max_episode_steps=4)
    assert isinstance(env, CraftaxEnv)
    assert env.max_episode_steps == 4
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    env.reset(5)
    out = {name: np.zeros(spec.shape, spec.dtype) for name, spec in env.observation_spec.items()}
    env.observe(out)
    flat, _, _ = by_hand(CLASSIC, 5, np.zeros(0, int))
    ours = load_game(CLASSIC).codec.decode(out)
    np.testing.assert_allclose(ours, flat[0], rtol=0, atol=1e-6)
    results = [env.step(LEFT) for _ in range(4)]
    assert [result.truncated for result in results] == [False, False, False, True]
    with pytest.raises(RuntimeError, match="over"):
        env.step(LEFT)


def test_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'Craftax-Classic-Symbolic-v1'"):
        make_vec_env(["Craftax-Classic-Symbolic-v2"])
    with pytest.raises(ValueError, match="must play the same game"):
        make_vec_env([CLASSIC, FULL])
    with pytest.raises(ValueError, match="cannot share rows with others"):
        make_vec_env([CLASSIC, "Gridworld-Room-9x9-v0"])
    with pytest.raises(RuntimeError, match="before the first reset"):
        CraftaxVecEnv([CLASSIC]).execute(np.zeros((1, 1), int), 1)
    with pytest.raises(ValueError, match="at least num_steps = 2 tokens, got 1"):
        CraftaxVecEnv([CLASSIC]).execute(np.zeros((1, 1), int), 2)
