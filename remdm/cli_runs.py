"""Opening what a run left behind, to play with it."""

from dataclasses import dataclass, field
from pathlib import Path

from remdm import config
from remdm.agent import BaseAgent
from remdm.artifacts import local_folder
from remdm.oracles.contract import Oracle
from remdm.oracles.making import make_oracle
from remdm.training.checkpoint import STATE_FILE, CheckpointError, list_checkpoints
from remdm.training.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class OpenRun:
    """Who can play.

    Attributes:
        oracle: The teacher.
        groups: Environments of the run by the group that tables show them in.
        agents: Agents with the averaged weights of the checkpoint.
        source: The checkpoint; None where there is none.
    """

    oracle: Oracle
    groups: dict[str, list[str]]
    agents: dict[str, BaseAgent] = field(default_factory=dict)
    source: Path | None = None


def oracle_run(name: str) -> OpenRun:
    """An oracle alone."""
    return OpenRun(make_oracle(name), {"training": ["MiniHack-Room-Random-15x15-v0"]})


def find_checkpoint(path: Path) -> tuple[RunFolder, Path]:
    """The run folder and the checkpoint that `path` means.

    Args:
        path: A checkpoint folder, or a run folder: then its best checkpoint, else its newest. One
            that was taken out of its run, as an artifact is, has its `config.gin` inside.

    Raises:
        CheckpointError: If there is no checkpoint.
    """
    path = path.resolve()
    if (path / STATE_FILE).is_file():
        for parent in (path, *path.parents):
            if RunFolder(parent).config.is_file():
                return RunFolder(parent), path
        raise CheckpointError(f"{path} lies in no run folder: no config.gin in it or above it")
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise CheckpointError(f"{path} is neither a run folder nor a checkpoint: no config.gin")
    if (folder.best / STATE_FILE).is_file():
        return folder, folder.best
    found = list_checkpoints(folder.checkpoints)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint yet; train it for an epoch first")
    return folder, found[-1]


def open_run(
    reference: str | Path,
    configs: list[str],
    bindings: list[str],
    download_dir: Path = Path("artifacts"),
) -> OpenRun:
    """Load the configuration and the averaged weights of a run.

    Args:
        reference: A run folder or a checkpoint in it, or an artifact of W&B that holds one; see
            `remdm.artifacts.local_folder`.
        configs: Config files that overrule the run's own.
        bindings: Bindings that overrule both, as to play with other sampler settings.
        download_dir: Where artifacts are put.

    Raises:
        CheckpointError: If it is missing, damaged, or does not fit its configuration.
        ArtifactError: If an artifact cannot be had.
    """
    from remdm.experiment import Experiment

    folder, checkpoint = find_checkpoint(local_folder(reference, download_dir=download_dir))
    config.load_config([folder.config, *configs], bindings)
    run = Experiment(folder.root.name)
    groups = {"training": list(run.train_envs), "held-out": list(run.heldout_envs)}
    groups = {name: group for name, group in groups.items() if group}
    return OpenRun(run.oracle_type(), groups, run.load_agents(checkpoint), checkpoint)
