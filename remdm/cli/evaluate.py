"""`remdm oracle` and `remdm eval`: how often somebody wins, and what that costs."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from remdm import config
from remdm.cli.commands import env_groups, print_rows, write_rows
from remdm.cli.flags import add_config_flags, add_env_flags, add_run_flags, load_from_flags
from remdm.cli.levels import (
    add_cap_flag,
    add_level_flag,
    chosen_groups,
    levels_played,
    named_rows,
    row_names,
)

if TYPE_CHECKING:
    from remdm.cli.runs import OpenRun
    from remdm.evaluation.likelihood import Nelbo
    from remdm.evaluation.policies import Policy
    from remdm.evaluation.rollout import EvalRow
    from remdm.evaluation.timing import Timing

# Calls of a policy that `--latency` times in every environment, and those before that it does not.
TIMED_CALLS, WARMUP_CALLS = 50, 5


def add_oracle_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm oracle`."""
    parser.add_argument(
        "--oracle", nargs="+", default=["memory"], help="memory, seed, random, expert"
    )
    parser.add_argument("--replan_every", type=int, help="actions of a plan before the next one")
    add_cap_flag(parser)
    add_env_flags(parser, "all", 100)
    add_level_flag(parser)
    add_config_flags(parser)


def add_eval_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm eval`."""
    parser.add_argument(
        "run", metavar="RUN_OR_CHECKPOINT", help="a run folder, one in it, or wandb:..."
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        metavar="NAME",
        help="rows of the table: planner, single_step, planner+constraints, random, an oracle, or "
        "an agent with choices, as planner:replan=1,temperature=0.2,near=9",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="add rows of the planner with other numbers of actions per plan, and other samplers",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="play with the trained weights, not with their moving average; of a run folder, "
        "those of its newest checkpoint",
    )
    parser.add_argument(
        "--blind",
        action="store_true",
        help="hide the global map from the agents: they see what is near, the rest is unknown",
    )
    parser.add_argument(
        "--near",
        type=int,
        metavar="CELLS",
        help="cells along the square that --blind leaves (what the net sees in full)",
    )
    parser.add_argument(
        "--latency",
        action="store_true",
        help="time planning, too: for one plan at a time, and for --rows plans",
    )
    parser.add_argument(
        "--nelbo",
        action="store_true",
        help="measure, too, how likely the planner finds the oracle's plans",
    )
    parser.add_argument(
        "--save_trajectories",
        type=Path,
        metavar="FOLDER",
        help="keep all episodes, as `remdm collect` does: for looking at; to learn from them, play "
        "levels of the training seeds with --seed 1000000",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="where nets compute: cpu, cuda, cuda:1; auto is cuda where there is one",
    )
    add_cap_flag(parser)
    add_run_flags(parser)
    add_env_flags(parser, "those of the run", 200)
    add_level_flag(parser)
    add_config_flags(parser)


# ------------------------------------------------------------------------------------------ oracle


def oracle(args: argparse.Namespace) -> int:
    """Play levels by oracles and print how often they win."""
    from remdm.evaluation.costs import describe
    from remdm.evaluation.suite import oracle_policy
    from remdm.oracles.making import make_oracle

    load_from_flags(args)
    groups = chosen_groups(args.envs, args.des, env_groups(None))
    names = row_names([env for group in groups.values() for env in group])
    rows: list[EvalRow] = []
    described: dict[str, Any] = {}
    for oracle_name in args.oracle:
        policy = oracle_policy(make_oracle(oracle_name), replan_every=args.replan_every)
        described[policy.name] = describe(policy)
        for env in names:
            rows += _play(policy, env, args)
    named, groups = named_rows(rows, groups)
    print_rows(named, groups)
    write_rows(args.json, named, groups, {"policies": described} | levels_played(names, args))
    config.check_bindings()
    return 0


def _play(policy: "Policy", env: str, args: argparse.Namespace) -> "list[EvalRow]":
    """One environment at a time: they may differ in size."""
    from tqdm import tqdm

    from remdm.envs.making import make_vec_env
    from remdm.evaluation.rollout import evaluate_policy

    # Off a terminal (disable=None) there is nobody to watch a bar.
    with tqdm(total=args.episodes, desc=f"{policy.name} {env}", disable=None, leave=False) as bar:

        def tell(finished: int, total: int, won: int) -> None:
            bar.set_postfix_str(f"won {won / max(finished, 1):.2f}", refresh=False)
            bar.update(finished - bar.n)

        return evaluate_policy(
            policy,
            [env],
            episodes=args.episodes,
            first_seed=args.seed,
            make_vec_env=make_vec_env,
            rows=args.rows,
            max_episode_steps=args.max_steps,
            progress=tell,
        ).rows


# -------------------------------------------------------------------------------------------- eval


def evaluate(args: argparse.Namespace) -> int:
    """Play levels by the agents of a run and print how often they win, and what that costs."""
    from remdm.cli.runs import open_run
    from remdm.devices import named_device
    from remdm.envs.making import make_vec_env
    from remdm.evaluation.costs import cost_table, describe, timing_rows
    from remdm.evaluation.kept_episodes import KeptEpisodes
    from remdm.evaluation.suite import evaluate_suite, suite_policies

    if args.near is not None and not args.blind:
        raise ValueError("--near says how much --blind leaves in sight; give --blind as well.")
    device = named_device(args.device)
    run = open_run(
        args.run, args.configs, args.bind, args.wandb_download_dir, args.allow_import, args.raw
    )
    run.move_to(device)
    groups = chosen_groups(args.envs, args.des, run.groups)
    names = row_names([env for group in groups.values() for env in group])
    policies = _policies(run, args)
    described = {p.name: describe(p) for p in suite_policies(run.agents, run.oracle, policies, 0)}
    extra: dict[str, Any] = {
        "run": run.facts,
        "policies": described,
        **levels_played(names, args),
    }
    sets = playable_sets(run, list(names))
    keep = None
    if args.save_trajectories is not None:
        keep = KeptEpisodes(args.save_trajectories, args.seed)
    if args.nelbo:
        extra["nelbo"] = _print_nelbo(run, list(names), args)
    rows: list[EvalRow] = []
    for envs in sets:
        rows += evaluate_suite(
            run.agents,
            run.oracle,
            envs,
            policies=policies,
            episodes=args.episodes,
            first_seed=args.seed,
            rows=args.rows,
            seed=args.seed,
            make_vec_env=make_vec_env,
            max_episode_steps=args.max_steps,
            keep=keep,
        )
    timings = list(_timings(run, list(names), policies, args)) if args.latency else []
    if timings:
        extra["latency"] = timing_rows((names[env], timing) for env, timing in timings)
        extra["machine"] = machine(run)
    named, groups = named_rows(rows, groups)
    console = Console(highlight=False, soft_wrap=True)
    console.print(escape(run_line(run.facts)))
    print_rows(named, groups)
    console.print(cost_table(named, [timing for _, timing in timings]))
    if keep is not None:
        keep.announce()
        console.print(f"the episodes are in {escape(str(args.save_trajectories))}")
    write_rows(args.json, named, groups, extra)
    return 0


def _policies(run: "OpenRun", args: argparse.Namespace) -> list[str]:
    """Names of the rows that are asked for."""
    from remdm.evaluation.variants import blind_row, sweep_of

    policies = list(args.policies or run.agents)
    if args.sweep:
        policies += sweep_of("planner", run.agents["planner"])
    if args.blind:
        policies = [blind_row(name, run.agents, args.near) for name in policies]
    return policies


def run_line(facts: Mapping[str, Any]) -> str:
    """Which weights play, for people."""
    text = f"{facts['weights']} weights of {facts['checkpoint']}"
    if facts["epochs"] is not None:
        text += f", after {facts['epochs']} epochs"
        text += f" and {facts['batches']} batches" if facts["batches"] else ""
    if facts["updates"] is not None:
        text += f", {facts['updates']:,} updates"
    return text


def playable_sets(run: "OpenRun", envs: Sequence[str]) -> list[list[str]]:
    """The environments in sets whose observations have one shape.

    Raises:
        ValueError: If one is not of a kind that the run's agents can play.
    """
    from remdm.envs.making import make_env
    from remdm.maps import HISTORY_PREFIX, ArraySpec

    if set(envs) <= set(run.envs):
        return [list(envs)]
    read = {k for agent in run.agents.values() for k in agent.observation_keys}
    read = {key for key in read if not key.startswith(HISTORY_PREFIX)}
    sets: list[tuple[dict[str, ArraySpec], list[str]]] = []
    for env in envs:
        with closing(make_env(env)) as made:
            spec, actions = dict(made.observation_spec), tuple(made.action_names)
        if actions != run.action_names or not read <= spec.keys():
            raise ValueError(
                f"the agents of this run were trained on {run.envs[0]} and cannot play {env}: it "
                "has other actions or shows other things."
            )
        fitting = [members for other, members in sets if other == spec]
        if fitting:
            fitting[0].append(env)
        else:
            sets.append((spec, [env]))
    return [members for _, members in sets]


def _timings(
    run: "OpenRun", envs: Sequence[str], policies: Sequence[str], args: argparse.Namespace
) -> "Iterator[tuple[str, Timing]]":
    """Every policy in every environment, one plan at a time and `--rows` at once."""
    from tqdm import tqdm

    from remdm.envs.making import make_vec_env
    from remdm.evaluation.suite import suite_policies
    from remdm.evaluation.timing import time_policy

    batches = sorted({1, args.rows})
    total = len(policies) * len(batches) * len(envs)
    with tqdm(total=total, desc="timing", unit="env", disable=None, leave=False) as bar:
        for rows in batches:
            for policy in suite_policies(run.agents, run.oracle, policies, args.seed):
                for env in envs:
                    yield (
                        env,
                        time_policy(
                            policy,
                            env,
                            rows=rows,
                            calls=TIMED_CALLS,
                            warmup=WARMUP_CALLS,
                            first_seed=args.seed,
                            make_vec_env=make_vec_env,
                            max_episode_steps=args.max_steps,
                        ),
                    )
                    bar.update()


def machine(run: "OpenRun") -> dict[str, Any]:
    """What times were measured on."""
    import platform

    import torch

    agent = next(iter(run.agents.values()))
    device = next(agent.parameters()).device
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _print_nelbo(
    run: "OpenRun", envs: Sequence[str], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure and print how likely the planner finds the oracle's plans; rows for a JSON file.

    Raises:
        ValueError: If the run's planner does not denoise.
    """
    from tqdm import tqdm

    from remdm.agent import DiffusionPlannerAgent
    from remdm.envs.making import make_vec_env
    from remdm.evaluation.likelihood import nelbo_of, nelbo_rows, nelbo_table, oracle_window
    from remdm.seeding import torch_generator

    agent = run.agents.get("planner")
    if not isinstance(agent, DiffusionPlannerAgent):
        raise ValueError(
            f"--nelbo needs a planner that denoises, got {type(agent).__name__}; leave it out."
        )
    names = row_names(envs)
    found: dict[str, Nelbo] = {}
    # Off a terminal (disable=None) there is nobody to watch a bar.
    for env in tqdm(envs, desc="the oracle's plans", unit="env", disable=None, leave=False):
        window = oracle_window(
            agent,
            run.oracle,
            env,
            episodes=args.episodes,
            first_seed=args.seed,
            rows=args.rows,
            make_vec_env=make_vec_env,
        )
        found[names[env]] = nelbo_of(agent, window, torch_generator(args.seed, "nelbo", env))
    Console().print(nelbo_table(found, run.oracle.name))
    return nelbo_rows(found)
