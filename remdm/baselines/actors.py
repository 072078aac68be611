"""Baselines as the policies that are measured: one action, or one with its direction, per plan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remdm.baselines.vec_env import asking_actions
from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.policies import Plans
from remdm.tokens import end_token

Arrays = dict[str, np.ndarray]


def draw(log_probs: Tensor, generator: torch.Generator, *, greedy: bool) -> np.ndarray:
    """Actions int64 [n] by log probabilities [n, num_actions]; not normalised is fine."""
    if greedy:
        return log_probs.argmax(-1).cpu().numpy()
    probabilities = log_probs.double().softmax(-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].numpy()


class OneActionActor:
    """What the actors have in common. A subclass says how likely each action is.

    An action that waits for a direction makes the actor look at the same observation once more,
    as in training, and the two go into one plan.
    """

    replan_every = 1

    def __init__(
        self,
        action_names: Sequence[str],
        keys: Sequence[str],
        generator: torch.Generator,
        *,
        greedy: bool,
        name: str,
    ) -> None:
        """Args:
        action_names: One name per action.
        keys: Arrays of an observation that are read.
        generator: Draws the actions.
        greedy: Take the likeliest action instead.
        name: For tables.
        """
        self.name, self.keys, self.generator, self.greedy = name, tuple(keys), generator, greedy
        self._asks, self._end = asking_actions(action_names), end_token(len(action_names))

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        """See `Policy.accompany`."""
        return vec_env

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`."""

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """See `Policy.ran`."""

    def log_probs(self, observations: Arrays, rows: np.ndarray) -> Tensor:
        """Log probabilities [n, num_actions] of the next action in `rows`."""
        raise NotImplementedError

    def log_probs_after(self, asked: np.ndarray, observations: Arrays, rows: np.ndarray) -> Tensor:
        """The same once the action `asked` int64 [n] waits for a direction."""
        return self.log_probs(observations, rows)

    @torch.inference_mode()
    def plan(self, observations: Arrays, rows: np.ndarray) -> Plans:
        """See `Policy.plan`."""
        seen = {key: observations[key] for key in self.keys}
        tokens = np.full((len(rows), 2), self._end, np.int64)
        tokens[:, 0] = self._draw(self.log_probs(seen, rows))
        calls = np.ones(len(rows))
        asking = np.flatnonzero(self._asks[tokens[:, 0]])
        if len(asking):
            again = {key: array[asking] for key, array in seen.items()}
            answers = self.log_probs_after(tokens[asking, 0], again, rows[asking])
            tokens[asking, 1] = self._draw(answers)
            calls[asking] = 2
        return Plans(tokens, calls)

    def _draw(self, log_probs: Tensor) -> np.ndarray:
        return draw(log_probs, self.generator, greedy=self.greedy)


class PolicyActor(OneActionActor):
    """Acts by a policy of SB3."""

    def __init__(
        self,
        policy: Any,
        action_names: Sequence[str],
        keys: Sequence[str],
        generator: torch.Generator,
        *,
        greedy: bool,
        name: str,
    ) -> None:
        """Args:
        policy: Of the kind that the subclass is for.
        action_names: One name per action.
        keys: Arrays of an observation that are read.
        generator: Draws the actions.
        greedy: Take the likeliest action instead.
        name: For tables.
        """
        super().__init__(action_names, keys, generator, greedy=greedy, name=name)
        self.policy = policy

    def tensors(self, observations: Arrays) -> dict[str, Tensor]:
        """Observations on the device of the policy, which will not drop out anything."""
        self.policy.set_training_mode(False)
        found: dict[str, Tensor] = self.policy.obs_to_tensor(observations)[0]
        return found


class ActorCriticActor(PolicyActor):
    """PPO, A2C and behaviour cloning."""

    def log_probs(self, observations: Arrays, rows: np.ndarray) -> Tensor:
        """See `OneActionActor.log_probs`."""
        logits: Tensor = self.policy.get_distribution(
            self.tensors(observations)
        ).distribution.logits
        return logits


class QActor(PolicyActor):
    """DQN: the action of most value, or with a small chance any.

    Attributes:
        epsilon: That chance.
    """

    epsilon: float = 0.05  # what DQN explores with at the end

    def log_probs(self, observations: Arrays, rows: np.ndarray) -> Tensor:
        """See `OneActionActor.log_probs`."""
        values: Tensor = self.policy.q_net(self.tensors(observations))
        chance = torch.full_like(values, self.epsilon / values.shape[1])
        best = values.argmax(1, keepdim=True)
        return chance.scatter_add(1, best, chance.new_full(best.shape, 1 - self.epsilon)).log()


class RecurrentActor(PolicyActor):
    """PPO with an LSTM, whose state belongs to an episode."""

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`."""
        layers, _, width = self.policy.lstm_hidden_state_shape
        blank = torch.zeros(2, layers, width, device=self.policy.device)
        self._states |= dict.fromkeys(rows.tolist(), blank)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """See `PolicyActor`."""
        super().__init__(*arguments, **named)
        self._states: dict[int, Tensor] = {}  # hidden and cell state [2, layers, width] by row

    def log_probs(self, observations: Arrays, rows: np.ndarray) -> Tensor:
        """See `OneActionActor.log_probs`."""
        tensors = self.tensors(observations)
        before = torch.stack([self._states[row] for row in rows.tolist()], 2)
        # A new episode begins with a state of zeros: nothing has to be put back.
        begun = torch.zeros(len(rows), device=self.policy.device)
        distribution, after = self.policy.get_distribution(tensors, tuple(before), begun)
        self._states |= dict(zip(rows.tolist(), torch.stack(after).unbind(2), strict=True))
        logits: Tensor = distribution.distribution.logits
        return logits
