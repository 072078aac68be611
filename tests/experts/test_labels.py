"""What experts say to do, against the expert acting itself."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("craftax")

import jax.numpy as jnp

from remdm.experts.labels import Tutor
from remdm.experts.policy import Expert
from remdm.tokens import end_token
from tests.experts.opinionated import ROWS, STEPS, opinionated_expert

pytestmark = pytest.mark.craftax

CAPS = np.full(ROWS, 10_000, np.int32)


@pytest.fixture(scope="module")
def expert() -> Expert:
    return opinionated_expert()


@pytest.fixture(scope="module")
def tutor(expert: Expert) -> Tutor:
    return Tutor(expert)


@pytest.fixture(scope="module")
def visited(expert: Expert, tutor: Tutor):
    """Worlds after eight random steps, what was seen on the way, and the memory of it."""
    start = expert.runner.make_many(np.arange(ROWS))
    plans = np.random.default_rng(0).integers(17, size=(ROWS, STEPS)).astype(np.int32)
    worlds, trace = expert.runner.run(start, plans, CAPS)
    memory, actions, _ = tutor.follow(tutor.memory(ROWS), start, trace.observations, trace.valid)
    return worlds, trace, memory, actions


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_branched_plans_are_what_the_expert_does_when_it_goes_on(
    expert: Expert, visited, temperature: float
) -> None:
    """Branch and replay: the plan, executed, shows the expert what it answered to."""
    worlds, _, memory, _ = visited
    tutor = Tutor(expert, temperature=temperature)
    plans = tutor.plans(worlds, memory, STEPS)
    assert plans.shape == (ROWS, STEPS)
    assert len(np.unique(np.asarray(plans))) > 2
    _, trace = expert.runner.run(worlds, plans, CAPS)
    _, answers, _ = tutor.follow(memory, worlds, trace.observations, trace.valid)
    np.testing.assert_array_equal(answers, plans)


@pytest.mark.slow
def test_a_plan_of_visited_actions_is_another_one(expert: Expert, tutor: Tutor, visited) -> None:
    """Along a life that others led, the expert's actions are no plan of its own."""
    _, trace, _, actions = visited
    start = expert.runner.make_many(np.arange(ROWS))
    own = tutor.plans(start, tutor.memory(ROWS), STEPS)
    np.testing.assert_array_equal(np.asarray(own)[:, 0], np.asarray(actions)[:, 0])
    assert (np.asarray(own)[:, 1:] != np.asarray(actions)[:, 1:]).any()
    assert bool(trace.valid.all())


@pytest.mark.slow
def test_plans_end_where_the_life_does(tutor: Tutor, visited) -> None:
    worlds, _, memory, _ = visited
    over = jnp.asarray(np.arange(ROWS) % 2 == 0)
    half = replace(worlds, running=~over)
    plans = np.asarray(tutor.plans(half, memory, STEPS))
    assert (plans[::2] == end_token(17)).all()
    assert (plans[1::2] < 17).all()


def test_memory_stops_at_the_last_step_that_was_taken(tutor: Tutor, visited) -> None:
    _, trace, whole, _ = visited
    start = tutor.expert.runner.make_many(np.arange(ROWS))
    some = np.arange(STEPS) < np.array([8, 0, 3, 8, 8, 8, 8, 8])[:, None]
    memory, _, _ = tutor.follow(tutor.memory(ROWS), start, trace.observations, some)
    np.testing.assert_array_equal(np.asarray(memory)[3:], np.asarray(whole)[3:])
    assert not np.asarray(memory)[1].any()
    assert not np.array_equal(np.asarray(memory)[2], np.asarray(whole)[2])


def test_drawn_labels_follow_the_temperature_and_the_level(expert: Expert, visited) -> None:
    """With even logits, 17 actions are drawn about equally often: 4-sigma bands, P < 1e-3."""
    _, trace, _, likeliest = visited
    tutor, memory = Tutor(expert, temperature=1e9), Tutor(expert).memory(ROWS)
    counts = np.zeros(17)
    for turn in range(40):
        start = expert.runner.make_many(turn * ROWS + np.arange(ROWS))
        _, actions, logits = tutor.follow(memory, start, trace.observations, trace.valid)
        _, again, _ = tutor.follow(memory, start, trace.observations, trace.valid)
        np.testing.assert_array_equal(actions, again)
        counts += np.bincount(np.asarray(actions).ravel(), minlength=17)
    np.testing.assert_array_equal(np.asarray(logits).argmax(-1), likeliest)
    total = counts.sum()
    spread = (total * (1 / 17) * (16 / 17)) ** 0.5
    assert np.abs(counts - total / 17).max() < 4 * spread
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Tutor(expert, temperature=-1)
