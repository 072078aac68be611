"""The held-out environments during training: played now and then, logged, and nothing more."""

from typing import TYPE_CHECKING

from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.rollout import Progress, evaluate_in
from remdm.seeding import VALIDATION_SEEDS, torch_generator

if TYPE_CHECKING:
    from remdm.training.logged_run import LoggedRun


def is_due(run: "LoggedRun") -> bool:
    """Whether held-out environments are played with the validation of the present epoch."""
    every, interval = run.heldout_val_every, run.budget.val_interval
    if every is None or interval is None:
        return False
    return (run.progress.epoch + 1) // interval % every == 0


def heldout_metrics(run: "LoggedRun", progress: Progress) -> dict[str, float]:
    """Play validation levels of the held-out environments by the weights that act.

    No checkpoint is chosen by what comes of it, and no random stream of the run is drawn from, so
    that a run is the same with it and without.

    Args:
        run: One that validates.
        progress: Told after every round of plans; may raise.

    Returns:
        `heldout/win_rate`, `heldout/return` and the like, by environment and their means; nothing
        where they are not due.
    """
    if not is_due(run):
        return {}
    chance = torch_generator(run.seed, "heldout", run.progress.epoch)
    played = evaluate_in(
        AgentPolicy(run.policy, chance, replan_every=run.val_replan_every),
        run.heldout_vec_env(),
        episodes=run.val_episodes,
        first_seed=VALIDATION_SEEDS.start,
        max_episode_steps=run.val_step_cap,
        progress=progress,
    )
    means = played.means(run.reduce)
    found = {f"heldout/{name.removeprefix('val/')}": value for name, value in means.items()}
    return {"heldout/episodes": float(run.val_episodes), **found}
