import json
import math
import sys

import pytest
from accelerate import Accelerator

from remdm.training import tracking
from remdm.training.tracking import JsonlLog, reduce_metrics


@pytest.fixture
def log(tmp_path):
    return JsonlLog(tmp_path / "metrics.jsonl")


def test_each_line_is_one_json_object(log):
    log.write({"epoch": 0, "loss": 0.5})
    log.write({"epoch": 1, "name": "Gr\u00fc\u00dfe"})
    lines = log.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == log.read()
    assert log.read() == [{"epoch": 0, "loss": 0.5}, {"epoch": 1, "name": "Gr\u00fc\u00dfe"}]


def test_nothing_written_is_nothing_read(log):
    assert log.read() == []
    assert not log.path.exists()


def test_what_is_no_number_is_null(log):
    log.write({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    assert log.read() == [{"a": None, "b": None, "c": None, "d": 1.0}]
    assert "NaN" not in log.path.read_text()


def test_lines_torn_by_a_crash_are_left_out(log):
    log.write({"epoch": 0})
    with log.path.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert log.read() == [{"epoch": 0}]


def test_a_log_goes_on_in_the_file_that_is_there(log):
    log.write({"epoch": 0})
    JsonlLog(log.path).write({"epoch": 1})
    assert [row["epoch"] for row in log.read()] == [0, 1]


def test_rewinding_forgets_what_came_after_the_checkpoint(log):
    log.write({"epoch": 0})
    size = log.size
    log.write({"epoch": 1})
    with log.path.open("a") as file:
        file.write('{"torn')
    log.rewind(size)
    log.write({"epoch": 1, "again": True})
    assert log.read() == [{"epoch": 0}, {"epoch": 1, "again": True}]
    log.rewind(10_000)
    assert len(log.read()) == 2
    log.rewind(0)
    assert log.read() == []


def test_rewinding_a_log_that_is_not_there_does_nothing(log):
    log.rewind(0)
    assert log.size == 0
    assert not log.path.exists()


def test_a_missing_package_is_answered_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"wandb is needed here.*pip install -e '\.\[wandb\]'"):
        tracking.check_trackers(["wandb"])


def test_an_unknown_tracker_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'wandbb': did you mean 'wandb'"):
        tracking.check_trackers(["wandbb"])
    tracking.check_trackers([])


def test_one_process_reduces_to_its_own_numbers():
    accelerator = Accelerator(cpu=True)
    assert reduce_metrics(accelerator, {"a": 1, "b": 0.5}, "mean") == {"a": 1.0, "b": 0.5}
    assert reduce_metrics(accelerator, {"a": 2}, "sum") == {"a": 2.0}
