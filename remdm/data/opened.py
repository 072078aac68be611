"""Shards and label files that are mapped already, so that each file is opened and read once."""

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TypeVar

from remdm.data.labels import Labels
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError

_File = TypeVar("_File", Shard, Labels)
# What tells two files of one name apart: inode, size, time of the last change in nanoseconds.
_Signature = tuple[int, int, int]


class OpenFiles:
    """A cache of mapped files. A file that was replaced on disk is opened again."""

    def __init__(self, on_damage: Callable[[DamagedFileError], None]) -> None:
        """Args:
        on_damage: Told of every damaged file.
        """
        self.on_damage = on_damage
        self._shards: dict[Path, tuple[_Signature, Shard]] = {}
        self._labels: dict[Path, tuple[_Signature, Labels]] = {}

    def shard(self, path: Path, trusted: Container[str] = ()) -> Shard | None:
        """The shard at `path`; None if there is none, or a damaged one.

        The contents are compared with their checksum once, unless it is in `trusted`.
        """
        return self._file(self._shards, Shard.open, path, trusted)

    def labels(self, path: Path, trusted: Container[str] = ()) -> Labels | None:
        """The label file at `path`; see `shard`."""
        return self._file(self._labels, Labels.open, path, trusted)

    def keep_only(self, shard_paths: Iterable[Path], label_paths: Iterable[Path]) -> None:
        """Unmap all other files, once no array refers to them any more."""
        shards, labels = set(shard_paths), set(label_paths)
        self._shards = {k: v for k, v in self._shards.items() if k in shards}
        self._labels = {k: v for k, v in self._labels.items() if k in labels}

    def _file(
        self,
        cache: dict[Path, tuple[_Signature, _File]],
        open_file: Callable[..., _File],
        path: Path,
        trusted: Container[str],
    ) -> _File | None:
        try:
            stat = path.stat()
            signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if path in cache and cache[path][0] == signature:
                return cache[path][1]
            file = open_file(path)
            if file.checksum not in trusted:
                file = open_file(path, verify_data=True)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self.on_damage(error)
            return None
        cache[path] = signature, file
        return file
