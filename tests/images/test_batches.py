"""Batches of digits: what they depend on, what a pairing may change, and a loss written out."""

import itertools
import math

import pytest
import scipy.stats
import torch

from fmtutorial.images import batches
from fmtutorial.images.batches import CLASSES, PAIRINGS, TIMES, Batch, digit_batch, digit_loss
from fmtutorial.images.data import Digits, small_digits, to_pixels


@pytest.fixture(scope="module")
def digits():
    return small_digits("train")


def equal(a, b):
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def rows_of(batch, digits):
    """Which digit each row of a batch is; every digit is another one."""
    known = {image.numpy().tobytes(): i for i, image in enumerate(digits.images)}
    return [known.get(image.numpy().tobytes()) for image in to_pixels(batch.x1)]


def numbered(n):
    """Digits that carry their number in two pixels, so that no noise confuses them."""
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.arange(n) // 16 * 10 + 50
    images[:, 0, 1] = torch.arange(n) % 16 * 10 + 50
    return Digits(images, torch.arange(n) % 10)


def numbers_in(batch):
    corner = ((batch.x1[:, 0, 0, :2] + 1) * 128 - 50) / 10
    return (corner[:, 0].floor() * 16 + corner[:, 1].floor()).long().tolist()


# What a batch depends on.


def test_a_batch_depends_on_its_seed_and_step_alone(digits):
    torch.manual_seed(0)
    first = digit_batch(digits, 5, 40, seed=3)
    for step in (7, 0, 30):  # other epochs between, and another state of torch
        digit_batch(digits, step, 40, seed=8)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert all(equal(first, digit_batch(digits, 5, 40, seed=3)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seeds", [(0, 1), (3, 4), (1, 2**16)], ids=str)
def test_another_seed_is_another_batch(digits, seeds):
    """In its digits, their order, noise, times and labels."""
    batches = [digit_batch(digits, 5, 40, seed, label_dropout=0.0) for seed in seeds]
    assert not any(equal(*batches))
    assert rows_of(batches[0], digits) != rows_of(batches[1], digits)


def correlation(x, y):
    """In units of its standard error, for numbers that have nothing in common."""
    found = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
    return abs(found.item()) * math.sqrt(x.numel())


@pytest.mark.parametrize("size", [1000, 250, 400])
def test_another_step_has_other_noise(digits, size):
    """Within an epoch, at the same place of another, and where seed and step add up to the same.

    With 1000 digits an epoch has one batch, four, or two and a rest.
    """
    places = [(0, step) for step in (0, 1, 2, 3, 4, 8, 25)] + [(1, 0), (1, 1)]
    drawn = [digit_batch(digits, step, size, seed) for seed, step in places]
    noise = [((b.x1 + 1) * 128 % 1, b) for b in drawn]
    for (u, a), (w, b) in itertools.combinations(noise, 2):
        for x, y in ((a.x0, b.x0), (a.t, b.t), (u, w)):
            assert correlation(x, y) < 5
        assert not torch.equal(a.label == CLASSES, b.label == CLASSES)
    # noise, dequantisation and times of one batch have nothing in common either
    assert correlation(drawn[0].x0, noise[0][0]) < 5


def test_every_batch_and_every_order_has_a_seed_of_its_own(digits, monkeypatch):
    """Of 32 bits, which the CPU's generator reads: three seeds, 40 steps, ten epochs of four."""
    given = []

    class Spy:
        def __init__(self, device):
            self.generator = torch.Generator(device)

        def manual_seed(self, seed):
            given.append(seed)
            return self.generator.manual_seed(seed)

    monkeypatch.setattr(batches, "Generator", Spy)
    batches._epoch_order.cache_clear()
    for seed in (0, 1, 2**31 - 1):
        for step in range(40):
            digit_batch(digits, step, 250, seed)
    batches._epoch_order.cache_clear()
    assert len(given) == 3 * (40 + 10)
    assert len({seed % 2**32 for seed in given}) == len(given)


@pytest.mark.parametrize("n, size", [(100, 20), (100, 100), (100, 1), (103, 20), (39, 20)], ids=str)
def test_an_epoch_visits_no_digit_twice(n, size):
    digits, per_epoch = numbered(n), n // size
    orders = []
    for epoch in (0, 1, 2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = [i for step in steps for i in numbers_in(digit_batch(digits, step, size, seed=1))]
        assert len(seen) == len(set(seen)) == per_epoch * size
        orders.append(seen)
    if n % size == 0:
        assert all(sorted(seen) == list(range(n)) for seen in orders)
    assert orders[0] != orders[1] and orders[1] != orders[2]


def test_leftovers_of_an_epoch_come_in_another():
    digits = numbered(39)
    seen = {i for step in range(12) for i in numbers_in(digit_batch(digits, step, 20, seed=0))}
    # a digit is left out of an epoch with probability 19/39, of twelve with 2e-4
    assert seen == set(range(39))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_labels_stay_with_their_images(digits, pairing):
    batch = digit_batch(digits, 3, 60, seed=2, pairing=pairing, label_dropout=0.0)
    rows = rows_of(batch, digits)
    assert None not in rows
    assert torch.equal(batch.label, digits.labels[rows])
    assert batch.label.dtype == torch.int64
    shapes = [tuple(part.shape) for part in batch]
    assert shapes == [(60, 1, 28, 28), (60, 1, 28, 28), (60,), (60,)]
    assert {part.dtype for part in batch[:3]} == {torch.float32}


# Pairings.


def as_rows(noise):
    return [row.numpy().tobytes() for row in noise]


def cost(batch):
    return (batch.x0 - batch.x1).double().square().sum().item()


def test_pairings_move_noise_and_nothing_else(digits):
    """The same rows of noise, in an order that costs less."""
    found = {name: digit_batch(digits, 4, 64, seed=5, pairing=name) for name in PAIRINGS}
    apart = found["independent"]
    for name in ("optimal", "optimal-per-class"):
        assert equal(found[name], apart) == [False, True, True, True]
        assert sorted(as_rows(found[name].x0)) == sorted(as_rows(apart.x0))
    optimal, within = found["optimal"], found["optimal-per-class"]
    assert cost(optimal) < cost(within) < cost(apart)
    # no exchange of two rows lowers the cost any more
    for batch, labels in ((optimal, None), (within, digits.labels[rows_of(within, digits)])):
        x0, x1 = (part.double().flatten(1) for part in batch[:2])
        gain = x0 @ x1.T
        swap = gain.diag()[:, None] + gain.diag() - gain - gain.T
        allowed = labels[:, None] == labels if labels is not None else torch.ones_like(swap) > 0
        # rounding: sums over 784 products of size 1 in double precision
        assert swap[allowed].min() > -1e-9
        if labels is not None:
            assert swap[~allowed].min() < -1


def test_pairing_per_class_stays_within_it(digits):
    """Rows of one class hold the noise that they held before, also where the label is dropped."""
    apart, within = (
        digit_batch(digits, 4, 64, seed=5, pairing=name, label_dropout=0.5)
        for name in ("independent", "optimal-per-class")
    )
    labels = digits.labels[rows_of(apart, digits)]
    assert (apart.label == CLASSES).any()
    for c in labels.unique():
        rows = labels == c
        assert sorted(as_rows(within.x0[rows])) == sorted(as_rows(apart.x0[rows]))


def test_optimal_pairing_over_every_permutation(digits):
    batch = digit_batch(digits, 0, 6, seed=1, pairing="optimal")
    least = min(
        cost(batch._replace(x0=batch.x0[list(order)])) for order in itertools.permutations(range(6))
    )
    assert cost(batch) == pytest.approx(least, rel=1e-12)


def test_orders_have_nothing_in_common(digits):
    """Of two epochs and two seeds: a digit's place in one says nothing of its place in another."""
    drawn = [
        [rows_of(digit_batch(digits, 10 * epoch + part, 100, seed), digits) for part in range(10)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    places = [torch.tensor(sum(parts, [])).argsort().double() for parts in drawn]
    for a, b in itertools.combinations(places, 2):
        assert correlation(a, b) < 5


# Distributions.

PEERS = {
    "uniform": scipy.stats.uniform(),
    "logit-normal": scipy.stats.norm(0, 1),
    "logit-normal-0.5": scipy.stats.norm(0, 0.5),
    "likelihood": scipy.stats.loguniform(0.002, 1),
}
"""Laws of t itself, of its logit for the logit-normal times, of 1 − t for the likelihood's."""


def test_every_distribution_of_times_has_its_peer():
    assert set(TIMES) == set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_times_have_their_distribution(digits, name):
    """Kolmogorov-Smirnov on 20 000: a p-value below 1e-3 comes once in a thousand seeds."""
    t = torch.cat([digit_batch(digits, i, 1000, seed=1, times=name).t for i in range(20)]).double()
    assert ((t > 0) & (t < 1)).all()
    values = {"uniform": t, "likelihood": 1 - t}.get(name, torch.logit(t))
    assert scipy.stats.kstest(values.numpy(), PEERS[name].cdf).pvalue > 1e-3


def test_default_times_and_pairing_are_the_settings(digits):
    explicit = digit_batch(digits, 2, 30, 1, "independent", "logit-normal", 0.1)
    assert all(equal(digit_batch(digits, 2, 30, 1), explicit))


def test_noise_is_normal(digits):
    """Kolmogorov-Smirnov on all 784 000 entries, and no entry twice."""
    x0 = digit_batch(digits, 1, 1000, seed=1).x0.double()
    assert scipy.stats.kstest(x0.flatten().numpy(), "norm").pvalue > 1e-3
    assert len(set(as_rows(x0))) == 1000


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_their_rate(digits, rate):
    """Within four standard errors of a binomial; images and noise are untouched."""
    n, dropped, kept = 5000, 0, 0
    for step in range(5):
        batch = digit_batch(digits, step, 1000, seed=1, label_dropout=rate)
        plain = digit_batch(digits, step, 1000, seed=1, label_dropout=0.0)
        assert equal(batch, plain)[:3] == [True] * 3
        assert ((batch.label == plain.label) | (batch.label == CLASSES)).all()
        dropped += (batch.label == CLASSES).sum().item()
        kept += (batch.label < CLASSES).sum().item()
    assert dropped + kept == n
    assert dropped == pytest.approx(rate * n, abs=4 * math.sqrt(rate * (1 - rate) * n))


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_batch_of_no_or_too_many_digits_is_refused(digits, size):
    match = f"a batch of {size} images cannot be drawn from 1000" if size > 0 else f"size is {size}"
    with pytest.raises(ValueError, match=match):
        digit_batch(digits, 0, size, seed=0)


@pytest.mark.parametrize("option", ["pairing", "times"])
def test_an_unknown_name_is_refused(digits, option):
    known = {"pairing": PAIRINGS, "times": TIMES}[option]
    with pytest.raises(ValueError, match=f'"best"; choose from {", ".join(known)}'):
        digit_batch(digits, 0, 10, seed=0, **{option: "best"})


@pytest.mark.parametrize("classes", [0, 4])
def test_batches_of_other_images(classes):
    """Their shape is that of the images; "no label" is the number of classes."""
    images = torch.randint(0, 256, (30, 3, 4, 6), dtype=torch.uint8)
    labels = torch.arange(30) % max(1, classes)
    found = digit_batch(Digits(images, labels), 1, 20, 0, label_dropout=0.5, classes=classes)
    assert found.x0.shape == found.x1.shape == (20, 3, 4, 6)
    rows = rows_of(found, Digits(images, labels))
    kept = found.label == labels[rows]
    assert None not in rows and (kept | (found.label == classes)).all()
    assert (found.label.max() == classes) and (classes == 0 or 0 < kept.sum() < 20)


# The loss.


class Linear(torch.nn.Module):
    """v = w x + t + label, one weight; it keeps what it was given and in which precision."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.seen = []

    def forward(self, x, t, label):
        self.seen.append((x, t, label, torch.is_autocast_enabled("cpu")))
        # a product of matrices runs in the precision of autocast
        product = (x.flatten(1) @ (self.weight * torch.eye(784))).reshape(x.shape)
        return product + (t + label).to(product.dtype)[:, None, None, None]


def batches_of(digits, size=12):
    return lambda step: digit_batch(digits, step, size, seed=3)


def by_hand(batch, weight=0.5):
    """Mean over rows and pixels of (v − (x₁ − x₀))² at (1 − t) x₀ + t x₁, row by row."""
    total = 0.0
    for x0, x1, t, label in zip(*(part.double() for part in batch), strict=True):
        v = weight * ((1 - t) * x0 + t * x1) + t + label
        total += (v - (x1 - x0)).square().mean().item()
    return total / len(batch.t)


@pytest.mark.parametrize("done", [0, 7])
def test_loss_is_the_mean_square_over_pixels(digits, done):
    """Of one batch after another, from the one where an earlier run stopped."""
    batches = batches_of(digits)
    loss = digit_loss(Linear(), batches, done=done)
    for step in (done, done + 1, done + 2):
        value = loss()
        assert value.shape == () and value.dtype == torch.float32
        # float32 sums of 784 terms
        assert value.item() == pytest.approx(by_hand(batches(step)), rel=1e-5)


def test_loss_has_the_gradient_of_the_mean_square(digits):
    """d/dw of a quadratic is its central difference."""
    network, batch = Linear(), batches_of(digits)(0)
    digit_loss(network, batches_of(digits))().backward()
    expected = by_hand(batch, 1.5) / 2 - by_hand(batch, -0.5) / 2
    assert network.weight.grad.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 12])
def test_shares_of_a_batch_are_the_batch(digits, devices):
    """Every row once; the mean of the losses and of the gradients is that of the whole."""
    whole, joint = Linear(), batches_of(digits)
    value = digit_loss(whole, joint)()
    value.backward()
    values, gradients, labels = [], [], []
    for r in range(devices):
        network = Linear()
        values.append(digit_loss(network, joint, shard=(r, devices))())
        values[-1].backward()
        gradients.append(network.weight.grad)
        labels += network.seen[0][1].tolist()
    # float32 sums in another order
    torch.testing.assert_close(torch.stack(values).mean(), value)
    torch.testing.assert_close(torch.stack(gradients).mean(), whole.weight.grad)
    assert sorted(labels) == sorted(joint(0).t.tolist())


def test_a_batch_that_cannot_be_shared_is_refused(digits):
    loss = digit_loss(Linear(), batches_of(digits), shard=(0, 5))
    with pytest.raises(ValueError, match="a batch of 12 cannot be shared by 5 devices"):
        loss()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_network_runs_in_its_precision_and_the_loss_in_float32(digits, precision):
    network = Linear()
    value = digit_loss(network, batches_of(digits), precision)()
    x, t, _, cast = network.seen[0]
    assert cast == (precision != torch.float32)
    assert x.dtype == t.dtype == value.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    exact = by_hand(batches_of(digits)(0))
    off = abs(value.item() / exact - 1)
    # eight bits of v, in a sum of many whose errors nearly cancel: 2⁻⁹ at most, but not nothing
    assert off < 1e-5 if precision == torch.float32 else 1e-6 < off < 2**-8


def test_loss_of_the_true_velocity_is_zero():
    """One digit, x₁ known: x₁ − x₀ = (x₁ − x_t)/(1 − t)."""
    x1 = torch.full((8, 1, 28, 28), 0.25)
    x0 = torch.randn(x1.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(x0, x1, torch.linspace(0, 0.9, 8), torch.zeros(8, dtype=torch.int64))

    def field(x, t, label):
        return (0.25 - x) / (1 - t)[:, None, None, None]

    # roundings divided by 1 − t ≥ 0.1, squared
    assert digit_loss(field, lambda step: batch)().item() < 1e-10
