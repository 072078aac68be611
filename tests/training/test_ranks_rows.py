"""What the processes of a run draw for their rows; none of this needs a second process."""

from functools import partial

import pytest
import torch

from remdm.anchors import with_past
from remdm.diffusion import BernoulliMasking, CountMasking, LinearSchedule
from remdm.diffusion.corruption import Corruption
from remdm.ranks import Ranks, lost_process_told
from remdm.tokens import end_token, mask_token

ACTIONS, ROWS, HORIZON, PROCESSES = 5, 4, 7, 3
ALL = [Ranks(index, PROCESSES) for index in range(PROCESSES)]


def whole_plans() -> torch.Tensor:
    chance = torch.Generator().manual_seed(7)
    plans = torch.randint(ACTIONS, (ROWS * PROCESSES, HORIZON), generator=chance)
    lengths = torch.randint(HORIZON + 1, (ROWS * PROCESSES, 1), generator=chance)
    return plans.where(torch.arange(HORIZON) < lengths, end_token(ACTIONS))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_parts_are_the_whole_cut_in_order() -> None:
    rows = torch.arange(2 * ROWS * PROCESSES).view(2, -1)
    assert {ranks.whole(ROWS) for ranks in ALL} == {rows.shape[1]}
    cut = [ranks.own(rows, 1) for ranks in ALL]
    assert torch.equal(torch.cat(cut, 1), rows)
    for ranks, part in zip(ALL, cut, strict=True):
        assert torch.equal(rows[:, ranks.part(ROWS)], part)


def test_alone_everything_is_ones_own() -> None:
    rows = torch.arange(ROWS)
    alone = Ranks()
    assert alone.own(rows) is rows
    assert alone.means(rows) == (rows,)
    assert range(ROWS)[alone.part(ROWS)] == range(alone.whole(ROWS))


@pytest.mark.parametrize(
    "corruption",
    [
        CountMasking(ACTIONS, draws=3, full_draws=1),
        CountMasking(ACTIONS, low_discrepancy=False, pad_mode="visible"),
        BernoulliMasking(ACTIONS, draws=2),
        BernoulliMasking(ACTIONS, low_discrepancy=False, uniform_in="time"),
    ],
    ids=["counts", "independent counts", "rates", "independent times"],
)
def test_masks_of_all_processes_are_those_of_one_with_all_rows(corruption: Corruption) -> None:
    plans, schedule = whole_plans(), LinearSchedule()
    frozen = torch.arange(HORIZON) < torch.arange(len(plans))[:, None] % 3
    mask = partial(corruption, schedule=schedule)
    whole = mask(plans, generator=generator(), frozen=frozen)
    parts = [
        mask(ranks.own(plans), generator=generator(), frozen=ranks.own(frozen), ranks=ranks)
        for ranks in ALL
    ]
    for name in ("tokens", "masked", "time", "rate", "counts", "elbo_weight", "time_weight"):
        together = torch.cat([getattr(part, name) for part in parts], 1)
        assert torch.equal(together, getattr(whole, name))
    assert torch.equal(torch.cat([part.free for part in parts]), whole.free)


def test_prefixes_of_all_processes_are_those_of_one_with_all_rows() -> None:
    plans = whole_plans()
    past = torch.randint(ACTIONS, (len(plans), 4), generator=generator())
    past[::3, 2:] = mask_token(ACTIONS)
    whole = with_past(plans, past, 0.5, generator(), ACTIONS)
    parts = [
        with_past(ranks.own(plans), ranks.own(past), 0.5, generator(), ACTIONS, ranks)
        for ranks in ALL
    ]
    for alone, cut in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(cut), alone)


def test_errors_that_are_not_about_processes_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), lost_process_told():
        raise RuntimeError("shapes differ")
