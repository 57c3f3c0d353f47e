"""What the settings of a run may be, whether the command line asks for them or a checkpoint."""

import math

import pytest
import torch

from fmtutorial.images.settings import CHOICES, REAL, WHOLE, Settings, check_setting

NO_NUMBER = ["1", None, True, [1], {}, torch.tensor(1), 1j, math.nan, math.inf, -math.inf]

OUTSIDE = {
    "data": ["huge", "", 3, None, ["full"], b"full"],
    "network": ["vit", None, {}],
    "width": [*NO_NUMBER[2:], 0, 1, -8, 8.0, 1025, 10**400],
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


def test_every_setting_has_its_range():
    flags = {"compile", "checkpointing"}
    assert set(vars(Settings())) == set(OUTSIDE) == {*CHOICES, *WHOLE, *REAL, *flags}
    check_setting("compile", False)
