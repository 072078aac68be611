"""A folder of numbered files, in which all processes agree on who made which number.

Every number is made by an exclusive creation: of any number of rivals the file system lets one
through, on local disks and on NFS from version 3 on. A whole file is linked into its place, so
that nobody who is killed, or finds the disk full, leaves half of one under a number; where there
are no links, as on some shared file systems, it is created there (O_EXCL) and then filled. No
file locks are used. The file with the highest number counts. It is
never removed; lower ones are, by whoever made a higher one. A process that slept between looking
and creating may therefore create a number that was used and removed before. It looks once more
after the creation, sees the higher number, and withdraws. That second look is fresh on NFS too:
a client that has created a file in a folder reads the folder anew if anybody else changed it.
"""

import contextlib
import errno
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from remdm.data.atomic_file import NO_LINKS, put_in_place

_GENERATION_FILE = re.compile(r"generation-(\d{1,18})\.json")
_LEFT_BEHIND = re.compile(r"\.generation-(\d{1,18})-.*\.tmp")
_READ_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest file of a log.

    Attributes:
        generation: Its number.
        raw: Its contents, which may be damaged.
    """

    generation: int
    raw: bytes


class GenerationLog:
    """A folder of numbered files, in which everybody agrees on who made which number."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: Where the files lie; see `make`.
        """
        self.folder = folder

    def make(self) -> None:
        """Make the folder, if it is missing.

        Raises:
            OSError: If that is impossible.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._explained(error) from error

    def path(self, generation: int) -> Path:
        """File of a generation."""
        return self.folder / f"generation-{generation:010d}.json"

    def newest(self) -> Entry | None:
        """The file with the highest number, or None where there is no file.

        Raises:
            OSError: If the folder cannot be read.
        """
        highest = 0
        for _ in range(_READ_ATTEMPTS):
            highest = self._highest()
            if not highest:
                return None
            try:
                return Entry(highest, self.path(highest).read_bytes())
            except FileNotFoundError:
                continue  # superseded since the look at the folder
            except OSError as error:
                if error.errno != errno.ESTALE:  # what NFS says of a file that was replaced
                    raise self._explained(error) from error
        return Entry(highest, b"")

    def append(self, generation: int, raw: bytes) -> bool:
        """Make the file of a generation, unless somebody was faster; drop all lower ones.

        Args:
            generation: One more than the newest, which has ended.
            raw: Contents.

        Returns:
            Whether the file is ours and the newest.

        Raises:
            OSError: If the folder cannot be written to.
        """
        path = self.path(generation)
        try:
            self._create(path, generation, raw)
        except FileExistsError:
            return False
        except OSError as error:
            # Whoever made a higher number has cleared away what was to become this one.
            if isinstance(error, FileNotFoundError) and self._highest() > generation:
                return False
            raise self._explained(error) from error
        self._sync_folder()
        if self._highest() > generation:
            path.unlink(missing_ok=True)
            return False
        self._remove_below(generation)
        return True

    def _create(self, path: Path, generation: int, raw: bytes) -> None:
        """Make a file that is not there yet; raises FileExistsError if it is."""
        whole = self.folder / f".generation-{generation}-{uuid.uuid4().hex}.tmp"
        try:
            _write(whole, raw)
            put_in_place(whole, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write(path, raw)
        finally:
            whole.unlink(missing_ok=True)

    def rewrite(self, generation: int, raw: bytes, writer: str) -> None:
        """Replace the file of a generation, which only its maker may do.

        Args:
            generation: Its number.
            raw: New contents.
            writer: A name that only this writer has.

        Raises:
            OSError: If it cannot be written.
        """
        temporary = self.folder / f".generation-{generation}-{writer}.tmp"
        temporary.write_bytes(raw)
        temporary.replace(self.path(generation))

    def _highest(self) -> int:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._explained(error) from error
        found = [_GENERATION_FILE.fullmatch(name) for name in names]
        return max((int(match[1]) for match in found if match), default=0)

    def _remove_below(self, generation: int) -> None:
        for name in os.listdir(self.folder):
            match = _GENERATION_FILE.fullmatch(name) or _LEFT_BEHIND.fullmatch(name)
            if match and int(match[1]) < generation:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink()

    def _sync_folder(self) -> None:
        # Some shared file systems cannot do it; their server knows of the file already.
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _explained(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"{self.folder} must be a folder that this process may read and write, since it says "
            f"who works here: {error.strerror or error}. Give this user the right to write to it, "
            "or choose another folder for the run (Experiment.ckpt_base_dir)",
        )


def _write(path: Path, raw: bytes) -> None:
    """Fill a new file, down to the disk."""
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
