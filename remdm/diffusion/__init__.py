"""Masked diffusion over action plans: pure tensor maths that knows no environment and no net.

Everything meets at three signatures. A denoiser is a closure over an observation that is encoded
once per plan (`remdm.diffusion.sampler.Denoise`):

    denoise(tokens, time, rows) -> logits
        tokens: int64 [b, H] of {0..A-1, MASK = A, END = A + 1}
        time:   float32 [b], the schedule's t of each row in [0, 1] (1 = all MASK); may be ignored
        rows:   None when b is the whole batch in order, else int64 [b]: which rows of the encoded
                batch these are. The same tensor object comes again while the set is unchanged, so
                a denoiser may cache what it gathers for it.
        logits: float32 [b, H, A + 1]; class A stands for END. No logit for MASK.

Training takes a plan apart and scores the answer:

    corruption = CountMasking(num_actions)                        # or BernoulliMasking
    corrupted = corruption(plans, schedule, generator, frozen=None)
        plans [B, H] -> Corrupted with a leading axis of D draws per plan: `tokens`, `masked`
        [D, B, H], `time` [D, B]. `corrupted.tokens.flatten(0, 1)` is [D * B, H], row d * B + b,
        so one encoding of the B observations serves all D draws.
    loss, metrics = MaskedLoss(num_actions)(logits, plans, corrupted, weights, evaluating=False)
        logits [D, B, H, A + 1] or [D * B, H, A + 1] -> scalar, dict of scalar tensors

Planning puts one together:

    sampler = sampler_preset("default", num_actions)              # or Sampler(num_actions, ...)
    sample = sampler.sample(denoise, batch_size, horizon, generator, window=replan_every)
        -> PlanSample(tokens int64 [B, H], lengths int64 [B], log_prob float32 [B], nfe int64 [B],
                      token_log_probs float32 [B, H], trace)
"""

from remdm.diffusion.classes import classes_to_tokens as classes_to_tokens
from remdm.diffusion.classes import tokens_to_classes as tokens_to_classes
from remdm.diffusion.corruption import BernoulliMasking as BernoulliMasking
from remdm.diffusion.corruption import Corrupted as Corrupted
from remdm.diffusion.corruption import CountMasking as CountMasking
from remdm.diffusion.loss import MaskedLoss as MaskedLoss
from remdm.diffusion.loss import plan_nelbo as plan_nelbo
from remdm.diffusion.presets import make_sampler as make_sampler
from remdm.diffusion.presets import preset_names as preset_names
from remdm.diffusion.presets import sampler_preset as sampler_preset
from remdm.diffusion.sampler import Denoise as Denoise
from remdm.diffusion.sampler import PlanSample as PlanSample
from remdm.diffusion.sampler import Sampler as Sampler
from remdm.diffusion.schedules import CosineSchedule as CosineSchedule
from remdm.diffusion.schedules import CosineSquaredSchedule as CosineSquaredSchedule
from remdm.diffusion.schedules import LinearSchedule as LinearSchedule
from remdm.diffusion.schedules import NoiseSchedule as NoiseSchedule
from remdm.diffusion.schedules import make_schedule as make_schedule
