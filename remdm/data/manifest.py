"""Which files of a dataset are drawn from: numbered manifests, read, written and taken back.

One process scans the folder and writes a manifest generation; all processes of a run draw from
the generation they are told, so they agree on the data whatever their directory listings say.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path

from remdm.data.atomic_file import atomic_file
from remdm.data.folder import DatasetFolder, listed
from remdm.data.generation import Manifest
from remdm.data.plain_json import one_line, parsed_object

logger = logging.getLogger(__name__)

MANIFESTS_KEPT = 5


def load_manifest(folder: DatasetFolder, generation: int | None = None) -> Manifest:
    """Read a manifest.

    Args:
        folder: The dataset.
        generation: Which one; the newest readable one when None, or the empty one if none is.

    Raises:
        FileNotFoundError: If there is no such generation.
        ValueError: If the generation asked for cannot be read.
    """
    paths = folder.manifests()
    if generation is not None and generation not in paths:
        raise FileNotFoundError(
            f"{folder.root} has no manifest of generation {generation}; it has {list(paths)}"
        )
    if generation is not None:
        return _read_manifest(paths[generation], generation)
    for number, path in reversed(paths.items()):
        try:
            return _read_manifest(path, number)
        except ValueError as error:
            logger.warning("%s; an older manifest, or a new scan, takes its place", error)
    return Manifest()


def _read_manifest(path: Path, generation: int) -> Manifest:
    try:
        manifest = Manifest.from_json(parsed_object(path.read_bytes()))
        if manifest.generation != generation:
            raise ValueError(f"it says of itself that it is of generation {manifest.generation}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable manifest: {one_line(str(error), 300)}") from error
    return manifest


def save_manifest(folder: DatasetFolder, manifest: Manifest) -> None:
    """Write a manifest atomically and delete all but the last few."""
    path = folder.root / f"manifest-{manifest.generation:06d}.json"
    with atomic_file(path, "a manifest") as file:
        file.write(json.dumps(manifest.to_json(), separators=(",", ":")).encode())
    # Damaged ones may bear higher numbers; the new one must not go in their place.
    done = [old for number, old in folder.manifests().items() if number <= manifest.generation]
    for old in done[:-MANIFESTS_KEPT]:
        old.unlink(missing_ok=True)


def rewind_manifest(folder: DatasetFolder, manifest: Manifest, known: Collection[str]) -> None:
    """Make a manifest that a checkpoint remembers the newest one again.

    Args:
        folder: The dataset.
        manifest: What was drawn from when the checkpoint was made.
        known: Names of the shards that existed then. All others move to `superseded/`: the
            resumed run collects them again.
    """
    folder.make()
    for path in listed(folder.shards):
        if path.name not in known:
            folder.superseded.mkdir(parents=True, exist_ok=True)
            path.replace(folder.superseded / path.name)
            (folder.labels / path.name).unlink(missing_ok=True)
            logger.info("%s is collected again; it was moved to superseded/", path.name)
    for generation, path in folder.manifests().items():
        if generation > manifest.generation:
            path.unlink(missing_ok=True)
    if manifest.generation:
        save_manifest(folder, manifest)


def go_on_from_manifest(folder: DatasetFolder, manifest: Manifest) -> None:
    """See that later generations have higher numbers than a manifest that a checkpoint remembers.

    Manifests made since stay, and so do the shards: the next refresh goes on from the newest one.

    Args:
        folder: The dataset.
        manifest: What was drawn from when the checkpoint was made.
    """
    folder.make()
    if load_manifest(folder).generation < manifest.generation:
        save_manifest(folder, manifest)
