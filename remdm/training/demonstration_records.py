"""What was collected into a folder of demonstrations: one record for every piece of the work.

A piece is a run of an environment's episodes, at most `PIECE_EPISODES` of them. It is done when
its record is there and so is the shard that the record names: whatever kills the program, what is
counted is what lies on disk.
"""

import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remdm.data.atomic_file import atomic_file
from remdm.data.folder import DatasetFolder, listed
from remdm.data.plain_json import counted, parsed_object, typed
from remdm.data.shard_file import Shard
from remdm.data.shard_names import parsed_or_none
from remdm.data.tensor_file import DamagedFileError

logger = logging.getLogger(__name__)

RECORDS_FOLDER = "demonstrations"
PIECE_EPISODES = 64
MOST_EPISODES = 1_000_000
_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Episodes `first` to `stop`, exclusive, of an environment.

    Attributes:
        env: Environment id.
        seed: Of the collecting.
        first: Number of the first episode.
        stop: Number after the last one.
    """

    env: str
    seed: int
    first: int
    stop: int

    @property
    def collector(self) -> str:
        """Names its shards: everything that tells its episodes but their numbers."""
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", self.env)
        if plain != self.env or len(plain) > 80:  # a path of a level file
            plain = f"{plain[-80:]}-{zlib.crc32(self.env.encode()):08x}"
        return f"demo-{self.seed}-{plain}"

    @property
    def record_name(self) -> str:
        """File name of its record."""
        return f"{self.collector}-{self.first:06d}-{self.stop:06d}.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a piece.

    Attributes:
        piece: Which episodes.
        won: Episodes that were won.
        steps: Env steps of all of them.
        steps_won: Env steps of those that were won.
        kept: Episodes in the shard.
        seconds: Time since the piece before was done.
        shard: Name of the shard in `protected/`; None where nothing was kept.
        checksum: Of that shard.
    """

    piece: Piece
    won: int
    steps: int
    steps_won: int
    kept: int
    seconds: float
    shard: str | None
    checksum: str | None


class DemonstrationRecords:
    """The records in a folder, read once, and written as work is done."""

    def __init__(self, folder: DatasetFolder, settings: Mapping[str, Any]) -> None:
        """Args:
        folder: The dataset; its folders are made.
        settings: All that episodes depend on, besides environment, seed and number.

        Raises:
            ValueError: If the folder was collected with other settings, or a record is damaged.
        """
        self.folder, self.settings = folder, dict(settings)
        self.root = folder.root / RECORDS_FOLDER
        folder.make()
        self.root.mkdir(exist_ok=True)
        self.records = [r for path in sorted(self.root.glob("*.json")) if (r := self._read(path))]

    def of(self, env: str, seed: int, episodes: int) -> list[Record]:
        """Those of an environment's first `episodes` episodes with a seed."""
        return [
            record
            for record in self.records
            if (record.piece.env, record.piece.seed) == (env, seed)
            and record.piece.first < episodes
        ]

    def missing(self, env: str, seed: int, episodes: int) -> list[Piece]:
        """The pieces that are still to be done, in order."""
        done = sorted((r.piece.first, r.piece.stop) for r in self.of(env, seed, episodes))
        pieces, first = [], 0
        for start, stop in [*done, (episodes, episodes)]:
            pieces += [Piece(env, seed, *ends) for ends in _cut(first, start)]
            first = max(first, stop)
        return pieces

    def clear(self, collector: str) -> None:
        """Delete what an interrupted program wrote before its record.

        Args:
            collector: Whose shards; see `Piece.collector`.
        """
        known = {record.shard for record in self.records}
        for path in listed(self.folder.protected):
            name = parsed_or_none(path.name)
            if name is not None and name.collector == collector and path.name not in known:
                path.unlink()
                (self.folder.labels / path.name).unlink(missing_ok=True)

    def add(self, record: Record, name: str | None = None) -> None:
        """Write down that a piece is done.

        Args:
            record: What became of it.
            name: File name of the record; that of its piece when None.
        """
        values = {
            "schema_version": _SCHEMA_VERSION,
            "settings": self.settings,
            "env": record.piece.env,
            "seed": record.piece.seed,
            **{name: getattr(record.piece, name) for name in ("first", "stop")},
            **{name: getattr(record, name) for name in ("won", "steps", "steps_won", "kept")},
            "seconds": round(record.seconds, 3),
            "shard": record.shard,
            "checksum": record.checksum,
        }
        path = self.root / (name or record.piece.record_name)
        with atomic_file(path, "a record of demonstrations") as file:
            file.write(json.dumps(values, indent=1).encode())
        self.records.append(record)

    def _read(self, path: Path) -> Record | None:
        """A record, if its shard is there.

        Raises:
            ValueError: If it is damaged, or of other settings.
        """
        try:
            values = parsed_object(path.read_bytes())
            if typed(values, "schema_version", int) != _SCHEMA_VERSION:
                raise ValueError("it is of another version")
            settings, record = typed(values, "settings", dict), _record_of(values)
        except ValueError as error:
            raise ValueError(
                f"{path} must be a record of demonstrations: {error}. Delete it; its episodes are "
                "then played again."
            ) from error
        if settings != self.settings:
            raise ValueError(
                f"{self.folder.root} was collected with other settings: "
                f"{_differences(settings, self.settings)}. Take another --out, or the same "
                "settings."
            )
        return record if self._has_shard(record) else None

    def _has_shard(self, record: Record) -> bool:
        if record.shard is None:
            return True
        path = self.folder.protected / record.shard
        try:
            return Shard.open(path).checksum == record.checksum
        except FileNotFoundError:
            logger.warning("%s is gone; its episodes are played again", path)
        except DamagedFileError as error:
            self.folder.set_aside(error)
        return False


def _record_of(values: Mapping[str, Any]) -> Record:
    """Raises: ValueError: If the values make no sense."""
    first = counted(values, "first")
    stop = counted(values, "stop", least=first + 1)
    piece = Piece(typed(values, "env", str), counted(values, "seed"), first, stop)
    shard = typed(values, "shard", str, type(None))
    if shard is not None and parsed_or_none(shard) is None:
        raise ValueError("its shard has no name of a shard")
    return Record(
        piece,
        won=counted(values, "won"),
        steps=counted(values, "steps"),
        steps_won=counted(values, "steps_won"),
        kept=counted(values, "kept"),
        seconds=float(typed(values, "seconds", float, int)),
        shard=shard,
        checksum=typed(values, "checksum", str, type(None)),
    )


def _cut(first: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a run of numbers where pieces begin."""
    while first < stop:
        end = min(stop, (first // PIECE_EPISODES + 1) * PIECE_EPISODES)
        yield first, end
        first = end


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names: Sequence[str] = [n for n in {**before, **now} if before.get(n) != now.get(n)]
    return ", ".join(f"{n} was {before.get(n)!r} and is {now.get(n)!r}" for n in names)
