"""Starting, restarting and stopping real processes, which stand in for the roles of a run."""

import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from remdm.distributed.launch import DONE, STOPPED, USER_ERROR, Part, Supervisor, Team
from remdm.distributed.local_engine import LocalEngine, thread_settings
from remdm.distributed.role_logs import RoleLog
from tests.distributed.processes import HANGS_S, Child, children

# What every stand-in can do; it counts its starts in a file of its name.
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
def stop(number, frame):
    (folder / f"{name}.asked").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
with (folder / name).open("a") as file:
    file.write("x")
start = (folder / name).stat().st_size
def wait_for(*names):
    while not all((folder / n).exists() for n in names):
        time.sleep(0.01)
def make(n):
    (folder / n).touch()
"""
TO_THE_END = "wait_for('DONE')"
FOR_EVER = "wait_for('never')"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr("remdm.distributed.launch.POLL_SECONDS", 0.02)


def part(folder: Path, role: str, code: str, index: int = 0, ranks: int = 1) -> Part:
    words = ("-I", "-c", PRELUDE + code, str(folder), f"{role}-{index}")
    return Part(role, index, words, ranks=ranks)


def supervisor(folder: Path, *parts: Part, mark=lambda part: None, **numbers) -> Supervisor:
    numbers = {"restart_seconds": 0.0, "grace_seconds": HANGS_S} | numbers
    return Supervisor(LocalEngine(folder, len(parts)), parts, mark, **numbers)


def starts(folder: Path, name: str) -> int:
    return (folder / name).stat().st_size


def wait_until(condition) -> None:
    end = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < end, "this never became true"
        time.sleep(0.01)


# ------------------------------------------------------------------------------- what happens


def test_a_run_is_done_when_its_learner_and_validator_are(tmp_path):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", "wait_for('collect-0', 'collect-1', 'label-0'); make('DONE')"),
        part(tmp_path, "validate", TO_THE_END),
        part(tmp_path, "label", TO_THE_END),
        part(tmp_path, "collect", TO_THE_END, 0),
        part(tmp_path, "collect", TO_THE_END, 1),
    ).run()
    assert code == DONE
    assert not list(tmp_path.glob("*.asked"))  # all ended by themselves
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        f"{name}.log" for name in ("learn-0", "validate-0", "label-0", "collect-0", "collect-1")
    }


def test_a_part_that_does_not_notice_the_end_is_asked_to_stop(tmp_path):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", "wait_for('collect-0')"),
        part(tmp_path, "collect", FOR_EVER),
        grace_seconds=0.0,
    ).run()
    assert code == DONE


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)", "1 / 0"])
def test_what_dies_is_started_again(tmp_path, end):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", TO_THE_END),
        part(tmp_path, "collect", f"if start < 3: {end}\nmake('DONE')"),
    ).run()
    assert code == DONE
    assert starts(tmp_path, "collect-0") == 3
    assert starts(tmp_path, "learn-0") == 1


def test_an_error_that_a_person_must_mend_stops_everything_and_is_shown(tmp_path, caplog):
    caplog.set_level(logging.INFO, "remdm")
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", FOR_EVER),
        part(tmp_path, "collect", FOR_EVER),
        part(
            tmp_path,
            "label",
            "wait_for('learn-0', 'collect-0'); print('set Oracle.level = 3'); sys.exit(2)",
        ),
    ).run()
    assert code == USER_ERROR
    assert starts(tmp_path, "label-0") == 1
    assert {path.name for path in tmp_path.glob("*.asked")} == {"learn-0.asked", "collect-0.asked"}
    assert "label-0 found an error that starting again cannot mend" in caplog.text
    assert "set Oracle.level = 3" in caplog.text


def test_a_part_that_achieves_nothing_is_given_up(tmp_path, caplog):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", FOR_EVER),
        part(tmp_path, "collect", "sys.exit('no such device')"),
        max_restarts=2,
    ).run()
    assert code == 1
    assert starts(tmp_path, "collect-0") == 3
    assert "after 2 restarts in a row without progress" in caplog.text


def test_restarts_after_progress_do_not_count(tmp_path):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", TO_THE_END),
        part(tmp_path, "collect", "if start < 6: sys.exit(1)\nmake('DONE')"),
        mark=lambda part: starts(tmp_path, part.name),
        max_restarts=1,
    ).run()
    assert code == DONE
    assert starts(tmp_path, "collect-0") == 6


def test_the_pause_before_a_restart_doubles_up_to_half_a_minute(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("remdm.distributed.launch.MOST_PAUSE_SECONDS", 0.03)
    supervisor(
        tmp_path,
        part(tmp_path, "collect", "sys.exit(1)"),
        max_restarts=3,
        restart_seconds=0.01,
    ).run()
    pauses = [record.args[2] for record in caplog.records if "started again" in record.msg]
    assert pauses == [0.01, 0.02, 0.03]


def test_a_collector_that_somebody_stopped_stays_stopped(tmp_path):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", "wait_for('stopped'); make('DONE')"),
        part(tmp_path, "collect", "make('stopped'); sys.exit(130)"),
    ).run()
    assert code == DONE
    assert starts(tmp_path, "collect-0") == 1


def test_all_stop_with_the_learner(tmp_path):
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", "wait_for('collect-0'); sys.exit(130)"),
        part(tmp_path, "collect", FOR_EVER),
    ).run()
    assert code == STOPPED
    assert (tmp_path / "collect-0.asked").exists()


def test_without_a_learner_here_all_must_be_done(tmp_path):
    parts = [part(tmp_path, "collect", "pass", index) for index in (4, 5)]
    assert supervisor(tmp_path, *parts).run() == DONE
    parts = [part(tmp_path, "collect", "sys.exit(130 * (name == 'collect-5'))", i) for i in (4, 5)]
    assert supervisor(tmp_path, *parts).run() == STOPPED


def test_a_part_that_ignores_requests_is_killed(tmp_path, caplog):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); make('deaf'); " + FOR_EVER
    code = supervisor(
        tmp_path,
        part(tmp_path, "learn", "wait_for('deaf'); sys.exit(2)"),
        part(tmp_path, "collect", deaf),
        grace_seconds=0.2,
    ).run()
    assert code == USER_ERROR
    assert "collect-0 did not end within 0.2 s (--grace_seconds)" in caplog.text


# ---------------------------------------------------------------------------- several as one


def test_processes_that_work_as_one_know_each_other(tmp_path):
    code = "make(':'.join(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')))"
    assert supervisor(tmp_path, part(tmp_path, "learn", code, ranks=3)).run() == DONE
    assert sorted(path.name for path in tmp_path.glob("*:*")) == ["0:0:3", "1:1:3", "2:2:3"]
    assert (tmp_path / "logs/learn-0.2.log").exists()


def test_one_dead_process_of_several_is_a_restart_of_all(tmp_path):
    """The others would wait for it for ever."""
    code = """
rank = int(os.environ['RANK'])
make(f"{rank}.{os.environ['MASTER_PORT']}")
wait_for(*[p.name for p in folder.glob('again')] or ['never']) if rank != 1 else None
if not (folder / 'again').exists():
    make('again')
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert supervisor(tmp_path, part(tmp_path, "learn", code, ranks=3)).run() == DONE
    assert starts(tmp_path, "learn-0") >= 4


class Ended:
    """A job with a given exit code."""

    def __init__(self, code: int | None) -> None:
        self._code = code
        self.sent: list[int] = []

    def code(self) -> int | None:
        return self._code

    def send(self, signal_number: int) -> None:
        self.sent.append(signal_number)


@pytest.mark.parametrize(
    ("codes", "whole"),
    [
        ((0, 0), 0),
        ((0, 130), 130),
        ((-9, 1), 1),  # the killed one was not the cause
        ((-9, 2, 1), 2),
        ((-9, 0), -9),
        ((1, None), None),
    ],
)
def test_the_cause_counts_among_several_exit_codes(codes, whole):
    team = Team.__new__(Team)
    team._jobs = [Ended(code) for code in codes]
    assert team.code() == whole
    sent = [job.sent for job in team._jobs]
    assert sent == ([[signal.SIGKILL]] * 2 if None in codes else [[]] * len(codes))


# ------------------------------------------------------------------------------- the launcher

LAUNCHER = """
import json, sys
from pathlib import Path
from remdm.distributed import launch
from remdm.distributed.launch import Part, Supervisor
from remdm.distributed.local_engine import LocalEngine
launch.ONE_REQUEST_SECONDS = float(sys.argv[4])
folder = Path(sys.argv[2])
parts = [Part(role, 0, tuple(words)) for role, words in json.loads(sys.argv[3])]
engine = LocalEngine(folder, 2)
print("code", Supervisor(engine, parts, lambda part: None).run(), flush=True)
"""
STUBBORN = """
def twice(number, frame):
    make('once')
    signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGTERM, twice)
make('ready')
"""


def launcher(folder: Path, *parts: Part, one_request_seconds: float = 0.0):
    words = json.dumps([(p.role, p.words) for p in parts])
    return children(1, LAUNCHER, folder, words, one_request_seconds)


def code_of(child: Child) -> int:
    while not (line := child.hear()).startswith("code "):
        pass
    return int(line.removeprefix("code "))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_passed_on_and_waited_for(tmp_path, number):
    one, two = part(tmp_path, "learn", FOR_EVER), part(tmp_path, "collect", FOR_EVER)
    with launcher(tmp_path, one, two) as (child,):
        wait_until(lambda: (tmp_path / "learn-0").exists() and (tmp_path / "collect-0").exists())
        child.send(number)
        assert code_of(child) == STOPPED
    assert {p.name for p in tmp_path.glob("*.asked")} == {"learn-0.asked", "collect-0.asked"}


def test_a_second_request_is_passed_on_as_well(tmp_path):
    with launcher(tmp_path, part(tmp_path, "learn", STUBBORN + FOR_EVER)) as (child,):
        wait_until((tmp_path / "ready").exists)
        child.send(signal.SIGTERM)
        wait_until((tmp_path / "once").exists)
        child.send(signal.SIGTERM)
        assert code_of(child) == STOPPED


def test_requests_that_come_together_are_one(tmp_path):
    stubborn = part(tmp_path, "learn", STUBBORN + "wait_for('go')")
    with launcher(tmp_path, stubborn, one_request_seconds=HANGS_S) as (child,):
        wait_until((tmp_path / "ready").exists)
        child.send(signal.SIGTERM)
        child.send(signal.SIGINT)
        wait_until((tmp_path / "once").exists)
        child.send(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert code_of(child) == DONE
    assert not (tmp_path / "learn-0.asked").exists()


def test_where_the_launcher_fails_the_parts_are_asked_to_stop(tmp_path):
    one = part(tmp_path, "learn", "wait_for('collect-0'); os.kill(os.getpid(), signal.SIGKILL)")

    def fail(part: Part) -> object:
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="the folder is gone"):
        supervisor(tmp_path, one, part(tmp_path, "collect", FOR_EVER), mark=fail).run()
    assert (tmp_path / "collect-0.asked").exists()


def test_a_killed_launcher_leaves_nobody_behind(tmp_path):
    one, two = part(tmp_path, "learn", FOR_EVER), part(tmp_path, "collect", FOR_EVER)
    with launcher(tmp_path, one, two) as (child,):
        wait_until(lambda: (tmp_path / "learn-0").exists() and (tmp_path / "collect-0").exists())
        child.send(signal.SIGKILL)
        for name in ("learn-0", "collect-0"):
            RoleLog(tmp_path / "logs", name, HANGS_S).close()  # waits for the end of its process
    assert {p.name for p in tmp_path.glob("*.asked")} == {"learn-0.asked", "collect-0.asked"}


def test_where_nobody_reads_what_is_printed_the_parts_are_asked_to_stop(tmp_path):
    talks = part(tmp_path, "learn", "wait_for('say'); print('hello', flush=True);" + FOR_EVER)
    with launcher(tmp_path, talks) as (child,):
        wait_until((tmp_path / "learn-0").exists)
        assert child.process.stdout is not None
        child.process.stdout.close()
        (tmp_path / "say").touch()
        RoleLog(tmp_path / "logs", "learn-0", HANGS_S).close()
    assert (tmp_path / "learn-0.asked").exists()


def test_one_role_is_not_started_twice_on_a_machine(tmp_path):
    with launcher(tmp_path, part(tmp_path, "collect", FOR_EVER)) as (child,):
        wait_until((tmp_path / "collect-0").exists)
        with pytest.raises(ValueError, match=r"collect-0 of this run .* --first_index"):
            RoleLog(tmp_path / "logs", "collect-0", 0.0)
        child.send(signal.SIGTERM)
        assert code_of(child) == STOPPED


# ------------------------------------------------------------------------------- its output


def test_lines_are_printed_with_the_name_of_their_process(tmp_path, capsys):
    code = "print('one\\ntwo \\x1b[31m', flush=True); sys.stderr.write('half'); wait_for('again')"
    supervisor(
        tmp_path,
        part(tmp_path, "learn", code),
        part(tmp_path, "collect", "print(start, end=''); start < 2 and sys.exit(1); make('again')"),
    ).run()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("learn-0 ")] == [
        "learn-0   | one",
        "learn-0   | two \\x1b[31m",
        "learn-0   | half",
    ]
    assert [line for line in lines if line.startswith("collect-0 ")] == [
        "collect-0 | 1",
        "collect-0 | 2",
    ]
    log = (tmp_path / "logs/collect-0.log").read_text()
    assert [line[:4] for line in log.splitlines()] == ["--- ", "1", "--- ", "2"]


def test_threads_are_shared_out_unless_a_person_has(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert thread_settings(1) == {"OMP_NUM_THREADS": str(cores)}
    assert thread_settings(10 * cores) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_settings(1) == {}


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--max_restarts, .* must be at least 0, got -1"):
        supervisor(tmp_path, max_restarts=-1)
