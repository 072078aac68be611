"""When inference runs its matrix products in bfloat16."""

import functools
from dataclasses import dataclass

import torch

from remdm.registry import unknown_name_message

MODES = ("auto", "bfloat16", "off")
# Below this many plan tokens a call the casts cost more than the products gain. Measured on one
# core with AVX512-BF16, default net: 16 tokens 0.60 ms in bfloat16 against 0.40 ms, 128 tokens
# 1.4 ms against 2.0 ms.
MIN_TOKENS = 64


@functools.cache
def fast_bfloat16_on_cpu() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass(frozen=True, slots=True)
class InferencePrecision:
    """Chooses the precision of each part of planning.

    Attributes:
        mode: "bfloat16", "off", or "auto": bfloat16 on a CPU that is fast at it, except for
            denoising calls that are tiny.
        device: Where the net is.
    """

    mode: str
    device: torch.device

    @staticmethod
    def checked(mode: str) -> str:
        """`mode` itself.

        Raises:
            ValueError: If it is unknown.
        """
        if mode not in MODES:
            raise ValueError(unknown_name_message("autocast_inference", mode, MODES))
        return mode

    @property
    def _auto(self) -> bool:
        return self.mode == "auto" and self.device.type == "cpu" and fast_bfloat16_on_cpu()

    def is_low(self, num_tokens: int) -> bool:
        """Whether a denoising call on this many plan tokens, over all rows, uses bfloat16."""
        return self.mode == "bfloat16" or (self._auto and num_tokens >= MIN_TOKENS)

    def encoding(self) -> torch.autocast:
        """The context to encode observations in."""
        low = self.mode == "bfloat16" or self._auto
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def denoising(self, num_tokens: int) -> torch.autocast:
        """The context of one denoising call."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_low(num_tokens))
