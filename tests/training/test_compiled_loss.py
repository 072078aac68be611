"""Training through `torch.compile`: the same numbers, and training goes on where that fails."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from remdm.agent import BaseAgent
from remdm.data.batch import Batch
from remdm.diffusion import PlanSample
from remdm.training.compiled_loss import CompiledLoss
from remdm.training.trainer import AgentTrainer, OptimiserSettings

SETTINGS = OptimiserSettings(
    learning_rate=0.1,
    lr_warmup_steps=0,
    lr_final_fraction=1.0,
    l2_coeff=0.01,
    grad_clip=1.0,
    ema_decay=0.9,
    total_updates=20,
    compile_model=True,
)


class Noisy(BaseAgent):
    """A linear map that draws from the batch's generator and from torch's, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("batches_seen", torch.zeros(()))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.batches_seen += 1
        x = batch.observations["x"]
        x = x + torch.rand(x.shape, generator=generator)
        error = self.linear(torch.tanh(x) + torch.rand_like(x))[:, 0] - batch.weights
        return (error**2).mean(), {"error": error.detach().abs().mean()}

    def plan(self, *args: Any, **kwargs: Any) -> PlanSample:
        raise NotImplementedError


def batch(width: int = 3) -> Batch:
    torch.manual_seed(1)
    none = torch.zeros(8, dtype=torch.int64)
    return Batch({"x": torch.randn(8, width)}, none[:, None], torch.randn(8), none)


def trainer(compiled: bool) -> AgentTrainer:
    from dataclasses import replace

    torch.manual_seed(0)
    settings = replace(SETTINGS, compile_model=compiled)
    return AgentTrainer("planner", Noisy(), Accelerator(cpu=True), settings)


def trained(one: AgentTrainer, updates: int = 3) -> list[float]:
    generator, losses, data = torch.Generator().manual_seed(5), [], batch()
    torch.manual_seed(2)
    for _ in range(updates):
        with one.accumulate():
            loss, _ = one.model(data, generator)
            losses.append(float(loss.detach()))
            one.update(loss)
    return losses


@pytest.fixture
def no_compiler() -> Any:
    """A machine without a compiler, whose earlier results are not at hand either."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_training_goes_on_as_if_nothing_had_been_tried(tmp_path: Path) -> None:
    plain, tried = trainer(False), trainer(True)
    with pytest.warns(RuntimeWarning, match=r"uncompiled: .*Experiment\.compile_model = False"):
        losses = trained(tried)
    assert isinstance(tried.model, CompiledLoss)
    assert tried.model.failure is not None
    assert losses == trained(plain)
    for one, other in zip(plain.agent.state_dict().values(), tried.agent.state_dict().values(),
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(tried, 1)


@pytest.mark.usefixtures("no_compiler")
def test_a_wrong_batch_raises_the_agents_own_error() -> None:
    """And is not taken for a failure of the compiler."""
    loss = CompiledLoss(Noisy())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        loss(batch(width=4), torch.Generator())
    assert loss.failure is None


@pytest.mark.slow
def test_compiled_training_draws_the_same_and_comes_to_the_same(tmp_path: Path) -> None:
    torch._dynamo.reset()
    plain, compiled = trainer(False), trainer(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        losses = trained(compiled)
    assert isinstance(compiled.model, CompiledLoss)
    if compiled.model.failure is not None:
        pytest.skip(f"no working compiler: {compiled.model.failure}")
    # Sums in another order; 3 updates amplify the difference a bit.
    assert losses == pytest.approx(trained(plain), rel=1e-5)
    assert compiled.agent.batches_seen == 3
    # Checkpoints, averages and the acting copy know nothing of it.
    assert set(compiled.ema.shadow) == set(plain.ema.shadow)
    compiled.save(tmp_path)
    plain.load(tmp_path)
    assert torch.equal(plain.agent.linear.weight, compiled.agent.linear.weight)
