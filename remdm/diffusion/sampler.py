"""Writing plans: start from MASK, ask the net, decide some tokens, doubt some, ask again.

A sampler is a time grid, a reveal rule, an order, a remasking rule and a decoder. It knows the net
only as a `Denoise` closure over observations that are already encoded.

What ends a plan early, without changing what is executed:

- nothing is masked and nothing can become masked again (`early_exit`);
- with a `window` (the actions that will run before the next plan): its tokens are decided and
  cannot change. Open positions beyond it take the tokens drawn from the last logits, without a
  net call; they are a guess, bear no log-probability, and are not meant to be executed;
- rows that are done leave the batch once it pays (`compact_below`).
"""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.bars import Bars
from remdm.diffusion.canvas import Canvas
from remdm.diffusion.classes import classes_to_tokens, num_classes
from remdm.diffusion.decode import Decoder
from remdm.diffusion.fast_path import FusedStep, finish_on_cpu
from remdm.diffusion.grids import GridStep, TimeGrid, first_step_at
from remdm.diffusion.interface import (
    IMPLAUSIBLE_CONFIDENCE,
    Denoise,
    Implausible,
    NonFiniteLogitsError,
    PlanSample,
)
from remdm.diffusion.misfits import checked_window, refuse_idle_steps, refuse_misfits
from remdm.diffusion.order import EntropyOrder, Order, positions_in_order
from remdm.diffusion.remask import NoRemask, Remask, unmask_probability
from remdm.diffusion.reveal import EntropyBoundReveal, Reveal
from remdm.diffusion.schedules import LinearSchedule, NoiseSchedule
from remdm.diffusion.step import Step
from remdm.diffusion.tracing import Tracer
from remdm.tokens import end_token, mask_token

# What a sampler without a grid takes for every step: it may decide all that is left.
_UNTIMED = GridStep(start=1.0, end=0.0, alpha_t=0.0, alpha_s=1.0, remasks=False)


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same while plans are drawn."""

    denoise: Denoise
    window: int
    given: bool
    implausible: Implausible | None
    tracer: Tracer | None


@gin.configurable(module="remdm", denylist=["num_actions"])
class Sampler:
    """Draws plans from a denoiser. The defaults are those of the "default" preset."""

    def __init__(
        self,
        num_actions: int,
        *,
        reveal: Reveal | None = None,
        order: Order | None = None,
        remask: Remask | None = None,
        decoder: Decoder | None = None,
        grid: TimeGrid | None = None,
        schedule: NoiseSchedule | None = None,
        window_first: bool = True,
        close_after_end: bool = True,
        forbid_empty: bool = True,
        early_exit: bool = True,
        time_input: str = "realised",
        compact_below: float = 0.75,
        fused: bool = True,
    ) -> None:
        """Args:
            num_actions: Size of the action set.
            reveal: How many positions a call decides; `EntropyBoundReveal()` when None.
            order: Which positions first; `EntropyOrder()` when None and the reveal needs one.
            remask: Which committed tokens become MASK again; `NoRemask()` when None.
            decoder: How tokens are drawn; temperature 0.5 when None.
            grid: Times of the calls, for reveals that follow a grid.
            schedule: Noise schedule of the grid and of the time input; linear when None.
            window_first: Decide positions inside the window before those outside.
            close_after_end: A committed END commits END everywhere behind it at once.
            forbid_empty: Bar END from position 0, so that a plan does something.
            early_exit: Stop rows that cannot change any more in what is executed.
            time_input: The time the net is given: "realised" (of the share that is masked),
                "start" or "end" of the grid's step (the seed's).
            compact_below: Drop finished rows when the rest is less than this share of the batch;
                0 keeps all.
            fused: Use the one-pass CPU kernel where it applies.

        Raises:
            ValueError: If the parts do not fit together.
        """
        self.num_actions = num_actions
        self.reveal = reveal or EntropyBoundReveal()
        self.order = order or (EntropyOrder() if self.reveal.needs_order else None)
        remask = remask or NoRemask()
        self.decoder = decoder or Decoder(temperature=0.5)
        self.grid = grid
        self.schedule = schedule or LinearSchedule()
        self.window_first = window_first
        self.close_after_end = close_after_end
        self.forbid_empty = forbid_empty
        self.early_exit = early_exit
        self.time_input = time_input
        self.compact_below = compact_below
        refuse_misfits(self.reveal, self.order, remask, grid, time_input, window_first)
        self._steps = [] if grid is None else grid.steps(self.schedule)
        self.remask = remask.fitted(self._steps)
        self.fused = fused
        self.refit()

    def refit(self) -> None:
        """Take over numbers of the parts that have changed."""
        count = len(self._steps)
        self._remasks = [self.remask.can_act(step, k, count) for k, step in enumerate(self._steps)]
        self._fused = None
        if self.fused:
            self._fused = FusedStep.build(
                self.reveal, self.order, self.remask, self.decoder, self.close_after_end
            )

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        batch_size: int,
        horizon: int,
        generator: torch.Generator,
        *,
        window: int | None = None,
        locked: Tensor | None = None,
        start: Tensor | None = None,
        start_time: float | None = None,
        first_token_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        allow_end: bool = True,
        implausible: Implausible | None = None,
        device: torch.device | str | None = None,
        trace: bool = False,
    ) -> PlanSample:
        """Draw one plan per row.

        Args:
            denoise: The net.
            batch_size: Number of rows B, at least 1.
            horizon: Tokens per plan H.
            generator: Gives one key per row; a row's plan depends on its key only. May live on
                another device than the plans.
            window: Number of leading tokens that are wanted, all of them when None.
            locked: int64 [B, H]: tokens that are given, MASK where they are not.
            start: int64 [B, H]: tokens to start from, which may be masked again, MASK where a
                position is open; `locked` wins over them.
            start_time: Where to begin on a grid, in (0, 1]: at the first step that starts at this
                time or below it, or at the last one. Samplers without a grid ignore it.
            first_token_mask: bool [B, A + 1] or [A + 1]: classes allowed at position 0.
            token_mask: bool [B, H, A + 1]: classes allowed at each position.
            allow_end: Whether plans may end; False for nets that never learnt END.
            implausible: Says which positions of the plans to doubt, given the committed tokens
                and those chosen in this call elsewhere. Their confidence is
                at most `IMPLAUSIBLE_CONFIDENCE`, so they are decided last and remasked first.
            device: Where the plans live; the generator's device when None.
            trace: Record every step.

        Returns:
            The plans, on `device`.

        Raises:
            ValueError: If sizes do not fit, a mask forbids every class, some net calls could
                decide nothing, or logits are not finite (`NonFiniteLogitsError`).
        """
        window = checked_window(batch_size, horizon, window)
        refuse_idle_steps(self.reveal, self.remask, len(self._steps), horizon)
        first_step = first_step_at(self._steps, start_time)
        device = torch.device(device or generator.device)
        bars = Bars.build(
            self.num_actions, first_token_mask, token_mask, allow_end, self.forbid_empty, device
        )
        bars.check(batch_size, horizon)
        canvas = Canvas.blank(
            self.num_actions, batch_size, horizon, generator, device, locked, start
        )
        if start is not None and self._settled_from(first_step):
            canvas.done |= ~(canvas.tokens == mask_token(self.num_actions)).any(-1)
        tracer = Tracer(canvas, self.decoder, self.num_actions) if trace else None
        given = locked is not None or start is not None
        run = _Run(denoise, window, given, implausible, tracer)
        self._denoise(run, canvas, bars, first_step)
        return self._finished(canvas, tracer)

    def _denoise(self, run: _Run, whole: Canvas, bars: Bars, first_step: int) -> None:
        """Fill `whole` in."""
        batch_size, horizon = whole.tokens.shape
        canvas = whole
        share, remaining = torch.ones(batch_size, device=whole.tokens.device), batch_size
        if run.given:
            share = whole.masked_share(mask_token(self.num_actions))
            remaining = batch_size - int(whole.done.sum())
        for index in range(first_step, len(self._steps) or horizon):
            if remaining == 0:
                break
            if remaining < self.compact_below * len(canvas.tokens):
                canvas.write_to(whole)
                index_of_active = (~canvas.done).nonzero()[:, 0]
                canvas, bars = canvas.select(index_of_active), bars.select(index_of_active)
                share = share[index_of_active]
            time = self._time_input(share, index)
            logits = self._call(run.denoise, canvas, time)
            shown = canvas.tokens
            remaining, bad_row, share = self._advance(run, canvas, logits, bars, index)
            if bad_row >= 0:
                row = bad_row if canvas.rows is None else int(canvas.rows[bad_row])
                # The step left that row's tokens as the net saw them.
                one = slice(bad_row, bad_row + 1)
                raise NonFiniteLogitsError(row, index - first_step, shown[one], time[one])
            if run.tracer is not None:
                canvas.write_to(whole)
                run.tracer.note(whole, canvas, logits, bars)
        if self._steps and self._steps[-1].alpha_s < 1.0:
            self._decide_the_rest(run, whole, canvas, bars)
        canvas.write_to(whole)

    def _advance(
        self, run: _Run, canvas: Canvas, logits: Tensor, bars: Bars, index: int
    ) -> tuple[int, int, Tensor]:
        """One denoising step in place.

        Returns:
            Rows not done, a row with logits that are not finite or -1, and the masked share [b].
        """
        horizon = canvas.tokens.shape[1]
        split = run.window if self.window_first else 0
        exit_window: int | None = None
        if self._settled_from(index + 1) and (self.early_exit or not self._steps):
            exit_window = run.window if self.early_exit else horizon
        if self._fused is not None and run.implausible is None and self._fused.applies(logits):
            alpha_s = self._steps[index].alpha_s if self._steps else 1.0
            return self._fused(canvas, logits, bars, index, alpha_s, split, exit_window)
        step, sampled_probs = self._step(canvas, bars.apply(logits), index)
        if run.implausible is not None:
            self._doubt(run.implausible, canvas, step)
        return self._advance_in_torch(canvas, step, sampled_probs, split, exit_window)

    def _advance_in_torch(
        self,
        canvas: Canvas,
        step: Step,
        sampled_probs: Tensor,
        split: int,
        exit_window: int | None,
    ) -> tuple[int, int, Tensor]:
        """What `FusedStep` does, for all parts and devices."""
        mask = mask_token(self.num_actions)
        canvas.nfe += ~canvas.done
        remasks = bool(self._steps) and self._remasks[step.index]
        unmask: Tensor | float = unmask_probability(step.alpha_t, step.alpha_s, 0.0)
        late = remasks and self.remask.after_reveal
        if late:
            step.surplus = self.remask.surplus(step)
        elif remasks:
            step.remasked, unmask = self.remask(step)
        positions = None
        if self.order is not None:
            positions = positions_in_order(step, self.order.scores(step), split=split)
        revealed = self.reveal(step, positions, unmask) & ~canvas.done[:, None]
        tokens = classes_to_tokens(step.classes, self.num_actions)
        canvas.commit(revealed, tokens, sampled_probs.log(), step.sampled_confidence)
        if self.reveal.redecides:
            canvas.erase(canvas.free & ~revealed & ~canvas.done[:, None], mask)
        if late:
            step.revealed, step.masked = revealed, canvas.tokens == mask
            step.committed_confidence = torch.where(
                revealed, step.sampled_confidence, step.committed_confidence
            )
            step.remasked = self.remask(step).tokens & ~canvas.done[:, None]
        if step.remasked is not None:
            canvas.erase(step.remasked, mask)
        if self.close_after_end:
            canvas.close_after_end(self.num_actions)
        masked = canvas.tokens == mask
        if exit_window is not None:
            canvas.done |= ~masked[:, :exit_window].any(-1)
            canvas.tokens = torch.where(masked & canvas.done[:, None], tokens, canvas.tokens)
        remaining, bad_row = _status(canvas, step)
        return remaining, bad_row, canvas.masked_share(mask)

    def _step(self, canvas: Canvas, logits: Tensor, index: int) -> tuple[Step, Tensor]:
        """A class for every position, and the probability float64 [b, H] it was drawn with."""
        horizon = canvas.tokens.shape[1]
        probs = self.decoder.distribution(logits)
        uniform = draws.uniform(canvas.keys, index, draws.TOKEN, horizon)
        classes = self.decoder.choose(probs, uniform)
        grid_step = self._steps[index] if self._steps else _UNTIMED
        step = Step(
            index=index,
            num_steps=len(self._steps),
            alpha_t=grid_step.alpha_t,
            alpha_s=grid_step.alpha_s,
            schedule=self.schedule,
            masked=canvas.tokens == mask_token(self.num_actions),
            free=canvas.free,
            probs=probs,
            classes=classes,
            sampled_confidence=self.decoder.confidence(logits, probs, classes),
            committed_confidence=canvas.confidence,
            keys=canvas.keys,
        )
        return step, probs.gather(-1, classes[..., None])[..., 0]

    def _doubt(self, implausible: Implausible, canvas: Canvas, step: Step) -> None:
        """Ask which positions to doubt and lower their confidence."""
        chosen = step.free if self.reveal.redecides else step.masked
        tokens = classes_to_tokens(step.classes, self.num_actions)
        doubted = implausible(torch.where(chosen, tokens, canvas.tokens), canvas.rows)
        if doubted.shape != step.free.shape or doubted.dtype != torch.bool:
            raise ValueError(
                f"implausible must return bool {list(step.free.shape)}, one per position of a "
                f"plan, got {doubted.dtype} {list(doubted.shape)}"
            )
        step.doubted = doubted.to(step.free.device) & step.free
        step.sampled_confidence, step.committed_confidence = (
            torch.where(step.doubted, confidence.clamp(max=IMPLAUSIBLE_CONFIDENCE), confidence)
            for confidence in (step.sampled_confidence, step.committed_confidence)
        )

    def _decide_the_rest(self, run: _Run, whole: Canvas, canvas: Canvas, bars: Bars) -> None:
        """Take the likeliest class wherever a grid that stops short of t = 0 left a MASK."""
        masked = canvas.tokens == mask_token(self.num_actions)
        if not bool(masked.any()):
            return
        time = torch.zeros(len(masked), device=masked.device)
        logits = self._call(run.denoise, canvas, time)
        best = self.decoder.distribution(bars.apply(logits)).max(-1)
        tokens = classes_to_tokens(best.indices, self.num_actions)
        canvas.commit(masked, tokens, best.values.log(), best.values)
        canvas.nfe += masked.any(-1)
        if run.tracer is not None:
            canvas.write_to(whole)
            run.tracer.note(whole, canvas, logits, bars)

    def _call(self, denoise: Denoise, canvas: Canvas, time: Tensor) -> Tensor:
        """The net's logits, checked for their shape."""
        logits = denoise(canvas.tokens, time, canvas.rows).detach()
        expected = (*canvas.tokens.shape, num_classes(self.num_actions))
        if logits.shape != expected:
            raise ValueError(
                f"denoise must return logits [rows, horizon, num_actions + 1] = {list(expected)}, "
                f"got {list(logits.shape)}; class {self.num_actions} stands for END and MASK has "
                "no logit"
            )
        return logits

    def _time_input(self, share: Tensor, index: int) -> Tensor:
        """float32 [b]: the time to tell the net."""
        if self.time_input == "realised":
            return self.schedule.inv_mask_rate(share)
        step = self._steps[index]
        return torch.full_like(share, step.end if self.time_input == "end" else step.start)

    def _settled_from(self, index: int) -> bool:
        """Whether a committed token stays from this step on."""
        if self.reveal.redecides:
            return index >= len(self._steps)
        return not any(self._remasks[index:])

    def _finished(self, canvas: Canvas, tracer: Tracer | None) -> PlanSample:
        """Close every plan after its END and add it up."""
        if self._fused is not None and canvas.tokens.device.type == "cpu":
            lengths, totals = finish_on_cpu(canvas, self.num_actions)
        else:
            canvas.close_after_end(self.num_actions)
            lengths = (canvas.tokens != end_token(self.num_actions)).sum(-1)
            totals = canvas.log_probs.sum(-1)
        return PlanSample(
            tokens=canvas.tokens,
            lengths=lengths,
            log_prob=totals.float(),
            nfe=canvas.nfe,
            token_log_probs=canvas.log_probs.float(),
            trace=None if tracer is None else tracer.steps,
        )


def _status(canvas: Canvas, step: Step) -> tuple[int, int]:
    """Rows not done and a row with logits that are not finite or -1, in one device sync."""
    bad = (~step.probs.isfinite().all(-1)).any(-1) & ~canvas.done
    row = torch.where(bad.any(), bad.long().argmax(), -1)
    remaining, bad_row = torch.stack([(~canvas.done).sum(), row]).tolist()
    return remaining, bad_row
