"""The shipped classifier on the shipped digits, its scores on digits that went wrong by design."""

import gzip
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from fmtutorial.images.classifier import (
    FEATURES,
    DigitClassifier,
    class_spread,
    digit_classifier,
    digit_distance,
    score_digits,
)
from fmtutorial.images.data import dequantise, small_digits
from fmtutorial.labs import stored_results

ORIGINALS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


@pytest.fixture(scope="module")
def shipped():
    return small_digits("test")


@pytest.fixture(scope="module")
def scores(shipped):
    return score_digits(*shipped)


def test_the_classifier_is_right(shipped, scores):
    """At 0.99 the standard error of 1000 is 0.003; by other code than score_digits'."""
    network, _ = digit_classifier()
    right = [
        int(network(image[None]).argmax()) == label
        for image, label in zip(shipped.images, shipped.labels.tolist(), strict=True)
    ]
    accuracy = sum(right) / 1000
    assert accuracy >= 0.985
    assert scores.accuracy == pytest.approx(accuracy)
    by_class = [0] * 10
    for ok, label in zip(right, shipped.labels.tolist(), strict=True):
        by_class[label] += ok / 100
    assert scores.class_accuracy == pytest.approx(by_class)


def test_scores_of_real_digits_are_those_of_real_digits(scores):
    """Spread 1 within four standard errors: about √(2/100) for each class, if one direction led."""
    assert scores.class_spread == pytest.approx([1] * 10, abs=4 * math.sqrt(2 / 100))
    assert 0 < scores.frechet
    # the reference's own spread sets the scale of a distance
    _, reference = digit_classifier()
    assert scores.frechet < 0.01 * reference.moments.covariance.trace().item()


def test_frechet_against_scipys_eigenvalues(shipped, scores):
    network, reference = digit_classifier()
    features = network.features(shipped.images).double().numpy()
    mean, covariance = (tensor.numpy() for tensor in reference.moments)
    assert mean.dtype == covariance.dtype == np.float64
    own = np.cov(features, rowvar=False)
    # the trace of the root of the product, by its own eigenvalues: it is not symmetric
    root = np.sqrt(scipy.linalg.eigvals(own @ covariance).real.clip(min=0)).sum()
    expected = ((features.mean(axis=0) - mean) ** 2).sum() + np.trace(own + covariance) - 2 * root
    # a feature that is always 0 makes it singular, where a root has half the digits
    assert scores.frechet == pytest.approx(expected, rel=1e-4)


def test_the_reference_is_of_the_training_digits():
    """1000 of the 60 000: nearer than 1000 digits of a class missing, and class by class."""
    train = small_digits("train")
    network, reference = digit_classifier()
    assert reference.moments.mean.shape == (FEATURES,)
    assert reference.moments.covariance.shape == (FEATURES, FEATURES)
    assert reference.spread.shape == (10,) and reference.spread.dtype == torch.float64
    features = network.features(train.images).double()
    error = features.std(dim=0) / math.sqrt(1000)
    # 64 means of equal shares of the classes, which MNIST does not quite have: 5 errors each
    assert ((features.mean(dim=0) - reference.moments.mean).abs() < 5 * error + 0.02).all()
    # law of total variance: the spread within classes is a part of the variance of all
    assert 0.1 * reference.spread.sum() < reference.moments.covariance.trace()
    assert score_digits(*train).frechet < 0.01 * reference.moments.covariance.trace()


FAR = "beyond a fifth of the digits' variance"


@pytest.mark.filterwarnings("ignore:a Fréchet distance")
def test_noise_is_far_away(shipped, scores, generator):
    noise = torch.randint(0, 256, (1000, 28, 28), dtype=torch.uint8, generator=generator)
    found = score_digits(noise, shipped.labels)
    assert found.frechet > 20 * scores.frechet
    # whatever it says to noise, a tenth of the labels or so agree
    assert found.accuracy < 0.3


@pytest.mark.filterwarnings("ignore:a Fréchet distance")
def test_light_on_dark_matters(shipped, scores):
    assert score_digits(255 - shipped.images, shipped.labels).frechet > 20 * scores.frechet


def said(images):
    """The distance of images, and what a warning says of it."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        distance = digit_distance(images)
    return distance, " ".join(str(w.message) for w in found)


def test_a_distance_needs_no_labels(shipped, scores):
    """And of real digits, 100 of each class, it says nothing."""
    assert said(shipped.images) == (scores.frechet, "")
    assert "too few" not in said(shipped.images[:65])[1]


def test_a_distance_of_few_digits_says_so(shipped, scores):
    distance, why = said(shipped.images[:64])
    assert distance > 5 * scores.frechet and "64 digits are too few for 64 features" in why
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"two or more images, not {n}"):
            digit_distance(shipped.images[:n])


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_distance_of_other_shares_says_so(shipped, scores, share):
    """Real digits, but hardly a three among them, or too many: far from all the digits."""
    three = torch.nonzero(shipped.labels == 3).flatten()
    others = torch.nonzero(shipped.labels != 3).flatten()
    rows = others if share == 0 else torch.cat([three, others[: int(100 * (1 - share) / share)]])
    distance, why = said(shipped.images[rows])
    assert distance > 5 * scores.frechet
    assert "it also measures the shares of the classes" in why and FAR not in why
    # six hundredths instead of a tenth: nothing is said
    assert said(shipped.images[torch.cat([others, three[:60]])])[1] == ""


def test_a_distance_does_not_rank_what_is_far_from_digits(shipped, generator):
    """Blurred digits are read, noisy ones are not, and the distance puts these first."""
    grey = shipped.images.float()
    blurred = torch.nn.functional.avg_pool2d(grey[:, None], 3, 1, 1)[:, 0].byte()
    noisy = (grey + 100 * torch.randn(grey.shape, generator=generator)).clamp(0, 255).byte()
    distances, reasons = zip(said(blurred), said(noisy), strict=True)
    assert distances[1] < distances[0]
    assert all(FAR in why for why in reasons)
    with pytest.warns(UserWarning, match=FAR) as found:
        read = [score_digits(x, shipped.labels).accuracy for x in (blurred, noisy)]
    assert read[0] > 0.95 and read[1] < 0.85
    assert {w.filename for w in found} == {__file__}  # where the scores were asked for


def test_a_collapsed_class_shows_in_its_spread(shipped, scores):
    images = shipped.images.clone()
    of_three = torch.nonzero(shipped.labels == 3).flatten()
    network, _ = digit_classifier()
    typical = of_three[network(images[of_three]).argmax(dim=1) == 3][0]
    images[of_three] = images[typical].clone()
    found = score_digits(images, shipped.labels)
    assert found.class_spread[3] < 1e-9
    assert found.class_accuracy[3] == 1
    for c in set(range(10)) - {3}:
        assert found.class_spread[c] == scores.class_spread[c]
        assert found.class_accuracy[c] == scores.class_accuracy[c]
    assert found.frechet > scores.frechet


def test_swapped_labels_show_in_the_accuracy(shipped, scores):
    labels = shipped.labels.clone()
    labels[shipped.labels == 4], labels[shipped.labels == 9] = 9, 4
    found = score_digits(shipped.images, labels)
    assert max(found.class_accuracy[4], found.class_accuracy[9]) < 0.1
    assert found.accuracy == pytest.approx(scores.accuracy - 0.2, abs=0.02)
    # the labels do not enter the distance
    assert found.frechet == scores.frechet


def test_spread_by_hand():
    """Class c has features (0, 0) and (2c, 4c): variances 2c² and 8c²; one class of three."""
    features = torch.cat([torch.tensor([[0.0, 0.0], [2.0 * c, 4.0 * c]]) for c in range(10)])
    labels = torch.arange(10).repeat_interleave(2)
    expected = [10.0 * c**2 for c in range(10)]
    assert class_spread(features, labels).tolist() == expected
    assert class_spread(features, labels).dtype == torch.float64
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert class_spread(features[order], labels[order]).tolist() == expected


def test_scores_do_not_depend_on_the_order(shipped, scores):
    """Nor on batches of 1000: 1001 digits with one twice, in either order."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    found = score_digits(shipped.images[order], shipped.labels[order])
    # sums of float32 features in another order
    assert found.frechet == pytest.approx(scores.frechet, rel=1e-4)
    assert found.class_accuracy == scores.class_accuracy
    rows = torch.cat([order, order[:1]])
    a, b = (score_digits(shipped.images[r], shipped.labels[r]) for r in (rows, rows.flip(0)))
    assert a.frechet == pytest.approx(b.frechet, rel=1e-4)
    assert a.accuracy == b.accuracy


def test_features_ignore_the_rest_of_the_batch(shipped):
    """And they are what the head sees; float32 sums over 576 products differ in their last bits."""
    network, _ = digit_classifier()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    images = shipped.images[:7]
    together = network.features(images)
    assert together.shape == (7, FEATURES) and (together >= 0).all()
    alone = torch.cat([network.features(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        network(images), together @ network.head.weight.T + network.head.bias
    )


def test_pixels_enter_between_minus_one_and_one():
    """Black is −1 and white 1, as in training: seen by a first layer that copies."""
    network = DigitClassifier()
    seen = []
    network.body[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1] = 255
    assert network(images).shape == (2, 10)
    assert seen[0].shape == (2, 1, 28, 28)
    assert seen[0][0].unique().tolist() == [-1] and seen[0][1].unique().tolist() == [1]


def test_wrong_images_are_refused(shipped):
    network, _ = digit_classifier()
    for wrong in (shipped.images.float(), shipped.images.long()):
        for use in (network, network.features, lambda x: score_digits(x, shipped.labels)):
            with pytest.raises(TypeError, match="pass torch.uint8: to_pixels"):
                use(wrong)
    with pytest.raises(TypeError, match="pass torch.uint8"):
        network(dequantise(shipped.images[:2]).squeeze(1))


@pytest.mark.parametrize("left", [0, 1])
def test_a_class_without_a_spread_is_refused(shipped, left):
    rows = torch.nonzero(shipped.labels == 9).flatten()[left:]
    keep = torch.ones(1000, dtype=torch.bool)
    keep[rows] = False
    with pytest.raises(ValueError, match="two or more images of each of the ten classes"):
        score_digits(shipped.images[keep], shipped.labels[keep])


def test_wrong_labels_are_refused(shipped):
    for wrong, match in (
        (shipped.labels.float(), "labels have dtype torch.float32; pass torch.int64"),
        (shipped.labels.tolist(), "labels are "),
    ):
        with pytest.raises(TypeError, match=match):
            score_digits(shipped.images, wrong)
    for wrong in (shipped.labels[:-1], shipped.labels[:, None], shipped.labels + 1):
        with pytest.raises(ValueError, match="labels "):
            score_digits(shipped.images, wrong)


def test_the_benchmark_measured_what_is_shipped(scores):
    """Its first seed is shipped: the small test digits are a tenth of those it was measured on."""
    results = stored_results("classifier")
    assert len({len(results[name]) for name in ("validation", "test", "floor")}) == 1
    whole = results["test"][0]
    error = math.sqrt(whole * (1 - whole) / 1000)
    assert scores.accuracy == pytest.approx(whole, abs=4 * error)
    assert min(results["validation"] + results["test"]) > 0.985
    # a distance from fewer digits is larger: its bias falls as 1/N
    assert 0 < results["floor"][0] < scores.frechet
    assert max(results["floor"]) < 3 * min(results["floor"])


@pytest.mark.skipif(not ORIGINALS.exists(), reason="no copy of MNIST beside us")
def test_the_benchmark_measured_what_is_shipped_on_all_test_digits():
    """Of 10 000, where rounding may turn one or two; the distance up to roundings of features."""
    images, labels = (
        np.frombuffer(gzip.decompress((ORIGINALS / f"t10k-{name}.gz").read_bytes()), np.uint8)
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images = torch.tensor(images[16:]).reshape(10_000, 28, 28)
    found, results = (
        score_digits(images, torch.tensor(labels[8:]).long()),
        stored_results("classifier"),
    )
    assert found.accuracy == pytest.approx(results["test"][0], abs=2.5e-4)
    assert found.frechet == pytest.approx(results["floor"][0], rel=1e-3)
