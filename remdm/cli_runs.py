"""Opening what a run left behind, to play with it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from remdm import config
from remdm.agent import BaseAgent
from remdm.artifacts import local_folder
from remdm.oracles.contract import Oracle
from remdm.oracles.making import make_oracle
from remdm.training.run_folder import find_checkpoint


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


def open_run(
    reference: str | Path,
    configs: list[str],
    bindings: list[str],
    download_dir: Path = Path("artifacts"),
    allow_imports: Collection[str] = (),
) -> OpenRun:
    """Load the configuration and the averaged weights of a run.

    Args:
        reference: A run folder or a checkpoint in it, or an artifact of W&B that holds one; see
            `remdm.artifacts.local_folder`.
        configs: Config files that overrule the run's own.
        bindings: Bindings that overrule both, as to play with other sampler settings.
        download_dir: Where artifacts are put.
        allow_imports: Modules that the run's configuration may import beside this package's: they
            are run.

    Raises:
        CheckpointError: If it is missing, damaged, or does not fit its configuration.
        ArtifactError: If an artifact cannot be had.
        ConfigError: If its configuration is wrong, or imports anything else.
    """
    from remdm.experiment import Experiment

    folder, checkpoint = find_checkpoint(local_folder(reference, download_dir=download_dir))
    config.load_config([config.RunConfig(folder.config, allow_imports), *configs], bindings)
    run = Experiment(folder.root.name)
    groups = {"training": list(run.train_envs), "held-out": list(run.heldout_envs)}
    groups = {name: group for name, group in groups.items() if group}
    return OpenRun(run.oracle_type(), groups, run.load_agents(checkpoint), checkpoint)
