"""A decision transformer: actions from the return that is wanted, and what was seen and done.

Three tokens stand for a step, in this order: the return from here on, what is seen, the action.
The action of a step is read off at its second token, which sees everything before it and the
actions of earlier steps only. It is built in the same way for training and for play: in play the
last action is yet to come, and its token stands where nothing looks.
"""

from collections.abc import Sequence

import gin
import numpy as np
import torch
from torch import Tensor, nn

from remdm.baselines.actors import Arrays, OneActionActor
from remdm.baselines.features import MapFeatures

TOKENS = 3  # of a step
_RETURN, _STATE, _ACTION = range(TOKENS)
_SPREAD = 0.02  # of initial weights


@gin.configurable(module="remdm", denylist=["features", "num_actions"])
class DecisionTransformer(nn.Module):
    """The net.

    Attributes:
        context_len: Steps that it looks at, the present one among them.
        width: Channels of a token.
    """

    def __init__(
        self,
        features: MapFeatures,
        num_actions: int,
        *,
        context_len: int = 64,
        width: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        max_steps: int = 1024,
    ) -> None:
        """Args:
        features: Encodes observations.
        num_actions: Size of the action set.
        context_len: Steps that it looks at, the present one among them.
        width: Channels of a token.
        num_layers: Transformer layers.
        num_heads: Attention heads; must divide `width`.
        dropout: Share of channels that training leaves out.
        max_steps: Steps of an episode that are told apart; later ones count as the last.

        Raises:
            ValueError: If a size makes no sense.
        """
        super().__init__()
        if context_len < 1 or max_steps < 1 or width % num_heads:
            raise ValueError(
                "context_len and max_steps must be at least 1 and num_heads must divide width, got "
                f"{context_len}, {max_steps}, {num_heads} and {width}; set "
                "DecisionTransformer.context_len and its like."
            )
        self.context_len, self.width, self.num_actions = context_len, width, num_actions
        self.max_steps = max_steps
        self.features = features
        self.states = nn.Linear(features.features_dim, width)
        self.returns = nn.Linear(1, width)
        self.actions = nn.Embedding(num_actions, width)
        self.steps = nn.Embedding(max_steps, width)
        self.kinds = nn.Parameter(torch.randn(TOKENS, width) * _SPREAD)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, num_actions)
        for module in (self.states, self.returns, self.actions, self.steps, self.head):
            nn.init.normal_(module.weight, std=_SPREAD)

    def encode(self, observations: dict[str, Tensor]) -> Tensor:
        """States float32 [n, width] of observations."""
        states: Tensor = self.states(self.features(observations))
        return states

    def forward(self, states: Tensor, actions: Tensor, returns: Tensor, first: Tensor) -> Tensor:
        """Logits of the action of every step.

        Args:
            states: float32 [B, K, width], of `encode`; K at most `context_len`.
            actions: int64 [B, K]; that of the last step is never looked at.
            returns: float32 [B, K]: what is to come, from each step on.
            first: int64 [B]: steps of the episode before the first of these.

        Returns:
            float32 [B, K, num_actions].
        """
        batch, count, width = states.shape
        at = (first[:, None] + torch.arange(count, device=first.device)).clamp(
            max=self.max_steps - 1
        )
        parts = torch.stack([self.returns(returns[..., None]), states, self.actions(actions)], 2)
        tokens = parts + self.kinds + self.steps(at)[:, :, None]
        tokens = self.dropout(self.norm(tokens.view(batch, TOKENS * count, width)))
        mask = nn.Transformer.generate_square_subsequent_mask(TOKENS * count, states.device)
        with torch.autocast(states.device.type, torch.bfloat16, self.low_precision):
            seen = self.layers(tokens, mask=mask, is_causal=True)
            logits: Tensor = self.head(seen[:, _STATE::TOKENS])
        return logits.float()

    @property
    def low_precision(self) -> bool:
        """Whether its layers run in bfloat16, as its encoder does."""
        return bool(getattr(self.features, "low_precision", False))


class SequenceActor(OneActionActor):
    """Plays by a decision transformer.

    What is wanted stays `target_return`: every reward before the last step is 0, both in the
    demonstrations and in play, so there is nothing to take off. A shaped reward, where an
    environment has one, plays no part in it.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        target_return: float,
        action_names: Sequence[str],
        keys: Sequence[str],
        generator: torch.Generator,
        *,
        greedy: bool,
        name: str,
    ) -> None:
        """Args:
        model: Who says what is likely.
        target_return: The return that is wanted.
        action_names: One name per action.
        keys: Arrays of an observation that are read.
        generator: Draws the actions.
        greedy: Take the likeliest action instead.
        name: For tables.
        """
        super().__init__(action_names, keys, generator, greedy=greedy, name=name)
        self.model, self.target_return = model, target_return
        # By row: steps that are no longer looked at, states and actions of those that are, and
        # the state of now.
        self._gone: dict[int, int] = {}
        self._states: dict[int, list[Tensor]] = {}
        self._actions: dict[int, list[int]] = {}
        self._now: dict[int, Tensor] = {}

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`."""
        for row in rows.tolist():
            self._gone[row], self._states[row], self._actions[row] = 0, [], []

    def log_probs(self, observations: Arrays, rows: np.ndarray) -> Tensor:
        """See `OneActionActor.log_probs`."""
        self.model.eval()
        device = self.model.head.weight.device
        tensors = {k: torch.from_numpy(np.asarray(v)).to(device) for k, v in observations.items()}
        self._now |= dict(zip(rows.tolist(), self.model.encode(tensors), strict=True))
        return self._logits(rows, [() for _ in rows])

    def log_probs_after(self, asked: np.ndarray, observations: Arrays, rows: np.ndarray) -> Tensor:
        """See `OneActionActor.log_probs_after`."""
        return self._logits(rows, [(action,) for action in asked.tolist()])

    def _logits(self, rows: np.ndarray, further: Sequence[tuple[int, ...]]) -> Tensor:
        """Logits of the next action; `further` actions were chosen in the state of now."""
        most, model = self.model.context_len, self.model
        device = model.head.weight.device
        labels = rows.tolist()
        done = [[*self._actions[row], *more] for row, more in zip(labels, further, strict=True)]
        cut = [max(0, len(actions) + 1 - most) for actions in done]
        counts = torch.tensor([len(actions) + 1 - c for actions, c in zip(done, cut, strict=True)])
        longest = int(counts.max())
        states = torch.zeros(len(rows), longest, model.width, device=device)
        actions = torch.zeros(len(rows), longest, dtype=torch.int64)
        for i, row in enumerate(labels):
            # Between the past and now: the same state, where an action waits for its direction.
            seen = [*self._states[row], *[self._now[row]] * (len(further[i]) + 1)][cut[i] :]
            states[i, : len(seen)] = torch.stack(seen)
            actions[i, : len(seen) - 1] = torch.tensor(done[i][cut[i] :], dtype=torch.int64)
        first = torch.tensor([self._gone[row] + c for row, c in zip(labels, cut, strict=True)])
        returns = torch.full((len(rows), longest), self.target_return, device=device)
        logits = model(states, actions.to(device), returns, first.to(device))
        last: Tensor = logits[torch.arange(len(rows)), counts.to(device) - 1]
        return last

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """See `Policy.ran`: what was done is what is looked back at."""
        for row, own, length in zip(rows.tolist(), actions, lengths.tolist(), strict=True):
            self._states[row] += [self._now[row]] * length
            self._actions[row] += own[:length].tolist()
            spare = max(0, len(self._actions[row]) - (self.model.context_len - 1))
            self._gone[row] += spare
            del self._states[row][:spare], self._actions[row][:spare]
