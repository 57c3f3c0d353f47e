"""The likelihood of images, in bits per dimension. Chapter 8."""

import math

import torch
from torch import Generator, Tensor

from fmtutorial.distributions import Gaussian
from fmtutorial.fields import check_count, check_state
from fmtutorial.guidance import LabelledField
from fmtutorial.images.data import Digits, check_digits, check_labels, dequantise
from fmtutorial.images.sampling import check_seed, image_field, images_of
from fmtutorial.likelihood import log_likelihood, rademacher_like
from fmtutorial.solvers import heun


def bits_per_dimension(log_prob: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """Return the bits that each pixel costs, from the log-density of dequantised images.

    −log₂ p / D + 7. The density is per unit of x, and a pixel's 256 values share an interval of
    length 2: each has a width of 2⁻⁷.

    Args:
        log_prob: of ``dequantise(images)``, in nats, shape (B,).
        event_shape: shape of one image; D is its number of pixels.

    Returns:
        Shape (B,). On average an upper bound on the bits of the discrete images.

    Source: Theis, van den Oord and Bethge 2016, Sec. 3.1. Chapter 8.
    """
    check_state(log_prob, "log_prob")
    if log_prob.ndim != 1:
        raise ValueError(f"log_prob has shape {tuple(log_prob.shape)}; pass one for each, (B,)")
    if not isinstance(event_shape, tuple | list):
        raise TypeError(f"event_shape is {event_shape!r:.60}; pass a tuple of whole numbers")
    for size in event_shape:
        check_count(size, "an entry of event_shape")
    return -log_prob / (math.prod(event_shape) * math.log(2)) + 7


def digit_bits(
    network: LabelledField,
    digits: Digits,
    steps: int = 100,
    method: str = "hutchinson",
    seed: int = 0,
    batch: int = 100,
) -> Tensor:
    """Return the bits per dimension of each digit, or other image, given its label.

    Changes variables along the flow from the dequantised digit to noise, with Heun's method and
    steps that grow from the data on, t = 1 − (i/steps)²: near t = 1 the field is stiff. The
    standard error of their mean is their standard deviation over √N, whichever the method: the
    noise of Hutchinson's estimate is part of it.

    Args:
        network: v(x, t, label), on the device of the digits.
        digits: N of them.
        steps: of the solver, two evaluations each.
        method: of the divergence, "exact" (784 backward passes each) or "hutchinson" (one).
        seed: of the dequantisation and of Hutchinson's probes.
        batch: digits at a time.

    Returns:
        Shape (N,), double precision, on the CPU.

    Raises:
        ValueError: not a label for each digit, or an unknown method.

    Chapters 1 and 8.
    """
    check_digits(digits)
    check_labels(digits.labels, images_of(network)[1])
    check_count(steps, "steps")
    check_count(batch, "batch")
    check_seed(seed)
    device, found, batch = digits.images.device, [], int(batch)
    generator = Generator(device).manual_seed(int(seed))
    times = 1 - torch.linspace(0, 1, steps + 1).square()
    for images, label in zip(digits.images.split(batch), digits.labels.split(batch), strict=True):
        x = dequantise(images, generator)
        probe = rademacher_like(x, generator) if method == "hutchinson" else None
        base = Gaussian(torch.zeros_like(x[0]))
        with torch.no_grad():
            log_prob = log_likelihood(
                image_field(network, label), x, base, times, heun, method, probe
            )
        found.append(bits_per_dimension(log_prob, x.shape[1:]).cpu().double())
    return torch.cat(found)
