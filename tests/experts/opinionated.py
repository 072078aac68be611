"""A small expert with a memory and with opinions, without any training."""

from pathlib import Path
from typing import Any

from remdm.envs.craftax.game import CLASSIC
from remdm.envs.craftax.worlds import runner_of
from remdm.experts.checkpoint import save_expert
from remdm.experts.nets import POLICIES
from remdm.experts.policy import Expert, blank_params

ROWS, STEPS, WIDTH = 8, 8, 8


def opinionated_expert() -> Expert:
    """The logits of a random net, made far apart."""
    net = POLICIES["ppo_rnn"](17, WIDTH)
    params = blank_params(net, WIDTH, 1345, seed=2)
    head = params["params"]["Dense_3"]
    head["kernel"] = head["kernel"] * 500.0
    return Expert(net, params, runner_of(CLASSIC), WIDTH, {})


def saved_expert(folder: Path) -> Path:
    """The same on disk."""
    facts: dict[str, Any] = {"algorithm": "ppo_rnn", "env_name": CLASSIC, "width": WIDTH}
    return save_expert(folder, facts, opinionated_expert().params)
