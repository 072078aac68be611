"""Going back to an older checkpoint: what came after it is set aside, and nothing is deleted.

It moves to `ckpts/superseded/<number>/`, one folder for each time that a run went back. The steps,
in order; wherever the process is killed, each of them is done or not begun:

1. `ckpts/rewind.json` is written. While it is there, every start does all that follows first.
2. `DONE` is removed, and the metrics are copied.
3. Newer checkpoints move, the newest first, and with them those that cannot be read.
4. `best/` and `last/` move, if a later epoch made them: validation chooses anew.
5. What the trackers know the run by moves: they begin another one that has the curves up to here,
   see `remdm.training.trackers`.
6. Lines about later epochs leave the metrics of a separate validator.
7. `ckpts/rewind.json` is removed.

The checkpoint is then the newest one. All else is what every start does that goes on from there:
`metrics.jsonl` and the dataset go back to what it remembers. Separate collectors, labellers and
validators must not run meanwhile: they would go on in the time that is given up.
"""

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from remdm.data.atomic_file import atomic_file, sweep_temporary_files
from remdm.data.plain_json import counted, parsed_object
from remdm.training.checkpoint import (
    STATE_FILE,
    CheckpointError,
    check_whole,
    how_far,
    list_checkpoints,
    read_state,
    to_disk,
    whole_epochs,
)
from remdm.training.tracking import JsonlLog

if TYPE_CHECKING:
    from remdm.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SUPERSEDED, INTENT_FILE = "superseded", "rewind.json"


def checkpoint_after(root: Path, epochs: int) -> Path:
    """The checkpoint in `root` that was written after so many epochs.

    Raises:
        CheckpointError: If there is none; says which ones there are.
    """
    found = {whole_epochs(folder): folder for folder in list_checkpoints(root)}
    if epochs in found:
        return found[epochs]
    there = ", ".join(str(number) for number in found if number is not None) or "none"
    raise CheckpointError(
        f"there must be a checkpoint after {epochs} epochs in {root} to go back to, there are "
        f"those after {there}; set Experiment.resume to one of them, or to 'auto' for the newest; "
        "Experiment.keep_every_ckpts keeps more of them"
    )


def rewind(folder: "RunFolder", epochs: int | None = None) -> Path | None:
    """Make the checkpoint after so many epochs the newest one; to be called by the run's owner.

    Args:
        folder: Of the run.
        epochs: None only finishes what a killed process has begun.

    Returns:
        Where the later ones lie now; None if there was nothing to do.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged; nothing has moved then.
        OSError: If the disk is full or read-only; the next start finishes what was begun.
    """
    pending = _pending(folder.checkpoints)
    if epochs is not None:
        target = checkpoint_after(folder.checkpoints, epochs)
        if how_far(check_whole(target))[0] != epochs:
            raise CheckpointError(f"{target} is damaged: it is not of {epochs} epochs")
        if pending is None and not _newer(folder.checkpoints, epochs):
            return None
        pending = (epochs, pending[1] if pending else _next_number(folder.checkpoints))
        _write_intent(folder.checkpoints, *pending)
    if pending is None:
        return None
    aside = _set_aside(folder, *pending)
    logger.info("went back to %d epochs; what came after them lies in %s", pending[0], aside)
    return aside


def _set_aside(folder: "RunFolder", epochs: int, number: int) -> Path:
    """Steps 2 to 7, or what is left of them."""
    aside = folder.checkpoints / SUPERSEDED / str(number)
    aside.mkdir(parents=True, exist_ok=True)
    folder.done.unlink(missing_ok=True)
    for metrics in folder.root.glob("metrics*.jsonl"):
        _copy(metrics, aside / metrics.name)
    for newer in _newer(folder.checkpoints, epochs):
        newer.rename(aside / newer.name)
    for kept, counter in ((folder.best, "best_epoch"), (folder.last, "epoch")):
        if _is_later(kept, counter, epochs):
            kept.rename(aside / kept.name)
    for known in folder.root.glob("trackers*.json"):
        known.rename(aside / known.name)
    for metrics in folder.root.glob("metrics-validate-*.jsonl"):
        JsonlLog(metrics).forget_from(epochs)
    to_disk([aside, aside.parent, folder.checkpoints, folder.root])
    for place in (aside, folder.checkpoints):  # of killed processes: nobody else writes there
        sweep_temporary_files(place, 0)
    (folder.checkpoints / INTENT_FILE).unlink()
    return aside


def _copy(source: Path, target: Path) -> None:
    """Copy a file, unless that was done before something was taken from it."""
    if not target.exists():
        with source.open("rb") as read, atomic_file(target, "a copy of metrics") as file:
            shutil.copyfileobj(read, file)


def _newer(root: Path, epochs: int) -> list[Path]:
    """What came after `epochs` epochs: what cannot be read, then the newest first."""
    unreadable, later = [], []
    for folder in root.glob("[!.]*/"):
        if not (folder / STATE_FILE).is_file():
            continue
        try:
            done = how_far(read_state(folder))
        except ValueError:
            unreadable.append(folder)
            continue
        if done[0] > epochs or (done[0] == epochs and whole_epochs(folder) != epochs):
            later.append((done, folder.name, folder))
    return [*unreadable, *(folder for _, _, folder in sorted(later, reverse=True))]


def _is_later(folder: Path, counter: str, epochs: int) -> bool:
    """Whether weights are of a time that is given up, or nobody can tell.

    Args:
        folder: `best` or `last`.
        counter: Of its progress: the epoch that made the best, from 0, or the epochs done.
        epochs: Epochs that are not given up.
    """
    if not folder.is_dir():
        return False
    try:
        made = read_state(folder)["progress"][counter]
        return bool(made >= epochs if counter == "best_epoch" else made > epochs)
    except (CheckpointError, KeyError, TypeError):
        return True


def _next_number(root: Path) -> int:
    taken = [int(p.name) for p in (root / SUPERSEDED).glob("*") if p.name.isdecimal()]
    return max(taken, default=0) + 1


def _write_intent(root: Path, epochs: int, number: int) -> None:
    with atomic_file(root / INTENT_FILE, "what a run goes back to") as file:
        file.write(json.dumps({"epochs": epochs, "number": number}).encode("ascii"))


def _pending(root: Path) -> tuple[int, int] | None:
    """Epochs that an earlier start was going back to, and its number; None if there was none."""
    path = root / INTENT_FILE
    with contextlib.suppress(FileNotFoundError):
        try:
            intent = parsed_object(path.read_bytes())
            return counted(intent, "epochs"), counted(intent, "number", least=1)
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); remove it to go on from the newest checkpoint"
            ) from error
    return None
