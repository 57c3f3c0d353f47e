"""Guidance of fields known in closed form: a mixture, and the classes that are its components."""

import math
import pickle

import pytest
import torch

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.guidance import autoguided, guided, rescaled
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import rk4, solve

PATH = AffinePath(LINEAR)
LABEL = torch.tensor([1, 0, 1, 1, 0])


def mixture(event, generator):
    """Two unequal classes, the second rarer and wider."""
    means = torch.randn(2, *event, generator=generator, dtype=torch.float64)
    covariances = torch.tensor([0.3, 0.8], dtype=torch.float64)
    return GaussianMixture(means, covariances, torch.tensor([0.7, 0.3], dtype=torch.float64))


class Model:
    """What a network trained with label dropout would answer; it counts its calls."""

    def __init__(self, target):
        self.calls = []
        self.whole = ExactField(PATH, target)
        self.classes = [
            ExactField(PATH, Gaussian(m, c))
            for m, c in zip(target.means, target.covariances, strict=True)
        ]

    def __call__(self, x, t, label):
        self.calls.append(label)
        if label is None:
            return self.whole(x, t)
        each = [self.classes[k](x[b : b + 1], t[b : b + 1]) for b, k in enumerate(label)]
        return torch.cat(each)


@pytest.fixture
def case(event, generator):
    x = torch.randn(5, *event, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64)
    return Model(mixture(event, generator)), x, t


def test_scale_0_is_the_field_of_the_mixture(case):
    model, x, t = case
    assert torch.equal(guided(model, LABEL, 0.0)(x, t), model.whole(x, t))


def test_scale_1_is_the_field_of_each_samples_class(case):
    model, x, t = case
    for field in (guided(model, LABEL, 1.0), guided(model, LABEL)):
        v = field(x, t)
        for b, k in enumerate(LABEL):
            assert torch.equal(v[b : b + 1], model.classes[k](x[b : b + 1], t[b : b + 1]))


@pytest.mark.parametrize("scale", [-0.5, 0.25, 2.0, 7.5])
def test_guidance_follows_the_sharpened_density(case, scale):
    """p(x)^(1 − s) p(x | label)^s: its gradient by autograd, turned into a velocity by the path."""
    model, x, t = case
    x = x.requires_grad_()
    density = [
        (1 - scale) * model.whole.log_prob(x[b : b + 1], t[b : b + 1])
        + scale * model.classes[k].log_prob(x[b : b + 1], t[b : b + 1])
        for b, k in enumerate(LABEL)
    ]
    score = torch.autograd.grad(torch.cat(density).sum(), x)[0]
    x = x.detach()
    expected = PATH.convert(score, x, t, "score", "velocity")
    v = guided(model, LABEL, scale)(x, t)
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-9)


def test_guidance_is_linear_in_its_scale(case):
    """Across 0, 1 and 1/2, where the code takes other branches."""
    model, x, t = case
    at = {s: guided(model, LABEL, s)(x, t) for s in (-2, -1e-9, 0, 0.4, 0.6, 1, 1 + 1e-9, 3)}
    for scale, v in at.items():
        line = at[0] + scale * (at[1] - at[0])
        torch.testing.assert_close(v, line, rtol=1e-10, atol=1e-10)
    # both ends count: on top of each other they would make any multiple linear
    assert (at[1] - at[0]).abs().max() > 0.1


@pytest.mark.parametrize("scale, calls", [(0, 1), (0.0, 1), (1, 1), (1.0, 1), (0.5, 2), (3.0, 2)])
def test_number_of_evaluations(scale, calls, generator):
    """One where one is enough; nothing is evaluated before the field is."""
    model = Model(mixture((2,), generator))
    field = guided(model, LABEL, scale)
    assert not model.calls
    field(torch.zeros(5, 2).double(), torch.full((5,), 0.5).double())
    assert len(model.calls) == calls
    seen = [label for label in model.calls if label is not None]
    assert all(label is LABEL for label in seen)
    assert (len(seen), len(model.calls) - len(seen)) == (scale != 0, scale != 1)


class Shifted:
    """A network of this module, which another process could import."""

    def __call__(self, x, t, label):
        return x + t[:, None] + (0 if label is None else label[:, None])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_copy_in_another_process_gives_the_same(scale):
    field = guided(Shifted(), LABEL, scale)
    x, t = torch.ones(5, 2), torch.full((5,), 0.5)
    assert torch.equal(pickle.loads(pickle.dumps(field))(x, t), field(x, t))


def test_every_sample_needs_a_label():
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\) and the labels \(5,\)"):
        guided(Shifted(), LABEL, 2.0)(torch.ones(3, 2), torch.ones(3))


@pytest.mark.parametrize("nothing", [None, torch.ones(5), torch.ones(5, 2).long()], ids=range(3))
@pytest.mark.parametrize("without", [True, False])
def test_both_answers_of_the_network_are_looked_at(nothing, without):
    def network(x, t, label):
        return nothing if (label is None) == without else x

    with pytest.raises((TypeError, ValueError), match="^v (is|has)"):
        guided(network, LABEL, 2.0)(torch.ones(5, 2), torch.ones(5))


# One scale for each sample, and an interval


SCALES = torch.tensor([0.0, 1.0, 2.5, -0.5, 0.5], dtype=torch.float64)


def one_by_one(model, x, t, scales):
    """Each sample's row of the field of its own scale."""
    rows = [guided(model, LABEL, s)(x, t)[b] for b, s in enumerate(scales.tolist())]
    return torch.stack(rows)


def test_a_scale_for_each_sample_is_that_samples_guidance(case):
    """Also exactly 0 and 1, whose rows are the two fields themselves."""
    model, x, t = case
    v = guided(model, LABEL, SCALES)(x, t)
    torch.testing.assert_close(v, one_by_one(model, x, t, SCALES), rtol=1e-12, atol=1e-12)
    assert torch.equal(v[0], model.whole(x, t)[0])
    assert torch.equal(v[1], model.classes[0](x, t)[1])


@pytest.mark.parametrize("scale, calls", [(0.0, 1), (1.0, 1), (0.5, 2)])
def test_equal_scales_cost_what_one_number_costs(scale, calls, generator):
    model = Model(mixture((2,), generator))
    x, t = torch.zeros(5, 2).double(), torch.full((5,), 0.5).double()
    v = guided(model, LABEL, torch.full((5,), scale).double())(x, t)
    assert len(model.calls) == calls
    assert torch.equal(v, guided(model, LABEL, scale)(x, t))


@pytest.mark.parametrize("scale", [3.0, SCALES, SCALES.float()], ids=["number", "each", "single"])
def test_outside_the_interval_the_label_alone_leads(case, scale):
    """t = 0.05, 0.3, 0.5, 0.7, 0.95: the interval holds its ends."""
    model, x, t = case
    v = guided(model, LABEL, scale, (0.3, 0.7))(x, t)
    always, own = guided(model, LABEL, scale)(x, t), guided(model, LABEL)(x, t)
    torch.testing.assert_close(v[1:4], always[1:4], rtol=1e-12, atol=1e-12)
    assert torch.equal(v[[0, 4]], own[[0, 4]])
    assert (always - own)[[0, 4]].abs().max() > 0.1


@pytest.mark.parametrize("time, calls", [(0.1, 1), (0.3, 2), (0.7, 2), (0.8, 1)])
def test_outside_the_interval_one_evaluation_is_enough(time, calls, generator):
    model = Model(mixture((2,), generator))
    guided(model, LABEL, 3.0, (0.3, 0.7))(
        torch.zeros(5, 2).double(), torch.full((5,), time).double()
    )
    assert len(model.calls) == calls


def test_a_scale_of_each_sample_survives_single_precision():
    """0.1 of a double stays 0.1 of a double inside an interval."""
    x, t = torch.ones(5, 2).double(), torch.full((5,), 0.5).double()
    v = guided(Shifted(), LABEL, 1.1, (0.2, 0.8))(x, t)
    torch.testing.assert_close(
        v, 1.5 + 1.1 * LABEL.double()[:, None].expand(5, 2), rtol=1e-15, atol=0
    )


# CFG-Zero*


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, SCALES], ids=["0", "1", "2", "each"])
def test_the_rescaled_free_answer_is_the_nearest_multiple_of_it(case, scale):
    """By least squares, sample by sample; what is left of v is at right angles to u."""
    model, x, t = case
    v, u = guided(model, LABEL)(x, t), model.whole(x, t)
    found = rescaled(model, LABEL, scale)(x, t)
    for b in range(5):
        fit = torch.linalg.lstsq(u[b].reshape(-1, 1), v[b].reshape(-1, 1)).solution.item()
        s = scale if isinstance(scale, float) else scale[b].item()
        wanted = (1 - s) * fit * u[b] + s * v[b]
        torch.testing.assert_close(found[b], wanted, rtol=1e-9, atol=1e-12)


def test_the_rescaled_field_rests_and_where_nothing_is_free_it_is_the_labels():
    x, t = torch.ones(5, 2), torch.tensor([0.0, 0.05, 0.1, 0.5, 1.0])
    found = rescaled(Shifted(), LABEL, 2.0, rest=0.1)(x, t)
    assert torch.equal(found[:2], torch.zeros(2, 2)) and bool((found[2:] != 0).all())

    def network(x, t, label):
        return 0 * x if label is None else x

    assert torch.equal(rescaled(network, LABEL, 3.0)(x, t), 3 * x)


def test_while_it_rests_the_network_is_not_asked(generator):
    model = Model(mixture((2,), generator))
    field = rescaled(model, LABEL, 2.0, rest=0.1)
    x, t = torch.zeros(5, 2).double(), torch.full((5,), 0.05).double()
    assert not field(x, t).any() and not model.calls
    field(x, t + 0.1)
    assert len(model.calls) == 2


# Autoguidance


@pytest.mark.parametrize("spread, error", [(1.0, 0.3), (0.4, -0.2)])
def test_autoguidance_takes_away_an_error_that_the_worse_field_has_twice(spread, error):
    """Variances of N(m, a²e^ε) and N(m, a²e^2ε): with s = 2 the samples have a², in closed form."""
    m = torch.tensor([0.7], dtype=torch.float64)
    good, worse = (ExactField(PATH, Gaussian(m, spread**2 * math.exp(k * error))) for k in (1, 2))
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = solve(autoguided(good, worse, 2.0), ends, torch.linspace(0, 1, 201), rk4).last
    # RK4 with steps of 1/200 on a smooth field: 1e-9
    assert x.mean().item() == pytest.approx(0.7, abs=1e-8)
    assert ((x[1] - x[0]) / 2).item() == pytest.approx(spread, abs=1e-8)


def test_autoguidance_goes_from_the_worse_field_to_the_good_one_and_on():
    x, t = torch.ones(3, 3), torch.full((3,), 0.5)
    fields = (lambda x, t: 2 * x), (lambda x, t: -x)
    for scale, wanted in [(0.0, -1), (1.0, 2), (2.0, 5), (torch.tensor([0.0, 1.0, 2.0]), None)]:
        v = autoguided(*fields, scale)(x, t)
        each = torch.tensor([-1.0, 2, 5])[:, None] if wanted is None else wanted
        assert torch.equal(v, each * torch.ones(3, 3))


# What comes out


def test_guidance_of_equal_covariances_is_the_product_law():
    """Label N(1, ¼), all N(−½, ¼): means extrapolate, N(s − (1−s)/2, ¼); here by the ODE."""
    of = [Gaussian(torch.tensor([m], dtype=torch.float64), 0.25) for m in (1.0, -0.5)]
    own, whole = (ExactField(PATH, law) for law in of)
    field = guided(
        lambda x, t, label: (whole if label is None else own)(x, t), torch.zeros(2).long(), 3.0
    )
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = solve(field, ends, torch.linspace(0, 1, 201), rk4).last
    assert x.mean().item() == pytest.approx(3 * 1.0 + 2 * 0.5, abs=1e-8)
    assert ((x[1] - x[0]) / 2).item() == pytest.approx(0.5, abs=1e-8)


# Copies and bad input


@pytest.mark.parametrize(
    "make",
    [
        lambda: guided(Shifted(), LABEL, torch.arange(5.0), (0.2, 0.6)),
        lambda: rescaled(Shifted(), LABEL, 2.0, 0.3),
        lambda: autoguided(Plain(), Plain(), 2.0),
    ],
    ids=["interval", "rescaled", "autoguided"],
)
def test_every_guided_field_can_be_pickled(make):
    field, x, t = make(), torch.ones(5, 2), torch.linspace(0.1, 0.9, 5)
    assert torch.equal(pickle.loads(pickle.dumps(field))(x, t), field(x, t))


class Plain:
    def __call__(self, x, t):
        return x + t[:, None]


@pytest.mark.parametrize(
    "during, error, words",
    [
        ((0.8, 0.2), ValueError, "must begin before it ends"),
        ((0.2, 1.5), ValueError, r"a time of during is 1\.5"),
        ((math.nan, 1.0), ValueError, "a time of during is nan"),
        ((0.2,), TypeError, "pass two times"),
        (0.2, TypeError, "pass two times"),
    ],
)
def test_an_interval_is_two_times_in_order(during, error, words):
    with pytest.raises(error, match=words):
        guided(Shifted(), LABEL, 2.0, during)


@pytest.mark.parametrize(
    "scale, error, words",
    [
        (torch.ones(4), ValueError, r"scale has shape \(4,\)"),
        (torch.ones(5, 1), ValueError, r"scale has shape \(5, 1\)"),
        (torch.tensor(2.0), ValueError, "no batch dimension"),
        (torch.ones(5).long(), TypeError, "scale has dtype"),
        (torch.full((5,), math.nan), ValueError, "scale: an entry is not finite"),
    ],
)
@pytest.mark.parametrize("make", [guided, rescaled])
def test_scales_are_one_number_or_one_for_each_label(make, scale, error, words):
    with pytest.raises(error, match=words):
        make(Shifted(), LABEL, scale)


def test_scales_of_autoguidance_meet_the_states_later():
    field = autoguided(Plain(), Plain(), torch.ones(4) * 2)
    with pytest.raises(ValueError, match=r"x has shape \(5, 2\) and scale \(4,\)"):
        field(torch.ones(5, 2), torch.ones(5))
