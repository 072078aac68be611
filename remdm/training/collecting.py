"""Making what collects, as the settings of a run ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remdm.base_agent import DenoiserAgent
from remdm.training.collector import Collector
from remdm.training.paired_collector import PairedCollector
from remdm.training.plan_exploration import HotPlans

if TYPE_CHECKING:
    from remdm.envs.contract import PlanVecEnv
    from remdm.training.assembly import AssembledRun
    from remdm.training.base_collector import BaseCollector
    from remdm.training.curriculum import Curriculum
    from remdm.training.plan_exploration import PlanExploration


def make_curriculum(run: AssembledRun) -> Curriculum | None:
    """What draws the environments of episodes; None where every actor keeps its own."""
    if run.curriculum_type is None:
        return None
    return run.curriculum_type(run.train_envs, run.actor_shares)


def make_exploration(run: AssembledRun) -> PlanExploration | None:
    """What alters the planner's plans while it collects; None where nothing does.

    Raises:
        ValueError: If the planner cannot explore in that way.
    """
    if run.exploration_wrapper_type is None:
        return None
    exploration = run.exploration_wrapper_type(run.kind.num_actions)
    if isinstance(exploration, HotPlans) and not isinstance(run.agent, DenoiserAgent):
        raise ValueError(
            f"{type(exploration).__name__} heats what a DenoiserAgent draws, and the agent is a "
            f"{type(run.agent).__name__}; set Experiment.exploration_wrapper_type."
        )
    return exploration


def make_collector(run: AssembledRun, vec_env: PlanVecEnv) -> BaseCollector:
    """What runs the actors of this process.

    Args:
        run: With its oracle, curriculum, agents and buffer.
        vec_env: The actors, as oracle and agents need them.

    Raises:
        ValueError: If the steps of separate collectors could not be counted.
    """
    place = {
        "seed": run.seed,
        "rank": run.number,
        "plan_horizon": run.agent.plan_horizon,
        "replan_every": run.agent.replan_every_collect or run.agent.replan_every,
    }
    parts = vec_env, run.oracle, run.buffer, run.curriculum
    if run.pairing is None:
        return _exploring(Collector(*parts, **place), run)
    if not run.role.alone:
        raise ValueError(
            "separate collectors tell how many env steps they took by what they write, and of "
            "pairs only some are written; take --mode both, or set Experiment.pairing_type = None."
        )
    return _exploring(PairedCollector(*parts, run.pairing, **place), run)


def _exploring(collector: BaseCollector, run: AssembledRun) -> BaseCollector:
    collector.exploration = run.exploration
    collector.watcher = run.policy
    return collector
