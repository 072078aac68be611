"""`remdm watch`: one episode in the terminal, as a GIF, and how one of its plans came to be."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from remdm import config

if TYPE_CHECKING:
    from remdm.evaluation.policies import Policy
    from remdm.evaluation.recording import Recording
    from remdm.evaluation.strip import Strip


def watch(args: argparse.Namespace) -> int:
    """Play one level and show it: in the terminal, and as a GIF and a plan's strip if asked for."""
    from remdm.envs.making import make_vec_env
    from remdm.evaluation.gif import write_gif
    from remdm.evaluation.recording import record_episode
    from remdm.evaluation.rendering import render_episode
    from remdm.evaluation.traced import plan_strip, trace_policy

    policy, envs = _player(args)
    traced = trace_policy(policy) if args.denoise or args.png else None
    vec_env = make_vec_env([args.env or envs[0]])
    try:
        recording = record_episode(policy, vec_env, args.seed)
    finally:
        vec_env.close()
    play_in_terminal(recording, args.fps)
    if args.gif is not None:
        write_gif(args.gif, render_episode(recording))
        Console().print(f"drawn in {args.gif}", highlight=False)
    if traced is not None:
        strip = plan_strip(traced, recording, args.plan, policy.replan_every)
        _show_strip(strip, recording, args.plan, args.png)
    return 0


def _show_strip(strip: "Strip", recording: "Recording", number: int, png: Path | None) -> None:
    """Print how a plan came to be, and draw it if a file was asked for."""
    from remdm.evaluation.strip import strip_image, strip_text, write_png
    from remdm.evaluation.tables import short_env_name

    level = f"{short_env_name(recording.env)}, {recording.policy}, level {recording.seed}"
    calls = f"{strip.nfe} net call{'s' if strip.nfe != 1 else ''}"
    title = f"{level}, plan {number}: {calls}"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n{title}")
    console.print(strip_text(strip))
    if png is not None:
        write_png(png, strip_image(strip, title))
        console.print(f"drawn in {png}")


def _player(args: argparse.Namespace) -> "tuple[Policy, list[str]]":
    """Who plays, and the environments of its run."""
    from remdm.cli_runs import open_run, oracle_run
    from remdm.evaluation.suite import suite_policies
    from remdm.oracles.making import ORACLES

    if args.run in ORACLES.names() and not Path(args.run).exists():
        config.load_config(args.configs, args.bind)
        run = oracle_run(args.run)
        name = run.oracle.name
    else:
        run = open_run(Path(args.run), args.configs, args.bind)
        name = args.policy
    (policy,) = suite_policies(run.agents, run.oracle, [name], args.seed)
    return policy, [env for group in run.groups.values() for env in group]


def play_in_terminal(recording: "Recording", fps: float) -> None:
    """Show an episode step by step on a terminal, and only its last step elsewhere."""
    from rich.live import Live

    from remdm.evaluation.rendering import fit_viewport
    from remdm.evaluation.terminal import moment_text

    view = fit_viewport([moment.observation for moment in recording.moments])
    screens = range(len(recording.moments))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.print(moment_text(recording, screens[-1], view))
        return
    with Live(console=console, auto_refresh=False) as live:
        for index in screens:
            live.update(moment_text(recording, index, view), refresh=True)
            time.sleep(1 / fps)
