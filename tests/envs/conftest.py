"""Environments for tests: made by name or built from a drawing, and closed afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LEVEL = """MAZE: "mylevel",' '
GEOMETRY:center,center
MAP
{map}
ENDMAP
REGION:(0,0,{right},{bottom}),lit,"ordinary"
BRANCH:(1,1,1,1),(0,0,0,0)
{things}
"""


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes environments and closes them."""
    from remdm.envs.minihack import MiniHackEnv

    made: list[Any] = []

    def build(name: str = "MiniHack-Room-Random-15x15-v0", **arguments: Any) -> Any:
        made.append(MiniHackEnv(name, **arguments))
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture
def play(make: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Starts an episode on a hand-made map; the agent stands at (1, 1) of it."""

    def build(rows: str, things: str = "", **arguments: Any) -> Any:
        lines = rows.split()
        text = LEVEL.format(
            map="\n".join(lines), right=len(lines[0]) - 1, bottom=len(lines) - 1, things=things
        )
        file = tmp_path / "a level.des"
        file.write_text(text)
        env = make(str(file), **arguments)
        env.reset(0)
        return env

    return build
