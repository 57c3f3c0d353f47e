"""From what a student's function gives to a verdict in words: compare, name the mistake."""

import functools

import torch
from torch import Tensor

from fmtutorial.coursework.catalogue import exercise_called
from fmtutorial.coursework.exercises import Exercise, Function
from fmtutorial.coursework.outcomes import Outcome, Verdict, outcomes, plain_torch

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Relative to the largest entry: rounding over some hundred operations, with a wide margin."""


@plain_torch()
def judge(exercise: Exercise, found: list[Outcome], seed: int) -> Verdict:
    """Compare what a function returned with the right answer, and say what it looks like.

    Args:
        exercise: whose cases they are.
        found: an outcome for each case.
        seed: with which the arguments were drawn.
    """
    if any(isinstance(one, Verdict) and one.status == "not attempted" for one in found):
        return Verdict("not attempted", "not attempted")
    truth = known(exercise, exercise.answer, seed)
    right = [_same(one, other) for one, other in zip(found, truth, strict=True)]
    if all(right):
        return Verdict("right", f"right in all {len(found)} cases")
    for hint, mistake in exercise.mistakes.items():
        if _all_alike(found, known(exercise, mistake, seed)):
            return Verdict("wrong", f"not yet. {hint}")
    first = right.index(False)
    count = f"right in {sum(right)} of {len(found)} cases" if any(right) else "not yet"
    where = f"{count}. With {_shapes(exercise.arguments(seed)[first])}: "
    if isinstance(found[first], Verdict):
        return Verdict("error", where + found[first].text)
    if found[first].shape != truth[first].shape:
        shapes = f"{tuple(found[first].shape)}, wanted is {tuple(truth[first].shape)}."
        return Verdict("wrong", f"{where}the result has shape {shapes}")
    if found[first].dtype != truth[first].dtype:
        types = f"{found[first].dtype}, wanted is {truth[first].dtype}".replace("torch.", "")
        return Verdict("wrong", f"{where}the result is {types}.")
    return Verdict("wrong", where + _size(found, truth, first))


@functools.lru_cache(1024)
def known(exercise: Exercise, function: Function, seed: int) -> list[Outcome]:
    """Return what the right answer or a mistake gives, worked out once for a whole class."""
    return outcomes(exercise, function, seed)


def _shapes(arguments: tuple) -> str:
    """Describe the tensors among the arguments."""
    tensors = [a for a in arguments if isinstance(a, Tensor) and a.is_floating_point()]
    shapes = ", ".join(str(tuple(a.shape)) for a in tensors)
    return f"arguments of shape {shapes} in {tensors[0].dtype}".replace("torch.", "")


def _same(one: Outcome, other: Outcome) -> bool:
    """Whether two results agree in shape, type and values."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return one.dtype == other.dtype and _close(one, other)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, wide = one.double(), other.double()
    finite = one.isfinite() & wide.isfinite()
    alike = torch.equal(one[~finite].nan_to_num(), wide[~finite].nan_to_num())
    scale = wide[finite].abs().max().item() if finite.any() else 0.0
    tolerance = TOLERANCES.get(other.dtype, 1e-4) * max(scale, 1e-3)
    return alike and bool(((one - wide)[finite].abs() <= tolerance).all())


def _all_alike(found: list[Outcome], mistaken: list[Outcome]) -> bool:
    """Whether a mistake explains every case, the failures with it, and one of them by values."""
    values = 0
    for one, other in zip(found, mistaken, strict=True):
        numbers = isinstance(one, Tensor), isinstance(other, Tensor)
        if any(numbers) and not (all(numbers) and _close(one, other)):
            return False
        values += all(numbers)
    return values > 0


def _size(found: list[Outcome], truth: list[Tensor], first: int) -> str:
    """Describe a difference that no known mistake explains."""
    if not found[first].isfinite().all():
        return "the result has entries that are infinite or not a number."
    factors = set()
    for one, other in zip(found, truth, strict=True):
        if not isinstance(one, Tensor) or one.shape != other.shape:
            break
        factor = ((one * other).sum() / other.square().sum()).item()
        if not _close(one, factor * other):
            break
        factors.add(round(factor, 3))
    else:
        if len(factors) == 1 and factors != {1.0}:
            return _factor(factors.pop())
    error = (found[first] - truth[first]).abs().max().item()
    size = truth[first].abs().max().item()
    return f"the largest error is {error:.2g}, where the right answer has entries up to {size:.2g}."


def _factor(factor: float) -> str:
    if factor == -1:
        return "everything has the wrong sign."
    return f"everything is {factor:g} times what it should be."


def check(name: str, function: Function, seed: int = 0) -> None:
    """Say whether a function is right and, if not, which mistake it looks like.

    Args:
        name: of the exercise, "solvers.heun_step".
        function: yours.
        seed: of the inputs, which are drawn at random; any whole number.

    Raises:
        ValueError: there is no exercise with this name.
    """
    exercise = exercise_called(name)
    verdict = judge(exercise, outcomes(exercise, function, seed), seed)
    print(f"{name}: {verdict.text}")
