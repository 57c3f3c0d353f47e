"""What a training run on digits is started with, and what each setting may be. Chapter 8."""

import dataclasses
from typing import Any

from fmtutorial.fields import check_count, check_kind, check_number
from fmtutorial.images.batches import CLASSES, PAIRINGS, TIMES
from fmtutorial.images.data import DATA
from fmtutorial.images.devices import PRECISIONS
from fmtutorial.images.weights import NETWORKS

MOST_STEPS = 10_000_000

CHOICES = {
    "data": DATA,
    "network": NETWORKS,
    "pairing": PAIRINGS,
    "times": TIMES,
    "precision": PRECISIONS,
}
WHOLE = {
    "width": (2, 1024),
    "steps": (1, MOST_STEPS),
    "batch": (1, 1_000_000),
    "warm_up": (0, MOST_STEPS),
    "seed": (0, 2**31 - 1),
}
REAL = {
    "learning_rate": {"low": 0, "high": 10, "without_low": True},
    "max_gradient_norm": {"low": 0, "without_low": True},
    "ema_decay": {"low": 0, "high": 1, "without_high": True},
    "label_dropout": {"low": 0, "high": 1},
}
"""What the settings of a run may be: names, whole numbers, real numbers."""


def check_setting(name: str, value: str | float | None) -> None:
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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (name, value) != ("width", None):
                check_setting(name, value)

    @property
    def arguments(self) -> dict[str, Any]:
        """With which the network is built."""
        return {"labels": CLASSES} | ({} if self.width is None else {"width": self.width})
