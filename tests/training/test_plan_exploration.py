"""Exploring plans: how many are altered, which, and that runs still repeat themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from remdm import config
from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.base_agent import DenoiserAgent
from remdm.experiment import Experiment
from remdm.policy_agent import PolicyAgent
from remdm.tokens import end_token
from remdm.training.plan_exploration import Epsilon, EpsilonActions, EpsilonPlans, HotPlans
from tests.nets.states import random_states
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, learnt, metric_rows, tiny_bindings
from tests.training.test_objectives import made

ACTIONS, HORIZON = 12, 8
END = end_token(ACTIONS)


def plans_of(count: int) -> np.ndarray:
    """Plans of all lengths, 0 to `HORIZON`, of action 3 alone."""
    lengths = np.arange(count) % (HORIZON + 1)
    return np.where(np.arange(HORIZON) < lengths[:, None], 3, END).astype(np.int8)


@pytest.mark.parametrize("kind", [EpsilonPlans, EpsilonActions])
def test_nothing_is_altered_at_epsilon_zero_and_what_is_given_never(
    kind: type[Epsilon],
) -> None:
    plans = plans_of(50)
    same = kind(ACTIONS, first=0.0, last=0.0)(plans, 0.5, np.random.default_rng(0))
    assert np.array_equal(same, plans)
    altered = kind(ACTIONS, first=1.0, last=1.0)(plans, 0.5, np.random.default_rng(0))
    assert altered.dtype == plans.dtype
    assert (altered != plans).any()
    assert np.array_equal(plans, plans_of(50))


def test_whole_plans_are_replaced_with_probability_epsilon() -> None:
    count, epsilon = 40_000, 0.25
    plans = np.full((count, HORIZON), END, np.int8)
    altered = EpsilonPlans(ACTIONS, first=epsilon)(plans, 0.0, np.random.default_rng(1))
    replaced = (altered != END).any(1)
    assert np.array_equal(replaced, (altered < ACTIONS).all(1))
    # Binomial: five standard deviations, two sides, fail by chance once in 1.7 million.
    assert abs(replaced.mean() - epsilon) < 5 * np.sqrt(epsilon * (1 - epsilon) / count)


def test_single_actions_are_replaced_and_plans_end_where_they_did() -> None:
    count, epsilon = 9_000, 0.4
    plans = plans_of(count)
    altered = EpsilonActions(ACTIONS, first=epsilon)(plans, 0.0, np.random.default_rng(2))
    assert np.array_equal(altered == END, plans == END)
    actions = plans != END
    changed = (altered != plans)[actions].mean()
    share = epsilon * (ACTIONS - 1) / ACTIONS  # a random action may be the planned one
    # Binomial over 36,000 actions: five standard deviations, as above.
    assert abs(changed - share) < 5 * np.sqrt(share * (1 - share) / actions.sum())


def test_epsilon_falls_in_a_straight_line_until_its_share_of_the_run() -> None:
    explore = EpsilonPlans(ACTIONS, first=0.8, last=0.2, until=0.5)
    assert [explore.epsilon(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.8, 0.5, 0.2, 0.2]
    assert EpsilonPlans(ACTIONS, first=0.8, last=0.1, until=0.0).epsilon(0.0) == 0.1


def test_an_epsilon_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"last must be in \[0, 1\], got 2; set EpsilonPlans.last"):
        EpsilonPlans(ACTIONS, last=2)


@pytest.mark.parametrize("kind", [DiffusionPlannerAgent, PolicyAgent, AutoregressiveAgent])
def test_plans_for_collecting_are_written_hotter_and_others_are_not(
    kind: type[DenoiserAgent],
) -> None:
    planner = kind is DiffusionPlannerAgent
    factor = 0.0625  # these nets know nearly nothing, so it is the other way that shows
    wanted = {"temperature": 0.5 * factor}
    options = {"sampler_collect_options": wanted} if planner else wanted
    agent, bound, states = made(kind), made(kind, **options), random_states(64)

    def planned(agent: DenoiserAgent, *, collecting: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(4)
        return agent.plan(states, generator, collecting=collecting).tokens

    before = [planned(agent, collecting=collecting) for collecting in (True, False)]
    explore = HotPlans(ACTIONS, first=factor, last=1.0, until=0.5)
    agent.collecting_heat = explore.heat(0.0)
    assert torch.equal(planned(agent, collecting=False), before[1])
    found = planned(agent, collecting=True)
    assert torch.equal(found, planned(bound, collecting=True))
    assert not torch.equal(found, before[0])
    agent.collecting_heat = explore.heat(0.5)
    assert torch.equal(planned(agent, collecting=True), before[0])


def test_heat_falls_in_a_straight_line_and_leaves_plans_alone() -> None:
    explore = HotPlans(ACTIONS, first=3.0, last=1.0, until=0.5)
    assert [explore.heat(p) for p in (0.0, 0.25, 0.5, 1.0)] == [3.0, 2.0, 1.0, 1.0]
    assert explore.metrics(0.25) == {"collect/heat": 2.0}
    plans = plans_of(9)
    assert explore(plans, 0.0, np.random.default_rng(0)) is plans
    assert EpsilonPlans(ACTIONS).heat(0.0) == 1.0
    for wrong, said in (({"last": 0.0}, "above 0"), ({"until": 2.0}, r"in \[0, 1\]")):
        with pytest.raises(ValueError, match=f"must be {said}.*; set HotPlans."):
            HotPlans(ACTIONS, **wrong)


def test_a_run_explores_by_heat_that_it_tells(tmp_path: Path) -> None:
    bound = {"epochs": "2", "warm_start_timesteps": "0", "baseline_agent_type": "None"}
    bound |= {"val_interval": "None", "heldout_envs": "()", "epochs": "2"}
    run = learnt(tmp_path, **bound, exploration_wrapper_type="@HotPlans")
    told = [r["collect/heat"] for r in metric_rows(run.folder.root) if "collect/heat" in r]
    assert told == [2.0, 1.5]
    assert run.policy.collecting_heat == 1.5


def test_an_agent_that_draws_in_a_way_of_its_own_cannot_be_heated(tmp_path: Path) -> None:
    lines = tiny_bindings(tmp_path, baseline_agent_type="None", agent_type="@HeadAgent")
    kept = [line for line in lines if not line.startswith(("Diffusion", "Ego"))]
    config.load_config([], [*kept, "Experiment.exploration_wrapper_type = @HotPlans"])
    with pytest.raises(ValueError, match=r"HeadAgent; set Experiment.exploration_wrapper_type"):
        Experiment("run").start()


def test_a_run_that_explores_tells_its_epsilon_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    bound = {
        "exploration_wrapper_type": "@EpsilonActions",
        "baseline_agent_type": "None",
        "warm_start_timesteps": "0",
    }
    whole = learnt(tmp_path / "one", **bound)
    told = [r["collect/epsilon"] for r in metric_rows(whole.folder.root) if "collect/epsilon" in r]
    assert told == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert not learnt(tmp_path / "two", stopping("batch", 6), **bound).progress.finished
    learnt(tmp_path / "two", **bound)
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
    plain = learnt(tmp_path / "plain", **bound | {"exploration_wrapper_type": "None"})
    assert metric_rows(plain.folder.root) != metric_rows(whole.folder.root)
