"""Playing with a sampler that is watched, so that one of its plans can be drawn as a strip."""

from typing import Any, cast

import numpy as np

from remdm.diffusion import PlanSample, Sampler
from remdm.evaluation.policies import AgentPolicy, Policy
from remdm.evaluation.recording import Recording
from remdm.evaluation.strip import Strip


class TracedSampler:
    """A sampler that keeps what it draws, with the trace of every call.

    It stands in for the sampler of an agent; the plans are the same.

    Attributes:
        samples: Everything drawn so far, a plan's candidates as the rows of one sample.
    """

    def __init__(self, sampler: Sampler) -> None:
        """Args:
        sampler: Does the work.
        """
        self.samples: list[PlanSample] = []
        self._sampler = sampler

    def sample(self, *args: Any, **kwargs: Any) -> PlanSample:
        """See `Sampler.sample`."""
        sample = self._sampler.sample(*args, **(kwargs | {"trace": True}))
        self.samples.append(sample)
        return sample

    def __getattr__(self, name: str) -> Any:
        """Everything else is the sampler's own."""
        if name.startswith("_"):  # a copy is asked for these before it has a sampler
            raise AttributeError(name)
        return getattr(self._sampler, name)


def trace_policy(policy: Policy) -> TracedSampler:
    """Watch the sampler of a policy from now on.

    Raises:
        ValueError: If the policy does not denoise.
    """
    sampler = getattr(policy.agent, "sampler", None) if isinstance(policy, AgentPolicy) else None
    if not isinstance(policy, AgentPolicy) or sampler is None:
        raise ValueError(
            f"only a diffusion planner's plans come by denoising, got {policy.name!r}; watch a "
            "run with --policy planner, or leave --denoise out."
        )
    traced = TracedSampler(sampler)
    policy.agent.sampler = cast(Any, traced)
    return traced


def plan_strip(traced: TracedSampler, recording: Recording, number: int, window: int) -> Strip:
    """The strip of a plan of an episode.

    Args:
        traced: Watched the whole episode.
        recording: The episode.
        number: Which plan, from 1.
        window: Actions executed before the next plan.

    Raises:
        ValueError: If the episode had no such plan.
    """
    samples = traced.samples
    if not 1 <= number <= len(samples):
        raise ValueError(
            f"--plan must be in 1..{len(samples)}, the plans of this episode, got {number}."
        )
    sample = samples[number - 1]
    played = next((m.plan for m in recording.moments if m.plan_index == number - 1), None)
    row = 0  # of several candidates, the one that was played
    for candidate, tokens in enumerate(sample.tokens.cpu().numpy()):
        if played is not None and np.array_equal(tokens, played):
            row = candidate
            break
    return Strip.of(sample, traced.num_actions, window, row=row)
