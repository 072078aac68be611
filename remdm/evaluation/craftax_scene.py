"""What a packed Craftax observation shows, in words and numbers: nothing here draws or needs jax.

The numbers of blocks, things and scalars are those of the games' own symbolic observations (see
`remdm.envs.craftax.tiles` for the packing).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from remdm.envs.craftax.tiles import FLAGS, SCALARS, TILES
from remdm.evaluation.tiles import Colour

LIFE_KEYS = (TILES, FLAGS, SCALARS)
_GREEN, _RED, _BLUE, _GREY = (88, 148, 74), (226, 84, 72), (92, 150, 240), (122, 126, 134)
_BROWN, _YELLOW, _PINK, _WHITE = (150, 108, 66), (236, 200, 84), (240, 130, 180), (226, 232, 240)
_ICE, _DARK, _ORANGE, _VIOLET = (150, 214, 236), (30, 32, 40), (240, 140, 60), (180, 120, 230)


class Kind(NamedTuple):
    """A kind of block or of thing on it.

    Attributes:
        name: For people.
        letter: Stands for it where there are no pictures.
        colour: Likewise.
        texture: Name of the game's own picture.
    """

    name: str
    letter: str
    colour: Colour
    texture: str


class Item(NamedTuple):
    """Something carried: how many, and the pictures that show it, one over the other."""

    name: str
    number: int
    textures: tuple[str, ...]


# In the order of the full game; Classic has the first seventeen.
BLOCKS = (
    Kind("invalid", "?", _DARK, "debug_tile"),
    Kind("out of bounds", " ", (58, 60, 66), ""),
    Kind("grass", ".", _GREEN, "grass"),
    Kind("water", "~", _BLUE, "water"),
    Kind("stone", "#", _GREY, "stone"),
    Kind("tree", "T", (46, 110, 50), "tree"),
    Kind("wood", "w", _BROWN, "wood"),
    Kind("path", ",", (170, 150, 120), "path"),
    Kind("coal", "c", (70, 70, 74), "coal"),
    Kind("iron", "i", (214, 170, 140), "iron"),
    Kind("diamond", "d", _WHITE, "diamond"),
    Kind("crafting table", "t", _BROWN, "table"),
    Kind("furnace", "f", (140, 120, 116), "furnace"),
    Kind("sand", ":", (222, 206, 150), "sand"),
    Kind("lava", "L", _ORANGE, "lava"),
    Kind("plant", "p", (120, 190, 90), "plant_on_grass"),
    Kind("ripe plant", "P", _PINK, "ripe_plant_on_grass"),
    Kind("wall", "#", (104, 98, 92), "wall2"),
    Kind("darkness", " ", _DARK, ""),
    Kind("mossy wall", "#", (84, 112, 80), "wall_moss"),
    Kind("stalagmite", "^", _GREY, "stalagmite"),
    Kind("sapphire", "s", _BLUE, "sapphire"),
    Kind("ruby", "r", _RED, "ruby"),
    Kind("chest", "h", _YELLOW, "chest"),
    Kind("fountain", "o", _BLUE, "fountain"),
    Kind("fire grass", ".", _ORANGE, "fire_grass"),
    Kind("ice grass", ".", _ICE, "ice_grass"),
    Kind("gravel", ":", _GREY, "gravel"),
    Kind("fire tree", "T", _ORANGE, "fire_tree"),
    Kind("ice shrub", "T", _ICE, "ice_shrub"),
    Kind("fire enchantment table", "E", _ORANGE, "enchantment_table_fire"),
    Kind("ice enchantment table", "E", _ICE, "enchantment_table_ice"),
    Kind("necromancer", "N", _VIOLET, "necromancer"),
    Kind("grave", "n", _GREY, "grave"),
    Kind("grave", "n", _GREY, "grave2"),
    Kind("grave", "n", _GREY, "grave3"),
    Kind("vulnerable necromancer", "N", _PINK, "necromancer_vulnerable"),
)
_NECROMANCER, _VULNERABLE = 32, 36
UNSEEN = Kind("unseen", " ", _DARK, "")

_ZOMBIE = Kind("zombie", "Z", _RED, "zombie")
_COW = Kind("cow", "C", _WHITE, "cow")
_SKELETON = Kind("skeleton", "S", _WHITE, "skeleton")
_ARROW = Kind("arrow", "-", _YELLOW, "arrow-up")
CLASSIC_THINGS: tuple[Kind | None, ...] = (_ZOMBIE, _COW, _SKELETON, _ARROW)


def _foe(name: str, letter: str) -> Kind:
    return Kind(name, letter, _RED, name.replace(" ", "_"))


def _missile(name: str, texture: str = "") -> Kind:
    return Kind(name, "*", _YELLOW, texture or name)


_MISSILES = (
    _ARROW,
    _missile("dagger"),
    _missile("fireball"),
    _missile("iceball"),
    _ARROW,
    _missile("slimeball"),
    _missile("fireball"),
    _missile("iceball"),
)
# Items, five classes of eight creatures (fighters, animals, shooters, what they throw, what the
# player throws), and whether the tile is lit, which is not drawn.
FULL_THINGS: tuple[Kind | None, ...] = (
    None,
    Kind("torch", "!", _YELLOW, "torch_in_inventory"),
    Kind("ladder down", ">", _YELLOW, "ladder_down"),
    Kind("ladder up", "<", _YELLOW, "ladder_up"),
    Kind("blocked ladder down", "x", _YELLOW, "ladder_down_blocked"),
    _ZOMBIE,
    _foe("gnome warrior", "G"),
    _foe("orc soldier", "O"),
    _foe("lizard", "L"),
    _foe("knight", "K"),
    _foe("troll", "T"),
    _foe("pigman", "P"),
    _foe("frost troll", "F"),
    _COW,
    Kind("bat", "B", _WHITE, "bat"),
    Kind("snail", "Q", _WHITE, "snail"),
    *[None] * 5,
    _SKELETON,
    _foe("gnome archer", "g"),
    _foe("orc mage", "o"),
    _foe("kobold", "k"),
    Kind("archer", "a", _RED, "knight_archer"),
    _foe("deep thing", "D"),
    _foe("fire elemental", "f"),
    _foe("ice elemental", "e"),
    *_MISSILES,
    *_MISSILES,
    None,
)
# (row, column) that the player faces, in the order of the scalars, and the picture's name.
FACINGS = (((0, -1), "left"), ((0, 1), "right"), ((-1, 0), "up"), ((1, 0), "down"))

_CLASSIC_ITEMS = (
    *("wood", "stone", "coal", "iron", "diamond", "sapling"),
    *("wood_pickaxe", "stone_pickaxe", "iron_pickaxe"),
    *("wood_sword", "stone_sword", "iron_sword"),
)
_FULL_ITEMS = {
    "wood": "wood",
    "stone": "stone",
    "coal": "coal",
    "iron": "iron",
    "diamond": "diamond",
    "sapphire": "sapphire",
    "ruby": "ruby",
    "sapling": "sapling",
    "torch": "torch_in_inventory",
    "arrow": "arrow-up",
}
_MATERIALS = ("wood", "stone", "iron", "diamond")
_ARMOUR, _ARMOUR_MATERIALS = ("helmet", "chestplate", "pants", "boots"), ("iron", "diamond")
_POTIONS = ("red", "green", "blue", "pink", "cyan", "yellow")
_ENCHANTMENTS = ("", "fire", "ice")
_NEEDS = ("health", "food", "drink", "energy")
_SKILLS = ("xp", "dexterity", "strength", "intelligence")
_CLASSIC_SCALARS, _FULL_SCALARS = 22, 51


@dataclass(frozen=True, slots=True)
class Scene:
    """One observation, read.

    Attributes:
        assets: Folder of the game's pictures in the craftax package.
        tiles: uint8 [rows, columns]: 1 + number of the block, 0 where nothing can be seen.
        things: What stands, lies and flies on a cell (row, column), lowest first.
        facing: (row, column) step to the cell that the player looks at.
        look: Name of the player's picture.
        light: Of the day, in [0, 1].
        state: "asleep", "resting" or "".
        needs: Name and level, from health on.
        skills: Likewise; the full game only.
        carried: What is in the inventory.
        floor: Of the dungeon; None in Classic.
    """

    assets: str
    tiles: np.ndarray
    things: dict[tuple[int, int], list[Kind]]
    facing: tuple[int, int]
    look: str
    light: float
    state: str
    needs: list[tuple[str, int]]
    skills: list[tuple[str, int]]
    carried: list[Item]
    floor: int | None

    @property
    def player(self) -> tuple[int, int]:
        """(row, column) of the player: the middle."""
        rows, columns = self.tiles.shape
        return rows // 2, columns // 2

    def block(self, row: int, column: int) -> Kind:
        """What the ground of a cell is."""
        number = int(self.tiles[row, column])
        return BLOCKS[number - 1] if number else UNSEEN


def is_life(names: Iterable[str]) -> bool:
    """Whether observations with arrays of these names are packed Craftax observations."""
    return set(LIFE_KEYS) <= set(names)


def read_scene(observation: dict[str, np.ndarray]) -> Scene:
    """Read an observation of either game.

    Args:
        observation: By name, arrays without batch axis.

    Raises:
        ValueError: If it is not a packed Craftax observation.
    """
    if not is_life(observation) or len(observation[SCALARS]) not in (
        _CLASSIC_SCALARS,
        _FULL_SCALARS,
    ):
        raise ValueError(
            f"a Craftax picture needs the arrays {', '.join(LIFE_KEYS)} with {_CLASSIC_SCALARS} or "
            f"{_FULL_SCALARS} scalars (see remdm.envs.craftax.tiles), got "
            f"{ {name: array.shape for name, array in sorted(observation.items())} }."
        )
    scalars = np.asarray(observation[SCALARS], np.float64)
    return (
        _classic(observation, scalars)
        if len(scalars) == _CLASSIC_SCALARS
        else _full(observation, scalars)
    )


def _classic(observation: dict[str, np.ndarray], scalars: np.ndarray) -> Scene:
    counts = _whole(scalars[:12] * 10)
    facing, look = _facing(scalars[16:20])
    asleep = scalars[21] > 0.5
    return Scene(
        assets="craftax_classic",
        tiles=observation[TILES],
        things=_things(observation[FLAGS], CLASSIC_THINGS),
        facing=facing,
        look="player-sleep" if asleep else look,
        light=float(scalars[20]),
        state="asleep" if asleep else "",
        needs=list(zip(_NEEDS, _whole(scalars[12:16] * 10), strict=True)),
        skills=[],
        carried=[
            Item(name.replace("_", " "), count, (name,))
            for name, count in zip(_CLASSIC_ITEMS, counts, strict=True)
            if count
        ],
        floor=None,
    )


def _full(observation: dict[str, np.ndarray], scalars: np.ndarray) -> Scene:
    inventory, potions, levels = scalars[:16], scalars[16:22], _whole(scalars[22:31] * 10)
    facing, look = _facing(scalars[31:35])
    armour, enchanted = _whole(scalars[35:39] * 2), _whole(scalars[39:43])
    light, asleep, resting, fireball, iceball, depth, _, vulnerable = scalars[43:]
    floor = round(float(depth) * 10)
    tiles = observation[TILES]
    if vulnerable > 0.5:
        tiles = np.where(tiles == 1 + _NECROMANCER, 1 + _VULNERABLE, tiles).astype(tiles.dtype)
    spells = [name for name, known in (("fireball", fireball), ("iceball", iceball)) if known > 0.5]
    state = "asleep" if asleep > 0.5 else "resting" if resting > 0.5 else ""
    return Scene(
        assets="craftax",
        tiles=tiles,
        things=_things(observation[FLAGS], FULL_THINGS),
        facing=facing,
        look="player-sleep" if asleep > 0.5 else look,
        light=float(light) if floor == 0 else 1.0,  # there is no day below the ground
        state=state,
        needs=list(zip((*_NEEDS, "mana"), levels[:5], strict=True)),
        skills=list(zip(_SKILLS, levels[5:], strict=True)),
        carried=[
            *_stock(inventory),
            *_tools(inventory),
            *_worn(armour, enchanted),
            *_potions(potions),
            *(Item(f"{name} spell", 1, (name,)) for name in spells),
        ],
        floor=floor,
    )


def _things(flags: np.ndarray, kinds: tuple[Kind | None, ...]) -> dict[tuple[int, int], list[Kind]]:
    """What the packed bits [rows, columns, bytes] of a map say, by cell."""
    bits = np.unpackbits(flags, axis=-1, count=len(kinds))
    found: dict[tuple[int, int], list[Kind]] = {}
    for row, column, number in np.argwhere(bits).tolist():
        kind = kinds[number]
        if kind is not None:
            found.setdefault((row, column), []).append(kind)
    return found


def _facing(one_hot: np.ndarray) -> tuple[tuple[int, int], str]:
    step, name = FACINGS[int(one_hot.argmax())]
    return step, f"player-{name}"


def _whole(values: np.ndarray) -> list[int]:
    numbers: list[int] = np.rint(values).astype(int).tolist()
    return numbers


def _stock(inventory: np.ndarray) -> list[Item]:
    counts = _whole((inventory[:10] * 10) ** 2)  # the game shows square roots
    items = [
        Item(name, count, (texture,))
        for (name, texture), count in zip(_FULL_ITEMS.items(), counts, strict=True)
    ]
    items.append(Item("book", round(float(inventory[10]) * 2), ("book",)))
    return [item for item in items if item.number]


def _tools(inventory: np.ndarray) -> list[Item]:
    items = []
    pickaxe, sword = _whole(inventory[11:13] * 4)
    sword_magic, bow_magic, bow = _whole(inventory[13:16])
    if pickaxe:
        material = _MATERIALS[pickaxe - 1]
        items.append(Item(f"{material} pickaxe", 1, (f"{material}_pickaxe",)))
    if sword:
        material = _MATERIALS[sword - 1]
        items.append(_enchanted(f"{material} sword", f"{material}_sword", "sword", sword_magic))
    if bow:
        items.append(_enchanted("bow", "bow", "arrow", bow_magic))
    return items


def _worn(armour: list[int], enchanted: list[int]) -> list[Item]:
    return [
        _enchanted(f"{material} {piece}", f"{material}_{piece}", piece, magic)
        for piece, level, magic in zip(_ARMOUR, armour, enchanted, strict=True)
        if level
        for material in (_ARMOUR_MATERIALS[level - 1],)
    ]


def _enchanted(name: str, texture: str, piece: str, magic: int) -> Item:
    element = _ENCHANTMENTS[magic]
    if not element:
        return Item(name, 1, (texture,))
    return Item(f"{name} of {element}", 1, (texture, f"{piece}_{element}_enchantment"))


def _potions(scalars: np.ndarray) -> list[Item]:
    counts = _whole((scalars * 10) ** 2)
    return [
        Item(f"{colour} potion", count, (f"potion_{colour}",))
        for colour, count in zip(_POTIONS, counts, strict=True)
        if count
    ]
