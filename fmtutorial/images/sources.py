"""Images from a folder, a data set of torchvision by its name, an array, or the package.

Chapter 15.
"""

import contextlib
import os
import sys
import tempfile
import zipfile
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fmtutorial.checkpoints import as_path
from fmtutorial.fields import check_count
from fmtutorial.images.data import DATA, ImageSet, check_labels, check_split, data_folder
from fmtutorial.images.folders import check_memory, held_out, read_folder
from fmtutorial.images.pictures import pixels, squared

BY_FLAG = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "QMNIST", "USPS")
BY_WORD = ("Flowers102", "Food101", "GTSRB", "STL10", "SVHN")
"""Data sets of torchvision with images and classes, by how they are asked for their splits."""

NAMES = (*DATA, "emoji", *BY_FLAG, *BY_WORD)
"""Names of sources; everything else is a path. A folder of such a name is ./NAME."""


def read_images(source: str | Path, split: str = "train", size: int | None = None) -> ImageSet:
    """Return one split of a set of images.

    Args:
        source: one of
            "full" or "small": MNIST, or the thousand digits of it that the package brings;
            "emoji": 32×32 in colour, of nine categories, that the package brings;
            a data set of torchvision in ``NAMES``, which is downloaded the first time;
            a folder of pictures, see ``read_folder``;
            a file of NumPy: .npy with images as unsigned bytes, shape (N, height, width),
            (N, height, width, channels) or (N, channels, height, width) with at most four
            channels, or .npz with ``images`` and ``labels``.
        split: "train" or "test". Where nobody has split the images, see ``held_out``.
        size: crop the centre of each to a square and resize it to so many pixels.

    Returns:
        Unsigned bytes, shape (N, height, width), or (N, channels, height, width); and labels.

    Raises:
        FileNotFoundError: there is neither such a name nor such a path.
        OSError: a download failed.
        ValueError: an unknown split, or the data cannot be used; the message says what to do.

    Chapter 15.
    """
    path = as_path(source)
    check_split(split)
    if size is not None:
        check_count(size, "size")
    if str(source) in BY_FLAG + BY_WORD:
        return _torchvision(str(source), split, size)
    if str(source) not in NAMES and path.is_dir():
        return read_folder(path, split, size)
    if str(source) in DATA:
        found = DATA[str(source)](split)
    elif str(source) == "emoji":
        found = _array(Path(str(resources.files("fmtutorial") / "data" / "emoji.npz")), split)
    elif path.is_file():
        found = _array(path, split)
    else:
        raise FileNotFoundError(
            f"no images at {source}: it is no folder, no file .npy or .npz, and none of the names "
            f"{', '.join(NAMES)}"
        )
    if size is None:
        return found
    channels = found.images.shape[1] if found.images.ndim == 4 else 1
    check_memory(len(found.images), (channels, size, size), str(source))
    parts = [squared(part, size) for part in found.images.split(1000)]
    return ImageSet(torch.cat(parts), found.labels)


def _array(path: Path, split: str) -> ImageSet:
    """Read a file of NumPy, from which no code runs."""
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except MemoryError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        code = any(word in str(error) for word in ("pickle", "Python objects"))
        why = "it holds objects of Python, which may run code" if code else error
        wanted = "pass unsigned bytes saved by np.save or np.savez"
        raise ValueError(f"{path} is no array of images ({why!s:.200}); {wanted}") from error
    if "images" not in arrays:
        raise ValueError(f"{path} has {sorted(arrays)}; pass an .npz with images and labels")
    images = _bytes(arrays["images"], path)
    labels = _labels(arrays.get("labels"), len(images), path)
    rows = held_out(labels, split, str(path))
    return ImageSet(torch.from_numpy(np.ascontiguousarray(images[rows])), labels[rows])


def _bytes(images: np.ndarray, path: Path) -> np.ndarray:
    """Return images with their channels before height and width, or without one.

    Raises:
        ValueError: they are of another type or shape, or fewer than two.
    """
    shape = images.shape
    if images.dtype != np.uint8:
        real = images.dtype.kind == "f" and images.size > 0
        nan = " with NaN or infinity" if real and not np.isfinite(images).all() else ""
        raise ValueError(
            f"{path} holds {images.dtype}{nan}; pass unsigned bytes, 0 to 255: of x from 0 to 1, "
            "(255 * x).round().astype(np.uint8)"
        )
    first, last = (shape[1] <= 4, shape[3] <= 4) if len(shape) == 4 else (False, False)
    if len(shape) != 3 and not (first or last) or 0 in shape:
        wanted = "(N, height, width), (N, height, width, channels) or (N, channels, height, width)"
        raise ValueError(f"{path} has shape {shape}; pass {wanted} with at most 4 channels")
    if len(shape) == 4 and last and not (first and shape[1] in (1, 3)):
        images = np.moveaxis(images, 3, 1)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if len(images) < 2:
        raise ValueError(f"{path} holds one image; pass two or more, one to hold out")
    return images


def _labels(labels: np.ndarray | None, n: int, path: Path) -> Tensor:
    """Return the labels in a file, or zeros if there are none."""
    if labels is None:
        return torch.zeros(n, dtype=torch.int64, device="cpu")
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise ValueError(
            f"{path} has labels of {labels.dtype} and shape {labels.shape}; "
            f"pass whole numbers from 0, shape ({n},)"
        )
    found = torch.from_numpy(labels.astype(np.int64))
    check_labels(found, n - 1)  # as many classes as images would be too many
    return found


def _torchvision(name: str, split: str, size: int | None) -> ImageSet:
    """Return a split of a data set of torchvision, downloading it the first time."""
    root = data_folder()
    dataset = _made(name, root, split)
    first, _ = dataset[0]
    grey = first.mode in ("1", "L")
    sizes = Counter()
    images, labels = [], []
    for image, label in dataset:
        sizes[image.size] += 1
        if len(sizes) > 1 and size is None:
            raise ValueError(f"{name} has images of several sizes: pass size=32, as --size 32")
        images.append(pixels(image, grey, size))
        labels.append(int(label))
    return ImageSet(torch.stack(images), torch.tensor(labels, device="cpu"))


def _made(name: str, root: Path, split: str) -> Dataset:
    """Return a data set of torchvision; its files come into the folder when they are complete."""
    from torchvision import datasets  # slow to import, and needed here only

    how = {"train": split == "train"} if name in BY_FLAG else {"split": split}
    kind = getattr(datasets, name)
    try:
        return kind(str(root), **how)
    except (RuntimeError, OSError):  # it is not there, or not complete
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="download-") as folder:
            with contextlib.redirect_stdout(sys.stderr):
                kind(folder, **how, download=True)
            for child in Path(folder).iterdir():
                target = root / child.name
                if target.is_dir():
                    _merge(child, target)
                else:
                    os.replace(child, target)
        return kind(str(root), **how)
    except Exception as error:  # of many kinds
        raise OSError(
            f"{name} is not in {root} as torchvision lays it out, and downloading it failed "
            f"({' '.join(str(error).split()):.200}): connect to the network, or let "
            "FMTUTORIAL_DATA be the folder that holds it"
        ) from error


def _merge(source: Path, target: Path) -> None:
    """Move all files below a folder to the same places below another."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            os.replace(path, place)
