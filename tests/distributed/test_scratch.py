"""Folders of processes without a run folder: they go with the process, however it ends."""

import signal
import tempfile
from pathlib import Path

import pytest

from remdm.distributed.scratch import scratch_folder
from tests.distributed.processes import children

STAY = """
import sys, tempfile
tempfile.tempdir = sys.argv[2]
from remdm.distributed.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_goes_at_the_end() -> None:
    with scratch_folder() as one, scratch_folder() as other:
        (one / "folder").mkdir()
        assert one != other
        assert one.stat().st_mode & 0o077 == 0
    assert not one.exists()
    assert not other.exists()


def test_only_the_folders_of_the_dead_are_swept(tmp_path: Path) -> None:
    with children(2, STAY, tmp_path) as both:
        dead, alive = (Path(child.hear()) for child in both)
        both[0].send(signal.SIGKILL)
        both[0].process.wait()
        with scratch_folder():
            assert not dead.exists()
            assert (alive / "file").exists()
        both[1].tell()
        both[1].process.wait()
    assert not alive.exists()


def test_a_place_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    with scratch_folder() as folder:
        folder.parent.chmod(0o755)
        with pytest.raises(PermissionError, match="must belong to this user alone"):
            scratch_folder().__enter__()
    root = folder.parent
    for path in (*root.iterdir(),):
        path.unlink()
    root.rmdir()
    root.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="must belong to this user alone"):
        scratch_folder().__enter__()
