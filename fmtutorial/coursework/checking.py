"""From a student's function to a verdict in words: run it, compare, name the mistake."""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fmtutorial.coursework.catalogue import exercise_called
from fmtutorial.coursework.exercises import Exercise, Function

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Relative to the largest entry: rounding over some hundred operations, with a wide margin."""


class Verdict(NamedTuple):
    """Status ("right", "wrong", "error" or "not attempted") and a text for the student."""

    status: str
    text: str


Outcome = Tensor | dict[str, str]
"""Of one case: what the function returned, or the kind and text of what went wrong."""


def outcomes(exercise: Exercise, function: Function, seed: int) -> list[Outcome]:
    """Call a function with the arguments of every case."""
    return [
        _outcome(function, arguments, exercise.trains) for arguments in exercise.arguments(seed)
    ]


def _outcome(function: Function, arguments: tuple, trains: bool) -> Outcome:
    given = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    try:
        value = function(*given)
    except (Exception, SystemExit) as error:
        if isinstance(error, NotImplementedError) and not error.args:  # torch's own has a text
            return {"kind": "not attempted", "text": ""}
        text = f"{_place(error, function)}{type(error).__name__}: {error}"
        return {"kind": "error", "text": text[:500]}
    if value is None:
        return {"kind": "error", "text": "It returns nothing. Is there a return in it?"}
    if not isinstance(value, Tensor):
        text = f"It returns a {type(value).__name__}, and a tensor is wanted."
        return {"kind": "error", "text": text}
    if value.layout != torch.strided or value.device.type != "cpu":
        text = f"It returns a tensor of layout {value.layout} on the device {value.device}; "
        return {"kind": "error", "text": f"{text}a plain one on the CPU is wanted."}
    changed = [
        i + 1
        for i, (a, b) in enumerate(zip(arguments, given, strict=True))
        if isinstance(a, Tensor) and not torch.equal(a, b)
    ]
    if changed:
        text = f"It changes its argument number {changed[0]} in place. Work on a copy."
        return {"kind": "error", "text": text}
    if trains and not value.requires_grad:
        text = "The loss has no gradient. Is there a detach, a no_grad or an item on its way?"
        return {"kind": "error", "text": text}
    return value.detach()


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """Name the line of the student's code that an exception came from."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if step.filename == code.co_filename]
    if not own:
        return "The call itself failed. Are the arguments those of the sheet? "
    line = own[-1].lineno - code.co_firstlineno + 1
    return f"Line {line} of {own[-1].name}, `{own[-1].line}`, raised "


def judge(exercise: Exercise, found: list[Outcome], seed: int) -> Verdict:
    """Compare what a function returned with the right answer, and say what it looks like.

    Args:
        exercise: whose cases they are.
        found: an outcome for each case.
        seed: with which the arguments were drawn.
    """
    kinds = [None if isinstance(one, Tensor) else one["kind"] for one in found]
    if "not attempted" in kinds:
        return Verdict("not attempted", "not attempted")
    truth = outcomes(exercise, exercise.answer, seed)
    right = [_same(one, other) for one, other in zip(found, truth, strict=True)]
    if all(right):
        return Verdict("right", f"right in all {len(found)} cases")
    for hint, mistake in exercise.mistakes.items():
        if _all_alike(found, outcomes(exercise, mistake, seed)):
            return Verdict("wrong", f"not yet. {hint}")
    first = right.index(False)
    count = f"right in {sum(right)} of {len(found)} cases" if any(right) else "not yet"
    where = f"{count}. With {_shapes(exercise.arguments(seed)[first])}: "
    if kinds[first] == "error":
        return Verdict("error", f"{where}{found[first]['text']}")
    if found[first].shape != truth[first].shape:
        shapes = f"{tuple(found[first].shape)}, wanted is {tuple(truth[first].shape)}."
        return Verdict("wrong", f"{where}the result has shape {shapes}")
    if found[first].dtype != truth[first].dtype:
        types = f"{found[first].dtype}, wanted is {truth[first].dtype}".replace("torch.", "")
        return Verdict("wrong", f"{where}the result is {types}.")
    return Verdict("wrong", where + _size(found, truth, first))


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
    if one.shape != other.shape or one.is_complex():
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
