"""What training minimises: a list of objectives, each of which is one small object or function.

    Experiment.objectives = (@OwnLoss, (@smoothness, 0.1))

An objective is called with the batch, what the network said (`remdm.outputs.Outputs`), the agent
and the number of the update. It returns scalars by name: `loss` is added to the sum, times the
objective's weight; all others are only logged, under the objective's own name. The agent's own
loss is one of the list like others. Example 06 has an objective of its own.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gin
import torch
from torch import Tensor, nn

from remdm.base_agent import BaseAgent, DenoiserAgent
from remdm.data.batch import Batch
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.outputs import Outputs
from remdm.ranks import weighted_mean

if TYPE_CHECKING:
    from remdm.training.trainer import AgentTrainer

Found = Mapping[str, Tensor]
Weight = float | Callable[[int], float]
Called = Callable[[Batch, Outputs, DenoiserAgent, int], Found]


class Objective(ABC):
    """An objective with a memory or with hooks; a plain function of the same arguments is one, too.

    Attributes:
        name: What its metrics are logged under; "" for the agent's own names.
    """

    name: str

    def attach(self, trainer: "AgentTrainer") -> None:
        """Get to know what is trained, once, before the first update."""

    def before_step(self, batch: Batch, agent: DenoiserAgent, step: int) -> None:
        """What is to be done before the network reads a batch."""

    @abstractmethod
    def __call__(self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> Found:
        """Score a batch.

        Args:
            batch: Labelled observations, on the agent's device.
            outputs: What the network said.
            agent: What is trained.
            step: Updates of the weights so far.

        Returns:
            Scalars; the mean over processes of each must be that of the whole batch, which
            `weighted_mean` sees to. `loss` has a gradient, and is missing where nothing is added.
        """


@gin.configurable(module="remdm")
class OwnLoss(Objective):
    """The loss that the agent brings along: of masked diffusion, of its twin, or of the head."""

    name = ""

    def __call__(self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> Found:
        """See `Objective.__call__`."""
        loss, metrics = agent.own_loss(batch, outputs)
        return {"loss": loss, **metrics}


@gin.configurable(module="remdm")
class CloningLoss(Objective):
    """Mean of -log p(right token), every real token alike, whatever the agent's own weighting.

    Of a planner by diffusion the tokens are those that were hidden, given the ones that were not.
    """

    name = "cloning"

    def __call__(self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> Found:
        """See `Objective.__call__`."""
        weights = outputs.weights(batch)
        index = outputs.classes.clamp(max=outputs.logits.shape[-1] - 1)
        index = index.expand(weights.shape)[..., None]
        nats = -outputs.logits.float().log_softmax(-1).gather(-1, index)[..., 0]
        right = (outputs.logits.argmax(-1) == outputs.classes).float()
        return {
            "loss": weighted_mean(nats, weights, batch.ranks),
            "accuracy": weighted_mean(right, (weights > 0).float(), batch.ranks),
        }


class KL(Objective):
    """KL(reference || agent) at the real tokens, in nats: what the reference believes is kept.

    Subclasses say whose answers are the reference: `self.reference`, an agent of the same kind.
    """

    reference: DenoiserAgent

    def __call__(self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> Found:
        """See `Objective.__call__`."""
        with torch.no_grad():
            wanted = self.reference.answer(outputs).float().log_softmax(-1)
        law = wanted.exp()
        found = outputs.logits.float().log_softmax(-1)
        nats = torch.where(law > 0, law * (wanted - found), 0.0).sum(-1)
        return {"loss": weighted_mean(nats, outputs.weights(batch), batch.ranks)}


@gin.configurable(module="remdm")
class KLToAverage(KL):
    """`KL` to the moving average of the weights: damps how fast answers change."""

    name = "kl_to_average"

    def attach(self, trainer: "AgentTrainer") -> None:
        """See `Objective.attach`."""
        self.trainer = trainer
        self.reference = _frozen(trainer)

    def before_step(self, batch: Batch, agent: DenoiserAgent, step: int) -> None:
        """Take over the average of now."""
        self.trainer.ema.copy_to(self.reference)
        for own, trained in zip(self.reference.buffers(), agent.buffers(), strict=True):
            own.copy_(trained)


@gin.configurable(module="remdm")
class KLToTeacher(KL):
    """`KL` to the weights of another run, of an agent with the same network."""

    name = "kl_to_teacher"

    def __init__(self, *, checkpoint: str | None = None) -> None:
        """Args:
        checkpoint: A run folder, or a checkpoint in it.

        Raises:
            ValueError: If there is none.
        """
        if checkpoint is None:
            raise ValueError("KLToTeacher needs a teacher; set KLToTeacher.checkpoint to a run.")
        self.checkpoint = checkpoint

    def attach(self, trainer: "AgentTrainer") -> None:
        """Load the teacher.

        Raises:
            CheckpointError: If there is no such checkpoint, or its network is another one.
        """
        from remdm.training.checkpoint import load_into, load_weights
        from remdm.training.run_folder import find_checkpoint
        from remdm.training.trainer import weights_file

        self.reference = _frozen(trainer)
        _, folder = find_checkpoint(Path(self.checkpoint))
        path = folder / weights_file(trainer.name, averaged=True)
        load_into(self.reference, load_weights(path), path)


@gin.configurable(module="remdm")
class GoalLoss(Objective):
    """Squared error of where `DualStreamDenoiser` guesses the stairs, where they are in view.

    That net has it in its own loss, too, with weight `DualStreamDenoiser.goal_loss_weight`; set
    that to 0 to have it here, with a schedule or a name of its own.
    """

    name = "goal"

    def __call__(self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> Found:
        """See `Objective.__call__`.

        Raises:
            ValueError: If the network guesses nothing.
        """
        net = agent.denoiser
        if not isinstance(net, DualStreamDenoiser) or net.global_stream is None:
            raise ValueError(
                "GoalLoss scores the goal head of a DualStreamDenoiser with a global stream, and "
                f"this is {type(net).__name__}; take GoalLoss out of Experiment.objectives."
            )
        return {"loss": net.goal_error(outputs.context, outputs.observations, batch.ranks)}


def _frozen(trainer: "AgentTrainer") -> DenoiserAgent:
    """A copy that only answers."""
    agent = trainer.agent
    assert isinstance(agent, DenoiserAgent)
    return copy.deepcopy(agent).eval().requires_grad_(False)


class Objectives(nn.Module):
    """An agent and its objectives, to be called as the agent itself: a batch, and the sum.

    Attributes:
        agent: What is trained; its parameters are this module's own.
        step: Updates so far; the trainer counts.
    """

    def __init__(self, agent: BaseAgent, entries: Sequence[Any]) -> None:
        """Args:
            agent: What is trained.
            entries: Objectives, or pairs of an objective and its weight: a number, or a function
                of the update as in `remdm.training.schedules`. An objective is a class, which is
                made here, an object, or a function.

        Raises:
            ValueError: If there is none, two have the same name, or the agent has nothing to show
                them.
        """
        super().__init__()
        if not isinstance(agent, DenoiserAgent):
            raise ValueError(
                f"objectives read what a network says of its tokens, and {type(agent).__name__} "
                "only has a loss; derive it from DenoiserAgent or set Experiment.objectives = None."
            )
        if not entries:
            raise ValueError(
                "there must be an objective; set Experiment.objectives = (@OwnLoss,) or None."
            )
        self.agent = agent
        self.step = 0
        self.parts: dict[str, tuple[Called, Weight]] = {}
        for objective, weight in (_pair(entry) for entry in entries):
            name = _name(objective)
            if name in self.parts:
                raise ValueError(
                    f"two objectives are called {name or _kind(objective)!r}, and so would be "
                    "their metrics; give one "
                    "another `name`, or take it out of Experiment.objectives."
                )
            self.parts[name] = objective, weight

    def attach(self, trainer: "AgentTrainer") -> None:
        """Show every objective what is trained."""
        for objective, _ in self.parts.values():
            if isinstance(objective, Objective):
                objective.attach(trainer)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses, and detached scalars to log.

        Raises:
            ValueError: If no objective has a loss.
        """
        for objective, _ in self.parts.values():
            if isinstance(objective, Objective):
                objective.before_step(batch, self.agent, self.step)
        outputs = self.agent.outputs(batch, generator)
        losses: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for name, (objective, weight) in self.parts.items():
            found = dict(objective(batch, outputs, self.agent, self.step))
            factor = weight(self.step) if callable(weight) else weight
            if "loss" in found:
                losses.append(factor * found["loss"])
            if not name:
                found.pop("loss", None)
            elif callable(weight):
                found["weight"] = torch.tensor(factor)
            prefix = f"{name}/" if name else ""
            metrics |= {f"{prefix}{key}": value.detach() for key, value in found.items()}
        if not losses:
            raise ValueError(
                f"one of {', '.join(map(repr, self.parts))} must return a 'loss'; see "
                "Experiment.objectives."
            )
        return torch.stack(losses).sum(), metrics


def _pair(entry: Any) -> tuple[Called, Weight]:
    """An objective, made if it is a class, and its weight."""
    objective, weight = entry if isinstance(entry, (tuple, list)) else (entry, 1.0)
    if isinstance(objective, type):
        objective = objective()
    if not callable(objective) or not (callable(weight) or isinstance(weight, (int, float))):
        raise ValueError(
            f"an objective is @Name or (@Name, weight), got {entry!r}; set Experiment.objectives."
        )
    return objective, weight


def _name(objective: Called) -> str:
    named = getattr(objective, "name", None)
    return _kind(objective) if named is None else str(named)


def _kind(objective: Called) -> str:
    """What it is called in code."""
    return str(getattr(objective, "__name__", type(objective).__name__))
