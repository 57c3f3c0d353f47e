"""Multilayer perceptrons for events of a few numbers. Chapter 3."""

import math

import torch
from torch import Tensor, nn

from fmtutorial.fields import check_count, expand_time, flatten
from fmtutorial.networks.embeddings import (
    check_event,
    check_event_shape,
    check_labels,
    check_types,
)


class MLP(nn.Module):
    """A plain multilayer perceptron on events of a few numbers.

    It sees x and, beside t itself, sin(kπt) and cos(kπt) for k = 1 … frequencies, so that it can
    follow fields that change fast in time. With ``labels`` > 0 it sees the label too.

    Args:
        event_shape: shape of one sample; (2,) for points in the plane.
        width: units of a hidden layer.
        depth: number of hidden layers; 0 for a linear map.
        frequencies: number of sine-cosine pairs.
        labels: number of classes; 0 for none.

    Chapter 3.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] = (2,),
        width: int = 256,
        depth: int = 3,
        frequencies: int = 4,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = check_event_shape(event_shape, "event_shape")
        check_count(width, "width")
        for name, value in (("depth", depth), ("frequencies", frequencies), ("labels", labels)):
            check_count(value, name, least=0)
        self.labels = labels
        size = math.prod(event_shape)
        self.register_buffer("angles", math.pi * torch.arange(1.0, frequencies + 1))
        inputs = size + 1 + 2 * frequencies + labels
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.SiLU()]
            inputs = width
        self.body = nn.Sequential(*layers, nn.Linear(inputs, size))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the velocity at x and t.

        Args:
            x: states, shape (B, *event_shape).
            t: times, shape (B,).
            label: classes 0 … labels − 1, integer, shape (B,); for a network with labels only.

        Raises:
            TypeError: x or t has another type than the weights, or label is not one of integers.
            ValueError: another event shape, an unknown class, or a label where none belongs or
                none where one does.
        """
        expand_time(t, x)
        check_event(x, self.event_shape)
        check_types(self.body[0].weight, x, t)
        time = t[:, None]  # (B, 1)
        angle = time * self.angles  # (B, frequencies)
        flat = flatten(x)  # (B, D)
        features = [flat, time, angle.sin(), angle.cos()]
        if (label is None) != (self.labels == 0):
            raise ValueError(f"the network was built with labels={self.labels}: got label {label}")
        if label is not None:
            check_labels(label, len(x), self.labels)
            features.append(nn.functional.one_hot(label, self.labels).to(x))  # (B, labels)
        # (B, D + 1 + 2 · frequencies + labels) → (B, D)
        return self.body(torch.cat(features, dim=1)).reshape(x.shape)


class MeanFlowMLP(nn.Module):
    """An ``MLP`` for mean velocities u(x, start, end); the end enters as one more coordinate.

    Args:
        event_shape: shape of one sample.
        width: units of a hidden layer.
        depth: number of hidden layers.
        frequencies: number of sine-cosine pairs of the start.

    Chapter 6.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...] = (2,),
        width: int = 256,
        depth: int = 3,
        frequencies: int = 4,
    ) -> None:
        super().__init__()
        self.event_shape = check_event_shape(event_shape, "event_shape")
        self.body = MLP((math.prod(event_shape) + 1,), width, depth, frequencies)

    def forward(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return u at x for start and end of shape (B,); shaped like x.

        Raises:
            TypeError: an argument has another type than the weights.
            ValueError: another event shape.
        """
        expand_time(start, x)
        expand_time(end, x)
        check_event(x, self.event_shape)
        check_types(self.body.body[0].weight, x, start, end)
        flat = flatten(x)  # (B, D)
        state = torch.cat([flat, end[:, None]], dim=1)  # (B, D + 1)
        return self.body(state, start)[:, :-1].reshape(x.shape)
