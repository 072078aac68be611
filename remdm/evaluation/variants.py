"""Rows of one agent that plans otherwise: `planner:replan=1,sampler=readme_craftax_eval`.

What a planner was trained as leaves open how often it plans and how many calls of the net a plan
takes. A variant is the same weights with another answer to these, so that a table can show what
each choice costs and brings.
"""

import copy
import math
from collections.abc import Mapping

import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.base_agent import BaseAgent
from remdm.diffusion import make_sampler
from remdm.diffusion.presets import preset_names
from remdm.evaluation.policies import AgentPolicy
from remdm.nets.dual_stream import LOCAL_SIZE
from remdm.nets.ego import EgoEncoder
from remdm.policy_agent import PolicyAgent
from remdm.registry import unknown_name_message

# An agent's row with the rules of thumb switched on that are no part of what it learnt.
CONSTRAINED = "+constraints"
CHOICES = ("replan", "sampler", "temperature", "near")
# What a sweep of a planner varies: how often it plans, and by how many net calls.
SWEPT_SAMPLERS = ("greedy", "balanced", "readme_craftax_eval")


def variant_policy(
    name: str, agents: Mapping[str, BaseAgent], generator: torch.Generator
) -> AgentPolicy:
    """The policy that a name like `planner:replan=1` means.

    Args:
        name: An agent's name, with "+constraints" or without, a colon, and choices among `replan`
            (actions before the next plan), `sampler` (a preset), `temperature` (of the chosen
            preset or the default one, or of an agent that draws without a sampler) and `near`
            (cells along the square that the agent is shown).
        agents: By name.
        generator: Chance of the sampler.

    Raises:
        ValueError: If a part of the name is unknown or makes no sense.
    """
    row, _, text = name.partition(":")
    base = row.removesuffix(CONSTRAINED)
    if base not in agents:
        raise ValueError(unknown_name_message("policy", base, agents))
    choices = dict(_choice(name, part) for part in text.split(","))
    agent = agents[base]
    if "sampler" in choices or "temperature" in choices:
        agent = _with_sampler(name, agent, choices)
    replan = _number(name, choices, "replan")
    if replan is not None and isinstance(agent, (DiffusionPlannerAgent, AutoregressiveAgent)):
        agent = copy.copy(agent)
        agent.replans_after(replan)  # no more tokens are decided than are carried out
    return AgentPolicy(
        agent,
        generator,
        replan_every=replan,
        name=name,
        constrained=row != base,
        near=_number(name, choices, "near"),
    )


def _choice(name: str, part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    if key not in CHOICES or not value:
        raise ValueError(
            f"a variant of a policy is written like planner:replan=1,temperature=0.5 with choices "
            f"among {', '.join(CHOICES)}, got {name!r}."
        )
    return key, value


def _number(name: str, choices: Mapping[str, str], key: str) -> int | None:
    if key not in choices:
        return None
    if not choices[key].isdecimal():
        raise ValueError(f"{key} must be a whole number in {name!r}, got {choices[key]!r}.")
    return int(choices[key])


def _with_sampler(name: str, agent: BaseAgent, choices: Mapping[str, str]) -> BaseAgent:
    """The same weights behind another sampler, or drawing at another temperature."""
    heat = _temperature(name, choices)
    if isinstance(agent, (PolicyAgent, AutoregressiveAgent)) and "sampler" not in choices:
        cooled = copy.copy(agent)  # shares all weights
        cooled.temperature = heat["temperature"]
        return cooled
    if not isinstance(agent, DiffusionPlannerAgent):
        raise ValueError(
            f"{name!r} chooses a sampler, and {type(agent).__name__} has none; leave it out."
        )
    preset = choices.get("sampler", "default")
    if preset not in preset_names():
        raise ValueError(unknown_name_message("sampler", preset, preset_names()))
    other = copy.copy(agent)  # shares all weights
    other.sampler = make_sampler(preset, agent.num_actions, heat)
    return other


def _temperature(name: str, choices: Mapping[str, str]) -> dict[str, float]:
    """The chosen temperature by its name; nothing without one."""
    if "temperature" not in choices:
        return {}
    try:
        value = float(choices["temperature"])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(
            f"temperature must be a number above 0 in {name!r}, got {choices['temperature']!r}."
        )
    return {"temperature": value}


def sweep_of(name: str, agent: BaseAgent) -> list[str]:
    """The variants of a sweep: replanning after 1, 2, 4, ... actions, and other samplers."""
    rows, replan = [], 1
    while replan <= agent.plan_horizon:
        rows.append(f"{name}:replan={replan}")
        replan *= 2
    if isinstance(agent, DiffusionPlannerAgent):
        rows += [f"{name}:sampler={preset}" for preset in SWEPT_SAMPLERS]
    return rows


def blind_row(name: str, agents: Mapping[str, BaseAgent], near: int | None = None) -> str:
    """The row of an agent that only sees what lies around it; other rows keep their names.

    Args:
        name: Of a row: an agent's, with choices of its own or without, or any other.
        agents: By name.
        near: Cells along the square that it is shown; what its net sees in full when None.
    """
    row, colon, choices = name.partition(":")
    agent = agents.get(row.removesuffix(CONSTRAINED))
    if agent is None or any(part.startswith("near=") for part in choices.split(",")):
        return name
    return f"{name}{',' if colon else ':'}near={near or crop_side(agent)}"


def crop_side(agent: BaseAgent) -> int:
    """Cells along the square that the agent's net sees in full; the seed's 9 where it has none."""
    encoders = [module for module in agent.modules() if isinstance(module, EgoEncoder)]
    return encoders[0].size.crop if encoders else LOCAL_SIZE
