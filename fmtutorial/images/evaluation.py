"""The command "evaluate": digits by the shipped classifier, other images by their pixels.

Chapters 8 and 15.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from fmtutorial.checkpoints import writing
from fmtutorial.images.batches import CLASSES, DIGIT
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import DATA, Digits, ImageSet, small_digits
from fmtutorial.images.devices import precision_named
from fmtutorial.images.measures import held_out_loss, nearest_ratio, pixel_scores
from fmtutorial.images.process import Signals
from fmtutorial.images.sampling import check_guidance, images_of, sample_digits
from fmtutorial.images.settings import class_count, image_shape
from fmtutorial.images.sources import read_images
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import hardware
from fmtutorial.metrics import energy_distance

MOST = 2000
"""Other images than digits that are made: all their distances are kept."""


def evaluate_command(o: argparse.Namespace, signals: Signals) -> None:
    """Measure generated images, and the images of the test set beside them."""
    network, origin = load_weights(o.weights)
    network = network.to(o.device, memory_format=torch.channels_last)
    check_guidance(network, o.guidance)
    trained = origin.get("settings", {}).get("data", "full")
    name = o.data or ("full" if trained in DATA else trained)
    test = images_for(network, name, "test", o.device)
    known = images_of(network) == (DIGIT, CLASSES) and name in DATA
    count = len(test.labels)
    n = o.samples if known else min(o.samples, count, MOST)
    # the classes in the proportions of the test digits, whose scores stand beside
    labels = test.labels.sort().values[torch.arange(n, device=test.labels.device) * count // n]
    few = known and torch.bincount(labels, minlength=CLASSES).min() < 2
    if few or o.bits == 1 or o.bits > count:
        raise ValueError(
            f"--samples {o.samples} and --bits {o.bits}: scores need two or more digits of each "
            f"class, and bits none, or 2 to {count} test digits"
        )
    batches = sample_digits(
        network, labels, o.method, o.steps, o.guidance, o.noise_level, o.seed,
        precision_named(o.precision, o.device),
    )  # fmt: skip
    images = []
    with tqdm(total=n, unit="digit" if known else "image", delay=1e-3) as bar:
        for batch in batches:
            images.append(batch)
            bar.update(len(batch))
    made = ImageSet(torch.cat(images), labels)
    found = score_known(made, test) if known else score_others(network, made, test, name, o)
    if o.bits:
        rows = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(o.seed))
        some = ImageSet(*(part[rows[: o.bits].to(o.device)] for part in test))
        bits = digit_bits(network, some, o.bits_steps, o.divergence, o.seed)
        mean, error = bits.mean().item(), bits.std().item() / len(bits) ** 0.5
        what = "digits" if known else "images"
        print(f"bits per dimension {mean:.3f} ± {error:.3f} of {len(bits)} test {what}")
        found["bits per dimension"] = {"mean": mean, "standard error": error}
    if o.out:
        how = {name: str(value) for name, value in vars(o).items() if name != "command"}
        found |= {"options": how, "weights": origin, "measured": hardware(o.device)}
        with writing(o.out) as file:
            file.write((json.dumps(found, indent=1) + "\n").encode())


def images_for(
    network: nn.Module, source: str | Path, split: str, device: torch.device
) -> ImageSet:
    """Read images to compare with those of a network, resized to its if they are square.

    Raises:
        ValueError: they have another shape, or more classes.
    """
    shape, classes = images_of(network)
    size = shape[1] if shape[1] == shape[2] else None
    found = ImageSet(*(part.to(device) for part in read_images(source, split, size)))
    if image_shape(found) != shape or class_count(found) > classes:
        these, those = ("×".join(map(str, s)) for s in (image_shape(found), shape))
        raise ValueError(
            f"{source} has images of {these} and {class_count(found)} classes, and the network "
            f"makes {those} of {classes}: name its own by --data"
        )
    return found


def score_known(made: Digits, test: Digits) -> dict[str, Any]:
    """Print and return the classifier's scores of digits, and those of test digits beside them."""
    some = min(1000, len(made.labels), len(test.labels))
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        found = {
            name: score_digits(*digits)._asdict() | {"pixels": pixel_distance(digits, some)}
            for name, digits in (("samples", made), ("test digits", test))
        }
    for doubt in {str(one.message) for one in doubts}:
        print(f"Note: {doubt}")
    for name, scores in found.items():
        print(
            f"{name:12s} Fréchet distance {scores['frechet']:.2f}, "
            f"energy distance of pixels {scores['pixels']:.2f} ({some}), "
            f"accuracy {scores['accuracy']:.4f} (worst class {min(scores['class_accuracy']):.3f}), "
            f"least spread of a class {min(scores['class_spread']):.2f}"
        )
    return found


def score_others(
    network: nn.Module, made: ImageSet, test: ImageSet, source: str, o: argparse.Namespace
) -> dict[str, Any]:
    """Print and return what is measured of images that no classifier knows."""
    train = images_for(network, source, "train", o.device)
    pixels = pixel_scores(made.images, train.images, test.images, seed=o.seed)
    near = nearest_ratio(made.images, train.images, test.images)
    precision = precision_named(o.precision, o.device)
    loss = held_out_loss(network, train, test, seed=o.seed, precision=precision)
    print(
        f"energy distance of pixels to {pixels.count} held-out images {pixels.distance:.2f}, "
        f"of as many training images {pixels.floor:.2f}; p = {pixels.p_value:.3f} for equal laws\n"
        f"distance to the nearest training image {near.ratio:.2f} ± {near.error:.2f} of a held-out "
        f"image's; copies {near.copies:.1%}, of held-out images {near.floor:.1%}\n"
        f"loss of training images {loss.training:.4f} ± {loss.training_error:.4f}, of held-out "
        f"images {loss.held_out:.4f} ± {loss.held_out_error:.4f}, "
        f"gap {loss.gap:.4f} ± {loss.gap_error:.4f}"
    )
    return {
        name: part._asdict()
        for name, part in (("pixels", pixels), ("nearest", near), ("loss", loss))
    }


def pixel_distance(digits: Digits, n: int) -> float:
    """Return the energy distance of n digits to as many training digits shipped, in pixels.

    Both are spread evenly over the classes. A distance of the classifier's features does not
    rank what is far from a digit; this one needs no features. Real digits are not at 0: compare
    sets of one size.

    Chapter 8.
    """
    sets = []
    for images, labels in (digits, small_digits("train")):
        order = labels.sort(stable=True).indices
        rows = order[torch.arange(n, device=order.device) * len(order) // n]
        sets.append(images[rows].cpu() / 127.5 - 1)
    return energy_distance(*sets)
