"""What can be done in an environment: one of some tokens, or a vector within bounds."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Actions:
    """The actions of an environment.

    Attributes:
        names: One per token; of vectors there is one, which stands for all of them.
        low: float32 [D], of vectors; otherwise None.
        high: Likewise.
        shape: Shape of the vector in Gymnasium, D numbers.
    """

    names: tuple[str, ...]
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    shape: tuple[int, ...] = ()

    @property
    def vector_size(self) -> int:
        """Numbers of a vector; 0 where actions are tokens."""
        return 0 if self.low is None else len(self.low)
