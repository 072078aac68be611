import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from remdm.data.atomic_file import TEMPORARY_PREFIX, sweep_temporary_files
from remdm.data.tensor_file import DamagedFileError, TensorFile, write_tensor_file

ARRAYS = {
    "maps": np.arange(60, dtype=np.int16).reshape(5, 3, 4),
    "flags": np.array([True, False, True]),
    "tokens": np.arange(-3, 4, dtype=np.int8),
    "weights": np.linspace(0, 1, 4, dtype=np.float32),
}


def write(path: Path, arrays: dict[str, np.ndarray] = ARRAYS) -> Path:
    write_tensor_file(path, {k: [v] for k, v in arrays.items()}, {"a": [1, "b"]}, "a test file")
    return path


def in_a_process(code: str, *args: object, **popen) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **popen)


def test_arrays_and_metadata_come_back_as_written(tmp_path):
    file = TensorFile.open(write(tmp_path / "a b.safetensors"), verify_data=True)
    assert file.metadata == {"a": [1, "b"]}
    assert set(file.tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert file.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(file.tensors[name], array)


def test_safetensors_reads_the_same_arrays(tmp_path):
    loaded = load_file(write(tmp_path / "x.safetensors"))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_parts_are_laid_one_after_another(tmp_path):
    parts = np.array_split(ARRAYS["maps"], 3)
    write_tensor_file(tmp_path / "x", {"maps": parts}, {}, "parts")
    np.testing.assert_array_equal(TensorFile.open(tmp_path / "x").tensors["maps"], ARRAYS["maps"])


@pytest.mark.parametrize(
    "parts",
    [
        [np.zeros((2, 3)), np.zeros((2, 4))],
        [np.zeros(2, np.int8), np.zeros(2, np.int16)],
        [np.zeros(2, np.complex64)],
    ],
    ids=["shape", "dtype", "complex"],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, parts):
    with pytest.raises(ValueError, match="array"):
        write_tensor_file(tmp_path / "x", {"array": parts}, {}, "parts")
    assert not list(tmp_path.iterdir())


def test_views_cannot_be_written_to_and_are_aligned(tmp_path):
    for array in TensorFile.open(write(tmp_path / "x")).tensors.values():
        assert not array.flags.writeable
        assert array.flags.aligned
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_an_open_file_holds_no_descriptor_and_survives_its_deletion(tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    files = [TensorFile.open(write(tmp_path / f"{i}")) for i in range(8)]
    assert len(os.listdir("/proc/self/fd")) == before
    for file in files:
        file.path.unlink()
        np.testing.assert_array_equal(file.tensors["maps"], ARRAYS["maps"])


def test_every_truncation_is_found(tmp_path):
    whole = write(tmp_path / "x").read_bytes()
    torn = tmp_path / "torn"
    for length in range(len(whole)):
        torn.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            TensorFile.open(torn)
    torn.write_bytes(whole + b"\0")
    with pytest.raises(DamagedFileError, match="1 bytes follow"):
        TensorFile.open(torn)


def test_flipped_bits_are_found(tmp_path):
    whole = write(tmp_path / "x").read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    flipped = tmp_path / "flipped"
    for place in range(len(whole)):
        # All bits of the length and of the sums, one bit of every other byte.
        for bit in range(8) if place < 56 else (place % 8,):
            raw = bytearray(whole)
            raw[place] ^= 1 << bit
            flipped.write_bytes(raw)
            # The header is always checked; reading all the data is asked for.
            with pytest.raises(DamagedFileError):
                TensorFile.open(flipped, verify_data=place >= header_end)


def test_a_file_of_another_writer_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file(ARRAYS, tmp_path / "x")
    with pytest.raises(DamagedFileError, match="does not begin like one written by remdm"):
        TensorFile.open(tmp_path / "x")


def test_writing_beyond_a_size_limit_harms_nothing(tmp_path):
    # The kernel itself refuses: a file of this process may not grow beyond 64 KiB.
    folder = tmp_path / "with space"
    folder.mkdir()
    kept = write(folder / "kept")
    before = kept.read_bytes()
    code = """
        import sys, pathlib, numpy as np
        from remdm.data.tensor_file import write_tensor_file
        path = pathlib.Path(sys.argv[1])
        write_tensor_file(path, {"x": [np.ones(1 << 20)]}, {}, "a shard of 7 steps")
    """
    limit = (1 << 16, 1 << 16)
    process = in_a_process(
        code, kept, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a shard of 7 steps could not be written to" in words
    assert "Nothing that was on disk before has been harmed" in words
    assert "dset_max_bytes" in words
    assert [p.name for p in folder.iterdir()] == ["kept"]
    assert kept.read_bytes() == before


def test_a_full_disk_harms_nothing(tmp_path):
    # A file system of 256 KiB of its own, where the machine lets us mount one.
    code = """
        import errno, pathlib, sys, numpy as np
        from remdm.data.tensor_file import TensorFile, write_tensor_file
        folder = pathlib.Path(sys.argv[1])
        small = {"x": [np.arange(1000)]}
        write_tensor_file(folder / "kept", small, {}, "a small file")
        try:
            write_tensor_file(folder / "new", {"x": [np.ones(1 << 17)]}, {}, "a large file")
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            assert "a large file could not be written" in str(error), error
            assert "free some space" in str(error), error
        else:
            raise SystemExit("the disk was not full")
        assert [p.name for p in folder.iterdir()] == ["kept"]
        TensorFile.open(folder / "kept", verify_data=True)
        write_tensor_file(folder / "again", small, {}, "a small file")
    """
    mounted = tmp_path / "disk"
    mounted.mkdir()
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    inside = 'mount -t tmpfs -o size=256k tmpfs "$0" || exit 77; "$1" "$2" "$0"'
    command = ["unshare", "-rm", "sh", "-c", inside, mounted, sys.executable, script]
    root = str(Path(__file__).parents[2])
    try:
        ran = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("this machine does not let us mount a file system")
    assert ran.returncode == 0, ran.stderr


def test_a_writer_killed_while_writing_leaves_no_visible_file(tmp_path):
    code = """
        import sys, pathlib, numpy as np
        from remdm.data.tensor_file import write_tensor_file
        for i in range(10_000):
            path = pathlib.Path(sys.argv[1]) / f"{i:04d}.safetensors"
            write_tensor_file(path, {"x": [np.full(1 << 20, i)] * 4}, {"i": i}, "x")
    """
    root = str(Path(__file__).parents[2])
    process = in_a_process(code, tmp_path, env=os.environ | {"PYTHONPATH": root})
    temporary: list[Path] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        started = list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))
        if started and list(tmp_path.glob("*.safetensors")):
            process.send_signal(signal.SIGSTOP)
            temporary = list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))
            if temporary:
                break  # stopped in the middle of a file
            process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()
    assert temporary, "the writer was never seen writing"
    finished = sorted(tmp_path.glob("*.safetensors"))
    assert finished
    for number, path in enumerate(finished):
        file = TensorFile.open(path, verify_data=True)
        assert file.metadata == {"i": number}
        assert (file.tensors["x"] == number).all()
    assert sweep_temporary_files(tmp_path, older_than_s=3600) == len(temporary)
    assert sorted(tmp_path.iterdir()) == finished
