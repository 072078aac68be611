"""Pictures of Craftax's blocks, creatures and items: the game's own where the package is installed.

The package is looked up but not imported, since that would load jax. Where a picture is missing,
a coloured tile with a letter takes its place.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from remdm.evaluation.craftax_scene import Item, Kind
from remdm.evaluation.tiles import Colour

_INK_DARK, _INK_LIGHT = (16, 18, 24), (240, 244, 250)
_ITEM_COLOUR = (66, 78, 97)


@functools.lru_cache(maxsize=4)
def assets_folder(game: str) -> Path | None:
    """Where the pictures of `game` lie: "craftax_classic" or "craftax"; None if nowhere."""
    package = importlib.util.find_spec("craftax")
    places = (package.submodule_search_locations if package else None) or []
    for place in places:
        folder = Path(place) / game / "assets"
        if folder.is_dir():
            return folder
    return None


@functools.lru_cache(maxsize=1024)
def kind_tile(kind: Kind, folder: Path | None, size: int) -> Image.Image:
    """A block or a thing, RGBA of `size` x `size` pixels, transparent around a thing.

    Args:
        kind: What.
        folder: Where textures lie, or None for tiles with letters.
        size: Pixels of a side.
    """
    found = _texture(folder, kind.texture, size)
    return found or _letter_tile(kind.letter, kind.colour, size)


@functools.lru_cache(maxsize=256)
def item_tile(item: Item, folder: Path | None, size: int) -> Image.Image:
    """Something carried, as `kind_tile`; the count is not drawn."""
    return _stacked(item.textures, folder, size) or _letter_tile(
        item.name[:1].upper(), _ITEM_COLOUR, size
    )


@functools.lru_cache(maxsize=64)
def icon(name: str, folder: Path | None, size: int) -> Image.Image:
    """A picture of the game by its name, such as "health" or "player-left", as `kind_tile`."""
    return _texture(folder, name, size) or _letter_tile(_initial(name), _ITEM_COLOUR, size)


def _initial(name: str) -> str:
    return "@" if name.startswith("player") else name[:1].upper()


def _stacked(names: Sequence[str], folder: Path | None, size: int) -> Image.Image | None:
    """Textures one over the other; None if the lowest is missing."""
    layers = [_texture(folder, name, size) for name in names]
    picture = layers[0]
    for layer in layers[1:]:
        if picture is not None and layer is not None:
            picture = Image.alpha_composite(picture, layer)
    return picture


def _texture(folder: Path | None, name: str, size: int) -> Image.Image | None:
    if folder is None or not name:
        return None
    path = folder / f"{name}.png"
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return image.convert("RGBA").resize((size, size), Image.Resampling.NEAREST)


def _letter_tile(letter: str, colour: Colour, size: int) -> Image.Image:
    tile = Image.new("RGBA", (size, size), colour)
    if letter.strip():
        ink = _INK_DARK if sum(colour) > 330 else _INK_LIGHT
        font = ImageFont.load_default(round(size * 0.6))
        ImageDraw.Draw(tile).text((size / 2, size / 2), letter, ink, font, anchor="mm")
    return tile
