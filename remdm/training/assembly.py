"""Building what an experiment works with: processes, environments, agents, data, logs."""

import contextlib
import math
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, set_seed

from remdm import config
from remdm.agent import BaseAgent
from remdm.data.contract import RLDataset
from remdm.data.datasets import DiskTrajDataset
from remdm.data.shards import RecordingBuffer
from remdm.distributed.labelling import SharedLabelling
from remdm.distributed.lease import Lease
from remdm.distributed.ownership import Ownership, role_folder
from remdm.distributed.publication import Subscriber
from remdm.distributed.transport import FileTransport, Transport, collector_name
from remdm.envs.contract import EnvKind, PlanVecEnv
from remdm.envs.history import with_history
from remdm.envs.making import make_env, make_vec_env
from remdm.envs.sync import check_same_kind
from remdm.training.allotment import allot_actors, level_caps
from remdm.training.base_collector import BaseCollector
from remdm.training.collecting import make_collector, make_curriculum, make_exploration
from remdm.training.comfort_settings import MAY_CHANGE
from remdm.training.course_settings import CourseSettings
from remdm.training.data_checks import check_data_knobs
from remdm.training.frames import Budget
from remdm.training.interrupt import StopRequest
from remdm.training.progress import Progress, ProgressBar
from remdm.training.roles import BOTH, Role
from remdm.training.run_folder import RunFolder
from remdm.training.trackers import Trackers, check_trackers
from remdm.training.tracking import JsonlLog
from remdm.training.trainer import AgentTrainer, OptimiserSettings

PLANNER, BASELINE = "planner", "single_step"


class AssembledRun(CourseSettings):
    """The parts of an experiment. Each `init_` method makes some, and can be overridden.

    Attributes:
        folder: Where everything of the run lies.
        progress: Its counters.
        accelerator: Device and processes.
        budget: What the run comes to on so many actors.
        role: What this process does of it; some attributes are only there in some roles.
        kind: Actions and observations of all its environments.
        envs: The environments that collect.
        val_envs: The environments that validate.
        transport: What connects separate collectors with the run.
        subscriber: Reads published weights.
        labelling: Shares the shards among separate labellers.
        trainers: The planner and, where there is one, the baseline, each with its optimiser.
        dataset: What batches are drawn from.
        collector: Runs the actors.
        metrics_log: `metrics.jsonl`.
        tracking: The trackers of accelerate.
    """

    folder: RunFolder
    progress: Progress
    accelerator: Accelerator
    budget: Budget
    role: Role
    kind: EnvKind
    envs: PlanVecEnv
    val_envs: PlanVecEnv
    transport: Transport
    subscriber: Subscriber
    labelling: SharedLabelling
    trainers: dict[str, AgentTrainer]
    dataset: RLDataset
    collector: BaseCollector
    metrics_log: JsonlLog
    tracking: Trackers

    def assemble(self, role: Role = BOTH, transport: Transport | None = None) -> None:
        """Build everything, and claim the run folder; what is on disk is not read yet.

        Args:
            role: What this process does; what other roles need is not built, or not opened.
            transport: Connects a collector with the run; made from the run's folder when None.

        Raises:
            ValueError: If the configuration does not make sense, a binding is of no use, or the
                folder holds a run with another configuration.
            LeaseHeld: If another process has this role.
        """
        self._open = contextlib.ExitStack()
        self.role = role
        self.folder = RunFolder(Path(self.ckpt_base_dir) / self.run_name)
        self.progress, self.stop = Progress(), StopRequest()
        check_trackers(self.trackers)
        try:
            self.init_accelerator()
            self.oracle = self.oracle_type()
            self.beta_schedule = self.beta_schedule_type()
            self.augment = self.augmentation_type(self.oracle) if self.augmentation_type else None
            self.pairing = self.pairing_type() if self.pairing_type else None
            self.curriculum = make_curriculum(self)
            self.init_envs()
            self.init_model()
            self.exploration = make_exploration(self)
            self.init_dsets()
            self.init_course()
            self.init_folder()
            self.init_place(transport)
            if role.collects:
                self.init_collector()
            self.init_logger()
        except BaseException:
            self._open.close()
            raise

    def make_accelerator(self, **arguments: Any) -> Accelerator:
        """Device, precision, gradient accumulation and processes."""
        # accelerate keeps one precision per process; an earlier experiment may have chosen another.
        earlier = AcceleratorState._shared_state.get("_mixed_precision", self.mixed_precision)
        if earlier != self.mixed_precision:
            AcceleratorState._reset_state()
        return Accelerator(
            mixed_precision=self.mixed_precision,
            gradient_accumulation_steps=self.batches_per_update,
            **arguments,
        )

    def init_accelerator(self) -> None:
        """The accelerator of the run; each trainer gets one more."""
        patience = timedelta(seconds=self.max_silence_seconds)
        self.accelerator = self.make_accelerator(
            kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)],
            log_with=list(self.trackers) or None,
            project_dir=str(self.folder.root),
        )
        self._open.callback(self.accelerator.end_training)
        if self.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError(
                "mixed_precision 'fp16' needs an accelerator, and there is only a CPU; set "
                "Experiment.mixed_precision = 'bf16' or 'no'."
            )
        self.rank = self.accelerator.process_index
        # Our own draws come from named streams; this is for nets of others, as with dropout.
        set_seed(self.seed, device_specific=True)

    def init_envs(self) -> None:
        """The environments that collect, and those that validate."""
        self.kind = self.look_at_envs()
        processes = self.accelerator.num_processes if self.role.alone else 1
        self.budget = self.budget_of(self.parallel_actors * processes)
        if self.role.collects:
            names = allot_actors(self.train_envs, self.actor_shares, self.parallel_actors)
            caps = level_caps(self.train_envs, self.train_step_caps)
            self.envs = self.make_vec_env(names, [caps[name] for name in names])
            self._open.callback(self.envs.close)
        if self.role.validates:
            rows = min(self.val_rows, self.val_episodes) if self.budget.val_interval else 1
            self.val_envs = self.make_vec_env([e for e in self.train_envs for _ in range(rows)])
            self._open.callback(self.val_envs.close)

    def look_at_envs(self) -> EnvKind:
        """Make one of each environment: a misspelt name should not end the run after the training.

        Raises:
            ValueError: If one is unknown, or they differ in actions or observations.
        """
        kinds = []
        for name in (names := [*self.train_envs, *self.heldout_envs]):
            with contextlib.closing(make_env(name)) as env:
                kinds.append(EnvKind.of(env))
        check_same_kind(names, [k.action_names for k in kinds], [k.observation_spec for k in kinds])
        return kinds[0]

    def make_vec_env(
        self, names: Sequence[str], caps: Sequence[int | None] | None = None
    ) -> PlanVecEnv:
        """Environments by name, made the way `env_mode` says.

        Args:
            names: One name per row.
            caps: Step limit of each row's episodes; None leaves the environment's own.
        """
        return make_vec_env(
            names,
            env_mode=self.env_mode,
            num_workers=self.num_env_workers,
            context=self.async_env_mp_context,
            max_episode_steps=caps,
        )

    def make_agents(self, kind: EnvKind) -> dict[str, BaseAgent]:
        """The planner and, where there is one, the baseline; all begin at the run's seed.

        Raises:
            ValueError: If one writes tokens where actions are vectors.
        """
        agents = {}
        for name, make in ((PLANNER, self.agent_type), (BASELINE, self.baseline_agent_type)):
            if make is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed)
                    agents[name] = make(*kind.arguments_for(make))
        return agents

    def init_model(self) -> None:
        """The agents, and what trains them."""
        settings = OptimiserSettings(
            learning_rate=self.learning_rate,
            lr_warmup_steps=self.budget.lr_warmup_steps,
            lr_final_fraction=self.lr_final_fraction,
            l2_coeff=self.l2_coeff,
            grad_clip=self.grad_clip,
            ema_decay=self.ema_decay,
            total_updates=self.budget.total_updates,
            compile_model=self.compile_model,
        )
        agents = self.make_agents(self.kind)
        trains = self.role.learns
        objectives = {PLANNER: self.objectives, BASELINE: self.baseline_objectives}
        self.trainers = {
            name: AgentTrainer(
                name,
                agent,
                self.make_accelerator(),
                settings,
                trains=trains,
                objectives=objectives[name],
            )
            for name, agent in agents.items()
        }

    def init_dsets(self) -> None:
        """The dataset that shards go to and batches come from."""
        root = Path(self.buffer_dir) if self.buffer_dir else self.folder.root
        self.dataset = self.dataset_type(str(root.parent), root.name)
        self.dataset.configure_from_experiment(self)
        check_data_knobs(self)

    def init_folder(self) -> None:
        """The run folder, with the config in it. Only now all that can be bound is made."""
        config.drop_replaced()
        config.check_bindings()
        owners = [base.__name__ for base in type(self).__mro__]
        may_change = {f"{owner}.{name}" for owner in owners for name in MAY_CHANGE}
        self.folder.check(resume=self.resume if self.role.learns else "auto", may_change=may_change)
        # Everybody has looked at the folder before anybody writes to it.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if self.owned:
                self.ownership = self._open.enter_context(self.own())
                self.folder.tidy(self.role)
            self.folder.keep_config(may_change)
        self.accelerator.wait_for_everyone()

    @property
    def owned(self) -> bool:
        """Whether only one process may play this role."""
        return self.role.learns or self.role.validates

    def own(self) -> Ownership:
        """The right to change the run, and the dataset, where it lies elsewhere."""
        if not self.role.learns:
            return Ownership([role_folder(self.folder.root, self.role.name)], self.role.name)
        roots = [self.folder.root]
        if self.buffer_dir and self.has_dset_edit_rights:
            roots.append(Path(self.buffer_dir))
        return Ownership([role_folder(root, "learn") for root in roots], self.role.name)

    def must_own(self) -> None:
        """To be called before files are changed that only this process may change.

        Raises:
            LeaseLost: If another process has taken over.
        """
        if self.accelerator.is_main_process:
            self.ownership.check()

    def init_place(self, transport: Transport | None) -> None:
        """This process among others of its role, and where it finds weights."""
        self.acting_version, self.acting_updates = 0, 0
        self.acting_epoch, self.acting_env_steps = 0, 0
        self.number, weights = self.rank, self.folder.latest
        if self.role.name == "collect":
            self.transport = transport or FileTransport(self.folder, self.disk_dataset.folder)
            self._open.enter_context(self.transport)
            self.number, weights = (
                self.transport.enlist(self.role.index),
                self.transport.weights_folder,
            )
        elif self.role.name == "label":
            self.labelling = SharedLabelling(self.disk_dataset.folder, self.role.index)
            self.number = self._open.enter_context(self.labelling).number
        self.subscriber = Subscriber(weights)

    @property
    def disk_dataset(self) -> DiskTrajDataset:
        """The dataset, which separate processes can only share on disk.

        Raises:
            ValueError: If it is another one.
        """
        if not isinstance(self.dataset, DiskTrajDataset):
            raise ValueError(
                "separate processes share a dataset on disk, and this one is a "
                f"{type(self.dataset).__name__}; set Experiment.dataset_type = @DiskTrajDataset, "
                "or take --mode both."
            )
        return self.dataset

    def init_collector(self) -> None:
        """What runs the actors. The oracle may have to learn first, so all else is checked now."""
        to, who = self.dataset.save_new_trajs_to, f"rank{self.rank}"
        if not self.role.alone:
            to, who = self.transport.outbox, collector_name(self.number)
        names, cut = self.kind.action_names, self.piece_length
        self.buffer = RecordingBuffer(to, names, who, piece_length=cut)
        with self.one_at_a_time():
            accompanied = self.oracle.accompany(self.envs, self.agent.plan_horizon)
        vec_env = with_history(accompanied, self.agent.history, self.agent.observation_keys)
        self.collector = make_collector(self, vec_env)

    def one_at_a_time(self) -> contextlib.AbstractContextManager[Any]:
        """While an oracle learns, separate collectors wait for the first of them."""
        if self.role.alone:
            return contextlib.nullcontext()
        return Lease.acquire(
            role_folder(self.folder.root, "oracle"), "oracle", wait_seconds=math.inf
        )

    def init_logger(self) -> None:
        """`metrics.jsonl`, the trackers asked for, which do not run yet, the progress bar."""
        self.metrics_log = JsonlLog(self.folder.metrics_of(self.role, self.number))
        notes = self.folder.trackers_of(self.role, self.number)
        axis = "updates" if self.role.learns or self.role.validates else "env_steps"
        self.tracking = Trackers(self.accelerator, self.metrics_log, notes, axis)
        self.init_bar(shown=False)

    def init_bar(self, *, shown: bool) -> None:
        """The line that shows where the run stands."""
        self.bar = ProgressBar(
            self.progress, self.num_epochs, self.train_batches_per_epoch, shown=shown
        )

    @property
    def num_epochs(self) -> int:
        """Epochs that schedules are stretched over."""
        return self.budget.epochs

    @property
    def on_terminal(self) -> bool:
        """Whether somebody watches who wants to see a bar."""
        watched = sys.stdout.isatty() and sys.stderr.isatty()
        return self.verbose and watched and self.accelerator.is_main_process

    @property
    def DEVICE(self) -> torch.device:
        """The device that training runs on."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def agent(self) -> BaseAgent:
        """The planner, with the weights that are being trained."""
        return self.trainers[PLANNER].agent

    @property
    def policy(self) -> BaseAgent:
        """The planner that collects and is evaluated: averaged weights, as last published."""
        return self.trainers[PLANNER].policy

    @property
    def policies(self) -> dict[str, BaseAgent]:
        """All agents that act by averaged weights, by name."""
        return {name: trainer.policy for name, trainer in self.trainers.items()}

    def publish(self) -> None:
        """Let all agents act by the averaged weights of now, where they are trained."""
        if not self.role.learns:
            return
        for trainer in self.trainers.values():
            trainer.publish()
        self.acting_updates = self.trainers[PLANNER].updates

    def close(self) -> None:
        """Free environments, trackers and the folder; the run can be started again."""
        self._open.close()
