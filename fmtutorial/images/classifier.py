"""A small classifier of digits: the measure of generated ones. Chapter 8."""

import warnings
from functools import cache
from importlib import resources
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

from fmtutorial.fields import check_state
from fmtutorial.images.data import check_images, check_labels
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
            images: unsigned bytes, shape (B, 28, 28); ``to_pixels`` makes them of a model's.
        """
        check_images(images)
        if images.shape[1:] != (28, 28):
            raise ValueError(f"images have shape {tuple(images.shape)}; pass (B, 28, 28)")
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


def digit_distance(images: Tensor) -> float:
    """Return the squared Fréchet distance of digits to the training digits; it needs no labels.

    It measures the classifier's features, and of those their mean and covariance only. A warning
    says when it is not what it seems to be:

    - of few digits. Real ones are at 3 if there are 1000, at 6 if 500, at 20 if 200; compare
      sets of one size. Up to 64 have a covariance without full rank.
    - of other shares of the classes. Of real digits with half the threes missing it is 8, not 1.6.
    - of what is far from a digit. Above a fifth of the digits' variance, 180, it says "far" and
      ranks no longer: digits blurred by 3×3 pixels are at 330, of which the classifier reads 98 %,
      and digits under noise at 310, of which it reads 74 %. Networks at the start of training are
      out there; compare the loss, or pixels by ``energy_distance``.

    Args:
        images: unsigned bytes, shape (N, 28, 28), on any device; N ≥ 2.

    Raises:
        ValueError: fewer than two images, or another shape.

    Source: Heusel et al. 2017, with another network's features. Chapter 8.
    """
    return _distance(*_seen(images))


def score_digits(images: Tensor, labels: Tensor) -> DigitScores:
    """Measure digits by the shipped classifier; print the scores of test digits beside them.

    Args:
        images: unsigned bytes, shape (N, 28, 28), on any device; two or more of each class.
        labels: what they should be, integers 0 … 9, shape (N,). Without labels, there is
            ``digit_distance``, which also says when a distance misleads.

    Raises:
        ValueError: a class has fewer than two images, or there is not a label for each.

    Chapter 8.
    """
    features, classes = _seen(images)
    check_labels(labels, 9, len(images))
    labels = labels.cpu()
    spread = class_spread(features, labels)
    right = (classes == labels).double()
    return DigitScores(
        _distance(features, classes),
        right.mean().item(),
        [right[labels == c].mean().item() for c in range(10)],
        (spread / digit_classifier()[1].spread).tolist(),
    )


def class_spread(features: Tensor, labels: Tensor) -> Tensor:
    """Return the variance within each of ten classes, summed over the features; shape (10,).

    Args:
        features: shape (N, D).
        labels: integers 0 … 9, shape (N,), on the device of the features.

    Raises:
        ValueError: a class has fewer than two rows.
    """
    check_state(features, "features")
    if features.ndim != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; pass (N, D)")
    check_labels(labels, 9, len(features))
    if bool((torch.bincount(labels, minlength=10) < 2).any()):
        raise ValueError("scores need two or more images of each of the ten classes")
    features, labels = features.cpu(), labels.cpu()  # not every device has double precision
    return torch.stack([features[labels == c].double().var(dim=0).sum() for c in range(10)])


@torch.no_grad()
def _seen(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of images, and what the classifier takes them for."""
    check_images(images)
    network, _ = digit_classifier()
    features = torch.cat([network.features(part.cpu()) for part in images.split(1000)])
    return features, network.head(features).argmax(dim=1)


def _distance(features: Tensor, classes: Tensor) -> float:
    """Return the squared Fréchet distance, with a warning where it misleads."""
    _, reference = digit_classifier()
    if len(features) < 2:
        raise ValueError(f"a distance needs two or more images, not {len(features)}")
    distance = frechet_between(moments(features), reference.moments)
    shares = torch.bincount(classes, minlength=10) / len(classes)
    variance = reference.moments.covariance.trace().item()
    reasons = []
    if len(features) <= FEATURES:
        reasons.append(f"{len(features)} digits are too few for {FEATURES} features")
    if shares.min() < 0.05 or shares.max() > 0.2:
        found = f"{shares.min():.3f} to {shares.max():.3f}"
        reasons.append(f"it also measures the shares of the classes, which are {found}, not 0.1")
    if distance > 0.2 * variance:
        reasons.append(
            f"it is beyond a fifth of the digits' variance, {variance:.0f}, where it does not rank"
        )
    if reasons:
        warnings.warn(f"a Fréchet distance of {distance:.1f}: {'; '.join(reasons)}", stacklevel=3)
    return distance
