"""A Craftax life as coloured text, for watching in a terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from remdm.evaluation.craftax_pictures import achieved, describe_life, time_text
from remdm.evaluation.craftax_scene import Scene, read_scene
from remdm.evaluation.plan_column import When, plan_lines
from remdm.evaluation.recording import Recording
from remdm.evaluation.tables import short_env_name

# In the order of `craftax_scene.FACINGS`.
_PLAYERS = {
    (0, -1): "\u25c0",
    (0, 1): "\u25b6",
    (-1, 0): "\u25b2",
    (1, 0): "\u25bc",
}
_STYLES = {
    When.DONE: "dim strike",
    When.NEXT: "black on yellow",
    When.SOON: "cyan",
    When.LATER: "dim cyan",
}
_LINES = 18  # of a plan or of achievements; a life is watched on a screen of any size


def life_text(recording: Recording, index: int) -> Group:
    """A whole screen: what is seen, carried and achieved, and the plan or how it ended.

    Args:
        recording: Of either Craftax game.
        index: Which of its moments.
    """
    scene = read_scene(recording.moments[index].observation)
    head = Text(short_env_name(recording.env), style="bold")
    head.append(f"  {recording.policy}, level {recording.seed}", style="dim")
    head.append(f"  {time_text(recording, index)}", style="dim")
    columns = Table.grid(padding=(0, 3))
    columns.add_row(view_text(scene), _belongings(recording, index, scene), _plan(recording, index))
    levels = "  ".join(f"{name} {level}" for name, level in [*scene.needs, *scene.skills])
    notes = [scene.state] if scene.state else []
    notes += [] if scene.floor is None else [f"floor {scene.floor}"]
    return Group(head, Text(), columns, Text(), Text("  ".join([levels, *notes])))


def view_text(scene: Scene) -> Text:
    """What the player sees, two characters a tile, a line per row."""
    text = Text(no_wrap=True)
    rows, columns = scene.tiles.shape
    for row in range(rows):
        for column in range(columns):
            kind = scene.things.get((row, column), [scene.block(row, column)])[-1]
            style = "{}rgb({},{},{})".format(
                "bold " if (row, column) in scene.things else "", *kind.colour
            )
            letter = kind.letter
            if (row, column) == scene.player:
                letter, style = _PLAYERS[scene.facing], "bold yellow"
            text.append(f"{letter} ", style=style)
        text.append("\n" if row + 1 < rows else "")
    return text


def _belongings(recording: Recording, index: int, scene: Scene) -> Text:
    text = Text(no_wrap=True)
    carried = [f"{item.number} {item.name}" for item in scene.carried] or ["nothing"]
    text.append("carries\n", style="dim")
    text.append("\n".join(carried) + "\n\n")
    found = achieved(recording, index)
    text.append(f"achieved {len(found)}\n", style="dim")
    for step, name in found[: max(0, _LINES - len(carried))]:
        text.append(f"+ {name.replace('_', ' ')}", style="green" if step == index else "")
        text.append(f" {step}\n", style="dim")
    text.rstrip()
    return text


def _plan(recording: Recording, index: int) -> Text:
    if index == recording.num_steps:
        words, good = describe_life(recording)
        return Text(words, style="bold green" if good else "bold red")
    text = Text(f"plan {recording.moments[index].plan_index + 1}\n", style="dim", no_wrap=True)
    lines = plan_lines(recording, index)
    done = sum(line.when is When.DONE for line in lines)
    start = min(max(0, done - 3), max(0, len(lines) - _LINES))
    for line in lines[start : start + _LINES]:
        text.append(line.text + "\n", style=_STYLES[line.when])
    text.rstrip()
    return text
