"""Level files compiled once per process, with errors that are seen.

MiniHack compiles through a shell script at every construction and does not look at its result: a
level with a mistake silently leaves the old level in place, and so does a path with a space.
"""

import importlib.resources
import logging
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_logger = logging.getLogger(__name__)

LEVEL_NAME = "mylevel"


class LevelError(ValueError):
    """A level file that does not exist or does not compile."""


class LevelCompiler:
    """Compiles `.des` levels into NetHack data files (`nhdat`) and keeps them by content.

    They are kept in memory, about 125 kB a level: a folder would outlive a worker process that is
    killed, and a forked worker inherits what its parent has compiled.

    Attributes:
        num_compiled: Levels compiled so far.
    """

    def __init__(
        self, tool_folder: Path, library_folder: Path, level_folder: Path | None = None
    ) -> None:
        """Args:
        tool_folder: Holds the programs `lev_comp` and `dlb` (nle's `nethackdir`).
        library_folder: Files packed beside every level (minihack's `lib`).
        level_folder: Where levels given by a bare file name are looked up (minihack's `dat`).
        """
        self.tool_folder = tool_folder
        self.library_folder = library_folder
        self.level_folder = level_folder
        self.num_compiled = 0
        self._kept: dict[str, bytes] = {}

    def compile(self, level: str) -> bytes:
        """The `nhdat` file of a level.

        Args:
            level: Text of a level, or the path or name of a `.des` file.

        Raises:
            LevelError: If there is no such file or it does not compile.
        """
        text, origin = self._read(level)
        if text not in self._kept:
            with tempfile.TemporaryDirectory(prefix="remdm_level_") as work:
                self._kept[text] = self._build(text, origin, Path(work))
            self.num_compiled += 1
        return self._kept[text]

    def install(self, level: str, game_folder: Path) -> None:
        """Make a level the one that the game in `game_folder` plays from its next reset on.

        Raises:
            LevelError: If there is no such file or it does not compile.
        """
        nhdat = self.compile(level)
        target = game_folder / "nhdat"
        target.unlink(missing_ok=True)  # a link to the installed file in a fresh folder
        target.write_bytes(nhdat)

    def _read(self, level: str) -> tuple[str, str]:
        if not level.endswith(".des"):
            return level, "level text"
        candidates = [Path(level)]
        if self.level_folder is not None:
            candidates.append(self.level_folder / level)
        for path in candidates:
            if path.is_file():
                return path.read_text("utf-8", "surrogateescape"), str(path)
        raise LevelError(
            f"no level file at {level!r}: give the path of an existing .des file or the text "
            "of a level."
        )

    def _build(self, text: str, origin: str, work: Path) -> bytes:
        for file in sorted(self.library_folder.iterdir()):
            if file.is_file():
                shutil.copyfile(file, work / file.name)
        source = work / f"{LEVEL_NAME}.des"
        source.write_text(text, "utf-8", "surrogateescape")
        said = self._run("lev_comp", [source.name], work, origin)
        source.unlink()
        if not (work / f"{LEVEL_NAME}.lev").exists():
            raise LevelError(
                f"{origin} must define a level called {LEVEL_NAME!r} and defines none: start "
                f'it with MAZE: "{LEVEL_NAME}" or LEVEL: "{LEVEL_NAME}". '
                f"The compiler said: {said or 'nothing'}"
            )
        if said:
            _logger.warning("lev_comp said of %s: %s", origin, said)
        members = sorted(p.name for p in work.iterdir() if not p.name.startswith("."))
        self._run("dlb", ["cf", "nhdat", *members], work, origin)
        built = work / "nhdat"
        if not built.exists():
            raise LevelError(f"{origin} could not be packed: dlb wrote no nhdat file.")
        return built.read_bytes()

    def _run(self, program: str, arguments: list[str], work: Path, origin: str) -> str:
        done = subprocess.run(
            [str(self.tool_folder / program), *arguments],
            cwd=work, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        said = "\n".join(s.strip() for s in (done.stdout, done.stderr) if s.strip())
        if done.returncode != 0:
            raise LevelError(
                f"{origin} must compile and does not: {program} ended with status "
                f"{done.returncode} and said:\n{said}"
            )
        return said


@cache
def level_compiler() -> LevelCompiler:
    """This process's compiler, with the tools of the installed nle and minihack."""
    nle = Path(str(importlib.resources.files("nle")))
    minihack = Path(str(importlib.resources.files("minihack")))
    return LevelCompiler(nle / "nethackdir", minihack / "lib", minihack / "dat")
