"""What to measure of images that no classifier knows: likeness, copies, overfitting. Chapter 15."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.fields import check_count
from fmtutorial.guidance import LabelledField
from fmtutorial.images.data import ImageSet, check_digits, check_images, dequantise
from fmtutorial.images.devices import in_precision
from fmtutorial.images.sampling import check_seed, images_of
from fmtutorial.metrics import energy_distance, two_sample_test
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.tables import Estimate


class PixelScores(NamedTuple):
    """Energy distances of pixels between equally many images, and what equal laws would have.

    ``distance`` is from the samples to the held-out images and ``floor`` from training images to
    them. ``p_value`` is the chance of at least this distance if samples and held-out images came
    from one law.
    """

    distance: float
    floor: float
    p_value: float
    count: int


def pixel_scores(
    samples: Tensor, train: Tensor, held_out: Tensor, most: int = 1000, seed: int = 0
) -> PixelScores:
    """Compare samples with held-out images, and training images with them, pixel by pixel.

    A distance has a meaning beside its floor only: it falls with the number of images. Where the
    classes have other shares, it measures those too.

    Args:
        samples: unsigned bytes, shape (N, height, width) or (N, channels, height, width).
        train: images of the training.
        held_out: images that the training has not seen.
        most: of each set as many images are drawn, or as many as the smallest has.
        seed: of the draws and of the test's 999 random splits.

    Raises:
        ValueError: fewer than two images in a set, or shapes that differ.

    Source: Székely and Rizzo 2013. Chapter 15.
    """
    sets = _checked(samples, train, held_out)
    check_count(most, "most", 2)
    check_seed(seed)
    n = min(int(most), *map(len, sets))
    generator = Generator("cpu").manual_seed(int(seed))
    made, seen, unseen = (
        part[torch.randperm(len(part), generator=generator, device="cpu")[:n].to(part.device)].cpu()
        / 127.5
        - 1
        for part in sets
    )
    test = two_sample_test(made, unseen, generator=generator)
    return PixelScores(test.distance, energy_distance(seen, unseen), test.p_value, n)


class NearestRatio(NamedTuple):
    """How near samples come to training images, relative to held-out images.

    ``ratio`` of the mean distances, with its standard error. ``copies`` is the share of samples
    that are nearer than half the median of the held-out images, and ``floor`` the same of those.
    """

    ratio: float
    error: float
    copies: float
    floor: float


def nearest_ratio(samples: Tensor, train: Tensor, held_out: Tensor) -> NearestRatio:
    """Compare the distances to the nearest training image of samples and of held-out images.

    Near 1 is right, far below 1 are copies: a network that has learned its images by heart. Above 1
    the samples are farther from the data than other data are. The distance is Euclidean, in
    pixels: a copy that is shifted or brightened is far away.

    Args:
        samples: unsigned bytes, shape (N, height, width) or (N, channels, height, width).
        train: images of the training.
        held_out: images that the training has not seen.

    Raises:
        ValueError: fewer than two images in a set, shapes that differ, or held-out images that are
            all among the training images.

    Chapter 15.
    """
    samples, train, held_out = _checked(samples, train, held_out)
    ours, theirs = (nearest_distances(part, train) for part in (samples, held_out))
    above, below = _estimate(ours), _estimate(theirs)
    if below.value == 0:
        raise ValueError("every held-out image is a training image: hold out others")
    half = theirs.median().item() / 2
    copies, floor = ((part < half).float().mean().item() for part in (ours, theirs))
    return NearestRatio(*above / below, copies, floor)


def nearest_distances(images: Tensor, among: Tensor) -> Tensor:
    """Return the distance of each image to the nearest of others: root mean square of grey levels.

    Args:
        images: unsigned bytes, shape (N, …).
        among: the others, unsigned bytes, shape (M, …).

    Returns:
        Shape (N,), single precision, on the CPU; 0 for an image that is among them.

    Raises:
        ValueError: shapes that differ, or no image to be near.

    Chapter 15.
    """
    check_images(images)
    check_images(among, "among")
    if images.shape[1:] != among.shape[1:] or among.numel() == 0:
        shapes = f"{tuple(images.shape)} and {tuple(among.shape)}"
        raise ValueError(f"images have shapes {shapes}; pass two sets of one shape, none empty")
    rows, others = images.flatten(1), among.flatten(1).to(images.device)
    found = []
    for part in rows.split(500):
        x, best = part.float() / 255, []
        for block in others.split(5000):
            distances = torch.cdist(x, block.float() / 255)  # by a product of matrices, in a hurry
            best.append(distances.min(dim=1))
        nearest = torch.stack([b.values for b in best]).argmin(dim=0)
        index = torch.stack([b.indices + 5000 * i for i, b in enumerate(best)])
        index = index.gather(0, nearest[None])[0]
        gap = part.float() - others[index].float()  # once more, without its rounding
        found.append(gap.square().mean(dim=1).sqrt().cpu())
    return torch.cat(found) if found else torch.zeros(0, device="cpu")


class HeldOutLoss(NamedTuple):
    """Losses per number of an image, with standard errors; the gap is held-out less training."""

    training: float
    training_error: float
    held_out: float
    held_out_error: float
    gap: float
    gap_error: float


@torch.no_grad()
def held_out_loss(
    network: LabelledField,
    train: ImageSet,
    held_out: ImageSet,
    most: int = 500,
    draws: int = 8,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> HeldOutLoss:
    """Compare the losses of held-out and of training images, at the same noise and times.

    A gap that grows while the training loss falls is overfitting: the network tells the images
    that it has seen from others. Pairs of images share their noise, so that the gap is known better
    than either loss. Times are even, one in each of ``draws`` parts of [0, 1]: another mean than
    that of a training with other times.

    Args:
        network: v(x, t, label), on the device of the images; see ``images_of``.
        train: images of the training.
        held_out: images that the training has not seen.
        most: of each set as many images are drawn, or as many as the smaller has.
        draws: times and noises for each image.
        seed: of all draws.
        precision: in which the network runs.

    Raises:
        ValueError: fewer than two images in a set.

    Chapter 15.
    """
    check_digits(train)
    check_digits(held_out)
    _checked(train.images, held_out.images)
    check_count(most, "most", 2)
    check_count(draws, "draws")
    check_seed(seed)
    classes, field = images_of(network)[1], in_precision(network, precision)
    sets, n = (train, held_out), min(int(most), len(train.images), len(held_out.images))
    generator = Generator("cpu").manual_seed(int(seed))
    rows = [
        torch.randperm(len(some.images), generator=generator, device="cpu")[:n] for some in sets
    ]
    losses = torch.zeros(2, n, device="cpu")
    for k in range(int(draws)):
        for places in torch.arange(n, device="cpu").split(100):
            state = generator.get_state()
            for loss, (images, labels), order in zip(losses, sets, rows, strict=True):
                generator.set_state(state)  # the same draws for both
                own = order[places].to(images.device)
                x1 = dequantise(images[own].cpu(), generator)
                x0 = torch.randn(x1.shape, generator=generator, device="cpu")
                t = (k + torch.rand(len(x1), generator=generator, device="cpu")) / int(draws)
                x0, x1, t = (part.to(images.device) for part in (x0, x1, t))
                at = AffinePath(LINEAR).sample(x0, x1, t)
                off = field(at.x_t, t, labels[own] if classes else None) - at.velocity
                loss[places] += off.square().flatten(1).mean(dim=1).cpu() / int(draws)
    seen, unseen = losses
    return HeldOutLoss(*_estimate(seen), *_estimate(unseen), *_estimate(unseen - seen))


def _estimate(values: Tensor) -> Estimate:
    """Return a mean and its error in single precision, as other devices have no other."""
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _checked(*sets: Tensor) -> tuple[Tensor, ...]:
    """Return sets of images, each of two or more, if all have one shape."""
    for images in sets:
        check_images(images)
    shapes = {tuple(images.shape[1:]) for images in sets}
    if len(shapes) > 1 or min(map(len, sets)) < 2 or 0 in shapes.pop():
        found = ", ".join(str(tuple(images.shape)) for images in sets)
        raise ValueError(f"sets of images have shapes {found}; pass two or more of one shape each")
    return sets
