"""Masks of what is learnt from: what does not count has no part in any loss, on any rank."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from remdm import config
from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.base_agent import DenoiserAgent
from remdm.data.batch import Batch
from remdm.diffusion import BernoulliMasking, MaskedLoss
from remdm.experiment import Experiment
from remdm.maps import NUM_ACTIONS
from remdm.policy_agent import PolicyAgent
from remdm.ranks import ALONE, Ranks
from remdm.token_masks import counted
from remdm.tokens import mask_token
from remdm.training.loss_masks import FirstTokens, WherePlannerErrs, checked, masked
from remdm.training.objectives import KL, CloningLoss, Objectives, OwnLoss
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, learnt, started, tiny_bindings
from tests.training.test_objectives import HORIZON, ROWS, labelled, made

AGENTS: dict[str, Callable[[], DenoiserAgent]] = {
    "flat": made,
    "elbo": partial(made, loss_type=partial(MaskedLoss, weighting="elbo")),
    "subs": partial(made, loss_type=partial(MaskedLoss, weighting="subs")),
    "mgdm": partial(made, loss_type=partial(MaskedLoss, weighting="mgdm")),
    "horizon": partial(made, loss_type=partial(MaskedLoss, normaliser="horizon")),
    "rates": partial(made, corruption_type=partial(BernoulliMasking, draws=2)),
    "aligned": partial(made, inpaint_anchor="aligned", aligned_share=0.8),
    "policy": partial(made, PolicyAgent),
    "twin": partial(made, AutoregressiveAgent),
}


def chance() -> torch.Generator:
    """The same draws wherever it is called, also in several threads."""
    return torch.Generator().manual_seed(5)


def masked_batch() -> Batch:
    """Labels of which some tokens count, of one none, and with some past."""
    drawn = torch.Generator().manual_seed(9)
    tokens = torch.rand(ROWS, HORIZON, generator=drawn) < 0.5
    tokens[2], tokens[0] = False, True
    past = torch.randint(NUM_ACTIONS, (ROWS, HORIZON - 1), generator=drawn)
    past[:3, 2:] = mask_token(NUM_ACTIONS)
    batch = replace(labelled(), past=past)
    return checked(masked(batch, tokens=tokens), batch)


class KLToAnother(KL):
    """KL to a net with other weights."""

    name = "kl"


def scored(agent: DenoiserAgent, batch: Batch) -> dict[str, Tensor]:
    """Loss, scalars and gradients of what is built in."""
    near = KLToAnother()
    near.reference = copy.deepcopy(agent)
    for parameter in near.reference.parameters():
        parameter.data *= 0.9
    loss, metrics = Objectives(agent, (OwnLoss, CloningLoss, near))(batch, chance())
    grads = torch.autograd.grad(loss, list(agent.parameters()), allow_unused=True)
    found = {f"grad {i}": g for i, g in enumerate(grads) if g is not None}
    return {"loss": loss.detach(), **metrics, **found}


@pytest.mark.parametrize("name", list(AGENTS))
def test_tokens_that_do_not_count_are_not_learnt_from(name: str) -> None:
    agent, batch = AGENTS[name](), masked_batch()
    outputs = agent.outputs(batch, chance())
    assert batch.token_mask is not None
    whole = agent.outputs(replace(batch, token_mask=None), chance())
    assert torch.equal(outputs.tokens, whole.tokens)  # shown alike
    assert (outputs.real <= whole.real).all()
    assert outputs.real.any()
    if name != "aligned":
        allowed = batch.token_mask[:, : outputs.real.shape[-1]]
        assert torch.equal(outputs.real, whole.real & allowed)
    leaf = outputs.logits.detach().requires_grad_()
    loss, _ = agent.token_loss(batch, replace(outputs, logits=leaf))
    (grad,) = torch.autograd.grad(loss, leaf)
    moved = grad.abs().sum(-1) > 0
    asked = outputs.real if outputs.corrupted is None else outputs.corrupted.masked
    assert not (moved & ~asked).any()
    assert (moved & outputs.real).any()
    assert not moved[:, 2].any()  # nothing of that label counts


@pytest.mark.parametrize("name", ["flat", "elbo", "rates", "policy", "twin"])
def test_a_mask_of_all_tokens_is_none_bit_for_bit(name: str) -> None:
    agent, batch = AGENTS[name](), labelled()
    everything = masked(batch, tokens=torch.ones(ROWS, HORIZON, dtype=torch.bool))
    one, other = scored(agent, batch), scored(agent, checked(everything, batch))
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_behind_actions_of_the_past_a_label_takes_its_mask_along() -> None:
    agent = made(inpaint_anchor="aligned", aligned_share=1.0)
    assert isinstance(agent, DiffusionPlannerAgent)
    plans = torch.zeros(2, 6, dtype=torch.int64)
    frozen = torch.arange(6) < torch.tensor([[2], [0]])
    tokens = torch.tensor([[True, False, True, False, True, True]] * 2)
    corrupted = agent.corruption(plans, agent.schedule, chance(), frozen)
    found = counted(corrupted, tokens, agent.corruption, plans, frozen)
    assert found.free.tolist() == [2, 4]
    # All that is free is hidden in the first draw.
    assert found.masked[0].long().tolist() == [[0, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 1]]
    assert torch.equal(found.tokens, corrupted.tokens)


def test_the_elbo_of_some_tokens_is_unbiased() -> None:
    agent = made(loss_type=partial(MaskedLoss, weighting="elbo", tail_weight=1.0))
    assert isinstance(agent, DiffusionPlannerAgent)
    plans, tokens = torch.zeros(4000, 6, dtype=torch.int64), torch.tensor([1, 1, 0, 0, 0, 0]).bool()
    drawn = agent.corruption(plans, agent.schedule, chance())
    found = counted(drawn, tokens.expand(4000, 6), agent.corruption, plans, None)
    logits = torch.zeros(*found.masked.shape, NUM_ACTIONS + 1)
    _, told = agent.masked_loss(logits, plans, found)
    nats = torch.log(torch.tensor(NUM_ACTIONS + 1.0))
    # 8,000 draws of a variable of standard deviation below 3 nats: 5 errors of the mean.
    assert abs(told["nelbo"] - 2 * nats) < 5 * 3 * nats / 8000**0.5


@dataclass(frozen=True)
class InThreads(Ranks):
    """The place of a thread among some that share a batch."""

    sums: tuple[Any, ...] = ()

    def means(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `Ranks.means`."""
        barrier, told = self.sums
        told[self.index] = [value.detach() for value in values]
        barrier.wait(60)
        found = tuple(sum(parts) / self.count for parts in zip(*told, strict=True))
        barrier.wait(60)
        return found


def cut(batch: Batch, ranks: Ranks) -> Batch:
    """The rows of one process."""
    assert batch.past is not None
    assert batch.token_mask is not None
    return replace(
        batch,
        observations={k: ranks.own(v) for k, v in batch.observations.items()},
        plans=ranks.own(batch.plans),
        weights=ranks.own(batch.weights),
        env_ids=ranks.own(batch.env_ids),
        past=ranks.own(batch.past),
        token_mask=ranks.own(batch.token_mask),
        ranks=ranks,
    )


@pytest.mark.parametrize("name", list(AGENTS))
def test_ranks_with_unlike_masks_learn_what_one_does_with_all_rows(name: str) -> None:
    batch = masked_batch()
    assert batch.ranks == ALONE
    agents = [AGENTS[name]() for _ in range(2)]
    wanted = scored(agents[0], batch)
    sums, results = (threading.Barrier(2), [None, None]), [{}, {}]  # type: ignore[var-annotated]

    def work(index: int) -> None:
        results[index] = scored(agents[index], cut(batch, InThreads(index, 2, sums)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = results
    assert one.keys() == two.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close((one[key] + two[key]) / 2, value, rtol=1e-5, atol=1e-6)


def test_only_first_tokens_and_only_where_the_planner_errs() -> None:
    agent, batch = made(), labelled()
    first = FirstTokens(count=2)(batch, agent, chance())
    assert first.token_mask is not None
    assert first.token_mask.long().tolist() == [[1, 1, 0, 0, 0, 0]] * ROWS
    right = agent.plan(batch.observations, chance(), greedy=True).tokens
    plans = batch.plans.clone()
    plans[::2] = right[::2]
    plans[1::2, 0] = (right[1::2, 0] + 1) % NUM_ACTIONS
    batch = replace(batch, plans=plans)
    agent.train()
    found = WherePlannerErrs(right=0.25)(batch, agent, chance())
    assert agent.training
    torch.testing.assert_close(found.weights[::2], 0.25 * batch.weights[::2])
    torch.testing.assert_close(found.weights[1::2], batch.weights[1::2])


def test_what_is_no_mask_of_the_batch_is_refused() -> None:
    batch = labelled()
    for edited, said in (
        (replace(batch, weights=batch.weights[1:]), "must be floating"),
        (replace(batch, weights=batch.weights.long()), "must be floating"),
        (replace(batch, weights=-batch.weights), "at least 0"),
        (replace(batch, weights=batch.weights / 0), "finite"),
        (replace(batch, token_mask=torch.ones(ROWS, 2, dtype=torch.bool)), "must be bool"),
        (replace(batch, token_mask=batch.plans), "must be bool"),
    ):
        with pytest.raises(ValueError, match=said) as told:
            checked(edited, batch)
        assert "Experiment.loss_mask_type" in str(told.value)
    with pytest.raises(ValueError, match=r"set FirstTokens.count"):
        FirstTokens(count=0)
    with pytest.raises(ValueError, match=r"set WherePlannerErrs.tokens and"):
        WherePlannerErrs(tokens=0)


class FirstEnvOnly(Experiment):
    """A mask in a subclass: the second environment is not learnt from."""

    def edit_loss_mask(self, batch: Batch) -> Batch:
        return masked(super().edit_loss_mask(batch), states=batch.env_ids == 0)


def test_a_subclass_and_gin_mask_the_same_batches_and_a_run_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    bound = {"loss_mask_type": "@WherePlannerErrs", "epochs": "2", "heldout_envs": "()"}
    whole = learnt(tmp_path / "whole", FirstEnvOnly, **bound)
    assert whole.progress.finished
    stopped = type("Stopping", (stopping("batch", 3), FirstEnvOnly), {})
    assert not learnt(tmp_path / "cut", stopped, **bound).progress.finished
    learnt(tmp_path / "cut", FirstEnvOnly, **bound)
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "cut" / "run")


def test_a_step_learns_from_the_states_that_a_mask_leaves(tmp_path: Path) -> None:
    config.load_config([], tiny_bindings(tmp_path, val_interval="None"))
    run = started(tmp_path, FirstEnvOnly, val_interval="None")
    run.prepare_data()
    batch, seen = run.make_batch(0), []
    model = run.trainers["planner"].model
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run.train_step(batch)
    (learnt_from,) = seen
    assert torch.equal(learnt_from.weights > 0, (batch.weights > 0) & (batch.env_ids == 0))
    assert (batch.env_ids == 1).any()
    run.close()
