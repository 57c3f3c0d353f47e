"""Plays a few-steps contest: lets each sampler ask for evaluations, counts them, tries it out.

A sampler is a function of a hand-in:

    sample(evaluate, noise, labels, budget) -> images

``evaluate(x, t, label)`` returns the velocity of the hand-in's network for all rows, and may be
called ``budget`` times. ``noise`` has the shape (B, budget, 1, 28, 28): ``noise[:, 0]`` to start
from, and more for samplers that add noise on their way. ``labels`` are 0 … 9, shape (B,). Images
have the shape (B, 1, 28, 28) in [−1, 1]. Each is a function of its own row of noise and label.
"""

import socket
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from fmtutorial.coursework.contest_files import HandIn
from fmtutorial.coursework.contest_line import (
    EVALUATE,
    FAILED,
    HEADER,
    IMAGES,
    TEXT,
    get,
    get_tensor,
    put,
)
from fmtutorial.coursework.grading import Limits
from fmtutorial.coursework.process import Keeper
from fmtutorial.images.batches import DIGIT
from fmtutorial.images.data import to_pixels

BUDGETS = (1, 2, 4, 10)
"""Numbers of evaluations at which the samplers meet."""

BATCH, PROBE = 250, 10
"""Rows at a time, and rows in each of the three parts of a trial."""

SAME = 0.02
"""Mean difference of an image, in [−1, 1], that rounding does not reach."""


class Refused(Exception):
    """The hand-in is out of the contest; the text says why."""


class Task(NamedTuple):
    """Rows to make images of; where ``halved`` is true, answers are half the network's."""

    noise: Tensor
    labels: Tensor
    halved: Tensor


class Trial(NamedTuple):
    """A task, the rows of the contest that are in it, and how its three parts are shuffled."""

    task: Task
    rows: Tensor
    order: Tensor


class Made(NamedTuple):
    """Unsigned bytes of shape (N, 28, 28), their labels, and evaluations used for each."""

    images: Tensor
    labels: Tensor
    evaluations: int


def play(
    hand_in: HandIn, budget: int, samples: int, seed: int, limits: Limits, keeper: Keeper
) -> Made:
    """Let a sampler make digits with so many evaluations, and try whether it does so honestly.

    Args:
        hand_in: from ``contest_files``.
        budget: evaluations for each digit.
        samples: how many, as many of each class, if ten divides them.
        seed: of the noise.
        limits: of its process.
        keeper: for "contest_player".

    Raises:
        Refused: it does not, or not honestly.
        Lost: the keeper is gone.
    """
    batches = tasks(budget, samples, seed)
    made = answers(hand_in, batches, budget, limits, keeper)
    images = torch.cat([one for one, _ in made])
    trial = trial_of(batches, budget, seed)
    ((tried, _),) = answers(hand_in, [trial.task], budget, limits, keeper)
    honest(images, tried, trial)
    labels = torch.cat([task.labels for task in batches])
    return Made(to_pixels(images), labels, max(used for _, used in made))


def answers(
    hand_in: HandIn, batches: list[Task], budget: int, limits: Limits, keeper: Keeper
) -> list[tuple[Tensor, int]]:
    """Return a sampler's images for tasks, in a fresh process, and evaluations used for each.

    Raises:
        Refused: it makes none.
        Lost: the keeper is gone.
    """
    keeper.ready()
    address = Path(keeper.folder) / "line"
    address.unlink(missing_ok=True)
    job = {"address": str(address), "source": hand_in.source, "memory": limits.memory}
    job |= {"seconds": limits.seconds, "total": limits.total}
    with socket.socket(socket.AF_UNIX) as door, ThreadPoolExecutor(1) as pool:
        door.bind(str(address))
        door.listen(1)
        asked = pool.submit(keeper.ask, job)
        try:
            with _called(door, asked) as connection:
                line = connection.fileno()
                return [serve(line, hand_in.network, task, budget) for task in batches]
        except (EOFError, ConnectionError):
            _, why = asked.result()
            raise Refused(f"its process {why or 'ends'}") from None
        except KeyboardInterrupt:
            keeper.close()  # which ends the sampler, however long it would take
            raise


def _called(door: socket.socket, asked: Future) -> socket.socket:
    """Wait until the sampler's process calls.

    Raises:
        EOFError: it has ended before.
    """
    door.settimeout(0.1)
    while True:
        try:
            connection, _ = door.accept()
        except TimeoutError:
            if asked.done():
                raise EOFError from None
        else:
            connection.setblocking(True)
            return connection


def tasks(budget: int, samples: int, seed: int) -> list[Task]:
    """Return the batches of a number of evaluations; their noise is that of no other number."""
    generator = Generator().manual_seed(1000 * seed + budget)
    labels = (torch.arange(samples) % 10).split(BATCH)
    return [
        Task(torch.randn(len(c), budget, *DIGIT, generator=generator), c, c < 0) for c in labels
    ]


def trial_of(batches: list[Task], budget: int, seed: int) -> Trial:
    """Return some rows again, shuffled: as they were, with other noise, and with halved answers."""
    generator = Generator().manual_seed(1000 * seed + 500 + budget)
    noise, labels = (torch.cat(parts) for parts in zip(*(b[:2] for b in batches), strict=True))
    rows = torch.randperm(len(labels), generator=generator)[:PROBE]
    other = torch.randn(noise[rows].shape, generator=generator)
    order = torch.randperm(3 * len(rows), generator=generator)
    again = torch.cat([noise[rows], other, noise[rows]])[order]
    halved = order >= 2 * len(rows)
    return Trial(Task(again, labels[rows].repeat(3)[order], halved), rows, order)


def honest(images: Tensor, tried: Tensor, trial: Trial) -> None:
    """Compare the images of a trial with those of the same rows before.

    Raises:
        Refused: a row depends on others, or no row on its noise, or none on the network.
    """
    again = torch.empty_like(tried)
    again[trial.order] = tried
    same, other, halved = (
        (part - images[trial.rows]).abs().mean(dim=(1, 2, 3))
        for part in again.split(len(trial.rows))
    )
    if bool(same.max() > SAME):
        raise Refused("an image depends on more than its own row of noise and label")
    if bool(other.max() == 0):
        raise Refused("the images do not depend on the noise")
    if bool(halved.max() == 0):
        raise Refused("the images do not depend on what the network answers")


@torch.no_grad()
def serve(line: int, network: nn.Module, task: Task, budget: int) -> tuple[Tensor, int]:
    """Hand out a task, answer what the sampler asks, and return its images and what it used.

    Raises:
        Refused: it asks too often or makes no images.
        EOFError, ConnectionError: its process has ended.
    """
    rows, used = len(task.labels), 0
    put(line, HEADER.pack(rows, budget), task.labels, task.noise)
    while True:
        kind = bytes(get(line, 1))
        if kind == EVALUATE:
            x, t = get_tensor(line, (rows, *DIGIT)), get_tensor(line, (rows,))
            label = get_tensor(line, (rows,), torch.int64)
            used += 1
            if used > budget:
                raise Refused(f"it asks for more than {budget} evaluation{'s' * (budget > 1)}")
            put(line, answer(network, x, t, label, task.halved))
        elif kind == IMAGES:
            images = get_tensor(line, (rows, *DIGIT))
            if not bool(images.isfinite().all()):
                raise Refused("its images hold NaN or infinity")
            return images, used
        elif kind == FAILED:
            raise Refused(get(line, TEXT).decode(errors="replace").strip())
        else:
            raise Refused("what its process says makes no sense")


def answer(network: nn.Module, x: Tensor, t: Tensor, label: Tensor, halved: Tensor) -> Tensor:
    """Return the velocity for a row each.

    Raises:
        Refused: there is none.
    """
    if not bool(x.isfinite().all()):
        raise Refused("it evaluates at NaN or infinity")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise Refused("it evaluates at a time outside [0, 1]")
    try:
        v = network(x, t, label)
    except (TypeError, ValueError) as error:
        raise Refused(f"evaluate cannot answer: {error}") from error
    v[halved] /= 2
    return v
