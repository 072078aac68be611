"""What a run leaves for people: a table, curves, and pictures of the agent at play.

Everything goes below the run's `report/` folder: `table.md` and `results.json` (the same numbers),
`loss.png`, `win_rate.png` or `return.png`, and `gifs/<environment>.gif`.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import make_vec_env
from remdm.evaluation.curves import draw_loss, draw_returns, draw_win_rates
from remdm.evaluation.policies import AgentPolicy, Policy
from remdm.evaluation.recording import record_episode
from remdm.evaluation.rendering import can_be_drawn, draw_gif
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.tables import (
    report_markdown,
    results_document,
    write_json,
    write_text,
)
from remdm.seeding import TEST_SEEDS, torch_generator
from remdm.training.run_folder import RunFolder
from remdm.training.tracking import read_all

if TYPE_CHECKING:
    from remdm.agent import BaseAgent

logger = logging.getLogger(__name__)

VecEnvMaker = Callable[[Sequence[str]], PlanVecEnv]


def env_groups(train_envs: Sequence[str], heldout_envs: Sequence[str]) -> dict[str, list[str]]:
    """The groups that every table of this project has."""
    return {"training": list(train_envs), "held-out": list(heldout_envs)}


def write_report(
    folder: RunFolder,
    rows: Sequence[EvalRow],
    agent: "BaseAgent",
    train_envs: Sequence[str],
    heldout_envs: Sequence[str],
    *,
    gif_seed: int = TEST_SEEDS.start,
    max_steps: int | None = None,
) -> list[Path]:
    """Write everything that `folder.report` holds; the table first, since it cost the most.

    Args:
        folder: The run.
        rows: What evaluation measured.
        agent: Plays for the pictures.
        train_envs: Environments trained on.
        heldout_envs: The others.
        gif_seed: Level seed of the pictures, the same for all environments.
        max_steps: Steps after which pictures end; None for the environments' own limits.

    Returns:
        The files written.
    """
    written = write_tables(folder.report, rows, train_envs, heldout_envs, title=folder.root.name)
    written += write_curves(folder.report, folder.metrics)
    written += write_gifs(
        folder.report / "gifs",
        AgentPolicy(agent, torch_generator(gif_seed, "gif")),
        [*train_envs, *heldout_envs],
        seed=gif_seed,
        max_steps=max_steps,
    )
    return written


def write_tables(
    report: Path,
    rows: Sequence[EvalRow],
    train_envs: Sequence[str],
    heldout_envs: Sequence[str],
    *,
    title: str | None = None,
) -> list[Path]:
    """Write `table.md` and `results.json`."""
    groups = env_groups(train_envs, heldout_envs)
    markdown, numbers = report / "table.md", report / "results.json"
    write_text(markdown, report_markdown(rows, groups, title=title))
    write_json(numbers, results_document(rows, groups))
    return [markdown, numbers]


def write_curves(report: Path, metrics: Path) -> list[Path]:
    """Write `loss.png` and `win_rate.png`, each if the metrics have something to draw."""
    lines = read_all(metrics.parent)
    drawn = {
        report / "loss.png": draw_loss,
        report / "win_rate.png": draw_win_rates,
        report / "return.png": draw_returns,
    }
    return [path for path, draw in drawn.items() if draw(lines, path)]


def write_gifs(
    folder: Path,
    policy: Policy,
    env_names: Sequence[str],
    *,
    seed: int,
    max_steps: int | None = None,
    max_frames: int | None = 300,
    vec_env_maker: VecEnvMaker = make_vec_env,
) -> list[Path]:
    """Write one GIF per environment in which `policy` plays level `seed`.

    Environments whose observation cannot be drawn are skipped with a warning.

    Args:
        folder: Where the files go.
        policy: Who plays.
        env_names: Environments.
        seed: Level seed.
        max_steps: See `record_episode`.
        max_frames: See `render_episode`.
        vec_env_maker: Makes a vector environment of one row, given one name.
    """
    written = []
    for env in env_names:
        vec_env = vec_env_maker([env])
        try:
            if not can_be_drawn(vec_env.observation_spec):
                logger.warning("no GIF for %s: its observation is no map and not Craftax's.", env)
                continue
            recording = record_episode(policy, vec_env, seed, max_steps=max_steps)
        finally:
            vec_env.close()
        path = folder / gif_name(env)
        draw_gif(path, recording, max_frames=max_frames)
        written.append(path)
    return written


def gif_name(env: str) -> str:
    """File name of an environment's GIF; the environment may be the path of a level file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", env).strip("_") + ".gif"
