"""Rewards and editing: the law that is asked for, and what leads there. Chapter 11."""

from fmtutorial.steering.adjoint import adjoint_matching_loss, lean_adjoint
from fmtutorial.steering.control import (
    Value,
    guessed_value,
    memoryless_strength,
    replaced,
    steered,
)
from fmtutorial.steering.rewards import ExactValue, QuadraticReward, observed, tilted

__all__ = [
    "ExactValue",
    "QuadraticReward",
    "Value",
    "adjoint_matching_loss",
    "guessed_value",
    "lean_adjoint",
    "memoryless_strength",
    "observed",
    "replaced",
    "steered",
    "tilted",
]
