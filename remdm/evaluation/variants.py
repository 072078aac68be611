"""Rows of one agent that plans otherwise: `planner:replan=1,sampler=readme_craftax_eval`.

What a planner was trained as leaves open how often it plans and how many calls of the net a plan
takes. A variant is the same weights with another answer to these, so that a table can show what
each choice costs and brings.
"""

import copy

import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.base_agent import BaseAgent
from remdm.diffusion import make_sampler
from remdm.diffusion.presets import preset_names
from remdm.evaluation.policies import AgentPolicy
from remdm.registry import unknown_name_message

CHOICES = ("replan", "sampler", "temperature")
# What a sweep of a planner varies: how often it plans, and by how many net calls.
SWEPT_SAMPLERS = ("greedy", "balanced", "readme_craftax_eval")


def variant_policy(
    name: str, agents: dict[str, BaseAgent], generator: torch.Generator
) -> AgentPolicy:
    """The policy that a name like `planner:replan=1` means.

    Args:
        name: An agent's name, a colon, and choices among `replan` (actions before the next plan),
            `sampler` (a preset) and `temperature` (of the sampler's own or the chosen preset).
        agents: By name.
        generator: Chance of the sampler.

    Raises:
        ValueError: If a part of the name is unknown or makes no sense.
    """
    base, _, text = name.partition(":")
    if base not in agents:
        raise ValueError(unknown_name_message("policy", base, agents))
    choices = dict(_choice(name, part) for part in text.split(","))
    agent = agents[base]
    if "sampler" in choices or "temperature" in choices:
        agent = _with_sampler(name, agent, choices)
    replan = int(choices["replan"]) if "replan" in choices else None
    if replan is not None and isinstance(agent, DiffusionPlannerAgent):
        agent = copy.copy(agent)
        agent.replans_after(replan)  # no more tokens are decided than are carried out
    return AgentPolicy(agent, generator, replan_every=replan, name=name)


def _choice(name: str, part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    if key not in CHOICES or not value:
        raise ValueError(
            f"a variant of a policy is written like planner:replan=1,temperature=0.5 with choices "
            f"among {', '.join(CHOICES)}, got {name!r}."
        )
    return key, value


def _with_sampler(name: str, agent: BaseAgent, choices: dict[str, str]) -> BaseAgent:
    """The same weights behind another sampler."""
    if not isinstance(agent, DiffusionPlannerAgent):
        raise ValueError(
            f"{name!r} chooses a sampler, and {type(agent).__name__} has none; leave out sampler "
            "and temperature."
        )
    preset = choices.get("sampler", "default")
    if preset not in preset_names():
        raise ValueError(unknown_name_message("sampler", preset, preset_names()))
    options = {"temperature": float(choices["temperature"])} if "temperature" in choices else {}
    other = copy.copy(agent)  # shares all weights
    other.sampler = make_sampler(preset, agent.num_actions, options)
    return other


def sweep_of(name: str, agent: BaseAgent) -> list[str]:
    """The variants of a sweep: replanning after 1, 2, 4, ... actions, and other samplers."""
    rows, replan = [], 1
    while replan <= agent.plan_horizon:
        rows.append(f"{name}:replan={replan}")
        replan *= 2
    if isinstance(agent, DiffusionPlannerAgent):
        rows += [f"{name}:sampler={preset}" for preset in SWEPT_SAMPLERS]
    return rows
