"""What running episodes carry from plan to plan: actions, the rest of the plan, a memory.

A planner that begins every plan anew needs none of it. One that inpaints a locked prefix needs the
executed actions of the present plan window; one with a warm start needs the plan it had before; one
whose net has a memory needs what it made of all the steps so far, whoever acted in them.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from remdm.tokens import mask_token


class Remembering(Protocol):
    """The part of `remdm.base_agent.BaseAgent` that memories are made by."""

    observation_keys: tuple[str, ...]

    @property
    def memory_size(self) -> int: ...  # noqa: D102

    def remember(  # noqa: D102
        self, observations: dict[str, np.ndarray], real: np.ndarray, memory: np.ndarray | None
    ) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Continuation:
    """What N running episodes bring along when they ask for their next plan.

    Attributes:
        executed: int64 [N, H]: actions run since the plan window began, MASK after them.
        num_executed: int64 [N], below H: how many they are.
        previous: int64 [N, H]: the rest of the last plan, its next token at position 0; MASK
            where nothing is known.
        confidence: float32 [N, H]: probability that each token of `previous` was drawn with, 0
            where nothing is known.
        memory: float32 [N, memory_size] of the agent, of the moment before what is seen now, 0
            where an episode begins; None where nothing has been remembered yet.
    """

    executed: np.ndarray
    num_executed: np.ndarray
    previous: np.ndarray
    confidence: np.ndarray
    memory: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray | slice) -> "Continuation":
        """Some of the episodes."""
        return Continuation(
            self.executed[rows],
            self.num_executed[rows],
            self.previous[rows],
            self.confidence[rows],
            None if self.memory is None else self.memory[rows],
        )


class RunningPlans:
    """Keeps a `Continuation` for every row of a vector environment.

    A plan window holds H actions; after its last one the next window begins empty. A memory has the
    size of the agent that `remember` is called with first.
    """

    def __init__(self, rows: int, plan_horizon: int, num_actions: int) -> None:
        """Args:
        rows: Episodes to begin with; `reset` makes room for more.
        plan_horizon: Tokens per plan H.
        num_actions: Size of the action set.
        """
        self.plan_horizon = plan_horizon
        self.mask = mask_token(num_actions)
        self._kept = self._blank(rows)

    def _blank(self, rows: int) -> Continuation:
        shape = (rows, self.plan_horizon)
        return Continuation(
            np.full(shape, self.mask, np.int64),
            np.zeros(rows, np.int64),
            np.full(shape, self.mask, np.int64),
            np.zeros(shape, np.float32),
        )

    def reset(self, rows: np.ndarray) -> None:
        """New episodes start in `rows`, int64 [n]; nothing is carried over."""
        missing = int(rows.max(initial=-1)) + 1 - len(self._kept.num_executed)
        if missing > 0:
            more, kept, memory = self._blank(missing), self._kept, self._kept.memory
            if memory is not None:
                memory = np.pad(memory, ((0, missing), (0, 0)))
            self._kept = Continuation(
                np.concatenate([kept.executed, more.executed]),
                np.concatenate([kept.num_executed, more.num_executed]),
                np.concatenate([kept.previous, more.previous]),
                np.concatenate([kept.confidence, more.confidence]),
                memory,
            )
        self._kept.executed[rows] = self.mask
        self._kept.num_executed[rows] = 0
        if self._kept.memory is not None:
            self._kept.memory[rows] = 0.0
        self.forget_plans(rows)

    def continuation(self, rows: np.ndarray) -> Continuation:
        """What the episodes in `rows`, int64 [n], carry now; copies."""
        return self._kept[rows]

    def planned(
        self, rows: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray | None = None
    ) -> None:
        """Keep the plans that `rows` follow from now on.

        Args:
            rows: int64 [n].
            tokens: Integer [n, H].
            log_probs: Floating [n, H]: log-probability of each token; None counts as certain.
        """
        self._kept.previous[rows] = tokens
        self._kept.confidence[rows] = 1.0 if log_probs is None else np.exp(log_probs)

    def forget_plans(self, rows: np.ndarray) -> None:
        """In `rows`, int64 [n], somebody else acts, whose plans are not to be continued."""
        self._kept.previous[rows] = self.mask
        self._kept.confidence[rows] = 0.0

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """Note what was executed in `rows`.

        Args:
            rows: int64 [n].
            actions: Integer [n, K].
            lengths: int64 [n]: how many of a row's K actions ran, the first ones.
        """
        horizon, kept = self.plan_horizon, self._kept
        before = kept.num_executed[rows]
        run = np.arange(actions.shape[1]) < lengths[:, None]
        wide = np.full((len(rows), horizon + actions.shape[1]), self.mask, np.int64)
        wide[:, :horizon] = kept.executed[rows]
        row, slot = np.nonzero(run)
        wide[row, before[row] + slot] = actions[row, slot]
        total = before + lengths
        begin = total // horizon * horizon
        kept.executed[rows] = shifted(wide, begin, self.mask)[:, :horizon]
        kept.num_executed[rows] = total - begin
        kept.previous[rows] = shifted(kept.previous[rows], lengths, self.mask)
        kept.confidence[rows] = shifted(kept.confidence[rows], lengths, 0.0)

    def remember(
        self, agent: Remembering, rows: np.ndarray, seen: dict[str, np.ndarray], real: np.ndarray
    ) -> None:
        """Let the memory of some episodes take in steps, whoever acted in them.

        Args:
            agent: Whose net remembers; one without a memory is asked for nothing.
            rows: int64 [n].
            seen: By name [n, K, ...]: what was seen before each step.
            real: bool [n, K]: what is a step, in the order of time.

        Raises:
            ValueError: If the rows hold the memory of another net.
        """
        if not agent.memory_size or not real.any():
            return
        kept, size = self._kept, agent.memory_size
        memory = kept.memory
        if memory is None:
            memory = np.zeros((len(kept.num_executed), size), np.float32)
            self._kept = replace(kept, memory=memory)
        if memory.shape[1] != size:
            raise ValueError(
                f"these episodes are remembered in {memory.shape[1]} numbers, and the net has "
                f"{size}; play them from their beginning, or with the net that began them "
                "(memory_type)."
            )
        used = np.flatnonzero(real.any(1))
        slots = slice(int(np.flatnonzero(real.any(0))[-1]) + 1)
        steps = {key: seen[key][used, slots] for key in agent.observation_keys}
        memory[rows[used]] = agent.remember(steps, real[used, slots], memory[rows[used]])

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as named arrays; no memory where there is none."""
        kept = self._kept
        memory = {} if kept.memory is None else {"memory": kept.memory.copy()}
        return {
            "executed": kept.executed.copy(),
            "num_executed": kept.num_executed.copy(),
            "previous": kept.previous.copy(),
            "confidence": kept.confidence.copy(),
            **memory,
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on with what `state` gave.

        Raises:
            ValueError: If its memory is not one row of float32 numbers per episode.
        """
        memory = state.get("memory")
        rows = len(state["num_executed"])
        if memory is not None and (
            memory.dtype != np.float32 or memory.ndim != 2 or len(memory) != rows
        ):
            raise ValueError(
                f"the memory of {rows} episodes must be float32 of shape [{rows}, size], got "
                f"{memory.dtype} of shape {list(memory.shape)}"
            )
        self._kept = Continuation(**{name: array.copy() for name, array in state.items()})


def shifted(values: np.ndarray, by: np.ndarray, fill: float) -> np.ndarray:
    """Each row moved to the left, with `fill` behind it.

    Args:
        values: [N, W].
        by: int64 [N], at least 0.
        fill: What comes in from the right.
    """
    source = np.arange(values.shape[1]) + by[:, None]
    inside = source < values.shape[1]
    moved = np.take_along_axis(values, np.where(inside, source, 0), 1)
    return np.where(inside, moved, values.dtype.type(fill))
