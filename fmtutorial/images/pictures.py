"""Pixels as pictures and films, side by side, in a notebook; pictures as pixels. Chapter 8."""

import io
import math

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from fmtutorial.fields import check_count
from fmtutorial.images.data import check_images
from fmtutorial.labs import check_caption, display_picture

HOLD = 2000
"""How long the last frame of a film stays, in milliseconds."""


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Put images side by side, row by row, on black.

    Args:
        images: unsigned bytes, shape (N, height, width), or (N, 3, height, width) for colour.
        columns: images in a row.
        gap: pixels between them.

    Returns:
        One image, unsigned bytes, shape (height', width') or (3, height', width').

    Raises:
        ValueError: there is no image, no pixel in it, or another number of channels.
    """
    _check_pictures(images)
    check_count(columns, "columns")
    check_count(gap, "gap", 0)
    n, *channels, height, width = images.shape
    rows = math.ceil(n / columns)
    sides = rows * (height + gap) - gap, columns * (width + gap) - gap
    sheet = images.new_full((*channels, *sides), 0)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[..., top : top + height, left : left + width] = image
    return sheet


def encode(frames: Tensor, pause: int = 60) -> tuple[str, bytes]:
    """Encode frames of pixels: one as a PNG, several as a GIF that runs for ever.

    A film has 256 colours in each frame, the best for it; grey ones are kept as they are.

    Args:
        frames: unsigned bytes, shape (T, height, width), or (T, 3, height, width) for colour.
        pause: between the frames of a film, milliseconds; the last one stays for two seconds.

    Returns:
        The media type, "image/png" or "image/gif", and the bytes of the file.

    Raises:
        ValueError: there is no frame, no pixel in it, or another number of channels.
    """
    _check_pictures(frames)
    check_count(pause, "pause", 0)
    last = frames if frames.ndim == 3 else frames.movedim(1, -1)  # the channels of Pillow
    first, *others = (Image.fromarray(frame) for frame in last.contiguous().cpu().numpy())
    file = io.BytesIO()
    if others:
        pauses = [pause] * len(others) + [HOLD]
        first.save(file, "gif", save_all=True, append_images=others, duration=pauses, loop=0)
        return "image/gif", file.getvalue()
    _with_palette(first).save(file, "png", optimize=True)
    return "image/png", file.getvalue()


def _with_palette(picture: Image.Image) -> Image.Image:
    """Return the same picture, a number for each pixel if it has few colours: a third of bytes."""
    if picture.mode != "RGB" or picture.getcolors(256) is None:
        return picture
    pixels = np.asarray(picture)
    colours, number = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    numbered = Image.fromarray(number.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    numbered.putpalette(colours.tobytes())
    return numbered


def show_pixels(frames: Tensor, name: str, alt: str, zoom: int = 2, pause: int = 60) -> None:
    """Display frames of pixels in a notebook: one as a picture, several as a film.

    Args:
        frames: unsigned bytes, shape (T, height, width), or (T, 3, height, width) for colour.
        name: key under which the book's chapters cite the picture, unique within the lab.
        alt: what it shows, for those who do not see it.
        zoom: screen pixels for each pixel.
        pause: between the frames of a film, milliseconds.

    Raises:
        ValueError: there is no frame, no pixel in it, another number of channels, or no
            alternative text.
    """
    _check_pictures(frames)
    check_count(zoom, "zoom")
    check_caption(name, alt)
    if len(frames) > 1 and frames.ndim == 3:  # 32 greys look the same and take half the bytes
        frames = frames // 8 * 8 + frames // 32
    large = frames.repeat_interleave(zoom, dim=-2).repeat_interleave(zoom, dim=-1)
    kind, picture = encode(large, pause)
    display_picture(kind, picture, min(600, large.shape[-1]), name, alt)


def plain(image: Image.Image, grey: bool) -> Image.Image:
    """Return a picture in 8 bits, "L" or "RGB", upright, and on white where it is transparent.

    Args:
        image: of any mode.
        grey: "L", else "RGB".

    Raises:
        ValueError: its pixels are no levels of 8 or 16 bits.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is a {type(image).__name__}; pass one of Pillow's")
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        levels = np.array(image)
        if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its pixels have 32 bits: save it with 8 or 16")
        image = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def pixels(image: Image.Image, grey: bool, size: int | None) -> Tensor:
    """Return a picture as unsigned bytes, shape (height, width) or (3, height, width).

    Args:
        image: see ``plain``.
        grey: see ``plain``.
        size: see ``squared``; None leaves the picture as large as it is.

    Raises:
        ValueError: its pixels are no levels of 8 or 16 bits.
    """
    found = torch.from_numpy(np.array(plain(image, grey)))
    found = found if grey else found.movedim(-1, 0)
    return found if size is None else squared(found[None], size)[0]


def squared(images: Tensor, size: int) -> Tensor:
    """Crop the centre of images to a square and resize it, with cubic weights and no aliasing.

    Args:
        images: unsigned bytes, shape (N, height, width) or (N, channels, height, width).
        size: sides of the result, in pixels.

    Returns:
        Unsigned bytes, shape (N, size, size) or (N, channels, size, size).

    Chapter 15.
    """
    check_images(images)
    check_count(size, "size")
    if images.ndim not in (3, 4) or images.numel() == 0:
        wanted = "(N, height, width) or (N, channels, height, width)"
        raise ValueError(f"images have shape {tuple(images.shape)}; pass {wanted}, N ≥ 1")
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images
    many = images if images.ndim == 4 else images[:, None]
    made = F.interpolate(many.float(), (size, size), mode="bicubic", antialias=True)
    return made.round().clamp(0, 255).byte().reshape(*images.shape[:-2], size, size)


def _check_pictures(images: Tensor) -> None:
    check_images(images)
    shape = tuple(images.shape)
    if images.ndim not in (3, 4) or images.numel() == 0:
        wanted = "(N, height, width), N ≥ 1, or (N, 3, height, width)"
        raise ValueError(f"images have shape {shape}; pass {wanted}")
    if images.ndim == 4 and shape[1] != 3:
        raise ValueError(
            f"images have shape {shape}; a picture has one channel or three: pass images[:, 0] "
            "for a single one, or three of them, as images[:, [0, 1, 2]]"
        )
