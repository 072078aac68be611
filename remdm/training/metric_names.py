"""The names of the published MiniHack planner for what this one measures.

`metrics.jsonl` always has our own names. What trackers such as W&B are told can bear those of the
published planner, so that curves of both lie on one board. docs/minihack_keys.md has the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

OWN, SEED, BOTH = METRIC_NAMES = ("own", "seed", "both")

# Ours, and what they are called there.
ALIKE = {
    "epoch": ("iteration",),
    "env_steps": ("train/env_steps",),
    "progress": ("train/progress",),
    "epoch_seconds": ("speed/iter_time_sec", "perf/iter_time_s"),
    "collect/episodes": ("train/episodes_collected",),
    "collect/seconds": ("speed/collect_time_sec", "perf/collect_time_s"),
    "collect/steps_per_second": ("speed/env_steps_per_sec",),
    "collect/model_won": ("train/model_won",),
    "collect/added_to_buffer": ("train/added_to_buffer",),
    "collect/model_steps": ("train/model_steps",),
    "collect/oracle_steps": ("train/oracle_steps",),
    "collect/efficiency_ratio": ("train/efficiency_ratio",),
    "buffer/windows": ("train/buffer_size",),
    "train/planner/loss": ("diffusion/loss",),
    "train/planner/goal_loss": ("diffusion/loss_aux",),
    "train/planner/learning_rate": ("train/lr",),
    "train/planner/grad_norm": ("train/grad_norm",),
    "train/seconds": ("perf/train_time_s",),
    "train/seconds_per_batch": ("speed/train_step_time_sec",),
    "train/samples_per_second": ("speed/samples_per_sec",),
    "train/updates_per_second": ("perf/grad_steps_per_sec",),
    "train/gpu_memory_mb": ("speed/gpu_memory_mb",),
    "model/gate": ("train/global_gate",),
    "model/ema_gate": ("model/ema_gate_value",),
}
# Axes that curves are drawn against; they keep their names, too.
AXES = ("epoch", "env_steps", "updates")
# Ours, and theirs, of both kinds of environments; `/<environment>` may follow ours.
PLAYED = {"val": "eval_id", "heldout": "eval_ood"}
PER_ENV = {"win_rate": "win_rate", "return": "avg_reward", "steps": "avg_steps"}
_LOSS, _GOAL_LOSS = "train/planner/loss", "train/planner/goal_loss"


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Turns lines of metrics into what trackers are told.

    Attributes:
        mode: One of `METRIC_NAMES`.
        ckpt_interval: Epochs between checkpoints; None only at the end.
        windows_per_update: Of all processes, in a run that only learns from what is there; 0 in
            one that collects.
    """

    mode: str = OWN
    ckpt_interval: int | None = None
    windows_per_update: int = 0

    def told(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """What to tell of a line of `metrics.jsonl`.

        Args:
            line: By our names; axes among them.
        """
        if self.mode == OWN:
            return dict(line)
        theirs = self._theirs(line)
        kept = {k: v for k, v in line.items() if self.mode == BOTH or not self._has_other(k)}
        return {**kept, **theirs}

    def _has_other(self, name: str) -> bool:
        """Whether a metric of ours is one of theirs by another name."""
        return (name in ALIKE and name not in AXES) or _played(name) is not None

    def _theirs(self, line: Mapping[str, Any]) -> dict[str, Any]:
        found = {new: line[old] for old, names in ALIKE.items() if old in line for new in names}
        if _is_number(line.get(_LOSS)):
            goal = line.get(_GOAL_LOSS)
            found["diffusion/loss_diff"] = line[_LOSS] - (goal if _is_number(goal) else 0.0)
        played: dict[str, Any] = {}
        for name, value in line.items():
            if (other := _played(name)) is not None:
                played[other] = value
                if other.endswith("/win_rate"):
                    played |= _counts(other, value, line)
        found |= played
        if self._at_checkpoint(line):
            found |= _at_checkpoint_names(played)
        if self.windows_per_update and "seconds" in line:
            found |= self._offline(line)
        return found

    def _at_checkpoint(self, line: Mapping[str, Any]) -> bool:
        """Whether a checkpoint follows the epoch that a line sums up."""
        epoch = line.get("epoch")
        if "seconds" not in line or not _is_number(epoch):
            return False
        interval = self.ckpt_interval
        due = interval is not None and (int(epoch) + 1) % interval == 0
        return due or line.get("progress") == 1.0

    def _offline(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """What stays in the summary of a run that collects nothing: its last values."""
        updates = line.get("updates")
        if not _is_number(updates):
            return {}
        found = {"offline/total_steps": updates}
        found["offline/total_timesteps"] = updates * self.windows_per_update
        if _LOSS in line:
            found["offline/final_loss"] = line[_LOSS]
        return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _played(name: str) -> str | None:
    """The name of an evaluation's result there; None for other metrics.

    `val/win_rate/<env>` is `eval_id/<env>/win_rate`, and `val/win_rate` its mean.
    """
    group, _, rest = name.partition("/")
    metric, _, env = rest.partition("/")
    if group not in PLAYED or metric not in PER_ENV:
        return None
    if env:
        return f"{PLAYED[group]}/{env}/{PER_ENV[metric]}"
    return f"{PLAYED[group]}/mean_{PER_ENV[metric]}"


def _counts(name: str, rate: Any, line: Mapping[str, Any]) -> dict[str, Any]:
    """Episodes of one environment, and how many of them were won."""
    group = next(own for own, other in PLAYED.items() if name.startswith(f"{other}/"))
    episodes = line.get(f"{group}/episodes")
    stem = name.removesuffix("win_rate")
    if not stem.count("/") > 1 or not _is_number(episodes) or not _is_number(rate):
        return {}
    return {f"{stem}n_episodes": episodes, f"{stem}wins": round(rate * float(episodes))}


def _at_checkpoint_names(played: Mapping[str, Any]) -> dict[str, Any]:
    """The same results under the names of evaluations at a checkpoint."""
    found = {}
    for name, value in played.items():
        group, _, rest = name.partition("/")
        kind = group.removeprefix("eval_")
        if rest == "mean_win_rate":
            found[f"ckpt_eval/{kind}_winrate"] = value
        elif not rest.startswith("mean_"):
            found[f"ckpt_eval_{kind}/{rest}"] = value
    return found
