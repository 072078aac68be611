"""Checkpoints in Weights & Biases: fetched wherever a folder is asked for, and put there.

Whoever takes the folder of a checkpoint also takes `wandb:entity/project/name:version`. What was
fetched once is found again, so that only an alias such as `latest` needs a network every time.
"""

import errno
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from remdm.data.plain_json import one_line
from remdm.registry import import_extra

PREFIX = "wandb:"
FORM = "wandb:entity/project/name:version-or-alias"
MARK_FILE = "wandb_artifact.json"  # says, in a downloaded folder, what it is and what is in it
CONFIG_FILE = "config.gin"
LONGEST_NAME = 128  # W&B's limit
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what a disk says without naming a file

_LETTERS = "A-Za-z0-9_.-"
_NAME = re.compile(f"[{_LETTERS}]+")
_VERSION = re.compile(r"v[0-9]+")
_REFERENCE = re.compile(
    rf"{PREFIX}(?P<entity>[^/:\s]+)/(?P<project>[^/:\\#?%\r\n]+)"
    rf"/(?P<name>{_NAME.pattern}):(?P<version>[^/:\r\n]+)"
)


class ArtifactError(ValueError):
    """A reference makes no sense, or what it names cannot be had."""


@dataclass(frozen=True, slots=True)
class ArtifactReference:
    """What `wandb:entity/project/name:version` says.

    Attributes:
        entity: User or team.
        project: Of theirs.
        name: Of the artifact.
        version: As `v3`, or an alias as `latest`.
    """

    entity: str
    project: str
    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> "ArtifactReference":
        """Read a reference.

        Raises:
            ArtifactError: If it does not have all its parts.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None or any(part != part.strip() for part in found.groups()):
            raise ArtifactError(
                f"an artifact must be named {FORM}, as wandb:my-team/my-project/my-policy:latest, "
                f"got {text!r}; a folder whose name begins like that can be given as ./{PREFIX}..."
            )
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return PREFIX + self.path

    @property
    def path(self) -> str:
        """The reference as W&B writes it."""
        return f"{self.entity}/{self.project}/{self.name}:{self.version}"

    @property
    def is_fixed(self) -> bool:
        """Whether it names one version for ever, and no alias that may move."""
        return _VERSION.fullmatch(self.version) is not None


def local_folder(reference: str | Path, *, download_dir: Path = Path("artifacts")) -> Path:
    """The folder that a path or an artifact means.

    Args:
        reference: A path, which is returned as it is, or an artifact as in `FORM`.
        download_dir: Artifacts are put into `<name>-<version>` in here. One that is there and whole
            is not downloaded again.

    Raises:
        ArtifactError: If the reference makes no sense, there is no such artifact, it cannot be
            reached or read, or something else lies where it would go. It is a ValueError.
        ImportError: If wandb is needed and missing; says what to type.
    """
    if not str(reference).startswith(PREFIX):
        return Path(reference)
    wanted = ArtifactReference.parse(str(reference))
    if wanted.is_fixed:
        folder = _place(wanted, download_dir)
        if _is_whole(folder, wanted):
            return folder
    artifact = _look_up(wanted, download_dir)
    exact = replace(wanted, version=str(artifact.version))
    folder = _place(exact, download_dir)
    if not _is_whole(folder, exact):
        _download(artifact, exact, folder)
    return folder


def publish_artifact(run: Any, folder: Path, name: str, aliases: Sequence[str] = ()) -> str:
    """Log a checkpoint as an artifact that `local_folder` can fetch.

    The configuration of its run goes along, so that the artifact can be played by itself.

    Args:
        run: Of W&B, from `wandb.init` or `accelerator.get_tracker("wandb", unwrap=True)`.
        folder: Of the checkpoint.
        name: From `policy_name`.
        aliases: Beside `latest`, which W&B moves to the newest version.

    Returns:
        A reference to the artifact. W&B uploads it in the background.

    Raises:
        ArtifactError: If there are no files, or W&B would not take the name.
        ImportError: If wandb is missing; says what to type.
    """
    if _NAME.fullmatch(name) is None or len(name) > LONGEST_NAME:
        raise ArtifactError(
            f"the name of an artifact must be 1 to {LONGEST_NAME} letters, digits, '-', '_' and "
            f"'.', got {name!r}; make one with remdm.artifacts.policy_name(env_name)"
        )
    if not _sizes(folder):
        raise ArtifactError(
            f"a checkpoint must have files to be published, {folder} has none; give the folder "
            "that holds state.json"
        )
    artifact = import_extra("wandb", "wandb").Artifact(name, type="model")
    artifact.add_dir(str(folder))
    config = _config_of(folder)
    if config is not None:
        artifact.add_file(str(config), name=CONFIG_FILE)
    run.log_artifact(artifact, aliases=[*dict.fromkeys(["latest", *aliases])])
    version = aliases[0] if aliases else "latest"
    return str(ArtifactReference(str(run.entity), str(run.project), name, version))


def policy_name(env_name: str, *, best: bool = False) -> str:
    """Name of the artifact of a policy: `<env_name>-policy`, or `<env_name>-policy-best`.

    Args:
        env_name: What it plays; characters that W&B refuses become `-`.
        best: It is the checkpoint that validation chose, not the last one.
    """
    ending = "-policy-best" if best else "-policy"
    return re.sub(f"[^{_LETTERS}]", "-", env_name)[: LONGEST_NAME - len(ending)] + ending


def checkpoint_name(run_name: str) -> str:
    """Name of the artifact of a run's checkpoints: `<run_name>-checkpoint`."""
    ending = "-checkpoint"
    return re.sub(f"[^{_LETTERS}]", "-", run_name)[: LONGEST_NAME - len(ending)] + ending


def _config_of(folder: Path) -> Path | None:
    """The configuration of the run that a checkpoint lies in; None if it is inside or nowhere."""
    if (folder / CONFIG_FILE).is_file():
        return None
    above = list(folder.resolve().parents)[:2]  # of `best` and `latest`, or of one in `ckpts`
    return next((at / CONFIG_FILE for at in above if (at / CONFIG_FILE).is_file()), None)


# ------------------------------------------------------------------------------------- on disk


def _place(exact: ArtifactReference, download_dir: Path) -> Path:
    return download_dir / f"{exact.name}-{exact.version}"


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MARK_FILE
    }


def _is_whole(folder: Path, exact: ArtifactReference) -> bool:
    """Whether an artifact is in its folder with every file at its full size.

    Raises:
        ArtifactError: If something else is there, which must not be overwritten.
    """
    if not folder.exists():
        return False
    mark = _mark_of(folder)
    if mark.get("artifact") != exact.path:
        raise ArtifactError(
            f"{exact} belongs into {folder}, where {mark.get('artifact', 'something else')} lies; "
            "move that away, or choose another --wandb_download_dir"
        )
    files, found = mark.get("files"), _sizes(folder)
    return isinstance(files, dict) and all(found.get(name) == files[name] for name in files)


def _mark_of(folder: Path) -> dict[str, Any]:
    """What a downloaded folder says of itself; nothing if it was not downloaded."""
    try:
        mark = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _fetched_versions(wanted: ArtifactReference, download_dir: Path) -> list[str]:
    """Versions of an artifact that lie here."""
    start = wanted.path.removesuffix(wanted.version)
    marks = (_mark_of(path.parent) for path in download_dir.glob(f"*/{MARK_FILE}"))
    names = (str(mark.get("artifact")) for mark in marks)
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


# ------------------------------------------------------------------------------------- from W&B


def _look_up(wanted: ArtifactReference, download_dir: Path) -> Any:
    """W&B's own description of an artifact."""
    wandb = import_extra("wandb", "wandb")
    try:
        return wandb.Api().artifact(wanted.path)
    except Exception as error:  # W&B raises errors of its own, of requests, and of Python
        here = _fetched_versions(wanted, download_dir)
        are = "are" if len(here) > 1 else "is"
        hint = f"; {', '.join(here)} {are} in {download_dir} already" if here else ""
        hint += f"; name one of them instead of {wanted.version}" if here else ""
        raise ArtifactError(f"{_complaint(error, wanted)}{hint}") from error


def _download(artifact: Any, exact: ArtifactReference, folder: Path) -> None:
    """Fetch an artifact into a folder that appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=folder.parent) as hidden:
            partial = Path(hidden) / folder.name
            partial.mkdir()
            _check_entries(artifact, exact)
            artifact.download(root=str(partial))
            _check_kinds(partial, exact)
            files = _sizes(partial)
            if not files:
                raise ArtifactError(f"{exact} must hold a checkpoint, it holds no files")
            mark = {"artifact": exact.path, "files": files}
            (partial / MARK_FILE).write_text(json.dumps(mark, indent=1), encoding="utf-8")
            _put_in_place(partial, folder, exact)
    except ArtifactError:
        raise
    except Exception as error:  # as in _look_up, and of the disk
        raise ArtifactError(_complaint(error, exact)) from error


def _check_entries(artifact: Any, exact: ArtifactReference) -> None:
    """See that an artifact holds files of its own, and that they belong into its folder.

    W&B checks names, too, but not in all its versions; what only refers to a file may fetch it from
    this machine's disk, or from any address.

    Raises:
        ArtifactError: If not.
    """
    for name, entry in artifact.manifest.entries.items():
        parts = re.split(r"[/\\]", str(name))
        if entry.ref is not None:
            wrong = "refers to a file elsewhere, and must hold it"
        elif any(part in ("", ".", "..") or ":" in part for part in parts):
            wrong = "must lie in its folder"
        else:
            continue
        raise ArtifactError(
            f"{exact} was not fetched: {one_line(repr(name), 200)} in it {wrong}; publish it "
            "with remdm.artifacts.publish_artifact"
        )


def _check_kinds(folder: Path, exact: ArtifactReference) -> None:
    """See that a download is nothing but files and folders.

    Raises:
        ArtifactError: If there is a link, a socket or the like.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(
                f"{exact} was not fetched: {one_line(path.name, 200)} in it must be a file, and is "
                "a link or the like; publish it with remdm.artifacts.publish_artifact"
            )


def _put_in_place(partial: Path, folder: Path, exact: ArtifactReference) -> None:
    """Rename a full folder to its final name, over one of the same artifact that is not whole."""
    if folder.exists() and not _is_whole(folder, exact):
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        # Another process was quicker.
        if not _is_whole(folder, exact):
            raise


def _complaint(error: Exception, wanted: ArtifactReference) -> str:
    """What must hold for an artifact to be fetched, what came, and what to do."""
    said = f"{type(error).__name__}: {error}".rstrip(". ")
    words, kind = str(error).lower(), type(error).__name__
    if isinstance(error, OSError) and error.errno and (error.filename or error.errno in _FULL):
        return (
            f"{wanted} could not be written: there must be a folder with room for it, got {said}; "
            "choose another --wandb_download_dir"
        )
    if kind in ("AuthenticationError", "UsageError") or re.search(
        r"permission|forbidden|unauthorized|\b40[13]\b", words
    ):
        # wandb 0.31 says so, too, where it cannot reach the servers to see who we are.
        must = "you must be logged in to W&B and allowed to read the project"
        fix = (
            "type `wandb login` or set WANDB_API_KEY, look at the network, ask the project's owner"
        )
    elif isinstance(error, ValueError) or "not found" in words or re.search(r"\b404\b", words):
        must = "the artifact must exist and be yours to read"
        fix = "look up entity, project, name and version on its page in W&B"
    else:
        must = "this machine must reach W&B"
        fix = "look at its network and WANDB_BASE_URL, or copy the folder here and give its path"
    return f"{wanted} could not be fetched: {must}, W&B answered {said}; {fix}"
