"""What stands between a model's own way to be called and ``guided``. Chapter 16."""

import importlib
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_count
from fmtutorial.guidance import LabelledField, guided


def library(name: str) -> ModuleType:
    """Import a library that the package does without, or say how to get it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this needs {name}: pip install {name}", name=name) from error


def guides(scale: float | Tensor) -> bool:
    """Return whether a scale is another than 1, so that the answer without a label is needed."""
    return isinstance(scale, Tensor) or scale != 1


def check_classes(label: Tensor | None, null: object, classes: float = float("inf")) -> None:
    """Raise unless a label and the class for none are integers from 0 to classes − 1.

    Raises:
        TypeError: they are no integers.
        ValueError: one is outside.
    """
    known = f"the model knows classes from 0 to {classes - 1}"
    if null is not None:
        check_count(null, "null", least=0)
        if null >= classes:
            raise ValueError(f"null is {null}; {known}")
    if label is None:
        return
    if isinstance(label, Tensor) and label.layout is not torch.strided:
        raise TypeError(f"label has layout {label.layout}; pass label.to_dense()")
    if not isinstance(label, Tensor) or label.dtype != torch.int64:
        kind = label.dtype if isinstance(label, Tensor) else type(label).__name__
        raise TypeError(f"label is of type {kind}; pass classes, a tensor of int64, shape (B,)")
    if bool(((label < 0) | (label >= classes)).any()):
        raise ValueError(f"labels run from {label.min()} to {label.max()}; {known}")


def bound(
    network: LabelledField, label: Tensor | None, scale: float | Tensor, null: int | None
) -> VelocityField:
    """Bind a label, with the class ``null`` where guidance asks for none.

    Args:
        network: v(x, t, label).
        label: classes, shape (B,), or None for the answer without.
        scale: of ``guided``.
        null: the class, or None where the network is called with None.

    Raises:
        ValueError: a scale without a label.
    """
    if null is not None:
        network = partial(_named, network, null)
    if label is not None:
        return guided(network, label, scale)
    if guides(scale):
        raise ValueError("scale is for guidance towards a label: pass label too, or leave it out")
    return partial(stated, network, None)


def _named(network: LabelledField, null: int, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    if label is None:
        label = torch.full_like(t, null, dtype=torch.int64)
    return network(x, t, label)


def stated(network: LabelledField, label: Tensor | None, x: Tensor, t: Tensor) -> Tensor:
    """Call a network with one label, whatever it is: with the first two bound, a field."""
    return network(x, t, label)
