"""Lists of objectives: what is added up, under which names, and that padding counts nothing."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gin
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.base_agent import DenoiserAgent
from remdm.data.batch import Batch
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.outputs import Outputs
from remdm.policy_agent import PolicyAgent
from remdm.ranks import ALONE
from remdm.tokens import end_token
from remdm.training.checkpoint import CheckpointError
from remdm.training.objectives import (
    CloningLoss,
    GoalLoss,
    KLToAverage,
    KLToTeacher,
    Objective,
    Objectives,
    OwnLoss,
    weighted_mean,
)
from remdm.training.schedules import LinearRamp
from remdm.training.trainer import AgentTrainer
from tests.nets.states import random_states, tensors
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, learnt, metric_rows
from tests.training.test_trainer import SETTINGS, Regression

HORIZON, ROWS = 6, 8
SMALL = partial(DualStreamDenoiser, width=16, hidden=16, num_layers=1, num_heads=2)
KINDS: tuple[type[DenoiserAgent], ...] = (DiffusionPlannerAgent, PolicyAgent, AutoregressiveAgent)


@gin.configurable(module="tests")
def constant(batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int) -> dict[str, Tensor]:
    """A user's function: 2, whatever the batch."""
    return {"loss": torch.tensor(2.0), "rows": torch.tensor(float(len(batch.weights)))}


def made(kind: type[DenoiserAgent] = DiffusionPlannerAgent, **options: Any) -> DenoiserAgent:
    torch.manual_seed(0)
    agent = kind(map_observation_spec(21, 79), NUM_ACTIONS, plan_horizon=HORIZON, **options)
    for parameter in agent.parameters():  # nets begin with zeros where their answers come from
        torch.nn.init.normal_(parameter, std=0.05)
    return agent


def labelled(rows: int = ROWS) -> Batch:
    generator = torch.Generator().manual_seed(3)
    plans = torch.randint(NUM_ACTIONS, (rows, HORIZON), generator=generator)
    lengths = 1 + torch.arange(rows) % HORIZON
    plans[torch.arange(HORIZON) >= lengths[:, None]] = end_token(NUM_ACTIONS)
    weights = torch.linspace(0.2, 1.0, rows)
    return Batch(tensors(random_states(rows)), plans, weights, torch.zeros(rows, dtype=torch.int64))


def called(model: Callable[..., Any], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss, metrics = model(batch, torch.Generator().manual_seed(5))
    return loss, metrics


def gradients(agent: DenoiserAgent, loss: Tensor) -> list[Tensor]:
    agent.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in agent.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_agents_own_loss_is_the_first_of_the_list_and_the_same_bit_for_bit(
    kind: type[DenoiserAgent],
) -> None:
    agent = made(kind)
    loss, metrics = called(agent, labelled())
    alone = gradients(agent, loss)
    again, told = called(Objectives(agent, (OwnLoss,)), labelled())
    assert torch.equal(loss, again)
    assert told.keys() == metrics.keys()
    assert all(map(torch.equal, alone, gradients(agent, again)))


def test_losses_are_added_by_weight_and_the_rest_is_logged_under_each_name() -> None:
    agent = made()
    own, names = called(agent, labelled())
    model = Objectives(agent, (OwnLoss, (constant, 0.25), (CloningLoss(), 0.0)))
    loss, metrics = called(model, labelled())
    assert loss.item() == pytest.approx(own.item() + 0.25 * 2.0)
    wanted = {"constant/loss", "constant/rows", "cloning/loss", "cloning/accuracy"}
    assert metrics.keys() == names.keys() | wanted
    assert metrics["constant/rows"] == ROWS
    assert not any(value.requires_grad for value in metrics.values())


def test_a_weight_may_follow_the_updates_and_is_logged_then() -> None:
    model = Objectives(made(), ((constant, LinearRamp(first=0.0, last=1.0, until=10)),))
    for step, weight in ((0, 0.0), (5, 0.5), (99, 1.0)):
        model.step = step
        loss, metrics = called(model, labelled())
        assert loss.item() == pytest.approx(2.0 * weight)
        assert float(metrics["constant/weight"]) == pytest.approx(weight)


@pytest.mark.parametrize("kind", KINDS)
def test_cloning_is_the_mean_of_minus_log_p_over_real_tokens(kind: type[DenoiserAgent]) -> None:
    agent, batch = made(kind), labelled()
    outputs = agent.outputs(batch, torch.Generator().manual_seed(5))
    total, weight = 0.0, 0.0
    for draw, row, place in outputs.real.nonzero().tolist():
        law = outputs.logits[draw, row, place].log_softmax(-1)
        total -= (batch.weights[row] * law[outputs.classes[row, place]]).item()
        weight += float(batch.weights[row])
    loss, _ = called(Objectives(agent, (CloningLoss,)), batch)
    assert loss.item() == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_rows_without_weight_have_no_part_in_it(kind: type[DenoiserAgent]) -> None:
    agent, batch, objective = made(kind), labelled(), KLToAverage()
    objective.reference = made(kind)
    batch.weights[5:] = 0.0
    outputs = agent.outputs(batch, torch.Generator().manual_seed(5))
    counts = outputs.weights(batch) > 0
    logits = torch.randn(outputs.logits.shape, generator=torch.Generator().manual_seed(6))
    for score in (CloningLoss(), objective):
        found = []
        for noise in (0.0, 100.0):
            other = torch.where(counts[..., None], logits, logits + noise).requires_grad_()
            loss = score(batch, replace(outputs, logits=other), agent, 0)["loss"]
            loss.backward()
            assert other.grad is not None
            assert not other.grad[~counts].any()
            assert other.grad[counts].any()
            found.append(float(loss.detach()))
        assert found[0] == found[1]


def test_what_weighs_nothing_has_no_gradient_even_where_it_is_not_finite() -> None:
    values = torch.tensor([1.0, 3.0, torch.inf], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 3.0, 0.0]), ALONE)
    mean.backward()
    assert mean.item() == pytest.approx(2.5)
    assert values.grad is not None
    assert values.grad.tolist() == [0.25, 0.75, 0.0]
    assert float(weighted_mean(values.detach(), torch.zeros(3), ALONE)) == 0.0


# A reference


def trainer_of(agent: DenoiserAgent, *objectives: Any) -> AgentTrainer:
    return AgentTrainer("planner", agent, Accelerator(cpu=True), SETTINGS, objectives=objectives)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_from_itself_is_zero_and_grows_from_the_average_as_weights_move(
    kind: type[DenoiserAgent],
) -> None:
    trainer, batch = trainer_of(made(kind), OwnLoss, (KLToAverage, 0.1)), labelled()
    found = []
    for _ in range(3):
        with trainer.accumulate():
            loss, metrics = trainer.model(batch, torch.Generator().manual_seed(5))
            trainer.update(loss)
        found.append(float(metrics["kl_to_average/loss"]))
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    assert 1e-5 < found[1] < found[2]


def test_divergence_is_that_of_the_laws_token_by_token() -> None:
    agent, batch = made(PolicyAgent), labelled()
    objective = KLToAverage()
    objective.reference = made(PolicyAgent)
    for parameter in objective.reference.parameters():
        torch.nn.init.normal_(parameter, std=0.06)
    outputs = agent.outputs(batch, torch.Generator())
    law = objective.reference.answer(outputs).detach().softmax(-1)
    other = outputs.logits.detach().softmax(-1)
    wanted = 0.0
    for _, row, _ in outputs.real.nonzero().tolist():
        for action in range(NUM_ACTIONS):
            p, q = float(law[0, row, 0, action]), float(other[0, row, 0, action])
            wanted += float(batch.weights[row]) * p * float(torch.tensor(p / q).log())
    wanted /= float((batch.weights * outputs.real[0, :, 0]).sum())
    assert objective(batch, outputs, agent, 0)["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_is_loaded_from_a_run_and_is_not_trained(tmp_path: Path) -> None:
    teacher = learnt(tmp_path, epochs="1", run_name="teacher").trainers["planner"]
    objective = KLToTeacher(checkpoint=str(tmp_path / "teacher"))
    agent = copy.deepcopy(teacher.agent)
    AgentTrainer("planner", agent, Accelerator(cpu=True), SETTINGS, objectives=(objective,))
    wanted = dict(teacher.policy.named_parameters())
    for name, value in objective.reference.named_parameters():
        assert torch.equal(value, wanted[name]), name
        assert not value.requires_grad


@pytest.mark.parametrize(("where", "said"), [(None, "needs a teacher"), ("no/run", "neither")])
def test_a_teacher_that_is_not_there_is_said(where: str | None, said: str) -> None:
    with pytest.raises((ValueError, CheckpointError), match=said):
        trainer_of(made(), KLToTeacher(checkpoint=where))


@pytest.mark.parametrize("net", ["with a goal", "without"])
def test_the_goal_loss_is_that_of_the_net_and_asks_for_such_a_net(net: str) -> None:
    if net == "without":
        with pytest.raises(ValueError, match=r"this is EgoDenoiser; take GoalLoss out"):
            called(Objectives(made(), (GoalLoss,)), labelled())
        return
    batch = labelled()
    batch.observations["glyphs"][:3, 3, 4] = 2383
    agent = made(denoiser_type=partial(SMALL, goal_loss_weight=0.5))
    _, own = called(agent, batch)
    loss, metrics = called(Objectives(agent, (GoalLoss,)), batch)
    assert float(own["goal_loss"]) == pytest.approx(0.5 * loss.item())
    assert float(metrics["goal/loss"]) == loss.item() > 0


# What is refused


def test_two_objectives_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two objectives are called 'cloning'"):
        Objectives(made(), (CloningLoss, (CloningLoss, 0.1)))
    with pytest.raises(ValueError, match="two objectives are called 'OwnLoss'"):
        Objectives(made(), (OwnLoss, OwnLoss))


@pytest.mark.parametrize("entry", [3.0, (OwnLoss, "much"), ("name", 1.0)])
def test_what_is_no_objective_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"@Name or \(@Name, weight\)"):
        Objectives(made(), (entry,))


def test_nothing_to_minimise_is_refused() -> None:
    with pytest.raises(ValueError, match="there must be an objective"):
        Objectives(made(), ())

    def told(batch: Batch, outputs: Outputs, agent: Any, step: int) -> dict[str, Tensor]:
        return {"rows": torch.tensor(1.0)}

    with pytest.raises(ValueError, match="one of 'told' must return a 'loss'"):
        called(Objectives(made(), (told,)), labelled())


def test_an_agent_that_shows_no_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="Regression only has a loss"):
        Objectives(Regression(), (OwnLoss,))


# Whole runs


class Counted(Objective):
    """Looks at each batch before the network does."""

    name = "counted"
    seen: ClassVar[list[int]] = []

    def before_step(self, batch: Batch, agent: DenoiserAgent, step: int) -> None:
        self.seen.append(step)

    def __call__(
        self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int
    ) -> dict[str, Tensor]:
        return {"step": torch.tensor(float(step))}


counted = gin.external_configurable(Counted, module="tests")


def test_a_run_takes_functions_and_objects_from_gin_and_calls_hooks(tmp_path: Path) -> None:
    Counted.seen.clear()
    listed = "(@OwnLoss, (@tests.constant, 0.5), @tests.Counted)"
    run = learnt(tmp_path, epochs="2", batches_per_update="2", objectives=listed)
    assert Counted.seen == [0, 0, 1, 1, 2, 2, 3, 3]
    rows = metric_rows(run.folder.root)
    told = [row for row in rows if "train/planner/constant/loss" in row]
    assert {row["train/planner/constant/loss"] for row in told} == {2.0}
    assert not any(key.startswith("train/single_step/constant") for row in told for key in row)
    assert "@tests.constant" in run.folder.config.read_text()


def test_a_run_with_an_average_to_keep_to_goes_on_bit_for_bit(tmp_path: Path) -> None:
    listed = {"objectives": "(@OwnLoss, (@KLToAverage, 0.5))", "baseline_agent_type": "None"}
    learnt(tmp_path / "one", epochs="2", **listed)
    first = learnt(tmp_path / "two", stopping("batch", 6), epochs="2", **listed)
    assert not first.progress.finished
    learnt(tmp_path / "two", epochs="2", **listed)
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
