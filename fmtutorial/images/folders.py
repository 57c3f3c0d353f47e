"""A folder of pictures as a set of images, and one clear line where that cannot be. Chapter 15."""

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fmtutorial.checkpoints import as_path
from fmtutorial.fields import check_count
from fmtutorial.images.data import ImageSet, check_labels, check_split
from fmtutorial.images.pictures import pixels
from fmtutorial.images.process import free_memory

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
"""How the names of pictures end; files with other ends are left out."""

GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of one channel; with every other one a picture is in colour."""

HELD_OUT = 10
"""Every tenth image is held out of the training where nobody has split them."""


class _Picture(NamedTuple):
    path: Path
    label: int
    size: tuple[int, int]  # width, height
    grey: bool


def read_folder(folder: str | Path, split: str = "train", size: int | None = None) -> ImageSet:
    """Read a folder of pictures; its sub-folders, if there are any, are the classes by name.

    If there are both ``train`` and ``test`` inside, they are the splits; else see ``held_out``, in
    the order of the paths. Hidden files are left out, others that are no pictures by their name
    with a warning. All pictures are grey if each of them is; one in colour, or with a palette,
    makes all of them colour. What is transparent is put on white, what a camera has turned is
    turned back, 16 bits become 8 (divided by 257), and of a film the first frame is taken.

    Args:
        folder: of pictures of one size, or of any sizes with ``size``.
        split: "train" or "test".
        size: crop the centre to a square and make its sides this many pixels.

    Returns:
        Shape (N, height, width), or (N, 3, height, width) if there is colour; labels 0 … by the
        sorted names of the sub-folders, all 0 without sub-folders.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds fewer than two pictures, several sizes, pictures beside classes, more
            than the memory holds, a broken or huge picture, or a link to a folder or to outside.

    Chapter 15.
    """
    check_split(split)
    if size is not None:
        check_count(size, "size")
    root = as_path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    parts = [root / "train", root / "test"]
    given = all(part.is_dir() for part in parts)
    found = [_files(part, root) for part in parts] if given else [_files(root, root)]
    names = sorted({name for files in found for name, _ in files})
    if given and len(names) > 1 and (new := {n for n, _ in found[1]} - {n for n, _ in found[0]}):
        raise ValueError(f"{parts[1]} has the class {min(new)!r}, which {parts[0]} has not")
    pictures = [_look(root, [(names.index(n), path) for n, path in files]) for files in found]
    grey = all(picture.grey for some in pictures for picture in some)
    if given:
        wanted = pictures[split == "test"]
    else:
        labels = torch.tensor([picture.label for picture in pictures[0]], device="cpu")
        wanted = [pictures[0][i] for i in held_out(labels, split, str(root))]
    _check_sizes(root, [picture for some in pictures for picture in some], size, grey)
    images = _decode(root, wanted, size, grey)
    return ImageSet(images, torch.tensor([picture.label for picture in wanted], device="cpu"))


def held_out(labels: Tensor, split: str, name: str = "the data") -> list[int]:
    """Return which of these images are in a split: every tenth is held out, for "test".

    Of fewer than ten it is the last. The only image of a class stays in the training.

    Args:
        labels: shape (N,).
        split: "train" or "test".
        name: of the data, for the message.

    Raises:
        ValueError: there is nothing to hold out.

    Chapter 15.
    """
    check_split(split)
    check_labels(labels, 2**63 - 1)
    n, many = len(labels), torch.bincount(labels)[labels] > 1
    out = set(range(HELD_OUT - 1, n, HELD_OUT)) or {n - 1}
    out = {i for i in out if n and many[i]}
    if not out:
        raise ValueError(f"{name}: of {n} images none can be held out; two of a class are needed")
    return [i for i in range(n) if (i in out) == (split == "test")]


def _files(folder: Path, root: Path) -> list[tuple[str, Path]]:
    """Return the pictures of a folder with their classes, in the order of their paths.

    The class is "" where there are no sub-folders with pictures.
    """
    found, others, home = [], [], root.resolve()
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths = [Path(place, name) for name in [*folders, *files] if name[0] != "."]
        for path in filter(Path.is_symlink, paths):
            _check_link(path, home)
        for path in (path for path in paths if path.name in files):
            (found if path.suffix.lower() in SUFFIXES else others).append(path)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        text = f"left out, as no picture by its name: {min(others)}{more}; pictures end in"
        warnings.warn(f"{text} {', '.join(sorted(SUFFIXES))}", stacklevel=3)
    top = [path for path in found if path.parent == folder]
    if top and len(top) < len(found):
        raise ValueError(
            f"{folder} holds {len(top)} pictures beside sub-folders with {len(found) - len(top)}: "
            "put all into sub-folders, one for each class, or none"
        )
    names = [path.relative_to(folder).parts[0] if not top else "" for path in found]
    return sorted(zip(names, found, strict=True))


def _raise(error: OSError) -> None:
    raise error


def _check_link(path: Path, home: Path) -> None:
    """Raise unless a link leads to a file in the folder of the data."""
    target = Path(os.path.realpath(path))
    if path.is_dir():
        why = "a link to a folder"
    elif not path.is_file():
        why = "a link that leads nowhere"
    elif not target.is_relative_to(home):
        why = "a link that leads out of the folder"
    else:
        return
    raise ValueError(f"{path} is {why}, {target}: put the files themselves there, or remove it")


def _look(root: Path, files: list[tuple[int, Path]]) -> list[_Picture]:
    """Return the sizes and colours of pictures, of which no pixel is read."""
    found, broken = [], []
    for label, path in files:
        try:
            with _opened(path) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                size = image.size[::-1] if turned else image.size
                found.append(_Picture(path, label, size, image.mode in GREY))
        except Exception as error:  # of many kinds: each format has its own
            broken.append((path, error))
    _check_broken(root, broken, len(files))
    if not found:
        raise ValueError(f"there are no pictures in {root}: {', '.join(sorted(SUFFIXES))}")
    return found


def _opened(path: Path) -> Image.Image:
    """Open a picture, but none that Pillow calls a decompression bomb."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)


def _check_broken(root: Path, broken: list[tuple[Path, Exception]], n: int) -> None:
    if broken:
        path, error = broken[0]
        why = f"{type(error).__name__}: {error}".replace(str(path), path.name)
        raise ValueError(
            f"{len(broken)} of {n} pictures in {root} cannot be read, first {path} ({why:.200}): "
            "mend or delete what is broken, and make smaller what is huge"
        )


def _check_sizes(root: Path, pictures: list[_Picture], size: int | None, grey: bool) -> None:
    """Raise unless all pictures have one size, or get one, and the memory holds them."""
    sizes = Counter(picture.size for picture in pictures)
    if len(sizes) > 1 and size is None:
        most = ", ".join(f"{n} of {w}×{h}" for (w, h), n in sizes.most_common(3))
        more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        fits = min(64, *(side for pair in sizes for side in pair))
        raise ValueError(
            f"the pictures in {root} have several sizes (width×height), {most}{more}: size={fits}, "
            f"as option --size {fits}, crops the centre of each to a square and resizes it"
        )
    width, height = (size, size) if size else next(iter(sizes))
    check_memory(len(pictures), (1 if grey else 3, height, width), str(root))


def check_memory(n: int, shape: tuple[int, int, int], name: str) -> None:
    """Raise unless the memory has place for n images of a shape.

    Args:
        n: number of images.
        shape: (channels, height, width).
        name: of the data, for the message.

    Raises:
        ValueError: they take more bytes than there are.
    """
    take, free = n * shape[0] * shape[1] * shape[2], free_memory()
    if free is not None and take > free:
        raise ValueError(
            f"{name}: {n} images of {'×'.join(map(str, shape))} take {take / 1e9:.1f} GB of memory "
            f"({take} bytes) and {free / 1e9:.1f} GB are free: take fewer, or smaller ones "
            "(--size 64 takes 64×64 of each)"
        )


def _decode(root: Path, pictures: list[_Picture], size: int | None, grey: bool) -> Tensor:
    """Return the pixels of pictures, shape (N, height, width) or (N, 3, height, width)."""
    images, broken = [], []
    for picture in pictures:
        try:
            with _opened(picture.path) as image:
                images.append(pixels(image, grey, size))
        except Exception as error:  # see _look; and only here a truncated file shows
            broken.append((picture.path, error))
    _check_broken(root, broken, len(pictures))
    return torch.stack(images)
