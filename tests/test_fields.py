"""How time meets a state, and that every function which takes both refuses what is wrong."""

import pytest
import torch

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.fields import (
    check_same_shape,
    check_state,
    check_times,
    expand_time,
    generator_device,
)
from fmtutorial.likelihood import divergence, log_likelihood, rademacher_like, transport
from fmtutorial.losses import flow_matching_loss
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, QUANTITIES, SQRT, VP, AffinePath
from fmtutorial.solvers import solve

PATH = AffinePath(LINEAR)
EXACT = ExactField(PATH, Gaussian(torch.zeros(3)))
NETWORK = MLP(event_shape=(3,), width=4, depth=1)


def times_x(x, t):
    return expand_time(t, x) * x


# Every public function of a batch of states (B, 3) and of times (B,).
WITH_INTERVAL = {
    "sample, x0": lambda x, t: PATH.sample(x, torch.zeros(3, 3), t),
    "sample, x1": lambda x, t: PATH.sample(torch.zeros(3, 3), x, t),
    "conditional_velocity": lambda x, t: PATH.conditional_velocity(x, torch.zeros(3, 3), t),
    "conditional_score": lambda x, t: PATH.conditional_score(x, torch.zeros(3, 3), t),
    "convert": lambda x, t: PATH.convert(torch.zeros(3, 3), x, t, "velocity", "data"),
    "convert, to itself": lambda x, t: PATH.convert(torch.zeros(3, 3), x, t, "data", "data"),
    "exact velocity": EXACT,
    "exact score": EXACT.score,
    "exact log_prob": EXACT.log_prob,
    "exact posterior_mean": EXACT.posterior_mean,
    "exact target_variance": EXACT.target_variance,
    "flow_matching_loss": lambda x, t: flow_matching_loss(times_x, PATH, x, torch.zeros(3, 3), t),
}
WITHOUT_INTERVAL = {
    "expand_time": lambda x, t: expand_time(t, x),
    "divergence": lambda x, t: divergence(lambda x, t: x, x, t),
    "hutchinson": lambda x, t: divergence(
        lambda x, t: x, x, t, "hutchinson", rademacher_like(torch.zeros(3, 3))
    ),
    "MLP": NETWORK,
}
OF_STATES_AND_TIMES = WITH_INTERVAL | WITHOUT_INTERVAL
GRID = torch.linspace(1, 0, 3)
OF_STATES = {
    **{name: lambda x, f=f: f(x, torch.full((3,), 0.5)) for name, f in OF_STATES_AND_TIMES.items()},
    "solve": lambda x: solve(lambda x, t: x, x, GRID),
    "transport": lambda x: transport(lambda x, t: x, x, torch.zeros(3), GRID),
    "log_likelihood": lambda x: log_likelihood(
        lambda x, t: x, x, Gaussian(torch.zeros(3)), torch.linspace(1, 0, 3)
    ),
    "Gaussian.log_prob": Gaussian(torch.zeros(3)).log_prob,
    "Gaussian.score": Gaussian(torch.zeros(3)).score,
    "GaussianMixture means": lambda x: GaussianMixture(x, torch.ones(3)),
    "ExactField target": lambda x: ExactField(PATH, x)(torch.zeros(3, 3), torch.zeros(3)),
}


def over(table):
    return pytest.mark.parametrize("function", table.values(), ids=table.keys())


@over(OF_STATES_AND_TIMES)
def test_good_input_is_accepted(function):
    function(torch.zeros(3, 3), torch.full((3,), 0.5))


@over(OF_STATES_AND_TIMES)
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 3), (3, 3)], ids=str)
def test_times_of_another_shape_are_refused(function, shape):
    """B = D = 3, where PyTorch would broadcast most of these without a word."""
    with pytest.raises(ValueError, match=r"t has shape .* it must be \(3,\), one time for each"):
        function(torch.zeros(3, 3), torch.full(shape, 0.5))


@over(OF_STATES_AND_TIMES)
@pytest.mark.parametrize("t", [0.5, torch.zeros(3, dtype=torch.int64), None], ids=str)
def test_times_of_another_type_are_refused(function, t):
    with pytest.raises(TypeError, match="t is of type .* floating-point tensor of shape"):
        function(torch.zeros(3, 3), t)


@over(OF_STATES)
def test_integer_states_are_refused(function):
    with pytest.raises(TypeError, match="torch.int64; states are real numbers"):
        function(torch.zeros(3, 3, dtype=torch.int64))


@over(WITH_INTERVAL)
@pytest.mark.parametrize("wrong", [float("nan"), -(2.0**-20), 1 + 2.0**-20, float("inf")])
def test_times_outside_the_interval_are_refused(function, wrong):
    """One wrong entry among right ones is found and named."""
    with pytest.raises(ValueError, match=rf"t = {str(wrong)[:3]}.* is outside \[0, 1\]"):
        function(torch.zeros(3, 3), torch.tensor([0.5, wrong, 0.5]))


@pytest.mark.parametrize("schedule", [SQRT, VP], ids=repr)
def test_velocities_refuse_the_time_at_which_sigma_dot_diverges(schedule):
    path, x, t = AffinePath(schedule), torch.zeros(3, 3), torch.ones(3)
    exact = ExactField(path, Gaussian(torch.zeros(3)))
    for call in (
        lambda: path.sample(x, x, t),
        lambda: path.conditional_velocity(x, x, t),
        lambda: path.convert(x, x, t, "velocity", "data"),
        lambda: path.convert(x, x, t, "noise", "velocity"),
        lambda: exact(x, t),
        lambda: exact.target_variance(x, t),
        lambda: flow_matching_loss(times_x, path, x, x, t),
    ):
        with pytest.raises(
            ValueError, match=rf"\[0, 1\), where the velocity of the {schedule.name}"
        ):
            call()


@pytest.mark.parametrize("name", ["speed", "Velocity", ""])
@pytest.mark.parametrize("place", ["given", "want"])
def test_unknown_quantity_is_named_with_the_known_ones(name, place):
    other = {"given": "data", "want": "data"} | {place: name}
    with pytest.raises(ValueError, match=f'"{name}"; choose from {", ".join(QUANTITIES)}'):
        PATH.convert(torch.zeros(3, 3), torch.zeros(3, 3), torch.full((3,), 0.5), **other)


def test_expand_time_multiplies_sample_by_sample(event, generator):
    x = torch.randn(3, *event, generator=generator)
    t = torch.tensor([0.0, 0.5, 2.0])
    product = expand_time(t, x) * x
    assert product.shape == x.shape
    for b, factor in enumerate([0.0, 0.5, 2.0]):
        assert torch.equal(product[b], factor * x[b])


@pytest.mark.parametrize(
    "options, accepted, refused",
    [
        ({}, [0.0, 1.0], [-0.1, 1.1]),
        ({"open_end": True}, [0.0, 1 - 1e-9], [-0.1, 1.0]),
    ],
    ids=["closed", "open end"],
)
def test_check_times_knows_open_from_closed(options, accepted, refused):
    check_times(torch.tensor(accepted, dtype=torch.float64), "the score", **options)
    for t in refused:
        with pytest.raises(ValueError, match=f"t = {t}"):
            check_times(torch.tensor([t], dtype=torch.float64), "the score", **options)


def test_message_shows_the_brackets_of_the_interval():
    with pytest.raises(ValueError, match=r"\[0, 1\), where the score is defined"):
        check_times(torch.ones(1), "the score", open_end=True)


@pytest.mark.parametrize(
    "x, error, match",
    [
        ([1.0], TypeError, "y is a list"),
        (torch.tensor(1.0), ValueError, "y has no batch dimension"),
        (torch.tensor([1]), TypeError, r"y has dtype torch.int64.*y.float\(\)"),
        (torch.tensor([True]), TypeError, "torch.bool"),
    ],
)
def test_check_state_names_what_came(x, error, match):
    with pytest.raises(error, match=match):
        check_state(x, "y")


def test_check_same_shape_does_not_broadcast():
    check_same_shape(torch.zeros(3, 1), torch.zeros(3, 1), "a, b")
    with pytest.raises(ValueError, match=r"a has shape \(3, 1\) and b has shape \(3, 3\)"):
        check_same_shape(torch.zeros(3, 1), torch.zeros(3, 3), "a, b")
    with pytest.raises(TypeError, match="b has dtype"):
        check_same_shape(torch.zeros(3), torch.zeros(3, dtype=torch.int32), "a, b")


def test_generator_device():
    assert generator_device(None) == torch.device("cpu")
    assert generator_device(torch.Generator()) == torch.device("cpu")
