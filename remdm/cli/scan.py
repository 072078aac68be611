"""`remdm scan`: what the registered MiniHack tasks are, and how planning fares in them."""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from remdm import config
from remdm.cli.commands import INTERRUPTED
from remdm.cli.flags import add_config_flags, add_run_flags
from remdm.registry import nearest

if TYPE_CHECKING:
    from remdm.agent import BaseAgent
    from remdm.evaluation.scan_processes import Outcome
    from remdm.evaluation.scan_task import ScanOptions, TaskReport
    from remdm.oracles.contract import Oracle

# Loaded once for all tasks.
_PRELOAD = (
    "remdm.cli.runs",
    "remdm.evaluation.scan_task",
    "remdm.evaluation.suite",
    "remdm.experiment",
    "remdm.oracles.memory_oracle",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm scan`."""
    parser.add_argument("--match", metavar="TEXT", help="only tasks with this in their id (all)")
    parser.add_argument(
        "--run", metavar="RUN_OR_CHECKPOINT", help="measure its planner, too: a run or wandb:..."
    )
    parser.add_argument("--oracle", default="memory", help="who plays first (memory)")
    parser.add_argument("--episodes", type=int, default=5, help="levels per task (5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first level")
    parser.add_argument("--max_steps", type=int, help="cap of an episode, below the task's own")
    parser.add_argument(
        "--processes", type=int, help="tasks at once (one per core; 1 where a run is timed)"
    )
    parser.add_argument(
        "--task_seconds", type=float, default=120.0, help="time that a task has (120)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all findings here")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table here")
    add_run_flags(parser)
    add_config_flags(parser)


@dataclass(frozen=True, slots=True)
class ScanJob:
    """A task, and what a process needs to look at it.

    Attributes:
        task: Its id.
        options: How to look at it.
        oracle: Name of who plays first.
        run: Folder of the run whose planner plays then; None for none.
        configs: Config files.
        bindings: Bindings.
        allow_imports: See `open_run`.
    """

    task: str
    options: "ScanOptions"
    oracle: str
    run: str | None
    configs: tuple[str, ...]
    bindings: tuple[str, ...]
    allow_imports: tuple[str, ...]

    def __call__(self, tell: Callable[["TaskReport"], None]) -> None:
        """Look at the task."""
        from remdm.evaluation.scan_task import examine
        from remdm.evaluation.suite import oracle_policy

        oracle, planner = self.players()
        examine(self.task, self.options, oracle_policy(oracle), planner, tell)

    def players(self) -> "tuple[Oracle, BaseAgent | None]":
        """The oracle and, where there is a run, its planner.

        Raises:
            ValueError: If there is no such oracle, or the run cannot be opened.
        """
        from remdm.cli.runs import open_run
        from remdm.oracles.making import make_oracle

        if self.run is None:
            config.load_config(self.configs, self.bindings)
            return make_oracle(self.oracle), None
        opened = open_run(
            self.run, list(self.configs), list(self.bindings), allow_imports=self.allow_imports
        )
        return make_oracle(self.oracle), opened.agents["planner"]


def scan(args: argparse.Namespace) -> int:
    """Look at every task in a process of its own, and print what was found.

    Returns:
        0, or 130 where somebody stopped it; what was found until then is printed and written, too.

    Raises:
        ValueError: If a flag makes no sense, no task matches, or the run cannot be opened or does
            not play MiniHack.
    """
    from remdm.envs.minihack import known_envs
    from remdm.evaluation.scan_table import markdown_scan, rich_scan, scan_document
    from remdm.evaluation.scan_task import ScanOptions
    from remdm.evaluation.tables import write_json, write_text

    for name in ("episodes", "max_steps", "processes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    tasks = matching(known_envs(), args.match)
    options = ScanOptions(args.episodes, args.seed, args.max_steps)
    run = _local_run(args)
    jobs = [
        ScanJob(
            task, options, args.oracle, run, tuple(args.configs), tuple(args.bind),
            tuple(args.allow_import),
        )
        for task in tasks
    ]  # fmt: skip
    _check(jobs[0])
    processes = args.processes or (os.cpu_count() or 1 if run is None else 1)
    reports = _look_at_all(jobs, processes, args.task_seconds)
    settings: dict[str, Any] = {
        "match": args.match,
        "oracle": args.oracle,
        "run": args.run,
        "level_seeds": {"first": args.seed, "episodes": args.episodes},
        "max_steps": args.max_steps,
        "processes": processes,
        "task_seconds": args.task_seconds,
    }
    Console(highlight=False).print(rich_scan(reports))
    if args.json is not None:
        write_json(args.json, scan_document(reports, settings))
    if args.markdown is not None:
        write_text(args.markdown, markdown_scan(reports, title="MiniHack tasks"))
    return 0 if len(reports) == len(jobs) else INTERRUPTED


def matching(tasks: Sequence[str], text: str | None) -> list[str]:
    """Tasks with `text` in their id, in upper case or lower; all when None.

    Raises:
        ValueError: If there is none; names the nearest ones.
    """
    found = [task for task in tasks if text is None or text.lower() in task.lower()]
    if not found:
        close = nearest(f"MiniHack-{text}-v0", tasks)
        raise ValueError(
            f"no MiniHack task has {text!r} in its id; "
            f"{'near are ' + ', '.join(close) if close else f'{len(tasks)} are registered'}."
        )
    return found


def _local_run(args: argparse.Namespace) -> str | None:
    """The run's folder, fetched once for all processes."""
    from remdm.artifacts import local_folder

    if args.run is None:
        return None
    return str(local_folder(args.run, download_dir=args.wandb_download_dir).resolve())


def _check(job: ScanJob) -> None:
    """See that oracle and run can be had, before processes find that they cannot.

    Raises:
        ValueError: If not, or the planner does not play maps.
    """
    from remdm.maps import NUM_ACTIONS

    _, planner = job.players()
    if planner is not None and planner.num_actions != NUM_ACTIONS:
        raise ValueError(
            f"--run must be a run that plays maps with {NUM_ACTIONS} actions, and {job.run} has "
            f"{planner.num_actions}."
        )


def _look_at_all(
    jobs: Sequence[ScanJob], processes: int, task_seconds: float
) -> "list[TaskReport]":
    """The reports of all jobs, with a bar on a terminal; those that there are after Ctrl-C."""
    from tqdm import tqdm

    from remdm.evaluation.scan_processes import run_jobs

    reports: list[TaskReport] = []
    outcomes = run_jobs(jobs, processes=processes, limit_seconds=task_seconds, preload=_PRELOAD)
    with (
        tqdm(total=len(jobs), desc="tasks", unit="task", disable=None, leave=False) as bar,
        suppress(KeyboardInterrupt),
        closing(outcomes),
    ):
        for outcome in outcomes:
            reports.append(report_of(jobs[outcome.index].task, outcome))
            bar.set_postfix_str(jobs[outcome.index].task, refresh=False)
            bar.update()
    return reports


def report_of(task: str, outcome: "Outcome") -> "TaskReport":
    """What a process told, and how it ended."""
    from remdm.evaluation.scan_processes import FINISHED, HUNG
    from remdm.evaluation.scan_task import TaskReport

    report: TaskReport = outcome.told or TaskReport(task)
    if outcome.ending == FINISHED:
        return report
    how = f"no end after {outcome.seconds:.0f} s" if outcome.ending == HUNG else outcome.detail
    why = f"{report.stage}: {how}"
    if report.stage == "game":
        report.game_error = why
    elif report.stage == "ours":
        report.our_error = why
    else:
        report.notes.append(why)
    return report
