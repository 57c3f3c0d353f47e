"""Every sampler of the book by name, for a linear path from noise to data; images in batches.

Chapter 8.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from fmtutorial.diffusion import ddim, solve_sde
from fmtutorial.distribution_matching import renoise
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_number,
    generator_device,
)
from fmtutorial.guidance import LabelledField, guided
from fmtutorial.images.batches import CLASSES, DIGIT
from fmtutorial.images.data import check_labels, to_pixels
from fmtutorial.images.devices import check_device, in_precision
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import (
    ScalarTimeField,
    Solution,
    dpm_solver,
    euler,
    heun,
    midpoint,
    rk4,
    solve,
    solve_adaptive,
)


def heun_to_data(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Take Heun's step, but Euler's if it ends at t = 1.

    There a network has hardly been trained, and Heun's method would average with it.

    Source: Karras et al. 2022, Algorithm 1.
    """
    return heun(v, x, t, h) if t + h < 1 else euler(v, x, t, h)


STEPS = {"euler": euler, "midpoint": midpoint, "heun": heun_to_data, "rk4": rk4}
SAMPLERS = (*STEPS, "dpm", "ddpm", "renoise", "sde", "adaptive")


def evaluations(method: str, steps: int) -> int:
    """Return how often a sampler on a fixed grid evaluates the field in so many steps.

    Raises:
        ValueError: an unknown sampler, or "adaptive", which has no grid.
    """
    check_count(steps, "steps")
    if method not in SAMPLERS or method == "adaptive":
        known = ", ".join(name for name in SAMPLERS if name != "adaptive")
        raise ValueError(f'no grid for the sampler "{method}"; choose from {known}')
    if method == "heun":
        return 2 * steps - 1
    return {"midpoint": 2, "rk4": 4}.get(method, 1) * steps


def sample(
    field: VelocityField,
    x0: Tensor,
    method: str = "heun",
    steps: int = 25,
    noise_level: float = 1.0,
    generator: Generator | None = None,
    last_only: bool = False,
) -> Solution:
    """Take noise to data by one of the book's samplers, on an even grid of times but for one.

    Args:
        field: v(x, t) of the linear path, for instance of ``guided``.
        x0: noise, shape (B, *event).
        method: "euler", "midpoint", "heun" (with Euler's method in the last step), "rk4", "dpm"
            (DPM-Solver++), "adaptive" (with relative and absolute tolerance 1e-4), "ddpm" (the
            ancestral sampler), "renoise" (jumps to the data with new noise between, at 0 and at
            even times from ¾ on, for weights that were trained for one step) or "sde"
            (Euler-Maruyama with noise that falls with σ: constant noise makes it unstable near
            the data, where λ h/σ² is large).
        steps: of the grid; "adaptive" chooses its own.
        noise_level: of "sde" at t = 0; at time t it is w(t) = noise_level · (1 − t).
        generator: of the noise of "ddpm", "renoise" and "sde", on the device of x0.
        last_only: see ``solve``.

    Raises:
        ValueError: an unknown method, or a negative level.

    Chapters 5 and 7.
    """
    check_count(steps, "steps")
    check_number(noise_level, "noise_level", 0)
    generator_device(generator)
    if method not in SAMPLERS:
        raise ValueError(f'unknown sampler "{method}"; choose from {", ".join(SAMPLERS)}')
    times, path = torch.linspace(0, 1, steps + 1), AffinePath(LINEAR)
    if method in STEPS:
        return solve(field, x0, times, STEPS[method], last_only)
    if method == "dpm":
        return dpm_solver(field, x0, times, path, last_only)
    if method == "ddpm":
        return solve(field, x0, times, ddim(path, 1.0, generator), last_only)
    if method == "renoise":
        times[1:] = torch.linspace(1, 0.75, steps).flip(0)  # from earlier the digit would be lost
        return solve(field, x0, times, renoise(path, 1.0, generator), last_only)
    if method == "sde":

        def level(t: Tensor) -> Tensor:
            return noise_level * (1 - t)

        return solve_sde(field, x0, times, path, level, generator, last_only)
    return solve_adaptive(field, x0, 0.0, 1.0, 1e-4, 1e-4, last_only)


def images_of(network: LabelledField) -> tuple[tuple[int, int, int], int]:
    """Return (channels, height, width) and the number of classes of a network's images.

    A network of the package says so itself; any other function is taken for one of digits.
    """
    check_callable(network, "network")
    shape, labels = (getattr(network, name, None) for name in ("image_shape", "labels"))
    return (DIGIT, CLASSES) if shape is None or labels is None else (tuple(shape), labels)


def check_guidance(network: LabelledField, scale: float) -> None:
    """Raise unless a network can be guided by this scale.

    Raises:
        ValueError: it knows no classes, and the scale is not 1.
    """
    if images_of(network)[1] == 0 and scale != 1:
        raise ValueError(f"guidance of scale {scale} needs classes, which this network has not")


def image_field(
    network: LabelledField,
    label: Tensor,
    scale: float = 1.0,
    precision: torch.dtype = torch.float32,
) -> VelocityField:
    """Bind label, guidance and precision to a network; states stay in float32.

    Args:
        network: v(x, t, label), on the device of the labels; see ``images_of``.
        label: whole numbers from 0 to 10, shape (B,); 10 is "no label". In general the number of
            classes is; without classes all are 0.
        scale: of the guidance; without classes there is none.
        precision: in which the network runs.
    """
    classes = images_of(network)[1]
    check_labels(label, classes)
    # guidance takes a small difference, in single precision
    scale = scale if classes else 0.0  # the model of all data
    return guided(in_precision(network, precision), label, scale)


def check_seed(seed: int) -> None:
    """Raise unless a seed is a whole number from 0 to 2³¹ − 1, which all generators tell apart.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is outside the range.
    """
    check_count(seed, "seed", 0)
    if seed >= 2**31:
        raise ValueError(f"seed is {seed}; it must be below 2³¹ = 2147483648")


def noise_generators(seed: int, device: torch.device) -> tuple[Generator, Generator]:
    """Return a generator of the noise to start from, on the CPU, and one of later noise.

    The CPU draws the start, so that a seed means the same digits on every device. Later noise
    has another seed: with the same one its first draw would be the start again.

    Raises:
        ValueError: the seed is negative, or has more than 31 bits: the CPU reads 32.
    """
    check_seed(seed)
    check_device(device)
    seed = int(seed)  # a generator takes no other whole number
    return Generator("cpu").manual_seed(seed), Generator(device).manual_seed(2**31 + seed)


@torch.no_grad()
def generate(
    network: LabelledField,
    labels: Tensor,
    method: str,
    steps: int,
    scale: float,
    noise_level: float,
    start: Generator,
    later: Generator,
    precision: torch.dtype,
    last_only: bool = False,
) -> Solution:
    """Draw the noise that images of these labels begin with, and take it to data.

    Args:
        network: see ``image_field``.
        labels: shape (B,).
        method: see ``sample``.
        steps: see ``sample``.
        scale: see ``image_field``.
        noise_level: see ``sample``.
        start: of the noise to begin with, on the CPU; see ``noise_generators``.
        later: of later noise, on the device of the labels.
        precision: see ``image_field``.
        last_only: see ``solve``.

    Returns:
        States of shape (B, 1, 28, 28), or as ``images_of`` says.

    Chapter 8.
    """
    shape, classes = images_of(network)
    check_labels(labels, classes)
    generator_device(start)
    x0 = torch.randn(len(labels), *shape, generator=start, device="cpu").to(labels.device)
    field = image_field(network, labels, scale, precision)
    return sample(field, x0, method, steps, noise_level, later, last_only)


def sample_digits(
    network: LabelledField,
    labels: Tensor,
    method: str = "heun",
    steps: int = 25,
    scale: float = 1.0,
    noise_level: float = 1.0,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    batch: int = 500,
) -> Iterator[Tensor]:
    """Make digits, or other images, with these labels, batch by batch.

    The noise they begin with is drawn on the CPU, so that a seed means the same digits on every
    device, up to rounding.

    Args:
        network: see ``image_field``.
        labels: for all digits, shape (N,).
        method: see ``sample``.
        steps: see ``sample``.
        scale: see ``image_field``.
        noise_level: see ``sample``.
        seed: of all noise.
        precision: see ``image_field``.
        batch: digits at a time.

    Yields:
        Unsigned bytes of shape (B, 28, 28), or as ``to_pixels`` gives them, with B = batch but
        for the last.

    Chapter 8.
    """
    check_labels(labels, images_of(network)[1])
    check_count(batch, "batch")
    start, later = noise_generators(seed, labels.device)
    for part in labels.split(int(batch)):
        made = generate(
            network, part, method, steps, scale, noise_level, start, later, precision, True
        )
        yield to_pixels(made.last)
