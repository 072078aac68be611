"""Metrics as lines of JSON, beside whatever trackers accelerate knows."""

import contextlib
import heapq
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from remdm.data.atomic_file import atomic_file
from remdm.data.plain_json import parsed_object
from remdm.ranks import lost_process_told

# The clock at which a line was written, in seconds since 1970; older files have none.
TIME = "unix_seconds"
_BLOCK = 1 << 20
# Metrics of the process that learns, and of separate processes, as `metrics-collect-0.jsonl`.
_METRICS, _ROLE_METRICS = "metrics.jsonl", re.compile(r"metrics-([a-z]+-[0-9]+)\.jsonl")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonlLog:
    """Appends one JSON object per call to a file; every call leaves a whole line on disk."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: The file to append to; made on the first line. A link is refused: what it points to
            would be cut off by `rewind`.
        """
        self.path = path
        self._lines: int | None = None

    def write(self, values: dict[str, Any]) -> int:
        """Append one line, with the time in `unix_seconds`; returns its number, from 0.

        Raises:
            OSError: If it cannot be written, e.g. because the disk is full.
        """
        timed = {TIME: round(time.time(), 3), **values}
        line = json.dumps({k: _finite(v) for k, v in timed.items()}) + "\n"
        with self._opened("ab+") as file:
            # A process that was killed may have left half a line, which is to stay alone.
            torn = file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n"
            if self._lines is None:
                file.seek(0)
                self._lines = sum(
                    block.count(b"\n") for block in iter(partial(file.read, _BLOCK), b"")
                )
            file.write(b"\n" * bool(torn) + line.encode("utf-8"))
        self._lines += 1 + bool(torn)
        return self._lines - 1

    @contextlib.contextmanager
    def _opened(self, mode: str) -> Iterator[IO[bytes]]:
        def without_links(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NOFOLLOW, 0o666)

        try:
            with open(self.path, mode, opener=without_links) as file:
                yield file
        except OSError as error:
            reason = f"a line of metrics could not be written ({error.strerror})"
            raise OSError(error.errno, reason, str(self.path)) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; one that was torn or is no object is left out."""
        return list(self.numbered().values())

    def numbered(self) -> dict[int, dict[str, Any]]:
        """What `read` returns, each under the number of its line, from 0."""
        rows = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for number, line in enumerate(lines):
            with contextlib.suppress(ValueError):
                rows[number] = parsed_object(line)
        return rows

    @property
    def size(self) -> int:
        """Bytes written so far; what `rewind` takes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int) -> None:
        """Forget what was written after the file had `size` bytes: it will be written again."""
        if self.size > size:
            self._lines = None
            with self._opened("rb+") as file:
                file.truncate(size)

    def forget_from(self, epoch: int) -> None:
        """Leave out the lines about this epoch and later ones.

        Raises:
            OSError: If the disk is full; the file is as it was.
        """
        kept = [row for row in self.read() if not _is_at_least(row.get("epoch"), epoch)]
        self._lines = None
        with atomic_file(self.path, "metrics without those of later epochs") as file:
            file.writelines(json.dumps(row).encode("utf-8") + b"\n" for row in kept)


def _is_at_least(value: Any, least: int) -> bool:
    return isinstance(value, (int, float)) and value >= least


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The metrics of all processes of a run, in the order of time.

    Args:
        folder: Of the run.

    Returns:
        Lines as they were written; those of a separate process have its name as `role`, such as
        `collect-0`. Lines of one file stay in their order, also where a clock was set back.
    """
    timed = [_timed(JsonlLog(folder / _METRICS).read())]
    for path in sorted(folder.glob("metrics-*.jsonl")):
        if (found := _ROLE_METRICS.fullmatch(path.name)) is not None:
            rows = JsonlLog(path).read()
            timed.append(_timed([{**row, "role": found[1]} for row in rows]))
    return [row for _, row in heapq.merge(*timed, key=lambda pair: pair[0])]


def _timed(rows: Sequence[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Lines of one file with their times, which never go back; older lines come first."""
    latest, timed = 0.0, []
    for row in rows:
        at = row.get(TIME)
        latest = max(latest, at) if isinstance(at, (int, float)) else latest
        timed.append((latest, row))
    return timed


@lost_process_told()
def reduce_metrics(accelerator: Accelerator, metrics: dict[str, Any], how: str) -> dict[str, float]:
    """Mean or sum of each metric over all processes that have it; the same in all of them.

    Every process counts alike in a mean. Losses and what comes with them are made so that this
    is the number of the whole batch.

    Raises:
        LostProcessError: If another process has ended.
    """
    if accelerator.num_processes == 1:
        return {k: float(v) for k, v in metrics.items()}
    gathered: list[dict[str, float]] = gather_object([metrics])
    keys = sorted({key for row in gathered for key in row})
    values = {key: [float(row[key]) for row in gathered if key in row] for key in keys}
    return {k: sum(v) if how == "sum" else sum(v) / len(v) for k, v in values.items()}


@lost_process_told()
def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in any process; the same answer in all of them.

    Raises:
        LostProcessError: If another process has ended.
    """
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor([int(flag)], device=accelerator.device)
    return bool(accelerator.reduce(flags, "sum").item())
