"""The roles of a run as actors of a real Ray cluster on this machine."""

from pathlib import Path

import pytest

from remdm.distributed.launch import DONE, USER_ERROR, Part, Supervisor
from remdm.distributed.ray_engine import RayEngine
from tests.distributed.test_launch import FOR_EVER, HANGS_S, PRELUDE, TO_THE_END, starts

pytestmark = pytest.mark.slow


def part(folder: Path, role: str, code: str, index: int = 0, ranks: int = 1) -> Part:
    """A role that a script stands in for."""
    script = folder / f"{role}.py"
    script.write_text(PRELUDE + code)
    return Part(role, index, (str(script), str(folder), f"{role}-{index}"), ranks=ranks)


def run(address: str, folder: Path, *parts: Part) -> int:
    engine = RayEngine(folder, list(parts), address=address)
    return Supervisor(
        engine, parts, lambda part: None, restart_seconds=0.0, grace_seconds=HANGS_S
    ).run()


def test_a_killed_actor_comes_back_and_the_run_ends_well(ray_address, tmp_path, capfd):
    die = "print('hello', start); start < 3 and os.kill(os.getpid(), signal.SIGKILL)\n"
    code = run(
        ray_address,
        tmp_path,
        part(tmp_path, "learn", "wait_for('enough'); make('DONE')"),
        part(tmp_path, "collect", die + "make('enough')\n" + TO_THE_END),
        part(tmp_path, "label", "start < 2 and 1 / 0\n" + TO_THE_END),
    )
    assert code == DONE
    assert starts(tmp_path, "collect-0") == 3
    assert starts(tmp_path, "label-0") == 2
    log = (tmp_path / "logs/collect-0.log").read_text()
    assert [line for line in log.splitlines() if line.startswith("hello")] == [
        "hello 1",
        "hello 2",
        "hello 3",
    ]
    assert "collect-0 | hello 3" in capfd.readouterr().out
    assert "ZeroDivisionError" in (tmp_path / "logs/label-0.log").read_text()


def test_an_error_that_a_person_must_mend_stops_all_actors(ray_address, tmp_path, caplog):
    code = run(
        ray_address,
        tmp_path,
        part(tmp_path, "learn", FOR_EVER),
        part(tmp_path, "collect", "wait_for('learn-0')\nprint('set a level')\nsys.exit(2)"),
    )
    assert code == USER_ERROR
    assert (tmp_path / "learn-0.asked").exists()
    assert "set a level" in caplog.text


def test_learners_that_work_as_one_find_each_other(ray_address, tmp_path):
    names = "('RANK', 'WORLD_SIZE', 'MASTER_PORT', 'ACCELERATE_USE_CPU')"
    code = f"make(':'.join(os.environ[n] for n in {names}))"
    assert run(ray_address, tmp_path, part(tmp_path, "learn", code, ranks=2)) == DONE
    found = sorted(path.name.split(":") for path in tmp_path.glob("*:*"))
    assert [(rank, size, cpu) for rank, size, _, cpu in found] == [
        ("0", "2", "true"),
        ("1", "2", "true"),
    ]
    assert found[0][2] == found[1][2]
