"""A small classifier of digits: the measure of generated ones. Chapter 8."""

from functools import cache
from importlib import resources
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

from fmtutorial.metrics import Moments, frechet_between, moments

FEATURES = 64


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers: images → 64 features → 10 logits.

    Chapter 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 3 * 3, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer sees, shape (B, 64).

        Args:
            images: unsigned bytes, shape (B, 28, 28).

        Raises:
            TypeError: images are not unsigned bytes: ``to_pixels`` makes them of a model's.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images have dtype {images.dtype}; pass torch.uint8: to_pixels(x)")
        return self.body(images[:, None] / 127.5 - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (B, 10), of unsigned bytes of shape (B, 28, 28)."""
        return self.head(self.features(images))


class Reference(NamedTuple):
    """Features of the 60 000 training digits: their moments, and the spread of each class.

    ``spread`` has shape (10,): the variance of the features within a class, summed over them.
    """

    moments: Moments
    spread: Tensor


@cache
def digit_classifier() -> tuple[DigitClassifier, Reference]:
    """Return the trained classifier, on the CPU, and what it says of the training digits.

    Trained by ``tests/benchmarks/classifier.py``, which also measured it.
    """
    tensors = load((resources.files("fmtutorial") / "data" / "classifier.safetensors").read_bytes())
    mean, covariance, spread = (
        tensors.pop(f"reference.{name}") for name in ("mean", "covariance", "spread")
    )
    with torch.device("cpu"):
        network = DigitClassifier()
    network.load_state_dict(tensors)
    return network.requires_grad_(False).eval(), Reference(Moments(mean, covariance), spread)


class DigitScores(NamedTuple):
    """What the classifier says of generated digits.

    ``frechet`` is the squared Fréchet distance of the features to those of the training digits;
    ``accuracy`` the share whose class is the label they were made for. For each class,
    ``class_accuracy`` is the same, and ``class_spread`` the variance of the features relative to
    that of the training digits: near 0 where a class has collapsed.
    """

    frechet: float
    accuracy: float
    class_accuracy: list[float]
    class_spread: list[float]


def score_digits(images: Tensor, labels: Tensor) -> DigitScores:
    """Measure digits by the shipped classifier; print the scores of test digits beside them.

    The distance depends on the number of digits: compare scores of equally many.

    Args:
        images: unsigned bytes, shape (N, 28, 28), on any device; two or more of each class.
        labels: what they should be, integers 0 … 9, shape (N,).

    Raises:
        TypeError: images are not unsigned bytes.
        ValueError: a class has fewer than two images.

    Source: Heusel et al. 2017, with another network's features. Chapter 8.
    """
    network, reference = digit_classifier()
    labels = labels.cpu()
    if bool((torch.bincount(labels, minlength=10) < 2).any()):
        raise ValueError("scores need two or more images of each of the ten classes")
    with torch.no_grad():
        features = torch.cat([network.features(part.cpu()) for part in images.split(1000)])
        right = (network.head(features).argmax(dim=1) == labels).double()
    return DigitScores(
        frechet_between(moments(features), reference.moments),
        right.mean().item(),
        [right[labels == c].mean().item() for c in range(10)],
        (class_spread(features, labels) / reference.spread).tolist(),
    )


def class_spread(features: Tensor, labels: Tensor) -> Tensor:
    """Return the variance within each of ten classes, summed over the features; shape (10,)."""
    return torch.stack([features[labels == c].double().var(dim=0).sum() for c in range(10)])
