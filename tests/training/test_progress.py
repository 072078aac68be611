"""The counters of a run, and the line that shows them."""

import io
import json
import sys
import time

import pytest

from remdm.training.progress import Means, Progress, ProgressBar, steps_text, time_text


def some_progress() -> Progress:
    progress = Progress(epoch=3, env_steps=12_345, best_score=0.5)
    progress.collect.env_steps = 40
    progress.collect.episodes["a"] += 3
    progress.collect.wins["a"] += 1
    progress.collect.nfe = 0.1
    progress.collected = True
    progress.metrics = {"collect/beta": 0.25}
    progress.count_batch({"loss": 0.1, "norm": 2.0})
    progress.count_batch({"loss": 0.2})
    return progress


def test_counters_survive_json_exactly() -> None:
    progress = some_progress()
    again = Progress.from_dict(json.loads(json.dumps(progress.to_dict())))
    assert again == progress
    for each in (progress, again):
        each.count_batch({"loss": 0.7})
        each.collect.wins["b"] += 1  # an environment that was not met before
    assert again == progress
    assert again.epoch_means.result() == progress.epoch_means.result()


def test_saved_counters_do_not_change_with_the_run() -> None:
    progress = some_progress()
    saved = progress.to_dict()
    before = json.dumps(saved)
    progress.count_batch({"loss": 9.0})
    progress.collect.episodes["a"] += 1
    progress.metrics["more"] = 1.0
    assert json.dumps(saved) == before


def test_next_epoch_forgets_what_belonged_to_the_last_one() -> None:
    progress = some_progress()
    assert progress.within_epoch
    progress.next_epoch()
    assert not progress.within_epoch
    assert (progress.epoch, progress.batches, progress.total_batches) == (4, 0, 2)
    assert progress.metrics == {}
    assert progress.epoch_means == Means()
    assert progress.recent_means.counts["loss"] == 2  # its line is not written yet
    assert progress.collect.env_steps == 0


def test_epoch_is_begun_by_its_first_step() -> None:
    progress = Progress()
    assert not progress.within_epoch
    progress.collect.env_steps = 1
    assert progress.within_epoch


def test_means_weigh_every_value_alike() -> None:
    means = Means()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": value})
    means.add({"rare": 5.0})
    assert means.result("train/") == {"train/loss": 3.0, "train/rare": 5.0}


def test_line_tells_epoch_steps_facts_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(epoch=2, env_steps=5_000)
    bar = ProgressBar(progress, 10, 4, shown=False)
    assert bar.line(progress, "collecting") == "epoch 3/10 collecting | 5k steps"
    now += 60.0
    progress.batches = 2  # half an epoch in a minute, seven and a half to go
    bar.note(loss="0.31", win="0.80")
    assert bar.line(progress, "training") == (
        "epoch 3/10 training | 5k steps | loss 0.31 | win 0.80 | 15:00 left"
    )
    progress.epoch, progress.batches = 10, 0
    assert "left" not in bar.line(progress)
    assert bar.line(progress).startswith("epoch 10/10 |")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_is_one_line_that_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(env_steps=100)
    bar = ProgressBar(progress, 2, 4, shown=True)
    bar.drawn = -1.0
    bar.show(progress, "training")
    progress.epoch = 2
    bar.close(progress)
    assert "epoch 1/2 training | 100 steps" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1


def test_hidden_bar_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = ProgressBar(Progress(), 2, 4, shown=False)
    bar.show(Progress(), "training")
    bar.close(Progress(epoch=2))
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("steps", "text"),
    [(0, "0 steps"), (999, "999 steps"), (12_345, "12.3k steps"), (4_567_000, "4.57M steps")],
)
def test_steps_are_told_in_few_characters(steps: int, text: str) -> None:
    assert steps_text(steps) == text


def test_times_are_told_as_clocks_tell_them() -> None:
    assert [time_text(s) for s in (0.2, 62.7, 3723)] == ["00:00", "01:03", "1:02:03"]
