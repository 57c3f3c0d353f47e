"""Exercises: every right answer passes, every known mistake is named; what else may go wrong."""

import contextlib
import re
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
import sheets
import torch

from fmtutorial.coursework import check
from fmtutorial.coursework.catalogue import EXERCISES, SHEETS, exercise_called
from fmtutorial.coursework.checking import judge, known, outcomes
from fmtutorial.coursework.exercises import SETTINGS, Draw, Exercise, Field, Setting
from fmtutorial.solvers import heun

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SEEDS = range(20)


def verdict(exercise, function, seed=0):
    return judge(exercise, outcomes(exercise, function, seed), seed)


def test_every_chapter_has_a_sheet_of_three_exercises():
    practice = {"09-common-mistakes", "15-your-own", "16-other-models", "17-projects"}
    labs = {path.stem for path in NOTEBOOKS.glob("*.py")} - practice
    assert labs <= set(SHEETS)
    assert list(SHEETS) == sorted(path.stem for path in NOTEBOOKS.glob("solutions/*.py"))
    assert all(len(sheet) >= 3 for sheet in SHEETS.values())
    assert len(EXERCISES) == sum(map(len, SHEETS.values())) >= 24


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("seed", SEEDS)
def test_right_answers_pass(name, seed):
    assert verdict(EXERCISES[name], EXERCISES[name].answer, seed).status == "right"


@pytest.mark.parametrize("name", EXERCISES)
def test_mistakes_are_refused_and_named(name):
    """Each with its own hint, so that no two of them coincide, whatever the seed."""
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 3
    for hint, mistake in exercise.mistakes.items():
        for seed in SEEDS:
            found = known(exercise, mistake, seed)
            assert judge(exercise, found, seed) == ("wrong", f"not yet. {hint}"), seed


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_is_quick_and_prints_one_line(name, capsys):
    started = time.perf_counter()
    check(name, EXERCISES[name].answer, seed=7)
    assert time.perf_counter() - started < 2
    cases = len(EXERCISES[name].settings)
    assert capsys.readouterr().out == f"{name}: right in all {cases} cases\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_inputs_are_drawn_anew(name):
    """Another seed, other inputs; the same seed, the same; one function of them is not enough."""
    exercise = EXERCISES[name]

    def numbers(seed):
        arguments = [a for case in exercise.arguments(seed) for a in case]
        return torch.cat([a.flatten().double() for a in arguments if isinstance(a, torch.Tensor)])

    assert torch.equal(numbers(3), numbers(3))
    one, other = numbers(3), numbers(4)
    assert one.shape != other.shape or not torch.equal(one, other)
    remembered = outcomes(exercise, exercise.answer, 3)
    assert verdict(exercise, lambda *_: remembered.pop(0), 4).status != "right"


@pytest.mark.parametrize("name", EXERCISES)
def test_cases_differ_in_shape_and_batch(name):
    settings = EXERCISES[name].settings
    assert len({s.batch for s in settings}) > 1 or len({s.event for s in settings}) > 1


def test_cases_have_a_batch_as_large_as_its_events():
    assert Setting(3, (3,), torch.float64) in SETTINGS
    assert {s.dtype for s in SETTINGS} == {torch.float32, torch.float64}


# What no exercise knows of.

DOUBLE = Exercise("test.double", lambda x: 2 * x, lambda draw: (draw.normal(),))


def in_place(x):
    x *= 2
    return x


def raises(x):
    y = 2 * x
    return y + missing  # noqa: F821


def unsupported(x):
    raise NotImplementedError("linalg_eig not implemented for Half")


def leaves(x):
    raise SystemExit(3)


class Quiet(BaseException):
    def __str__(self):
        raise ValueError("no words")


def quiet(x):
    raise Quiet


class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize(
    ("function", "status", "text"),
    [
        (lambda x: 2 * x + 0, "right", "right in all 6 cases"),
        (lambda x: -2 * x, "wrong", "everything has the wrong sign."),
        (lambda x: 3 * x, "wrong", "everything is 1.5 times what it should be."),
        (lambda x: 0 * x, "wrong", "everything is 0 times what it should be."),
        (lambda x: 2 * x + 1, "wrong", "the largest error is 1, where"),
        (lambda x: x / 0, "wrong", "infinite or not a number"),
        (lambda x: (2 * x).sum(), "wrong", r"result has shape \(\), wanted is \(4, 2\)"),
        (lambda x: (2 * x).float(), "wrong", "result is float32, wanted is float64"),
        (lambda x: 2 * x if len(x) == 4 else x, "wrong", "right in 1 of 6 cases"),
        (lambda x: None, "error", "returns nothing"),
        (lambda x: [2 * x], "error", "returns a list, and a tensor is wanted"),
        (lambda x, y: 2 * x, "error", "The call itself failed.*TypeError"),
        (in_place, "error", "changes its argument number 1 in place"),
        (raises, "error", "Line 3 of raises, `return y \\+ missing.*NameError"),
        (leaves, "error", "SystemExit: 3"),
        (quiet, "error", "With .*: Quiet$"),
        (lambda x: (2 * x).as_subclass(Liar), "error", "returns a Liar, and a tensor is wanted"),
        (unsupported, "error", "NotImplementedError: linalg_eig"),
        (lambda x: (2 * x).to_sparse(), "error", "a plain one on the CPU is wanted"),
        (lambda x: (2 * x).to("meta"), "error", "on the device meta; a plain one on the CPU"),
        (lambda x: torch.complex(x, x), "error", "is complex128, and real numbers are wanted"),
        (lambda x: x.new_zeros(1).expand(10**12), "error", "which is far too large"),
        (torch.inference_mode()(lambda x: 2 * x), "right", "right in all 6 cases"),
    ],
)
def test_what_goes_wrong_is_said(function, status, text):
    found = verdict(DOUBLE, function)
    assert found.status == status
    assert re.search(text, found.text), found.text


def test_a_blank_is_not_attempted(capsys):
    def heun_step(v, x, t, h):
        raise NotImplementedError

    check("solvers.heun_step", heun_step)
    assert capsys.readouterr().out == "solvers.heun_step: not attempted\n"


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match='no exercise "solvers.hoin"; there are .*heun_step'):
        exercise_called("solvers.hoin")


def test_a_mistake_that_is_right_somewhere_is_still_named():
    """Times of shape (B,) against states of shape (B, D): numbers where B = D, else an error."""

    def draw(d: Draw):
        return d.normal(), d.times()

    right = lambda x, t: t.reshape(-1, *[1] * (x.ndim - 1)) * x  # noqa: E731
    exercise = Exercise("test.scale", right, draw, {"broadcast": lambda x, t: t * x})
    assert verdict(exercise, lambda x, t: x * t) == ("wrong", "not yet. broadcast")
    assert verdict(exercise, lambda x, t: x - t).status != "right"


def test_fields_refuse_the_wrong_time():
    setting = Setting(3, (2,), torch.float64)
    batch, scalar = (
        Field(setting, torch.Generator().manual_seed(0), time) for time in ("batch", "scalar")
    )
    x, t = torch.ones(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(batch(x, t.expand(3)), scalar(x, t))
    with pytest.raises(ValueError, match="one time"):
        scalar(x, t.expand(3))
    with pytest.raises(ValueError):
        batch(x, t)
    with pytest.raises(ValueError, match="states of shape"):
        batch(x.T, t.expand(2))


@contextlib.contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


AMBIENT = {
    "device": lambda: torch.device("meta"),  # as a GPU that this machine lacks
    "dtype": lambda: default_type(torch.float64),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_a_notebook_sets_for_itself_changes_no_check(ambient):
    """Neither what is drawn, nor the right answers, nor the mistakes."""
    for exercise in EXERCISES.values():
        for function in [exercise.answer, *list(exercise.mistakes.values())[:2]]:
            before = known(exercise, function, 3)
            with AMBIENT[ambient]():
                after = outcomes(exercise, function, 3)
            for one, other in zip(after, before, strict=True):
                if isinstance(other, torch.Tensor):
                    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_default_device_that_is_missing_changes_no_check(capsys):
    def zeros(v, x, t, h):
        return heun(v, x, t, h) + torch.zeros(len(x)).sum()

    torch.set_default_device("cuda")
    try:
        check("solvers.heun_step", zeros)
    finally:
        torch.set_default_device(None)
    assert capsys.readouterr().out == "solvers.heun_step: right in all 6 cases\n"


# The notebooks.


@pytest.mark.parametrize("sheet", SHEETS)
def test_students_version_is_cut_from_the_solution(sheet):
    solution = (NOTEBOOKS / "solutions" / f"{sheet}.py").read_text(encoding="utf-8")
    handed_out = (NOTEBOOKS / "exercises" / f"{sheet}.py").read_text(encoding="utf-8")
    assert sheets.student_version(solution) == handed_out, "run `make notebooks`"
    assert "SOLUTION" not in handed_out and '"solution"' not in handed_out


def prints(folder, sheet):
    notebook = nbformat.read(NOTEBOOKS / folder / f"{sheet}.ipynb", as_version=4)
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.parametrize("sheet", SHEETS)
def test_notebooks_check_all_their_exercises(sheet):
    """In the order of the catalogue, with their points; right in one version, blank in one."""
    for exercise in SHEETS[sheet]:
        assert f"{exercise.name}: right in all" in prints("solutions", sheet)
        assert f"{exercise.name}: not attempted" in prints("exercises", sheet)
    text = (NOTEBOOKS / "exercises" / f"{sheet}.py").read_text(encoding="utf-8")
    assert re.findall(r'check\("([\w.]+)"', text) == [e.name for e in SHEETS[sheet]]
    points = [int(n) for n in re.findall(r"^# ## .*\((\d+) points?\)$", text, re.MULTILINE)]
    assert points == [e.points for e in SHEETS[sheet]]


def test_cutting_leaves_nothing_behind():
    solution = jupytext.reads(
        "# %%\ndef f(x):\n    # BEGIN SOLUTION\n    return x\n    # END SOLUTION\n\n\n"
        '# %% tags=["solution"]\nprint(f(1))\n\n# %% [markdown] tags=["solution"]\n# Because.\n',
        fmt="py:percent",
    )
    text = sheets.student_version(jupytext.writes(solution, fmt="py:percent"))
    assert "return x" not in text and "print" not in text and "Because" not in text
    assert text.endswith("def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError\n")


@pytest.mark.parametrize("name", [name for name in EXERCISES if EXERCISES[name].trains])
def test_a_loss_without_gradient_is_refused(name):
    exercise = EXERCISES[name]
    found = verdict(exercise, torch.no_grad()(lambda *arguments: exercise.answer(*arguments)))
    assert found.status == "error" and "has no gradient" in found.text


@pytest.mark.parametrize("seed", SEEDS)
def test_times_that_are_copied_in_single_precision_are_the_same_times(seed):
    def euler_solve(v, x, times):
        for i in range(len(times) - 1):
            t = torch.full((len(x),), float(times[i]), dtype=torch.float32)
            x = x + (times[i + 1] - times[i]) * v(x, t)
        return x

    assert verdict(EXERCISES["solvers.euler_solve"], euler_solve, seed).status == "right"


def test_the_page_for_teachers_is_true():
    """Its points, and the answer of a check that it quotes."""
    page = (NOTEBOOKS.parent / "book" / "teaching.md").read_text(encoding="utf-8")
    rows = re.findall(r"exercises/([\w-]+)\.ipynb\) \| (\d+) \|", page)
    points = [(name, sum(e.points for e in sheet)) for name, sheet in SHEETS.items()]
    assert [(name, int(n)) for name, n in rows] == points
    quoted = re.search(r"^> solvers\.heun_step: not yet\. (.+)$", page, re.MULTILINE).group(1)
    assert quoted in EXERCISES["solvers.heun_step"].mistakes
