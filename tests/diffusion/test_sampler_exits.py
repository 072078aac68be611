"""Early exits of samplers that remask (method table, test 30)."""

import pytest
import torch

from remdm.diffusion.grids import LoopGrid, SwitchGrid
from remdm.diffusion.presets import sampler_preset
from remdm.diffusion.remask import CapRemask, RescaleRemask
from remdm.diffusion.reveal import BernoulliReveal, CountReveal
from remdm.diffusion.sampler import Sampler
from tests.diffusion.test_sampler import A, RandomModel, generator

SAMPLERS = {
    "loop": {"grid": LoopGrid(num_steps=12, t_on=0.6, t_off=0.3), "reveal": BernoulliReveal()},
    "loop by count": {"grid": LoopGrid(num_steps=12, t_on=0.6, t_off=0.3), "reveal": CountReveal()},
    "switch": {"grid": SwitchGrid(num_steps=9), "reveal": BernoulliReveal()},
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("window", [2, 12])
def test_stopping_once_nothing_can_be_remasked_keeps_what_is_executed(
    name: str, window: int
) -> None:
    samples = []
    for early_exit in (True, False):
        sampler = Sampler(
            A,
            remask=RescaleRemask(eta=0.5),
            window_first=False,
            early_exit=early_exit,
            **SAMPLERS[name],
        )
        samples.append(sampler.sample(RandomModel(40), 40, 12, generator(2), window=window))
    early, late = samples
    assert early.tokens[:, :window].equal(late.tokens[:, :window])
    assert (early.nfe <= late.nfe).all()
    assert late.nfe.tolist() == [len(sampler._steps)] * 40
    if name != "switch":
        assert float(early.nfe.float().mean()) < float(late.nfe.float().mean())


@pytest.mark.parametrize("name", ["head_2026_08", "readme_minihack", "readme_craftax_loop", "swap"])
def test_presets_that_remask_give_the_same_plans_with_and_without_early_exit(name: str) -> None:
    early, late = (
        sampler_preset(name, A, early_exit=early_exit).sample(RandomModel(40), 40, 16, generator(3))
        for early_exit in (True, False)
    )
    assert early.tokens.equal(late.tokens)
    assert early.token_log_probs.equal(late.token_log_probs)
    assert (early.nfe <= late.nfe).all()


def test_no_row_stops_while_a_later_step_may_remask() -> None:
    sampler = Sampler(
        A,
        grid=LoopGrid(num_steps=10, t_on=0.7, t_off=0.2),
        reveal=BernoulliReveal(),
        remask=CapRemask(eta=0.5),
        window_first=False,
    )
    sample = sampler.sample(RandomModel(64), 64, 4, generator(), window=1)
    # Phases of 3, 5 and 2 steps: the earliest exit is after the last step that remasks.
    assert sampler.grid.phases == (3, 5, 2)
    assert int(sample.nfe.min()) == 8
    assert torch.equal(sample.nfe.clamp(8, 10), sample.nfe)
