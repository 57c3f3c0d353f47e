"""The logarithmic signal-to-noise ratio and its inverse against closed forms and root finding."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, lipman
from fmtutorial.solvers import half_log_snr, log_snr_grid, time_of

DOUBLE = torch.float64


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def vp_value(t):
    """ᾱ = exp(−∫ β), and the signal-to-noise ratio is ᾱ/(1 − ᾱ)."""
    total = math.exp(-quad(lambda s: 0.1 + 19.9 * s, 0, 1 - t)[0])
    return 0.5 * math.log(total / (1 - total))


VALUES = {
    LINEAR: lambda t: math.log(t / (1 - t)),
    COSINE: lambda t: math.log(math.tan(math.pi * t / 2)),
    SQRT: lambda t: math.log(t) - 0.5 * math.log(1 - t),
    VP: vp_value,
    lipman(0.1): lambda t: math.log(t / (1 - 0.9 * t)),
}
every_value = pytest.mark.parametrize(
    "schedule, value", VALUES.items(), ids=[repr(schedule) for schedule in VALUES]
)


@every_value
def test_closed_forms(schedule, value):
    times = [1e-3, 0.2, 0.5, 0.77, 0.999]
    expected = double([value(t) for t in times])
    torch.testing.assert_close(
        half_log_snr(schedule, double(times)), expected, rtol=1e-9, atol=1e-9
    )


def test_linear_is_half_the_logarithm_of_a_ratio_of_squares():
    """At t = 3/4 the signal is 9 times the noise in power: ℓ = ½ log 9."""
    assert half_log_snr(LINEAR, double([0.75])).item() == pytest.approx(0.5 * math.log(9))


def test_ends(schedule):
    first, last = half_log_snr(schedule, double([0.0, 1.0])).tolist()
    if schedule is VP:
        assert first == pytest.approx(vp_value(0.0), rel=1e-12)
    else:
        assert first == -math.inf
    if schedule.name == "lipman(0.1)":
        assert last == pytest.approx(math.log(10))
    else:
        assert last == math.inf


def test_half_log_snr_keeps_shape_and_type():
    t = torch.rand(2, 3, 1)
    assert half_log_snr(COSINE, t).shape == (2, 3, 1)
    assert half_log_snr(COSINE, t).dtype == torch.float32


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_half_log_snr_refuses_times_outside(wrong):
    with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
        half_log_snr(LINEAR, double([0.5, wrong]))
    with pytest.raises(TypeError, match="t is of type torch.int64"):
        half_log_snr(LINEAR, torch.tensor([0, 1]))


@every_value
def test_time_of_against_root_finding(schedule, value):
    """Brent's method on the closed form; both stop at the spacing of float64."""
    wanted = [-3.0, -0.4, 0.0, 1.3, 2.2]
    expected = [brentq(lambda t, w=w: value(t) - w, 1e-9, 1 - 1e-9, xtol=1e-15) for w in wanted]
    torch.testing.assert_close(
        time_of(schedule, double(wanted)), double(expected), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_time_of_undoes_half_log_snr(schedule, event, dtype, generator):
    """Up to a few units in the last place of 1, and from all shapes."""
    t = torch.rand(3, *event, generator=generator, dtype=dtype)
    back = time_of(schedule, half_log_snr(schedule, t))
    assert back.dtype == dtype and back.shape == t.shape
    # near the ends of cosine and VP float32 loses digits of ℓ itself: 2e-7 over dℓ/dt > 1/2
    torch.testing.assert_close(back, t, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_time_of_closed_inverses():
    """Linear: a sigmoid. Cosine: (2/π) atan(e^ℓ). As exact near 0 as anywhere."""
    value = double([-20.0, -5.0, 0.0, 2.0, 15.0])
    torch.testing.assert_close(time_of(LINEAR, value), torch.sigmoid(value), rtol=1e-7, atol=1e-15)
    expected = torch.atan(value.exp()) * 2 / math.pi
    torch.testing.assert_close(time_of(COSINE, value), expected, rtol=1e-7, atol=1e-15)


def test_time_of_infinite_values_is_an_end(schedule):
    ends = time_of(schedule, double([-math.inf, math.inf]))
    assert ends.tolist() == [0.0, 1.0]


def test_time_of_values_that_never_occur_is_the_nearer_end():
    # VP starts at ℓ = −5.025, lipman(0.1) ends at ℓ = log 10 = 2.3
    assert time_of(VP, double([-6.0, -1e3])).tolist() == pytest.approx([0, 0], abs=1e-15)
    assert time_of(lipman(0.1), double([2.31, 1e3])).tolist() == [1.0, 1.0]


def test_time_of_wrong_values():
    with pytest.raises(ValueError, match="is NaN"):
        time_of(LINEAR, double([0.0, math.nan]))
    with pytest.raises(TypeError, match="value is of type torch.int64"):
        time_of(LINEAR, torch.tensor([0, 1]))


@every_value
@pytest.mark.parametrize("ends", [(0.02, 0.95), (0.95, 0.02)], ids=["up", "down"])
def test_grid_is_evenly_spaced_in_the_closed_form(schedule, value, ends):
    times = log_snr_grid(schedule, *ends, 7, dtype=DOUBLE)
    assert times.shape == (8,) and times.dtype == DOUBLE
    assert (times[0].item(), times[-1].item()) == ends  # exactly
    values = double([value(t) for t in times.tolist()])
    gap = (value(ends[1]) - value(ends[0])) / 7
    torch.testing.assert_close(values.diff(), torch.full((7,), gap, dtype=DOUBLE))


def test_grid_of_the_linear_schedule_by_hand():
    """ℓ = −log 9, −log 3, 0, log 3, log 9."""
    times = log_snr_grid(LINEAR, 0.1, 0.9, 4, dtype=DOUBLE).tolist()
    assert times == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9], rel=1e-14)
    assert log_snr_grid(LINEAR, 0.1, 0.9, 1, dtype=DOUBLE).tolist() == [0.1, 0.9]


def test_grid_may_start_or_end_where_the_ratio_stays_finite():
    assert log_snr_grid(VP, 0.0, 0.9, 3)[0] == 0
    assert log_snr_grid(lipman(0.1), 0.1, 1.0, 3)[-1] == 1


@pytest.mark.parametrize(
    "start, end, match",
    [
        (0.0, 0.9, r"is -inf at t = 0 and 2\.19722 at t = 0\.9; choose ends inside"),
        (0.1, 1.0, r"is -2\.19722 at t = 0\.1 and inf at t = 1"),
        (-0.1, 0.9, r"start is -0\.1; it must be a finite number in \[0, 1\]"),
        (0.1, 1.5, r"end is 1\.5; it must be"),
    ],
)
def test_grid_refuses_ends_where_the_ratio_is_infinite(start, end, match):
    with pytest.raises(ValueError, match=match):
        log_snr_grid(LINEAR, start, end, 4)


@pytest.mark.parametrize("steps", [0, -3])
def test_grid_needs_a_step(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; it must be at least 1"):
        log_snr_grid(LINEAR, 0.1, 0.9, steps)
