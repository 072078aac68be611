"""Oracles by name."""

from typing import Any

from remdm.oracles.contract import Oracle
from remdm.registry import Registry

ORACLES = Registry("oracle")
ORACLES.register("memory", "remdm.oracles.memory_oracle:MemoryOracle")
ORACLES.register("tours", "remdm.oracles.tour_oracle:TourOracle")
ORACLES.register("seed", "remdm.oracles.seed_oracle:SeedOracle")
ORACLES.register("expert", "remdm.experts.oracle:ExpertOracle")
ORACLES.register("cue", "remdm.oracles.cue_oracle:CueOracle")
ORACLES.register("random", "remdm.oracles.random_policy:RandomPolicy")


def make_oracle(name: str, **overrides: Any) -> Oracle:
    """The oracle called `name`.

    Args:
        name: A key of `ORACLES`.
        overrides: Keyword arguments of its class; they win over gin.

    Raises:
        ValueError: If there is no such oracle; names the nearest matches.
    """
    oracle: Oracle = ORACLES.get(name)(**overrides)
    return oracle
