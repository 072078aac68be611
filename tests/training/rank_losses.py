"""Losses of a whole batch and of its parts, compared in every process of `rank_runs`."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gin
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from remdm import config
from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.data.batch import Batch
from remdm.diffusion import BernoulliMasking, CountMasking, MaskedLoss
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser
from remdm.nets.memory import GRUMemory
from remdm.policy_agent import PolicyAgent
from remdm.ranks import Ranks
from remdm.soft_targets import LOGITS_KEY
from remdm.stretch import CarriedMemory, Stretch
from remdm.tokens import end_token, mask_token
from remdm.training.objectives import KL, CloningLoss, GoalLoss, Objectives, OwnLoss
from tests.nets.states import random_states, tensors
from tests.tiny_runs import BINDINGS

HORIZON, ROWS = 6, 12

remembering = partial(EgoDenoiser, memory_type=partial(GRUMemory, width=8))
small = partial(DualStreamDenoiser, width=16, hidden=16, num_layers=1, num_heads=2)
LOSSES: dict[str, tuple[Callable[..., BaseAgent], dict[str, Any]]] = {
    "flat": (DiffusionPlannerAgent, {}),
    "spread alone": (
        DiffusionPlannerAgent,
        {"corruption_type": partial(CountMasking, low_discrepancy=False)},
    ),
    "elbo": (
        DiffusionPlannerAgent,
        {
            "loss_type": partial(MaskedLoss, weighting="elbo"),
            "corruption_type": partial(BernoulliMasking, draws=2),
        },
    ),
    "subs": (
        DiffusionPlannerAgent,
        {
            "loss_type": partial(MaskedLoss, weighting="subs"),
            "corruption_type": partial(BernoulliMasking, low_discrepancy=False),
        },
    ),
    "mgdm": (DiffusionPlannerAgent, {"loss_type": partial(MaskedLoss, weighting="mgdm")}),
    "horizon": (DiffusionPlannerAgent, {"loss_type": partial(MaskedLoss, normaliser="horizon")}),
    "visible END": (
        DiffusionPlannerAgent,
        {"corruption_type": partial(CountMasking, pad_mode="visible")},
    ),
    "conditioned": (
        DiffusionPlannerAgent,
        {"inpaint_anchor": "aligned", "condition_dropout": 0.5, "soft_target_weight": 0.7},
    ),
    "goal": (DiffusionPlannerAgent, {"denoiser_type": small}),
    "no goal": (DiffusionPlannerAgent, {"denoiser_type": partial(small, goal_loss_weight=0.0)}),
    "single step": (PolicyAgent, {"soft_target_weight": 0.7}),
    "single step of few": (PolicyAgent, {}),
    "stretches": (DiffusionPlannerAgent, {"denoiser_type": remembering}),
    "stretches of few": (PolicyAgent, {"denoiser_type": remembering}),
    "objectives": (DiffusionPlannerAgent, {"denoiser_type": small}),
    "objectives of few": (PolicyAgent, {}),
}


class KLToNoise(KL):
    """Divergence from the agent as it was before its head was drawn anew."""

    name = "kl"

    def __init__(self, agent: BaseAgent) -> None:
        self.reference = copy.deepcopy(agent)
        torch.nn.init.normal_(self.reference.denoiser.head.weight, std=0.3)


def with_objectives(name: str, agent: BaseAgent) -> torch.nn.Module:
    """The agent, with all the objectives that fit it where its name says so."""
    if "objectives" not in name:
        return agent
    more = () if isinstance(agent, PolicyAgent) else ((GoalLoss, 0.3),)
    return Objectives(agent, (OwnLoss, (CloningLoss, 0.5), (KLToNoise(agent), 2.0), *more))


def whole_batch(last_counts: bool) -> Batch:
    """Plans of all lengths; the last rows weigh less, or all but the very last nothing at all."""
    rng = np.random.default_rng(0)
    plans = rng.integers(NUM_ACTIONS, size=(ROWS, HORIZON))
    lengths = np.arange(ROWS) % HORIZON
    plans[np.arange(HORIZON) >= lengths[:, None]] = end_token(NUM_ACTIONS)
    plans[-1, 0] = 0
    weights = np.where(np.arange(ROWS) < ROWS // 2, 1.0, 0.25)
    if last_counts:
        weights[:-1] = 0.0
    states = tensors(random_states(ROWS))
    states["glyphs"][:3, 3, 4] = 2383  # three stairs, all in the first half
    logits = rng.normal(size=(ROWS, NUM_ACTIONS)).astype(np.float16)
    past = rng.integers(NUM_ACTIONS, size=(ROWS, HORIZON - 1))
    past[rng.random(past.shape) < 0.2] = mask_token(NUM_ACTIONS)
    return Batch(
        {**states, LOGITS_KEY: torch.from_numpy(logits)},
        torch.from_numpy(plans),
        torch.from_numpy(weights.astype(np.float32)),
        torch.zeros(ROWS, dtype=torch.int64),
        torch.from_numpy(past),
    )


def in_stretches(batch: Batch) -> Batch:
    """Four rows of three steps, two of which the first process has; it has more of the filling."""
    first, real = torch.zeros(2, ROWS // 3, 3, dtype=torch.bool)
    first[0, 0] = first[2, 1] = True
    real[0, :1] = real[1] = real[2] = real[3, 1:] = True
    weights = torch.where(real.flatten(), batch.weights, 0.0)
    memory = CarriedMemory(torch.from_numpy(np.random.default_rng(1).normal(size=(4, 8))).float())
    return replace(batch, weights=weights, stretch=Stretch(first, real), memory=memory)


def part(batch: Batch, ranks: Ranks) -> Batch:
    """The rows of one process."""
    assert batch.past is not None
    own = Batch(
        {key: ranks.own(value) for key, value in batch.observations.items()},
        *map(ranks.own, (batch.plans, batch.weights, batch.env_ids, batch.past)),
        ranks,
    )
    if batch.stretch is None or batch.memory is None or batch.memory.state is None:
        return own
    stretch = Stretch(ranks.own(batch.stretch.first), ranks.own(batch.stretch.real))
    return replace(own, stretch=stretch, memory=CarriedMemory(ranks.own(batch.memory.state)))


def followed(agent: BaseAgent, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The loss, what is logged beside it, and its gradients, of the second of two batches.

    Where there is a memory, it is that of the first one.
    """
    for seed in range(2):
        agent.zero_grad()
        loss, metrics = model(batch, torch.Generator().manual_seed(seed))
        loss.backward()
    found = {"loss": loss.detach(), **metrics}
    for name, parameter in agent.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad
    return found


def compare_losses(accelerator: Accelerator) -> tuple[dict[str, list[str]], dict[str, float]]:
    """By kind of loss, the names of all that differs between a whole batch and its parts, and the
    largest difference of a number of the gradient.
    """
    ranks, wrong, apart = Ranks.of(accelerator), {}, {}
    gin.parse_config([f"{k} = {v}" for k, v in BINDINGS.items() if k.startswith("Ego")])
    for name, (kind, options) in LOSSES.items():
        torch.manual_seed(0)
        agent = kind(map_observation_spec(21, 79), NUM_ACTIONS, plan_horizon=HORIZON, **options)
        torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
        batch = whole_batch(last_counts="few" in name)
        if "stretches" in name:
            batch = in_stretches(batch)
        own = part(batch, ranks)
        model = with_objectives(name, agent)
        alone = followed(agent, model, batch)
        alone = {key: value.clone() for key, value in alone.items()}
        together = followed(agent, accelerator.prepare_model(model), own)
        for key in [key for key in together if not key.startswith("gradient")]:
            (together[key],) = ranks.means(together[key])
        wrong[name] = [
            key
            for key in alone.keys() | together.keys()
            if not torch.allclose(alone[key], together[key], rtol=1e-4, atol=1e-6)
        ]
        assert float(alone["loss"]) > 0
        gradients = [key for key in alone if key.startswith("gradient")]
        apart[name] = max(float((alone[k] - together[k]).abs().max()) for k in gradients)
        if batch.memory is not None and own.memory is not None:
            assert batch.memory.state is not None
            assert own.memory.state is not None
            torch.testing.assert_close(own.memory.state, ranks.own(batch.memory.state))
    config.clear_config()
    return wrong, apart
