"""Small agents whose nets remember, for tests."""

from functools import partial

import gin
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.memory import GRUMemory
from remdm.nets.memory_transformer import TransformerXLMemory
from remdm.policy_agent import PolicyAgent
from tests.test_agent import TINY_NET

SPEC = map_observation_spec(9, 9)
HORIZON = 8
KINDS = {
    "planner": DiffusionPlannerAgent,
    "single_step": PolicyAgent,
    "autoregressive": AutoregressiveAgent,
}
MEMORIES = {
    "gru": partial(GRUMemory, width=16),
    "transformer": partial(TransformerXLMemory, width=8, num_heads=2, hidden=8, mem_steps=6),
}


def remembering(kind="single_step", memory="gru", **knobs):
    """An agent whose memory weighs as much as what it sees."""
    gin.parse_config(TINY_NET)
    gin.bind_parameter("EgoDenoiser.memory_type", MEMORIES[memory])
    torch.manual_seed(0)
    knobs = {"plan_horizon": HORIZON, "autocast_inference": "off", **knobs}
    agent = KINDS[kind](SPEC, NUM_ACTIONS, **knobs).eval()
    torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
    torch.nn.init.normal_(agent.denoiser.past.core.write.weight, std=0.5)
    return agent
