"""`remdm baseline`: other ways to learn the same task, trained and measured like the planner."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remdm import config
from remdm.cli import commands
from remdm.cli.flags import FLAGS, Flag, add_config_flags, load_from_flags

if TYPE_CHECKING:
    from remdm.baselines.baseline import Baseline
    from remdm.evaluation.rollout import EvalRow
    from remdm.training.interrupt import StopRequest

DEFAULT_CONFIGS = ("minihack_baselines.gin",)
_SHARED = (
    "--total_timesteps",
    "--ckpt_base_dir",
    "--buffer_dir",
    "--test_episodes",
    "--mixed_precision",
)
OWN_FLAGS = (
    Flag("--algo", "Baseline.algorithm", str, "ppo, a2c, dqn, ppo-rnn, bc or dt"),
    Flag("--encoder", "Baseline.encoder", str, "planner, or raw glyph ids"),
    *(flag for flag in FLAGS if flag.name in _SHARED),
)
# Set for one seed after the other.
SEED = Flag("--seed", "Experiment.seed", int, "")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm baseline`."""
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="run folders of baselines, to be measured again without training",
    )
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds to train (0)")
    parser.add_argument("--num_seeds", type=int, metavar="N", help="the seeds 0 to N - 1 instead")
    parser.add_argument(
        "--run_name", help="name of the run folders, before _seed0 and so on (of the algorithm)"
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        metavar="NAME",
        help="rows of the table: the algorithm's name, that with :greedy, random, the oracle's "
        "name (all)",
    )
    parser.add_argument(
        "--envs",
        nargs="+",
        metavar="ENV",
        help="RUN: environment ids, or training, heldout, all, gridworld (those of the run)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="where the table of all seeds goes (<run_name>.json beside the run folders)",
    )
    for flag in OWN_FLAGS:
        parser.add_argument(
            flag.name,
            type=flag.kind,
            default=argparse.SUPPRESS,
            help=f"{flag.help} (binds {flag.binding})",
        )
    parser.set_defaults(binding_flags=(*OWN_FLAGS, SEED))
    add_config_flags(parser)


def baseline(args: argparse.Namespace) -> int:
    """Train and measure every seed, or measure what was trained.

    Returns:
        0, or 130 where somebody asked to stop before all was done.

    Raises:
        ValueError: If an argument makes no sense.
    """
    from remdm.allocator import keep_allocations
    from remdm.training.interrupt import Stopped, StopRequest

    keep_allocations()
    with StopRequest() as stop:
        try:
            if args.runs:
                return _measure_again(args, stop)
            return _train_all(args, stop)
        except Stopped:
            Console(soft_wrap=True, highlight=False).print(
                f"go on with: {escape(commands.command_line())}"
            )
            return commands.INTERRUPTED


def seeds_of(seeds: Sequence[int] | None, num_seeds: int | None) -> list[int]:
    """The seeds that `--seeds` and `--num_seeds` ask for.

    Raises:
        ValueError: If they make no sense.
    """
    if seeds is not None and num_seeds is not None:
        raise ValueError("--seeds and --num_seeds say the same thing in two ways; give one.")
    wanted = list(range(num_seeds)) if num_seeds is not None else list(seeds or [0])
    if not wanted or min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise ValueError(f"seeds must be different numbers from 0, at least one, got {wanted}.")
    return wanted


def _train_all(args: argparse.Namespace, stop: "StopRequest") -> int:
    from remdm.training.interrupt import Stopped

    if "algo" not in args:
        raise ValueError(
            "remdm baseline needs --algo (ppo, a2c, dqn, ppo-rnn, bc or dt), or the folders of "
            "runs to measure again."
        )
    by_seed: dict[int, Sequence[EvalRow]] = {}
    for seed in seeds_of(args.seeds, args.num_seeds):
        one = _open(args, seed)
        if not one.train(stop):
            raise Stopped
        rows = _known_rows(one, args.policies)
        if rows is None:
            one.load_best()
            rows = one.test(args.policies, stop=stop)
            one.report(rows)
        by_seed[seed] = rows
    groups = _groups(one)
    path = args.json or one.folder.root.parent / f"{_run_name(args)}.json"
    _finish(by_seed, groups, _facts(one), path)
    Console(soft_wrap=True, highlight=False).print(
        f"everything is in {escape(str(one.folder.root.parent))}/{escape(_run_name(args))}*"
    )
    return 0


def _measure_again(args: argparse.Namespace, stop: "StopRequest") -> int:
    """Play the test levels by the weights of runs; nothing of the runs is changed."""
    from remdm.baselines.baseline import Baseline
    from remdm.experiment import Experiment

    refused = [n for n in ("algo", "encoder", "ckpt_base_dir", "total_timesteps") if n in args]
    if refused or args.seeds is not None or args.num_seeds is not None:
        raise ValueError(
            "folders of runs to measure again say themselves what they hold; leave out "
            f"{', '.join('--' + name for name in refused) or '--seeds and --num_seeds'}."
        )
    by_seed: dict[int, Sequence[EvalRow]] = {}
    facts: dict[str, Any] = {}
    asked = dict(args.__dict__)
    for root in args.runs:
        config_file = root / "config.gin"
        if not config_file.is_file():
            raise ValueError(f"{root} must be the run folder of a baseline; no config.gin there.")
        args.configs = [config.RunConfig(config_file), *asked["configs"]]
        args.bind = [*asked["bind"], f"Experiment.ckpt_base_dir = {str(root.parent)!r}"]
        load_from_flags(args)
        one = Baseline(Experiment(root.name))
        seed = one.settings.seed
        if by_seed and (_facts(one) != facts or seed in by_seed):
            raise ValueError(
                f"runs must be seeds of one baseline; {root} differs from those before, or has "
                "their seed. Measure it by a command of its own."
            )
        facts, groups = _facts(one), _groups(one)
        if args.envs:
            groups = commands.env_groups(args.envs)
        envs = [env for group in groups.values() for env in group]
        one.load_best()
        by_seed[seed] = one.test(args.policies, envs, stop)
    _finish(by_seed, groups, facts, args.json)
    return 0


def _run_name(args: argparse.Namespace) -> str:
    encoder = f"_{args.encoder}" if getattr(args, "encoder", "planner") != "planner" else ""
    return args.run_name or f"baseline_{args.algo}{encoder}"


def _open(args: argparse.Namespace, seed: int) -> "Baseline":
    """The baseline of a seed, with its own configuration loaded."""
    from remdm.baselines.baseline import ALGORITHMS, Baseline, check_all_is_used
    from remdm.experiment import Experiment
    from remdm.registry import unknown_name_message

    if args.algo not in ALGORITHMS.names():
        raise ValueError(unknown_name_message("algorithm", args.algo, ALGORITHMS.names()))
    args.seed = seed
    load_from_flags(args, DEFAULT_CONFIGS)
    made = Baseline(Experiment(f"{_run_name(args)}_seed{seed}"))
    check_all_is_used()
    return made


def _known_rows(one: "Baseline", policies: Sequence[str] | None) -> "list[EvalRow] | None":
    """The rows that a finished run has already; None if one is missing."""
    from remdm.evaluation.run_record import read_run

    rows = read_run(one.folder.root).rows
    wanted = policies or [*one.names, "random", one.oracle.name]
    there = {(row.env, row.policy): row for row in rows}
    keys = [(env, policy) for policy in wanted for env in one.envs]
    episodes = one.settings.test_episodes
    if any(key not in there or there[key].episodes != episodes for key in keys):
        return None
    return [there[key] for key in keys]


def _groups(one: "Baseline") -> dict[str, list[str]]:
    settings = one.settings
    groups = {"training": list(settings.train_envs), "held-out": list(settings.heldout_envs)}
    return {name: envs for name, envs in groups.items() if envs}


def _facts(one: "Baseline") -> dict[str, Any]:
    return {
        "algorithm": one.algorithm,
        "encoder": one.encoder,
        "total_timesteps": one.settings.total_timesteps,
    }


def _finish(
    by_seed: "Mapping[int, Sequence[EvalRow]]",
    groups: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    path: Path | None,
) -> None:
    """Print the tables, and write them."""
    from remdm.baselines.seeds import document, pooled, spread
    from remdm.evaluation.tables import write_json

    commands.print_rows(pooled(by_seed), groups)
    Console().print(_seed_table(spread(by_seed, groups), list(by_seed)))
    if path is not None:
        write_json(path, document(by_seed, groups, facts))


def _seed_table(lines: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Table:
    """Mean win rates of every seed, and of all."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("mean win rate", style="cyan")
    table.add_column("policy")
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("all seeds", justify="right")
    for line in lines:
        rates = [line["seeds"].get(str(seed)) for seed in seeds]
        cells = ["-" if rate is None else f"{rate:.3f}" for rate in rates]
        together = f"{line['mean']:.3f}"
        if line["std"] is not None:
            together += f" (sd {line['std']:.3f})"
        table.add_row(line["group"], line["policy"], *cells, together)
    return table
