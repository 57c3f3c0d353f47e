"""What a training run on images is started with, and what each setting may be. Chapter 8."""

import dataclasses
from typing import Any

from fmtutorial.fields import check_count, check_kind, check_number
from fmtutorial.images.batches import CLASSES, DIGIT, PAIRINGS, TIMES
from fmtutorial.images.data import ImageSet, check_digits, check_labels
from fmtutorial.images.devices import PRECISIONS
from fmtutorial.images.weights import NETWORKS

MOST_STEPS = 10_000_000

CHOICES = {
    "network": NETWORKS,
    "pairing": PAIRINGS,
    "times": TIMES,
    "precision": PRECISIONS,
}
WHOLE = {
    "width": (2, 1024),
    "levels": (2, 12),
    "size": (1, 4096),
    "classes": (0, 1_000_000),
    "steps": (1, MOST_STEPS),
    "batch": (1, 1_000_000),
    "warm_up": (0, MOST_STEPS),
    "seed": (0, 2**31 - 1),
}
OPTIONAL = ("width", "levels", "size")
REAL = {
    "learning_rate": {"low": 0, "high": 10, "without_low": True},
    "max_gradient_norm": {"low": 0, "without_low": True},
    "ema_decay": {"low": 0, "high": 1, "without_high": True},
    "label_dropout": {"low": 0, "high": 1},
}
"""What the settings of a run may be: names, whole numbers, those that may be None, real numbers."""


def check_setting(name: str, value: str | float | tuple[int, ...] | None) -> None:
    """Raise unless a setting of this name can have this value.

    Raises:
        TypeError: a value of another type.
        ValueError: an unknown name, or a number outside its range.
    """
    check_kind(name, str, "name")
    if name in CHOICES:
        if not isinstance(value, str) or value not in CHOICES[name]:
            raise ValueError(f'unknown {name} "{value}"; choose from {", ".join(CHOICES[name])}')
    elif name in WHOLE:
        least, most = WHOLE[name]
        check_count(value, name, least)
        if value > most:
            raise ValueError(f"{name} is {value}; it must be at most {most}")
    elif name in REAL:
        check_number(value, name, **REAL[name])
    elif name == "data":
        check_kind(value, str, name)
        if not value.strip():
            raise ValueError(f"data is {value!r}; pass a name, a folder or a file")
    elif name == "image_shape":
        check_kind(value, tuple | list, name)
        if len(value) != 3:
            raise ValueError(f"image_shape is {value}; pass (channels, height, width)")
        for side in value:
            check_count(side, "an entry of image_shape")
    elif not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; pass True or False")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run was started with; its checkpoint keeps them for whoever resumes.

    See ``python -m fmtutorial.images train --help`` for each of them.

    Raises:
        TypeError: a setting of another type.
        ValueError: an unknown name, or a number outside its range.
    """

    data: str = "full"
    network: str = "unet"
    width: int | None = None
    steps: int = 12_000
    batch: int = 128
    learning_rate: float = 2e-3
    warm_up: int = 200
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.999
    pairing: str = "independent"
    times: str = "logit-normal"
    label_dropout: float = 0.1
    precision: str = "float32"
    compile: bool = False
    checkpointing: bool = False
    seed: int = 0
    size: int | None = None
    levels: int | None = None
    image_shape: tuple[int, int, int] = DIGIT
    classes: int = CLASSES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None or name not in OPTIONAL:
                check_setting(name, value)
        if self.levels is not None and self.network != "unet":
            raise ValueError(f"levels is {self.levels}; only unet has levels, leave it out")
        object.__setattr__(self, "image_shape", tuple(self.image_shape))

    @property
    def arguments(self) -> dict[str, Any]:
        """With which the network is built; what the networks have by default is left out."""
        given = {"width": self.width, "levels": self.levels}
        if self.image_shape != DIGIT:
            given["image_shape"] = self.image_shape
        return {"labels": self.classes} | {k: v for k, v in given.items() if v is not None}


def image_shape(images: ImageSet) -> tuple[int, int, int]:
    """Return (channels, height, width) of each image, as a network sees it.

    Raises:
        TypeError: they are no ``ImageSet``, or of another type.
        ValueError: they have other shapes.

    Chapter 15.
    """
    check_digits(images)
    shape = images.images.shape[1:]
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def class_count(images: ImageSet) -> int:
    """Return the number of classes: one more than the largest label; 0 if all labels are 0.

    One class is none: there is nothing to tell it from.

    Raises:
        TypeError: they are no ``ImageSet``, or of another type.
        ValueError: they have other shapes, or a label is negative.

    Chapter 15.
    """
    check_digits(images)
    most = int(images.labels.max())
    check_labels(images.labels, max(most, 0))
    return most + 1 if most else 0


def fitted(settings: Settings, images: ImageSet) -> Settings:
    """Return settings of a run on these images: with their shape and number of classes.

    Raises:
        TypeError: they are no ``Settings`` or no ``ImageSet``.
        ValueError: the images have other shapes, or a label is negative.

    Chapter 15.
    """
    check_kind(settings, Settings, "settings")
    shape, classes = image_shape(images), class_count(images)
    return dataclasses.replace(settings, image_shape=shape, classes=classes)


def check_fits(settings: Settings, images: ImageSet) -> None:
    """Raise unless a run with these settings can train on these images; classes may be missing.

    Raises:
        TypeError: they are no ``Settings`` or no ``ImageSet``.
        ValueError: the images have another shape, or more classes.

    Chapter 15.
    """
    found = fitted(settings, images)
    if found.image_shape != settings.image_shape or found.classes > settings.classes:
        these, those = (
            f"{'×'.join(map(str, s.image_shape))} of {s.classes or 'no'} classes"
            for s in (found, settings)
        )
        raise ValueError(
            f"the images are {these}, and those of the run {those}: for a new run, pass "
            "fitted(settings, images)"
        )
