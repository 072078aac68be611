"""The net for worlds of tiles: what it sees, and what it must not see."""

import numpy as np
import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.data.batch import Batch
from remdm.maps import HISTORY_ACTIONS, HISTORY_PREFIX, ArraySpec, history_spec
from remdm.nets.denoiser import OFFSET_KEY
from remdm.nets.tiles import TILE_KEYS, TileDenoiser, TileEncoder, unpacked
from remdm.policy_agent import PolicyAgent
from remdm.soft_targets import LOGITS_KEY

ACTIONS, HORIZON, ROWS, COLUMNS = 5, 4, 3, 5
SPEC = {
    "tiles": ArraySpec((ROWS, COLUMNS), np.dtype(np.uint8)),
    "flags": ArraySpec((ROWS, COLUMNS, 2), np.dtype(np.uint8)),
    "scalars": ArraySpec((6,), np.dtype(np.float32)),
}
PAST = 3
WITH_PAST = SPEC | history_spec(SPEC, PAST)
SMALL = {"width": 16, "num_layers": 1, "num_heads": 2, "hidden": 16}


def net(spec: dict[str, ArraySpec] = SPEC, **options) -> TileDenoiser:
    torch.manual_seed(0)
    return TileDenoiser(spec, ACTIONS, HORIZON, **SMALL, **options)


def seen(spec: dict[str, ArraySpec] = SPEC, count: int = 2) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    made = {}
    for key, array in spec.items():
        top = 18 if key.endswith("tiles") else ACTIONS if key == HISTORY_ACTIONS else 256
        values = rng.integers(top, size=(count, *array.shape))
        if key.endswith("scalars"):
            values = values / 256
        made[key] = torch.from_numpy(values.astype(array.dtype))
    return made


def test_bits_come_out_as_numpy_packs_them() -> None:
    flags = np.arange(256, dtype=np.uint8).reshape(8, 16, 2)
    np.testing.assert_array_equal(unpacked(torch.from_numpy(flags)), np.unpackbits(flags, axis=-1))


def test_a_token_for_every_tile_the_state_and_every_past_moment() -> None:
    assert net().observation_tokens(seen()).shape == (2, ROWS * COLUMNS + 1, 16)
    assert net(WITH_PAST).observation_tokens(seen(WITH_PAST)).shape == (
        2, ROWS * COLUMNS + 1 + PAST, 16,
    )  # fmt: skip


@pytest.mark.parametrize("spec", [SPEC, WITH_PAST], ids=["now", "with a past"])
def test_every_array_and_every_weight_matters(spec: dict[str, ArraySpec]) -> None:
    denoiser, observations = net(spec), seen(spec)
    tokens = torch.randint(ACTIONS, (2, HORIZON))
    before = denoiser(observations, tokens)
    assert before.shape == (2, HORIZON, ACTIONS + 1)
    assert set(denoiser.observation_keys) == set(spec)
    for key, array in observations.items():
        other = array.clone()
        other[0] = other[0] + 1 if key.endswith("scalars") else (other[0] ^ 1)
        after = denoiser(observations | {key: other}, tokens)
        assert not torch.equal(after[0], before[0]), key
        torch.testing.assert_close(after[1], before[1])
    before.sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None] == []


def test_what_was_before_the_life_is_not_seen() -> None:
    denoiser, observations = net(WITH_PAST), seen(WITH_PAST)
    observations[HISTORY_ACTIONS][:, :2] = ACTIONS  # MASK: the life had not begun
    other = {k: v.clone() for k, v in observations.items()}
    for key in TILE_KEYS:
        other[HISTORY_PREFIX + key][:, :2] = 1
    tokens = torch.zeros((2, HORIZON), dtype=torch.int64)
    torch.testing.assert_close(denoiser(other, tokens), denoiser(observations, tokens))


def test_it_can_be_told_how_much_of_a_plan_was_carried_out() -> None:
    denoiser = net(SPEC | {OFFSET_KEY: ArraySpec((), np.dtype(np.int64))})
    tokens = torch.zeros((2, HORIZON), dtype=torch.int64)
    at = [denoiser(seen() | {OFFSET_KEY: torch.full((2,), k)}, tokens) for k in (0, 0, 2)]
    torch.testing.assert_close(at[0], at[1])
    assert not torch.equal(at[0], at[2])


def test_observations_without_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: flags.*denoiser_type"):
        net({"tiles": SPEC["tiles"], "scalars": SPEC["scalars"]})
    assert TileEncoder(SPEC, ACTIONS, 8, channels=4, num_blocks=0).history == 0


# Agents


def batch(**extra: torch.Tensor) -> Batch:
    plans = torch.randint(ACTIONS, (2, HORIZON), generator=torch.Generator().manual_seed(0))
    return Batch(seen() | extra, plans, torch.ones(2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("agent_type", [DiffusionPlannerAgent, PolicyAgent])
def test_soft_targets_are_the_cross_entropy_against_the_experts_law(agent_type) -> None:
    def agent(weight: float):
        torch.manual_seed(0)
        return agent_type(
            SPEC,
            ACTIONS,
            plan_horizon=HORIZON,
            denoiser_type=lambda *a: TileDenoiser(*a, **SMALL),
            soft_target_weight=weight,
            **({"replan_every": 2} if agent_type is DiffusionPlannerAgent else {}),
        )

    def loss(weight: float, logits: torch.Tensor):
        return agent(weight).loss(batch(**{LOGITS_KEY: logits}), torch.Generator().manual_seed(0))

    even = torch.zeros((2, ACTIONS), dtype=torch.float16)
    plain, soft = loss(0.0, even)[0], loss(0.5, even)
    torch.testing.assert_close(soft[0], plain + 0.5 * soft[1]["soft_target_loss"])
    assert agent(0.0).label_keys == ()
    assert agent(0.5).label_keys == (LOGITS_KEY,)
    with pytest.raises(ValueError, match=r"'expert/logits', and the data has none"):
        agent(1.0).loss(batch(), torch.Generator())
    with pytest.raises(ValueError, match=r"at least 0, got -1.*soft_target_weight"):
        agent(-1.0)


def test_an_agent_asks_for_a_history_only_if_its_net_reads_one() -> None:
    agent = DiffusionPlannerAgent(
        SPEC, ACTIONS, plan_horizon=HORIZON, history=PAST, denoiser_type=TileDenoiser
    )
    assert agent.history == PAST
    assert HISTORY_ACTIONS in agent.observation_keys
    assert agent.plan(
        {k: v.numpy() for k, v in seen(WITH_PAST).items()}, torch.Generator()
    ).tokens.shape == (2, HORIZON)
    with pytest.raises(ValueError, match=r"at least 0, got -1.*DiffusionPlannerAgent.history"):
        DiffusionPlannerAgent(SPEC, ACTIONS, history=-1, denoiser_type=TileDenoiser)
