"""Frames to an animated GIF, small enough to be shown on a web page."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NUM_COLOURS, VIVID_COLOURS = 128, 256
_PALETTE_FRAMES = 12  # frames that the common palette is made from
_LAST_FRAME_MS = 2500


def default_fps(num_frames: int) -> float:
    """Frames per second that show an episode in about half a minute, neither slow nor wild."""
    return float(np.clip(num_frames / 30, 4, 12))


def write_gif(
    path: Path, frames: Sequence[np.ndarray], fps: float | None = None, *, vivid: bool = False
) -> None:
    """Write frames as a GIF that loops and rests on its last frame.

    One palette serves all frames, so that pixels which do not change cost nothing.

    Args:
        path: File to write; its folder is made if need be.
        frames: uint8 [height, width, 3], all of one shape.
        fps: Frames per second; chosen by `default_fps` when None.
        vivid: Keep colours true that are rare, for pictures with textures.

    Raises:
        ValueError: If there are no frames or they differ in shape.
    """
    if not frames or len({frame.shape for frame in frames}) != 1:
        shapes = sorted({frame.shape for frame in frames})
        raise ValueError(f"a GIF needs frames of one shape, at least one, got shapes {shapes}.")
    palette = _vivid_palette(frames) if vivid else _common_palette(frames)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    # GIF counts time in hundredths of a second.
    duration = max(2, round(100 / (fps or default_fps(len(frames))))) * 10
    durations = [duration] * (len(frames) - 1) + [_LAST_FRAME_MS]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
            optimize=True,  # unchanged pixels become transparent, which packs well
            disposal=1,
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _common_palette(frames: Sequence[np.ndarray]) -> Image.Image:
    """A palette image that suits frames from all over the episode."""
    montage = _montage(frames)
    return Image.fromarray(montage).quantize(NUM_COLOURS, method=Image.Quantize.MEDIANCUT)


def _vivid_palette(frames: Sequence[np.ndarray]) -> Image.Image:
    """A palette in which a colour weighs by the root of how often it is seen.

    By the number of its pixels, a wide meadow would take all the colours from a small heart.
    """
    shades = np.array([1 << 16, 1 << 8, 1])
    packed, counts = np.unique(_montage(frames).astype(np.int64) @ shades, return_counts=True)
    weighed = np.repeat(packed, np.ceil(np.sqrt(counts)).astype(np.int64))
    pixels = (weighed[None, :, None] // shades % 256).astype(np.uint8)
    return Image.fromarray(pixels).quantize(VIVID_COLOURS, method=Image.Quantize.MEDIANCUT)


def _montage(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Some of the frames, one above the other."""
    picks = np.unique(np.linspace(0, len(frames) - 1, _PALETTE_FRAMES).round().astype(int))
    return np.concatenate([frames[i] for i in picks])
