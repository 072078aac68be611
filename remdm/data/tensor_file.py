"""One immutable file of named arrays: written atomically, checked, mapped into memory.

The container is safetensors (8 bytes of header length, a JSON header, the raw arrays), so any
safetensors reader opens it. On top of it the metadata carry two CRC-32 sums, one of the header and
one of the arrays: a torn copy or a flipped bit is found and never trained on.
"""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.atomic_file import atomic_file
from remdm.data.damage import DamagedFileError as DamagedFileError
from remdm.data.damage import damage_if_wrong as damage_if_wrong
from remdm.data.mapped_file import mapped
from remdm.data.tensor_header import (
    CODES,
    check_data,
    checked_header,
    header_bytes,
    layout,
    views_of,
)

SUFFIX = ".safetensors"
_NO_METADATA: dict[str, Any] = {}


def write_tensor_file(
    path: Path,
    tensors: Mapping[str, Sequence[np.ndarray]],
    metadata: Mapping[str, Any],
    what: str,
    *,
    exclusive: bool = False,
    confirm: Callable[[], None] | None = None,
) -> None:
    """Write arrays atomically.

    Args:
        path: Final place; its folder must exist.
        tensors: By name, the parts of an array that are laid one after another along axis 0.
        metadata: Anything JSON can hold.
        what: What is being written, for error messages.
        exclusive: Whether to refuse to write over a file that exists.
        confirm: See `atomic_file`.

    Raises:
        ValueError: If the parts of an array do not fit together.
        FileExistsError: If there is such a file, and that is not allowed.
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    specs = {name: _joined_spec(name, parts) for name, parts in tensors.items()}
    table = layout(specs)
    with atomic_file(path, what, exclusive=exclusive, confirm=confirm) as file:
        file.write(header_bytes(table, metadata, data_sum=0))
        data_sum = 0
        for name in table:
            for part in tensors[name]:
                raw = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
                data_sum = zlib.crc32(raw, data_sum)
                file.write(raw)
        file.seek(0)
        file.write(header_bytes(table, metadata, data_sum))


def _joined_spec(name: str, parts: Sequence[np.ndarray]) -> tuple[np.dtype, list[int]]:
    dtype, shape = parts[0].dtype, parts[0].shape[1:]
    if dtype not in CODES:
        raise ValueError(f"{name} has dtype {dtype}, which safetensors cannot hold")
    for part in parts:
        if part.dtype != dtype or part.shape[1:] != shape:
            raise ValueError(
                f"all parts of {name} must be {dtype} [:, {shape}], got {part.dtype} {part.shape}"
            )
    return dtype, [sum(len(part) for part in parts), *shape]


@dataclass(slots=True, eq=False)
class TensorFile:
    """The arrays of a file as read-only views of the mapped file.

    The file must not shrink while views live; writers here replace files and never change them.

    Attributes:
        filename: The file.
        tensors: Views by name.
        metadata: What the writer stored beside them.
        checksum: 16 hex digits that stand for header and contents.
        nbytes: Size of the file.
        data: uint8: all that follows the header.
    """

    # No Path, and no more objects than needed: a learner keeps tens of thousands of files open,
    # and Python's search for cycles looks at all objects again and again.
    filename: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    checksum: str
    nbytes: int
    data: np.ndarray

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.filename)

    def array(self, name: str) -> np.ndarray:
        """An array that must be there.

        Raises:
            ValueError: If it is not.
        """
        if name not in self.tensors:
            raise ValueError(f"it has no array {name}")
        return self.tensors[name]

    @classmethod
    def open(cls, path: str | Path, *, verify_data: bool = False) -> "TensorFile":
        """Map a file and check its header.

        Args:
            path: The file.
            verify_data: Also read all arrays and compare their sum.

        Raises:
            DamagedFileError: If the file is not whole.
            FileNotFoundError: If there is none.
        """
        filename = os.fspath(path)
        memory = mapped(filename)
        length = int.from_bytes(memory[:8].tobytes(), "little")
        if length > len(memory) - 8:
            raise DamagedFileError(
                Path(path),
                f"its header should have {length} bytes, the whole file has {len(memory)}",
            )
        head, data = memory[8 : 8 + length].tobytes(), memory[8 + length :]
        try:
            table, metadata, sums = checked_header(head)
            tensors = views_of(table, data)
        except ValueError as error:
            raise DamagedFileError(Path(path), str(error)) from error
        file = cls(filename, tensors, metadata, sums, len(memory), data)
        if verify_data:
            file.verify()
        return file

    def drop_metadata(self) -> None:
        """Forget the metadata, which take more memory than all else, and are read once."""
        self.metadata = _NO_METADATA

    def verify(self) -> None:
        """Read all arrays and compare their sum.

        Raises:
            DamagedFileError: If they are not what was written.
        """
        with damage_if_wrong(self.path):
            check_data(self.tensors, self.data, self.checksum)


class StoredArrays:
    """What is kept in one file, and known by it.

    Attributes:
        file: The file.
    """

    __slots__ = ()
    file: TensorFile

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def checksum(self) -> str:
        """Stands for the contents."""
        return self.file.checksum

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.file.nbytes
