"""What separate processes of a run do: the steps of one epoch, each in a loop of its own.

They call the same methods of `Experiment` as a run in one process, and talk to each other through
files alone. Epoch e, from 0, trains on at least the env steps of epochs 0 to e. Collectors may be
`Experiment.max_epochs_ahead` epochs ahead of the learner, and the learner waits for what its epoch
needs: so the number of updates per collected step stays what the recipe says, on both sides.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from remdm.data.labels import LabelIdentity
from remdm.data.ledger import Ledger
from remdm.data.shard_names import parse_shard_name
from remdm.distributed.published_files import DamagedPublicationError
from remdm.distributed.standing import RunWatch, Standing
from remdm.distributed.waiting import Patience
from remdm.training import whole_state
from remdm.training.collect_stats import CollectStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from remdm.experiment import Experiment

# Shards that a separate collector makes of an epoch, where nothing else is said.
SHARDS_PER_EPOCH = 8


# ------------------------------------------------------------------------------------- collect


def take_up_collecting(run: Experiment) -> None:
    """Go on with the episodes that this collector's last shard left open.

    Raises:
        ValueError: If it had another number of actors.
    """
    shard = run.transport.newest_shard()
    if shard is None:
        return
    actors = len(shard.state.get("episodes", ()))
    if actors != run.envs.num_envs:
        raise ValueError(
            f"collector {run.number} had {actors} actors when it wrote {shard.path.name}, now it "
            f"has {run.envs.num_envs}; set Experiment.parallel_actors back, or give this process "
            "another number with --index"
        )
    name = parse_shard_name(shard.path.name)
    run.buffer.go_on_after(name)
    run.collector.restore(shard.state)
    run.progress.epoch = name.epoch


def collect_loop(run: Experiment) -> None:
    """Collect stretch after stretch until the run is over."""
    patience = Patience(run.max_wait_seconds)
    while True:
        run.stop_if_asked()
        standing = run.transport.standing()
        if standing.finished:
            return
        epoch = run.budget.frames.epoch_of(standing.collected)
        if not _may_collect(run, standing, epoch) or not _take_weights(run, epoch):
            _wait_for_learner(run, standing, epoch, patience)
            continue
        patience.over()
        # Never back: a shard that turned out damaged makes the number of steps smaller.
        _collect_stretch(run, max(run.progress.epoch, epoch))


def _may_collect(run: Experiment, standing: Standing, epoch: int) -> bool:
    if epoch > standing.epoch + run.max_epochs_ahead or epoch >= run.budget.epoch_limit:
        return False
    return standing.version is not None or run.oracle_acts_alone(epoch)


def _take_weights(run: Experiment, epoch: int) -> bool:
    """Act by the newest weights, or by older ones; whether there is anything to act by."""
    run.transport.fetch_weights()
    return _read_weights(run) or run.acting_version > 0 or run.oracle_acts_alone(epoch)


def _read_weights(run: Experiment) -> bool:
    """Read the published weights; False where they are damaged: the next ones take their place."""
    try:
        run.read_latest_policy()
    except DamagedPublicationError as error:
        run.tell_once(str(error))
        return False
    return run.acting_version > 0


def _wait_for_learner(run: Experiment, standing: Standing, epoch: int, patience: Patience) -> None:
    found = (
        "no weights are published"
        if standing.version is None
        else f"it has finished {standing.epoch} epochs, and epoch {epoch + 1} is next here"
    )
    patience.wait(
        f"the learner of {run.folder.root}",
        found if standing.learner_alive else f"none is alive, {found}",
        "start one with --mode learn",
        state=standing,
        alive=standing.learner_alive,
    )


def _collect_stretch(run: Experiment, epoch: int) -> None:
    frames, progress = run.budget.frames, run.progress
    progress.epoch, progress.collect = epoch, CollectStats()
    whole = frames.through(epoch + 1) - frames.through(epoch)
    steps = run.shard_timesteps or -(-whole // SHARDS_PER_EPOCH)
    with run.scheduled.in_force() as told:
        metrics = run.collect_new_training_data(steps)
    behind = max(0, epoch - run.acting_epoch)
    run.log({**metrics, **told, "collect/epochs_behind": behind})
    if run.verbose:
        run.tell(
            f"collector {run.number}: epoch {epoch + 1}, {progress.env_steps:,} steps, "
            f"{metrics['collect/steps_per_second']:,.0f} per second, weights of "
            f"{run.acting_updates:,} updates"
        )


# ------------------------------------------------------------------------------------- label


def label_loop(run: Experiment) -> None:
    """Label what has no labels yet until the run is over."""
    watch, patience = _watch(run), Patience(run.max_wait_seconds)
    while True:
        run.stop_if_asked()
        standing = watch.standing()  # asked first: what was there then is labelled now
        metrics = run.label_new_training_data()
        if metrics["label/steps"]:
            patience.over()
            run.progress.env_steps += int(metrics["label/steps"])
            run.log(metrics)
        elif standing.finished:
            return
        else:
            patience.wait(
                f"shards without labels in {run.disk_dataset.folder.shards}",
                f"all {standing.collected:,} env steps have some",
                "start collectors with --mode collect",
                state=standing,
                alive=standing.learner_alive,
            )


# ------------------------------------------------------------------------------------- learn


def await_data(run: Experiment) -> dict[str, float]:
    """Wait until the env steps of the present epoch are there, and take them in.

    To be called by all processes of the learner.

    Raises:
        TimeoutError: If none came for too long.
        Stopped: If somebody asks to stop meanwhile.
    """
    wanted = run.budget.frames.through(run.progress.epoch + 1)
    began, patience = time.monotonic(), Patience(run.max_wait_seconds)
    # One process looks, so that all see the same.
    look = partial(_look_or_wait, run, Ledger(run.disk_dataset.folder), patience, wanted)
    while True:
        run.stop_if_asked()
        there, problem = run.from_main(look)
        if problem:
            raise TimeoutError(problem)
        if there >= wanted:
            break
    run.progress.env_steps = there
    waited = time.monotonic() - began
    run.must_own()  # a manifest may be written
    known = {entry.name for entry in run.disk_dataset.manifest.shards}
    metrics = {"data/seconds_waited": waited, **run.dataset.on_end_of_collection(run)}
    acted = run.disk_dataset.mean_policy_version(but=known)
    if acted is not None:
        metrics["data/updates_behind"] = run.acting_updates - acted
    return metrics


def _look_or_wait(
    run: Experiment, ledger: Ledger, patience: Patience, wanted: int
) -> tuple[int, str]:
    """Env steps that can be learnt from; and what to raise, if they are not enough for too long."""
    labels = run.disk_dataset.target != "executed"
    collected = ledger.collected()  # first: what comes next is not counted, labelled or not
    there = collected - (ledger.without_labels(_right_labels(run)) if labels else 0)
    if there >= wanted:
        return there, ""
    try:
        patience.wait(
            f"{wanted:,} env steps in {run.disk_dataset.folder.shards}",
            f"{collected:,} are collected" + (f", {there:,} labelled" if labels else ""),
            "start --mode label" if collected >= wanted else "start --mode collect",
            state=(there, collected),
        )
    except TimeoutError as error:
        return there, str(error)
    return there, ""


def _right_labels(run: Experiment) -> LabelIdentity:
    """Labels of this run's oracle; those of another, or an older one, do not count."""
    return LabelIdentity(run.oracle.name, run.oracle.version, run.agent.plan_horizon)


# ------------------------------------------------------------------------------------- validate


def validate_loop(run: Experiment) -> None:
    """Play the validation levels with every published version that is due."""
    watch, patience = _watch(run), Patience(run.max_wait_seconds)
    done = max((int(row["epoch"]) + 1 for row in run.metrics_log.read()), default=0)
    while True:
        run.stop_if_asked()
        standing = watch.standing()
        if standing.version is not None and standing.epoch < done:  # the run was taken back
            done = standing.epoch
            whole_state.adopt_best(run)
        due = run.budget.validation_between(done, standing.epoch)
        if due and standing.version is not None and _read_weights(run):
            patience.over()
            done = run.acting_epoch
            run.progress.epoch = done - 1  # the epoch that these weights end
            run.progress.env_steps = run.acting_env_steps
            run.log(run.evaluate_val())
        elif standing.finished:
            if run.progress.best_epoch < 0:
                run.read_latest_policy()  # the tests are of these
            return
        else:
            patience.wait(
                f"weights to validate in {run.folder.latest}",
                f"the learner has finished {standing.epoch} epochs",
                "start one with --mode learn",
                state=standing,
                alive=standing.learner_alive,
            )


def _watch(run: Experiment) -> RunWatch:
    return RunWatch(run.folder, run.disk_dataset.folder)


LOOPS: dict[str, Callable[[Experiment], None]] = {
    "collect": collect_loop,
    "label": label_loop,
    "validate": validate_loop,
}
