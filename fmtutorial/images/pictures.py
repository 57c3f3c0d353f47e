"""Pixels as pictures and films: side by side, in a file, in a notebook. Chapter 8."""

import io
import math

from PIL import Image
from torch import Tensor

from fmtutorial.fields import check_count
from fmtutorial.images.data import check_images
from fmtutorial.labs import check_caption, display_picture

HOLD = 2000
"""How long the last frame of a film stays, in milliseconds."""


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Put images side by side, row by row, white on black.

    Args:
        images: unsigned bytes, shape (N, height, width).
        columns: images in a row.
        gap: pixels between them.

    Returns:
        One image, unsigned bytes, shape (height', width').

    Raises:
        ValueError: there is no image, or no pixel in it.
    """
    _check_pictures(images)
    check_count(columns, "columns")
    check_count(gap, "gap", 0)
    n, height, width = images.shape
    rows = math.ceil(n / columns)
    sheet = images.new_full((rows * (height + gap) - gap, columns * (width + gap) - gap), 0)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def encode(frames: Tensor, pause: int = 60) -> tuple[str, bytes]:
    """Encode frames of pixels: one as a PNG, several as a GIF that runs for ever.

    Args:
        frames: unsigned bytes, shape (T, height, width).
        pause: between the frames of a film, milliseconds; the last one stays for two seconds.

    Returns:
        The media type, "image/png" or "image/gif", and the bytes of the file.

    Raises:
        ValueError: there is no frame, or no pixel in it.
    """
    _check_pictures(frames)
    check_count(pause, "pause", 0)
    first, *others = (Image.fromarray(frame) for frame in frames.cpu().numpy())
    file = io.BytesIO()
    if others:
        pauses = [pause] * len(others) + [HOLD]
        first.save(file, "gif", save_all=True, append_images=others, duration=pauses, loop=0)
        return "image/gif", file.getvalue()
    first.save(file, "png", optimize=True)
    return "image/png", file.getvalue()


def show_pixels(frames: Tensor, name: str, alt: str, zoom: int = 2, pause: int = 60) -> None:
    """Display frames of pixels in a notebook: one as a picture, several as a film.

    Args:
        frames: unsigned bytes, shape (T, height, width).
        name: key under which the book's chapters cite the picture, unique within the lab.
        alt: what it shows, for those who do not see it.
        zoom: screen pixels for each pixel.
        pause: between the frames of a film, milliseconds.

    Raises:
        ValueError: there is no frame, no pixel in it, or no alternative text.
    """
    _check_pictures(frames)
    check_count(zoom, "zoom")
    check_caption(name, alt)
    if len(frames) > 1:  # 32 levels of grey look the same and take less than half the bytes
        frames = frames // 8 * 8 + frames // 32
    large = frames.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)
    kind, picture = encode(large, pause)
    display_picture(kind, picture, min(600, large.shape[2]), name, alt)


def _check_pictures(images: Tensor) -> None:
    check_images(images)
    if images.ndim != 3 or images.numel() == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; pass (N, height, width), N ≥ 1")
