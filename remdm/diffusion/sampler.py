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

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.bars import Bars
from remdm.diffusion.canvas import Canvas
from remdm.diffusion.classes import classes_to_tokens, num_classes
from remdm.diffusion.decode import Decoder
from remdm.diffusion.fast_path import FusedStep, finish_on_cpu
from remdm.diffusion.grids import TimeGrid
from remdm.diffusion.interface import Denoise, PlanSample, TraceStep
from remdm.diffusion.order import EntropyOrder, Order, positions_in_order
from remdm.diffusion.remask import NoRemask, Remask
from remdm.diffusion.reveal import EntropyBoundReveal, Reveal
from remdm.diffusion.schedules import LinearSchedule, NoiseSchedule
from remdm.diffusion.step import Step
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

TIME_INPUTS = ("realised", "start", "end")


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
        self.remask = remask or NoRemask()
        self.decoder = decoder or Decoder(temperature=0.5)
        self.grid = grid
        self.schedule = schedule or LinearSchedule()
        self.window_first = window_first
        self.close_after_end = close_after_end
        self.forbid_empty = forbid_empty
        self.early_exit = early_exit
        self.time_input = time_input
        self.compact_below = compact_below
        self._refuse_misfits()
        self._times = [] if grid is None else grid.times(self.schedule).tolist()
        self._alphas = [float(self.schedule.alpha(torch.tensor(t).double())) for t in self._times]
        self._fused = None
        if fused:
            self._fused = FusedStep.build(
                self.reveal, self.order, self.remask, self.decoder, close_after_end
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
        first_token_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        allow_end: bool = True,
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
            first_token_mask: bool [B, A + 1] or [A + 1]: classes allowed at position 0.
            token_mask: bool [B, H, A + 1]: classes allowed at each position.
            allow_end: Whether plans may end; False for nets that never learnt END.
            device: Where the plans live; the generator's device when None.
            trace: Record every step.

        Returns:
            The plans, on `device`.

        Raises:
            ValueError: If sizes do not fit, a mask forbids every class, or logits are not finite.
        """
        window = self._checked_window(batch_size, horizon, window)
        device = torch.device(device or generator.device)
        bars = Bars.build(
            self.num_actions, first_token_mask, token_mask, allow_end, self.forbid_empty, device
        )
        bars.check(batch_size, horizon)
        canvas = Canvas.blank(self.num_actions, batch_size, horizon, generator, device, locked)
        steps: list[TraceStep] | None = [] if trace else None
        self._denoise(denoise, canvas, bars, window, steps)
        return self._finished(canvas, steps)

    def _denoise(
        self,
        denoise: Denoise,
        whole: Canvas,
        bars: Bars,
        window: int,
        trace: list[TraceStep] | None,
    ) -> None:
        """Fill `whole` in."""
        batch_size, horizon = whole.tokens.shape
        max_calls = len(self._times) - 1 if self.grid else horizon
        canvas = whole
        share = torch.ones(batch_size, device=whole.tokens.device)
        remaining = batch_size
        if bool(whole.done.any()):
            share = self._masked_share(whole)
            remaining = batch_size - int(whole.done.sum())
        for index in range(max_calls):
            if remaining == 0:
                break
            if remaining < self.compact_below * len(canvas.tokens):
                canvas.write_to(whole)
                index_of_active = (~canvas.done).nonzero()[:, 0]
                canvas, bars = canvas.select(index_of_active), bars.select(index_of_active)
                share = share[index_of_active]
            logits = self._call(denoise, canvas, self._time_input(share, index))
            remaining, share = self._advance(canvas, logits, bars, index, window)
            if trace is not None:
                canvas.write_to(whole)
                trace.append(self._trace_step(whole, canvas, bars.apply(logits), trace))
        if self._alphas and self._alphas[-1] < 1.0:
            self._decide_the_rest(denoise, canvas, bars)
        canvas.write_to(whole)

    def _advance(
        self, canvas: Canvas, logits: Tensor, bars: Bars, index: int, window: int
    ) -> tuple[int, Tensor]:
        """One denoising step in place; the number of rows not done and the masked share [b]."""
        horizon = canvas.tokens.shape[1]
        split = window if self.window_first else 0
        exit_window: int | None = None
        if not self.remask.can_remask and (self.early_exit or not self.grid):
            exit_window = window if self.early_exit else horizon
        if self._fused is not None and self._fused.applies(logits):
            alpha_s = self._alphas[index + 1] if self.grid else 1.0
            remaining, bad_row, share = self._fused(
                canvas, logits, bars, index, alpha_s, split, exit_window
            )
        else:
            remaining, bad_row, share = self._advance_in_torch(
                canvas, logits, bars, index, split, exit_window
            )
        if bad_row >= 0:
            row = bad_row if canvas.rows is None else int(canvas.rows[bad_row])
            raise ValueError(
                f"denoise returned logits that are not finite: row {row} of the batch, net call "
                f"{index}. Look at the net's weights and at that row's observation"
            )
        return remaining, share

    def _advance_in_torch(
        self,
        canvas: Canvas,
        logits: Tensor,
        bars: Bars,
        index: int,
        split: int,
        exit_window: int | None,
    ) -> tuple[int, int, Tensor]:
        """What `FusedStep` does, for all parts and devices."""
        step, sampled_probs = self._step(canvas, bars.apply(logits), index)
        canvas.nfe += ~canvas.done
        sigma, sigma_masked = (0.0, 0.0) if self.remask.after_reveal else self.remask.sigma(step)
        if self.remask.can_remask and not self.remask.after_reveal:
            step.remasked = step.committed & (step.uniform(draws.REMASK) < sigma)
        positions = None
        if self.order is not None:
            positions = positions_in_order(step, self.order.scores(step), split=split)
        revealed = self.reveal(step, positions, sigma_masked) & ~canvas.done[:, None]
        tokens = classes_to_tokens(step.classes, self.num_actions)
        canvas.commit(revealed, tokens, sampled_probs.log(), step.sampled_confidence)
        if self.remask.after_reveal:
            step.masked = step.masked & ~revealed
            sigma, _ = self.remask.sigma(step)
            step.remasked = step.committed & (step.uniform(draws.REMASK) < sigma)
        if step.remasked is not None:
            canvas.erase(step.remasked, mask_token(self.num_actions))
        if self.close_after_end:
            canvas.close_after_end(self.num_actions)
        masked = canvas.tokens == mask_token(self.num_actions)
        if exit_window is not None:
            canvas.done |= ~masked[:, :exit_window].any(-1)
            canvas.tokens = torch.where(masked & canvas.done[:, None], tokens, canvas.tokens)
        remaining, bad_row = self._status(canvas, step)
        return remaining, bad_row, self._masked_share(canvas)

    def _step(self, canvas: Canvas, logits: Tensor, index: int) -> tuple[Step, Tensor]:
        """A class for every position, and the probability float64 [b, H] it was drawn with."""
        horizon = canvas.tokens.shape[1]
        probs = self.decoder.distribution(logits)
        uniform = draws.uniform(canvas.keys, index, draws.TOKEN, horizon)
        classes = self.decoder.choose(probs, uniform)
        step = Step(
            index=index,
            num_steps=self.grid.num_steps if self.grid else 0,
            alpha_t=self._alphas[index] if self.grid else 0.0,
            alpha_s=self._alphas[index + 1] if self.grid else 1.0,
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

    def _decide_the_rest(self, denoise: Denoise, canvas: Canvas, bars: Bars) -> None:
        """Take the likeliest class wherever a grid that stops short of t = 0 left a MASK."""
        masked = canvas.tokens == mask_token(self.num_actions)
        if not bool(masked.any()):
            return
        logits = bars.apply(self._call(denoise, canvas, torch.zeros_like(masked[:, 0]).float()))
        probs = self.decoder.distribution(logits)
        best = probs.max(-1)
        tokens = classes_to_tokens(best.indices, self.num_actions)
        canvas.commit(masked, tokens, best.values.log(), best.values)
        canvas.nfe += masked.any(-1)

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
        return torch.full_like(share, self._times[index + (self.time_input == "end")])

    def _masked_share(self, canvas: Canvas) -> Tensor:
        """float32 [b]: share of the free positions that are MASK."""
        masked = canvas.tokens == mask_token(self.num_actions)
        return masked.sum(-1).float() / canvas.free.sum(-1).clamp_min(1)

    def _status(self, canvas: Canvas, step: Step) -> tuple[int, int]:
        """Rows not done and a row with logits that are not finite or -1, in one device sync."""
        bad = (~step.probs.isfinite().all(-1)).any(-1) & ~canvas.done
        row = torch.where(bad.any(), bad.long().argmax(), -1)
        remaining, bad_row = torch.stack([(~canvas.done).sum(), row]).tolist()
        return remaining, bad_row

    def _trace_step(
        self, whole: Canvas, canvas: Canvas, logits: Tensor, trace: list[TraceStep]
    ) -> TraceStep:
        """Compare the batch with the previous entry of the trace."""
        mask = mask_token(self.num_actions)
        was_masked = trace[-1].tokens == mask if trace else whole.free
        is_masked = whole.tokens == mask
        confidence = torch.zeros(whole.tokens.shape, device=whole.tokens.device)
        best = self.decoder.distribution(logits).amax(-1).float()
        confidence[slice(None) if canvas.rows is None else canvas.rows] = best
        return TraceStep(
            whole.tokens.clone(), was_masked & ~is_masked, ~was_masked & is_masked, confidence
        )

    def _finished(self, canvas: Canvas, trace: list[TraceStep] | None) -> PlanSample:
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
            trace=trace,
        )

    def _checked_window(self, batch_size: int, horizon: int, window: int | None) -> int:
        if batch_size < 1 or horizon < 1:
            raise ValueError(
                f"a sampler needs at least one row and one token, got batch_size={batch_size} "
                f"and horizon={horizon}"
            )
        if window is not None and not 1 <= window <= horizon:
            raise ValueError(
                f"window must be in 1..{horizon} (the plan's horizon), got {window}; it is "
                "usually replan_every"
            )
        return window or horizon

    def _refuse_misfits(self) -> None:
        """Say which parts do not go together.

        Raises:
            ValueError: If any do not.
        """
        reveal, order, grid = (type(p).__name__ for p in (self.reveal, self.order, self.grid))
        if self.time_input not in TIME_INPUTS:
            raise ValueError(
                unknown_name_message("Sampler.time_input", self.time_input, TIME_INPUTS)
            )
        if self.reveal.needs_grid and self.grid is None:
            raise ValueError(
                f"{reveal} follows a time grid: set Sampler.grid, for example @UniformTime()"
            )
        if not self.reveal.needs_grid and self.grid is not None:
            raise ValueError(
                f"{reveal} decides by itself how many calls it needs, so Sampler.grid must be "
                f"None, got {grid}"
            )
        if not self.reveal.needs_grid and self.remask.can_remask:
            raise ValueError(
                f"{type(self.remask).__name__} takes its probabilities from a time grid, which "
                f"{reveal} does not follow: set Sampler.reveal = @CountReveal() or "
                "Sampler.remask = @NoRemask()"
            )
        if not self.reveal.needs_grid and self.time_input != "realised":
            raise ValueError(
                f"{reveal} has no time grid to take a step's {self.time_input!r} from: set "
                "Sampler.time_input = 'realised'"
            )
        if not self.reveal.needs_order and (self.order is not None or self.window_first):
            raise ValueError(
                f"{reveal} chooses every position on its own, so Sampler.order must be None and "
                f"Sampler.window_first False, got {order} and {self.window_first}"
            )
