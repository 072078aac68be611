"""File names of shards: what they tell, and that they sort in the order of making."""

import re
from typing import NamedTuple

from remdm.data.tensor_file import SUFFIX

_NAME = re.compile(r"e([0-9]{6})-([A-Za-z0-9._-]+)-([0-9]{6})-(0|[1-9][0-9]{0,17})")


class ShardName(NamedTuple):
    """What the name of a shard tells.

    Attributes:
        epoch: Epoch of collection.
        collector: Who recorded it.
        sequence: Number of the shard within epoch and collector.
        num_steps: Steps in it.
    """

    epoch: int
    collector: str
    sequence: int
    num_steps: int


def shard_name(epoch: int, collector: str, sequence: int, num_steps: int) -> str:
    """File name of a shard; names sort in the order in which shards were made.

    Args:
        epoch: Epoch of collection, at most 999999.
        collector: Who recorded it: letters, digits, dots, underscores and hyphens.
        sequence: Number of the shard within epoch and collector, at most 999999.
        num_steps: Steps in it.

    Raises:
        ValueError: If a part does not fit.
    """
    if not all(c.isascii() and (c.isalnum() or c in "._-") for c in collector) or not collector:
        raise ValueError(
            f"a collector's name must consist of letters, digits, '.', '_' and '-', "
            f"got {collector!r}"
        )
    if not (0 <= epoch <= 999_999 and 0 <= sequence <= 999_999):
        raise ValueError(f"epoch and sequence must be in 0..999999, got {epoch} and {sequence}")
    return f"e{epoch:06d}-{collector}-{sequence:06d}-{num_steps}{SUFFIX}"


def parse_shard_name(name: str) -> ShardName:
    """The inverse of `shard_name`.

    Args:
        name: A file's name. Shards that were put there by hand may have other ones.

    Raises:
        ValueError: If `shard_name` does not make such a name.
    """
    match = _NAME.fullmatch(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
    if match is None:
        raise ValueError(
            f"a shard's name must be like {shard_name(3, 'c0', 17, 512)}, got {name!r}"
        )
    # A collector's name may hold hyphens and digits: the last two numbers are the shard's own.
    epoch, collector, sequence, num_steps = match.groups()
    return ShardName(int(epoch), collector, int(sequence), int(num_steps))


def parsed_or_none(name: str) -> ShardName | None:
    """What a name tells, or None if `shard_name` does not make such a name."""
    try:
        return parse_shard_name(name)
    except ValueError:
        return None
