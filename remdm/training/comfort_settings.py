"""Knobs of an experiment that change no data: speed, what is told, what is handed on."""

from typing import Any

from remdm.registry import unknown_name_message
from remdm.training.metric_names import METRIC_NAMES
from remdm.training.settings import MAY_CHANGE as NUMBERS_MAY_CHANGE
from remdm.training.settings import ExperimentSettings

# What may differ when a run goes on, over all knobs.
MAY_CHANGE = (
    *NUMBERS_MAY_CHANGE,
    "artifact_interval",
    "compile_model",
    "heldout_val_every",
    "metric_names",
    "val_loss_batches",
    "wandb_run_id",
)


class ComfortSettings(ExperimentSettings):
    """`ExperimentSettings`, and the arguments of `Experiment` that change no data."""

    def __init__(
        self,
        run_name: str,
        *,
        compile_model: bool = False,
        heldout_val_every: int | None = None,
        val_loss_batches: int = 0,
        metric_names: str = "own",
        artifact_interval: int | None = 1,
        wandb_run_id: str | None = None,
        **arguments: Any,
    ) -> None:
        """See `ExperimentSettings` for the others.

        Args:
        run_name: Name of the run and of its folder.
        compile_model: Train through `torch.compile`; see `remdm.training.compiled_loss`. Planning,
            averages and checkpoints never do.
        heldout_val_every: Validations between plays of the held-out environments, on validation
            levels; None for never. They are logged, and choose nothing.
        val_loss_batches: Batches of levels that are kept back (`DiskTrajDataset.val_share`) that
            the loss is scored on at each validation, with the averaged weights; 0 for none.
        metric_names: What trackers are told: "own" names, those of the published MiniHack planner
            ("seed"), or "both"; see `remdm.training.metric_names`. `metrics.jsonl` has our own.
        artifact_interval: Checkpoints between those that the wandb tracker is handed as artifacts;
            None only hands on the last and the best weights at the end.
        wandb_run_id: Id of a run in W&B to go on with where this folder knows of none.
        arguments: Those of `ExperimentSettings`.

        Raises:
            ValueError: If a value makes no sense.
        """
        super().__init__(run_name, **arguments)
        self.compile_model, self.metric_names = compile_model, metric_names
        self.heldout_val_every, self.artifact_interval = heldout_val_every, artifact_interval
        self.wandb_run_id, self.val_loss_batches = wandb_run_id, val_loss_batches
        if not val_loss_batches >= 0:
            raise ValueError(
                f"val_loss_batches must be at least 0, got {val_loss_batches}; set "
                "Experiment.val_loss_batches."
            )
        for name in ("heldout_val_every", "artifact_interval"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} must be at least 1, got {value}; set Experiment.{name}.")
        if metric_names not in METRIC_NAMES:
            raise ValueError(
                unknown_name_message("Experiment.metric_names", metric_names, METRIC_NAMES)
            )
        if heldout_val_every is not None and not self.heldout_envs:
            raise ValueError(
                "heldout_val_every needs environments to play, and there are none; set "
                "Experiment.heldout_envs, or Experiment.heldout_val_every = None."
            )
