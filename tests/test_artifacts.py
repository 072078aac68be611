"""Checkpoints as artifacts: references, downloads, and the way there and back.

W&B's servers cannot be reached from where tests run, nor need wandb be installed; `Store` stands in
for both.
"""

import errno
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from remdm.artifacts import (
    MARK_FILE,
    ArtifactError,
    ArtifactReference,
    _check_entries,
    local_folder,
    policy_name,
    publish_artifact,
)
from remdm.cli import main
from remdm.training.run_folder import find_checkpoint
from tests.tiny_runs import files_below, learnt
from tests.wandb_store import Found, Store

POLICY = "team/maze/Maze-policy"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path / "server")
    monkeypatch.setitem(sys.modules, "wandb", made.module)
    return made


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


# References


@pytest.mark.parametrize(
    ("text", "parts", "fixed"),
    [
        ("wandb:team/maze/Maze-policy:v3", ("team", "maze", "Maze-policy", "v3"), True),
        ("wandb:a-b_c/my project/x.y_z-0:latest", ("a-b_c", "my project", "x.y_z-0", "latest"), 0),
        ("wandb:a/b/c:v3a", ("a", "b", "c", "v3a"), False),
        ("wandb:a/b/c:the best one", ("a", "b", "c", "the best one"), False),
    ],
)
def test_references_are_read_part_by_part(text: str, parts: tuple[str, ...], fixed: bool) -> None:
    found = ArtifactReference.parse(text)
    assert (found.entity, found.project, found.name, found.version) == parts
    assert found.is_fixed == bool(fixed)
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "wandb:",
        "wandb:Maze-policy",
        "wandb:maze/Maze-policy:latest",
        "wandb:team/maze/Maze-policy",
        "wandb:team/maze/Maze-policy:",
        "wandb:team/maze/:latest",
        "wandb:/maze/Maze-policy:latest",
        "wandb:team//Maze-policy:latest",
        "wandb:team/maze/deep/Maze-policy:latest",
        "wandb:team/maze/Maze policy:latest",
        "wandb:team/maze/Maze-policy:v1:v2",
        "wandb:team/maze/Maze-policy:v1/..",
        "wandb://team/maze/Maze-policy:v1",
        "wandb: team/maze/Maze-policy:v1",
        "wandb:team/maze/Maze-policy:v1 ",
        "wandb:team/maze/Maze-policy:v1\n",
    ],
)
def test_malformed_references_are_refused_with_the_form(text: str, here: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        local_folder(text, download_dir=here)
    assert "must be named wandb:entity/project/name:version-or-alias" in str(caught.value)
    assert f"got {text!r}" in str(caught.value)
    assert not here.exists()


def test_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    for path in (tmp_path, Path("runs/maze"), Path("wandb"), Path("./a/wandb:b")):
        assert local_folder(path) == path
        assert local_folder(str(path)) == path


def test_without_wandb_the_extra_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("wandb") is not None:
        monkeypatch.setitem(sys.modules, "wandb", None)  # imports as what is not installed
    with pytest.raises(ImportError, match=r"wandb is needed here.*pip install -e '\.\[wandb\]'"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)


# Downloads


def test_an_alias_leads_to_the_folder_of_its_version(store: Store, here: Path) -> None:
    store.put(POLICY, {"state.json": b"{}", "deep/weights": b"old"})
    first = local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert first == here / "Maze-policy-v0"
    assert (first / "deep/weights").read_bytes() == b"old"
    assert json.loads((first / MARK_FILE).read_text()) == {
        "artifact": f"{POLICY}:v0",
        "files": {"deep/weights": 3, "state.json": 2},
    }
    store.put(POLICY, {"state.json": b"{}", "deep/weights": b"newer"})
    second = local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert second == here / "Maze-policy-v1"
    assert (second / "deep/weights").read_bytes() == b"newer"
    assert (first / "deep/weights").read_bytes() == b"old"
    assert sorted(path.name for path in here.iterdir()) == ["Maze-policy-v0", "Maze-policy-v1"]


def test_what_is_whole_is_not_downloaded_again(store: Store, here: Path) -> None:
    store.put(POLICY, {"weights": b"1234"})
    for version in ("latest", "latest", "v0"):
        assert local_folder(f"wandb:{POLICY}:{version}", download_dir=here).name == "Maze-policy-v0"
    assert store.downloads == 1


def test_a_version_that_is_here_needs_neither_network_nor_wandb(
    store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(POLICY, {"weights": b"1234"})
    folder = local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert local_folder(f"wandb:{POLICY}:v0", download_dir=here) == folder


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_not_whole_is_downloaded_again(store: Store, here: Path, damage: str) -> None:
    store.put(POLICY, {"weights": b"1234", "state.json": b"{}"})
    folder = local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    if damage == "cut":
        (folder / "weights").write_bytes(b"123")
    else:
        (folder / "weights").unlink()
    assert local_folder(f"wandb:{POLICY}:v0", download_dir=here) == folder
    assert (folder / "weights").read_bytes() == b"1234"
    assert store.downloads == 2


def test_a_download_that_breaks_off_leaves_nothing(store: Store, here: Path) -> None:
    store.put(POLICY, {"weights": b"1234"})
    store.breaks = ConnectionError("the line is dead")
    with pytest.raises(ArtifactError, match=r"must reach W&B.*ConnectionError: the line is dead"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert list(here.iterdir()) == []
    store.breaks = None
    assert local_folder(f"wandb:{POLICY}:latest", download_dir=here).is_dir()


@pytest.mark.parametrize(
    ("name", "ref", "wrong"),
    [
        ("../outside", None, "must lie in its folder"),
        ("a/../../outside", None, "must lie in its folder"),
        ("/etc/outside", None, "must lie in its folder"),
        ("a\\..\\outside", None, "must lie in its folder"),
        ("c:/outside", None, "must lie in its folder"),
        ("mine", "file:///etc/hostname", "refers to a file elsewhere"),
        ("mine", "http://169.254.169.254/secrets", "refers to a file elsewhere"),
    ],
)
def test_names_that_lead_outside_and_references_are_not_fetched(
    name: str, ref: str | None, wrong: str, store: Store, here: Path
) -> None:
    store.put(POLICY, {"weights": b"1234"})
    store.further_entries[name] = SimpleNamespace(ref=ref)
    with pytest.raises(ArtifactError, match=f"was not fetched: .* in it {wrong}"):
        local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    assert store.downloads == 0
    assert list(here.iterdir()) == []


def test_the_real_wandb_tells_references_from_files(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    (tmp_path / "weights").write_bytes(b"1234")
    made = wandb.Artifact("policy", type="model")
    made.add_file(str(tmp_path / "weights"))
    exact = ArtifactReference.parse(f"wandb:{POLICY}:v0")
    _check_entries(made, exact)
    made.add_reference((tmp_path / "weights").as_uri(), name="more")
    with pytest.raises(ArtifactError, match="'more' in it refers to a file elsewhere"):
        _check_entries(made, exact)


def test_links_in_a_download_are_not_kept(store: Store, here: Path, tmp_path: Path) -> None:
    """The mark of a download would be written through one."""
    (tmp_path / "mine").write_text("dear to me")
    store.put(POLICY, {"weights": b"1234"})
    (store.root / POLICY / "v0/wandb_artifact.json").symlink_to(tmp_path / "mine")
    with pytest.raises(ArtifactError, match=r"wandb_artifact.json in it must be a file"):
        local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    assert list(here.iterdir()) == []
    assert (tmp_path / "mine").read_text() == "dear to me"


def test_a_process_that_was_quicker_is_left_its_folder(
    store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two downloads of one version at once: the second finds the folder of the first in place."""
    store.put(POLICY, {"weights": b"1234"})
    slow = Found.download

    def overtaken(found: Found, root: str) -> str:
        monkeypatch.setattr(Found, "download", slow)
        other = local_folder(f"wandb:{POLICY}:v0", download_dir=here)
        (other / "notes").write_text("of the first")
        return slow(found, root)

    monkeypatch.setattr(Found, "download", overtaken)
    folder = local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    assert (folder / "notes").read_text() == "of the first"
    assert [path.name for path in here.iterdir()] == ["Maze-policy-v0"]


# What can go wrong


class AuthenticationError(Exception):
    """Bears the name of wandb's own."""


class CommError(Exception):
    """Bears the name of wandb's own."""


@pytest.mark.parametrize(
    ("error", "must", "fix"),
    [
        (AuthenticationError("bad key"), "must be logged in to W&B", "`wandb login`"),
        (CommError("permission denied (Error 403)"), "allowed to read the project", "ask the"),
        (CommError("project not found (404)"), "the artifact must exist", "look up entity"),
        (CommError("service is busy"), "must reach W&B", "WANDB_BASE_URL"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "must reach W&B", "its network"),
        (TimeoutError("too slow"), "must reach W&B", "copy the folder here and give its path"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_keeps_us_from_w_and_b_is_told(
    store: Store, here: Path, error: Exception, must: str, fix: str
) -> None:
    store.unreachable = error
    with pytest.raises(ArtifactError) as caught:
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    text = str(caught.value)
    assert text.startswith(f"wandb:{POLICY}:latest could not be fetched: ")
    assert must in text
    assert f"W&B answered {type(error).__name__}: {error}; " in text
    assert fix in text
    assert caught.value.__cause__ is error


def test_an_artifact_that_is_missing_is_told(store: Store, here: Path) -> None:
    store.put(POLICY, {"weights": b"1234"})
    for reference in (f"wandb:{POLICY}:v7", "wandb:team/maze/Mase-policy:latest"):
        with pytest.raises(ArtifactError, match=r"must exist .* not found in 'team/maze'; look up"):
            local_folder(reference, download_dir=here)
    assert not here.exists()


def test_without_a_network_versions_that_are_here_are_offered(store: Store, here: Path) -> None:
    for _ in range(2):
        store.put(POLICY, {"weights": b"1234"})
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    store.unreachable = ConnectionError("no route")
    with pytest.raises(ArtifactError) as caught:
        local_folder(f"wandb:{POLICY}:best", download_dir=here)
    hint = f"v0, v1 are in {here} already; name one of them instead of best"
    assert str(caught.value).endswith(f"; {hint}")


def test_folders_of_others_are_left_alone(store: Store, here: Path) -> None:
    store.put(POLICY, {"weights": b"1234"})
    store.put("team/other/Maze-policy", {"weights": b"5678"})
    local_folder(f"wandb:{POLICY}:v0", download_dir=here)
    for version in ("v0", "latest"):
        with pytest.raises(ArtifactError, match=f"where {POLICY}:v0 lies.*--wandb_download_dir"):
            local_folder(f"wandb:team/other/Maze-policy:{version}", download_dir=here)
    assert (here / "Maze-policy-v0/weights").read_bytes() == b"1234"
    shutil.rmtree(here)
    (here / "Maze-policy-v0").mkdir(parents=True)
    (here / "Maze-policy-v0/mine").write_text("of a user")
    with pytest.raises(ArtifactError, match="where something else lies; move that away"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert [path.name for path in (here / "Maze-policy-v0").iterdir()] == ["mine"]


def test_disks_that_take_nothing_are_told(store: Store, here: Path) -> None:
    store.put(POLICY, {"weights": b"1234"})
    store.breaks = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ArtifactError, match=r"a folder with room for it, got .*No space left"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert list(here.iterdir()) == []
    store.breaks = None
    here.rmdir()
    here.write_text("a file")
    with pytest.raises(ArtifactError, match=r"could not be written.*; choose another --wandb_down"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)


def test_an_artifact_without_files_is_refused(store: Store, here: Path) -> None:
    store.put(POLICY, {})
    with pytest.raises(ArtifactError, match="v0 must hold a checkpoint, it holds no files"):
        local_folder(f"wandb:{POLICY}:latest", download_dir=here)
    assert list(here.iterdir()) == []


# There and back


def test_policies_are_named_after_what_they_play() -> None:
    assert policy_name("Craftax-Symbolic-v1") == "Craftax-Symbolic-v1-policy"
    assert policy_name("Craftax-Symbolic-v1", best=True) == "Craftax-Symbolic-v1-policy-best"
    assert policy_name("my:env/v0 x") == "my-env-v0-x-policy"
    assert policy_name("x" * 200, best=True) == "x" * 116 + "-policy-best"


def test_what_cannot_be_published_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    with pytest.raises(ArtifactError, match=r"must have files to be published, .*policy has none"):
        publish_artifact(store, tmp_path / "policy", "Maze-policy")
    (tmp_path / "policy/weights").write_bytes(b"1234")
    for name in ("", "a b", "a/b", "a:b", "x" * 129):
        with pytest.raises(ArtifactError, match=r"must be 1 to 128 letters.*policy_name"):
            publish_artifact(store, tmp_path / "policy", name)
    assert not store.root.exists()


@pytest.mark.slow
def test_a_published_checkpoint_is_played_by_its_reference(
    store: Store, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published from its run, fetched elsewhere, measured and watched: the same weights."""
    run = learnt(tmp_path / "runs", epochs="1", val_interval="1")
    for best in (run.folder.best, run.folder.checkpoints / "epoch_000001"):
        name = policy_name("Gridworld-Room-9x9-v0", best=best == run.folder.best)
        reference = publish_artifact(store, best, name, aliases=["tiny"])
        assert reference == f"wandb:team/maze/{name}:tiny"
        folder = local_folder(f"wandb:team/maze/{name}:latest", download_dir=here)
        inside = files_below(folder)
        assert inside.pop("config.gin") == run.folder.config.read_bytes()
        del inside[MARK_FILE]
        assert inside == files_below(best)
        assert find_checkpoint(folder)[1] == folder.resolve()
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(here)
    flags = ["--wandb_download_dir", str(here)]
    rows = tmp_path / "rows.json"
    argv = ["eval", reference, *flags, "--policies", "planner", "--episodes", "1"]
    argv += ["--envs", "Gridworld-Room-9x9-v0", "--rows", "1", "--json", str(rows)]
    assert main(argv) == 0
    assert rows.is_file()
    assert main(["watch", reference, *flags, "--env", "Gridworld-Room-9x9-v0"]) == 0
    assert store.downloads == 3  # two before, and the first of these
    capsys.readouterr()
    assert main(["eval", "wandb:team/maze", *flags]) == 2
    assert main(["watch", "wandb:team/maze/x:v1", *flags]) == 2
    text = capsys.readouterr().err.replace("\n", " ")
    assert "got 'wandb:team/maze'" in text
    assert "artifact membership 'x:v1' not found" in text


@pytest.mark.craftax
def test_experts_are_taken_from_artifacts(
    store: Store, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as is quick: the artifact's folder is opened, and is no expert."""
    pytest.importorskip("craftax")
    state = json.dumps({"format_version": 1, "kind": "planner"}).encode()
    store.put("team/experts/ppo", {"state.json": state})
    for action, message in (("eval", "holds no expert"), ("import", "no folder of Orbax")):
        argv = ["expert", action, "wandb:team/experts/ppo:latest"]
        flags = ["--wandb_download_dir", str(here), "--base_dir", str(tmp_path / "runs")]
        assert main([*argv, *flags]) == 2
        text = capsys.readouterr().err.replace("\n", " ")
        assert message in text
        assert str(here / "ppo-v0") in text
    assert store.downloads == 1
