"""One denoising call as compiled code: fewer, larger kernels, and on GPUs a recorded CUDA graph.

A denoising call of a small net is some eighty kernels that each take less time than starting them.
`torch.compile` fuses them; its mode "reduce-overhead" also records them as a CUDA graph, which
starts them all at once. The results differ from the uncompiled call's by rounding only.

The sampling around the calls stays as it is. Whatever goes wrong with the compiler costs a warning
and the speed, never the plan.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from remdm.nets.denoiser import Context, Denoiser


def _denoise(denoiser: Denoiser, context: Context, zt: Tensor, t: Tensor | None) -> Tensor:
    return denoiser.denoise(context, zt, t)


class CompiledDenoise:
    """`Denoiser.denoise` through `torch.compile`; uncompiled from the first failure on.

    The net is an argument of each call, so an object that is copied along with an agent never
    computes with the weights of the original.

    Attributes:
        failure: What the compiler said when it gave up, else None.
    """

    def __init__(self) -> None:
        """Compiles nothing yet; the first call does."""
        self.failure: str | None = None
        self._compiled: dict[str, Callable[..., Tensor]] = {}

    def __call__(
        self, denoiser: Denoiser, context: Context, zt: Tensor, t: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.denoise`.

        The number of plans may change from call to call: it is a variable of the compiled code.
        On GPUs each size has a graph of its own, so plans are filled up to a power of two there.

        Args:
            denoiser: The net.
            context: Its encoding of B states.
            zt: int64 tokens [B, plan_horizon].
            t: Diffusion time, float32 [B]; None for nets without time.

        Returns:
            float32 logits [B, plan_horizon, num_actions + 1], this call's own memory.

        Warns:
            RuntimeWarning: Once, when compiling fails; plans go on uncompiled.
        """
        if self.failure is not None:
            return denoiser.denoise(context, zt, t)
        try:
            return self._call(denoiser, context, zt, t)
        except Exception as error:
            logits = denoiser.denoise(context, zt, t)  # raises what is wrong with the call itself
            said = " ".join(str(error).split("\n")[:2]).strip()
            self.failure = f"{type(error).__name__}: {said}"
            warnings.warn(
                f"torch.compile failed, so denoising runs uncompiled: {self.failure}. Set "
                "DiffusionPlannerAgent.compile_denoise = False to be rid of this warning",
                RuntimeWarning,
                stacklevel=2,
            )
            return logits

    def _call(self, denoiser: Denoiser, context: Context, zt: Tensor, t: Tensor | None) -> Tensor:
        """The call, in plans of any number on a CPU and of a power of two on a GPU."""
        if zt.device.type != "cuda":
            return self._run("default", denoiser, context, zt, t)
        rows = len(zt)
        spare = (1 << (rows - 1).bit_length()) - rows
        padded = tuple(_with_rows(part, spare) for part in context)
        time = None if t is None else _with_rows(t, spare)
        torch.compiler.cudagraph_mark_step_begin()
        logits = self._run("reduce-overhead", denoiser, padded, _with_rows(zt, spare), time)
        # The graph's next call overwrites what this one returned.
        return logits[:rows].clone()

    def _run(self, mode: str, *call: Any) -> Tensor:
        """The compiled `_denoise`; compile it before the first call."""
        known = self._compiled.get(mode)
        if known is not None:
            return known(*call)
        compiled = torch.compile(_denoise, fullgraph=True, dynamic=True, mode=mode)
        with warnings.catch_warnings():  # what the compiler thinks of its own modules
            warnings.simplefilter("ignore", DeprecationWarning)
            logits = compiled(*call)
        self._compiled[mode] = compiled
        return logits


def _with_rows(values: Tensor, spare: int) -> Tensor:
    """`values` [B, ..] and `spare` rows of zeros behind them."""
    if not spare:
        return values
    return F.pad(values, (0, 0) * (values.ndim - 1) + (0, spare))
