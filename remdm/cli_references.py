"""Flags of commands that open what somebody has trained, here or elsewhere."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

# `--resume 12`, and the same as a binding, with the flag in front or as a word of its own.
_EPOCHS = r"\s*['\"]?[0-9]+['\"]?\s*"
_BOUND = re.compile(rf"(--bind=)?(\s*Experiment\.resume\s*=){_EPOCHS}")


def add_download_flag(parser: argparse.ArgumentParser) -> None:
    """`--wandb_download_dir`: for whatever may be an artifact."""
    parser.add_argument(
        "--wandb_download_dir",
        metavar="FOLDER",
        type=Path,
        default=Path("artifacts"),
        help="where to put an artifact that is given as wandb:entity/project/name:version",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """`--wandb_download_dir` and `--allow_import`: for whatever is a run with its configuration."""
    add_download_flag(parser)
    parser.add_argument(
        "--allow_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that the run's configuration may import, and so run; may be repeated",
    )


def going_on(words: Sequence[str]) -> list[str]:
    """Words of a command line that go on where the last start ended.

    A run that was told to go back to an epoch would go back again at every start.
    """
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if before == "--resume" and re.fullmatch(_EPOCHS, word):
            found.append("auto")
        elif re.fullmatch(f"--resume={_EPOCHS}", word):
            found.append("--resume=auto")
        else:
            found.append(_BOUND.sub(r"\1\2 'auto'", word) if _BOUND.fullmatch(word) else word)
    return found
