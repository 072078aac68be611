"""Training of a decision transformer on pieces of demonstrations."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import gin
import numpy as np
import torch
import torch.nn.functional as F

from remdm.baselines.decision_transformer import DecisionTransformer, SequenceActor
from remdm.baselines.demonstration_set import DemonstrationSet, Episodes
from remdm.baselines.learner import Learner, Task
from remdm.baselines.supervised import SupervisedTraining, check_numbers, demonstrations_of
from remdm.baselines.watch import Watch
from remdm.seeding import numpy_generator

WON, LOST = 1.0, 0.0  # return of an episode, from each of its steps on


class Pieces(NamedTuple):
    """Steps in a row of one episode each.

    Attributes:
        episodes: int64 [P].
        first: int64 [P]: steps of the episode before the piece.
        lengths: int64 [P].
    """

    episodes: np.ndarray
    first: np.ndarray
    lengths: np.ndarray

    def of(self, chosen: np.ndarray) -> "Pieces":
        """Some of them."""
        return Pieces(self.episodes[chosen], self.first[chosen], self.lengths[chosen])


def pieces_of(episodes: Episodes, context_len: int, rng: np.random.Generator) -> Pieces:
    """Cut every episode into pieces of at most `context_len` steps, each step in one piece.

    Episodes that fit stay whole: in play, what is looked at begins with the episode as well. The
    others are cut at places drawn anew.
    """
    found = []
    for number, length in enumerate(episodes.lengths.tolist()):
        begin = int(rng.integers(context_len)) if length > context_len else 0
        cuts = [0, *range(begin or context_len, length, context_len), length]
        found += [(number, a, b - a) for a, b in itertools.pairwise(cuts) if b > a]
    columns = np.array(found, np.int64).T
    return Pieces(*columns)


def batches_of(
    episodes: Episodes, context_len: int, batch_size: int, updates: int, seed: int
) -> Iterator[Pieces]:
    """Batches of pieces, cut and shuffled anew in every epoch, `updates` of them in all."""
    done, epoch = 0, 0
    while done < updates:
        rng = numpy_generator(seed, "sequences", epoch)
        pieces = pieces_of(episodes, context_len, rng)
        order = rng.permutation(len(pieces.first))
        for start in range(0, len(order), batch_size):
            if done < updates:
                yield pieces.of(order[start : start + batch_size])
            done += 1
        epoch += 1


@gin.configurable(module="remdm", denylist=["task"])
class SequenceModelling(Learner):
    """Learns what was done on the way to a win, and to a loss, from the same demonstrations."""

    def __init__(
        self,
        task: Task,
        *,
        epochs: float = 50,
        updates: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        grad_clip: float = 1.0,
        target_return: float = WON,
    ) -> None:
        """Args:
        task: What to learn.
        epochs: How often each step is drawn.
        updates: Instead of `epochs`: updates of the weights.
        batch_size: Pieces of at most `DecisionTransformer.context_len` steps per update.
        learning_rate: Of AdamW, at first; a cosine leads to zero.
        grad_clip: Largest norm of the gradient.
        target_return: The return that is asked for in play; 1 is a win.

        Raises:
            ValueError: If a number is not above 0.
        """
        check_numbers(
            "SequenceModelling",
            epochs=epochs,
            updates=updates,
            batch_size=batch_size,
            learning_rate=learning_rate,
            grad_clip=grad_clip,
        )
        self.task, self.epochs, self.updates = task, epochs, updates
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.grad_clip, self.target_return = grad_clip, target_return
        self.module = DecisionTransformer(task.features(), task.kind.num_actions).to(task.device)

    @property
    def model(self) -> DecisionTransformer:
        """The net."""
        return cast("DecisionTransformer", self.module)

    def actor(self, generator: torch.Generator, *, greedy: bool, name: str) -> SequenceActor:
        """See `Learner.actor`."""
        return SequenceActor(
            self.model,
            self.target_return,
            self.task.kind.action_names,
            self.task.features_type.keys,
            generator,
            greedy=greedy,
            name=name,
        )

    def train(self, watch: Watch) -> bool:
        """See `Learner.train`."""
        found = demonstrations_of(self.task, watch.stop, keep_lost=True)
        if found is None:
            return False
        context, lengths = self.model.context_len, found.episodes.lengths
        per_epoch = int(np.ceil(lengths / context).sum()) / self.batch_size
        total = self.updates or math.ceil(self.epochs * per_epoch)
        batches = batches_of(
            found.episodes, context, self.batch_size, total, self.task.settings.seed
        )
        training = SupervisedTraining(self.module, self.learning_rate, self.grad_clip, total)
        return training.run(
            watch, found.env_steps, batches, lambda pieces: self.loss(found, pieces)
        )

    def loss(self, found: DemonstrationSet, pieces: Pieces) -> torch.Tensor:
        """Mean cross-entropy over all steps of some pieces."""
        model, device = self.model.train(), self.task.device
        count, longest = len(pieces.first), int(pieces.lengths.max())
        valid = np.arange(longest) < pieces.lengths[:, None]
        begin = found.episodes.starts[pieces.episodes] + pieces.first
        steps = (begin[:, None] + np.arange(longest))[valid]
        arrays = found.observations(steps, self.task.features_type.keys)
        seen = model.encode({k: torch.from_numpy(v).to(device) for k, v in arrays.items()})
        mask = torch.from_numpy(valid).to(device)
        # Where nothing was, after the end of a piece, nothing looks.
        states = torch.zeros(count, longest, model.width, device=device)
        states = states.masked_scatter(mask[:, :, None], seen)
        done = torch.from_numpy(found.actions[steps]).to(device)
        actions = torch.zeros(count, longest, dtype=torch.int64, device=device)
        actions[mask] = done
        returns = np.where(found.episodes.won[pieces.episodes], WON, LOST).astype(np.float32)
        wanted = torch.from_numpy(returns).to(device)[:, None].expand(-1, longest)
        first = torch.from_numpy(pieces.first).to(device)
        return F.cross_entropy(model(states, actions, wanted, first)[mask], done)
