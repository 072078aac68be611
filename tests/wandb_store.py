"""A stand-in for W&B and its package, as far as `remdm.artifacts` calls them.

It keeps artifacts as files, and complains in the words of wandb 0.31.
"""

import importlib.machinery
import shutil
import types
from pathlib import Path

from tests.tiny_runs import files_below


class Found:
    """An artifact of the store, as `wandb.Api().artifact` returns it."""

    def __init__(self, store: "Store", folder: Path) -> None:
        self.store, self.folder, self.version = store, folder, folder.name
        entries = {name: types.SimpleNamespace(ref=None) for name in files_below(folder)}
        self.manifest = types.SimpleNamespace(entries=entries | store.further_entries)

    def download(self, root: str) -> str:
        self.store.downloads += 1
        shutil.copytree(self.folder, root, symlinks=True, dirs_exist_ok=True)
        if self.store.breaks is not None:
            raise self.store.breaks
        return root


class Draft:
    """An artifact to be, as `wandb.Artifact`."""

    def __init__(self, name: str, type: str) -> None:
        self.name, self.type = name, type
        self.files: dict[str, bytes] = {}

    def add_dir(self, folder: str) -> None:
        self.files |= files_below(Path(folder))

    def add_file(self, path: str, name: str) -> None:
        self.files[name] = Path(path).read_bytes()


class Store:
    """A folder with a folder per artifact, and in it one per version."""

    entity, project = "team", "maze"  # of the run that logs

    def __init__(self, root: Path) -> None:
        self.root, self.aliases = root, dict[str, str]()
        self.downloads = 0
        self.further_entries: dict[str, types.SimpleNamespace] = {}
        self.unreachable: Exception | None = None
        self.breaks: Exception | None = None
        self.module = types.ModuleType("wandb")
        self.module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.module.Api = lambda: self
        self.module.Artifact = Draft

    def put(self, path: str, files: dict[str, bytes]) -> str:
        """Add a version; returns its name."""
        place = self.root / path
        version = f"v{len(list(place.glob('*')))}"
        (place / version).mkdir(parents=True)
        for name, content in files.items():
            (place / version / name).parent.mkdir(parents=True, exist_ok=True)
            (place / version / name).write_bytes(content)
        self.aliases[f"{path}:latest"] = version
        return version

    def artifact(self, path: str) -> Found:
        if self.unreachable is not None:
            raise self.unreachable
        name, version = path.split(":")
        folder = self.root / name / self.aliases.get(path, version)
        if not folder.is_dir():
            project, _, inner = path.rpartition("/")
            raise ValueError(f"artifact membership {inner!r} not found in {project!r}")
        return Found(self, folder)

    def log_artifact(self, artifact: Draft, aliases: list[str]) -> None:
        assert artifact.type == "model"
        path = f"{self.entity}/{self.project}/{artifact.name}"
        version = self.put(path, artifact.files)
        self.aliases |= {f"{path}:{alias}": version for alias in aliases}
