"""The network as a sampler sees it."""

import torch
from torch import Tensor

from remdm.nets.autocast import InferencePrecision
from remdm.nets.compiled import CompiledDenoise
from remdm.nets.denoiser import Context, Denoiser, select_rows


class PlanDenoiser:
    """A `Denoiser` bound to the encoding of N observations; see `remdm.diffusion.Denoise`."""

    def __init__(
        self,
        denoiser: Denoiser,
        context: Context,
        precision: InferencePrecision,
        heat: Tensor | None = None,
        compiled: CompiledDenoise | None = None,
    ) -> None:
        """Args:
        denoiser: The network.
        context: Its encoding of N observations.
        precision: Of the calls.
        heat: float32 [N, 1, 1] extra factor on the sampler's temperature, or None.
        compiled: Runs the calls as compiled code; None for the network's own.
        """
        self.denoiser = denoiser
        self.context = context
        self.precision = precision
        self.heat = heat
        self.compiled = compiled
        self._rows: Tensor | None = None
        self._part: Context = ()
        self._part_heat = heat

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        """See `remdm.diffusion.Denoise`."""
        if rows is not self._rows or not self._part:
            self._select(rows, self.precision.is_low(tokens.numel()))
        with self.precision.denoising(tokens.numel()):
            if self.compiled is None:
                logits = self.denoiser.denoise(self._part, tokens, time)
            else:
                logits = self.compiled(self.denoiser, self._part, tokens, time)
        return logits if self._part_heat is None else logits / self._part_heat

    def without_condition(self) -> "PlanDenoiser":
        """The same network without its observations: every encoding is zero."""
        nothing = tuple(torch.zeros_like(part) for part in self.context)
        return PlanDenoiser(self.denoiser, nothing, self.precision, self.heat, self.compiled)

    def _select(self, rows: Tensor | None, low: bool) -> None:
        """Keep the part of the encoding that the next calls read, in the precision they use."""
        self._rows = rows
        part, self._part_heat = self.context, self.heat
        if rows is not None:
            part = select_rows(part, rows)
            self._part_heat = None if self.heat is None else self.heat[rows]
        self._part = part if low else tuple(value.float() for value in part)
