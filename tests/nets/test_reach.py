"""The encoder that sees how far things are: distances, gradients, and what it shows."""

from functools import partial

import numpy as np
import pytest
import torch

from remdm.maps import DELTAS, NUM_DIRECTIONS, Action, Terrain, map_observation_spec
from remdm.nets.ego import EgoDenoiser
from remdm.nets.reach import ReachEncoder, terrain_beside
from remdm.nets.ways import MARGIN, cheapest_ways, first_steps
from remdm.ranks import ALONE
from tests.nets.states import nothing_to_explore, random_states, tensors

SHAPE = (3, 2, 7, 9)  # states, fields, rows, columns
SPEC = map_observation_spec(21, 79)


def random_costs(seed: int, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Source, enter, slant, wary, blocked, position; no two ways cost the same."""
    generator = torch.Generator().manual_seed(seed)
    batch, fields, height, width = SHAPE

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    blocked = torch.randint(0, 256, (batch, height, width), generator=generator)
    blocked = (blocked * (draw(batch, height, width) < 0.3)).to(torch.uint8)
    rows = torch.randint(0, height, (batch, 1), generator=generator)
    columns = torch.randint(0, width, (batch, 1), generator=generator)
    position = torch.cat([rows, columns], 1).to(torch.uint8)
    costs = (draw(*SHAPE) * 30, draw(*SHAPE) * 3, draw(*SHAPE) * 0.5, draw(fields) * 4)
    return *costs, blocked, position


def exact(*costs: torch.Tensor) -> torch.Tensor:
    return cheapest_ways(*costs).distance


def by_iteration(
    source: torch.Tensor,
    enter: torch.Tensor,
    slant: torch.Tensor,
    wary: torch.Tensor,
    blocked: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """The same by value iteration until nothing can change, with torch's own gradients."""
    height, width = source.shape[2:]
    far = partial(torch.nn.functional.pad, pad=(1, 1, 1, 1), value=1e6)
    value = source
    for _ in range(height * width):
        ways = [source]
        for d, (r, c) in enumerate(DELTAS.tolist()):
            there = slice(1 + r, 1 + r + height), slice(1 + c, 1 + c + width)
            way = far(value + enter)[:, :, there[0], there[1]]
            if d >= 4:
                way = way + slant + far(slant)[:, :, there[0], there[1]]
            failed = ((blocked >> d) & 1)[:, None]
            ways.append(way + failed * wary[:, None, None])
        value = torch.stack(ways).amin(0)
    rows = torch.arange(len(source))
    here = value[rows, :, position[:, 0].long(), position[:, 1].long()]
    return torch.minimum(value, here[:, :, None, None] + MARGIN)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_the_fixed_point_of_value_iteration(seed):
    costs = random_costs(seed)
    torch.testing.assert_close(exact(*costs), by_iteration(*costs))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_value_iteration(seed):
    found = []
    for method in (exact, by_iteration):
        *learned, blocked, position = random_costs(seed)
        learned = [x.requires_grad_() for x in learned]
        value = method(*learned, blocked, position)
        weights = torch.rand(SHAPE, generator=torch.Generator().manual_seed(9))
        found.append(torch.autograd.grad((value * weights).sum(), learned))
    for one, other in zip(*found, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other)


def test_a_way_of_many_bends_is_found_to_its_end():
    wall, height, width = 1000.0, 21, 79
    enter = torch.full((1, 1, height, width), wall)
    enter[..., ::2, :] = 1.0  # a snake: open rows, joined at alternating ends
    enter[..., 1::4, -1] = 1.0
    enter[..., 3::4, 0] = 1.0
    source = torch.full_like(enter, 1e5)
    source[..., -1, -1] = 0.0
    nothing = torch.full_like(enter, wall)  # no corner is cut
    blocked = torch.zeros(1, height, width, dtype=torch.uint8)
    position = torch.zeros(1, 2, dtype=torch.uint8)
    found = exact(source, enter, nothing, torch.zeros(1), blocked, position)
    # 11 rows of 78 steps and 10 pairs of steps down; the last open row is walked from its left end.
    assert found[0, 0, 0, 0] == 11 * 78 + 20


@pytest.mark.parametrize("seed", range(3))
def test_the_first_steps_cost_what_the_way_costs(seed):
    source, enter, slant, wary, blocked, position = random_costs(seed)
    found = cheapest_ways(source, enter, slant, wary, blocked, position)
    batch, fields, height, width = SHAPE
    steps, cells = first_steps(found.parent, position, width, 2 * height * width)
    for b, f in np.ndindex(batch, fields):
        row, column = position[b].tolist()
        cost = 0.0
        for step, cell in zip(steps[b, f].tolist(), cells[b, f].tolist(), strict=True):
            if step < NUM_DIRECTIONS:
                cost += float(wary[f]) * (int(blocked[b, row, column]) >> step & 1)
                cost += float(slant[b, f, row, column]) * (step >= 4)
                row, column = row + int(DELTAS[step, 0]), column + int(DELTAS[step, 1])
                cost += float(slant[b, f, row, column]) * (step >= 4)
                cost += float(enter[b, f, row, column])
            assert cell == row * width + column
        assert step == NUM_DIRECTIONS  # it has ended
        cost += float(source[b, f, row, column])
        row, column = position[b].tolist()
        assert cost == pytest.approx(float(found.distance[b, f, row, column]), rel=1e-5)


def long_corridor() -> dict[str, torch.Tensor]:
    """76 cells in a row, all visited; the agent is near the left end."""
    states = tensors(random_states(1, seed=3))
    for key in ("terrain", "visited", "searched", "blocked"):
        states[key][:] = 0
    states["terrain"][0, 10, 2:78] = Terrain.FLOOR
    states["visited"][0, 10, 2:78] = 1
    states["position"][0] = torch.tensor([10, 4])
    return states


@torch.inference_mode()
def test_what_lies_far_beyond_the_crop_changes_the_agents_token():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    before = encoder(states)
    states["visited"][0, 10, 77] = 0
    after = encoder(states)
    assert (before[0, -1] - after[0, -1]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_step_of_the_way_has_a_token_of_its_own_that_says_what_it_enters():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32, way_tokens=5)
    states = long_corridor()
    states["visited"][0, 10, 7] = 0  # where the way ends, three steps to the east
    before = encoder(states)[0, -5:]
    told = before - encoder.way_positions
    torch.testing.assert_close(told[0], told[1])
    torch.testing.assert_close(told[3], told[4])  # the end, again and again
    assert (told[2] - told[3]).abs().max() > 1e-3
    states["terrain"][0, 10, 6] = Terrain.OPEN_DOOR
    changed = (encoder(states)[0, -5:] - before).abs().amax(1) > 1e-3
    assert changed.tolist() == [False, True, False, False, False]


def test_without_way_tokens_there_is_one_token_more_than_views_have():
    states = tensors(random_states(2))
    with_them, without = (ReachEncoder(SPEC, 32, way_tokens=count) for count in (16, 0))
    assert with_them(states).shape[1] == with_them.num_tokens == without.num_tokens + 16
    assert without(states).shape[1] == without.num_tokens


def test_a_negative_number_of_way_tokens_is_refused():
    with pytest.raises(ValueError, match=r"ReachEncoder\.way_tokens must be at least 0, got -1"):
        ReachEncoder(SPEC, 32, way_tokens=-1)


def plan_of(action: Action) -> torch.Tensor:
    return torch.tensor([[action, 13, 13, 13]])


def test_the_way_loss_is_lower_for_the_way_that_leads_on():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    states["visited"][0, 10, 40] = 0
    seen = encoder.look(states)[1:]
    losses = {
        action: encoder.auxiliary_loss(seen, states, plan_of(action), torch.ones(1), ALONE)[
            "way_loss"
        ]
        for action in (Action.EAST, Action.WEST)
    }
    assert losses[Action.EAST] < 0.1 < 3 < losses[Action.WEST]


def test_plans_that_begin_with_no_move_and_labels_of_weight_zero_have_no_way_loss():
    encoder = ReachEncoder(SPEC, 32)
    states = tensors(random_states(2))
    seen = encoder.look(states)[1:]
    plans = torch.cat([plan_of(Action.SEARCH), plan_of(Action.EAST)])
    losses = encoder.auxiliary_loss(seen, states, plans, torch.tensor([1.0, 0.0]), ALONE)
    assert losses["way_loss"] == 0


def test_both_losses_can_be_switched_off():
    encoder = ReachEncoder(SPEC, 32, way_loss_weight=0.0, end_loss_weight=0.0)
    states = tensors(random_states(2))
    seen = encoder.look(states)[1:]
    assert encoder.auxiliary_loss(seen, states, plan_of(Action.EAST), torch.ones(2), ALONE) == {}


def test_the_end_loss_is_lower_for_the_place_that_is_worth_a_way():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    states["visited"][0, 10, 6] = 0  # two steps to the east
    seen = encoder.look(states)[1:]
    losses = []
    for plan in ([Action.EAST, Action.EAST, 12, 12], [Action.EAST, 12, 12, 12]):
        found = encoder.auxiliary_loss(seen, states, torch.tensor([plan]), torch.ones(1), ALONE)
        losses.append(found["end_loss"])
    assert losses[0] < 0.01 < 3 < losses[1]


def test_the_end_loss_teaches_places_that_no_cheapest_way_leads_to():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    states["visited"][0, 10, 5] = 0  # the nearest end of a way
    states["terrain"][0, 10, 8] = Terrain.LOCKED_DOOR
    plan = torch.tensor([[Action.EAST] * 3 + [Action.KICK, Action.EAST, 12]])
    kinds = {}
    for name in ("way_loss", "end_loss"):
        losses = encoder.auxiliary_loss(
            encoder.look(states)[1:], states, plan, torch.ones(1), ALONE
        )
        (gradient,) = torch.autograd.grad(losses[name], encoder.kinds)
        kinds[name] = gradient[: encoder.fields, Terrain.LOCKED_DOOR].abs().sum()
    assert kinds["way_loss"] == 0 < kinds["end_loss"]


@pytest.mark.parametrize(
    ("door", "distance", "leads"),
    [
        (Terrain.CLOSED_DOOR, 10, Action.WEST),
        (Terrain.CLOSED_DOOR, 8, Action.EAST),
        (Terrain.LOCKED_DOOR, 8, Action.WEST),
        (Terrain.LOCKED_DOOR, 2, Action.EAST),
    ],
)
def test_an_informed_encoder_weighs_shut_doors_against_the_frontier(door, distance, leads):
    """The frontier is 9 steps to the west; a locked door counts 6 more steps, as for the oracle."""
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    states["terrain"][0, 9, 2:78] = states["terrain"][0, 11, 2:78] = Terrain.WALL
    states["position"][0] = torch.tensor([10, 30])
    states["visited"][0, 10, 21] = 0
    states["terrain"][0, 9, 21] = Terrain.UNKNOWN
    states["terrain"][0, 10, 30 + distance] = door
    states["terrain"][0, 10, 31 + distance :] = Terrain.WALL
    worse = encoder.look(states)[1]
    assert bool((worse[0].argmin(-1) == leads).all())


def test_what_the_way_enters_next_changes_the_agents_token():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = long_corridor()
    states["terrain"][0, 10, 5] = Terrain.CLOSED_DOOR
    beside = terrain_beside(states)
    assert beside[0, Action.EAST].argmax() == Terrain.CLOSED_DOOR
    assert beside[0, Action.WEST].argmax() == Terrain.FLOOR
    assert beside[0, Action.NORTH].argmax() == Terrain.UNKNOWN
    assert encoder.next_steps.in_features == encoder.fields * (8 + 8 + 13 + 1)


def test_planning_takes_the_tokens_alone():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32)
    states = tensors(random_states(2))
    learning = encoder.look(states)
    with torch.inference_mode():
        planning = encoder.look(states)
    assert len(planning) == 1 < len(learning)
    assert torch.equal(planning[0], learning[0])


def test_an_informed_encoder_sees_farther_than_one_that_knows_no_kinds():
    states = long_corridor()
    states["terrain"][0, 9, 2:78] = states["terrain"][0, 11, 2:78] = Terrain.WALL
    states["visited"][0, 10, 77] = 0
    for informed in (True, False):
        torch.manual_seed(0)
        encoder = ReachEncoder(SPEC, 32, informed=informed)
        worse = encoder.look(states)[1]
        assert bool((worse[0].argmin(-1) == Action.EAST).all()) == informed


@torch.inference_mode()
def test_every_state_is_encoded_as_if_alone():
    torch.manual_seed(0)
    encoder = ReachEncoder(SPEC, 32).eval()
    states = tensors(random_states(5))
    together = encoder(states)
    assert together.shape == (5, encoder.num_tokens, 32)
    alone = [encoder({k: v[i : i + 1] for k, v in states.items()}) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert torch.equal(together, encoder(states))


def test_every_weight_learns_from_plans():
    torch.manual_seed(0)
    net = EgoDenoiser(SPEC, 12, 8, encoder_type=ReachEncoder)
    states = random_states(4)
    nothing_to_explore(states, 3)
    states = tensors(states)
    plans = torch.from_numpy(np.random.default_rng(0).integers(0, 13, (4, 8)))
    context = net.encode(states)
    loss = net.denoise(context, plans, 0.5).square().sum()
    extra = net.auxiliary_loss(context, states, plans, torch.ones(4))
    (loss + sum(extra.values())).backward()
    silent = [n for n, p in net.encoder.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []
