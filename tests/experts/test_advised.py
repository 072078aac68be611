"""An expert beside the actors: what it says, what is recorded, and that it can be carried out."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("craftax")

from remdm.data.shards import RecordingBuffer
from remdm.envs.craftax.game import CLASSIC
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.envs.making import make_vec_env
from remdm.experts.advised import ACTIONS, BRANCHED, PLAN, WEIGHT, AdvisedVecEnv
from remdm.experts.labels import Tutor
from remdm.experts.oracle import ExpertOracle
from remdm.soft_targets import LOGITS_KEY
from remdm.tokens import end_token
from remdm.training.checkpoint import CheckpointError
from remdm.training.collector import Collector
from tests.experts.opinionated import ROWS, STEPS, opinionated_expert, saved_expert

pytestmark = [pytest.mark.craftax, pytest.mark.slow]
SEEDS = list(range(ROWS))
TUTOR = Tutor(opinionated_expert(), temperature=1.0)
RANDOM = np.random.default_rng(1).integers(17, size=(ROWS, STEPS))


def advised(**options) -> AdvisedVecEnv:
    env = AdvisedVecEnv(CraftaxVecEnv([CLASSIC] * ROWS), TUTOR, STEPS, **options)
    env.reset(SEEDS)
    return env


def test_whoever_carries_out_the_advice_lives_the_experts_own_life() -> None:
    env = advised()
    start = env.vec_env.worlds
    whole = np.asarray(TUTOR.plans(start, TUTOR.memory(ROWS), 2 * STEPS))
    carried_out = []
    for _ in range(2):
        advice = env.reset([], [])[PLAN].copy()
        carried_out.append(env.execute(advice, STEPS).actions)
    np.testing.assert_array_equal(np.concatenate(carried_out, 1), whole)


def test_a_branched_plan_is_recorded_where_a_chunk_begins() -> None:
    env = advised()
    said = env.reset([], [])[PLAN].copy()
    chunk = env.execute(RANDOM, STEPS)
    np.testing.assert_array_equal(chunk.observations[PLAN][:, 0], said)
    assert (chunk.observations[WEIGHT][:, 0] == 1).all()
    assert not chunk.observations[WEIGHT][:, 1:].any()
    assert (chunk.observations[PLAN][:, 1:] == end_token(17)).all()
    assert (chunk.final_observations[WEIGHT] == 1).all()


def test_label_every_adds_plans_on_the_way_and_changes_nothing_else() -> None:
    whole, pieces = advised().execute(RANDOM, STEPS), advised(label_every=4).execute(RANDOM, STEPS)
    assert (pieces.observations[WEIGHT][0] == [1, 0, 0, 0, 1, 0, 0, 0]).all()
    for name in ("actions", "rewards", "terminated", "truncated", "valid", "won"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    for name, array in whole.observations.items():
        if name not in (PLAN, WEIGHT):
            np.testing.assert_array_equal(array, pieces.observations[name])
    np.testing.assert_array_equal(whole.final_observations[PLAN], pieces.final_observations[PLAN])


def test_actions_are_recorded_at_every_step_with_the_law_they_are_drawn_from() -> None:
    """The branched plan at the first state begins with the action recorded there."""
    env = advised(kind=ACTIONS)
    start, said = env.worlds, env.reset([], [])[PLAN].copy()
    chunk = env.execute(RANDOM, STEPS)
    plans = chunk.observations[PLAN]
    assert (chunk.observations[WEIGHT] == 1).all()
    np.testing.assert_array_equal(plans[:, 0, 0], said[:, 0])
    assert (plans[..., 1:] == end_token(17)).all()
    seen = {name: chunk.observations[name] for name in env.vec_env.observation_spec}
    _, actions, logits = TUTOR.follow(TUTOR.memory(ROWS), start, seen, chunk.valid)
    np.testing.assert_array_equal(plans[..., 0], actions)
    np.testing.assert_array_equal(
        chunk.observations[LOGITS_KEY], np.asarray(logits).astype(np.float16)
    )


def test_rows_that_begin_anew_get_advice_of_their_own() -> None:
    env = advised()
    env.execute(RANDOM, STEPS)
    before = env.reset([], [])[PLAN].copy()
    after = env.reset([0, 1], [3, 5])[PLAN]
    kept = np.setdiff1d(np.arange(ROWS), [3, 5])
    np.testing.assert_array_equal(after[kept], before[kept])
    fresh = advised().reset([], [])[PLAN]
    np.testing.assert_array_equal(after[[3, 5]], fresh[[0, 1]])


def test_a_resumed_collector_hears_the_same_advice(tmp_path: Path) -> None:
    def collector(folder: Path) -> Collector:
        env = AdvisedVecEnv(CraftaxVecEnv([CLASSIC] * ROWS), TUTOR, STEPS)
        buffer = RecordingBuffer(folder, env.action_names, "test")
        return Collector(
            env, oracle, buffer, seed=0, rank=0, plan_horizon=STEPS, replan_every=STEPS
        )

    oracle = ExpertOracle(expert=str(saved_expert(tmp_path / "expert")))
    first = collector(tmp_path / "first")
    first.collect(None, 2 * ROWS * STEPS, beta=1.0, noise=0.5)
    second = collector(tmp_path / "second")
    second.restore(first.state())
    for name, array in first.observations.items():
        if name != LOGITS_KEY:
            np.testing.assert_array_equal(array, second.observations[name])
    np.testing.assert_allclose(first.returns, second.returns)


def test_an_oracle_labels_with_what_was_recorded(tmp_path: Path) -> None:
    oracle = ExpertOracle(expert=str(saved_expert(tmp_path / "run" / "expert").parent))
    env = oracle.accompany(CraftaxVecEnv([CLASSIC] * ROWS), STEPS)
    seen = env.reset(SEEDS)
    plans, weights = oracle.label(seen, 4)
    np.testing.assert_array_equal(plans, seen[PLAN][:, :4])
    assert plans.dtype == np.int8
    assert (weights == 1).all()
    assert oracle.gives_plans
    assert oracle.labels == BRANCHED
    with pytest.raises(ValueError, match=r"plans of 9 tokens.*found plans of 8 tokens"):
        oracle.label(seen, 9)
    with pytest.raises(ValueError, match="found none"):
        oracle.label({"tiles": seen["tiles"]}, 4)


def test_an_expert_refuses_what_it_does_not_play(tmp_path: Path) -> None:
    oracle = ExpertOracle(expert=str(saved_expert(tmp_path / "expert")))
    for names in (["Gridworld-Room-9x9-v0"], ["Craftax-Symbolic-v1"]):
        with pytest.raises(ValueError, match=rf"plays {CLASSIC}, and the env.*{names[0]}"):
            oracle.accompany(make_vec_env(names), STEPS)
    with pytest.raises(CheckpointError, match=r"nowhere.*Set ExpertOracle.expert to the folder"):
        ExpertOracle(expert=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="did you mean 'branched'"):
        ExpertOracle(expert="", labels="branching")
    with pytest.raises(ValueError, match="label_every must be at least 1, got 0"):
        ExpertOracle(expert="", label_every=0)
