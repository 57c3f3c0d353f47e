"""What a few-steps contest measures: distances with their resamples, spread, accuracy, copies."""

import os
import warnings
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.coursework.contest import Made
from fmtutorial.images.classifier import digit_classifier, score_digits
from fmtutorial.images.data import DATA, ROOT_VARIABLE, Digits, small_digits
from fmtutorial.metrics import frechet_between, moments

DRAWS = 100
"""Resamples of the digits, from which one knows how far a distance is by chance."""

NEAR = 0.7
"""A digit is a copy if the nearest known digit is nearer than this share of the second nearest."""

MOST_COPIES = 0.05
"""Share of copies in a hand-in, at most."""


class Scores(NamedTuple):
    """Of digits made with so many evaluations each; ``draws`` are log distances of resamples."""

    distance: float
    spread: float
    accuracy: float
    copies: float
    evaluations: int
    draws: Tensor


def known_digits() -> tuple[Digits, Digits]:
    """Return the training and test digits that copies are looked for among.

    All of MNIST if the environment variable FMTUTORIAL_DATA names a folder, else the 2000 digits
    that come with the package.
    """
    source = DATA["full" if os.environ.get(ROOT_VARIABLE) else "small"]
    return source("train"), source("test")


def scores(made: Made, known: Tensor) -> Scores:
    """Measure digits by the shipped classifier, and look for copies.

    Args:
        made: the digits.
        known: digits, unsigned bytes of shape (K, 28, 28).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of distances that do not rank: the board says it
        found = score_digits(made.images, made.labels)
    spread = sum(found.class_spread) / len(found.class_spread)
    share = copies(made.images, known)
    draws = resampled(made.images, made.labels)
    return Scores(found.frechet, spread, found.accuracy, share, made.evaluations, draws)


@torch.no_grad()
def resampled(images: Tensor, labels: Tensor) -> Tensor:
    """Return the log distances of resamples within the classes, the same rows for all entries."""
    network, reference = digit_classifier()
    features = torch.cat([network.features(part) for part in images.split(1000)])
    generator, found = Generator().manual_seed(0), []
    rows = [torch.nonzero(labels == c)[:, 0] for c in range(10)]
    for _ in range(DRAWS):
        drawn = [r[torch.randint(len(r), (len(r),), generator=generator)] for r in rows]
        found.append(frechet_between(moments(features[torch.cat(drawn)]), reference.moments))
    return torch.tensor(found).clamp(min=1e-9).log()


def copies(images: Tensor, known: Tensor) -> float:
    """Return the share of images that are nearly one of the known ones, pixel by pixel.

    Source: Yoon et al. 2023, who compare the distances to the two nearest.
    """
    ours, theirs = images.flatten(1).float() / 255, known.flatten(1)
    squares = []
    for part in theirs.split(10_000):
        part = part.float() / 255
        distances = part.square().sum(1) - 2 * ours @ part.T + ours.square().sum(1)[:, None]
        squares.append(distances.topk(2, largest=False).values)
    nearest, second = torch.cat(squares, dim=1).topk(2, largest=False).values.clamp(min=0).T
    return float((nearest < NEAR**2 * second).float().mean())


def real(samples: int) -> Made:
    """Return test digits that come with the package, up to 1000, as if they had been made."""
    digits = small_digits("test")
    rows = [torch.nonzero(digits.labels == c)[:, 0] for c in range(10)]
    chosen = torch.stack(rows, dim=1).flatten()[:samples]
    return Made(digits.images[chosen], digits.labels[chosen], 0)
