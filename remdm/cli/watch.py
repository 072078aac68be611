"""`remdm watch`: one episode in the terminal, as a GIF, and how one of its plans came to be."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from remdm import config

if TYPE_CHECKING:
    from remdm.evaluation.policies import Policy
    from remdm.evaluation.recording import Recording
    from remdm.evaluation.strip import Strip


def watch(args: argparse.Namespace) -> int:
    """Play one level and show it: in the terminal, and as a GIF and a plan's strip if asked for."""
    from remdm.envs.making import make_vec_env
    from remdm.evaluation.recording import record_episode
    from remdm.evaluation.rendering import draw_gif
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
        draw_gif(args.gif, recording)
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
    from remdm.cli.runs import open_run, oracle_run
    from remdm.evaluation.suite import suite_policies
    from remdm.oracles.making import ORACLES

    if args.run in ORACLES.names() and not Path(args.run).exists():
        config.load_config(args.configs, args.bind)
        run = oracle_run(args.run)
        name = run.oracle.name
    else:
        run = open_run(
            args.run, args.configs, args.bind, args.wandb_download_dir, args.allow_import
        )
        name = args.policy
    (policy,) = suite_policies(run.agents, run.oracle, [name], args.seed)
    return policy, [env for group in run.groups.values() for env in group]


def play_in_terminal(recording: "Recording", fps: float) -> None:
    """Show an episode step by step on a terminal, and only its last step elsewhere."""
    from rich.live import Live

    screen = _screens(recording)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.print(screen(recording.num_steps))
        return
    with Live(console=console, auto_refresh=False) as live:
        for index in range(len(recording.moments)):
            live.update(screen(index), refresh=True)
            time.sleep(1 / fps)


def _screens(recording: "Recording") -> Callable[[int], RenderableType]:
    """The screen of each moment of an episode, by its number."""
    from remdm.evaluation.craftax_text import life_text
    from remdm.evaluation.rendering import fit_viewport, shows_life
    from remdm.evaluation.terminal import moment_text

    if shows_life(recording):
        return lambda index: life_text(recording, index)
    view = fit_viewport([moment.observation for moment in recording.moments])
    return lambda index: moment_text(recording, index, view)
