"""Collect, label, train, validate: the loop that turns an oracle into a planner.

`Experiment` is wiring. Each step is a method that a subclass can override; what the steps are
made of lives in the rooms below (`envs`, `oracles`, `data`, `training`, `evaluation`).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gin
import numpy as np
import torch
from accelerate import Accelerator

from remdm import config
from remdm._version import __version__
from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import make_env, make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.report import write_report
from remdm.evaluation.rollout import EvalRow, evaluate_in
from remdm.evaluation.suite import evaluate_suite
from remdm.seeding import TEST_SEEDS, VALIDATION_SEEDS, numpy_generator, torch_generator
from remdm.training import checkpoint
from remdm.training.allotment import allot_actors, level_caps
from remdm.training.collector import Collector, CollectStats
from remdm.training.interrupt import StopRequest
from remdm.training.prefetch import prefetch
from remdm.training.progress import Progress, ProgressBar
from remdm.training.run_folder import RunFolder
from remdm.training.settings import ExperimentSettings
from remdm.training.tracking import JsonlLog, init_trackers, reduce_metrics
from remdm.training.trainer import AgentTrainer, OptimiserSettings
from remdm.training.whole_state import (
    load_run,
    load_weights_only,
    save_run,
    save_weights_only,
)

logger = logging.getLogger(__name__)


@gin.configurable(module="remdm", denylist=["run_name"])
class Experiment(ExperimentSettings):
    """Builds environments, a dataset and agents from gin, and runs epochs.

    Call `start()`, then `learn()`, then `evaluate_test()`. A run folder is the whole state of a
    run: starting the same command again goes on where it stopped.
    """

    def start(self) -> None:
        """Build everything, and go on with the run that is in the folder, if there is one.

        Raises:
            ValueError: If the configuration does not make sense, or the folder holds a run with
                another one.
        """
        self.folder = RunFolder(Path(self.ckpt_base_dir) / self.run_name)
        self.progress = Progress()
        self.trainers: dict[str, AgentTrainer] = {}
        self.stop = StopRequest()
        self.init_accelerator()
        if self.accelerator.is_main_process:
            self.folder.claim(resume=self.resume)
        self.accelerator.wait_for_everyone()
        self.oracle = self.oracle_type()
        self.beta_schedule = self.beta_schedule_type()
        self.augment = self.augmentation_type(self.oracle) if self.augmentation_type else None
        self.init_envs()
        self.init_model()
        self.init_dsets()
        self.init_logger()
        self.init_checkpoints()
        logger.info(self.summary())

    def init_accelerator(self) -> None:
        """Device, precision, gradient accumulation and processes."""
        self.accelerator = Accelerator(
            mixed_precision=self.mixed_precision,
            gradient_accumulation_steps=self.batches_per_update,
            log_with=list(self.trackers) or None,
            project_dir=str(self.folder.root),
        )
        self.rank = self.accelerator.process_index

    def init_envs(self) -> None:
        """The environments that collect, and those that validate."""
        names = allot_actors(self.train_envs, self.actor_shares, self.parallel_actors)
        caps = level_caps(self.train_envs, self.train_step_caps)
        self.envs = self.make_vec_env(names, [caps[name] for name in names])
        rows = min(self.val_rows, self.val_episodes)
        self.val_envs = self.make_vec_env([e for e in self.train_envs for _ in range(rows)], None)

    def make_vec_env(self, names: Sequence[str], caps: Sequence[int | None] | None) -> PlanVecEnv:
        """Environments by name, made the way `env_mode` says."""
        return make_vec_env(
            names,
            env_mode=self.env_mode,
            num_workers=self.num_env_workers,
            context=self.async_env_mp_context,
            max_episode_steps=caps,
        )

    def init_model(self) -> None:
        """The planner, the baseline beside it, and what trains them."""
        settings = OptimiserSettings(
            learning_rate=self.learning_rate,
            lr_warmup_steps=self.lr_warmup_steps,
            lr_final_fraction=self.lr_final_fraction,
            l2_coeff=self.l2_coeff,
            grad_clip=self.grad_clip,
            ema_decay=self.ema_decay,
            total_updates=self.epochs * self.train_batches_per_epoch // self.batches_per_update,
        )
        types = {"planner": self.agent_type, "single_step": self.baseline_agent_type}
        spec, num_actions = self.envs.observation_spec, self.envs.num_actions
        for name, agent_type in types.items():
            if agent_type is None:
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                agents = [agent_type(spec, num_actions) for _ in range(2)]
            self.trainers[name] = AgentTrainer(name, *agents, self.accelerator, settings)

    def init_dsets(self) -> None:
        """The dataset, and the recorder and collector that fill it."""
        root = Path(self.buffer_dir) if self.buffer_dir else self.folder.root
        self.dataset = self.dataset_type(str(root.parent), root.name)
        self.dataset.configure_from_experiment(self)
        self.buffer = RecordingBuffer(
            self.dataset.save_new_trajs_to, self.envs.action_names, f"rank{self.rank}"
        )
        self.collector = Collector(
            self.envs,
            self.oracle,
            self.buffer,
            seed=self.seed,
            rank=self.rank,
            plan_horizon=self.agent.plan_horizon,
            replan_every=self.agent.replan_every,
        )

    def init_logger(self) -> None:
        """`metrics.jsonl`, and the trackers asked for."""
        self.metrics_log = JsonlLog(self.folder.metrics)
        wandb = {"project": self.wandb_project, "entity": self.wandb_entity}
        init_trackers(self.accelerator, self.trackers, self.run_name, config.config_dict(), wandb)

    def init_checkpoints(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = checkpoint.list_checkpoints(self.folder.checkpoints)
        if found:
            self.load_checkpoint_from_path(found[-1])
            self.metrics_log.rewind(self.progress.epoch)

    @property
    def DEVICE(self) -> torch.device:  # noqa: N802 (AMAGO's name)
        """The device that training runs on."""
        return self.accelerator.device

    @property
    def agent(self) -> BaseAgent:
        """The planner, with the weights that are being trained."""
        return self.trainers["planner"].agent

    @property
    def policy(self) -> BaseAgent:
        """The planner, with averaged weights: what collects and is evaluated."""
        return self.trainers["planner"].sync_ema_agent()

    def caster(self) -> AbstractContextManager[Any]:
        """The mixed-precision context."""
        return self.accelerator.autocast()

    def learn(self) -> None:
        """Run epochs until the budget is used up, or somebody asks to stop.

        Raises:
            RuntimeError: If `start` was not called.
        """
        if not hasattr(self, "collector"):
            raise RuntimeError("learn() needs what start() builds; call start() first")
        shown = self.verbose and self.accelerator.is_main_process
        self.bar = ProgressBar(self.epochs, self.train_batches_per_epoch, shown=shown)
        with StopRequest() as self.stop:
            while not self.progress.finished and not self.stop.requested:
                self.run_epoch()
        self.bar.close()

    def run_epoch(self) -> None:
        """One epoch: collect, label, train, validate, save."""
        began = time.monotonic()
        progress, metrics = self.progress, {}
        epoch = progress.epoch
        if not progress.collected:
            if epoch >= self.start_collecting_at_epoch:
                metrics |= self.collect_new_training_data()
            if not self.stop.requested:
                metrics |= self.label_new_training_data()
                progress.collected = True
        if progress.collected:
            metrics |= self.dataset.on_end_of_collection(self)
            metrics |= self.train_epoch()
        progress.seconds += time.monotonic() - began
        if self.stop.requested:
            self.save_checkpoint()
            return
        if self.val_interval and (epoch + 1) % self.val_interval == 0:
            metrics |= self.evaluate_val()
        progress.next_epoch()
        budget = self.total_timesteps is not None and progress.env_steps >= self.total_timesteps
        progress.finished = progress.epoch >= self.epochs or budget
        self.log({"seconds": progress.seconds, **metrics}, epoch=epoch)
        if self.always_save_latest:
            self.write_latest_policy()
        due = self.ckpt_interval is not None and progress.epoch % self.ckpt_interval == 0
        if due or progress.finished:
            self.save_checkpoint()

    def collect_new_training_data(self) -> dict[str, float]:
        """Let the actors act, and write what they did to a shard."""
        progress = self.progress
        if self.always_load_latest:
            self.read_latest_policy()
        warm = progress.epoch == self.start_collecting_at_epoch and self.warm_start_timesteps > 0
        per_actor = self.warm_start_timesteps if warm else self.train_timesteps_per_epoch
        target = per_actor * self.envs.num_envs
        agent = None if warm else self.policy
        beta = 1.0 if warm else self.beta_schedule(progress.epoch / self.epochs)
        began, stats = time.monotonic(), CollectStats()
        while progress.collected_steps + stats.env_steps < target and not self.stop.requested:
            self.interact(agent, stats, beta)
            self.bar.show(progress, "collecting")
        progress.collected_steps += stats.env_steps
        progress.env_steps += int(self.reduce({"steps": stats.env_steps}, "sum")["steps"])
        self.buffer.flush(progress.epoch)
        seconds = max(time.monotonic() - began, 1e-9)
        speed = {"collect/steps_per_second": stats.env_steps / seconds, "collect/beta": beta}
        return self.reduce(stats.metrics() | speed)

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        """One plan per actor and what comes of it; the one place where actors act."""
        self.collector.advance(agent, stats, beta=beta, noise=self.oracle_noise)

    def label_new_training_data(self) -> dict[str, float]:
        """Ask the oracle for a plan at every state that has none yet."""
        began = time.monotonic()
        labelled = self.dataset.label_new(self.oracle, self.agent.plan_horizon)
        self.accelerator.wait_for_everyone()
        return {"label/steps": labelled, "label/seconds": time.monotonic() - began}

    def make_batch(self, index: int) -> Batch:
        """Batch number `index` of the run; depends on nothing else but the dataset."""
        rng = numpy_generator(self.seed, "batch", self.rank, index)
        window = self.dataset.sample(self.batch_size, rng)
        if self.augment is not None:
            window = self.augment(window, rng)
        return Batch.from_window(window)

    def batches(self) -> Iterator[Batch]:
        """What is left of the epoch's batches."""
        first = self.progress.total_batches
        left = self.train_batches_per_epoch - self.progress.batches
        yield from prefetch(self.make_batch, range(first, first + left), self.dloader_workers)

    def train_epoch(self) -> dict[str, float]:
        """Train on the epoch's batches; returns the means of the metrics."""
        progress = self.progress
        if progress.epoch < self.start_learning_at_epoch or not self.dataset.ready_for_training:
            return {}
        sums: dict[str, list[float]] = defaultdict(list)
        began = time.monotonic()
        for batch in self.batches():
            metrics = self.train_step(batch)
            progress.batches += 1
            progress.total_batches += 1
            for key, value in metrics.items():
                sums[key].append(value)
            self.bar.show(progress, "training", loss=f"{metrics['planner/loss']:.3f}")
            if progress.total_batches % self.log_interval == 0:
                recent = {k: v[-self.log_interval :] for k, v in sums.items()}
                self.log({f"train/{k}": float(np.mean(v)) for k, v in recent.items()})
            if self.stop.requested:
                break
        means = {f"train/{k}": float(np.mean(v)) for k, v in sums.items()}
        count = max(1, len(sums.get("planner/loss", ())))
        means["train/seconds_per_batch"] = (time.monotonic() - began) / count
        return self.reduce(means)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One batch for every agent."""
        results = {}
        for name, trainer in self.trainers.items():
            index = self.progress.total_batches
            generator = torch_generator(
                self.seed, "masks", self.rank, index, device=str(self.DEVICE)
            )
            metrics = self.compute_loss(trainer, batch.to(self.DEVICE), generator)
            results |= {f"{name}/{key}": value for key, value in metrics.items()}
        return results

    def compute_loss(
        self, trainer: AgentTrainer, batch: Batch, generator: torch.Generator
    ) -> dict[str, float]:
        """Loss, gradient and, when enough are accumulated, the update of one agent."""
        return trainer.train_step(batch, generator)

    def evaluate_val(self) -> dict[str, float]:
        """Play the validation seeds of the training environments; remember the best weights."""
        self.bar.show(self.progress, "validating")
        generator = torch_generator(self.seed, "validation", self.progress.epoch)
        played = evaluate_in(
            AgentPolicy(self.policy, generator),
            self.val_envs,
            episodes=self.val_episodes,
            first_seed=VALIDATION_SEEDS.start,
        )
        score = float(np.mean([row.win_rate for row in played.rows]))
        if score >= self.progress.best_score and self.accelerator.is_main_process:
            self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
            self.save_best()
        self.bar.show(self.progress, "validated", win=f"{score:.2f}")
        rates = {f"val/win_rate/{row.env}": row.win_rate for row in played.rows}
        return {"val/win_rate": score, "val/episodes": float(self.val_episodes), **rates}

    def evaluate_test(self, policies: Sequence[str] | None = None) -> list[EvalRow]:
        """Play the test seeds with the best weights, beside chance and the oracle; write a report.

        Args:
            policies: Names of rows to measure; all that there are when None.
        """
        self.load_best()
        agents = {name: trainer.ema_agent for name, trainer in self.trainers.items()}
        rows = evaluate_suite(
            agents,
            self.oracle,
            [*self.train_envs, *self.heldout_envs],
            policies=policies,
            episodes=self.test_episodes,
            first_seed=TEST_SEEDS.start,
            rows=self.val_rows,
            seed=self.seed,
            make_vec_env=lambda names: self.make_vec_env(names, None),
            shown=self.verbose,
        )
        write_report(self.folder, rows, self.policy, self.train_envs, self.heldout_envs)
        return rows

    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write the whole state of the run, so that it can go on as if it had not stopped."""
        name = f"epoch_{self.progress.epoch:06d}"
        if self.progress.batches or self.progress.collected_steps:
            name += f"_batch_{self.progress.batches:06d}"
        if self.accelerator.is_main_process:
            save_run(self, self.folder.checkpoints, name)
            checkpoint.remove_old(self.folder.checkpoints, self.keep_last_ckpts)
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self, epoch: int, resume_training_state: bool = True) -> None:
        """Load the checkpoint written after `epoch` epochs; see `load_checkpoint_from_path`."""
        path = self.folder.checkpoints / f"epoch_{epoch:06d}"
        self.load_checkpoint_from_path(path, resume_training_state)

    def load_checkpoint_from_path(self, path: Path, resume_training_state: bool = True) -> None:
        """Load a checkpoint folder.

        Args:
            path: Folder of one checkpoint.
            resume_training_state: Go on with that run; otherwise only take its averaged weights
                as the start of this one.

        Raises:
            CheckpointError: If it is missing, damaged, of another format, action set or model.
        """
        load_run(self, path, resume=resume_training_state)

    def save_best(self) -> None:
        """Keep the present averaged weights as the best ones."""
        save_weights_only(self, self.folder.best)

    def load_best(self) -> None:
        """Put the best weights into the averaged agents; the present ones if there was no best."""
        load_weights_only(self, self.folder.best)

    def write_latest_policy(self) -> None:
        """Publish the averaged weights for other processes."""
        if self.accelerator.is_main_process:
            save_weights_only(self, self.folder.latest)

    def read_latest_policy(self) -> None:
        """Take the published weights."""
        load_weights_only(self, self.folder.latest)

    # Words and numbers

    def x_axis_metrics(self) -> dict[str, float]:
        """What curves are drawn against."""
        progress = self.progress
        return {
            "epoch": progress.epoch,
            "env_steps": progress.env_steps,
            "updates": self.trainers["planner"].updates,
        }

    def log(self, metrics: dict[str, Any], epoch: int | None = None) -> None:
        """Write a line of metrics, and tell the trackers."""
        if not self.accelerator.is_main_process:
            return
        line = self.x_axis_metrics() | ({} if epoch is None else {"epoch": epoch}) | metrics
        self.metrics_log.write(line)
        self.accelerator.log(line, step=int(line["updates"]))

    def reduce(self, metrics: dict[str, Any], how: str = "mean") -> dict[str, float]:
        """Mean or sum over all processes; keys need not be the same everywhere."""
        return reduce_metrics(self.accelerator, metrics, how)

    def summary(self) -> str:
        """What is about to run, in a few lines."""
        sizes = ", ".join(
            f"{name} {type(t.agent).__name__} {sum(p.numel() for p in t.agent.parameters()):,}"
            for name, t in self.trainers.items()
        )
        return (
            f"run {self.folder.root}: {sizes} parameters on {self.DEVICE}\n"
            f"{self.envs.num_envs} actors ({self.env_mode}) in {', '.join(self.train_envs)}; "
            f"held out: {', '.join(self.heldout_envs) or 'none'}\n"
            f"oracle {self.oracle.name}; {self.dataset.get_description()}\n"
            f"epoch {self.progress.epoch} of {self.epochs}"
        )

    def delete_buffer_from_disk(self) -> None:
        """Delete all collected shards and labels; weights and metrics stay."""
        if self.accelerator.is_main_process:
            self.dataset.delete()

    def close(self) -> None:
        """Free environments and trackers; the run can be started again."""
        self.envs.close()
        self.val_envs.close()
        self.accelerator.end_training()
