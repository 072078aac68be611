"""Shards and label files that are mapped already, so that each file is opened and read once."""

import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TypeVar

from remdm.data.labels import Labels
from remdm.data.shard_file import Shard
from remdm.data.tensor_file import DamagedFileError

_File = TypeVar("_File", Shard, Labels)
# What tells two files of one name apart: inode, size, time of the last change in nanoseconds.
_Signature = tuple[int, int, int]


class OpenFiles:
    """A cache of mapped files. A file that was replaced on disk is opened again.

    To open a file is to read and check its header. Its contents are compared with their checksum
    by `verify`, once.
    """

    def __init__(self, on_damage: Callable[[DamagedFileError], None]) -> None:
        """Args:
        on_damage: Told of every damaged file.
        """
        self.on_damage = on_damage
        self._files: dict[str, Shard | Labels] = {}
        self._signatures: dict[str, _Signature] = {}
        self._whole: set[str] = set()

    def shard(
        self, path: str | Path, trusted: Container[str] = (), known: str | None = None
    ) -> Shard | None:
        """The shard at `path`; None if there is none, or one whose header is damaged.

        Args:
            path: The file.
            trusted: Checksums of files whose contents were compared before.
            known: Checksum of the file that is meant. If it is open, what lies there now is not
                looked at.
        """
        return self._file(Shard, os.fspath(path), trusted, known)

    def labels(
        self, path: str | Path, trusted: Container[str] = (), known: str | None = None
    ) -> Labels | None:
        """The label file at `path`; see `shard`."""
        return self._file(Labels, os.fspath(path), trusted, known)

    def is_whole(self, file: Shard | Labels) -> bool:
        """Whether the contents of a file were compared, and right."""
        name = file.file.filename
        return name in self._whole and self._files.get(name) is file

    def verify(self, file: Shard | Labels) -> bool:
        """Compare the contents of a file with their checksum, unless that was done before.

        Safe to call from several threads.

        Returns:
            Whether they are right. If not, the file is forgotten, and `on_damage` told of it.
        """
        if self.is_whole(file):
            return True
        name = file.file.filename
        signature = self._signatures.get(name)
        try:
            file.verify()
        except DamagedFileError as error:
            if self._files.get(name) is file:
                self.drop(name)
                # What lies there by now may be another file, and whole.
                if _signature(name) == signature:
                    self.on_damage(error)
            return False
        if self._files.get(name) is file:
            self._whole.add(name)
        return True

    def drop(self, *names: str) -> list[Shard | Labels]:
        """Forget files; they are unmapped once nothing refers to them any more.

        Returns:
            Those that were open.
        """
        files = []
        for name in names:
            file = self._files.pop(name, None)
            if file is not None:
                files.append(file)
                del self._signatures[name]
                self._whole.discard(name)
        return files

    def keep_only(self, names: Iterable[str]) -> list[Shard | Labels]:
        """Forget all other files; see `drop`."""
        return self.drop(*(self._files.keys() - set(names)))

    def _file(
        self, kind: type[_File], name: str, trusted: Container[str], known: str | None
    ) -> _File | None:
        opened = self._files.get(name)
        if opened is not None and opened.checksum == known:
            assert isinstance(opened, kind)
            return opened
        signature = _signature(name)
        if signature is None:
            return None
        before = self._signatures.get(name)
        if opened is not None and before == signature:
            assert isinstance(opened, kind)
            return opened
        try:
            file = kind.open(name)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self.on_damage(error)
            return None
        self._files[name], self._signatures[name] = file, signature
        # What has changed under its name is not trusted for what was there before.
        if before is None and file.checksum in trusted:
            self._whole.add(name)
        else:
            self._whole.discard(name)
        return file


def _signature(name: str) -> _Signature | None:
    try:
        status = os.stat(name)
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
