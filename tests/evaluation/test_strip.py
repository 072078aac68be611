"""The strip of a plan: what it reads from a trace, and what the drawings of it show."""

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.diffusion import PlanSample, sampler_preset
from remdm.diffusion.interface import TraceStep
from remdm.evaluation.strip import Strip, strip_image, strip_text, token_symbol, write_png

ACTIONS, HORIZON = 12, 4
MASK, END = 12, 13


def step(tokens, revealed, remasked, confidence) -> TraceStep:
    """A step of a batch of one."""
    return TraceStep(
        tokens=torch.tensor([tokens]),
        revealed=torch.tensor([revealed], dtype=torch.bool),
        remasked=torch.tensor([remasked], dtype=torch.bool),
        confidence=torch.tensor([confidence]),
        believed=torch.tensor([[1, 2, 3, END]]),
    )


def sample_of(steps: list[TraceStep] | None, plan: list[int], nfe: int) -> PlanSample:
    zeros = torch.zeros(1, HORIZON)
    return PlanSample(
        torch.tensor([plan]), torch.tensor([2]), zeros[:, 0], torch.tensor([nfe]), zeros, steps
    )


# East is revealed, then nothing happens, then east is masked again and south and END come, then
# north; a fifth call was made for other rows only.
STEPS = [
    step([1, MASK, MASK, MASK], [1, 0, 0, 0], [0, 0, 0, 0], [0.9, 0.2, 0.3, 0.4]),
    step([1, MASK, MASK, MASK], [0, 0, 0, 0], [0, 0, 0, 0], [0.8, 0.2, 0.3, 0.4]),
    step([MASK, 2, END, END], [0, 1, 1, 1], [1, 0, 0, 0], [0.7, 0.6, 0.5, 0.4]),
    step([0, 2, END, END], [1, 0, 0, 0], [0, 0, 0, 0], [0.95, 0.1, 0.1, 0.1]),
    step([0, 2, END, END], [0, 0, 0, 0], [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
]
SAMPLE = sample_of(STEPS, [0, 2, END, END], nfe=4)


def test_calls_that_changed_nothing_are_left_out():
    strip = Strip.of(SAMPLE, ACTIONS, 2)
    assert strip.calls.tolist() == [1, 3, 4]
    assert strip.tokens.tolist() == [[1, MASK, MASK, MASK], [MASK, 2, END, END], [0, 2, END, END]]
    assert strip.nfe == 4


def test_marks_say_what_each_call_revealed_and_masked_again():
    strip = Strip.of(SAMPLE, ACTIONS, 2)
    assert strip.revealed.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    assert strip.remasked.astype(int).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_tokens_keep_the_confidence_of_the_call_that_revealed_them():
    strip = Strip.of(SAMPLE, ACTIONS, 2)
    assert strip.confidence == pytest.approx(
        np.array([[0.9, 0.2, 0.3, 0.4], [0.7, 0.6, 0.5, 0.4], [0.95, 0.6, 0.5, 0.4]])
    )


def test_of_many_calls_evenly_spread_ones_are_shown_and_marks_compare_those():
    strip = Strip.of(SAMPLE, ACTIONS, 2, max_rows=2)
    assert strip.calls.tolist() == [1, 4]
    assert strip.revealed[1].tolist() == [True] * 4  # east has become north in between
    assert not strip.remasked.any()


def test_a_plan_that_needed_no_call_has_no_rows_but_itself():
    strip = Strip.of(sample_of([], [0, 2, END, END], nfe=0), ACTIONS, 2)
    assert strip.tokens.shape == (0, HORIZON)
    assert "plan" in strip_text(strip).plain
    assert strip_image(strip, "locked").ndim == 3


def test_a_sample_without_trace_is_refused():
    with pytest.raises(ValueError, match="trace=True"):
        Strip.of(sample_of(None, [0, 2, END, END], nfe=4), ACTIONS, 2)


def test_symbols_are_arrows_initials_and_numbers_for_unknown_action_sets():
    assert [token_symbol(token, ACTIONS) for token in (0, 1, 7, 8, MASK, END)] == list(
        "\u2191\u2192\u2196O\u00b7\u25a0"
    )
    assert [token_symbol(token, 4) for token in (0, 3, 4, 5)] == ["0", "3", "\u00b7", "\u25a0"]


def test_text_is_legible_without_colours():
    text = strip_text(Strip.of(SAMPLE, ACTIONS, 2)).plain
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["1", "+\u2192", "\u00b7", "\u00b7", "\u00b7"]
    assert lines[2] == ["3", "x\u00b7", "+\u2193", "+\u25a0", "+\u25a0"]
    assert lines[3] == ["4", "+\u2191", "\u2193", "\u25a0", "\u25a0"]
    assert lines[4] == ["plan", "\u2191", "\u2193", "\u25a0", "\u25a0"]


def test_picture_frames_what_was_revealed_and_masked_again(tmp_path):
    """Pixels in the frame colours lie in the rows and columns of the marks, nowhere else."""
    strip = Strip.of(SAMPLE, ACTIONS, 2)
    picture = strip_image(strip, "a plan")
    for colour, marks in (((226, 232, 240), strip.revealed), ((248, 96, 96), strip.remasked)):
        for row, column in np.ndindex(3, HORIZON):
            top, left = 56 + row * 29, 54 + column * 29
            edge = picture[top + 1, left + 8 : left + 18]
            assert (edge == colour).all() == marks[row, column]
    write_png(tmp_path / "new folder" / "strip.png", picture)
    assert (tmp_path / "new folder" / "strip.png").read_bytes().startswith(b"\x89PNG")


def test_strip_of_a_sampler_that_remasks_ends_in_its_plan():
    def denoise(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(int((tokens == MASK).sum()))
        return torch.randn(*tokens.shape, ACTIONS + 1, generator=generator)

    sampler = sampler_preset("readme_minihack", ACTIONS)
    generator = torch.Generator().manual_seed(0)
    sample = sampler.sample(denoise, 3, 16, generator, trace=True)
    for row in range(3):
        strip = Strip.of(sample, ACTIONS, 4, row=row)
        assert (strip.tokens[-1] != MASK).all()
        first_end = int(sample.lengths[row])
        assert strip.tokens[-1, :first_end].tolist() == strip.plan[:first_end].tolist()
