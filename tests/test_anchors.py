"""Anchors: prefixes of executed actions, in training and in planning."""

import gin
import numpy as np
import pytest
import torch

from remdm import config
from remdm.agent import DiffusionPlannerAgent
from remdm.anchors import (
    after_prefix,
    behind_prefix,
    token_mask_behind,
    with_past,
    without_prefix,
)
from remdm.continuation import RunningPlans
from remdm.data.batch import Batch, Window
from remdm.diffusion import PlanSample
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.recording import record_episode
from remdm.evaluation.rollout import evaluate_policy
from remdm.experiment import Experiment
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.denoiser import OFFSET_KEY
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser
from remdm.tokens import end_token, mask_token
from tests.nets.states import random_states, tensors
from tests.tiny_runs import assert_same_run, tiny_bindings

SPEC = map_observation_spec(21, 79)
MASK, END, HORIZON = mask_token(NUM_ACTIONS), end_token(NUM_ACTIONS), 8
MAZE = "Gridworld-Maze-9x9-v0"
TINY = """
EgoEncoder.crop_size = 9
EgoEncoder.coarse_rows = 3
EgoEncoder.coarse_columns = 3
EgoDenoiser.num_layers = 1
EgoDenoiser.width = 16
EgoDenoiser.hidden = 16
DiffusionPlannerAgent.plan_horizon = 8
"""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planner(anchor, **options):
    torch.manual_seed(0)
    gin.parse_config(TINY)
    agent = DiffusionPlannerAgent(SPEC, NUM_ACTIONS, inpaint_anchor=anchor, **options)
    torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
    return agent.eval()


def prefixes(count, seed=0):
    """Continuations of 0 to 7 random executed actions."""
    rng, running = np.random.default_rng(seed), RunningPlans(count, HORIZON, NUM_ACTIONS)
    lengths = np.arange(count) % HORIZON
    running.ran(np.arange(count), rng.integers(NUM_ACTIONS, size=(count, HORIZON)), lengths)
    return running.continuation(np.arange(count))


def windows(count=64, *, past=True):
    """Label i is action i % 12 to the end; it was preceded by actions 1, 2, 3, ... steps ago."""
    plans = np.tile((np.arange(count) % NUM_ACTIONS)[:, None], HORIZON).astype(np.int8)
    history = np.tile(np.arange(1, HORIZON), (count, 1)).astype(np.int8)
    history[np.arange(1, HORIZON) > (np.arange(count) % HORIZON)[:, None]] = MASK
    ones = np.ones(count, np.float32)
    found = Window(
        random_states(count), plans, ones, np.zeros(count, np.int16), history if past else None
    )
    return Batch.from_window(found)


def test_moving_behind_a_prefix_and_back():
    values, offsets = torch.arange(1, 13).view(3, 4), torch.tensor([0, 1, 3])
    behind = behind_prefix(values, offsets, 0)
    assert behind.tolist() == [[1, 2, 3, 4], [6, 7, 8, 0], [12, 0, 0, 0]]
    assert after_prefix(behind, offsets, 0).tolist() == [[1, 2, 3, 4], [0, 6, 7, 8], [0, 0, 0, 12]]


def test_plans_without_their_prefix_begin_with_the_next_action():
    tokens = torch.tensor([[3, 4, 5, END], [3, 4, 5, 6]])
    log_probs = torch.tensor([[0.0, 0.0, -1.0, -2.0], [0.0, -1.0, -2.0, -3.0]])
    none = torch.zeros(2)
    sample = PlanSample(tokens, none, log_probs.sum(1), none, log_probs)
    dropped = without_prefix(sample, torch.tensor([2, 1]), NUM_ACTIONS)
    assert dropped.tokens.tolist() == [[5, END, END, END], [4, 5, 6, END]]
    assert dropped.lengths.tolist() == [1, 3]
    assert dropped.token_log_probs.tolist() == [[-1, -2, 0, 0], [-1, -2, -3, 0]]
    assert torch.equal(dropped.token_log_probs.sum(1), sample.log_prob)


def test_rules_for_the_first_action_hold_where_it_stands():
    first = torch.tensor([[True, False, True], [False, True, True]])
    allowed = token_mask_behind(first, torch.tensor([0, 2]), 3, 2)
    assert allowed[0, 0].tolist() == [True, False, False]  # END is barred there, too
    assert allowed[1, 2].tolist() == [False, True, False]
    assert int((~allowed).sum()) == 4
    assert int((~token_mask_behind(None, torch.tensor([0, 2]), 3, 2)).sum()) == 2


def test_labels_move_behind_past_actions_of_every_possible_length():
    """4000 labels; each length's share within 5 standard deviations (fails 1e-5 of times)."""
    batch, count = windows(8), 4000
    plans, past = (x.repeat(count // 8, 1) for x in (batch.plans, batch.past))
    canvas, offsets = with_past(plans, past, 0.5, generator(), NUM_ACTIONS)
    known = torch.arange(8).repeat(count // 8)
    assert (offsets <= known).all()
    for h in range(HORIZON):
        steps_ago = torch.arange(h, 0, -1)  # the action one step ago stands next to the label
        mine = offsets == h
        assert (canvas[mine, :h] == steps_ago).all()
        assert (canvas[mine, h:] == plans[mine, : HORIZON - h]).all()
    for row in range(8):
        wanted = torch.tensor([0.5 if row else 1.0, *[0.5 / max(row, 1)] * row])
        share = torch.bincount(offsets[known == row], minlength=row + 1) / (count / 8)
        deviation = (wanted * (1 - wanted) / (count / 8)).sqrt()
        assert ((share - wanted).abs() <= 5 * deviation).all()


def test_labels_without_a_past_stay_where_they_are():
    batch = windows(8)
    canvas, offsets = with_past(
        batch.plans, torch.full_like(batch.past, MASK), 1.0, generator(), NUM_ACTIONS
    )
    assert torch.equal(canvas, batch.plans)
    assert not offsets.any()


class Shown(EgoDenoiser):
    """Keeps what it was shown first."""

    def encode(self, observations):
        self.seen, self.zt = observations, None
        return super().encode(observations)

    def denoise(self, context, zt, t=None):
        self.zt = zt.clone() if self.zt is None else self.zt
        return super().denoise(context, zt, t)


def test_aligned_training_shows_the_prefix_and_tells_the_offset():
    agent = planner("aligned", denoiser_type=Shown, aligned_share=1.0)
    batch = windows()
    assert agent.past_actions == HORIZON - 1
    loss, metrics = agent.loss(batch, generator())
    loss.backward()
    offsets, shown = agent.denoiser.seen[OFFSET_KEY], agent.denoiser.zt
    has_past = torch.arange(64) % HORIZON > 0
    assert torch.equal(offsets > 0, has_past)
    positions = torch.arange(HORIZON)
    prefix = positions < offsets[:, None]
    steps_ago = (offsets[:, None] - positions).expand(len(shown), -1, -1)
    assert (shown[:, prefix] == steps_ago[:, prefix]).all()
    assert (shown[0][~prefix] == MASK).all()  # the first draw hides all that may be hidden
    assert agent.denoiser.offsets.grad[offsets].abs().sum() > 0
    assert metrics["first_token_accuracy"].isfinite()


def test_aligned_agent_refuses_batches_without_past_actions():
    with pytest.raises(ValueError, match=r"past_actions.*inpaint_anchor = 'none'"):
        planner("aligned").loss(windows(past=False), generator())


def test_other_anchors_train_as_ever():
    losses = [planner(anchor).loss(windows(), generator())[0] for anchor in ("none", "legacy")]
    assert torch.equal(*losses)


@pytest.mark.parametrize("anchor", ["legacy", "aligned"])
def test_executed_actions_are_locked_and_the_plan_begins_behind_them(anchor):
    agent = planner(anchor, denoiser_type=Shown)
    states, carried = random_states(16), prefixes(16)
    sample = agent.plan(states, generator(), continuation=carried)
    offsets = torch.from_numpy(carried.num_executed)
    assert torch.equal(agent.denoiser.zt, torch.from_numpy(carried.executed))
    assert (OFFSET_KEY in agent.denoiser.seen) == (anchor == "aligned")
    if anchor == "aligned":
        assert torch.equal(agent.denoiser.seen[OFFSET_KEY], offsets)
    assert (sample.lengths >= 1).all()
    assert (sample.lengths <= HORIZON - offsets).all()
    assert (sample.tokens[~(torch.arange(HORIZON) < sample.lengths[:, None])] == END).all()


def test_a_plan_behind_a_prefix_does_not_depend_on_its_neighbours():
    """All rows in one batch, then the first of them alone, with the same key."""
    agent = planner("aligned", autocast_inference="off")
    states, carried = random_states(12), prefixes(12)
    together = agent.plan(states, generator(), continuation=carried)
    first = {key: value[:1] for key, value in states.items()}
    alone = agent.plan(first, generator(), continuation=carried[:1])
    assert torch.equal(alone.tokens[0], together.tokens[0])


def test_anchors_change_nothing_where_nothing_was_executed():
    """The legacy anchor at an episode's beginning is no anchor, but for the whole window."""
    plain, legacy = planner("none", replan_every=7), planner("legacy", replan_every=7)
    states = random_states(16)
    assert torch.equal(
        plain.plan(states, generator()).tokens, legacy.plan(states, generator()).tokens
    )


def test_first_action_behind_a_prefix_keeps_to_the_constraints():
    agent = planner("legacy", action_constraints=True)
    states = random_states(32)
    allowed = agent.first_token_mask(states, torch.device("cpu"))
    sample = agent.plan(states, generator(), continuation=prefixes(32))
    assert allowed[torch.arange(32), sample.tokens[:, 0]].all()


def test_offset_is_zero_for_a_net_that_is_not_told_and_missing_in_one_that_does_not_want_it():
    agent, plain = planner("aligned"), planner("none")
    states = tensors(random_states(3))
    told = agent.denoiser.encode({**states, OFFSET_KEY: torch.zeros(3, dtype=torch.int64)})
    assert all(map(torch.equal, told, agent.denoiser.encode(states)))
    moved = agent.denoiser.encode({**states, OFFSET_KEY: torch.full((3,), 2)})
    assert not all(map(torch.equal, told, moved))
    own = agent.denoiser.state_dict()
    assert set(own) - set(plain.denoiser.state_dict()) == {"offsets"}
    fresh = EgoDenoiser(SPEC, NUM_ACTIONS, HORIZON)
    assert OFFSET_KEY not in fresh.observation_keys


@pytest.mark.parametrize("anchor", ["none", "legacy", "aligned"])
def test_episodes_are_played_with_every_anchor(anchor):
    """In a small maze; the agent is told what it has executed, plan after plan."""
    agent = planner(anchor)

    def play(rows):
        return evaluate_policy(
            AgentPolicy(agent, generator(1)),
            [MAZE],
            episodes=4,
            first_seed=0,
            make_vec_env=make_vec_env,
            rows=rows,
            max_episode_steps=30,
        )

    result = play(2)
    assert len(result.records) == 4
    assert result == play(2)
    assert result.rows[0].mean_steps > 0


@pytest.mark.parametrize("anchor", ["legacy", "aligned"])
def test_roll_outs_tell_the_agent_what_it_executed(anchor):
    agent, told = planner(anchor), []
    plan = agent.plan

    def listen(observations, source, **options):
        told.append(options["continuation"])
        return plan(observations, source, **options)

    agent.plan = listen
    recording = record_episode(
        AgentPolicy(agent, generator()), make_vec_env([MAZE]), 3, max_steps=30
    )
    steps = [m.plan_index for m in recording.moments[:-1]]
    ran = 0
    for number, carried in enumerate(told):
        assert carried.num_executed[0] == ran % HORIZON
        ran += steps.count(number)


def test_unknown_anchor_and_impossible_share_are_refused():
    with pytest.raises(ValueError, match="did you mean 'aligned'"):
        planner("alinged")
    with pytest.raises(ValueError, match=r"DiffusionPlannerAgent\.aligned_share"):
        planner("aligned", aligned_share=0.0)


def test_aligned_needs_a_net_that_is_told_the_offset():
    with pytest.raises(ValueError, match=r"DualStreamDenoiser is not.*@EgoDenoiser"):
        DiffusionPlannerAgent(
            SPEC, NUM_ACTIONS, inpaint_anchor="aligned", denoiser_type=DualStreamDenoiser
        )


def test_aligned_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    """Collects, augments, trains and validates with an anchor; see `tests/test_resume.py`."""

    class Stopping(Experiment):
        def train_step(self, batch):
            assert batch.past is not None
            self.stop.requested = self.progress.total_batches == 5
            return super().train_step(batch)

    for folder, kinds in (("once", [Experiment]), ("twice", [Stopping, Experiment])):
        for kind in kinds:
            bindings = tiny_bindings(tmp_path / folder, epochs="3")
            config.load_config([], [*bindings, "DiffusionPlannerAgent.inpaint_anchor = 'aligned'"])
            run = kind("run")
            run.start()
            run.learn()
            run.close()
            assert run.progress.finished == (kind is Experiment)
    assert_same_run(tmp_path / "once/run", tmp_path / "twice/run")
