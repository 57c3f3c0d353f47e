"""The published weights: Fréchet distance, label accuracy, bits per dimension. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_quality.py

10 000 digits with the labels of the test digits, so that both have as many of each class, by
Heun's method with 5 and 25 steps and the ancestral sampler with 50, without guidance, from one
seed. The learned field beside the exact one of the training digits. The likelihood of test
digits, with three step sizes for the solver's error.
"""

import time

import torch
from provenance import save

from fmtutorial.exact import ExactField
from fmtutorial.images.bits import digit_bits
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import Digits, dequantise, mnist
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.sampling import evaluations, sample_digits
from fmtutorial.images.weights import load_weights
from fmtutorial.labs import default_device
from fmtutorial.metrics import relative_error
from fmtutorial.paths import LINEAR, AffinePath

SEED, LIKELIHOODS = 0, 200
RUNS = (("ddpm", 50), ("heun", 5), ("heun", 25))
TIMES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEVICE = default_device()


def made(network, labels, method, steps):
    """Digits with these labels, in the precision of the training."""
    options = {"seed": SEED, "precision": fast_precision(DEVICE)}
    return torch.cat(list(sample_digits(network, labels, method, steps, **options)))


def nearest(images, train):
    """Median distance to the nearest training digit, root mean square over pixels."""
    flat, others = (x.reshape(len(x), -1).float() for x in (images, train.images))
    distances = torch.cat([torch.cdist(part, others).amin(dim=1) for part in flat.split(250)])
    return (distances.median() / 28).item()


@torch.no_grad()
def against_exact(network, train, test):
    """Compare with the minimiser of the training loss, the exact field of a class's digits.

    Both on states made of 500 test digits: their losses per pixel there, and their relative
    distance.
    """
    x1 = dequantise(test.images[:500], torch.Generator(DEVICE).manual_seed(SEED))
    label, path, rows = test.labels[:500], AffinePath(LINEAR), []
    generator = torch.Generator(DEVICE).manual_seed(SEED)
    own = [dequantise(train.images[train.labels == c], generator) for c in range(10)]
    for time_ in TIMES:
        t = torch.full((500,), time_, device=DEVICE)
        generator = torch.Generator(DEVICE).manual_seed(SEED + 1)
        x0 = torch.randn(x1.shape, generator=generator, device=DEVICE)
        pair = path.sample(x0, x1, t)
        learned, exact = network(pair.x_t, t, label), torch.empty_like(x1)
        for c in range(10):
            for mine in (label == c).nonzero().squeeze(1).split(20):  # 20 · 6000 · 784 numbers
                exact[mine] = ExactField(path, own[c])(pair.x_t[mine], t[mine])
        losses = [(v - pair.velocity).square().mean().item() for v in (learned, exact)]
        row = {"t": time_, "network_test": losses[0], "exact_test": losses[1]}
        rows.append(row | {"distance": relative_error(learned, exact)})
        print(rows[-1], flush=True)
    return rows


def main():
    started = time.perf_counter()
    network, origin = load_weights("mnist")
    network = network.to(DEVICE, memory_format=torch.channels_last)
    test = mnist("test")
    results = {"weights": origin, "test digits": score_digits(*test)._asdict()}
    train = Digits(*(part.to(DEVICE) for part in mnist("train")))
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(SEED))
    moved = Digits(*(part[order].to(DEVICE) for part in test))
    for method, steps in RUNS:
        images = made(network, moved.labels, method, steps)
        scores = score_digits(images, moved.labels)._asdict()
        one = {"evaluations": evaluations(method, steps), **scores}
        results.setdefault(method, {})[str(steps)] = one
        print(method, steps, one, flush=True)
    sets = {"samples": images[:1000], "test digits": moved.images[:1000]}
    results["nearest"] = {name: nearest(some, train) for name, some in sets.items()}
    print(results["nearest"], flush=True)
    results["against_exact"] = against_exact(network, train, moved)
    first = Digits(*(part[:LIKELIHOODS] for part in moved))
    results["bits"] = {"digits": LIKELIHOODS}
    for steps in (25, 50, 100):
        bits = digit_bits(network, first, steps)
        one = {"mean": bits.mean().item(), "standard_error": bits.std().item() / len(bits) ** 0.5}
        results["bits"][str(steps)] = one
        print(steps, one, flush=True)
    results["few_seeds_because"] = (
        "10 000 digits take ten minutes; mnist_samplers.py has three seeds of 1000"
    )
    save("mnist_quality", results, [SEED], started, DEVICE)


if __name__ == "__main__":
    main()
