import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from remdm.training.tracking import TIME, JsonlLog, read_all, reduce_metrics


@pytest.fixture
def log(tmp_path: Path) -> JsonlLog:
    return JsonlLog(tmp_path / "metrics.jsonl")


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != TIME} for row in rows]


def test_each_line_is_one_json_object(log: JsonlLog) -> None:
    log.write({"epoch": 0, "loss": 0.5})
    log.write({"epoch": 1, "name": "Gr\u00fc\u00dfe"})
    lines = log.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == log.read()
    assert untimed(log.read()) == [
        {"epoch": 0, "loss": 0.5},
        {"epoch": 1, "name": "Gr\u00fc\u00dfe"},
    ]


def test_each_line_has_the_time_at_which_it_was_written(log: JsonlLog) -> None:
    before = time.time()
    log.write({"epoch": 0})
    (row,) = log.read()
    assert before - 0.001 <= row[TIME] <= time.time() + 0.001


def test_nothing_written_is_nothing_read(log: JsonlLog) -> None:
    assert log.read() == []
    assert not log.path.exists()


def test_what_is_no_number_is_null(log: JsonlLog) -> None:
    log.write({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    assert untimed(log.read()) == [{"a": None, "b": None, "c": None, "d": 1.0}]
    assert "NaN" not in log.path.read_text()


def test_lines_torn_by_a_crash_are_left_out_and_harm_no_other(log: JsonlLog) -> None:
    log.write({"epoch": 0})
    with log.path.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert untimed(log.read()) == [{"epoch": 0}]
    assert JsonlLog(log.path).write({"epoch": 2}) == 2
    assert untimed(log.read()) == [{"epoch": 0}, {"epoch": 2}]
    assert list(log.numbered()) == [0, 2]


def test_lines_are_numbered_through_all_starts_and_after_rewinding(log: JsonlLog) -> None:
    assert [log.write({"epoch": epoch}) for epoch in range(3)] == [0, 1, 2]
    size = log.size
    again = JsonlLog(log.path)
    assert [again.write({"epoch": epoch}) for epoch in range(3, 5)] == [3, 4]
    again.rewind(size)
    assert again.write({"epoch": 3}) == 3
    assert [row["epoch"] for row in again.numbered().values()] == [0, 1, 2, 3]


def test_a_log_goes_on_in_the_file_that_is_there(log: JsonlLog) -> None:
    log.write({"epoch": 0})
    JsonlLog(log.path).write({"epoch": 1})
    assert [row["epoch"] for row in log.read()] == [0, 1]


def test_rewinding_forgets_what_came_after_the_checkpoint(log: JsonlLog) -> None:
    log.write({"epoch": 0})
    size = log.size
    log.write({"epoch": 1})
    with log.path.open("a") as file:
        file.write('{"torn')
    log.rewind(size)
    log.write({"epoch": 1, "again": True})
    assert untimed(log.read()) == [{"epoch": 0}, {"epoch": 1, "again": True}]
    log.rewind(10_000)
    assert len(log.read()) == 2
    log.rewind(0)
    assert log.read() == []


def test_rewinding_a_log_that_is_not_there_does_nothing(log: JsonlLog) -> None:
    log.rewind(0)
    assert log.size == 0
    assert not log.path.exists()


def test_lines_of_later_epochs_can_be_forgotten(log: JsonlLog) -> None:
    for epoch in (0, 3, 1, 2):
        log.write({"epoch": epoch})
    log.write({"of no": "epoch"})
    log.forget_from(2)
    assert untimed(log.read()) == [{"epoch": 0}, {"epoch": 1}, {"of no": "epoch"}]
    assert log.write({"epoch": 2}) == 3


def test_a_link_is_neither_written_nor_cut_off(log: JsonlLog, tmp_path: Path) -> None:
    """A run folder that came from elsewhere could have links to anything."""
    (tmp_path / "mine").write_text("dear to me\n")
    log.path.symlink_to("mine")
    with pytest.raises(OSError, match=r"could not be written.*metrics.jsonl"):
        log.write({"epoch": 0})
    with pytest.raises(OSError, match="could not be written"):
        log.rewind(3)
    assert (tmp_path / "mine").read_text() == "dear to me\n"


# All processes of a run


def put(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_of_all_processes_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    put(tmp_path / "metrics.jsonl", {"a": 1, TIME: 1.0}, {"a": 4, TIME: 4.0})
    put(tmp_path / "metrics-collect-0.jsonl", {"b": 2, TIME: 2.0}, {"b": 5, TIME: 5.0})
    put(tmp_path / "metrics-validate-0.jsonl", {"c": 3, TIME: 3.0})
    put(tmp_path / "metrics-of-somebody.jsonl", {"d": 3, TIME: 3.0})
    assert untimed(read_all(tmp_path)) == [
        {"a": 1},
        {"b": 2, "role": "collect-0"},
        {"c": 3, "role": "validate-0"},
        {"a": 4},
        {"b": 5, "role": "collect-0"},
    ]


def test_lines_of_one_process_stay_in_order_where_the_clock_jumps_or_is_missing(
    tmp_path: Path,
) -> None:
    rows = ({"a": 1}, {"a": 2, TIME: 9.0}, {"a": 3, TIME: 2.0}, {"a": 4}, {"a": 5, TIME: "x"})
    put(tmp_path / "metrics.jsonl", *rows)
    put(tmp_path / "metrics-collect-1.jsonl", {"b": 1, TIME: 1.0})
    found = read_all(tmp_path)
    assert [row["a"] for row in found if "a" in row] == [1, 2, 3, 4, 5]
    assert [row.get("role") for row in found] == [None, "collect-1", None, None, None, None]


def test_a_run_without_metrics_has_no_lines(tmp_path: Path) -> None:
    assert read_all(tmp_path) == []


def test_one_process_reduces_to_its_own_numbers() -> None:
    accelerator = Accelerator(cpu=True)
    assert reduce_metrics(accelerator, {"a": 1, "b": 0.5}, "mean") == {"a": 1.0, "b": 0.5}
    assert reduce_metrics(accelerator, {"a": 2}, "sum") == {"a": 2.0}
