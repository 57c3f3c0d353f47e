"""Networks of torchcfm and flow_matching as velocity fields, and ours for their solvers.

Chapter 16.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fmtutorial.conventions import time_first
from fmtutorial.fields import VelocityField, check_callable, check_same_shape
from fmtutorial.other_models.binding import bound, check_classes, guides


def from_torchcfm(
    model: Callable[..., Tensor],
    label: Tensor | None = None,
    scale: float | Tensor = 1.0,
    null: int | None = None,
) -> VelocityField:
    """Turn a network of torchcfm, model(t, x) or model(t, x, y), into a velocity field.

    Args:
        model: a UNetModelWrapper or any other that takes the time first, or the MLP with
            ``time_varying=True``, which takes it as one more coordinate.
        label: classes y, shape (B,), for a model with them.
        scale: s of ``guidance.guided``.
        null: the class that stands for "no label", for guidance; the library itself has none.

    Returns:
        v(x, t) on [0, 1], of LINEAR where the model was trained with ConditionalFlowMatcher.
    """
    check_callable(model, "model")
    check_classes(label, null)
    if label is not None and null is None and guides(scale):
        raise ValueError("guidance needs null, the class with which no label was trained")
    if hasattr(model, "time_varying"):
        if not model.time_varying or label is not None:
            raise ValueError("the MLP takes no label, and a time with time_varying=True only")
        return bound(partial(_appended, model), None, scale, None)
    return bound(partial(_time_first, model), label, scale, null)


def _appended(model: Callable[..., Tensor], x: Tensor, t: Tensor, label: None) -> Tensor:
    return model(torch.cat([x, t[:, None].to(x.dtype)], dim=1))


def _time_first(model: Callable[..., Tensor], x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    called = model if label is None else partial(model, y=label)
    answer = time_first(called)(x, t)
    check_same_shape(answer, x, "prediction, x")
    return answer


def from_flow_matching(
    model: Callable[..., Tensor],
    label: Tensor | None = None,
    scale: float | Tensor = 1.0,
    null: int | None = None,
    name: str = "label",
) -> VelocityField:
    """Turn a network of flow_matching, model(x=x, t=t, **extras), into a velocity field.

    Args:
        model: a ModelWrapper, or any other that takes x and t by name.
        label: classes, shape (B,), the only extra.
        scale: s of ``guidance.guided``.
        null: the class that stands for "no label"; None calls the model without the extra.
        name: of the extra.

    Returns:
        v(x, t) on [0, 1], of the path that it was trained with. CondOTScheduler is LINEAR.
    """
    check_callable(model, "model")
    check_classes(label, null)
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; pass the name of an argument of the model")
    return bound(partial(_by_name, model, name), label, scale, null)


def _by_name(
    model: Callable[..., Tensor], name: str, x: Tensor, t: Tensor, label: Tensor | None
) -> Tensor:
    answer = model(x=x, t=t, **({} if label is None else {name: label}))
    check_same_shape(answer, x, "prediction, x")
    return answer


def to_torchcfm(network: Callable[..., Tensor]) -> nn.Module:
    """Turn a network of this book into what torchcfm and torchdyn call: model(t, x, y).

    ``NeuralODE(to_torchcfm(network), solver="euler")`` samples it. The time may be one number.

    Args:
        network: v(x, t), or v(x, t, label) where y is given.
    """
    check_callable(network, "network")
    return _TimeFirst(network)


def to_flow_matching(network: Callable[..., Tensor]) -> nn.Module:
    """Turn a network of this book into what flow_matching calls: model(x=x, t=t, label=label).

    ``ODESolver(to_flow_matching(network)).sample(x, step_size=0.1, label=label)`` samples it. The
    time may be one number.

    Args:
        network: v(x, t), or v(x, t, label) where a label is given.
    """
    check_callable(network, "network")
    return _ByName(network)


class _ByName(nn.Module):
    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        t = t.to(x.dtype).expand(len(x))
        answer = self.network(x, t) if label is None else self.network(x, t, label)
        check_same_shape(answer, x, "v, x")
        return answer


class _TimeFirst(_ByName):
    # torchdyn passes args too
    def forward(self, t: Tensor, x: Tensor, y: Tensor | None = None, args: object = None) -> Tensor:
        return super().forward(x, t, y)
