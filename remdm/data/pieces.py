"""How long the pieces of recorded episodes are.

A shard of pieces is of a size that can be chosen, and what actors hold in memory is bounded,
however long episodes are. A border costs something: a window with a history cannot begin right
behind it, and past actions end there. Were all pieces equally long, these would be the same steps
of every episode; lengths that differ spread them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from remdm.seeding import numpy_generator

PieceLength = Callable[[str, int, int], int]
"""Steps of the piece of an episode (environment, level seed) that begins with a step of it."""


@dataclass(frozen=True, slots=True)
class StaggeredPieces:
    """Lengths that are uniform between half and one and a half of `length`.

    A pure function of the episode and of where the piece begins, so a recording that goes on cuts
    where it would have cut.

    Attributes:
        length: Mean length in steps, at least 1.
        seed: Of the run.
    """

    length: int
    seed: int

    def __call__(self, env: str, level_seed: int, first_step: int) -> int:
        """See `PieceLength`."""
        spread = self.length // 2
        draw = numpy_generator(self.seed, "piece", env, level_seed, first_step)
        return int(draw.integers(self.length - spread, self.length + spread + 1))


def piece_length(length: int | None, seed: int, *, staggered: bool) -> PieceLength | None:
    """How long pieces are to be; None cuts nothing.

    Args:
        length: Mean length in steps; None for no pieces.
        seed: Of the run.
        staggered: Whether they differ.
    """
    if length is None:
        return None
    if staggered:
        return StaggeredPieces(length, seed)
    return lambda env, level_seed, first_step: length
