"""Files that travel through Ray's object store, in pieces, and are checked where they arrive."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.atomic_file import atomic_file

PIECE_BYTES = 8 << 20


class ParcelError(ValueError):
    """A file did not arrive as it was sent."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file on its way.

    Attributes:
        name: Of the file, without folders.
        num_bytes: Its size.
        sha256: Its sum, 64 hex digits.
        pieces: References to its pieces, each uint8 [<= PIECE_BYTES].
    """

    name: str
    num_bytes: int
    sha256: str
    pieces: tuple[Any, ...]


def packed(path: Path) -> Parcel:
    """A file as a parcel. Its pieces live as long as this process and somebody refers to them.

    Raises:
        OSError: If the file cannot be read.
    """
    import ray

    digest, size, pieces = hashlib.sha256(), 0, []
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, np.uint8, PIECE_BYTES)):
            digest.update(piece.data)
            size += len(piece)
            pieces.append(ray.put(piece))
    return Parcel(path.name, size, digest.hexdigest(), tuple(pieces))


def unpack(
    parcel: Parcel, path: Path, what: str, check: Callable[[Path], None] | None = None
) -> None:
    """Write a parcel's file, which appears whole and checked, or not at all.

    Args:
        parcel: What came.
        path: Its place; the folder must exist.
        what: What it is, for messages.
        check: Called with the file under its temporary name; raises if it must not appear.

    Raises:
        ParcelError: If bytes are missing or differ.
        FileExistsError: If there is a file already.
        ConnectionError: If the sender has gone meanwhile.
        OSError: If it cannot be written.
    """
    import ray

    digest, size, arrived = hashlib.sha256(), 0, path

    def confirm() -> None:
        if (size, digest.hexdigest()) != (parcel.num_bytes, parcel.sha256):
            raise ParcelError(f"{what} did not arrive as it was sent; send it again")
        if check is not None:
            check(arrived)

    with atomic_file(path, what, exclusive=True, confirm=confirm) as file:
        arrived = Path(file.name)
        for reference in parcel.pieces:
            try:
                piece = np.asarray(ray.get(reference), np.uint8)
            except ray.exceptions.RayError as error:
                raise ConnectionError(f"{what} was lost on its way: {error}") from error
            size += len(piece)
            if size > parcel.num_bytes:
                break
            digest.update(piece.data)
            file.write(piece.data)


def file_sum(path: Path) -> str:
    """The SHA-256 sum of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
