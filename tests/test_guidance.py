"""Guidance of fields known in closed form: a mixture, and the classes that are its components."""

import pickle

import pytest
import torch

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.guidance import guided
from fmtutorial.paths import LINEAR, AffinePath

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
