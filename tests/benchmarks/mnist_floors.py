"""What digits of MNIST score themselves: the floors of chapter 8. Nothing is generated.

    .venv/bin/python tests/benchmarks/mnist_floors.py

Training digits against all other training digits, and test digits against the training digits,
1000 (100 of each class) and 10 000 (classes as among the test digits). Distances in pixels are
those of 1000 digits to the 1000 training digits shipped.
"""

import time
from statistics import mean, stdev

import torch
from provenance import save

from fmtutorial.images.classifier import digit_classifier, score_digits
from fmtutorial.images.data import Digits, mnist, small_digits
from fmtutorial.metrics import energy_distance, frechet_between, moments

SEED, SETS = 0, 8
SHIPPED = small_digits("train").images / 127.5 - 1


def shipped(digits):
    """Which digits are among those shipped."""
    known = {image.numpy().tobytes() for image in small_digits("train").images}
    return torch.tensor([image.numpy().tobytes() in known for image in digits.images])


def thousands(digits, generator):
    """Eight sets of 1000 digits, 100 of each class, drawn without replacement.

    At random: MNIST's digits stand in the order of their writers.
    """
    order = torch.randperm(len(digits.labels), generator=generator)
    order = order[~shipped(digits)[order]]
    rows = [order[digits.labels[order] == c][: 100 * SETS].view(SETS, 100) for c in range(10)]
    return torch.stack(rows, dim=1).flatten(1)


def ten_thousands(digits, shares, generator):
    """Five sets with so many digits of each class, drawn without replacement."""
    order = torch.randperm(len(digits.labels), generator=generator)
    rows = [order[digits.labels[order] == c][: 5 * n].view(5, n) for c, n in enumerate(shares)]
    return torch.cat(rows, dim=1)


def among(features, rows):
    """Return the distance of some digits to all others of their kind."""
    others = torch.ones(len(features), dtype=torch.bool)
    others[rows] = False
    return frechet_between(moments(features[rows]), moments(features[others]))


def summary(values):
    return {"mean": mean(values), "sd": stdev(values)}


def scored(digits, rows, frechet):
    """Return the scores of sets of digits, with these distances."""
    found = [score_digits(digits.images[some], digits.labels[some]) for some in rows]
    return {
        "frechet": summary(frechet or [one.frechet for one in found]),
        "accuracy": summary([one.accuracy for one in found]),
        "worst_class": min(min(one.class_accuracy) for one in found),
        "least_spread": min(min(one.class_spread) for one in found),
    }


def pixels(digits, rows):
    images = (digits.images[some] / 127.5 - 1 for some in rows)
    return summary([energy_distance(some, SHIPPED) for some in images])


@torch.no_grad()
def main():
    started = time.perf_counter()
    train, test = mnist("train"), mnist("test")
    generator = torch.Generator().manual_seed(SEED)
    network, _ = digit_classifier()
    features = torch.cat([network.features(part) for part in train.images.split(1000)])
    results = {"training digits": {}, "test digits": {}}
    for name, digits in (("training digits", train), ("test digits", Digits(*test))):
        own = name == "training digits"
        rows = thousands(digits, generator)
        found = scored(digits, rows, [among(features, some) for some in rows] if own else None)
        results[name]["1000"] = found | {"pixels": pixels(digits, rows)}
    rows = ten_thousands(train, test.labels.bincount().tolist(), generator)
    found = scored(train, rows, [among(features, some) for some in rows])
    results["training digits"]["10000"] = found
    # one set only, all there are
    results["test digits"]["10000"] = score_digits(*test)._asdict()
    # the classifier has not seen these 5000 (see classifier.py); the writers are the same
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    held_out, seen = order[55_000:], order[:5000]
    results["5000 digits"] = {
        "seen by the classifier": among(features, seen),
        "not seen by it": among(features, held_out),
        "test digits": summary(
            [
                score_digits(test.images[some], test.labels[some]).frechet
                for some in torch.randperm(10_000, generator=generator).view(2, 5000)
            ]
        ),
    }
    print(results)
    results["few_seeds_because"] = "eight sets of 1000 digits and five of 10 000 stand for seeds"
    save("mnist_floors", results, [SEED], started)


if __name__ == "__main__":
    main()
