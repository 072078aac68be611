"""What there is to know of one MiniHack task: does it load, what can be done in it, who wins it.

A task is looked at in four stages, and what is known is told after each of them, so that it is not
lost when a later one takes the process with it:

- *game*: the task as its authors made it, by `gymnasium.make`: its step limit and its actions;
- *ours*: the same level behind our environment, with every one of our actions carried out;
- *oracle*: levels played by an oracle;
- *planner*: levels played by the planner of a run, and its calls timed.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from remdm.agent import BaseAgent
from remdm.data.plain_json import one_line
from remdm.envs.contract import PlannerEnv
from remdm.envs.making import make_env, make_vec_env
from remdm.envs.minihack import game_actions, make_stock_env
from remdm.evaluation.policies import AgentPolicy, Policy
from remdm.evaluation.rollout import EvalRow, evaluate_policy
from remdm.evaluation.timing import time_policy
from remdm.seeding import torch_generator

# Calls of the planner that are timed in a task, and those before.
TIMED_CALLS, WARMUP_CALLS = 20, 3
_REASON = 160  # characters of an error that are kept
_FAMILY = re.compile(r"MiniHack-([A-Za-z]+?)(?:S[0-9]+N[0-9]+|[0-9]+[a-z]?)?-")


@dataclass(slots=True)
class TaskReport:
    """What is known of a task so far.

    Attributes:
        task: Its id.
        stage: What is being done, or was when the process ended; "" when all is done.
        game_error: Why it does not load as its authors made it; "" if it does.
        our_error: Why our environment does not take it; "" if it does.
        notes: What else went wrong.
        max_steps: Its own step limit.
        num_actions: Size of its own action set.
        agreement: See `agreement`; "" where the task does not load.
        lacking: Actions of its own that ours lacks.
        oracle: Wins, episodes and interval of the oracle, and its mean steps.
        planner: The same of the planner, with its net calls and speed.
    """

    task: str
    stage: str = "game"
    game_error: str = ""
    our_error: str = ""
    notes: list[str] = field(default_factory=list)
    max_steps: int | None = None
    num_actions: int | None = None
    agreement: str = ""
    lacking: list[str] = field(default_factory=list)
    oracle: dict[str, Any] | None = None
    planner: dict[str, Any] | None = None

    @property
    def family(self) -> str:
        """The task's kind: its id without size and version."""
        found = _FAMILY.match(self.task)
        return found[1] if found else self.task

    @property
    def loads(self) -> bool:
        """Whether the game loads as its authors made it."""
        return self.num_actions is not None and not self.game_error

    @property
    def plays(self) -> bool:
        """Whether our environment plays it, with all our actions."""
        return self.stage not in ("game", "ours") and not self.our_error

    @property
    def trouble(self) -> str:
        """What went wrong, in one line."""
        return "; ".join(filter(None, [self.game_error or self.our_error, *self.notes]))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        facts = {"family": self.family, "loads": self.loads, "plays": self.plays}
        return asdict(self) | facts


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How tasks are looked at.

    Attributes:
        episodes: Levels that oracle and planner play.
        first_seed: Seed of the first one.
        max_steps: Cap of an episode, below the task's own limit.
    """

    episodes: int
    first_seed: int
    max_steps: int | None


def agreement(own: Iterable[int], ours: Iterable[int]) -> str:
    """How a task's action set stands to ours, whatever their order.

    Args:
        own: NetHack commands of the task.
        ours: NetHack commands of our action set.

    Returns:
        "EXACT", "SUPERSET (+n)" with n more than ours, "SUBSET (-n)" with n of ours missing, or
        "CONFLICT (+n -m)" with both.
    """
    more, fewer = len(set(own) - set(ours)), len(set(ours) - set(own))
    if not more and not fewer:
        return "EXACT"
    if not fewer:
        return f"SUPERSET (+{more})"
    return f"CONFLICT (+{more} -{fewer})" if more else f"SUBSET (-{fewer})"


def examine(
    task: str,
    options: ScanOptions,
    oracle: Policy,
    planner: BaseAgent | None,
    tell: Callable[[TaskReport], None],
) -> TaskReport:
    """Look at a task.

    Args:
        task: Its id.
        options: See `ScanOptions`.
        oracle: Plays in the third stage.
        planner: Plays in the fourth; None leaves that out.
        tell: Called with the report as it is after every stage.

    Returns:
        The whole report.
    """
    report = TaskReport(task)
    tell(report)
    with _errors(task, lambda why: setattr(report, "game_error", why)):
        _look_at_game(report)
    report.stage = "ours"
    tell(report)
    with _errors(task, lambda why: setattr(report, "our_error", why)):
        _try_actions(report, options.first_seed)
    if not report.our_error:
        report.stage = "oracle"
        tell(report)
        with _errors(task, lambda why: report.notes.append(f"oracle: {why}")):
            report.oracle = _played(_play(oracle, task, options))
        if planner is not None:
            report.stage = "planner"
            tell(report)
            with _errors(task, lambda why: report.notes.append(f"planner: {why}")):
                report.planner = _planned(planner, task, options)
    report.stage = ""
    tell(report)
    return report


@contextlib.contextmanager
def _errors(task: str, note: Callable[[str], None]) -> Iterator[None]:
    """Keep what is raised as one line, without the task's name; a task may raise anything."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).replace(task, "it").split()) or type(error).__name__
        note(one_line(words, _REASON))


def _look_at_game(report: TaskReport) -> None:
    """Load and reset the task as gymnasium makes it."""
    if report.task.endswith("-Custom-v0"):
        raise ValueError("it is only a frame for level files")
    with contextlib.closing(make_stock_env(report.task, disable_env_checker=True)) as env:
        env.reset(seed=0)
        bare = env.unwrapped
        own = {int(action): action for action in bare.actions}
        ours = {int(action) for action in game_actions()}
        report.max_steps = int(bare._max_episode_steps)
        report.num_actions = len(own)
        report.agreement = agreement(own, ours)
        report.lacking = [_action_name(a) for key, a in own.items() if key not in ours]


def _action_name(action: Any) -> str:
    """NetHack's name of a command; long moves have the names of short ones."""
    far = "FAR_" if type(action).__name__ == "CompassDirectionLonger" else ""
    return far + str(action.name)


def _try_actions(report: TaskReport, seed: int) -> None:
    """Every one of our actions must be taken, wherever it leads."""
    with contextlib.closing(make_env(report.task)) as env:
        if report.max_steps is None:
            report.max_steps = env.max_episode_steps
        for action in range(env.num_actions):
            _take(env, seed, action)


def _take(env: PlannerEnv, seed: int, action: int) -> None:
    env.reset(seed)
    env.step(action)
    env.cancel()


def _play(policy: Policy, task: str, options: ScanOptions) -> EvalRow:
    (row,) = evaluate_policy(
        policy,
        [task],
        episodes=options.episodes,
        first_seed=options.first_seed,
        make_vec_env=make_vec_env,
        rows=options.episodes,
        max_episode_steps=options.max_steps,
    ).rows
    return row


def _played(row: EvalRow) -> dict[str, Any]:
    names = ("policy", "wins", "episodes", "win_rate", "ci_low", "ci_high", "mean_steps")
    return {name: getattr(row, name) for name in names}


def _planned(agent: BaseAgent, task: str, options: ScanOptions) -> dict[str, Any]:
    """Win rate, net calls and speed of the planner, one plan at a time."""

    def policy() -> AgentPolicy:
        return AgentPolicy(agent, torch_generator(options.first_seed, "scan", task))

    row = _play(policy(), task, options)
    timing = time_policy(
        policy(),
        task,
        rows=1,
        calls=TIMED_CALLS,
        warmup=WARMUP_CALLS,
        first_seed=options.first_seed,
        make_vec_env=make_vec_env,
        max_episode_steps=options.max_steps,
    )
    net_calls = {"nfe_per_plan": row.nfe_per_plan, "nfe_per_step": row.nfe_per_step}
    return timing.to_dict() | net_calls | _played(row)
