"""What a plan is conditioned on beside the observation: checks, and the way into the sampler."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from remdm.anchors import ANCHORS, after_prefix, behind_prefix, with_past
from remdm.base_agent import Observations, as_tensor
from remdm.data.batch import Batch
from remdm.diffusion.interface import Implausible, PlanSample
from remdm.maps import NUM_ACTIONS, ArraySpec
from remdm.nets.denoiser import OFFSET_KEY, Context
from remdm.planning_constraints import hazardous_moves
from remdm.ranks import Ranks
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

if TYPE_CHECKING:
    from remdm.agent import DiffusionPlannerAgent

PHYSICS_KEYS = ("terrain", "position")


def check_anchor(anchor: str, aligned_share: float) -> None:
    """Refuse an unknown anchor and a share outside (0, 1].

    Raises:
        ValueError: In either case.
    """
    if anchor not in ANCHORS:
        raise ValueError(
            unknown_name_message("DiffusionPlannerAgent.inpaint_anchor", anchor, ANCHORS)
        )
    if not 0.0 < aligned_share <= 1.0:
        raise ValueError(
            f"aligned_share must be in (0, 1], got {aligned_share}; set "
            "DiffusionPlannerAgent.aligned_share, or inpaint_anchor = 'none' for no prefixes."
        )


def check_conditioning(
    agent: "DiffusionPlannerAgent", observation_spec: dict[str, ArraySpec]
) -> None:
    """Refuse what does not fit together.

    Raises:
        ValueError: Says what, why, and the way out.
    """
    name = type(agent).__name__
    told = OFFSET_KEY in agent.denoiser.observation_keys
    if agent.inpaint_anchor == "aligned" and not told:
        raise ValueError(
            f"inpaint_anchor 'aligned' needs a net that is told the offset of its observation, and "
            f"{type(agent.denoiser).__name__} is not; set {name}.denoiser_type = @EgoDenoiser or "
            f"{name}.inpaint_anchor = 'legacy'."
        )
    if not 0.0 <= agent.condition_dropout < 1.0:
        raise ValueError(
            f"condition_dropout must be in [0, 1), got {agent.condition_dropout}; set "
            f"{name}.condition_dropout."
        )
    if agent.guidance is not None and not agent.condition_dropout:
        raise ValueError(
            "guidance asks the net for plans without an observation, which it only learns with "
            f"condition_dropout above 0; set {name}.condition_dropout = 0.1 and train, or "
            f"{name}.guidance_type = None."
        )
    if agent.candidates < 1 or (agent.candidates > 1) != (agent.scorer is not None):
        raise ValueError(
            f"candidates must be at least 1, and above 1 exactly where there is a scorer to choose "
            f"among them, got candidates={agent.candidates} and scorer_type="
            f"{type(agent.scorer).__name__ if agent.scorer else None}; set {name}.candidates and "
            f"{name}.scorer_type together."
        )
    if agent.warm_start is not None and agent.inpaint_anchor != "none":
        raise ValueError(
            f"a warm start shifts the last plan to the present state, and inpaint_anchor "
            f"{agent.inpaint_anchor!r} keeps it where it began; set {name}.warm_start_type = None "
            f"or {name}.inpaint_anchor = 'none'."
        )
    missing = [key for key in PHYSICS_KEYS if key not in observation_spec]
    if agent.physics_penalty and (missing or agent.num_actions != NUM_ACTIONS):
        raise ValueError(
            f"physics_penalty reads the arrays {', '.join(PHYSICS_KEYS)} and the {NUM_ACTIONS} "
            f"actions of map environments, got {', '.join(observation_spec)} and "
            f"{agent.num_actions} actions; set {name}.physics_penalty = False."
        )


def check_stretch(agent: "DiffusionPlannerAgent", batch: Batch) -> None:
    """Refuse states without the steps before them, where the net would remember those.

    Raises:
        ValueError: If the net has a memory and the batch no stretch.
    """
    if agent.memory_size and batch.stretch is None:
        raise ValueError(
            f"{type(agent.denoiser).__name__} remembers the steps before a state, and these states "
            "come without them: what it believes there is not what it would believe in play; "
            f"leave the NELBO out, or set {type(agent.denoiser).__name__}.memory_type = None."
        )


def behind_past(
    agent: "DiffusionPlannerAgent", batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The labels of an aligned agent, with a prefix of past actions; see `with_past`.

    Raises:
        ValueError: If the batch has no past actions.
    """
    if batch.past is None:
        raise ValueError(
            "inpaint_anchor 'aligned' learns from the actions before an observation, and the "
            "batch has none; call DiskTrajDataset.configure(past_actions=...) or set "
            "DiffusionPlannerAgent.inpaint_anchor = 'none'."
        )
    share, count = agent.aligned_share, agent.num_actions
    return with_past(batch.plans, batch.past, share, generator, count, batch.ranks)


def usable_start(previous: Tensor, allowed: Tensor | None, num_actions: int) -> Tensor:
    """The rest of a plan without what the next one may not begin with.

    Args:
        previous: int64 [N, H], MASK where nothing is known.
        allowed: bool [N, num_actions + 1]: classes allowed first, or None.
        num_actions: Size of the action set.

    Returns:
        int64 [N, H]: all MASK where nothing was left to do; MASK at position 0 where its action is
        ruled out.
    """
    mask = mask_token(num_actions)
    first = previous[:, 0]
    start = previous.masked_fill((first == end_token(num_actions))[:, None], mask)
    if allowed is not None:
        is_action = first < num_actions
        fits = allowed.gather(1, first.clamp(max=num_actions - 1)[:, None])[:, 0]
        start[:, 0] = start[:, 0].masked_fill(is_action & ~fits, mask)
    return start


def joined(parts: Sequence[PlanSample], rows: Sequence[Tensor]) -> PlanSample:
    """Plans that were made in several parts, in the order of one batch.

    Args:
        parts: The plans, without traces.
        rows: For each part int64 [n]: where its plans belong.
    """
    order = torch.cat(list(rows)).argsort()

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[order]

    return PlanSample(
        tokens=whole("tokens"),
        lengths=whole("lengths"),
        log_prob=whole("log_prob"),
        nfe=whole("nfe"),
        token_log_probs=whole("token_log_probs"),
    )


def hazards(
    observations: Observations, offsets: Tensor | None, device: torch.device, num_actions: int
) -> Implausible:
    """The plan positions whose moves the remembered map speaks against, for `Sampler.sample`.

    Args:
        observations: `terrain` and `position`, [N, ...].
        offsets: int64 [N]: executed actions at the front of each canvas; None for none. The
            agent stands where they have brought it.
        device: Where the plans live.
        num_actions: Size of the action set.

    Raises:
        ValueError: If an array is missing.
    """
    missing = [key for key in PHYSICS_KEYS if key not in observations]
    if missing:
        raise ValueError(
            f"physics_penalty reads {', '.join(PHYSICS_KEYS)}; the observation lacks "
            f"{', '.join(missing)}. Set DiffusionPlannerAgent.physics_penalty = False."
        )
    terrain, position = (as_tensor(observations[key]).to(device) for key in PHYSICS_KEYS)

    def implausible(tokens: Tensor, rows: Tensor | None) -> Tensor:
        index = slice(None) if rows is None else rows
        map_known, place = terrain[index], position[index]
        if offsets is None:
            return hazardous_moves(map_known, place, tokens)
        begun = offsets[index]
        coming = behind_prefix(tokens, begun, end_token(num_actions))
        return after_prefix(hazardous_moves(map_known, place, coming), begun, False)

    return implausible


def dropped(context: Context, share: float, generator: torch.Generator, ranks: Ranks) -> Context:
    """An encoding, zero for a random `share` of the states."""
    count = ranks.whole(len(context[0]))
    draws = torch.rand(count, generator=generator, device=generator.device)
    kept = (ranks.own(draws) >= share).to(context[0].device)
    return tuple(part * kept.view(-1, *[1] * (part.ndim - 1)).to(part) for part in context)
