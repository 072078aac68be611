"""What a command tells a user who made a mistake."""

import pytest

from remdm.cli import main


def errors_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a failing command prints; it must be one message and code 2."""
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert text.startswith("remdm: ")
    assert "Traceback" not in text
    return text
