"""Training in float16 with a scaled loss, which Colab's T4 takes: it overflows, skips and goes on.

The CPU multiplies float16 too, so that this path needs no GPU.
"""

import dataclasses
import itertools
import os

import pytest
import torch

from fmtutorial.images.data import small_digits
from fmtutorial.images.run import Run, Settings

CPU = torch.device("cpu")
SMALL = Settings(
    data="small", width=8, steps=20, batch=8, warm_up=2, ema_decay=0.9, precision="float16"
)
LARGE = 2.0**32
"""Times this the gradients are beyond 65504, the largest number of float16."""


@pytest.fixture(scope="module")
def digits():
    return small_digits()


def scale(run, value, since=0):
    """Set the scale of the loss, and for how many steps it has been without an overflow."""
    state = {"scale": value, "_growth_tracker": since}
    run.scaler.load_state_dict(run.scaler.state_dict() | state)


def weights(run):
    return [p.detach().clone() for p in run.network.parameters()]


def taken(run):
    """The steps that the optimizer has taken, of which there are none at first."""
    return max((int(s["step"]) for s in run.optimizer.state.values()), default=0)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_networks_answer_is_in_float16(digits):
    run, kinds = Run(SMALL, CPU), set()
    for layer in run.network.modules():
        layer.register_forward_hook(
            lambda layer, given, y: kinds.add((type(layer).__name__, y.dtype))
        )
    next(run.steps(digits))
    assert {("Conv2d", torch.float16), ("Linear", torch.float16)} <= kinds
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in run.network.parameters())


def test_an_overflow_skips_its_step_and_halves_the_scale(digits):
    run = Run(SMALL, CPU)
    scale(run, LARGE)
    start, expected, found = weights(run), LARGE, []
    for step in run.steps(digits):
        if taken(run):
            break
        expected /= 2
        assert same(weights(run), start) and run.scaler.get_scale() == expected
        assert run.done == run.ema.updates == step.number and step.loss > 0
        found.append(step.number)
    assert len(found) > 5 and taken(run) == 1 and not same(weights(run), start)
    assert run.scaler.get_scale() == expected, "a step that was taken leaves the scale"


def test_the_scale_grows_after_long_peace(digits):
    run = Run(SMALL, CPU)
    scale(run, 1024.0, run.scaler.get_growth_interval() - 1)
    next(run.steps(digits))
    assert taken(run) == 1 and run.scaler.get_scale() == 2048.0


def test_the_scale_leaves_the_gradient(digits):
    """At most the rounding of float16, 2^-11, times the depth of the network."""
    found = {}
    for precision, value in (("float32", 1.0), ("float16", 1.0), ("float16", 2.0**12)):
        run = Run(dataclasses.replace(SMALL, precision=precision, max_gradient_norm=1e6), CPU)
        for p in run.network.parameters():  # the last layer is 0 at the start
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
        if precision == "float16":
            scale(run, value)
        next(run.steps(digits))
        grads = [p.grad.flatten() for p in run.network.parameters()]
        found[precision, value] = torch.cat(grads)
    exact = found["float32", 1.0]
    for gradient in found.values():
        assert (gradient - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("broken_at", [3, 16])
def test_an_overflow_on_the_way_and_a_resumed_run(digits, tmp_path, broken_at):
    """At step 3 all steps so far were skipped, and there is nothing of the optimizer to keep."""
    whole = Run(SMALL, CPU)
    scale(whole, LARGE)
    steps = list(whole.steps(digits))
    assert 0 < taken(whole) < whole.done == SMALL.steps

    broken, path = Run(SMALL, CPU), tmp_path / "checkpoint.pt"
    scale(broken, LARGE)
    found = list(itertools.islice(broken.steps(digits), broken_at))
    broken.save(path)
    again = Run.load(path, CPU)
    assert again.scaler.state_dict() == broken.scaler.state_dict() and taken(again) == taken(broken)
    assert (taken(again) == 0) == (broken_at == 3)
    found += list(again.steps(digits))
    assert found == steps and taken(again) == taken(whole)
    assert again.scaler.state_dict() == whole.scaler.state_dict()
    assert same(weights(again), weights(whole))
    assert same(again.ema.network.parameters(), whole.ema.network.parameters())


LONG = pytest.mark.skipif("LONG" not in os.environ, reason="a minute: make device")


@pytest.mark.parametrize("steps", [40, pytest.param(400, marks=LONG)])
def test_digits_are_learned_in_float16_through_an_overflow(digits, steps):
    """Beside a run in float32; half way the scale is raised until the gradients overflow."""
    ends = {}
    for precision in ("float32", "float16"):
        run = Run(dataclasses.replace(SMALL, steps=steps, precision=precision), CPU)
        losses, half = [], steps // 2
        for step in run.steps(digits):
            if precision == "float16" and step.number == half:
                assert taken(run) == half and run.scaler.get_scale() == 2.0**16  # PyTorch's start
                before = weights(run)
                scale(run, LARGE)
            elif precision == "float16" and step.number == half + 1:
                assert same(weights(run), before), "the overflow reached the weights"
            losses.append(step.loss)
        assert all(torch.isfinite(p).all() for p in run.network.parameters())
        ends[precision] = sum(losses[-10:]) / 10
    assert half < taken(run) < steps - 3 and run.scaler.get_scale() < LARGE / 8
    fall = losses[0] - ends["float32"]
    assert fall > (0.6 if steps > 100 else 0.2) * losses[0]
    # the steps that were skipped are few, and those before the overflow learned most
    assert losses[0] - ends["float16"] > (0.95 if steps > 100 else 0.7) * fall
