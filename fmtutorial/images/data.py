"""Sets of images, MNIST and a small part of it, and pixels as real numbers. Chapter 8."""

import hashlib
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from fmtutorial.checkpoints import as_path
from fmtutorial.fields import check_state, generator_device

ROOT_VARIABLE = "FMTUTORIAL_DATA"
"""Environment variable with the folder that holds, or shall hold, MNIST."""

CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the unpacked files of MNIST."""


class ImageSet(NamedTuple):
    """Images as unsigned bytes, and the classes of all, whole numbers of shape (N,) from 0.

    Grey images have shape (N, height, width), without a channel; others (N, channels, height,
    width), with two channels or more. Where there are no classes, all labels are 0.
    """

    images: Tensor
    labels: Tensor


Digits = ImageSet
"""The same for MNIST: shape (N, 28, 28), and labels 0 … 9."""


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise unless images are unsigned bytes with a batch dimension.

    Raises:
        TypeError: they are of another type.
        ValueError: there is no batch dimension.
    """
    if _other(images, torch.uint8):
        kind = _kind(images)
        raise TypeError(f"{name} {kind}; pass torch.uint8: to_pixels(x) of a model's, 0 to 255")
    if images.ndim == 0:
        raise ValueError(f"{name} have no batch dimension; pass images[None] for one")


def check_labels(labels: Tensor, most: int, n: int | None = None) -> None:
    """Raise unless labels are whole numbers from 0 to ``most``, shape (n,).

    Raises:
        TypeError: they are of another type.
        ValueError: they have another shape or are outside the range.
    """
    if _other(labels, torch.int64):
        raise TypeError(f"labels {_kind(labels)}; pass torch.int64, such as labels.long()")
    if labels.ndim != 1 or len(labels) != (len(labels) if n is None else n):
        wanted = "N" if n is None else n
        raise ValueError(f"labels have shape {tuple(labels.shape)}; pass one each, ({wanted},)")
    if bool(((labels < 0) | (labels > most)).any()):
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels run from {found}; they are 0 to {most}")


def check_digits(digits: ImageSet) -> None:
    """Raise unless there are images of a shape of ``ImageSet``, N ≥ 1, and as many labels.

    The labels themselves are not looked at: on a GPU that would make every batch wait.

    Raises:
        TypeError: they are no ``ImageSet``, or of another type.
        ValueError: they have other shapes.
    """
    if not isinstance(digits, ImageSet):
        raise TypeError(f"digits are {digits!r:.60}; pass Digits(images, labels), or an ImageSet")
    check_images(digits.images)
    if _other(digits.labels, torch.int64):
        raise TypeError(f"labels {_kind(digits.labels)}; pass torch.int64, such as labels.long()")
    shape = digits.images.shape
    if len(shape) not in (3, 4) or digits.labels.shape != shape[:1]:
        shapes = f"{tuple(shape)} and {tuple(digits.labels.shape)}"
        wanted = "(N, height, width) or (N, channels, height, width), and (N,)"
        raise ValueError(f"images and labels have shapes {shapes}; pass {wanted}")
    if len(shape) == 4 and shape[1] == 1:
        raise ValueError(f"images have shape {tuple(shape)}; grey ones go without a channel")
    if digits.images.numel() == 0:
        raise ValueError("there are no digits: pass at least one, of at least one pixel")


def _other(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether a value is something else than a dense tensor of a type."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return not dense or value.dtype != dtype


def _kind(value: object) -> str:
    """Say what a value is."""
    if not isinstance(value, Tensor):
        return f"are {value!r:.60}"
    sparse = "" if value.layout == torch.strided else f" and layout {value.layout}"
    return f"have dtype {value.dtype}{sparse}"


def small_digits(split: str = "train") -> Digits:
    """Return 1000 digits of MNIST, 100 of each class, that come with the package.

    Args:
        split: "train" or "test", drawn from MNIST's own training or test digits.

    Raises:
        ValueError: an unknown split.
    """
    check_split(split)
    file = resources.files("fmtutorial") / "data" / "digits.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return Digits(torch.from_numpy(images), torch.from_numpy(labels).long())


def mnist(split: str = "train", root: str | Path | None = None) -> Digits:
    """Return MNIST's 60 000 training or 10 000 test digits, downloading them the first time.

    Torchvision downloads them, with progress, into a folder beside their place; they are moved
    there once every checksum is right. Files that are there already are verified too.

    Args:
        split: "train" or "test".
        root: folder that holds MNIST/raw/…, as torchvision lays it out; by default the
            environment variable FMTUTORIAL_DATA, else ~/.cache/fmtutorial.

    Raises:
        ValueError: an unknown split, or a file whose checksum is wrong.
        OSError: the download failed.

    Source: LeCun, Bottou, Bengio and Haffner 1998.
    """
    check_split(split)
    root = data_folder() if root is None else as_path(root)
    raw = root / "MNIST" / "raw"
    if not all((raw / name).exists() for name in CHECKSUMS):
        _download(root)
    verify(raw)
    from torchvision import datasets  # slow to import, and needed here only

    dataset = datasets.MNIST(root, train=split == "train")
    return Digits(dataset.data, dataset.targets)


def data_folder() -> Path:
    """Return the folder of downloaded data: FMTUTORIAL_DATA's, else ~/.cache/fmtutorial."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / ".cache" / "fmtutorial")


DATA = {"full": mnist, "small": small_digits}
"""All of MNIST, or what comes with the package: from a split to its digits, by name."""


def verify(raw: str | Path) -> None:
    """Raise unless the folder holds the four files of MNIST, byte for byte.

    Raises:
        ValueError: a file is missing, truncated or another one.
    """
    for name, expected in CHECKSUMS.items():
        path = as_path(raw) / name
        found = hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else "missing"
        if found != expected:
            raise ValueError(
                f"{path} is not MNIST's: its MD5 is {found} and should be {expected}. "
                "Delete the file, and it is downloaded again"
            )


def _download(root: Path) -> None:
    from torchvision import datasets

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="download-") as folder:
        try:
            datasets.MNIST(folder, download=True)
        except RuntimeError as error:
            raise OSError(" ".join(str(error).split())) from error
        fresh = Path(folder) / "MNIST" / "raw"
        verify(fresh)
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for name in CHECKSUMS:
            os.replace(fresh / name, raw / name)


def dequantise(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Turn pixels 0 … 255 into real numbers in [−1, 1): (pixel + u) / 128 − 1, u uniform in [0, 1).

    A density of real numbers belongs to integers only after such noise; without it a flow could
    put infinite density on 256 values. ``to_pixels`` undoes it exactly.

    Args:
        images: integers, shape (B, height, width) or (B, channels, height, width), or any other
            with a batch dimension.
        generator: of u, on the device of the images.

    Returns:
        Shape (B, channels, height, width), float32; a channel is added to what has not four
        dimensions.

    Source: Theis, van den Oord and Bethge 2016, Sec. 3.1. Chapter 8.
    """
    check_images(images)
    generator_device(generator)
    # 16 bits of u beside 8 of the pixel fit a float32: nothing is rounded on the way
    u = torch.randint(2**16, images.shape, generator=generator, device=images.device) / 2**16
    x = (images + u) / 128 - 1
    return x if x.ndim == 4 else x.unsqueeze(1)


def to_pixels(x: Tensor) -> Tensor:
    """Turn real numbers into pixels 0 … 255, clamping what lies outside [−1, 1).

    Args:
        x: images, shape (B, channels, height, width).

    Returns:
        Unsigned bytes, shape (B, height, width) if there is one channel, else of the shape of x.

    Raises:
        ValueError: x has another number of dimensions, or a number is not finite.
    """
    check_state(x)
    if x.ndim != 4 or x.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; pass (B, channels, height, width)")
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinity, which is no pixel: look at the sampler")
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 has 8 bits, which 1 + x needs
    x = x.squeeze(1) if x.shape[1] == 1 else x
    return ((x + 1) * 128).floor().clamp(0, 255).byte()


def check_split(split: str) -> None:
    """Raise unless a split is "train" or "test".

    Raises:
        ValueError: it is something else.
    """
    if split not in ("train", "test"):
        raise ValueError(f'unknown split "{split}"; choose from train, test')
