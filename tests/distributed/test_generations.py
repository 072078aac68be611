"""Numbered files: every number is made once, however late a rival comes."""

import json

from remdm.distributed.generations import GenerationLog
from tests.distributed.processes import children

APPEND = """
import json, sys
from pathlib import Path
from remdm.distributed.generations import GenerationLog
log = GenerationLog(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
made = [number for number in range(1, 41) if log.append(number, b"x")]
print(json.dumps(made), flush=True)
"""


def test_no_number_of_a_log_is_made_twice_by_processes_that_race_and_lag(tmp_path):
    with children(4, APPEND, tmp_path) as racers:
        assert {child.hear() for child in racers} == {"ready"}
        for child in racers:
            child.tell()
        made = [number for child in racers for number in json.loads(child.hear())]
    assert len(made) == len(set(made))
    assert max(made) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["generation-0000000040.json"]


def test_a_rival_that_slept_withdraws_from_a_number_that_was_used_before(tmp_path):
    log = GenerationLog(tmp_path)
    (tmp_path / ".generation-3-killed.tmp").write_bytes(b"")
    (tmp_path / "1.json").write_bytes(b"not ours")
    assert log.append(4, b"a")
    assert log.append(5, b"b")
    assert not log.append(5, b"c")
    assert not log.append(2, b"d")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1.json",
        "generation-0000000005.json",
    ]
    assert log.path(5).read_bytes() == b"b"
