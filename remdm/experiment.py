"""Collect, label, train, validate: the loop that turns an oracle into a planner.

`Experiment` is wiring. Each step is a method that a subclass can override; what the steps are
made of lives in the rooms below (`envs`, `oracles`, `data`, `training`, `evaluation`), and is put
together in `training.assembly`.
"""

import contextlib
import logging
import time
from collections.abc import Generator

import gin
import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.distributed import loops
from remdm.distributed.transport import Transport
from remdm.ranks import Ranks, lost_process_told
from remdm.seeding import numpy_generator, torch_generator
from remdm.training import whole_state
from remdm.training.assembly import PLANNER
from remdm.training.collect_stats import CollectStats
from remdm.training.evaluated_run import EvaluatedRun
from remdm.training.interrupt import Stopped, StopRequest
from remdm.training.loss_masks import checked
from remdm.training.prefetch import prefetch
from remdm.training.progress import Means
from remdm.training.roles import BOTH, Role
from remdm.training.tracking import any_process
from remdm.training.trainer import AgentTrainer
from remdm.training.val_loss import val_loss

logger = logging.getLogger(__name__)


@gin.configurable(module="remdm", denylist=["run_name"])
class Experiment(EvaluatedRun):
    """Builds environments, a dataset and agents from gin, and runs epochs.

    Call `start()`, then `learn()`, then `evaluate_test()`, and `close()` at the end. A run folder
    is the whole state of a run: starting the same command again goes on where it stopped.
    """

    @lost_process_told()
    def start(self, role: Role = BOTH, transport: Transport | None = None) -> None:
        """Build everything, and go on with the run that is in the folder, if there is one.

        Args:
            role: What this process does; see `remdm.training.roles`.
            transport: Connects a separate collector with the run; its folder does when None.

        Raises:
            ValueError: If the configuration does not make sense, a binding is of no use, or the
                folder holds a run with another configuration.
            LeaseHeld: If another process has this role.
            CheckpointError: If the newest checkpoint is damaged or does not fit.
        """
        self.assemble(role, transport)
        try:
            self.take_up()
            self.start_trackers()
        except BaseException:
            self.close()
            raise
        self.tell(self.summary())

    def take_up(self) -> None:
        """Go on where the last process of this role was."""
        if self.role.learns:
            self.init_checkpoints()
        elif self.role.collects:
            loops.take_up_collecting(self)
        elif self.role.validates:
            whole_state.adopt_best(self)

    # The loop

    @lost_process_told()
    def learn(self) -> None:
        """Run epochs until the budget is used up, or somebody asks to stop.

        A separate process does its part of them until the learner is done. Ctrl-C or SIGTERM stop
        at the next batch, with a checkpoint; a second one at once.

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
                if self.role.learns:
                    self.run_epochs()
                else:
                    loops.LOOPS[self.role.name](self)
                    self.progress.finished = True
            except Stopped:
                stopped = True
                if self.role.learns:
                    self.save_checkpoint()
            finally:
                self.bar.close(self.progress)
        self.tell(self.closing_words(stopped))
        if self.role.learns:
            self.publish_artifacts()

    def run_epochs(self) -> None:
        """All epochs that the budget still has."""
        while not self.progress.finished:
            self.stop_if_asked()
            self.run_epoch()
        if not self.role.alone and self.accelerator.is_main_process:
            self.folder.mark_done(self.x_axis_metrics())

    def run_epoch(self) -> None:
        """One epoch: collect, label, train, validate, save; or what is left of it."""
        progress, began = self.progress, time.monotonic()
        try:
            with self.scheduled.in_force() as told:
                if not progress.collected:
                    self.prepare_data()
                metrics = progress.metrics | told | self.train_epoch()
            if self.budget.validates_after(progress.epoch):
                metrics |= val_loss(self)
                if self.role.validates:
                    metrics |= self.evaluate_val()
        finally:
            progress.seconds += time.monotonic() - began
        self.log(self.epoch_line(metrics))
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
        """The first half of an epoch: collect and label, or wait for those who do."""
        metrics: dict[str, float] = {}
        if not self.role.alone:
            metrics |= loops.await_data(self)
        else:
            if self.progress.epoch >= self.start_collecting_at_epoch:
                metrics |= self.collect_new_training_data()
            metrics |= self.label_new_training_data()
            metrics |= self.dataset.on_end_of_collection(self)
        self.level_guard.check(self.dataset)
        self.progress.metrics, self.progress.collected = metrics, True

    # Its steps

    def collect_new_training_data(self, steps: int | None = None) -> dict[str, float]:
        """Let the actors act, and write what they did to a shard.

        Args:
            steps: Env steps to take in this process; those that the epoch still lacks when None.
        """
        progress, stats = self.progress, self.progress.collect
        if self.always_load_latest:
            self.read_latest_policy()
        warm = self.oracle_acts_alone(progress.epoch)
        agent = None if warm else self.policy
        share = self.collector.progress = progress.epoch / self.num_epochs
        beta = 1.0 if warm else self.beta_schedule(share)
        began, before = time.monotonic(), stats.env_steps
        target = self.steps_to_collect(before) if steps is None else before + steps
        self.buffer.policy_version = self.acting_updates
        while (done := self.collector.share_done(stats, target)) < 1 and not self.stop.requested:
            self.bar.show(progress, f"collecting {done:.0%}")
            self.interact(agent, stats, beta)
            self.write_finished()
        self.write_shard()
        new = stats.env_steps - before
        progress.env_steps += int(self.reduce({"steps": new}, "sum")["steps"])
        self.stop_if_asked()
        if stats.episodes:
            name, value = stats.score(self.val_metric)
            self.bar.note(**{f"collect {name}": f"{value:.2f}"})
        speed = new / max(time.monotonic() - began, 1e-9)
        counts = self.reduce(stats.counts() | {"collect/steps_per_second": speed}, "sum")
        rates = stats.rates() | self.collector.metrics() | {"collect/beta": beta}
        return counts | self.reduce(rates)

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        """One plan per actor and what comes of it; the one place where actors act.

        Args:
            agent: Plans; None lets the oracle act alone.
            stats: Counts what happens.
            beta: Probability that a plan is the oracle's.
        """
        self.collector.advance(agent, stats, beta=beta, noise=self.oracle_noise)

    def write_shard(self) -> None:
        """Write what was collected; separate collectors put all that they are at beside it."""
        if self.role.alone:
            self.buffer.flush(self.progress.epoch)
            return
        state = self.collector.state()
        path = self.buffer.flush(self.progress.epoch, state, self.transport.check)
        if path is not None:
            self.transport.deliver(path)

    def write_finished(self) -> None:
        """Write a shard once enough has ended; a separate collector writes one per stretch."""
        most = self.shard_timesteps
        if self.role.alone and most is not None and self.buffer.finished_steps >= most:
            self.buffer.flush_finished(self.progress.epoch)

    def label_new_training_data(self) -> dict[str, float]:
        """Ask the oracle for a plan at every state that has none yet."""
        began = time.monotonic()
        shared = self.dataset if self.role.alone else self.labelling
        labelled = shared.label_new(self.oracle, self.agent.plan_horizon)
        counts = self.reduce({"label/steps": labelled}, "sum")
        return counts | {"label/seconds": time.monotonic() - began}

    def make_batch(self, index: int) -> Batch:
        """This process's part of batch number `index` of the run.

        Depends on nothing else but the dataset. All processes draw one batch for all of them, in
        which no window occurs twice, and each takes its own rows. Threads call this side by side.
        """
        ranks, rows = Ranks.of(self.accelerator), self.batch_size
        rng = numpy_generator(self.seed, "batch", 0, index)
        if self.dataset.walks:
            window = self.dataset.walked(index, ranks.part(rows))
        else:
            window = self.dataset.sample(ranks.whole(rows), rng, rows=ranks.part(rows))
        if self.augment is not None:
            # Alters some rows by what others hold, so each process needs chances of its own.
            if self.rank:
                rng = numpy_generator(self.seed, "augment", self.rank, index)
            window = self.augment(window, rng)
        return Batch.from_window(window, ranks)

    def batches(self) -> Generator[Batch, None, None]:
        """What is left of the epoch's batches."""
        first, rows = self.progress.total_batches, Ranks.of(self.accelerator).whole(self.batch_size)
        self.dataset.begin_walk(first, rows, self.seed)
        left = self.train_batches_per_epoch - self.progress.batches
        yield from prefetch(self.make_batch, range(first, first + left), self.dloader_workers)

    def train_epoch(self) -> dict[str, float]:
        """Train on what is left of the epoch's batches; means over all of them."""
        progress, began, first = self.progress, time.monotonic(), self.progress.batches
        if progress.epoch < self.start_learning_at_epoch:
            return {}
        if any_process(self.accelerator, not self.dataset.ready_for_training):
            self.check_data_may_come()
            logger.warning("nothing to train on in epoch %d yet", progress.epoch + 1)
            return {}
        with contextlib.closing(self.batches()) as batches:
            for batch in batches:
                progress.count_batch(self.train_step(batch))
                self.bar.note(loss=f"{progress.epoch_means.result()[f'{PLANNER}/loss']:.3f}")
                self.bar.show(progress, "training")
                if progress.total_batches % self.log_interval == 0:
                    self.log(self.reduce(progress.recent_means.result("train/")))
                    progress.recent_means = Means()
                if progress.total_batches % self.batches_per_update == 0:
                    self.stop_if_asked()
        self.publish()
        means = progress.epoch_means.result("train/")
        if progress.batches > first:
            seconds = (time.monotonic() - began) / (progress.batches - first)
            means["train/seconds_per_batch"] = seconds
        return self.reduce(means)

    def check_data_may_come(self) -> None:
        """See that somebody may still bring something to train on.

        Processes that train together wait for files that one of them does not see yet.

        Raises:
            ValueError: If this process is alone and never collects.
        """
        alone = self.role.alone and self.accelerator.num_processes == 1
        if alone and self.start_collecting_at_epoch >= self.num_epochs:
            raise ValueError(
                f"an offline run needs data, and has {self.dataset.get_description()}: "
                "collect it (remdm collect --out FOLDER) and set Experiment.buffer_dir to it. "
                "Without has_dset_edit_rights it must have labels, too (--plan_horizon)."
            )

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One batch for every agent; the same masks for all.

        Returns:
            Scalars of this process; their means over all processes are those of the whole batch.
        """
        batch = batch.to(self.DEVICE)
        batch = checked(self.edit_loss_mask(batch), batch)
        results: dict[str, float] = {}
        for name, trainer in self.trainers.items():
            index, device = self.progress.total_batches, str(self.DEVICE)
            generator = torch_generator(self.seed, "masks", 0, index, device=device)
            with trainer.accumulate():
                own = trainer.remembering(batch) if self.dataset.walks else batch
                loss, metrics = self.compute_loss(trainer, own, generator)
                metrics |= {"loss": loss.detach(), **trainer.update(loss)}
            results |= {f"{name}/{key}": float(value) for key, value in metrics.items()}
        return results

    def edit_loss_mask(self, batch: Batch) -> Batch:
        """Say what of a batch is learnt from; see `remdm.training.loss_masks`.

        Args:
            batch: On the training device.

        Returns:
            The batch itself, or one with other weights or another token mask.
        """
        if self.loss_mask is None:
            return batch
        chance = torch_generator(self.seed, "mask", self.rank, self.progress.total_batches)
        return self.loss_mask(batch, self.agent, chance)

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

    def delete_buffer_from_disk(self) -> None:
        """Delete all collected shards and labels; weights and metrics stay."""
        if self.accelerator.is_main_process:
            self.dataset.delete()
