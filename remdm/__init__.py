"""Planners that write whole action plans by masked diffusion and learn them from an oracle.

The names below are what a user types; each is imported when it is first asked for, so that
`import remdm` stays light.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from remdm._version import __version__ as __version__

# Read by the thread pool when torch is first imported. Threads that spin while they wait make a
# training step four to seven times slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from remdm.agent import BaseAgent as BaseAgent
    from remdm.agent import DiffusionPlannerAgent as DiffusionPlannerAgent
    from remdm.config import load_config as load_config
    from remdm.data.datasets import DiskTrajDataset as DiskTrajDataset
    from remdm.data.datasets import MixtureOfDatasets as MixtureOfDatasets
    from remdm.data.datasets import RLDataset as RLDataset
    from remdm.envs.contract import PlannerEnv as PlannerEnv
    from remdm.envs.contract import PlanVecEnv as PlanVecEnv
    from remdm.envs.making import make_env as make_env
    from remdm.experiment import Experiment as Experiment
    from remdm.oracles.contract import Oracle as Oracle
    from remdm.oracles.memory_oracle import MemoryOracle as MemoryOracle
    from remdm.policy_agent import PolicyAgent as PolicyAgent

_HOMES = {
    "BaseAgent": "remdm.agent",
    "DiffusionPlannerAgent": "remdm.agent",
    "DiskTrajDataset": "remdm.data.datasets",
    "Experiment": "remdm.experiment",
    "MemoryOracle": "remdm.oracles.memory_oracle",
    "MixtureOfDatasets": "remdm.data.datasets",
    "Oracle": "remdm.oracles.contract",
    "PlanVecEnv": "remdm.envs.contract",
    "PlannerEnv": "remdm.envs.contract",
    "PolicyAgent": "remdm.policy_agent",
    "RLDataset": "remdm.data.datasets",
    "load_config": "remdm.config",
    "make_env": "remdm.envs.making",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'remdm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
