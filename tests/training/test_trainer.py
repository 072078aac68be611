"""One agent's optimiser: accumulation, warm-up, averages, numbers that are not finite."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample
from remdm.training.checkpoint import CheckpointError
from remdm.training.trainer import AgentTrainer, OptimiserSettings

SETTINGS = OptimiserSettings(
    learning_rate=0.1,
    lr_warmup_steps=4,
    lr_final_fraction=0.1,
    l2_coeff=0.01,
    grad_clip=1.0,
    ema_decay=0.9,
    total_updates=20,
)


class Regression(BaseAgent):
    """Mean squared error of a linear map: small enough to know what must come out."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.register_buffer("batches_seen", torch.zeros(()))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.batches_seen += 1
        error = self.linear(batch.observations["x"])[:, 0] - batch.weights
        return (error**2).mean(), {"error": error.detach().abs().mean()}

    def plan(self, *args: Any, **kwargs: Any) -> PlanSample:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def any_precision() -> Iterator[None]:
    """accelerate fixes the precision for a process; each test chooses its own."""
    yield
    AcceleratorState._reset_state()


def make_trainer(
    *, batches_per_update: int = 1, precision: str = "no", settings: OptimiserSettings = SETTINGS
) -> AgentTrainer:
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=batches_per_update
    )
    return AgentTrainer("planner", Regression(), accelerator, settings)


def make_batch(rows: slice = slice(None), *, seed: int = 0, value: float | None = None) -> Batch:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))[rows]
    y = torch.from_numpy(rng.normal(size=8).astype(np.float32))[rows]
    if value is not None:
        y = torch.full_like(y, value)
    none = torch.zeros(len(y), dtype=torch.int64)
    return Batch({"x": x}, none[:, None], y, none)


def train(trainer: AgentTrainer, *batches: Batch) -> list[dict[str, float]]:
    results = []
    for batch in batches:
        with trainer.accumulate():
            loss, _ = trainer.model(batch, torch.Generator())
            results.append(trainer.update(loss))
    return results


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# Updates


def test_accumulated_halves_are_one_whole_batch() -> None:
    whole = make_trainer()
    train(whole, *(make_batch(seed=s) for s in range(5)))
    halves = make_trainer(batches_per_update=2)
    parts = (slice(0, 4), slice(4, 8))
    train(halves, *(make_batch(part, seed=s) for s in range(5) for part in parts))
    assert whole.updates == halves.updates == 5
    # Sums of eight float32 numbers in another order; each update amplifies the difference a bit.
    for name, value in whole.agent.named_parameters():
        other = dict(halves.agent.named_parameters())[name]
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)


def test_batches_that_are_only_accumulated_change_nothing() -> None:
    trainer = make_trainer(batches_per_update=3)
    before = dict(trainer.agent.named_parameters())["linear.weight"].clone()
    assert train(trainer, make_batch(), make_batch()) == [{}, {}]
    assert torch.equal(trainer.agent.linear.weight, before)
    assert trainer.updates == 0
    (result,) = train(trainer, make_batch())
    assert set(result) == {"grad_norm", "learning_rate"}
    assert not torch.equal(trainer.agent.linear.weight, before)


def test_two_trainers_accumulate_independently() -> None:
    one, other = make_trainer(batches_per_update=2), make_trainer(batches_per_update=2)
    for seed in range(4):
        train(one, make_batch(seed=seed))
        train(other, make_batch(seed=seed))
    assert one.updates == other.updates == 2
    assert same(weights(one.agent), weights(other.agent))


def test_warm_up_counts_updates_not_batches() -> None:
    trainer = make_trainer(batches_per_update=2)
    results = train(trainer, *(make_batch() for _ in range(10)))
    rates = [result["learning_rate"] for result in results if result]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_rate_falls_to_the_final_fraction_and_stays() -> None:
    assert SETTINGS.rate(4) == pytest.approx(0.1)
    assert SETTINGS.rate(12) == pytest.approx(0.1 * (0.1 + 0.9 / 2))
    assert SETTINGS.rate(20) == pytest.approx(0.01)
    assert SETTINGS.rate(500) == pytest.approx(0.01)
    constant = replace(SETTINGS, lr_final_fraction=1.0, lr_warmup_steps=0)
    assert {constant.rate(update) for update in range(30)} == {0.1}


def test_gradient_is_clipped_and_its_norm_told_unclipped() -> None:
    trainer = make_trainer(settings=replace(SETTINGS, grad_clip=1e-3))
    (result,) = train(trainer, make_batch(value=100.0))
    assert result["grad_norm"] > 10


def test_vectors_have_no_weight_decay() -> None:
    decays = {
        tuple(parameter.shape): group["weight_decay"]
        for group in make_trainer().optimiser.param_groups
        for parameter in group["params"]
    }
    assert decays == {(1, 3): 0.01, (1,): 0.0}


# Numbers that are not finite


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_loss_that_is_not_finite_ends_training_with_the_weights_unchanged(value: float) -> None:
    trainer = make_trainer()
    train(trainer, make_batch())
    before = weights(trainer.agent)
    with pytest.raises(FloatingPointError, match=r"loss of planner .* Experiment.learning_rate"):
        train(trainer, make_batch(value=value))
    del before["batches_seen"]
    assert same(before, {k: v for k, v in weights(trainer.agent).items() if k in before})


def test_gradient_that_is_not_finite_ends_training_with_the_weights_unchanged() -> None:
    trainer = make_trainer()
    trainer.agent.linear.weight.register_hook(lambda gradient: gradient * math.nan)
    before = trainer.agent.linear.weight.clone()
    with pytest.raises(FloatingPointError, match="gradient of planner is nan at update 0"):
        train(trainer, make_batch())
    assert torch.equal(trainer.agent.linear.weight, before)


# Averages


def test_policy_changes_only_when_published() -> None:
    trainer = make_trainer()
    start = weights(trainer.policy)
    train(trainer, make_batch(), make_batch())
    assert same(weights(trainer.policy), start)
    trainer.publish()
    published = weights(trainer.policy)
    assert not same(published, start)
    assert not torch.equal(published["linear.weight"], trainer.agent.linear.weight)
    assert published["batches_seen"] == 2  # buffers are not averaged
    assert not any(parameter.requires_grad for parameter in trainer.policy.parameters())


def test_bf16_keeps_weights_and_averages_in_float32() -> None:
    trainer = make_trainer(precision="bf16")
    with trainer.accumulate():
        loss, _ = trainer.model(make_batch(), torch.Generator())
        trainer.update(loss)
    plain = make_trainer_after_reset()
    exact, _ = plain.model(make_batch(), torch.Generator())
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)  # 8 bits of mantissa
    dtypes = {
        value.dtype for value in (*weights(trainer.agent).values(), *trainer.ema.shadow.values())
    }
    assert dtypes == {torch.float32}


def test_update_that_overflows_under_a_loss_scale_is_left_out_and_not_counted(
    tmp_path: Path,
) -> None:
    """What mixed_precision "fp16" does, with a scaler that works on a CPU."""

    def scaled() -> AgentTrainer:
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return AgentTrainer("planner", Regression(), accelerator, SETTINGS)

    trainer = scaled()
    before = trainer.agent.linear.weight.clone()
    overflow = trainer.agent.linear.weight.register_hook(lambda gradient: gradient * math.inf)
    train(trainer, make_batch())
    overflow.remove()
    assert torch.equal(trainer.agent.linear.weight, before)
    assert (trainer.updates, trainer.ema.num_updates) == (0, 0)
    assert trainer.accelerator.scaler.get_scale() == 512.0
    train(trainer, make_batch())
    assert (trainer.updates, trainer.ema.num_updates) == (1, 1)
    trainer.save(tmp_path)
    used, fresh = scaled(), scaled()
    train(used, make_batch())  # a scaler has its state from its first use on
    for other in (used, fresh):
        other.load(tmp_path)
        assert other.accelerator.scaler.state_dict() == trainer.accelerator.scaler.state_dict()
    train(trainer, make_batch(seed=1))
    train(fresh, make_batch(seed=1))
    assert same(weights(fresh.agent), weights(trainer.agent))


def make_trainer_after_reset() -> AgentTrainer:
    AcceleratorState._reset_state()
    return make_trainer()


# Files


def test_training_goes_on_exactly_from_what_was_saved(tmp_path: Path) -> None:
    one = make_trainer(batches_per_update=2)
    train(one, *(make_batch(seed=s) for s in range(6)))
    one.save(tmp_path)
    other = make_trainer(batches_per_update=2)
    train(other, make_batch(seed=99), make_batch(seed=98))
    other.load(tmp_path)
    for trainer in (one, other):
        trainer.publish()
    assert same(weights(other.policy), weights(one.policy))
    for trainer in (one, other):
        train(trainer, *(make_batch(seed=s) for s in range(6, 12)))
        trainer.publish()
    assert one.updates == other.updates == 6
    assert same(weights(one.agent), weights(other.agent))
    assert same(weights(one.policy), weights(other.policy))


def test_warm_start_takes_the_average_and_nothing_else(tmp_path: Path) -> None:
    one = make_trainer()
    train(one, *(make_batch(seed=s) for s in range(6)))
    one.save(tmp_path)
    other = make_trainer()
    other.load(tmp_path, resume=False)
    assert same(weights(other.agent), weights(one.publish()))
    assert same(weights(other.publish()), weights(other.agent))
    assert other.updates == 0
    assert other.optimiser.state_dict()["state"] == {}


@pytest.mark.parametrize(
    "name", ["planner.safetensors", "planner_ema.safetensors", "planner_training.pt"]
)
@pytest.mark.parametrize("damage", ["missing", "torn", "empty"])
def test_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer, make_batch())
    trainer.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "torn" else b"")
    with pytest.raises(CheckpointError, match=f"{name} is (missing|damaged).*move that folder"):
        make_trainer().load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.save(tmp_path)
    other = AgentTrainer("planner", Regression(4), trainer.accelerator, SETTINGS)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"updates": None}, "it has no updates"),
        ({"ema_updates": None}, "it has no ema_updates"),
        ({"updates": -1}, "updates must be in 0"),
        ({"ema_updates": True}, "ema_updates must be int"),
        ({"optimiser": [1]}, "optimiser must be dict"),
        ({"scaler": "x"}, "scaler must be dict or NoneType"),
    ],
)
def test_counters_that_are_none_are_refused(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    trainer = make_trainer()
    train(trainer, make_batch())
    trainer.save(tmp_path)
    path = tmp_path / "planner_training.pt"
    state = torch.load(path, weights_only=True)
    kept = {key: value for key, value in state.items() if key not in changed}
    torch.save(kept | {key: value for key, value in changed.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match=rf"planner_training\.pt is damaged \({reason}"):
        make_trainer().load(tmp_path)


def test_averages_of_the_optimiser_that_have_another_shape_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer, make_batch())
    trainer.save(tmp_path)
    path = tmp_path / "planner_training.pt"
    state = torch.load(path, weights_only=True)
    state["optimiser"]["state"][0]["exp_avg_sq"] = torch.zeros(7)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"exp_avg_sq has shape \(7,\), its parameter"):
        make_trainer().load(tmp_path)


def test_optimiser_state_of_another_model_is_refused(tmp_path: Path) -> None:
    one, other = make_trainer(), make_trainer()
    train(one, make_batch())
    one.save(tmp_path)
    path = tmp_path / "planner_training.pt"
    state = torch.load(path, weights_only=True)
    state["optimiser"]["param_groups"][0]["params"].append(7)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"planner_training\.pt does not fit this model"):
        other.load(tmp_path)


# What weights come to


class Gated(Regression):
    """With a gate, as the published net has one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Module()
        self.net.gate = nn.Parameter(torch.tensor(-3.0))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch, generator)
        return loss * torch.sigmoid(self.net.gate), metrics


def test_norm_and_drift_are_those_of_all_weights_and_a_gate_is_told(tmp_path: Path) -> None:
    def gated() -> AgentTrainer:
        torch.manual_seed(0)
        return AgentTrainer("planner", Gated(), Accelerator(cpu=True), SETTINGS)

    trainer = gated()
    start = torch.cat([p.detach().flatten() for p in trainer.agent.parameters()])
    before = trainer.describe()
    assert before["param_drift_from_init"] == 0.0
    assert before["gate"] == before["ema_gate"] == pytest.approx(1 / (1 + math.exp(3)))
    train(trainer, make_batch(), make_batch(seed=1))
    now = torch.cat([p.detach().flatten() for p in trainer.agent.parameters()])
    told = trainer.describe()
    assert told["param_norm"] == pytest.approx(float(now.norm()))
    assert told["param_drift_from_init"] == pytest.approx(float((now - start).norm()))
    assert told["gate"] == float(torch.sigmoid(trainer.agent.net.gate.detach()))
    assert told["ema_gate"] == float(torch.sigmoid(trainer.publish().net.gate)) != told["gate"]
    trainer.save(tmp_path)
    resumed = gated()
    resumed.load(tmp_path)
    assert resumed.describe() == told
    assert not {"gate", "ema_gate"} & make_trainer().describe().keys()
