"""A trained policy and its folder: weights, configuration, and what it sees and does."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remdm import config, gin_names
from remdm.base_agent import BaseAgent
from remdm.data.plain_json import typed
from remdm.envs.actions import Actions
from remdm.envs.contract import EnvKind
from remdm.gin_reading import RunConfig
from remdm.maps import ArraySpec
from remdm.training.checkpoint import (
    CheckpointError,
    load_into,
    load_weights,
    read_state,
    save_weights,
    write_checkpoint,
)

WEIGHTS, CONFIG = "policy.safetensors", "config.gin"
ALGORITHM = "DAgger"
AgentType = Callable[..., BaseAgent]


@dataclass(frozen=True, slots=True)
class Policy:
    """Who acts, and in what kind of environment.

    Attributes:
        agent: With the weights that act.
        agent_type: What made it.
        observation_spec: Arrays of one observation.
        actions: What can be done.
        config: Text of the configuration that it was made with.
    """

    agent: BaseAgent
    agent_type: AgentType
    observation_spec: dict[str, ArraySpec]
    actions: Actions
    config: str


def save_policy(policy: Policy, folder: Path) -> Path:
    """Write a policy into a folder, whole or not at all; what was there is replaced.

    Raises:
        ValueError: If its class could not be found again.
        OSError: If it cannot be written.
    """
    name = gin_names.registered_name(policy.agent_type)
    if name is None:
        raise ValueError(
            f"{policy.agent_type!r} must be decorated with @gin.configurable to be found again "
            "when the policy is loaded"
        )
    state = {
        "algorithm": ALGORITHM,
        "agent_type": name,
        "observations": {
            key: [list(spec.shape), spec.dtype.str] for key, spec in policy.observation_spec.items()
        },
        "action_names": list(policy.actions.names),
        "action_shape": list(policy.actions.shape),
        "low": _bounds(policy.actions.low),
        "high": _bounds(policy.actions.high),
    }

    def fill(partial: Path) -> None:
        (partial / CONFIG).write_text(policy.config, encoding="utf-8")
        save_weights(partial / WEIGHTS, policy.agent.state_dict())

    return write_checkpoint(folder.absolute().parent, folder.name, state, fill)


def load_policy(folder: Path) -> Policy:
    """Read what `save_policy` wrote.

    Raises:
        CheckpointError: If something is missing, damaged, or of another kind.
        ConfigError: If its class is not known here.
    """
    state = read_state(folder)
    if state.get("algorithm") != ALGORITHM:
        raise CheckpointError(
            f"{folder} must hold a policy of {ALGORITHM}, got {state.get('algorithm')!r}; a run "
            "of Experiment is played by remdm eval."
        )
    try:
        name = typed(state, "agent_type", str)
        spec, actions = _read_spec(typed(state, "observations", dict)), _read_actions(state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); save the policy again") from error
    with config.gin_sandbox():
        config.load_config([RunConfig(folder / CONFIG)])
        text = config.config_text()
        try:
            agent_type = gin_names.find_configurable(name).wrapper
        except gin_names.UnknownNameError as error:
            raise CheckpointError(f"{folder}: {error} Import its module first.") from error
        told = actions if actions.vector_size else None
        kind = EnvKind(actions.names, spec, told)
        agent: BaseAgent = agent_type(*kind.arguments_for(agent_type))
    load_into(agent, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return Policy(agent.eval().requires_grad_(False), agent_type, spec, actions, text)


def _bounds(values: np.ndarray | None) -> list[float | None] | None:
    """Bounds as JSON has them; None for what is not finite."""
    if values is None:
        return None
    return [float(v) if math.isfinite(v) else None for v in values.tolist()]


def _read_spec(observations: dict[str, Any]) -> dict[str, ArraySpec]:
    return {
        name: ArraySpec(tuple(int(n) for n in shape), np.dtype(str(dtype)))
        for name, (shape, dtype) in observations.items()
    }


def _read_actions(state: dict[str, Any]) -> Actions:
    names = tuple(str(name) for name in typed(state, "action_names", list))
    low, high = (typed(state, key, list, type(None)) for key in ("low", "high"))
    if low is None or high is None:
        return Actions(names)

    def numbers(values: list[float | None], infinite: float) -> np.ndarray:
        return np.array([infinite if v is None else v for v in values], np.float32)

    shape = tuple(int(n) for n in typed(state, "action_shape", list))
    if len(low) != len(high) or len(low) != math.prod(shape):
        raise ValueError(f"bounds of {len(low)} and {len(high)} numbers for the shape {shape}")
    return Actions(names, numbers(low, -np.inf), numbers(high, np.inf), shape)
