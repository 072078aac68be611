"""`remdm collect`: an oracle's episodes, kept as demonstrations."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remdm import config
from remdm.cli import commands

if TYPE_CHECKING:
    from remdm.oracles.contract import Oracle
    from remdm.training.demonstration_pieces import Manner
    from remdm.training.demonstration_records import Record
    from remdm.training.demonstrations import Demonstrations
    from remdm.training.interrupt import StopRequest


LEAST = {"episodes": 1, "seed": 0, "processes": 1, "rows": 1, "max_steps": 1, "plan_horizon": 1}
LONGEST_NAME = 17  # of an environment that is shown in one line of 80 columns


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm collect`, without those of the configuration."""
    parser.add_argument("--oracle", default="memory", help="memory, seed, random, expert (memory)")
    parser.add_argument(
        "--envs",
        nargs="+",
        metavar="ENV",
        default=["training"],
        help="environment ids, or training, heldout, all, gridworld (training)",
    )
    parser.add_argument(
        "--episodes", type=int, default=1000, help="levels per environment, won or lost (1000)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the dataset: what Experiment.buffer_dir is set to",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed that all levels follow from")
    parser.add_argument("--processes", type=int, default=1, help="processes that play (1)")
    parser.add_argument(
        "--rows",
        type=int,
        default=32,
        help="episodes side by side, in a game that is one compiled set (32)",
    )
    parser.add_argument("--keep_lost", action="store_true", help="keep lost episodes as well")
    parser.add_argument("--max_steps", type=int, help="cap of an episode, below the game's own")
    parser.add_argument(
        "--plan_horizon",
        type=int,
        help="label every step with the oracle's plan of so many tokens; otherwise a run that "
        "needs labels makes them",
    )
    parser.add_argument(
        "--replan_every", type=int, default=1, help="actions of a plan before the next one (1)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table here as well")


def collect(args: argparse.Namespace) -> int:
    """Play, keep, label and report.

    Returns:
        0, or 130 where somebody asked to stop before all was done.

    Raises:
        ValueError: If an argument makes no sense, or the folder has other demonstrations.
    """
    from remdm.envs.making import make_env
    from remdm.oracles.making import make_oracle
    from remdm.training.demonstrations import Demonstrations
    from remdm.training.interrupt import StopRequest

    config.load_config(args.configs, args.bind)
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}.")
    envs = [env for group in commands.env_groups(args.envs).values() for env in group]
    oracle = make_oracle(args.oracle)
    limits = {}
    for env in envs:  # what is misspelt should not end hours of work
        made = make_env(env)
        limits[env] = min(made.max_episode_steps, args.max_steps or made.max_episode_steps)
        made.close()
    config.check_bindings(("AsyncPlanVecEnv",))
    manner = _manner(args, oracle)
    with (
        Demonstrations(
            args.out,
            oracle,
            args.seed,
            manner,
            label_horizon=args.plan_horizon,
            processes=args.processes,
            rows=args.rows,
        ) as demonstrations,
        StopRequest() as stop,
    ):
        done = _collect_all(demonstrations, limits, args, stop)
        if done and args.plan_horizon is not None:
            done = _label_all(demonstrations, args.plan_horizon, stop)
        demonstrations.announce()
        by_env = {env: demonstrations.records.of(env, args.seed, args.episodes) for env in envs}
    _print_table(by_env)
    if args.json is not None:
        _write_json(args.json, by_env, demonstrations)
    console = Console(soft_wrap=True, highlight=False)
    if not done:
        console.print(f"go on with: {escape(commands.command_line())}")
        return commands.INTERRUPTED
    console.print(f"the demonstrations are in {escape(str(args.out))}")
    return 0


def _manner(args: argparse.Namespace, oracle: "Oracle") -> "Manner":
    """How to play. Only what goes along with an episode plans as far ahead as its labels are."""
    from remdm.evaluation.suite import ORACLE_HORIZON
    from remdm.oracles.contract import Oracle
    from remdm.training.demonstration_pieces import Manner

    goes_along = type(oracle).accompany is not Oracle.accompany
    horizon = args.plan_horizon if goes_along and args.plan_horizon else ORACLE_HORIZON
    return Manner(horizon, args.replan_every, args.max_steps, args.keep_lost)


def _collect_all(
    demonstrations: "Demonstrations",
    limits: Mapping[str, int],
    args: argparse.Namespace,
    stop: "StopRequest",
) -> bool:
    """Play environment by environment, each up to its limit: they may differ in size."""
    from tqdm import tqdm

    records = demonstrations.records
    there = {env: records.of(env, args.seed, args.episodes) for env in limits}
    # Off a terminal (disable=None) there is nobody to watch a bar.
    with tqdm(
        total=args.episodes * len(limits),
        initial=sum(min(r.piece.stop, args.episodes) - r.piece.first for r in _all(there)),
        unit="episode",
        disable=None,
    ) as bar:
        won = played = 0

        def tell(ended: int, of_them_won: int) -> bool:
            nonlocal won, played
            if ended:
                played += ended
                won += of_them_won
                bar.set_postfix_str(f"won {won / played:.2f}", refresh=False)
                bar.update(ended)
            return stop.requested

        for env, limit in limits.items():
            if stop.requested:
                return False
            bar.set_description(env, refresh=False)

            if not demonstrations.collect(env, args.episodes, tell, max_episode_steps=limit):
                return False
    return True


def _label_all(demonstrations: "Demonstrations", plan_horizon: int, stop: "StopRequest") -> bool:
    from tqdm import tqdm

    with tqdm(desc="labelling", unit="step", disable=None, leave=False) as bar:

        def tell(steps: int) -> bool:
            bar.update(steps)
            return stop.requested

        return demonstrations.label(plan_horizon, tell)


def _all(by_env: "Mapping[str, Sequence[Record]]") -> "list[Record]":
    return [record for records in by_env.values() for record in records]


def _row(records: "Iterable[Record]") -> dict[str, Any]:
    """The figures of some records, as JSON has them."""
    from remdm.evaluation.statistics import Rate
    from remdm.training.demonstrations import total

    records = list(records)
    episodes = sum(r.piece.stop - r.piece.first for r in records)
    won, seconds = int(total(records, "won")), total(records, "seconds")
    rate = Rate.of(won, episodes)
    return {
        "episodes": episodes,
        "won": won,
        "win_rate": rate.rate,
        "ci_low": rate.low,
        "ci_high": rate.high,
        "kept": int(total(records, "kept")),
        "steps": int(total(records, "steps")),
        "mean_steps_won": total(records, "steps_won") / won if won else None,
        "seconds": round(seconds, 3),
    }


def _print_table(by_env: "Mapping[str, Sequence[Record]]") -> None:
    from remdm.evaluation.tables import format_steps, short_env_name

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = {short_env_name(env): _row(records) for env, records in by_env.items()}
    if len(rows) > 1:
        rows["all"] = _row(_all(by_env))
    width = min(max(map(len, rows)), LONGEST_NAME)
    table.add_column("environment", style="cyan", overflow="fold", min_width=width)
    for column in ("levels", "won", "95 %", "steps", "steps/won", "seconds"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            escape(name),
            f"{row['episodes']:,}",
            f"{row['win_rate']:.3f}",
            f"{row['ci_low']:.3f}-{row['ci_high']:.3f}",
            f"{row['steps']:,}",
            format_steps(row["mean_steps_won"]),
            f"{row['seconds']:.1f}",
        )
    console = Console()
    console.print(table)
    if not any(row["kept"] for row in rows.values()):
        console.print("nothing was kept: no episode was won; --keep_lost keeps the lost ones")


def _write_json(
    path: Path, by_env: "Mapping[str, Sequence[Record]]", demonstrations: "Demonstrations"
) -> None:
    from remdm.evaluation.tables import write_json

    rows = [{"env": env, **_row(records)} for env, records in by_env.items()]
    document = {"seed": demonstrations.seed, "settings": demonstrations.records.settings}
    write_json(path, {**document, "rows": rows})
