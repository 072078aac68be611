"""NetHack's glyph numbers translated into `Terrain`, by the game's own constants and names."""

from typing import Any

import numpy as np

from remdm.maps import Terrain

# NetHack's names of map symbols (defsyms), with what they mean to somebody who walks.
_TERRAIN_OF_SYMBOL = {
    "wall": Terrain.WALL,
    "doorway": Terrain.DOORWAY,  # also what is left of a broken door
    "open door": Terrain.OPEN_DOOR,
    "closed door": Terrain.CLOSED_DOOR,
    "iron bars": Terrain.HAZARD,
    "tree": Terrain.HAZARD,
    "floor of a room": Terrain.FLOOR,
    "dark part of a room": Terrain.FLOOR,
    "corridor": Terrain.CORRIDOR,
    "lit corridor": Terrain.CORRIDOR,
    "staircase up": Terrain.FLOOR,
    "staircase down": Terrain.GOAL,
    "ladder up": Terrain.FLOOR,
    "ladder down": Terrain.GOAL,
    "altar": Terrain.FLOOR,
    "grave": Terrain.FLOOR,
    "opulent throne": Terrain.FLOOR,
    "sink": Terrain.FLOOR,
    "fountain": Terrain.FLOOR,
    "ice": Terrain.FLOOR,
    "lowered drawbridge": Terrain.FLOOR,
    "air": Terrain.FLOOR,
    "cloud": Terrain.FLOOR,
    "water": Terrain.HAZARD,
    "molten lava": Terrain.HAZARD,
    "raised drawbridge": Terrain.HAZARD,
}
_STONE = 0  # index of S_stone, which shares its name with S_darkroom
_LAST_TRAP = "vibrating square"


def glyph_terrain(nethack: Any) -> np.ndarray:
    """The `Terrain` of every glyph.

    Effects that pass in a moment (beams, explosions, clouds of gas) say nothing of the cell and
    count as UNKNOWN. Traps count as FLOOR: walking around them costs more than most of them do,
    and in a corridor there is no way around.

    Args:
        nethack: The module `nle.nethack`.

    Returns:
        uint8 [MAX_GLYPH + 1]; the last entry is NetHack's "no glyph".
    """
    table = np.full(nethack.MAX_GLYPH + 1, Terrain.UNKNOWN, np.uint8)
    in_traps = False
    for index in range(nethack.MAXPCHARS):
        name = nethack.symdef.from_idx(index).explanation
        glyph = nethack.GLYPH_CMAP_OFF + index
        in_traps = in_traps or "trap" in name
        if index != _STONE and name in _TERRAIN_OF_SYMBOL:
            table[glyph] = _TERRAIN_OF_SYMBOL[name]
        elif in_traps:
            table[glyph] = Terrain.FLOOR
        if name == _LAST_TRAP:
            break
    # Kinds in the order of their numbers (display.h): living things, corpses, objects, statues.
    for first, past, kind in (
        (nethack.GLYPH_MON_OFF, nethack.GLYPH_BODY_OFF, Terrain.MONSTER),
        (nethack.GLYPH_BODY_OFF, nethack.GLYPH_RIDDEN_OFF, Terrain.OBJECT),
        (nethack.GLYPH_RIDDEN_OFF, nethack.GLYPH_OBJ_OFF, Terrain.MONSTER),
        (nethack.GLYPH_OBJ_OFF, nethack.GLYPH_CMAP_OFF, Terrain.OBJECT),
        (nethack.GLYPH_WARNING_OFF, nethack.GLYPH_STATUE_OFF, Terrain.MONSTER),
        (nethack.GLYPH_STATUE_OFF, nethack.MAX_GLYPH, Terrain.OBJECT),
    ):
        table[first:past] = kind
    for item in range(nethack.NUM_OBJECTS):
        if nethack.OBJ_NAME(nethack.objclass(item)) == "boulder":
            table[nethack.GLYPH_OBJ_OFF + item] = Terrain.BOULDER
    return table
