"""What must hold where nets compute on an accelerator: the CPU's numbers, and whole runs."""

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.cli import main
from remdm.data.batch import Batch
from remdm.experiment import Experiment
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.compiled import CompiledDenoise
from remdm.nets.denoiser import Denoiser
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser, EgoEncoder
from remdm.nets.reach import ReachEncoder
from remdm.policy_agent import PolicyAgent
from remdm.tokens import vocabulary_size
from remdm.training.compiled_loss import CompiledLoss
from tests.nets.states import random_states, tensors
from tests.tiny_runs import learnt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
    # What the compiler says of its own modules, and of products that could be rounded.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
SPEC = map_observation_spec(21, 79)
HORIZON, ROWS = 8, 6
NETS = {"reach": ReachEncoder, "ego": EgoEncoder, "published": None}
# Of two ways that cost the same, rounding chooses the one that costs are learnt along.
COSTS = ("encoder.kinds", "encoder.bias", "encoder.wary", "encoder.map_", "encoder.ending")


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TensorFloat-32, which rounds to ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def net(name: str) -> Denoiser:
    torch.manual_seed(0)
    encoder = NETS[name]
    if encoder is None:
        return DualStreamDenoiser(SPEC, NUM_ACTIONS, HORIZON)
    return EgoDenoiser(SPEC, NUM_ACTIONS, HORIZON, encoder_type=encoder)


def case(rows: int = ROWS) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocabulary_size(NUM_ACTIONS), (rows, HORIZON), generator=generator)
    return tensors(random_states(rows)), tokens, torch.rand(rows, generator=generator)


def there(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cuda() for name, value in values.items()}


def batch() -> Batch:
    states, _, _ = case()
    plans = torch.arange(ROWS * HORIZON).reshape(ROWS, HORIZON) % NUM_ACTIONS
    return Batch(states, plans, torch.ones(ROWS), torch.zeros(ROWS, dtype=torch.int64))


@pytest.mark.parametrize("name", NETS)
def test_logits_and_gradients_are_those_of_the_cpu(name: str) -> None:
    here = net(name).eval()
    far = copy.deepcopy(here).cuda()
    states, tokens, time = case()
    logits = here.denoise(here.encode(states), tokens, time)
    found = far.denoise(far.encode(there(states)), tokens.cuda(), time.cuda())
    logits.square().mean().backward()
    found.square().mean().backward()
    torch.testing.assert_close(found.cpu(), logits, rtol=1e-3, atol=1e-4)
    remote = dict(far.named_parameters())
    for weight, value in here.named_parameters():
        if value.grad is None or weight.startswith(COSTS):
            assert (remote[weight].grad is None) == (value.grad is None), weight
            continue
        largest = float(value.grad.abs().max())
        apart = float((remote[weight].grad.cpu() - value.grad).abs().max())
        assert apart <= 5e-3 * largest + 1e-6, weight


@torch.inference_mode()
@pytest.mark.parametrize("name", NETS)
def test_recorded_graphs_give_the_logits_of_plain_calls(name: str) -> None:
    far, compiled = net(name).eval().cuda(), CompiledDenoise()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for rows in (3, 6, 3, 1):
            states, tokens, time = case(rows)
            context = far.encode(there(states))
            call = context, tokens.cuda(), time.cuda()
            for _ in range(3):  # the first ones record the graph, the last one plays it
                found = compiled(far, *call)
            torch.testing.assert_close(found, far.denoise(*call), rtol=1e-3, atol=1e-4)
    assert compiled.failure is None


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_compiled_losses_are_those_of_plain_calls(precision: torch.dtype | None) -> None:
    torch.manual_seed(0)
    denoiser = {"denoiser_type": EgoDenoiser, "plan_horizon": HORIZON, "replan_every": HORIZON}
    agent: BaseAgent = DiffusionPlannerAgent(SPEC, NUM_ACTIONS, **denoiser).cuda()
    compiled, losses = CompiledLoss(agent), []
    for call in (agent, compiled):
        generator = torch.Generator("cuda").manual_seed(3)
        torch.manual_seed(4)
        with torch.autocast("cuda", precision, enabled=precision is not None):
            loss, _ = call(batch().to("cuda"), generator)
        loss.backward()
        losses.append(float(loss.detach()))
    assert compiled.failure is None
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision is None else 2e-2)


@pytest.mark.parametrize("kind", [DiffusionPlannerAgent, PolicyAgent])
@pytest.mark.parametrize("constrained", [False, True])
def test_plans_are_the_same_wherever_observations_lie(
    kind: type[BaseAgent], constrained: bool
) -> None:
    torch.manual_seed(0)
    more = {"physics_penalty": 2.0} if constrained and kind is DiffusionPlannerAgent else {}
    agent = kind(SPEC, NUM_ACTIONS, action_constraints=constrained, **more)
    agent = agent.eval().requires_grad_(False).cuda()
    states, _, _ = case()
    plans = [
        agent.plan(seen, torch.Generator().manual_seed(2)).tokens
        for seen in ({k: v.numpy() for k, v in states.items()}, there(states), there(states))
    ]
    assert torch.equal(plans[0], plans[1])
    assert torch.equal(plans[1], plans[2])


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_run_learns_there_and_tells_its_memory(tmp_path: Path, precision: str) -> None:
    more = {"batch_size": "32", "train_batches_per_epoch": "40", "epochs": "4"}
    run = learnt(tmp_path, mixed_precision=repr(precision), **more)
    assert run.DEVICE.type == "cuda"
    lines = (run.folder.root / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["train/planner/loss"] for row in rows if "train/planner/loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    assert max(row.get("train/gpu_memory_mb", 0) for row in rows) > 0
    for weight in run.trainers["planner"].agent.state_dict().values():
        assert torch.isfinite(weight.float()).all()


class StopsAfterTwo(Experiment):
    """Is asked to stop after its second epoch, the way a signal does it."""

    def run_epoch(self) -> None:
        super().run_epoch()
        self.stop.requested = self.progress.epoch == 2


def test_a_run_goes_on_there_and_is_measured_from_the_command_line(tmp_path: Path) -> None:
    first = learnt(tmp_path, StopsAfterTwo, mixed_precision="'fp16'")
    assert first.progress.epoch == 2
    again = learnt(tmp_path, mixed_precision="'fp16'")
    assert again.progress.epoch == 4
    told = tmp_path / "eval.json"
    words = ["eval", str(again.folder.root), "--episodes", "2", "--latency", "--json", str(told)]
    assert main(words) == 0
    found = json.loads(told.read_text())
    assert found["policies"]["planner"]
    assert found["machine"]["device"] == torch.cuda.get_device_name()
