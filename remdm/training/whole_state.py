"""What a checkpoint of a run holds, and how a run takes it up again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from remdm._version import __version__
from remdm.agent import BaseAgent
from remdm.data.plain_json import one_line, typed
from remdm.training.carried import held_memories, load_memories, save_memories
from remdm.training.checkpoint import (
    STATE_FILE,
    CheckpointError,
    epoch_name,
    how_far,
    load_into,
    load_plain,
    load_weights,
    random_states,
    read_state,
    save_plain,
    set_random_states,
    write_checkpoint,
)
from remdm.training.progress import Progress
from remdm.training.trainer import weights_file

if TYPE_CHECKING:
    from remdm.training.assembly import AssembledRun

_OWN_CONFIG = "load it with the config.gin of its own run folder"


def _process_file(rank: int) -> str:
    """What differs between the processes of a run: actors, random states, counters."""
    return f"process_{rank}.pt"


def _facts(run: "AssembledRun") -> dict[str, Any]:
    """What identifies a checkpoint, and must fit whatever loads it."""
    return {
        "remdm_version": __version__,
        "progress": run.progress.to_dict(),
        "updates": run.trainers["planner"].updates if run.role.learns else run.acting_updates,
        "action_names": list(run.kind.action_names),
        "agents": {name: type(t.agent).__name__ for name, t in run.trainers.items()},
        "plan_horizon": run.agent.plan_horizon,
    }


def check_facts(
    folder: Path, agents: Mapping[str, BaseAgent], action_names: Sequence[str]
) -> dict[str, Any]:
    """See that a checkpoint speaks the language of those who load it; returns its state.

    Args:
        folder: The checkpoint.
        agents: By name; the planner among them.
        action_names: One name per action.

    Raises:
        CheckpointError: If it is missing, damaged, or of another format; or if action set, plan
            horizon or agents differ.
    """
    state = read_state(folder)
    own = {"action_names": list(action_names), "plan_horizon": agents["planner"].plan_horizon}
    for fact, value in own.items():
        if state.get(fact) != value:
            raise CheckpointError(
                f"{folder} was written with {fact} {one_line(str(state.get(fact)), 400)}, here it "
                f"is {value}; {_OWN_CONFIG}"
            )
    absent = sorted(set(agents) - set(_part(folder, state, "agents", dict)))
    if absent:
        raise CheckpointError(
            f"{folder} holds no {' and no '.join(absent)}; {_OWN_CONFIG}, or set "
            "Experiment.baseline_agent_type = None"
        )
    return state


def _part(folder: Path, state: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """A fact that the state of a checkpoint must hold.

    Raises:
        CheckpointError: If it does not.
    """
    try:
        return typed(state, name, *kinds)
    except ValueError as error:
        raise _unlike(folder, state, str(error)) from error


def _unlike(folder: Path, state: Mapping[str, Any], reason: str) -> CheckpointError:
    """The error for a checkpoint that holds other things than those of this version do."""
    version = one_line(str(state.get("remdm_version", "unknown")), 40)
    return CheckpointError(
        f"{folder / STATE_FILE} is damaged, or is not of this version of remdm, {__version__} "
        f"({reason}; version {version} wrote it): load it with that one, or move that folder away "
        "to go on without it"
    )


def load_acting(
    agents: Mapping[str, BaseAgent],
    folder: Path,
    action_names: Sequence[str],
    *,
    averaged: bool = True,
) -> None:
    """Load the weights of a checkpoint, a best or a published one, to act by them.

    Args:
        agents: What to load them into, by name.
        folder: See `check_facts`.
        action_names: See `check_facts`.
        averaged: The averaged weights, which are everywhere; otherwise those that were trained.

    Raises:
        CheckpointError: If it is missing, damaged, does not fit, or holds averaged weights only.
    """
    check_facts(folder, agents, action_names)
    if not averaged and not (folder / weights_file("planner", averaged=False)).is_file():
        raise CheckpointError(
            f"{folder} holds averaged weights only; the weights that were trained are in the "
            "checkpoints below ckpts/ of a run folder"
        )
    for name, agent in agents.items():
        path = folder / weights_file(name, averaged=averaged)
        load_into(agent, load_weights(path), path)


def save_averaged(run: "AssembledRun", folder: Path) -> None:
    """Write the averaged weights of all agents as `folder`, whole or not at all."""

    def fill(partial: Path) -> None:
        for trainer in run.trainers.values():
            trainer.save_averaged(partial)

    write_checkpoint(folder.parent, folder.name, _facts(run), fill)


def checkpoint_name(progress: Progress) -> str:
    """Folder name of a checkpoint: epochs done, and batches of the one that runs."""
    name = epoch_name(progress.epoch)
    return f"{name}_batch_{progress.batches:06d}" if progress.within_epoch else name


def newest_checkpoint(root: Path) -> Path | None:
    """The checkpoint to go on from; None if there is none.

    Raises:
        CheckpointError: If one is damaged or of another format: to leave it out silently could
            throw away what was learnt since an older one.
    """
    found = []
    for folder in root.glob("[!.]*/"):
        if (folder / STATE_FILE).is_file():
            state = read_state(folder)
            _part(folder, state, "progress", dict)  # which read_state has looked at, if it is there
            found.append((how_far(state), folder.name, folder))
    return max(found)[2] if found else None


def save_run(run: "AssembledRun", root: Path) -> None:
    """Write everything that `load_run` needs; to be called by all processes."""
    own = {"random": random_states(), "progress": run.progress.to_dict()}
    if run.role.collects:
        own["collector"] = {k: torch.from_numpy(v) for k, v in run.collector.state().items()}
    gathered = gather_object([(own, held_memories(run))])
    if not run.accelerator.is_main_process:
        return

    def fill(folder: Path) -> None:
        for trainer in run.trainers.values():
            trainer.save(folder)
        save_memories(folder, [memories for _, memories in gathered])
        for rank, (values, _) in enumerate(gathered):
            save_plain(folder / _process_file(rank), values)

    state = {
        **_facts(run),
        "mode": run.role.name,
        "num_processes": len(gathered),
        "dataset": run.dataset.state(),
        "metrics_bytes": run.metrics_log.size,
    }
    write_checkpoint(root, checkpoint_name(run.progress), state, fill)


def load_run(run: "AssembledRun", folder: Path, *, resume: bool) -> None:
    """Take up a run where a checkpoint left it, or only its averaged weights.

    Raises:
        CheckpointError: If it is missing, damaged, or does not fit; no file has changed then.
    """
    agents = {name: trainer.agent for name, trainer in run.trainers.items()}
    state = check_facts(folder, agents, run.kind.action_names)
    if resume:
        own = _own_process(run, folder, state)
        remembered = _part(folder, state, "dataset", dict)
        metrics_bytes = _part(folder, state, "metrics_bytes", int)
    for trainer in run.trainers.values():
        trainer.load(folder, resume=resume)
    if not resume:
        return
    load_memories(run, folder)
    try:
        run.progress = Progress.from_dict(own["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unlike(folder, state, f"its counters: {one_line(str(error), 200)}") from error
    run.acting_updates = run.trainers["planner"].updates
    adopt_best(run)
    set_random_states(own["random"])
    # Separate collectors do not go back with the learner: what they made since stays.
    run.dataset.restore(remembered, keep_newer=not run.role.alone)
    if run.accelerator.is_main_process:
        run.metrics_log.rewind(max(0, metrics_bytes))
    if run.role.collects:
        run.collector.restore({k: v.numpy() for k, v in own["collector"].items()})


def _own_process(run: "AssembledRun", folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that belongs to this process."""
    if folder.resolve().parent != run.folder.checkpoints.resolve():
        raise CheckpointError(
            f"{folder} is not of this run, whose data lies elsewhere; load it with "
            "resume_training_state=False to start from its weights, or give the run its own folder"
        )
    mode = state.get("mode", "both")  # older ones do not say
    if mode != run.role.name:
        raise CheckpointError(
            f"{folder} was written with --mode {one_line(str(mode), 40)}, and the levels of its "
            f"actors would be played again with --mode {run.role.name}; go on with the former, or "
            "begin another run from its weights (Experiment.start_from)"
        )
    count = run.accelerator.num_processes
    written_by = _part(folder, state, "num_processes", int)
    if written_by != count:
        raise CheckpointError(
            f"{folder} was written by {written_by} processes, this run has {count}; "
            "start it with as many"
        )
    own = load_plain(folder / _process_file(run.accelerator.process_index))
    if not run.role.collects:
        return own
    actors = len(own["collector"]["episodes"])
    if actors != run.envs.num_envs:
        raise CheckpointError(
            f"{folder} has {actors} actors, this run {run.envs.num_envs}; set "
            "Experiment.parallel_actors back"
        )
    return own


def adopt_best(run: "AssembledRun") -> None:
    """Go by the best weights that are there, which may be younger than the checkpoint."""
    score, epoch = -1.0, -1
    if (run.folder.best / STATE_FILE).is_file():
        best = _part(run.folder.best, read_state(run.folder.best), "progress", dict)
        score = _part(run.folder.best, best, "best_score", float, int)
        epoch = _part(run.folder.best, best, "best_epoch", int)
    run.progress.best_score, run.progress.best_epoch = score, epoch
