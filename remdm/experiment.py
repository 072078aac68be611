"""Collect, label, train, validate: the loop that turns an oracle into a planner.

`Experiment` is wiring. Each step is a method that a subclass can override; what the steps are
made of lives in the rooms below (`envs`, `oracles`, `data`, `training`, `evaluation`), and is put
together in `training.assembly`.
"""

import contextlib
import logging
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import gin
import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from remdm.agent import BaseAgent
from remdm.artifacts import local_folder
from remdm.data.batch import Batch
from remdm.envs.making import make_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.report import write_report
from remdm.evaluation.rollout import EvalRow, evaluate_in
from remdm.evaluation.suite import evaluate_suite
from remdm.seeding import TEST_SEEDS, VALIDATION_SEEDS, numpy_generator, torch_generator
from remdm.training import checkpoint, whole_state
from remdm.training.assembly import PLANNER, AssembledRun
from remdm.training.collector import CollectStats
from remdm.training.interrupt import Stopped, StopRequest
from remdm.training.prefetch import prefetch
from remdm.training.progress import Means, time_text
from remdm.training.run_folder import find_checkpoint
from remdm.training.tracking import any_process
from remdm.training.trainer import AgentTrainer

logger = logging.getLogger(__name__)


@gin.configurable(module="remdm", denylist=["run_name"])
class Experiment(AssembledRun):
    """Builds environments, a dataset and agents from gin, and runs epochs.

    Call `start()`, then `learn()`, then `evaluate_test()`, and `close()` at the end. A run folder
    is the whole state of a run: starting the same command again goes on where it stopped.
    """

    def start(self) -> None:
        """Build everything, and go on with the run that is in the folder, if there is one.

        Raises:
            ValueError: If the configuration does not make sense, a binding is of no use, or the
                folder holds a run with another configuration.
            CheckpointError: If the newest checkpoint is damaged or does not fit.
        """
        self.assemble()
        try:
            self.init_checkpoints()
        except BaseException:
            self.close()
            raise
        self.tell(self.summary())

    def init_checkpoints(self) -> None:
        """Go on from the newest checkpoint; if there is none, make one to go back to."""
        newest = whole_state.newest_checkpoint(self.folder.checkpoints)
        if newest is None:
            self.metrics_log.rewind(0)
            if self.start_from is not None:
                _, begin = find_checkpoint(local_folder(self.start_from))
                self.load_checkpoint_from_path(begin, resume_training_state=False)
            self.save_checkpoint()
        else:
            self.load_checkpoint_from_path(newest)

    # The loop

    def learn(self) -> None:
        """Run epochs until the budget is used up, or somebody asks to stop.

        Ctrl-C or SIGTERM stop at the next batch, with a checkpoint; a second one at once.

        Raises:
            RuntimeError: If `start` was not called.
        """
        if not hasattr(self, "bar"):
            raise RuntimeError("learn() needs what start() builds; call start() first")
        self.init_bar(shown=self.on_terminal)
        redirect = logging_redirect_tqdm if self.on_terminal else contextlib.nullcontext
        stopped = False
        with redirect(), StopRequest() as self.stop:
            try:
                while not self.progress.finished:
                    self.stop_if_asked()
                    self.run_epoch()
            except Stopped:
                stopped = True
                self.save_checkpoint()
            finally:
                self.bar.close(self.progress)
        self.tell(self.closing_words(stopped))
        self.publish_artifacts()

    def stop_if_asked(self) -> None:
        """Raise `Stopped` if somebody asked to stop; processes agree, so all must call this."""
        if any_process(self.accelerator, self.stop.requested):
            raise Stopped

    def run_epoch(self) -> None:
        """One epoch: collect, label, train, validate, save; or what is left of it."""
        progress, began = self.progress, time.monotonic()
        try:
            if not progress.collected:
                self.prepare_data()
            metrics = progress.metrics | self.train_epoch()
            if self.budget.validates_after(progress.epoch):
                metrics |= self.evaluate_val()
        finally:
            progress.seconds += time.monotonic() - began
        self.log({"seconds": progress.seconds, **metrics})
        if self.verbose and not self.on_terminal:
            self.tell(self.bar.line(progress))
        progress.next_epoch()
        progress.finished = self.budget.spent(progress.epoch, progress.env_steps)
        if self.always_save_latest:
            self.write_latest_policy()
        due = self.ckpt_interval is not None and progress.epoch % self.ckpt_interval == 0
        if due or progress.finished:
            self.save_checkpoint()

    def prepare_data(self) -> None:
        """The first half of an epoch: collect and label."""
        metrics: dict[str, float] = {}
        if self.progress.epoch >= self.start_collecting_at_epoch:
            metrics |= self.collect_new_training_data()
        metrics |= self.label_new_training_data()
        metrics |= self.dataset.on_end_of_collection(self)
        self.progress.metrics, self.progress.collected = metrics, True

    # Its steps

    def collect_new_training_data(self) -> dict[str, float]:
        """Let the actors act, and write what they did to a shard."""
        progress, stats = self.progress, self.progress.collect
        if self.always_load_latest:
            self.read_latest_policy()
        warm = progress.epoch == self.start_collecting_at_epoch and self.warm_start_timesteps > 0
        agent = None if warm else self.policy
        beta = 1.0 if warm else self.beta_schedule(progress.epoch / self.num_epochs)
        began, before = time.monotonic(), stats.env_steps
        target = self.steps_to_collect(before)
        self.buffer.policy_version = self.trainers[PLANNER].updates
        while stats.env_steps < target and not self.stop.requested:
            self.interact(agent, stats, beta)
            self.bar.show(progress, f"collecting {min(stats.env_steps / target, 1):.0%}")
        self.buffer.flush(progress.epoch)
        new = stats.env_steps - before
        progress.env_steps += int(self.reduce({"steps": new}, "sum")["steps"])
        self.stop_if_asked()
        if stats.episodes:
            name, value = stats.score(self.val_metric)
            self.bar.note(**{f"collect {name}": f"{value:.2f}"})
        speed = new / max(time.monotonic() - began, 1e-9)
        metrics = {"collect/steps_per_second": speed, "collect/beta": beta}
        return self.reduce(stats.metrics() | metrics)

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        """One plan per actor and what comes of it; the one place where actors act.

        Args:
            agent: Plans; None lets the oracle act alone.
            stats: Counts what happens.
            beta: Probability that a plan is the oracle's.
        """
        self.collector.advance(agent, stats, beta=beta, noise=self.oracle_noise)

    def label_new_training_data(self) -> dict[str, float]:
        """Ask the oracle for a plan at every state that has none yet."""
        began = time.monotonic()
        labelled = self.dataset.label_new(self.oracle, self.agent.plan_horizon)
        self.accelerator.wait_for_everyone()
        return {"label/steps": float(labelled), "label/seconds": time.monotonic() - began}

    def make_batch(self, index: int) -> Batch:
        """Batch number `index` of the run; depends on nothing else but the dataset.

        Threads call this side by side.
        """
        rng = numpy_generator(self.seed, "batch", self.rank, index)
        window = self.dataset.sample(self.batch_size, rng)
        if self.augment is not None:
            window = self.augment(window, rng)
        return Batch.from_window(window)

    def batches(self) -> Generator[Batch, None, None]:
        """What is left of the epoch's batches."""
        first = self.progress.total_batches
        left = self.train_batches_per_epoch - self.progress.batches
        yield from prefetch(self.make_batch, range(first, first + left), self.dloader_workers)

    def train_epoch(self) -> dict[str, float]:
        """Train on what is left of the epoch's batches; means over all of them."""
        progress, began, first = self.progress, time.monotonic(), self.progress.batches
        if progress.epoch < self.start_learning_at_epoch:
            return {}
        if not self.dataset.ready_for_training:
            logger.warning("nothing to train on in epoch %d yet", progress.epoch + 1)
            return {}
        with contextlib.closing(self.batches()) as batches:
            for batch in batches:
                progress.count_batch(self.train_step(batch))
                self.bar.note(loss=f"{progress.epoch_means.result()[f'{PLANNER}/loss']:.3f}")
                self.bar.show(progress, "training")
                if progress.total_batches % self.log_interval == 0:
                    self.log(progress.recent_means.result("train/"))
                    progress.recent_means = Means()
                if progress.total_batches % self.batches_per_update == 0:
                    self.stop_if_asked()
        self.publish()
        means = progress.epoch_means.result("train/")
        if progress.batches > first:
            seconds = (time.monotonic() - began) / (progress.batches - first)
            means["train/seconds_per_batch"] = seconds
        return self.reduce(means)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One batch for every agent; the same masks for all."""
        batch = batch.to(self.DEVICE)
        results: dict[str, float] = {}
        for name, trainer in self.trainers.items():
            index, device = self.progress.total_batches, str(self.DEVICE)
            generator = torch_generator(self.seed, "masks", self.rank, index, device=device)
            with trainer.accumulate():
                loss, metrics = self.compute_loss(trainer, batch, generator)
                metrics |= {"loss": loss.detach(), **trainer.update(loss)}
            results |= {f"{name}/{key}": float(value) for key, value in metrics.items()}
        return results

    def compute_loss(
        self, trainer: AgentTrainer, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """What one agent minimises on one batch, and scalars to log.

        Args:
            trainer: Call its `model`.
            batch: On the training device.
            generator: Draws the masks.
        """
        loss, metrics = trainer.model(batch, generator)
        return loss, dict(metrics)

    def evaluate_val(self) -> dict[str, float]:
        """Play the validation seeds of the training environments; keep the best weights.

        Raises:
            Stopped: If somebody asks to stop meanwhile; a resumed run validates anew.
        """
        progress = self.progress

        def tell(finished: int, total: int, won: int) -> None:
            self.bar.show(progress, f"validating {finished}/{total}")
            if self.accelerator.num_processes == 1:  # otherwise nobody may leave alone
                self.stop_if_asked()

        chance = torch_generator(self.seed, "validation", progress.epoch)
        played = evaluate_in(
            AgentPolicy(self.policy, chance, replan_every=self.val_replan_every),
            self.val_envs,
            episodes=self.val_episodes,
            first_seed=VALIDATION_SEEDS.start,
            max_episode_steps=self.val_step_cap,
            progress=tell,
        )
        means = played.means(self.reduce)
        score = means[f"val/{self.val_metric}"]
        self.keep_if_best(score)
        self.bar.note(**{f"val {self.val_metric.removesuffix('_rate')}": f"{score:.2f}"})
        return {"val/episodes": float(self.val_episodes), **means}

    def keep_if_best(self, score: float) -> None:
        """Keep the averaged weights if nothing before had a higher score; later ones win ties."""
        progress = self.progress
        if progress.best_epoch < 0 or score >= progress.best_score:
            progress.best_score, progress.best_epoch = score, progress.epoch
            if self.accelerator.is_main_process:
                whole_state.save_averaged(self, self.folder.best)

    def evaluate_test(self, policies: Sequence[str] | None = None) -> list[EvalRow]:
        """Play the test seeds with the best weights, beside chance and the oracle; write a report.

        Only the main process plays; the others return no rows.

        Args:
            policies: Names of rows to measure; all that there are when None.
        """
        if not self.accelerator.is_main_process:
            return []
        self.load_best()
        rows = evaluate_suite(
            self.policies,
            self.oracle,
            [*self.train_envs, *self.heldout_envs],
            policies=policies,
            episodes=self.test_episodes,
            first_seed=TEST_SEEDS.start,
            rows=self.val_rows,
            seed=self.seed,
            make_vec_env=self.make_vec_env,
            max_episode_steps=self.test_step_cap,
            shown=self.on_terminal,
        )
        envs = self.train_envs, self.heldout_envs
        write_report(self.folder, rows, self.policy, *envs, max_steps=self.test_step_cap)
        self.publish()
        return rows

    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write the whole state of the run, so that it can go on as if it had not stopped."""
        whole_state.save_run(self, self.folder.checkpoints)
        if self.accelerator.is_main_process:
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
            resume_training_state: Go on with this run from there; otherwise only take the averaged
                weights, of any run, as the start of this one.

        Raises:
            CheckpointError: If it is missing, damaged, of another format, action set or model.
        """
        whole_state.load_run(self, path, resume=resume_training_state)

    def load_agents(self, path: Path) -> dict[str, BaseAgent]:
        """Agents that act by the averaged weights of a checkpoint; needs no `start`.

        Args:
            path: Folder of a checkpoint, or of the best or the latest weights.

        Raises:
            CheckpointError: If it is missing, damaged, of another format, action set or model.
        """
        with contextlib.closing(make_env(self.train_envs[0])) as env:
            agents = self.make_agents(env.observation_spec, env.num_actions)
            names = env.action_names
        for agent in agents.values():
            agent.eval().requires_grad_(False)
        whole_state.load_averaged(agents, path, names)
        return agents

    def load_best(self) -> None:
        """Let the agents act by the best weights; by the present ones where none was chosen."""
        if self.progress.best_epoch >= 0:
            whole_state.load_averaged(self.policies, self.folder.best, self.envs.action_names)

    def write_latest_policy(self) -> None:
        """Publish the averaged weights for other processes."""
        if self.accelerator.is_main_process:
            whole_state.save_averaged(self, self.folder.latest)

    def read_latest_policy(self) -> None:
        """Act by the published weights, if there are any yet."""
        if (self.folder.latest / checkpoint.STATE_FILE).is_file():
            whole_state.load_averaged(self.policies, self.folder.latest, self.envs.action_names)

    def closing_words(self, stopped: bool) -> str:
        """What `learn` has come to, in a few lines."""
        progress = self.progress
        done = f"{progress.epoch} of {self.num_epochs} epochs"
        if stopped and progress.within_epoch:
            done += f" and {progress.batches} of {self.train_batches_per_epoch} batches"
        lines = [
            f"{'stopped' if stopped else 'finished'} after {done}: {progress.env_steps:,} env "
            f"steps, {self.trainers[PLANNER].updates:,} updates, {time_text(progress.seconds)}",
        ]
        if progress.best_epoch >= 0:
            lines.append(
                f"best {self.val_metric.replace('_', ' ')} on the validation levels "
                f"{progress.best_score:.3f}, in epoch {progress.best_epoch + 1} "
                f"(kept in {self.folder.best})"
            )
        if stopped:
            lines.append("all is saved; the same command goes on from there")
        return "\n".join(lines)

    def delete_buffer_from_disk(self) -> None:
        """Delete all collected shards and labels; weights and metrics stay."""
        if self.accelerator.is_main_process:
            self.dataset.delete()
