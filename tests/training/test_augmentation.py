from dataclasses import replace

import gin
import numpy as np
import pytest

from remdm.maps import DELTAS, NUM_ACTIONS, Action, Terrain
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.tokens import plan_lengths
from remdm.training.augmentation import MemoryAugmentation, close, explore_anew, mirror
from tests.oracles.drawn import IMPASSABLE, Remembered, drawn, random_maps, words
from tests.training.remembered import (
    DOORS,
    MAZE,
    PLAN_HORIZON,
    copied,
    noisy_states,
    same,
    window,
)

PROBABILITIES = ("explore_probability", "close_probability", "flip_probability", "stitch_share")
OFF = dict.fromkeys(PROBABILITIES, 0.0)


@pytest.fixture(scope="module")
def states():
    """300 memories of two rooms with a door between them."""
    found = noisy_states(DOORS, 300)
    for array in found.values():
        array.flags.writeable = False
    return found


@pytest.fixture
def batch(states):
    return window(copied(states))


def all_rows(observations):
    return np.arange(len(observations["position"]))


def labels(observations):
    return MemoryOracle().label(observations, PLAN_HORIZON)[0]


def augmentation(**probabilities):
    return MemoryAugmentation(MemoryOracle(), **{**OFF, **probabilities})


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_twice_changes_nothing(states, axis):
    twice = copied(states)
    mirror(twice, all_rows(states), axis)
    assert not same(twice, states)
    mirror(twice, all_rows(states), axis)
    assert same(twice, states)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_memory_has_mirrored_plans(states, axis):
    mirrored = copied(states)
    mirror(mirrored, all_rows(states), axis)
    plans, before = labels(mirrored), labels(states)
    # Between ways of equal length the order of directions decides, so moves may differ.
    assert np.array_equal(plan_lengths(plans, NUM_ACTIONS), plan_lengths(before, NUM_ACTIONS))
    for i in range(len(plans)):
        end, rest = Remembered(mirrored, i).walk(plans[i])
        end_before, rest_before = Remembered(states, i).walk(before[i])
        assert len(rest) == len(rest_before)
        assert Remembered(mirrored, i).at(end) == Remembered(states, i).at(end_before)


def test_the_only_way_is_mirrored_move_by_move():
    corridor = drawn("""
WWWWWWW
W@,WW>W
WWW,,WW
WWWWWWW
""")
    assert words(labels(corridor)[0]) == "E SE E NE"
    mirror(corridor, np.array([0]), 0)
    assert words(labels(corridor)[0]) == "E NE E SE"
    mirror(corridor, np.array([0]), 1)
    assert words(labels(corridor)[0]) == "W NW W SW"


def test_blocked_ways_move_with_the_map():
    here = drawn("WWWWW\nW@,,W\nW,,,W\nWWWWW")
    here["blocked"][0, 1, 1] = 1 << Action.NORTHEAST | 1 << Action.SOUTH
    mirror(here, np.array([0]), 1)
    assert here["position"][0].tolist() == [1, 3]
    assert here["blocked"][0, 1, 3] == 1 << Action.NORTHWEST | 1 << Action.SOUTH
    mirror(here, np.array([0]), 0)
    assert here["position"][0].tolist() == [2, 3]
    assert here["blocked"][0, 2, 3] == 1 << Action.SOUTHWEST | 1 << Action.NORTH
    assert np.count_nonzero(here["blocked"]) == 1


def test_only_the_rows_asked_for_are_mirrored(states):
    some = copied(states)
    rows = np.array([3, 7, 200])
    mirror(some, rows, 1)
    others = np.setdiff1d(all_rows(states), rows)
    assert same({k: v[others] for k, v in some.items()}, {k: v[others] for k, v in states.items()})
    assert not np.array_equal(some["terrain"][rows], states["terrain"][rows])


def frontier(observations, index):
    """Cells worth going to, wherever the agent stands; the stairs are left out."""
    world = Remembered(observations, index)
    cells = map(tuple, np.argwhere(world.visited == 0).tolist())
    outside = {*IMPASSABLE, Terrain.GOAL}
    return {c for c in cells if world.at(c) not in outside and world.is_frontier(c)}


def test_closing_hides_the_stairs_and_keeps_one_place_of_the_frontier_open():
    maps = random_maps(300, 0, goals=True)
    maps["step"][:] = np.arange(300) % 50
    closed = copied(maps)
    close(closed, all_rows(maps), np.random.default_rng(7))
    counts = []
    for i in range(len(maps["step"])):
        before, after = frontier(maps, i), frontier(closed, i)
        stairs = maps["terrain"][i] == Terrain.GOAL
        assert after <= before
        assert bool(after) == bool(before)
        assert (closed["terrain"][i][stairs] == Terrain.FLOOR).all()
        assert (closed["visited"][i][stairs] > 0).all()
        assert np.array_equal(closed["terrain"][i][~stairs], maps["terrain"][i][~stairs])
        changed = closed["visited"][i] != maps["visited"][i]
        assert not (maps["visited"][i][changed & ~stairs]).any()
        assert (closed["visited"][i][changed] <= 1 + maps["step"][i]).all()
        counts.append((len(before), len(after)))
    kept = [after / before for before, after in counts if before > 10]
    # The share that is closed is uniform in [0, 1]; nearly all and nearly none both come up.
    assert min(kept) < 0.3
    assert max(kept) > 0.9
    for key in ("searched", "blocked", "position", "step", "glyphs"):
        assert np.array_equal(closed[key], maps[key])


def test_closing_no_rows_is_nothing(states):
    untouched = copied(states)
    close(untouched, np.zeros(0, np.int64), np.random.default_rng(0))
    assert same(untouched, states)


def explored(observations, seed, *, rows=None, stitch_share=0.0):
    result = copied(observations)
    rows = all_rows(result) if rows is None else rows
    explore_anew(result, rows, stitch_share, np.random.default_rng(seed))
    return result


@pytest.mark.parametrize("stitch_share", [0.0, 1.0])
def test_an_explored_memory_is_one_that_an_episode_could_have(states, stitch_share):
    imagined = explored(states, 0, stitch_share=stitch_share)
    for i, step in enumerate(imagined["step"].tolist()):
        world = Remembered(imagined, i)
        been = np.argwhere(world.visited > 0).tolist()
        assert all(world.at(tuple(cell)) not in IMPASSABLE for cell in been)
        assert world.visited[world.start] == world.visited.max() == step + 1
    sizes = (imagined["terrain"] != Terrain.UNKNOWN).sum((1, 2))
    assert sizes.min() < 15
    assert sizes.max() > 60
    assert {Terrain.LOCKED_DOOR, Terrain.OPEN_DOOR} <= set(imagined["terrain"].ravel().tolist())


def test_an_explored_memory_knows_nothing_that_its_source_does_not(states):
    doors = {Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR, Terrain.OPEN_DOOR, Terrain.DOORWAY}
    for index in (40, 170, 290):
        # With one map in the batch there is one that can be explored.
        one = {k: np.repeat(v[index : index + 1], 20, 0) for k, v in states.items()}
        source = one["terrain"][0]
        for terrain in explored(one, index)["terrain"]:
            other = (terrain != Terrain.UNKNOWN) & (terrain != source)
            for before, after in zip(source[other].tolist(), terrain[other].tolist(), strict=True):
                hidden_stairs = (before, after) == (Terrain.GOAL, Terrain.FLOOR)
                assert hidden_stairs or {before, after} <= doors


def test_a_lit_room_is_explored_as_a_dark_one():
    room = drawn("""
WWWWWWWWWW
W@.......W
W........W
W........W
W........W
W........W
WWWWWWWWWW
""")
    many = explored({k: np.repeat(v, 60, 0) for k, v in room.items()}, 0)
    for i in range(60):
        been = np.argwhere(many["visited"][i] > 0)
        for cell in np.argwhere(many["terrain"][i] != Terrain.UNKNOWN):
            assert np.abs(been - cell).max(1).min() <= 1


def test_a_map_without_a_place_to_stand_is_left_alone(states):
    nothing = {k: np.zeros_like(v[:4]) for k, v in states.items()}
    assert same(explored(nothing, 0), nothing)


def test_only_the_rows_asked_for_are_explored(states):
    rows = np.array([0, 5, 299])
    some = explored(states, 1, rows=rows)
    others = np.setdiff1d(all_rows(states), rows)
    assert same({k: v[others] for k, v in some.items()}, {k: v[others] for k, v in states.items()})


def test_the_generator_alone_decides(states):
    assert same(explored(states, 3, stitch_share=0.5), explored(states, 3, stitch_share=0.5))
    assert not same(explored(states, 3), explored(states, 4))
    results = []
    for _ in range(2):
        made = MemoryAugmentation(MemoryOracle())(window(copied(states)), np.random.default_rng(11))
        results.append(made)
    assert same(results[0].observations, results[1].observations)
    assert np.array_equal(results[0].plans, results[1].plans)


def test_with_all_probabilities_zero_nothing_changes(states, batch):
    untouched = augmentation()(batch, np.random.default_rng(0))
    assert same(untouched.observations, states)
    assert np.array_equal(untouched.plans, batch.plans)
    assert np.array_equal(untouched.weights, batch.weights)


@pytest.mark.parametrize("name", ["explore_probability", "close_probability", "flip_probability"])
def test_what_is_altered_is_labelled_anew_and_the_rest_keeps_its_labels(states, batch, name):
    # Labels that no oracle would give show what has been labelled anew.
    plans = np.full_like(batch.plans, Action.WAIT)
    marked = replace(batch, plans=plans, weights=np.full_like(batch.weights, 0.5))
    made = augmentation(**{name: 0.3})(marked, np.random.default_rng(0))
    count = len(made.weights)
    kept = np.flatnonzero((made.plans == Action.WAIT).all(1))
    # 0.3 of 300, for flips 1 - 0.7 ** 2 of them; five standard deviations are 43.
    share = 1 - 0.7**2 if name == "flip_probability" else 0.3
    assert abs(count - len(kept) - share * count) < 43
    assert (made.weights[kept] == 0.5).all()
    for key, array in made.observations.items():
        assert np.array_equal(array[kept], states[key][kept])
    new = np.setdiff1d(np.arange(count), kept)
    assert (made.weights[new] == 1.0).all()
    assert np.array_equal(made.plans[new], labels(made.observations)[new])


def test_everything_at_once_works_for_a_batch_of_one_and_for_arrays_on_disk(states):
    always = augmentation(**dict.fromkeys(PROBABILITIES, 1.0))
    rng = np.random.default_rng(0)
    for i in range(40):
        one = window({k: v[i : i + 1] for k, v in states.items()})
        assert not one.observations["terrain"].flags.writeable
        made = always(one, rng)
        assert np.array_equal(made.plans, labels(made.observations))


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("explore_probability", None),
        ("exhaust_probability", None),
        ("close_probability", ()),
        ("flip", (0, 1)),
    ],
)
def test_past_actions_are_altered_with_the_memory_they_led_to(batch, name, axes):
    """Nobody walked where the agent is put; what is mirrored was walked in the mirror."""
    past = np.tile(np.arange(NUM_ACTIONS + 1, dtype=np.int8), (len(batch.plans), 1))
    if name == "flip":
        name = "flip_probability"
    made = augmentation(**{name: 1.0})(replace(batch, past=past.copy()), np.random.default_rng(0))
    if axes is None:
        assert (made.past == NUM_ACTIONS).all()  # MASK
        return
    table = np.arange(NUM_ACTIONS + 1)
    for axis in axes:
        sign = np.where(np.arange(2) == axis, -1, 1)
        for d in range(8):
            table[d] = np.flatnonzero((DELTAS * sign == DELTAS[table[d]]).all(1))[0]
    assert (made.past == table).all()


def test_small_batches_in_which_nothing_is_drawn_are_fine(states):
    rng = np.random.default_rng(0)
    for i in range(60):
        few = window({k: v[i : i + 2] for k, v in states.items()})
        made = MemoryAugmentation(MemoryOracle())(few, rng)
        assert np.array_equal(made.plans, labels(made.observations))


def test_memories_of_mazes_become_more_various():
    mazes = noisy_states(MAZE, 100)
    made = MemoryAugmentation(MemoryOracle())(window(copied(mazes)), np.random.default_rng(0))
    before = {plan.tobytes() for plan in labels(mazes)}
    after = {plan.tobytes() for plan in made.plans}
    assert len(after) > len(before)


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range_is_refused_by_its_gin_name(name, value):
    with pytest.raises(ValueError, match=rf"got {value}; set MemoryAugmentation\.{name}"):
        MemoryAugmentation(MemoryOracle(), **{name: value})


def test_probabilities_come_from_gin_and_the_oracle_does_not():
    gin.parse_config("MemoryAugmentation.flip_probability = 0.125")
    assert MemoryAugmentation(MemoryOracle()).flip_probability == 0.125
    with pytest.raises(ValueError, match="oracle"):
        gin.parse_config("MemoryAugmentation.oracle = 1")
