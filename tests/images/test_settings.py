"""What the settings of a run may be, whether the command line asks for them or a checkpoint."""

import math

import pytest
import torch

from fmtutorial.images.data import ImageSet
from fmtutorial.images.settings import (
    CHOICES,
    REAL,
    WHOLE,
    Settings,
    check_fits,
    check_setting,
    class_count,
    fitted,
)

NO_NUMBER = ["1", None, True, [1], {}, torch.tensor(1), 1j, math.nan, math.inf, -math.inf]

OUTSIDE = {
    "data": ["", " ", 3, None, ["full"], b"full"],
    "network": ["vit", None, {}],
    "width": [*NO_NUMBER[2:], 0, 1, -8, 8.0, 1025, 10**400],
    "levels": [*NO_NUMBER[:1], *NO_NUMBER[2:], 0, 1, 2.0, 13],
    "size": [*NO_NUMBER[:1], *NO_NUMBER[2:], 0, -1, 32.0, 5000],
    "classes": [*NO_NUMBER, -1, 2.0, 10**7],
    "image_shape": ["abc", 3, None, (28, 28), (1, 28, 28, 1), (1, 0, 28), (1.0, 28, 28), {}],
    "steps": [*NO_NUMBER, 0, -1, 2.5, 10**8, 10**400],
    "batch": [*NO_NUMBER, 0, -1, 128.0, 10**7],
    "learning_rate": [*NO_NUMBER, 0, 0.0, -1e-3, 10.5],
    "warm_up": [*NO_NUMBER, -1, 0.5],
    "max_gradient_norm": [*NO_NUMBER, 0.0, -1.0],
    "ema_decay": [*NO_NUMBER, 1.0, -0.1, 1.5],
    "pairing": ["best", 0],
    "times": ["never", 0.5],
    "label_dropout": [*NO_NUMBER, -0.1, 1.1],
    "precision": ["auto", "int8", torch.float32],
    "compile": [None, 1, 0, "yes"],
    "checkpointing": [None, 1, "no"],
    "seed": [*NO_NUMBER, -1, 0.0, 2**31],
}

INSIDE = {
    "width": [None, 2, 1024],
    "steps": [1, 10_000_000],
    "data": ["small", "CIFAR10", "some/folder"],
    "levels": [None, 2, 5],
    "size": [None, 1, 256],
    "classes": [0, 100],
    "image_shape": [(3, 5, 7)],
    "batch": [1],
    "learning_rate": [1e-9, 1, 10.0],
    "warm_up": [0],
    "max_gradient_norm": [1e-9, 1e9],
    "ema_decay": [0, 0.9999],
    "label_dropout": [0, 1, 0.5],
    "seed": [0, 2**31 - 1],
}


def pairs(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize("name, value", pairs(OUTSIDE), ids=lambda x: repr(x)[:20])
def test_a_setting_outside_its_range_is_refused(name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        Settings(**{name: value})


@pytest.mark.parametrize("name, value", pairs(INSIDE), ids=repr)
def test_a_setting_inside_its_range_is_kept(name, value):
    assert getattr(Settings(**{name: value}), name) == value


@pytest.mark.parametrize("name", CHOICES)
def test_every_name_is_a_setting(name):
    for choice in CHOICES[name]:
        assert getattr(Settings(**{name: choice}), name) == choice


def test_levels_are_of_a_unet():
    with pytest.raises(ValueError, match="levels is 3; only unet"):
        Settings(network="dit", levels=3)


def test_settings_are_fitted_to_images():
    """Their shape, and one class more than the largest label; one class is none."""
    grey, colour = torch.zeros(4, 6, 5, dtype=torch.uint8), torch.zeros(4, 2, 6, 5).byte()
    labels, none = torch.tensor([0, 4, 1, 1]), torch.zeros(4, dtype=torch.int64)
    settings = Settings(width=8)
    for images, shape in ((grey, (1, 6, 5)), (colour, (2, 6, 5))):
        for given, classes in ((labels, 5), (none, 0)):
            found = fitted(settings, ImageSet(images, given))
            assert (found.image_shape, found.classes, found.width) == (shape, classes, 8)
            check_fits(found, ImageSet(images, none))
            with pytest.raises(ValueError, match=r"the images are .*6×5 of .*fitted\("):
                check_fits(found, ImageSet(images, labels + 1))
    with pytest.raises(ValueError, match=r"the images are 2×6×5 of 5 classes, .*1×28×28 of 10"):
        check_fits(settings, ImageSet(colour, labels))
    with pytest.raises(ValueError, match="labels run from -1 to 3"):
        class_count(ImageSet(grey, labels - 1))


def test_every_setting_has_its_range():
    flags = {"compile", "checkpointing"}
    others = {"data", "image_shape"}
    assert set(vars(Settings())) == set(OUTSIDE) == {*CHOICES, *WHOLE, *REAL, *flags, *others}
    check_setting("compile", False)
