"""What is measured without a classifier, on images and networks that are known."""

import math

import pytest
import torch

from fmtutorial.distributions import Gaussian
from fmtutorial.exact import ExactField
from fmtutorial.images.data import ImageSet, dequantise
from fmtutorial.images.measures import (
    held_out_loss,
    nearest_distances,
    nearest_ratio,
    pixel_scores,
)
from fmtutorial.metrics import energy_distance
from fmtutorial.paths import LINEAR, AffinePath

SHAPES = [(4, 5), (3, 4, 5)]


def noise(n, shape, seed, low=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, *shape), generator=generator, dtype=torch.uint8)


def images(n, shape=(4, 5), seed=0, **options):
    return ImageSet(noise(n, shape, seed, **options), torch.zeros(n, dtype=torch.int64))


# Distances to the nearest.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nearest_distances_by_hand(shape, monkeypatch):
    """Root mean squares in grey levels, over more than one block; an image among them is at 0."""
    x, others = noise(7, shape, 0), noise(11_000, shape, 1)
    others[10_500] = x[2]
    found = nearest_distances(x, others)
    gap = x[:, None].double() - others[None].double()
    expected = gap.square().flatten(2).mean(dim=2).sqrt().min(dim=1).values
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    assert found[2] == 0
    assert len(nearest_distances(x[:0], others)) == 0


def test_copies_are_seen_and_fresh_images_are_none():
    train, held_out, fresh = (noise(n, (4, 5), k) for k, n in enumerate((200, 100, 100)))
    right = nearest_ratio(fresh, train, held_out)
    assert abs(right.ratio - 1) < 4 * right.error < 0.2
    assert right.copies == right.floor == 0
    copied = nearest_ratio(torch.cat([fresh[:75], train[:25]]), train, held_out)
    assert copied.copies == 0.25 and copied.ratio == pytest.approx(0.75 * right.ratio, abs=0.05)
    far = nearest_ratio(255 * (fresh > 127).byte(), train, held_out)
    assert far.ratio > 1 + 4 * far.error


def test_the_error_of_a_ratio_covers_it():
    """Over 60 draws |ratio − 1| is above one error in a third of them, and above three in none.

    The training images are the same for all, as for one who measures; so the errors are those of
    the draws.
    """
    train = noise(50, (4, 5), 1000)
    found = [
        nearest_ratio(noise(40, (4, 5), 2 * k), train, noise(30, (4, 5), 2 * k + 1))
        for k in range(60)
    ]
    z = torch.tensor([(one.ratio - 1) / one.error for one in found])
    assert 0.75 < z.std() < 1.3 and abs(z.mean()) < 4 / math.sqrt(60)


def test_the_error_of_a_ratio_far_from_one():
    """Against resampling both sets of distances, 500 times: within a tenth."""
    samples, train, held_out = (
        noise(60, (4, 5), 0, 0, 60),
        noise(50, (4, 5), 1),
        noise(40, (4, 5), 2),
    )
    found = nearest_ratio(samples, train, held_out)
    ours, theirs = (nearest_distances(part, train) for part in (samples, held_out))
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(500):
        drawn = [
            part[torch.randint(len(part), (len(part),), generator=generator)].mean()
            for part in (ours, theirs)
        ]
        values.append(drawn[0] / drawn[1])
    assert abs(found.ratio - 1) > 5 * found.error
    assert found.error == pytest.approx(torch.stack(values).std().item(), rel=0.12)


# Energy distances.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixel_scores_are_the_distances(shape):
    """Of as many images as the smallest set has; with all of them no draw matters."""
    samples, train, held_out = noise(9, shape, 0, 0, 128), noise(9, shape, 1), noise(9, shape, 2)
    found = pixel_scores(samples, train, held_out)
    real = [part / 127.5 - 1 for part in (samples, train, held_out)]
    assert found.distance == pytest.approx(energy_distance(real[0], real[2]), rel=1e-5)
    assert found.floor == pytest.approx(energy_distance(real[1], real[2]), rel=1e-5)
    assert found.count == 9 and found.p_value == pytest.approx(1 / 1000)
    assert pixel_scores(samples, train, held_out[:5]).count == 5
    assert pixel_scores(samples, train, held_out, most=4).count == 4
    assert pixel_scores(samples, train, held_out, 4, seed=1) != pixel_scores(
        samples, train, held_out, 4, seed=2
    )


def test_equal_laws_are_not_told_apart():
    """A p-value is even on [0, 1]: of 20, the mean is 1/2 within four errors."""
    values = []
    for k in range(20):
        sets = (noise(20, (4, 5), 3 * k + i) for i in range(3))
        values.append(pixel_scores(*sets, seed=k).p_value)
    assert sum(values) / 20 == pytest.approx(0.5, abs=4 / math.sqrt(12 * 20))


# Losses.


def zero(x, t, label):
    return 0 * x


def test_loss_of_zero_is_the_square_of_the_data_and_the_noise():
    """E(x₁ − x₀)² = 1 + E x₁², where x₁² is known but for its dequantisation."""
    train, held_out = images(60, (6, 7), 0), images(40, (3, 6, 7)[1:], 1, high=100)
    found = held_out_loss(zero, train, held_out)
    for part, value, error in (
        (train.images[:], found.training, found.training_error),
        (held_out.images, found.held_out, found.held_out_error),
    ):
        x = (part.double() + 0.5) / 128 - 1
        expected = 1 + x.square().mean().item() + 1 / 12 / 128**2
        # the 40 of 60 that are drawn have another mean than all, which the error covers
        assert abs(value - expected) < 4 * error < 0.1
    assert found.gap == pytest.approx(found.held_out - found.training, rel=1e-4)
    assert found == held_out_loss(zero, train, held_out)
    assert found != held_out_loss(zero, train, held_out, seed=1)


def test_the_same_images_have_no_gap():
    """Noise and times are the same for both; so nothing is left of a gap of equal images."""
    some = ImageSet(noise(1, (4, 5), 0).expand(30, 4, 5), torch.zeros(30, dtype=torch.int64))
    found = held_out_loss(zero, some, some)
    assert found.gap == found.gap_error == 0 and found.training_error > 0


def test_times_are_even_and_the_label_is_the_images_own():
    seen = []

    def field(x, t, label):
        seen.append((t, label))
        return 0 * x

    field.image_shape, field.labels = (1, 4, 5), 3
    labels = torch.arange(12) % 3
    train, held_out = (ImageSet(noise(12, (4, 5), k), labels) for k in range(2))
    held_out_loss(field, train, held_out, draws=4)
    times = torch.stack([t for t, _ in seen])
    assert len(seen) == 8 and torch.equal(times[::2], times[1::2])
    for k in range(4):  # one time in each quarter
        assert ((times[2 * k] >= k / 4) & (times[2 * k] < (k + 1) / 4)).all()
    assert all(sorted(label.tolist()) == sorted(labels.tolist()) for _, label in seen)
    field.labels = 0
    seen.clear()
    held_out_loss(field, images(12, seed=0), images(12, seed=1), draws=1)
    assert [label for _, label in seen] == [None, None]


def test_a_network_that_knows_its_images_by_heart_shows_it():
    """The exact field of 20 training images, against one that knows their law only.

    Both answer 0 from t = 0.7 on: towards 1 a field that takes a held-out image for one of its own
    is off by 1/(1 − t).
    """
    train, held_out = images(20, seed=0), images(20, seed=1)
    points = dequantise(train.images, torch.Generator().manual_seed(0)).flatten(1)
    path = AffinePath(LINEAR)
    by_heart = ExactField(path, points)
    law = ExactField(path, Gaussian(torch.zeros(20), torch.tensor(1 / 3)))

    def network(field):
        def answer(x, t, label):
            early = (t < 0.7)[:, None]
            return (field(x.flatten(1), t.clamp(max=0.7)) * early).reshape(x.shape)

        return answer

    learned, known = (held_out_loss(network(field), train, held_out) for field in (by_heart, law))
    assert learned.gap > 5 * learned.gap_error and learned.held_out > 1.5 * learned.training
    assert abs(known.gap) < 4 * known.gap_error
    assert known.held_out < learned.held_out


def test_errors_cover_the_gap():
    """Over 40 draws of the images, gap / error has a deviation near 1 and no mean."""
    z = []
    for k in range(40):
        found = held_out_loss(zero, images(20, seed=2 * k), images(20, seed=2 * k + 1), draws=2)
        z.append(found.gap / found.gap_error)
    z = torch.tensor(z)
    assert 0.7 < z.std() < 1.4 and abs(z.mean()) < 4 / math.sqrt(40)
