"""Opening what a run left behind, to play with it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from remdm import config
from remdm.agent import BaseAgent
from remdm.artifacts import local_folder
from remdm.oracles.contract import Oracle
from remdm.oracles.making import make_oracle
from remdm.training.checkpoint import list_checkpoints, read_state
from remdm.training.run_folder import find_checkpoint


@dataclass(frozen=True, slots=True)
class OpenRun:
    """Who can play.

    Attributes:
        oracle: The teacher.
        groups: Environments of the run by the group that tables show them in.
        agents: Agents with the weights of the checkpoint.
        source: The checkpoint; None where there is none.
        facts: What a results file says of it: `checkpoint` (its path), `weights` ("averaged" or
            "raw"), `epochs` done and `batches` of the next, `updates` (None where an older version
            wrote it), `env_steps`, `remdm_version`.
        action_names: The action set that the agents speak.
    """

    oracle: Oracle
    groups: dict[str, list[str]]
    agents: dict[str, BaseAgent] = field(default_factory=dict)
    source: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    action_names: tuple[str, ...] = ()

    @property
    def envs(self) -> list[str]:
        """The environments of all groups."""
        return [env for group in self.groups.values() for env in group]

    def move_to(self, device: torch.device) -> None:
        """Let the agents compute there."""
        for agent in self.agents.values():
            agent.to(device)


def oracle_run(name: str) -> OpenRun:
    """An oracle alone."""
    return OpenRun(make_oracle(name), {"training": ["MiniHack-Room-Random-15x15-v0"]})


def open_run(
    reference: str | Path,
    configs: list[str],
    bindings: list[str],
    download_dir: Path = Path("artifacts"),
    allow_imports: Collection[str] = (),
    raw: bool = False,
) -> OpenRun:
    """Load the configuration and the weights of a run.

    Args:
        reference: A run folder or a checkpoint in it, or an artifact of W&B that holds one; see
            `remdm.artifacts.local_folder`.
        configs: Config files that overrule the run's own.
        bindings: Bindings that overrule both, as to play with other sampler settings.
        download_dir: Where artifacts are put.
        allow_imports: Modules that the run's configuration may import beside this package's: they
            are run.
        raw: Take the weights that were trained, instead of their moving average. Of a run folder
            that means the newest checkpoint: what validation chose is kept averaged only.

    Raises:
        CheckpointError: If it is missing, damaged, does not fit its configuration, or holds no
            weights of the kind.
        ArtifactError: If an artifact cannot be had.
        ConfigError: If its configuration is wrong, or imports anything else.
    """
    from remdm.experiment import Experiment

    path = local_folder(reference, download_dir=download_dir)
    folder, checkpoint = find_checkpoint(path)
    if raw and path.resolve() == folder.root.resolve():
        checkpoint = (list_checkpoints(folder.checkpoints) or [checkpoint])[-1]
    config.load_config([config.RunConfig(folder.config, allow_imports), *configs], bindings)
    run = Experiment(folder.root.name)
    groups = {"training": list(run.train_envs), "held-out": list(run.heldout_envs)}
    groups = {name: group for name, group in groups.items() if group}
    agents = run.load_agents(checkpoint, averaged=not raw)
    state = read_state(checkpoint)  # which has been checked by now
    return OpenRun(
        run.oracle_type(),
        groups,
        agents,
        checkpoint,
        _facts(checkpoint, state, raw),
        tuple(state["action_names"]),
    )


def _facts(checkpoint: Path, state: dict[str, Any], raw: bool) -> dict[str, Any]:
    progress, updates = state.get("progress", {}), state.get("updates")
    return {
        "checkpoint": str(checkpoint),
        "weights": "raw" if raw else "averaged",
        "epochs": progress.get("epoch"),
        "batches": progress.get("batches"),
        "updates": updates if isinstance(updates, int) else None,
        "env_steps": progress.get("env_steps"),
        "remdm_version": str(state.get("remdm_version", "unknown")),
    }
