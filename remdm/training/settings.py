"""Every knob of an experiment, with what it means."""

from collections.abc import Callable, Sequence

import gin
import numpy as np

from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.data.batch import Window
from remdm.data.datasets import DiskTrajDataset, RLDataset
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.registry import unknown_name_message
from remdm.training import frames
from remdm.training.beta import BetaSchedule, LinearBeta
from remdm.training.curriculum import Curriculum
from remdm.training.frames import Budget, Frames
from remdm.training.pairing import Pairing
from remdm.training.plan_exploration import PlanExploration
from remdm.training.setting_values import LEAST, resume_point, whole_steps

Augmentation = Callable[[Window, np.random.Generator], Window]
"""Alters a batch; made with the oracle, which labels what it makes up."""

PRECISIONS = ("no", "bf16", "fp16")
METRICS = ("win_rate", "return")

# What can be stated in env steps or in what a loop counts, and the latter's default.
LR_WARMUP_STEPS, VAL_INTERVAL = 50, 5
FRAME_FORMS = {
    "lr_warmup_timesteps": ("lr_warmup_steps", LR_WARMUP_STEPS),
    "val_interval_timesteps": ("val_interval", VAL_INTERVAL),
}

# What may differ when a run goes on: no data and no weights depend on it.
MAY_CHANGE = (
    "always_save_latest",
    "async_env_mp_context",
    "ckpt_base_dir",
    "ckpt_interval",
    "dloader_workers",
    "env_mode",
    "keep_every_ckpts",
    "keep_last_ckpts",
    "log_interval",
    "max_epochs_ahead",
    "max_silence_seconds",
    "max_wait_seconds",
    "num_env_workers",
    "resume",
    "test_episodes",
    "test_step_cap",
    "trackers",
    "val_rows",
    "verbose",
    "wandb_entity",
    "wandb_project",
)


class ExperimentSettings:
    """The arguments of `Experiment`, bound in gin as `Experiment.name`, kept as attributes."""

    def __init__(
        self,
        run_name: str,
        *,
        ckpt_base_dir: str = "runs",
        buffer_dir: str | None = None,
        seed: int = 0,
        resume: str | int = "auto",
        start_from: str | None = None,
        train_envs: Sequence[str] = gin.REQUIRED,
        heldout_envs: Sequence[str] = (),
        actor_shares: Sequence[float] | None = None,
        train_step_caps: Sequence[int] | None = None,
        parallel_actors: int = 64,
        env_mode: str = "sync",
        num_env_workers: int = 2,
        async_env_mp_context: str = "forkserver",
        agent_type: Callable[..., BaseAgent] = DiffusionPlannerAgent,
        baseline_agent_type: Callable[..., BaseAgent] | None = None,
        oracle_type: Callable[[], Oracle] = MemoryOracle,
        dataset_type: Callable[..., RLDataset] = DiskTrajDataset,
        augmentation_type: Callable[[Oracle], Augmentation] | None = None,
        beta_schedule_type: Callable[[], BetaSchedule] = LinearBeta,
        curriculum_type: Callable[[Sequence[str], Sequence[float] | None], Curriculum]
        | None = None,
        pairing_type: Callable[[], Pairing] | None = None,
        exploration_wrapper_type: Callable[[int], PlanExploration] | None = None,
        oracle_noise: float = 0.1,
        warm_start_timesteps: int = 0,
        epochs: int | None = 100,
        total_timesteps: int | None = None,
        train_timesteps_per_epoch: int = 64,
        train_batches_per_epoch: int = 64,
        start_learning_at_epoch: int = 0,
        start_collecting_at_epoch: int = 0,
        val_interval: int | None = VAL_INTERVAL,
        val_interval_timesteps: int | None = None,
        val_episodes: int = 25,
        val_rows: int = 25,
        val_metric: str = "win_rate",
        val_step_cap: int | None = None,
        val_replan_every: int | None = None,
        val_tolerance: float = 0.0,
        test_episodes: int = 200,
        test_step_cap: int | None = None,
        ckpt_interval: int | None = 1,
        keep_every_ckpts: int | None = None,
        keep_last_ckpts: int = 2,
        always_save_latest: bool = True,
        always_load_latest: bool = False,
        has_dset_edit_rights: bool = True,
        batch_size: int = 128,
        batches_per_update: int = 1,
        learning_rate: float = 1e-3,
        lr_warmup_steps: int = LR_WARMUP_STEPS,
        lr_warmup_timesteps: int | None = None,
        lr_final_fraction: float = 0.05,
        l2_coeff: float = 1e-2,
        grad_clip: float = 1.0,
        ema_decay: float = 0.999,
        mixed_precision: str = "no",
        dloader_workers: int = 1,
        shard_timesteps: int | None = None,
        max_epochs_ahead: int = 1,
        max_wait_seconds: float = 600.0,
        max_silence_seconds: float = 1800.0,
        trackers: Sequence[str] = (),
        wandb_project: str = "remdm",
        wandb_entity: str | None = None,
        log_interval: int = 20,
        verbose: bool = True,
    ) -> None:
        """What is stated in env steps is converted by `budget_of`; see `remdm.training.frames`.

        Args:
        run_name: Name of the run and of its folder.
        ckpt_base_dir: Folder that run folders are made in.
        buffer_dir: Folder for shards and labels; the run folder when None.
        seed: All randomness of the run follows from it.
        resume: "auto" goes on with an existing run, "must" insists on one, "never" refuses. A
            number goes back to the checkpoint after so many epochs, at every start.
        start_from: Folder of another run or checkpoint, or "wandb:..." of one, whose averaged
            weights this run begins with; None begins with random ones.
        train_envs: Environments to collect, train and validate in.
        heldout_envs: Environments only met by `evaluate_test`.
        actor_shares: Share of the actors of each training environment; equal when None. With a
            curriculum, what the weights of the environments are multiplied by.
        train_step_caps: Steps after which a training episode is cut, per environment; the
            environments' own limits when None. Validation and test always use those.
        parallel_actors: Environments that collect side by side, in each process.
        env_mode: "sync" or "async".
        num_env_workers: Worker processes of env_mode "async".
        async_env_mp_context: How workers start: "fork", "spawn" or "forkserver".
        agent_type: Class of the planner.
        baseline_agent_type: Class of an agent trained beside it on the same batches, for the
            tables; it never collects.
        oracle_type: Class of the oracle that labels, and that acts with probability beta.
        dataset_type: Class of the dataset.
        augmentation_type: Class of what alters a batch, made with the oracle; None for nothing.
        beta_schedule_type: Class of the schedule of beta over the epochs.
        curriculum_type: Class of what draws the environment of every training episode, by how well
            the planner does in each; None leaves every actor its own.
        pairing_type: Class of how planner and oracle play levels in pairs, of which those are kept
            that the planner lost or was slow in; None keeps all that the actors do.
        exploration_wrapper_type: Class of what alters the planner's plans while it collects, as
            `EpsilonPlans` or `HotPlans`; None lets it do as it plans.
        oracle_noise: Chance that an oracle's plan is replaced by random actions in collecting.
        warm_start_timesteps: Steps per actor that the oracle alone collects before epoch 0.
        epochs: Rounds of collect, label, train; None for as many as `total_timesteps` suffices
            for.
        total_timesteps: Without `epochs`, env steps of the run, rounded down to whole epochs.
            With them, env steps that end the run after the epoch that reaches them; the
            schedules are then stretched over the epochs this takes. None for no such limit.
        train_timesteps_per_epoch: Env steps per actor and epoch; with pairs, whose number says how
            long an epoch is, what schedules expect.
        train_batches_per_epoch: Batches per epoch, a multiple of `batches_per_update`.
        start_learning_at_epoch: Epochs without training at the start.
        start_collecting_at_epoch: Epochs without collecting at the start.
        val_interval: Epochs between validations; None for never.
        val_interval_timesteps: Env steps between validations, instead of `val_interval`.
        val_episodes: Validation episodes per training environment.
        val_rows: Episodes of one environment that validation and test play side by side.
        val_metric: "win_rate" or "return": whose mean over the training environments chooses the
            best weights.
        val_step_cap: Steps after which a validation episode is cut; the environments' own limits
            when None.
        val_replan_every: Actions of a plan before the next one in validation; the agent's own
            number when None.
        val_tolerance: How much less than the best so far a later validation may score and still
            choose the weights: by chance alone a rate of N episodes differs by sqrt(p (1 - p) / N).
        test_episodes: Test episodes per environment.
        test_step_cap: Steps after which a test episode counts as lost; the environments' own
            limits when None, which is what results are compared at.
        ckpt_interval: Epochs between checkpoints; None only saves at the end.
        keep_every_ckpts: Checkpoints after a multiple of so many epochs, 0 among them, stay.
        keep_last_ckpts: Newest checkpoints that stay; the best one is kept apart.
        always_save_latest: Publish the averaged weights after each epoch.
        always_load_latest: Take published weights before collecting.
        has_dset_edit_rights: Whether this run may evict and quarantine shards.
        batch_size: Windows per batch and process.
        batches_per_update: Batches whose gradients are added up for one update.
        learning_rate: Peak learning rate of AdamW.
        lr_warmup_steps: Updates of linear warm-up.
        lr_warmup_timesteps: Env steps of linear warm-up, instead of `lr_warmup_steps`.
        lr_final_fraction: Share of the peak that the cosine decay ends at.
        l2_coeff: Decoupled weight decay.
        grad_clip: Largest norm of the gradient.
        ema_decay: Decay of the moving average of the weights.
        mixed_precision: "no", "bf16" or "fp16", as in accelerate.
        dloader_workers: Threads that prepare batches ahead; 0 prepares them in turn.
        shard_timesteps: Env steps that a process that only collects puts into one shard, an
            eighth of an epoch when None; in a process that does all, finished episodes and pieces
            of so many make a shard within an epoch, which otherwise has one.
        max_epochs_ahead: Epochs whose data separate collectors may make before the learner has
            come to them.
        max_wait_seconds: How long a separate process waits for others without any progress.
        max_silence_seconds: How long the processes that learn together wait for one of them before
            they count it as lost: longer than one takes to save a checkpoint or to label its part.
        trackers: Trackers of accelerate beside `metrics.jsonl`: "tensorboard", "wandb", ...
        wandb_project: Project of the wandb tracker.
        wandb_entity: User or team of the wandb tracker.
        log_interval: Batches between lines of training metrics.
        verbose: Show a progress bar on a terminal, or log a line per epoch elsewhere.

        Raises:
            ValueError: If a value makes no sense.
        """
        if train_envs is gin.REQUIRED:  # gin does not see it behind a subclass's **arguments
            raise RuntimeError("Required bindings for `Experiment` not provided: ['train_envs']")
        self.run_name, self.ckpt_base_dir, self.buffer_dir = run_name, ckpt_base_dir, buffer_dir
        self.seed, self.resume, self.start_from = seed, resume_point(resume), start_from
        self.train_envs, self.heldout_envs = tuple(train_envs), tuple(heldout_envs)
        self.actor_shares, self.train_step_caps = actor_shares, train_step_caps
        self.parallel_actors, self.env_mode = parallel_actors, env_mode
        self.num_env_workers, self.async_env_mp_context = num_env_workers, async_env_mp_context
        self.agent_type, self.baseline_agent_type = agent_type, baseline_agent_type
        self.oracle_type, self.dataset_type = oracle_type, dataset_type
        self.augmentation_type, self.beta_schedule_type = augmentation_type, beta_schedule_type
        self.curriculum_type, self.pairing_type = curriculum_type, pairing_type
        self.exploration_wrapper_type = exploration_wrapper_type
        self.oracle_noise, self.warm_start_timesteps = oracle_noise, warm_start_timesteps
        self.epochs, self.total_timesteps = epochs, whole_steps("total_timesteps", total_timesteps)
        self.train_timesteps_per_epoch = train_timesteps_per_epoch
        self.train_batches_per_epoch = train_batches_per_epoch
        self.start_learning_at_epoch = start_learning_at_epoch
        self.start_collecting_at_epoch = start_collecting_at_epoch
        self.val_interval, self.val_episodes, self.val_rows = val_interval, val_episodes, val_rows
        self.val_interval_timesteps = whole_steps("val_interval_timesteps", val_interval_timesteps)
        self.val_metric, self.val_step_cap = val_metric, val_step_cap
        self.val_replan_every, self.val_tolerance = val_replan_every, val_tolerance
        self.test_episodes, self.test_step_cap = test_episodes, test_step_cap
        self.ckpt_interval, self.keep_every_ckpts = ckpt_interval, keep_every_ckpts
        self.keep_last_ckpts = keep_last_ckpts
        self.always_save_latest = always_save_latest
        self.always_load_latest = always_load_latest
        self.has_dset_edit_rights = has_dset_edit_rights
        self.batch_size, self.batches_per_update = batch_size, batches_per_update
        self.learning_rate, self.lr_warmup_steps = learning_rate, lr_warmup_steps
        self.lr_warmup_timesteps = whole_steps("lr_warmup_timesteps", lr_warmup_timesteps)
        self.lr_final_fraction, self.l2_coeff = lr_final_fraction, l2_coeff
        self.grad_clip, self.ema_decay = grad_clip, ema_decay
        self.mixed_precision, self.dloader_workers = mixed_precision, dloader_workers
        self.shard_timesteps, self.max_epochs_ahead = shard_timesteps, max_epochs_ahead
        self.max_wait_seconds, self.max_silence_seconds = max_wait_seconds, max_silence_seconds
        self.trackers = tuple(trackers)
        self.wandb_project, self.wandb_entity = wandb_project, wandb_entity
        self.log_interval, self.verbose = log_interval, verbose
        self._check()

    def _check(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(
                    f"{name} must be at least {least}, got {value}; set Experiment.{name}."
                )
        for name in ("oracle_noise", "lr_final_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1], got {getattr(self, name)}; set Experiment.{name}."
                )
        if not self.grad_clip > 0:
            raise ValueError(
                f"grad_clip must be above 0, got {self.grad_clip}; set Experiment.grad_clip."
            )
        words_of = {"mixed_precision": PRECISIONS, "val_metric": METRICS}
        for name, words in words_of.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    unknown_name_message(f"Experiment.{name}", getattr(self, name), words)
                )
        if not self.train_envs or len(set(self.train_envs)) != len(self.train_envs):
            raise ValueError(
                "train_envs must be different names, at least one, got "
                f"{list(self.train_envs)}; set Experiment.train_envs."
            )
        if self.epochs is None and self.total_timesteps is None:
            raise ValueError(
                "a run must end, and both epochs and total_timesteps are None; set "
                "Experiment.epochs or Experiment.total_timesteps."
            )
        self._check_frame_forms()
        if self.train_batches_per_epoch % self.batches_per_update:
            raise ValueError(
                "train_batches_per_epoch must be a multiple of batches_per_update="
                f"{self.batches_per_update}, or an epoch would end within an update, got "
                f"{self.train_batches_per_epoch}; set Experiment.train_batches_per_epoch."
            )

    def _check_frame_forms(self) -> None:
        for name, (other, default) in FRAME_FORMS.items():
            value, counted = getattr(self, name), getattr(self, other)
            if value is not None and counted != default:
                raise ValueError(
                    f"{name}={value} and {other}={counted} say the same thing in two ways; set "
                    f"Experiment.{other} = {default}, its default, or Experiment.{name} = None."
                )

    def oracle_acts_alone(self, epoch: int) -> bool:
        """Whether epoch number `epoch` is the warm start, which needs no weights."""
        return epoch == self.start_collecting_at_epoch and self.warm_start_timesteps > 0

    def frames_of(self, actors: int) -> Frames:
        """Env steps by epoch.

        Args:
            actors: Environments that collect, over all processes.
        """
        return Frames.of(
            self.train_timesteps_per_epoch,
            actors,
            warm_start=self.warm_start_timesteps,
            idle=self.start_collecting_at_epoch,
        )

    def planned_epochs(self, actors: int) -> int:
        """Epochs until `epochs` or `total_timesteps` ends the run; see `frames_of`."""
        by_epoch = self.frames_of(actors)
        if self.epochs is None:
            assert self.total_timesteps is not None
            return by_epoch.epochs_within(self.total_timesteps)
        if self.total_timesteps is None or not by_epoch.per_epoch:
            return self.epochs
        return min(self.epochs, by_epoch.epochs_to_reach(self.total_timesteps))

    def budget_of(self, actors: int) -> Budget:
        """What all budgets come to with so many actors; depends on nothing else but the knobs.

        Args:
            actors: Environments that collect, over all processes.

        Raises:
            ValueError: If a budget in env steps meets epochs that collect nothing, or the warm-up
                is as long as the run.
        """
        by_epoch, epochs, notes = self.frames_of(actors), self.planned_epochs(actors), []
        if self.epochs is None and self.total_timesteps is not None:
            notes.append(frames.total_note(self.total_timesteps, by_epoch, actors))
        per_epoch = self.train_batches_per_epoch // self.batches_per_update
        total = max(0, epochs - self.start_learning_at_epoch) * per_epoch
        warmup, interval = self.lr_warmup_steps, self.val_interval
        if self.lr_warmup_timesteps is not None:
            warmup = frames.warmup_updates(self.lr_warmup_timesteps, by_epoch, per_epoch, total)
            if self.lr_warmup_timesteps:
                notes.append(frames.warmup_note(self.lr_warmup_timesteps, warmup, per_epoch))
        if self.val_interval_timesteps is not None:
            interval = frames.interval_epochs(self.val_interval_timesteps, by_epoch)
            notes.append(frames.interval_note(self.val_interval_timesteps, interval, by_epoch))
        return Budget(
            frames=by_epoch,
            epochs=epochs,
            in_frames=self.epochs is None,
            epoch_limit=epochs if self.epochs is None else self.epochs,
            step_limit=None if self.epochs is None else self.total_timesteps,
            updates_per_epoch=per_epoch,
            total_updates=total,
            lr_warmup_steps=warmup,
            val_interval=interval,
            notes=tuple(notes),
        )
