"""Denoisers without a net: the conditionals of a distribution small enough to enumerate.

An `ExactDenoiser` answers every partly masked plan with the true posterior of each position. With
it, a sampler's error is the sampler's own: success against net calls needs no training, and laws
can be compared to the last digit. Two distributions come along: `room_paths`, where many plans are
right and exclude each other, and `small_sudokus`, where neighbouring tokens depend on each other.

    paths = room_paths()
    denoise = ExactDenoiser(None, paths, 2)
    sample = sampler.sample(denoise, 1000, 10, generator, allow_end=False)
    success = denoise.contains(sample.tokens).double().mean()
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from remdm.diffusion.classes import num_classes
from remdm.tokens import end_token, mask_token

ROOM_ACTIONS = 2  # east, south
SUDOKU_DIGITS = 4
# Probability 0 in a precision whose sums must stay finite: exp of it is 0 in float32 and float64.
LEAST_LOGIT = -1e4


class ExactDenoiser:
    """Conditionals of an enumerated distribution, as a `Denoise` that counts its calls.

    A visible position answers its own token. No plan may agree with what is visible, as when two
    tokens were drawn at once; then every masked position answers the uniform distribution over
    the classes that occur in the plans.

    Attributes:
        probabilities: float64 [N].
        sequences: int64 [N, H].
        num_actions: Size of the action set A.
        noise: Share of the uniform distribution in every answer.
        calls: Net calls so far.
    """

    def __init__(
        self,
        probabilities: np.ndarray | Tensor | None,
        sequences: np.ndarray | Tensor,
        num_actions: int,
        *,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Args:
            probabilities: Of each plan, float [N], summing to 1; equal ones when None.
            sequences: The plans, integer [N, H]: actions and END = A + 1, no MASK.
            num_actions: Size of the action set A.
            noise: Mix this share of the uniform distribution (over the classes that occur) into
                every answer, in [0, 1): a stand-in for a net's errors.
            dtype: Of the answers. float64 is exact, with minus infinity for what cannot be;
                float32 is what nets give, which the sampler's one-pass kernel takes, with -1e4.

        Raises:
            ValueError: If shapes, probabilities, tokens or the noise are not as said.
        """
        self.sequences = torch.as_tensor(sequences).long()
        count = len(self.sequences)
        if probabilities is None:
            probabilities = torch.full((count,), 1.0 / max(count, 1), dtype=torch.float64)
        self.probabilities = torch.as_tensor(probabilities).double()
        self.num_actions = num_actions
        self.noise = noise
        self.calls = 0
        self._refuse_misfits()
        self._dtype = dtype
        classes = num_classes(num_actions)
        indicator = functional.one_hot(self.sequences.clamp(max=num_actions), classes).double()
        self._columns = indicator.flatten(1)
        occurs = indicator.any(0).any(0)
        self._uniform = occurs.double() / occurs.sum()

    @classmethod
    def over_all(
        cls, probabilities: np.ndarray | Tensor, num_symbols: int, horizon: int
    ) -> "ExactDenoiser":
        """The joint distribution over all plans of `horizon` actions, without END.

        Args:
            probabilities: float [num_symbols ** horizon], in lexicographic order.
            num_symbols: Size of the action set.
            horizon: Tokens per plan.
        """
        sequences = torch.tensor(list(itertools.product(range(num_symbols), repeat=horizon)))
        return cls(probabilities, sequences, num_symbols)

    @property
    def entropy(self) -> float:
        """Of the distribution, in nats: the least NELBO that any net can reach on average."""
        return float(-torch.special.xlogy(self.probabilities, self.probabilities).sum())

    def contains(self, plans: Tensor) -> Tensor:
        """Which plans have a probability above 0.

        Args:
            plans: int64 [b, H], no MASK.

        Returns:
            bool [b].
        """
        return (self._agreement(plans) & (self.probabilities > 0)).any(-1)

    def __call__(
        self, tokens: Tensor, time: Tensor | float | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """The posterior of every position; `time` and `rows` are not read.

        Args:
            tokens: int64 [b, H] with MASK = A and END = A + 1.
            time: Of the schedule; the posterior does not depend on it.
            rows: Of the batch; all rows share the distribution.

        Returns:
            Log-probabilities [b, H, A + 1]; class A stands for END.
        """
        self.calls += 1
        shape = (*tokens.shape, num_classes(self.num_actions))
        weights = self._agreement(tokens) * self.probabilities
        total = weights.sum(-1)
        possible = total > 0
        posterior = (weights @ self._columns).view(shape)
        posterior = posterior / torch.where(possible, total, 1.0)[:, None, None]
        if not bool(possible.all()):
            masked = tokens == mask_token(self.num_actions)
            own = functional.one_hot(tokens.clamp(max=self.num_actions), shape[-1]).double()
            guess = torch.where(masked[..., None], self._uniform, own)
            posterior = torch.where(possible[:, None, None], posterior, guess)
        logits = posterior.lerp(self._uniform, self.noise).log()
        if self._dtype == torch.float64:
            return logits
        return logits.clamp(min=LEAST_LOGIT).to(self._dtype)

    def _agreement(self, tokens: Tensor) -> Tensor:
        """Which plans agree with the visible tokens, bool [b, N]: one matrix product."""
        visible = tokens != mask_token(self.num_actions)
        classes = functional.one_hot(
            tokens.clamp(max=self.num_actions), num_classes(self.num_actions)
        )
        shown = (classes * visible[..., None]).double().flatten(1)
        return shown @ self._columns.T == visible.sum(-1, keepdim=True)

    def _refuse_misfits(self) -> None:
        shape = self.sequences.shape
        if len(shape) != 2 or not len(self.sequences) or self.probabilities.shape != shape[:1]:
            raise ValueError(
                "ExactDenoiser needs sequences [N, H] with N at least 1 and probabilities [N], got "
                f"{tuple(shape)} and {tuple(self.probabilities.shape)}"
            )
        total = float(self.probabilities.sum())
        if bool((self.probabilities < 0).any()) or not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(
                "ExactDenoiser.probabilities must be at least 0 and sum to 1, got a sum of "
                f"{total} and a least value of {float(self.probabilities.min())}"
            )
        allowed = (self.sequences >= 0) & (self.sequences <= end_token(self.num_actions))
        if not bool((allowed & (self.sequences != mask_token(self.num_actions))).all()):
            raise ValueError(
                f"ExactDenoiser.sequences must hold actions below num_actions={self.num_actions} "
                f"or END = {end_token(self.num_actions)}, and no MASK"
            )
        if not 0.0 <= self.noise < 1.0:
            raise ValueError(f"ExactDenoiser.noise must be in [0, 1), got {self.noise}")


def room_paths(size: int = 6) -> Tensor:
    """All shortest ways across an open room, from its north-west to its south-east corner.

    In a room of 6 x 6 there are C(10, 5) = 252. Every order of the same moves is right, so each
    position alone says nothing, and one-call plans succeed 252 times in 1024.

    Args:
        size: Side of the room in cells, at least 2.

    Returns:
        int64 [C(2 size - 2, size - 1), 2 size - 2] in lexicographic order: 0 east, 1 south.

    Raises:
        ValueError: If `size` is below 2.
    """
    if size < 2:
        raise ValueError(f"room_paths needs a size of at least 2, got {size}")
    horizon = 2 * size - 2
    souths = torch.tensor(list(itertools.combinations(range(horizon), size - 1)))
    paths = torch.zeros(len(souths), horizon, dtype=torch.int64).scatter_(1, souths, 1)
    # The first of all choices of positions puts every south first, the last of all plans.
    return paths.flip(0)


def small_sudokus() -> Tensor:
    """All 288 Sudoku grids of 4 x 4: digits differ in every row, column and 2 x 2 block.

    Returns:
        int64 [288, 16] in lexicographic order: rows of the grid one after another, digits 0..3.
    """
    rows = list(itertools.permutations(range(SUDOKU_DIGITS)))
    grids: list[tuple[int, ...]] = [()]
    for _ in range(SUDOKU_DIGITS):
        grids = [(*grid, *row) for grid in grids for row in rows if _fits(grid, row)]
    return torch.tensor(grids)


def _fits(grid: tuple[int, ...], row: tuple[int, ...]) -> bool:
    """Whether `row` may follow the full rows of `grid`."""
    number = len(grid) // SUDOKU_DIGITS
    for column, digit in enumerate(row):
        if digit in grid[column::SUDOKU_DIGITS]:
            return False
        if number % 2:  # the lower half of two blocks: their upper half is the row before
            left = len(grid) - SUDOKU_DIGITS + column // 2 * 2
            if digit in grid[left : left + 2]:
                return False
    return True
