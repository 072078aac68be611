"""The decision transformer: what looks at what, in training and in play."""

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("stable_baselines3")

from gymnasium import spaces

from remdm.baselines.decision_transformer import DecisionTransformer, SequenceActor
from remdm.baselines.demonstration_set import Episodes
from remdm.baselines.features import MapFeatures
from remdm.baselines.sequences import batches_of, pieces_of
from remdm.maps import ACTION_NAMES, Action, ArraySpec

SPEC = {"sign": ArraySpec((3,), np.dtype(np.int16))}


class Signs(MapFeatures):
    """An observation of three numbers, as it is."""

    keys = ("sign",)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return self.integers(observations)["sign"].float()


def net(context_len: int, seed: int = 0) -> DecisionTransformer:
    torch.manual_seed(seed)
    box = spaces.Box(-9, 9, (3,), np.int16)
    features = Signs(spaces.Dict({"sign": box}), SPEC, 3)
    return DecisionTransformer(
        features,
        len(ACTION_NAMES),
        context_len=context_len,
        width=32,
        num_layers=2,
        num_heads=4,
        dropout=0.0,
    )


def actor_of(model: DecisionTransformer, *, greedy: bool = True) -> SequenceActor:
    chance = torch.Generator().manual_seed(0)
    return SequenceActor(
        model, 1.0, ACTION_NAMES, ("sign",), chance, greedy=greedy, name="dt"
    )  # fmt: skip


def windows(model: DecisionTransformer, signs: Tensor, actions: Tensor) -> Tensor:
    """Logits of whole sequences [B, K], from the beginning, as in training."""
    count, length = actions.shape
    states = model.encode({"sign": signs.flatten(0, 1)}).view(count, length, -1)
    ones, zeros = torch.ones(count, length), torch.zeros(count, dtype=torch.int64)
    return model(states, actions, ones, zeros)


def test_an_action_sees_what_was_before_it_and_nothing_else() -> None:
    model = net(6).eval()
    rng = torch.Generator().manual_seed(1)
    states = torch.randn(1, 6, 32, generator=rng)
    actions = torch.randint(0, 12, (1, 6), generator=rng)
    returns, first = torch.ones(1, 6), torch.zeros(1, dtype=torch.int64)
    before = model(states, actions, returns, first)

    def moved(changed: Tensor) -> list[int]:
        return (changed - before).abs().amax(-1)[0].gt(1e-6).nonzero().flatten().tolist()

    for at in range(6):
        other = states.clone()
        other[0, at] = torch.randn(32, generator=rng)
        assert moved(model(other, actions, returns, first)) == list(range(at, 6))
        other = returns.clone()
        other[0, at] = 0
        assert moved(model(states, actions, other, first)) == list(range(at, 6))
        other = actions.clone()
        other[0, at] = (other[0, at] + 1) % 12
        # Its own action is what is asked for: only later steps may see it.
        assert moved(model(states, other, returns, first)) == list(range(at + 1, 6))


def test_play_and_training_see_the_same_step_by_step() -> None:
    length = 9
    model = net(length).eval()
    rng = np.random.default_rng(2)
    signs = rng.integers(-9, 9, (2, length, 3)).astype(np.int16)
    actions = rng.integers(0, 8, (2, length))
    with torch.inference_mode():
        expected = windows(model, torch.from_numpy(signs), torch.from_numpy(actions))
        actor, rows = actor_of(model), np.array([4, 7])
        actor.begin(rows, ["a", "b"], [0, 0])
        for step in range(length):
            found = actor.log_probs({"sign": signs[:, step]}, rows)
            torch.testing.assert_close(found, expected[:, step], rtol=1e-4, atol=1e-5)
            actor.ran(rows, actions[:, step : step + 1], np.ones(2, np.int64))


def test_play_looks_back_no_further_than_training_did() -> None:
    model = net(4).eval()
    rng = np.random.default_rng(3)
    signs = rng.integers(-9, 9, (1, 10, 3)).astype(np.int16)
    actions = rng.integers(0, 8, (1, 10))
    actor, row = actor_of(model), np.array([0])
    with torch.inference_mode():
        actor.begin(row, ["a"], [0])
        for step in range(10):
            found = actor.log_probs({"sign": signs[:, step]}, row)
            begin = max(0, step - 3)
            states = model.encode({"sign": torch.from_numpy(signs[0, begin : step + 1])})[None]
            done = torch.from_numpy(actions[:, begin : step + 1])
            expected = model(states, done, torch.ones(done.shape), torch.tensor([begin]))
            torch.testing.assert_close(found, expected[:, -1], rtol=1e-4, atol=1e-5)
            actor.ran(row, actions[:, step : step + 1], np.ones(1, np.int64))


def test_what_was_learnt_of_the_action_before_is_played_as_it_was_learnt() -> None:
    """Every action is the one after its forerunner: a shift by one in play would tell."""
    model, length = net(6), 6
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    start = torch.arange(8)[:, None]
    actions = (start + torch.arange(length)) % 8
    signs = torch.zeros(8, length, 3, dtype=torch.int16)
    signs[:, 0, 0] = start[:, 0].to(torch.int16)  # says where to begin, and then nothing any more
    for _ in range(120):
        loss = torch.nn.functional.cross_entropy(
            windows(model, signs, actions).flatten(0, 1), actions.flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1
    actor, rows = actor_of(model), np.arange(8)
    actor.begin(rows, ["a"] * 8, [0] * 8)
    played = []
    for step in range(length):
        plans = actor.plan({"sign": signs[:, step].numpy()}, rows)
        played.append(plans.tokens[:, 0])
        actor.ran(rows, plans.tokens, np.ones(8, np.int64))
    assert np.stack(played, 1).tolist() == actions.tolist()


def test_a_direction_is_chosen_in_the_light_of_what_waits_for_it() -> None:
    model = net(6).eval()
    actor, row = actor_of(model), np.array([0])
    signs = np.array([[1, 2, 3]], np.int16)
    with torch.inference_mode():
        actor.begin(row, ["a"], [0])
        actor.log_probs({"sign": signs}, row)
        found = actor.log_probs_after(np.array([int(Action.KICK)]), {"sign": signs}, row)
        twice = torch.from_numpy(signs).expand(2, 3)[None]
        done = torch.tensor([[int(Action.KICK), 0]])
        expected = windows(model, twice, done)[:, 1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_step_is_in_one_piece_and_short_episodes_stay_whole() -> None:
    lengths = np.array([3, 10, 4, 1, 27])
    episodes = Episodes(np.cumsum(lengths) - lengths, lengths, np.ones(5, np.bool_))
    cuts = set()
    for seed in range(20):
        pieces = pieces_of(episodes, 4, np.random.default_rng(seed))
        assert pieces.lengths.max() <= 4
        for number, length in enumerate(lengths):
            own = pieces.episodes == number
            covered = [
                step
                for first, count in zip(pieces.first[own], pieces.lengths[own], strict=True)
                for step in range(first, first + count)
            ]
            assert covered == list(range(length))
            assert length > 4 or own.sum() == 1
        cuts.add(tuple(pieces.first[pieces.episodes == 1]))
    assert len(cuts) == 4
    batches = list(batches_of(episodes, 4, 5, 7, 0))
    assert len(batches) == 7
