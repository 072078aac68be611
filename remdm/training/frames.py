"""Budgets stated in env steps, and the epochs and updates that they come to.

What is stated in env steps means the same on every machine; what a loop counts does not: an epoch
of twice as many actors is twice as long. So budgets are stated in env steps and converted here,
from nothing but the number of actors, whenever a run starts. With

    S   train_timesteps_per_epoch, steps of each actor in an epoch
    A   actors of all processes together, parallel_actors times processes
    B   train_batches_per_epoch
    G   batches_per_update

and all else as it is by default, the conversions are

    frames per epoch     F = S * A
    epochs               N = max(1, floor(total_timesteps / F)), which take N * F env steps
    updates              U = N * floor(B / G)
    warm-up              floor(lr_warmup_timesteps / F) * floor(B / G) updates, less than U
    validation           every max(1, floor(val_interval_timesteps / F)) epochs
    data kept            max(1, round(dset_max_cycles * F)) env steps

A warm start makes the first epoch's collecting longer or shorter than F, and epochs before
`start_collecting_at_epoch` collect nothing; `Frames` knows both.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frames:
    """Env steps by epoch, over all actors.

    Attributes:
        per_epoch: Env steps of an epoch that collects, F.
        first: Env steps of the first epoch that collects; F without a warm start.
        idle: Epochs before it, which collect nothing.
    """

    per_epoch: int
    first: int
    idle: int = 0

    @classmethod
    def of(
        cls, steps_per_actor: int, actors: int, *, warm_start: int = 0, idle: int = 0
    ) -> "Frames":
        """Env steps of a set of actors.

        Args:
            steps_per_actor: Of each actor in an epoch, S.
            actors: Over all processes, A.
            warm_start: Steps of each actor in the first epoch that collects; S when 0.
            idle: Epochs before that one.
        """
        return cls(steps_per_actor * actors, (warm_start or steps_per_actor) * actors, idle)

    def through(self, epochs: int) -> int:
        """Env steps that `epochs` epochs are to collect."""
        collecting = max(0, epochs - self.idle)
        return 0 if not collecting else self.first + (collecting - 1) * self.per_epoch

    def epoch_of(self, collected: int) -> int:
        """The epoch, from 0, whose data is made next after `collected` env steps.

        Raises:
            ValueError: If epochs collect nothing.
        """
        self._check("Experiment.shard_timesteps")
        beyond = collected - self.first
        return self.idle + (0 if beyond < 0 else 1 + beyond // self.per_epoch)

    def epochs_within(self, total: int) -> int:
        """Most epochs that `total` env steps suffice for, N; at least one that collects.

        Raises:
            ValueError: If epochs collect nothing.
        """
        self._check("Experiment.total_timesteps")
        return self.idle + 1 + max(0, total - self.first) // self.per_epoch

    def epochs_to_reach(self, total: int) -> int:
        """Fewest epochs that collect `total` env steps or more.

        Raises:
            ValueError: If epochs collect nothing.
        """
        self._check("Experiment.total_timesteps")
        return self.idle + 1 + -(-max(0, total - self.first) // self.per_epoch)

    def whole_epochs(self, timesteps: int, name: str) -> int:
        """Epochs that `timesteps` env steps suffice for, rounded down, maybe none.

        Args:
            timesteps: Env steps over all actors.
            name: Of the knob, as bound in gin, for the error.

        Raises:
            ValueError: If epochs collect nothing.
        """
        self._check(name)
        return timesteps // self.per_epoch

    def steps_in(self, cycles: float) -> int:
        """Env steps in `cycles` epochs, at least 1: how much data `dset_max_cycles` keeps.

        Raises:
            ValueError: If epochs collect nothing.
        """
        self._check("DiskTrajDataset.dset_max_cycles")
        return max(1, round(cycles * self.per_epoch))

    def _check(self, name: str) -> None:
        if not self.per_epoch:
            raise ValueError(
                f"{name} is counted in env steps, and epochs collect none, got "
                "train_timesteps_per_epoch=0; set Experiment.train_timesteps_per_epoch or "
                f"{name} = None."
            )


def warmup_updates(
    timesteps: int, frames: Frames, updates_per_epoch: int, total_updates: int
) -> int:
    """Updates of warm-up that `lr_warmup_timesteps` comes to.

    Args:
        timesteps: Env steps over all actors.
        frames: Of an epoch.
        updates_per_epoch: floor(B / G).
        total_updates: Of the whole run, U.

    Raises:
        ValueError: If that is the whole run.
    """
    updates = frames.whole_epochs(timesteps, "Experiment.lr_warmup_timesteps") * updates_per_epoch
    if updates and updates >= total_updates:
        raise ValueError(
            f"the warm-up must end before the run does, and lr_warmup_timesteps={timesteps} comes "
            f"to {updates} of {total_updates} updates; lower Experiment.lr_warmup_timesteps or "
            "train for longer."
        )
    return updates


def interval_epochs(timesteps: int, frames: Frames) -> int:
    """Epochs between validations that `val_interval_timesteps` comes to."""
    return max(1, frames.whole_epochs(timesteps, "Experiment.val_interval_timesteps"))


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run comes to on the machines it runs on.

    Attributes:
        frames: Env steps by epoch.
        epochs: Epochs that schedules are stretched over.
        in_frames: Whether those epochs are what a number of env steps suffices for.
        epoch_limit: Epochs after which the run ends.
        step_limit: Env steps that end it earlier; None for none.
        updates_per_epoch: Changes of the weights in an epoch that trains.
        total_updates: Changes of the weights in the whole run.
        lr_warmup_steps: Updates of linear warm-up.
        val_interval: Epochs between validations; None for never.
        notes: What was converted, in sentences for people.
    """

    frames: Frames
    epochs: int
    in_frames: bool
    epoch_limit: int
    step_limit: int | None
    updates_per_epoch: int
    total_updates: int
    lr_warmup_steps: int
    val_interval: int | None
    notes: tuple[str, ...] = ()

    def spent(self, epoch: int, env_steps: int) -> bool:
        """Whether the run is over after `epoch` epochs with `env_steps` collected steps."""
        reached = self.step_limit is not None and env_steps >= self.step_limit
        return epoch >= self.epoch_limit or reached

    def validates_after(self, epoch: int) -> bool:
        """Whether a validation follows epoch number `epoch`, from 0."""
        return self.val_interval is not None and (epoch + 1) % self.val_interval == 0

    def validation_between(self, first: int, last: int) -> bool:
        """Whether a validation is due after one of the epochs from `first` to `last`, exclusive."""
        interval = self.val_interval
        return interval is not None and last // interval > first // interval

    def steps_to_collect(self, epoch: int, env_steps: int, processes: int = 1) -> int:
        """Env steps that each process has to collect in an epoch.

        Plans are carried out to their end, so an epoch collects more than it has to. Where the
        budget is one of env steps, the next epoch collects less for it, and N epochs come to
        N * F env steps but for the last plans; otherwise all epochs collect alike.

        Args:
            epoch: Number of the epoch, from 0.
            env_steps: Collected before it, over all processes.
            processes: Of the run.
        """
        so_far = env_steps if self.in_frames else self.frames.through(epoch)
        return -(-max(0, self.frames.through(epoch + 1) - so_far) // processes)


def total_note(total: int, frames: Frames, actors: int) -> str:
    """How a budget of `total` env steps was rounded to whole epochs."""
    epochs = frames.epochs_within(total)
    used = frames.through(epochs)
    how = "exactly" if used == total else "rounded down to" if used < total else "rounded up to"
    return (
        f"total_timesteps {total:,} is {_epochs(epochs)} of {frames.per_epoch:,} env steps by "
        f"{actors:,} actors, {how} {used:,}"
    )


def warmup_note(timesteps: int, updates: int, updates_per_epoch: int) -> str:
    """What a warm-up of `timesteps` env steps came to."""
    epochs = updates // max(1, updates_per_epoch)
    return f"lr_warmup_timesteps {timesteps:,} is {_epochs(epochs)}, {updates:,} updates"


def interval_note(timesteps: int, epochs: int, frames: Frames) -> str:
    """What an interval of `timesteps` env steps came to."""
    used = epochs * frames.per_epoch
    return f"val_interval_timesteps {timesteps:,} is {_epochs(epochs)}, {used:,} env steps"


def _epochs(count: int) -> str:
    return f"{count:,} epoch" if count == 1 else f"{count:,} epochs"
