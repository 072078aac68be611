"""What every agent is: a loss to learn by, and a plan for an observation."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from remdm.continuation import Continuation
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample
from remdm.maps import HISTORY_PREFIX
from remdm.nets.autocast import InferencePrecision
from remdm.nets.denoiser import Context, Denoiser
from remdm.nets.memory import lone_steps
from remdm.nets.threads import on_one_thread
from remdm.outputs import Outputs
from remdm.planning_constraints import allowed_first_actions, total_heat
from remdm.stretch import Stretch

Observations = dict[str, np.ndarray] | dict[str, Tensor]


class BaseAgent(nn.Module, ABC):
    """A network that learns from labelled observations and plans for new ones.

    Attributes:
        plan_horizon: Tokens per plan.
        replan_every: Actions of a plan that are executed before the next plan is made.
        replan_every_collect: The same while training data is collected; `replan_every` when None.
        num_actions: Size of the action set.
        observation_keys: Names of the observation arrays that `plan` and `loss` read.
        label_keys: Names of further arrays that only `loss` reads.
        history: Steps that arrays `history/...` among `observation_keys` look back; 0 without any.
        past_actions: Actions before the observation that `loss` wants in a batch.
        action_constraints: Whether plans keep to `planning_constraints.allowed_first_actions`.
        loop_breaker: Whether `plan` wants `repeats`.
        reads_continuation: Whether `plan` wants `continuation`.
        collecting_heat: Factor on the temperature of plans for collecting; whoever explores by it
            sets it.
    """

    plan_horizon: int
    replan_every: int
    replan_every_collect: int | None = None
    num_actions: int
    observation_keys: tuple[str, ...]
    label_keys: tuple[str, ...] = ()
    history: int = 0
    past_actions: int = 0
    action_constraints: bool = False
    loop_breaker: bool = False
    reads_continuation: bool = False
    collecting_heat: float = 1.0

    @property
    def memory_size(self) -> int:
        """Numbers that it remembers of an episode, in `Continuation.memory`; 0 for none."""
        return 0

    def remember(
        self, observations: dict[str, np.ndarray], real: np.ndarray, memory: np.ndarray | None
    ) -> np.ndarray:
        """Take in steps of N episodes that have been executed.

        What is seen now is no such step before it has been acted on: `plan` adds it by itself.

        Args:
            observations: By name [N, K, ...]: what was seen before each step.
            real: bool [N, K]: what is a step, in the order of time.
            memory: float32 [N, memory_size], of the moment before; None where episodes begin.

        Returns:
            float32 [N, memory_size].

        Raises:
            ValueError: If an array is missing.
        """
        return np.zeros((len(real), 0), np.float32)

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What training minimises.

        Args:
            batch: Labelled observations on this module's device.
            generator: Source of randomness.

        Returns:
            A scalar, and detached scalars to log.
        """

    @abstractmethod
    def plan(
        self,
        observations: Observations,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        collecting: bool = False,
        repeats: np.ndarray | None = None,
        continuation: Continuation | None = None,
    ) -> PlanSample:
        """Write a plan for each of N observations.

        Args:
            observations: By name [N, ...]; arrays that are not read may be missing.
            generator: Source of randomness; each row gets a stream of its own.
            greedy: Take the most likely tokens instead of drawing them.
            collecting: The plan is for collecting training data, not for playing.
            repeats: int64 [N]: plans already made in the same state, from
                `remdm.planning_constraints.PlanMemory.count`; read only by a loop breaker.
            continuation: What the N episodes carry from plan to plan, from
                `remdm.continuation.RunningPlans`; given only to agents that read it. None where
                every episode begins.

        Returns:
            N plans on this module's device; position 0 is the next action.
        """

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, so that wrappers of a module's call (precision, processes) see it."""
        return self.loss(batch, generator)

    def heat(self, repeats: np.ndarray | None, first: Tensor, *, collecting: bool) -> Tensor | None:
        """Factor on the temperature of plans, beside `first` [N, ...]; see `total_heat`."""
        more = self.collecting_heat if collecting else 1.0
        return total_heat(repeats if self.loop_breaker else None, more, first)

    def first_token_mask(self, observations: Observations, device: torch.device) -> Tensor | None:
        """Classes allowed first, bool [N, num_actions + 1]; None without constraints."""
        if not self.action_constraints:
            return None
        arrays = {key: np.asarray(value) for key, value in observations.items()}
        allowed = allowed_first_actions(arrays)
        end = np.ones((len(allowed), 1), np.bool_)
        return torch.from_numpy(np.concatenate([allowed, end], 1)).to(device)

    def on_device(self, observations: Observations) -> dict[str, Tensor]:
        """The arrays this agent reads, as tensors beside its parameters.

        Raises:
            ValueError: If one is missing.
        """
        missing = [key for key in self.observation_keys if key not in observations]
        if missing:
            raise ValueError(
                f"{type(self).__name__} reads {', '.join(self.observation_keys)}; the observation "
                f"lacks {', '.join(missing)}. Choose another DiffusionPlannerAgent.denoiser_type."
            )
        device = next(self.parameters()).device
        return {key: as_tensor(observations[key]).to(device) for key in self.observation_keys}


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A call of `BaseAgent.plan`, made ready for a network.

    Attributes:
        observations: As they were handed in, [N, ...], in the computer's own memory; more than the
            network reads.
        tensors: What the network reads, on its device.
        count: Number of plans N.
        device: Where the network is.
        precision: Of the network's calls.
        heat: float32 [N, 1, 1]: factor on the temperature, or None.
        first_token_mask: bool [N, num_actions + 1]: classes allowed first, or None.
        greedy: See `BaseAgent.plan`.
        collecting: See `BaseAgent.plan`.
        continuation: See `BaseAgent.plan`.
        memory: Its memory, on the network's device; None for nothing.
    """

    observations: Observations
    tensors: dict[str, Tensor]
    count: int
    device: torch.device
    precision: InferencePrecision
    heat: Tensor | None
    first_token_mask: Tensor | None
    greedy: bool
    collecting: bool
    continuation: Continuation | None
    memory: Tensor | None = None

    def part(self, rows: Tensor) -> "PlanRequest":
        """The same request for some of the plans only.

        Args:
            rows: int64 [n]: which of them.
        """
        index = rows.cpu().numpy()
        return replace(
            self,
            observations={k: as_tensor(v)[rows.cpu()] for k, v in self.observations.items()},
            tensors={k: v[rows] for k, v in self.tensors.items()},
            count=len(index),
            heat=None if self.heat is None else self.heat[rows],
            first_token_mask=None if self.first_token_mask is None else self.first_token_mask[rows],
            continuation=None if self.continuation is None else self.continuation[index],
            memory=None if self.memory is None else self.memory[rows],
        )


class DenoiserAgent(BaseAgent):
    """An agent whose network is a `Denoiser`; subclasses say how it writes plans.

    Attributes:
        denoiser: The network.
        autocast_inference: Precision of planning; see `InferencePrecision`.
    """

    denoiser: Denoiser
    autocast_inference: str

    @abstractmethod
    def outputs(self, batch: Batch, generator: torch.Generator) -> Outputs:
        """Ask the network about the labels of a batch; see `BaseAgent.loss`."""

    @abstractmethod
    def token_loss(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """What the answers cost, a scalar, and detached scalars to log."""

    @property
    def memory_size(self) -> int:
        """See `BaseAgent.memory_size`."""
        return self.denoiser.memory_size

    def encode_batch(
        self, observations: dict[str, Tensor], batch: Batch
    ) -> tuple[Context, Tensor | None]:
        """The encoding of a batch, and the memory that it began with; that moves on.

        Args:
            observations: Of the batch, as the network reads them.
            batch: With a stretch, its states are steps of rows, and `batch.memory` is read and
                written. Without one, every state is the first of an episode.
        """
        if batch.stretch is None:
            return self.denoiser.encode(observations), None
        before = None if batch.memory is None else batch.memory.state
        context, after = self.denoiser.encode_stretch(observations, batch.stretch, before)
        if batch.memory is not None and after is not None:
            batch.memory.state = after.detach()
        return context, before

    def encode_again(self, outputs: Outputs) -> Context:
        """This agent's encoding of what another one was asked about, from the same memory."""
        if outputs.stretch is None:
            return self.denoiser.encode(outputs.observations)
        seen, stretch, before = outputs.observations, outputs.stretch, outputs.memory
        return self.denoiser.encode_stretch(seen, stretch, before)[0]

    def encode_now(self, request: "PlanRequest", seen: dict[str, Tensor]) -> Context:
        """The encoding of the states that plans are asked for, with what is remembered of before.

        Args:
            request: Says what is remembered, and the precision.
            seen: As the network reads them, [N, ...].
        """
        with request.precision.encoding():
            if not self.memory_size:
                return self.denoiser.encode(seen)
            now = lone_steps(request.count, request.device)
            return self.denoiser.encode_stretch(seen, now, request.memory)[0]

    @on_one_thread
    @torch.inference_mode()
    def remember(
        self, observations: dict[str, np.ndarray], real: np.ndarray, memory: np.ndarray | None
    ) -> np.ndarray:
        """See `BaseAgent.remember`."""
        if not self.memory_size:
            return super().remember(observations, real, memory)
        steps = self.on_device({k: v.reshape(-1, *v.shape[2:]) for k, v in observations.items()})
        device = next(self.parameters()).device
        happened = torch.from_numpy(real).to(device)
        stretch = Stretch(torch.zeros_like(happened), happened)
        before = None if memory is None else torch.from_numpy(memory).to(device)
        with InferencePrecision(self.autocast_inference, device).encoding():
            after = self.denoiser.remember(steps, stretch, before)
        assert after is not None
        return after.cpu().numpy()

    def answer(self, outputs: Outputs) -> Tensor:
        """What this agent's network says to the same questions, of the shape of the logits."""
        context = self.encode_again(outputs)
        logits = self.denoiser.denoise(context, outputs.tokens, outputs.time)
        return logits[..., : outputs.logits.shape[-1]].reshape(outputs.logits.shape)

    def own_loss(self, batch: Batch, outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """`token_loss`, and what the network learns beside it; as `BaseAgent.loss` returns it."""
        loss, metrics = self.token_loss(batch, outputs)
        others = self.denoiser.auxiliary_loss(
            outputs.context, outputs.observations, batch.plans, batch.weights, batch.ranks
        )
        for name, value in others.items():
            loss = loss + value
            metrics[name] = value.detach()
        return loss, metrics

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See `BaseAgent.loss`; `remdm.training.objectives` puts other losses beside it."""
        return self.own_loss(batch, self.outputs(batch, generator))

    @on_one_thread
    @torch.inference_mode()
    def plan(
        self,
        observations: Observations,
        generator: torch.Generator,
        *,
        greedy: bool = False,
        collecting: bool = False,
        repeats: np.ndarray | None = None,
        continuation: Continuation | None = None,
    ) -> PlanSample:
        """See `BaseAgent.plan`.

        Raises:
            ValueError: If an array is missing, or the network's answers are not finite.
        """
        tensors = self.on_device(observations)
        first = tensors[self.observation_keys[0]]
        observations = on_host(observations)
        memory = None if continuation is None else continuation.memory
        request = PlanRequest(
            observations=observations,
            tensors=tensors,
            count=len(first),
            device=first.device,
            precision=InferencePrecision(self.autocast_inference, first.device),
            heat=self.heat(repeats, first, collecting=collecting),
            first_token_mask=self.first_token_mask(observations, first.device),
            greedy=greedy,
            collecting=collecting,
            continuation=continuation,
            memory=None if memory is None else torch.from_numpy(memory).to(first.device),
        )
        return self.write_plans(request, generator)

    @abstractmethod
    def write_plans(self, request: PlanRequest, generator: torch.Generator) -> PlanSample:
        """The plans that were asked for; called in inference mode, on one thread."""


def as_tensor(value: np.ndarray | Tensor) -> Tensor:
    """An array that environments or data hand out, as a tensor."""
    if isinstance(value, Tensor):
        return value
    # torch cannot wrap read-only or negatively strided memory.
    if not value.flags.writeable or not value.flags.c_contiguous:
        value = value.copy()
    return torch.from_numpy(value)


def on_host(observations: Observations) -> Observations:
    """Arrays that NumPy can read, wherever they were."""
    tensors = {k: v.cpu() for k, v in observations.items() if isinstance(v, Tensor)}
    return tensors or observations


def check_replan_every(agent: str, replan_every: int, plan_horizon: int) -> None:
    """Raise ValueError unless 1 <= replan_every <= plan_horizon."""
    if not 1 <= replan_every <= plan_horizon:
        raise ValueError(
            f"replan_every must be in 1..plan_horizon={plan_horizon}, got {replan_every}; "
            f"set {agent}.replan_every lower or {agent}.plan_horizon higher."
        )


def check_history(agent: str, history: int) -> None:
    """Raise ValueError unless history >= 0."""
    if history < 0:
        raise ValueError(f"history must be at least 0, got {history}; set {agent}.history.")


def history_read(agent: str, history: int, observation_keys: tuple[str, ...]) -> int:
    """`history`, if the net reads it.

    Raises:
        ValueError: If there is to be a history and the net reads none.
    """
    if history and not any(key.startswith(HISTORY_PREFIX) for key in observation_keys):
        raise ValueError(
            f"the net reads no history, and {history} earlier steps were asked for; set "
            f"{agent}.history = 0, or {agent}.denoiser_type = @TileDenoiser."
        )
    return history
