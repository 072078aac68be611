"""Knobs of an experiment that say what changes on its way, and what of the data counts."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from remdm.data.pieces import PieceLength, piece_length
from remdm.training.level_guard import LevelGuard
from remdm.training.loss_masks import LossMask
from remdm.training.objective_settings import ObjectiveSettings
from remdm.training.scheduled import ScheduledNumbers

if TYPE_CHECKING:
    from remdm.training.assembly import AssembledRun


class CourseSettings(ObjectiveSettings):
    """`ObjectiveSettings`, and numbers that change, masks of the loss, and pieces of episodes.

    Attributes:
        loss_mask: Says what of a batch is learnt from; None for all.
        levels: Keeps levels that the run is measured on out of its data.
        scheduled: The numbers that follow schedules.
    """

    loss_mask: LossMask | None
    levels: LevelGuard
    scheduled: ScheduledNumbers

    def __init__(
        self,
        run_name: str,
        *,
        schedules: Mapping[str, Callable[[int], float]] | None = None,
        loss_mask_type: Callable[[], LossMask] | None = None,
        traj_save_len: int | None = None,
        stagger_traj_file_lengths: bool = True,
        **arguments: Any,
    ) -> None:
        """See `ExperimentSettings`, `ComfortSettings` and `ObjectiveSettings` for the others.

        Args:
        run_name: Name of the run and of its folder.
        schedules: Bound numbers that follow a function of the env steps, by name, as
            {"Experiment.oracle_noise": @LinearRamp()}; see `remdm.training.scheduled`.
        loss_mask_type: Class of what says which states and tokens of a batch are learnt from; see
            `remdm.training.loss_masks`. All that have a label when None.
        traj_save_len: Env steps after which a recorded episode goes on in another piece, and in
            another file, once `shard_timesteps` of finished pieces are there. None cuts nothing
            but what an epoch's end does.
        stagger_traj_file_lengths: Draw the length of each piece from half of `traj_save_len` to
            one and a half, so that the pieces of many actors do not all end at the same step.
        arguments: Those of `ObjectiveSettings`.

        Raises:
            ValueError: If a value makes no sense.
        """
        super().__init__(run_name, **arguments)
        self.schedules, self.loss_mask_type = schedules, loss_mask_type
        self.traj_save_len = traj_save_len
        self.stagger_traj_file_lengths = stagger_traj_file_lengths
        if traj_save_len is not None and not traj_save_len >= 1:
            raise ValueError(
                f"traj_save_len must be at least 1, got {traj_save_len}; set "
                "Experiment.traj_save_len, or None for whole episodes."
            )

    @property
    def piece_length(self) -> PieceLength | None:
        """How long pieces of recorded episodes are; None cuts none."""
        staggered = self.stagger_traj_file_lengths
        return piece_length(self.traj_save_len, self.seed, staggered=staggered)

    def init_course(self) -> None:
        """Make what these knobs ask for; called when agents and dataset are there.

        Raises:
            ValueError: See `ScheduledNumbers`.
        """
        self.loss_mask = self.loss_mask_type() if self.loss_mask_type else None
        self.level_guard = LevelGuard([*self.train_envs, *self.heldout_envs])
        self.scheduled = ScheduledNumbers(self.schedules, cast("AssembledRun", self))
