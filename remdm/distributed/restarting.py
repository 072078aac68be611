"""What to type, or start, to go on with a run."""

import re
from collections.abc import Sequence

# `--resume 12`, and the same as a binding, with the flag in front or as a word of its own.
_EPOCHS = r"\s*['\"]?[0-9]+['\"]?\s*"
_BOUND = re.compile(rf"(--bind=)?(\s*Experiment\.resume\s*=){_EPOCHS}")


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
