"""What a function gives for the cases of an exercise, as plain tensors or words."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Exercise, Function

LARGEST = 2**14
"""Numbers in a result, at most; right answers have some hundred."""

FLOATS = torch.float64, torch.float32, torch.float16, torch.bfloat16
INTEGERS = torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool
TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS + INTEGERS}
"""Of results that can be compared, by name."""


class Verdict(NamedTuple):
    """Status ("right", "wrong", "error", "not attempted" …) and a text for the student."""

    status: str
    text: str


Outcome = Tensor | Verdict
"""Of one case: what the function returned, or what went wrong."""


@contextmanager
def plain_torch() -> Iterator[None]:
    """New tensors on the CPU and gradients on, whatever a notebook has set for itself."""
    try:
        moved = torch.empty(0).device.type != "cpu"
    except Exception:  # the device that was set as default is not there
        moved = True
    place = torch.device("cpu") if moved else nullcontext()  # it would halve the speed of torch
    with place, torch.inference_mode(False), torch.enable_grad():
        yield


@plain_torch()
def outcomes(exercise: Exercise, function: Function, seed: int) -> list[Outcome]:
    """Call a function with the arguments of every case."""
    cases = exercise.arguments(seed)
    return [_outcome(function, arguments, exercise.trains) for arguments in cases]


def call(function: Function, given: list) -> object:
    """Call a function; what stands above this frame is a submission's, see ``borrowing``."""
    return function(*given)


def _outcome(function: Function, arguments: tuple, trains: bool) -> Outcome:
    given = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    try:
        value = call(function, given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # exit() and whatever else a function may raise
        if isinstance(error, NotImplementedError) and not error.args:  # torch's own has a text
            return Verdict("not attempted", "")
        return Verdict("error", described(error, function))
    try:
        wrong = _wrong(value, arguments, given, trains)
        return Verdict("error", wrong) if wrong else value.detach().clone()
    except Exception as error:
        return Verdict("error", f"What it returns cannot be read: {described(error)}")


def _wrong(value: object, arguments: tuple, given: list, trains: bool) -> str:
    """Say why a value is no result that could be compared, if it is none."""
    if value is None:
        return "It returns nothing. Is there a return in it?"
    if type(value) not in (Tensor, torch.nn.Parameter):  # a subclass may lie about all the rest
        return f"It returns a {type(value).__name__}, and a tensor is wanted."
    if value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
        kind = "nested" if value.is_nested else value.layout
        text = f"It returns a tensor of layout {kind} on the device {value.device}; "
        return f"{text}a plain one on the CPU is wanted, where its arguments are."
    if value.dtype not in TYPES.values():
        return f"the result is {value.dtype}, and real numbers are wanted.".replace("torch.", "")
    if value.numel() > LARGEST:
        return f"the result has shape {tuple(value.shape)}, which is far too large."
    for i, (a, b) in enumerate(zip(arguments, given, strict=True), start=1):
        if isinstance(a, Tensor) and not torch.equal(a, b):
            return f"It changes its argument number {i} in place. Work on a copy."
    if trains and not value.requires_grad:
        return "The loss has no gradient. Is there a detach, a no_grad or an item on its way?"
    return ""


def described(error: BaseException, function: Function | None = None) -> str:
    """Say what was raised and where, also if the exception raises another when it is asked."""
    try:
        return f"{_place(error, function)}{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


def _place(error: BaseException, function: Function | None) -> str:
    """Name the line of the student's code that an exception came from."""
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    if code is None:
        return ""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if step.filename == code.co_filename]
    if not own:
        return "The call itself failed. Are the arguments those of the sheet? "
    line = own[-1].lineno - code.co_firstlineno + 1
    return f"Line {line} of {own[-1].name}, `{own[-1].line}`, raised "


def packed(found: list[Outcome]) -> list[Any]:
    """Return outcomes as what JSON can hold."""
    return [list(one) if isinstance(one, Verdict) else _numbers(one) for one in found]


def _numbers(x: Tensor) -> dict[str, Any]:
    name = str(x.dtype).removeprefix("torch.")
    return {"dtype": name, "shape": list(x.shape), "values": x.double().flatten().tolist()}


def unpacked(found: Any, cases: int) -> list[Outcome]:  # noqa: ANN401
    """Return outcomes from what JSON held.

    Raises:
        ValueError: they are none, or too few.
    """
    try:
        result = [_unpacked(one) for one in found]
    except Exception as error:  # whatever a forged one does to torch
        raise ValueError("these are no outcomes") from error
    if len(result) not in (0, cases):
        raise ValueError(f"these are {len(result)} outcomes; {cases} are wanted")
    return result


def _unpacked(one: Any) -> Outcome:  # noqa: ANN401
    if isinstance(one, list):
        status, text = one
        if status not in ("error", "not attempted") or not isinstance(text, str):
            raise ValueError("this is no verdict on a case")
        return Verdict(status, text)
    values = torch.tensor(one["values"], dtype=torch.float64, device="cpu")
    return values.reshape(one["shape"]).to(TYPES[one["dtype"]])
