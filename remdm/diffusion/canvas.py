"""The plans being written: rows that are still denoised, and where they go when they are done."""

from dataclasses import dataclass

import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.tokens import end_token, mask_token


@dataclass(slots=True)
class Canvas:
    """b plans in the making; changed in place.

    Attributes:
        tokens: int64 [b, H].
        free: bool [b, H]: positions that are not locked.
        confidence: float64 [b, H]: confidence in a token when it was committed.
        log_probs: float64 [b, H]: log-probability a token was drawn with; 0 where none was.
        keys: int64 [b]: keys of the random streams.
        done: bool [b]: rows that are finished and no longer change.
        nfe: int64 [b]: net calls a row took part in before it was done.
        rows: int64 [b], which rows of the whole batch these are; None for all of them.
    """

    tokens: Tensor
    free: Tensor
    confidence: Tensor
    log_probs: Tensor
    keys: Tensor
    done: Tensor
    nfe: Tensor
    rows: Tensor | None = None

    @classmethod
    def blank(
        cls,
        num_actions: int,
        batch_size: int,
        horizon: int,
        generator: torch.Generator,
        device: torch.device,
        locked: Tensor | None,
        start: Tensor | None = None,
    ) -> "Canvas":
        """All MASK but for the locked tokens and those to start from.

        Rows whose tokens are all locked are done. Tokens to start from are free and have
        confidence 0: nothing is known of them. Locked tokens win over them.

        Raises:
            ValueError: If `locked` or `start` has another shape or holds no tokens.
        """
        shape = (batch_size, horizon)
        mask = mask_token(num_actions)
        tokens = torch.full(shape, mask, device=device)
        free = torch.ones(shape, dtype=torch.bool, device=device)
        done = torch.zeros(batch_size, dtype=torch.bool, device=device)
        if start is not None:
            tokens = _checked_tokens("start", start, shape, mask, device)
        if locked is not None:
            given = _checked_tokens("locked", locked, shape, mask, device)
            free = given == mask
            done = ~free.any(-1)
            tokens = torch.where(free, tokens, given)
        return cls(
            tokens=tokens,
            free=free,
            confidence=torch.zeros(shape, dtype=torch.float64, device=device),
            log_probs=torch.zeros(shape, dtype=torch.float64, device=device),
            keys=draws.row_keys(generator, batch_size, device),
            done=done,
            nfe=torch.zeros(batch_size, dtype=torch.int64, device=device),
        )

    def masked_share(self, mask: int) -> Tensor:
        """Share of the free positions that are MASK, float32 [b]."""
        masked = self.tokens == mask
        return masked.sum(-1).float() / self.free.sum(-1).clamp_min(1)

    def select(self, index: Tensor) -> "Canvas":
        """A copy of the rows `index` [b'], which remembers where they belong."""
        rows = index if self.rows is None else self.rows[index]
        return Canvas(
            self.tokens[index],
            self.free[index],
            self.confidence[index],
            self.log_probs[index],
            self.keys[index],
            self.done[index],
            self.nfe[index],
            rows,
        )

    def write_to(self, whole: "Canvas") -> None:
        """Put these rows back where they belong."""
        if self.rows is None:
            return
        whole.tokens[self.rows] = self.tokens
        whole.log_probs[self.rows] = self.log_probs
        whole.nfe[self.rows] = self.nfe

    def commit(self, where: Tensor, tokens: Tensor, log_probs: Tensor, confidence: Tensor) -> None:
        """Write `tokens` [b, H] with what was believed of them where `where` is true."""
        self.tokens = torch.where(where, tokens, self.tokens)
        self.log_probs = torch.where(where, log_probs, self.log_probs)
        self.confidence = torch.where(where, confidence, self.confidence)

    def erase(self, where: Tensor, mask: int) -> None:
        """Make tokens MASK again where `where` is true."""
        self.tokens = self.tokens.masked_fill(where, mask)
        self.log_probs = self.log_probs.masked_fill(where, 0.0)

    def close_after_end(self, num_actions: int) -> None:
        """Turn every free token after a row's first END into END, drawn with certainty."""
        end = end_token(num_actions)
        ended = self.tokens == end
        after = (ended.cumsum(-1) - ended.long() > 0) & self.free
        self.tokens = self.tokens.masked_fill(after, end)
        self.log_probs = self.log_probs.masked_fill(after, 0.0)
        self.confidence = self.confidence.masked_fill(after, 1.0)


def _checked_tokens(
    name: str, tokens: Tensor, shape: tuple[int, int], mask: int, device: torch.device
) -> Tensor:
    """A copy int64 of `tokens` on `device`.

    Raises:
        ValueError: If they have another shape or are no tokens.
    """
    copied = tokens.to(device, torch.int64, copy=True)
    if copied.shape != shape or not bool(copied.clamp(0, mask + 1).equal(copied)):
        raise ValueError(
            f"{name} must be int64 {list(shape)} of tokens in 0..{mask + 1} with MASK = {mask} "
            f"where a position is open, got {list(copied.shape)} with values from "
            f"{int(copied.min())} to {int(copied.max())}"
        )
    return copied
