"""What a planner can be told to condition its plans on, through its own arguments."""

import copy

import gin
import numpy as np
import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.base_agent import PlanRequest
from remdm.conditioning import hazards, joined, usable_start
from remdm.continuation import RunningPlans
from remdm.diffusion.guidance import Guidance
from remdm.diffusion.scorers import LogProbScorer
from remdm.diffusion.warm_start import WarmStart
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.rollout import evaluate_policy
from remdm.maps import NUM_ACTIONS, Action, Terrain, map_observation_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.ego import EgoDenoiser
from remdm.tokens import end_token, mask_token
from tests.nets.states import random_states
from tests.test_anchors import HORIZON, SPEC, TINY, generator, planner, windows

MASK, END = mask_token(NUM_ACTIONS), end_token(NUM_ACTIONS)
MAZE = "Gridworld-Maze-9x9-v0"


def walking(count, lengths, seed=0):
    """Episodes in the middle of random plans, of which `lengths` actions have run."""
    rng, running = np.random.default_rng(seed), RunningPlans(count, HORIZON, NUM_ACTIONS)
    rows, plans = np.arange(count), rng.integers(NUM_ACTIONS, size=(count, HORIZON))
    planned = np.flatnonzero(lengths)
    running.planned(planned, plans[planned], np.full((len(planned), HORIZON), -0.5))
    running.ran(rows, plans, lengths)
    return running.continuation(rows)


# Guidance


def test_guidance_of_scale_one_changes_nothing_and_more_changes_plans():
    plain = planner("none")
    states = random_states(32)
    tokens = plain.plan(states, generator()).tokens
    for scale, same in ((1.0, True), (4.0, False)):
        gin.bind_parameter("Guidance.scale", scale)
        guided = planner("none", guidance_type=Guidance, condition_dropout=0.1)
        assert torch.equal(guided.plan(states, generator()).tokens, tokens) == same


def test_plans_without_a_condition_do_not_depend_on_the_observation():
    """Scale 0 is the unconditional net: the same key gives the same plan in any state."""
    gin.bind_parameter("Guidance.scale", 0.0)
    agent = planner("none", guidance_type=Guidance, condition_dropout=0.1)
    plans = [agent.plan(random_states(8, seed), generator()).tokens for seed in (0, 1)]
    assert torch.equal(*plans)


class Kept(EgoDenoiser):
    """Keeps the encoding it was asked with."""

    def denoise(self, context, zt, t=None):
        self.shown = context
        return super().denoise(context, zt, t)


def test_condition_dropout_zeroes_the_encoding_of_its_share():
    """1600 states, share 0.3 within 5 standard deviations (fails 6e-7 of times)."""
    agent = planner("none", denoiser_type=Kept, condition_dropout=0.3)
    batch, dropped, source = windows(), 0, generator()
    for _ in range(25):
        agent.loss(batch, source)
        zero = [~part.flatten(1).any(1) for part in agent.denoiser.shown]
        assert all(torch.equal(zero[0], part) for part in zero)
        dropped += int(zero[0].sum())
    assert abs(dropped / 1600 - 0.3) < 5 * (0.3 * 0.7 / 1600) ** 0.5


# Best of several candidates


def test_best_of_eight_is_likelier_than_a_single_plan():
    """64 states; the mean log-probability of the best of 8 is above that of single draws."""
    states = random_states(64)
    plain = planner("none").plan(states, generator())
    best = planner("none", candidates=8, scorer_type=LogProbScorer).plan(states, generator())
    assert best.tokens.shape == plain.tokens.shape
    window = slice(5)
    assert best.token_log_probs[:, window].sum() > plain.token_log_probs[:, window].sum()


def test_greedy_plans_and_those_for_collecting_have_no_candidates():
    plain, chosen = planner("none"), planner("none", candidates=8, scorer_type=LogProbScorer)
    states = random_states(16)
    for option in ("greedy", "collecting"):
        plans = [a.plan(states, generator(), **{option: True}).tokens for a in (plain, chosen)]
        assert torch.equal(*plans)


# Warm start


def test_what_may_not_begin_the_next_plan_is_left_out():
    previous = torch.tensor([[END, END, MASK], [3, 4, END], [3, 4, MASK], [MASK, MASK, MASK]])
    allowed = torch.ones(4, NUM_ACTIONS + 1, dtype=torch.bool)
    allowed[2, 3] = False
    wanted = [[MASK] * 3, [3, 4, END], [MASK, 4, MASK], [MASK] * 3]
    assert usable_start(previous, allowed, NUM_ACTIONS).tolist() == wanted
    assert usable_start(previous, None, NUM_ACTIONS)[2].tolist() == [3, 4, MASK]


def test_warm_start_keeps_the_rest_of_the_plan_and_saves_calls():
    """At time 1e-9 nearly all is kept: the plan goes on, and its open end is all that is asked."""
    gin.bind_parameter("WarmStart.time", 1e-9)
    agent = planner("none", warm_start_type=WarmStart)
    assert agent.reads_continuation
    carried = walking(16, np.full(16, 3))
    states = random_states(16)
    warm = agent.plan(states, generator(), continuation=carried)
    kept = torch.from_numpy(carried.previous)
    assert torch.equal(warm.tokens[:, : HORIZON - 3], kept[:, : HORIZON - 3])
    cold = agent.plan(states, generator())
    assert warm.nfe.sum() < cold.nfe.sum()


def test_fresh_rows_start_a_grid_at_its_beginning_beside_rows_in_the_middle():
    """4 calls from all MASK, 2 from half a plan at time 0.5, in one batch."""
    gin.bind_parameter("WarmStart.time", 0.5)
    agent = planner(
        "none",
        warm_start_type=WarmStart,
        sampler="paper_mdlm",
        sampler_options={"num_denoise_steps": 4},
    )
    lengths = np.array([0, 2, 0, 2, 2, 0])
    sample = agent.plan(random_states(6), generator(), continuation=walking(6, lengths))
    assert (sample.nfe[lengths == 0] > sample.nfe[lengths == 2].max()).all()
    assert (sample.tokens != MASK).all()
    assert (sample.nfe[lengths == 2] <= 2).all()


def test_parts_of_a_batch_are_joined_in_its_order():
    agent, states = planner("none"), random_states(5)
    whole = agent.plan(states, generator())
    rows = [torch.tensor([4, 1]), torch.tensor([0, 2, 3])]
    parts = [type(whole)(*(x[r] for x in fields_of(whole))) for r in rows]
    assert all(map(torch.equal, fields_of(joined(parts, rows)), fields_of(whole)))


def fields_of(sample):
    return sample.tokens, sample.lengths, sample.log_prob, sample.nfe, sample.token_log_probs


def test_part_of_a_request_holds_the_rows_asked_for():
    states = random_states(4)
    made = {k: torch.from_numpy(v) for k, v in states.items()}
    off = InferencePrecision("off", torch.device("cpu"))
    request = PlanRequest(
        states, made, 4, torch.device("cpu"), off, torch.arange(4.0)[:, None, None],
        torch.eye(4, NUM_ACTIONS + 1).bool(), False, True, walking(4, np.arange(4)),
    )  # fmt: skip
    part = request.part(torch.tensor([3, 1]))
    assert (part.count, part.collecting) == (2, True)
    assert part.heat.flatten().tolist() == [3, 1]
    assert part.continuation.num_executed.tolist() == [3, 1]
    for key, value in states.items():
        assert np.array_equal(np.asarray(part.observations[key]), value[[3, 1]])
        assert torch.equal(part.tensors[key], made[key][[3, 1]])


# Physics


def walled_in():
    """A 5x5 map: walls around one row of floor, in which the agent stands at the left end."""
    states = {k: np.zeros((1, *s.shape), s.dtype) for k, s in map_observation_spec(5, 5).items()}
    states["terrain"][:] = Terrain.WALL
    states["terrain"][0, 2, 1:4] = Terrain.FLOOR
    states["position"][0] = 2, 1
    return states


def test_hazards_are_found_where_the_agent_stands_behind_a_prefix():
    north, east = int(Action.NORTH), int(Action.EAST)
    tokens = torch.tensor([[north, east, east, east, north, END]])
    cpu = torch.device("cpu")
    plain = hazards(walled_in(), None, cpu, NUM_ACTIONS)(tokens, None)
    assert plain.tolist() == [[True, False, False, True, True, False]]
    offsets = torch.tensor([2])
    behind = hazards(walled_in(), offsets, cpu, NUM_ACTIONS)(tokens, torch.tensor([0]))
    # The first two have been executed: they brought the agent to where it stands.
    assert behind.tolist() == [[False, False, False, False, True, False]]


def test_doubted_moves_are_planned_less_often():
    """400 plans of a fresh net in a corridor; walls are entered less often when doubted.

    The doubts only matter where a doubted token can be decided later or masked again.
    """
    states = {k: v.repeat(400, 0) for k, v in walled_in().items()}
    count = hazards(states, None, torch.device("cpu"), NUM_ACTIONS)
    bad = []
    for physics in (False, True):
        torch.manual_seed(0)
        gin.parse_config(TINY)
        agent = DiffusionPlannerAgent(
            map_observation_spec(5, 5), NUM_ACTIONS, physics_penalty=physics,
            sampler="paper_conf", sampler_options={"num_denoise_steps": 16, "eta": 1.0},
        ).eval()  # fmt: skip
        tokens = agent.plan(states, generator()).tokens
        bad.append(count(tokens, None).float().mean().item())
    assert bad[1] < bad[0]


def test_physics_need_the_map_when_planning():
    states = walled_in()
    del states["position"]
    with pytest.raises(ValueError, match=r"lacks position.*physics_penalty = False"):
        hazards(states, None, torch.device("cpu"), NUM_ACTIONS)


# Compiled calls


def test_plans_go_on_uncompiled_where_the_compiler_gave_up():
    """`tests/nets/test_compiled.py` compiles; here only the agent's use of it is checked."""
    plain, compiled = planner("none"), planner("none", compile_denoise=True)
    compiled.compiled.failure = "no compiler"
    states = random_states(8)
    plans = [agent.plan(states, generator()).tokens for agent in (plain, compiled)]
    assert torch.equal(*plans)
    assert plain.state_dict().keys() == compiled.state_dict().keys()


# All together, and what does not go together


def test_episodes_are_played_with_everything_that_goes_together():
    agent = planner(
        "none", guidance_type=Guidance, condition_dropout=0.1, candidates=2,
        scorer_type=LogProbScorer, warm_start_type=WarmStart, physics_penalty=True,
        action_constraints=True, loop_breaker=True,
    )  # fmt: skip
    agent = copy.deepcopy(agent)  # as training does for the policy that acts

    def play():
        return evaluate_policy(
            AgentPolicy(agent, generator(1)), [MAZE], episodes=3, first_seed=0,
            make_vec_env=make_vec_env, rows=2, max_episode_steps=20,
        )  # fmt: skip

    assert play() == play()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_dropout": 1.0}, r"DiffusionPlannerAgent\.condition_dropout"),
        ({"guidance_type": Guidance}, r"condition_dropout = 0\.1"),
        ({"candidates": 0}, r"DiffusionPlannerAgent\.candidates"),
        ({"candidates": 4}, r"DiffusionPlannerAgent\.scorer_type"),
        ({"scorer_type": LogProbScorer}, r"LogProbScorer.*together"),
        (
            {"warm_start_type": WarmStart, "inpaint_anchor": "legacy"},
            r"keeps it where it began.*warm_start_type = None",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_gin_name(options, message):
    with pytest.raises(ValueError, match=message):
        DiffusionPlannerAgent(SPEC, NUM_ACTIONS, **options)


def test_physics_are_refused_without_a_map_or_its_actions():
    with pytest.raises(ValueError, match=r"got .* 5 actions.*physics_penalty = False"):
        DiffusionPlannerAgent(SPEC, 5, physics_penalty=True)
