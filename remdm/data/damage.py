"""What readers raise for a file that cannot be trusted."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from remdm.data.plain_json import one_line

# A reason may quote what stands in the file, and that may be anything.
_REASON_LENGTH = 300


class DamagedFileError(Exception):
    """A data file that cannot be trusted.

    Attributes:
        path: The file.
        reason: What is wrong with it, in one sentence.
    """

    def __init__(self, path: Path, reason: str) -> None:
        """Args:
        path: The file.
        reason: What is wrong with it, in one sentence.
        """
        reason = one_line(reason, _REASON_LENGTH)
        super().__init__(f"{one_line(str(path))} is damaged: {reason}")
        self.path, self.reason = path, reason


@contextlib.contextmanager
def damage_if_wrong(path: Path) -> Iterator[None]:
    """Say of which file it is that something in it is wrong.

    Raises:
        DamagedFileError: If the block raises ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise DamagedFileError(path, str(error)) from error
