"""Bits against entropies, and against linear flows, whose densities are known."""

import itertools
import math
from itertools import pairwise

import pytest
import torch

from fmtutorial.images.bits import bits_per_dimension, digit_bits
from fmtutorial.images.data import Digits, dequantise

DOUBLE = torch.float64


@pytest.mark.parametrize("event", [(1,), (1, 4, 4), (1, 28, 28)], ids=str)
def test_bits_of_boxes(event):
    """A density that is uniform on a box of k of the 256 values in each pixel costs log₂ k bits.

    The box has the width k/128. A spike of half a value's width costs −1: no bound for one image.
    """
    for k in (0.5, 1, 2, 16, 256):
        log_prob = torch.tensor([-math.prod(event) * math.log(k / 128)] * 2, dtype=torch.float64)
        bits = bits_per_dimension(log_prob, event)
        assert bits.shape == (2,)
        assert bits.tolist() == pytest.approx([math.log2(k)] * 2, abs=1e-12)


def test_bits_bound_the_entropy_of_discrete_images(generator):
    """Images of two pixels, each of which takes one of three values with known probabilities.

    The density that is constant on each of the nine squares costs the entropy itself. Any other,
    such as a normal one, costs more: the mean over all nine images and much noise.
    """
    values = torch.tensor([10, 11, 250], dtype=torch.uint8)
    chance = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    chance = chance / chance.sum()
    entropy = -(chance * chance.log2()).sum().item() / 2
    ours, normal = 0.0, 0.0
    for i, j in itertools.product(range(3), repeat=2):
        x = dequantise(values[[i, j]].expand(2000, 2), generator).double()
        density = chance[i, j] / (1 / 128) ** 2
        ours += chance[i, j] * bits_per_dimension(density.log()[None], (1, 2)).item()
        log_prob = torch.distributions.Normal(0.0, 0.6).log_prob(x).sum(dim=(1, 2))
        normal += chance[i, j] * bits_per_dimension(log_prob, (1, 2)).mean().item()
    assert ours == pytest.approx(entropy, rel=1e-12)
    assert normal > entropy


def linear_network(mirror):
    """v = a x + b F x, where F mirrors an image and a is a fiftieth of the label."""
    return lambda x, t, label: (label / 50)[:, None, None, None] * x + mirror * x.flip(3)


def closed_form(x, label, mirror):
    """−log₂ p / 784 + 7 of x₁ = exp(a + b F) x₀: F² = 1, and det exp(a + b F) = exp(784 a).

    exp(−a − b F) = e⁻ᵃ (cosh b − F sinh b).
    """
    a, x = label.double() / 50, x.double()
    back = math.cosh(mirror) * x - math.sinh(mirror) * x.flip(3)
    squares = (-2 * a).exp() * back.square().flatten(1).sum(dim=1)
    log_prob = -0.5 * squares - 392 * math.log(2 * math.pi) - 784 * a
    return -log_prob / math.log(2) / 784 + 7


def grey_digits(n):
    """Of every value equally often: their size then says little that the label does not."""
    generator = torch.Generator().manual_seed(9)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    return Digits(images, torch.arange(n) % 5)


def test_exact_bits_are_those_of_the_linear_flow():
    """Heun's single step of a rate r ≤ 0.18 is off by r³/6 of a state whose square is 1/3."""
    digits = grey_digits(5)
    x = dequantise(digits.images, torch.Generator().manual_seed(4))
    expected = closed_form(x, digits.labels, 0.1)
    bits = digit_bits(linear_network(0.1), digits, 1, "exact", seed=4)
    assert bits.shape == (5,) and bits.dtype == DOUBLE
    torch.testing.assert_close(bits, expected, rtol=0, atol=1e-3)
    # a label more or less makes far more
    assert (closed_form(x, digits.labels + 1, 0.1) - expected).abs().min() > 0.01


@pytest.mark.parametrize("size", [7, 3])
def test_bits_in_batches(size):
    """Without the mirror εᵀ a ε = 784 a whatever ε is; dequantisation and probes take turns."""
    digits, generator = grey_digits(7), torch.Generator().manual_seed(4)
    x = []
    for part in digits.images.split(size):
        x.append(dequantise(part, generator))
        torch.randint(0, 2, x[-1].shape, generator=generator)
    bits = digit_bits(linear_network(0.0), digits, 20, seed=4, batch=size)
    expected = closed_form(torch.cat(x), digits.labels, 0.0)
    # Heun: 20 steps of a rate of 0.08; float32 sums of 784 squares
    torch.testing.assert_close(bits, expected, rtol=0, atol=1e-5)


def test_hutchinsons_bits_differ_by_their_known_noise():
    """εᵀ (a + b F) ε = 784 a + 2 b Σ ± 1 over 392 pairs: in bits 2 b √392/(784 ln 2) of deviation.

    Mean and deviation of 400 within four errors. Twice the steps change little of it.
    """
    digits, mirror = grey_digits(400), 0.3
    bits = digit_bits(linear_network(mirror), digits, 20, seed=4, batch=400)
    x = dequantise(digits.images, torch.Generator().manual_seed(4))
    off = bits - closed_form(x, digits.labels, mirror)
    sd = 2 * mirror * math.sqrt(392) / (784 * math.log(2))
    assert off.mean().item() == pytest.approx(0, abs=4 * sd / math.sqrt(400))
    assert off.std().item() == pytest.approx(sd, rel=4 / math.sqrt(2 * 400))
    finer = digit_bits(linear_network(mirror), digits, 40, seed=4, batch=400)
    assert (finer - bits).abs().max() < 1e-3


def test_bits_repeat_with_their_seed():
    state = torch.get_rng_state()
    a, b, c = (digit_bits(linear_network(0.1), grey_digits(5), 2, seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_bits_take_two_evaluations_a_step_from_data_to_noise():
    times = []

    def network(x, t, label):
        times.append(t[0].item())
        return x

    digit_bits(network, grey_digits(5), 4)
    grid = [1, 15 / 16, 3 / 4, 7 / 16, 0]
    # before them, at the data, gradients are held against differences
    assert times[:-8] == [1] * (len(times) - 8) and len(times) < 16
    assert times[-8:] == pytest.approx([t for ends in pairwise(grid) for t in ends])
    with pytest.raises(ValueError, match='unknown method "trace"'):
        digit_bits(network, grey_digits(5), 4, "trace")
