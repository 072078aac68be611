"""Planner and oracle on the same levels, and which of these levels are worth learning from."""

from dataclasses import dataclass

import gin

from remdm.registry import unknown_name_message

ORACLE, PLANNER = "oracle", "planner"


@dataclass(frozen=True, slots=True)
class Pair:
    """How planner and oracle did on one level.

    Attributes:
        won: Whether the planner won.
        steps: Env steps of the planner.
        oracle_won: Whether the oracle won.
        oracle_steps: Env steps of the oracle.
    """

    won: bool
    steps: int
    oracle_won: bool
    oracle_steps: int


@gin.configurable(module="remdm")
class Pairing:
    """How levels are played in pairs, an episode of the planner and one of the oracle.

    A pair is kept if the planner lost, or took more than `efficiency_multiplier` times as many
    steps as the oracle. All steps of both count against the budget, whether kept or not.
    """

    def __init__(
        self,
        *,
        episodes_per_epoch: int | None = None,
        warm_start_episodes: int = 3,
        efficiency_multiplier: float = 1.5,
        keep: str = ORACLE,
        keep_lost: bool = True,
        oracle_replan_every: int = 1,
        replan_when_blocked: bool = False,
    ) -> None:
        """Args:
        episodes_per_epoch: Pairs per epoch and process; one for each actor when None.
        warm_start_episodes: Episodes of the oracle alone in each training environment, before the
            first pair, by each process; all are kept, but for lost ones where these are not.
        efficiency_multiplier: Steps of the planner per step of the oracle that count as efficient.
        keep: Whose episode of a pair is kept: "oracle", or "planner", to learn what the oracle
            would have done where the planner went.
        keep_lost: Whether pairs are kept that the oracle lost. What it does there shows how to
            lose; in the published recipe, which keeps them, that is most of the data.
        oracle_replan_every: Actions of an oracle's plan before its next one.
        replan_when_blocked: Whether the planner plans anew after a move that failed, as it does
            outside of pairs, or carries on.

        Raises:
            ValueError: If a value makes no sense.
        """
        least = {"warm_start_episodes": 0, "oracle_replan_every": 1}
        given: dict[str, int | None] = {
            "episodes_per_epoch": episodes_per_epoch,
            "warm_start_episodes": warm_start_episodes,
            "oracle_replan_every": oracle_replan_every,
        }
        for name, value in given.items():
            lowest = least.get(name, 1)
            if value is not None and value < lowest:
                raise ValueError(
                    f"{name} must be at least {lowest}, got {value}; set Pairing.{name}."
                )
        if not efficiency_multiplier > 0:
            raise ValueError(
                f"efficiency_multiplier must be above 0, got {efficiency_multiplier}; set "
                "Pairing.efficiency_multiplier."
            )
        if keep not in (ORACLE, PLANNER):
            raise ValueError(unknown_name_message("Pairing.keep", keep, (ORACLE, PLANNER)))
        self.episodes_per_epoch = episodes_per_epoch
        self.warm_start_episodes = warm_start_episodes
        self.efficiency_multiplier = efficiency_multiplier
        self.keep, self.keep_lost = keep, keep_lost
        self.oracle_replan_every = oracle_replan_every
        self.replan_when_blocked = replan_when_blocked

    def keeps_oracle(self, won: bool) -> bool:
        """Whether an episode of the oracle alone is kept."""
        return won or self.keep_lost

    def keeps(self, pair: Pair) -> bool:
        """Whether a pair is kept."""
        efficient = pair.won and pair.steps <= self.efficiency_multiplier * pair.oracle_steps
        return not efficient and self.keeps_oracle(pair.oracle_won)
