"""Building what an experiment works with: processes, environments, agents, data, logs."""

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed

from remdm import config
from remdm.agent import BaseAgent
from remdm.artifacts import policy_name, publish_artifact
from remdm.data.contract import RLDataset
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import PlanVecEnv
from remdm.envs.history import with_history
from remdm.envs.making import make_env, make_vec_env
from remdm.envs.sync import check_same_kind
from remdm.maps import ArraySpec
from remdm.training.allotment import allot_actors, level_caps
from remdm.training.collector import Collector
from remdm.training.frames import Budget
from remdm.training.interrupt import StopRequest
from remdm.training.progress import Progress, ProgressBar
from remdm.training.run_folder import RunFolder
from remdm.training.settings import MAY_CHANGE, ExperimentSettings
from remdm.training.tracking import JsonlLog, check_trackers, init_trackers, reduce_metrics
from remdm.training.trainer import AgentTrainer, OptimiserSettings

logger = logging.getLogger(__name__)

PLANNER, BASELINE = "planner", "single_step"


class AssembledRun(ExperimentSettings):
    """The parts of an experiment. Each `init_` method makes some, and can be overridden.

    Attributes:
        folder: Where everything of the run lies.
        progress: Its counters.
        accelerator: Device and processes.
        budget: What the run comes to on so many actors.
        envs: The environments that collect.
        trainers: The planner and, where there is one, the baseline, each with its optimiser.
        dataset: What batches are drawn from.
        collector: Runs the actors.
        metrics_log: `metrics.jsonl`.
    """

    folder: RunFolder
    progress: Progress
    accelerator: Accelerator
    budget: Budget
    envs: PlanVecEnv
    trainers: dict[str, AgentTrainer]
    dataset: RLDataset
    collector: Collector
    metrics_log: JsonlLog

    def assemble(self) -> None:
        """Build everything, and claim the run folder; what is on disk is not read yet.

        Raises:
            ValueError: If the configuration does not make sense, a binding is of no use, or the
                folder holds a run with another configuration.
        """
        self._open = contextlib.ExitStack()
        self.folder = RunFolder(Path(self.ckpt_base_dir) / self.run_name)
        self.progress, self.stop = Progress(), StopRequest()
        check_trackers(self.trackers)
        try:
            self.init_accelerator()
            self.oracle = self.oracle_type()
            self.beta_schedule = self.beta_schedule_type()
            self.augment = self.augmentation_type(self.oracle) if self.augmentation_type else None
            self.init_envs()
            self.init_model()
            self.init_dsets()
            self.init_folder()
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
        self.accelerator = self.make_accelerator(
            log_with=list(self.trackers) or None, project_dir=str(self.folder.root)
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
        names = allot_actors(self.train_envs, self.actor_shares, self.parallel_actors)
        caps = level_caps(self.train_envs, self.train_step_caps)
        self.envs = self.make_vec_env(names, [caps[name] for name in names])
        self._open.callback(self.envs.close)
        actors = self.envs.num_envs * self.accelerator.num_processes
        self.budget = self.budget_of(actors)
        rows = min(self.val_rows, self.val_episodes) if self.budget.val_interval else 1
        self.val_envs = self.make_vec_env([e for e in self.train_envs for _ in range(rows)])
        self._open.callback(self.val_envs.close)
        # Made once and closed: a misspelt name should not end the run after the training.
        for name in self.heldout_envs:
            with contextlib.closing(make_env(name)) as env:
                check_same_kind(
                    [self.train_envs[0], name],
                    [self.envs.action_names, tuple(env.action_names)],
                    [self.envs.observation_spec, env.observation_spec],
                )

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

    def make_agents(
        self, observation_spec: dict[str, ArraySpec], num_actions: int
    ) -> dict[str, BaseAgent]:
        """The planner and, where there is one, the baseline; all begin at the run's seed."""
        agents = {}
        for name, make in ((PLANNER, self.agent_type), (BASELINE, self.baseline_agent_type)):
            if make is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed)
                    agents[name] = make(observation_spec, num_actions)
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
        )
        agents = self.make_agents(self.envs.observation_spec, self.envs.num_actions)
        self.trainers = {
            name: AgentTrainer(name, agent, self.make_accelerator(), settings)
            for name, agent in agents.items()
        }

    def init_dsets(self) -> None:
        """The dataset, and the recorder that fills it."""
        root = Path(self.buffer_dir) if self.buffer_dir else self.folder.root
        self.dataset = self.dataset_type(str(root.parent), root.name)
        self.dataset.configure_from_experiment(self)
        self.buffer = RecordingBuffer(
            self.dataset.save_new_trajs_to, self.envs.action_names, f"rank{self.rank}"
        )

    def init_folder(self) -> None:
        """The run folder, with the config in it. Only now all that can be bound is made."""
        config.drop_replaced()
        config.check_bindings()
        owners = [base.__name__ for base in type(self).__mro__]
        may_change = {f"{owner}.{name}" for owner in owners for name in MAY_CHANGE}
        self.folder.check(resume=self.resume, may_change=may_change)
        # Everybody has looked at the folder before anybody writes to it.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._open.enter_context(self.folder.claim())
        self.accelerator.wait_for_everyone()

    def init_collector(self) -> None:
        """What runs the actors. The oracle may have to learn first, so all else is checked now."""
        accompanied = self.oracle.accompany(self.envs, self.agent.plan_horizon)
        self.collector = Collector(
            with_history(accompanied, self.agent.history, self.agent.observation_keys),
            self.oracle,
            self.buffer,
            seed=self.seed,
            rank=self.rank,
            plan_horizon=self.agent.plan_horizon,
            replan_every=self.agent.replan_every_collect or self.agent.replan_every,
        )

    def init_logger(self) -> None:
        """`metrics.jsonl`, the trackers asked for, the progress bar."""
        self.metrics_log = JsonlLog(self.folder.metrics)
        wandb = {"entity": self.wandb_entity, "name": self.run_name, "dir": str(self.folder.root)}
        init_trackers(self.accelerator, self.wandb_project, config.config_dict(), wandb)
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
        """Let all agents act by the averaged weights of now."""
        for trainer in self.trainers.values():
            trainer.publish()

    def publish_artifacts(self) -> None:
        """Hand the last and the best weights to W&B, where it follows the run."""
        if "wandb" not in self.trackers or not self.accelerator.is_main_process:
            return
        followed = self.accelerator.get_tracker("wandb", unwrap=True)
        for folder, best in ((self.folder.latest, False), (self.folder.best, True)):
            if folder.is_dir():
                name = policy_name(self.train_envs[0], best=best)
                self.tell(f"published {publish_artifact(followed, folder, name)}")

    def x_axis_metrics(self) -> dict[str, float]:
        """What curves are drawn against."""
        return {
            "epoch": self.progress.epoch,
            "env_steps": self.progress.env_steps,
            "updates": self.trainers[PLANNER].updates,
        }

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Write a line of metrics, and tell the trackers."""
        if self.accelerator.is_main_process:
            line = {**self.x_axis_metrics(), **metrics}
            self.metrics_log.write(line)
            self.accelerator.log(line, step=int(line["updates"]))

    def tell(self, text: str) -> None:
        """Log something for people, once for all processes."""
        if self.accelerator.is_main_process:
            logger.info(text)

    def steps_to_collect(self, before: int) -> int:
        """Env steps of this process in the present epoch; `before` of them are collected."""
        # They are counted in `env_steps` already; without them, all starts of an epoch are alike.
        earlier = self.progress.env_steps - int(self.reduce({"steps": before}, "sum")["steps"])
        processes = self.accelerator.num_processes
        return self.budget.steps_to_collect(self.progress.epoch, earlier, processes)

    def reduce(self, metrics: Mapping[str, Any], how: str = "mean") -> dict[str, float]:
        """Mean or sum over all processes; keys need not be the same everywhere."""
        return reduce_metrics(self.accelerator, dict(metrics), how)

    def summary(self) -> str:
        """What is about to run, in a few lines."""
        sizes = ", ".join(
            f"{name} {type(t.agent).__name__} {sum(p.numel() for p in t.agent.parameters()):,}"
            for name, t in self.trainers.items()
        )
        notes = "".join(f"{note}\n" for note in self.budget.notes)
        return (
            f"run {self.folder.root}: {sizes} parameters on {self.DEVICE}\n"
            f"{self.envs.num_envs} actors ({self.env_mode}) in {', '.join(self.train_envs)}; "
            f"held out: {', '.join(self.heldout_envs) or 'none'}\n"
            f"oracle {self.oracle.name}; {self.dataset.get_description()}\n"
            f"{notes}epoch {self.progress.epoch} of {self.num_epochs}"
        )

    def close(self) -> None:
        """Free environments, trackers and the folder; the run can be started again."""
        self._open.close()
