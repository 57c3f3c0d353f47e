"""The published weights: Fréchet distance, label accuracy, bits per dimension. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_quality.py

10 000 digits by Heun's method with 50 and with 10 evaluations, without guidance, from one seed:
mnist_samplers.py says how much a seed does. The learned field beside the exact one of the
training digits. The likelihood of test digits, with two step sizes for the solver's error.
"""

import time

import torch
from provenance import save

from fmtutorial.classifier import score_digits
from fmtutorial.exact import ExactField
from fmtutorial.images import Digits, dequantise, mnist
from fmtutorial.labs import default_device
from fmtutorial.metrics import relative_error
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.samplers import digit_bits, sample_digits
from fmtutorial.weights import load_weights

SEED, COUNT, LIKELIHOODS = 0, 10_000, 250
TIMES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEVICE = default_device()


def quality(network, steps):
    labels = torch.arange(COUNT, device=DEVICE) % 10
    images = torch.cat(list(sample_digits(network, labels, "heun", steps, seed=SEED)))
    return score_digits(images, labels)._asdict()


@torch.no_grad()
def against_exact(network, train, test):
    """Compare with the minimiser of the training loss, the exact field of all digits of a class.

    Both on states made of 500 test digits: their losses per pixel there, and their relative
    distance.
    """
    x1 = dequantise(test.images[:500], torch.Generator(DEVICE).manual_seed(SEED))
    label, path, rows = test.labels[:500], AffinePath(LINEAR), []
    own = [dequantise(train.images[train.labels == c]) for c in range(10)]
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
    results = {"weights": origin, "test digits": score_digits(*test)._asdict(), "heun": {}}
    for evaluations in (10, 50):
        results["heun"][str(evaluations)] = quality(network, evaluations // 2)
        print(evaluations, results["heun"][str(evaluations)], flush=True)
    train = Digits(*(part.to(DEVICE) for part in mnist("train")))
    moved = Digits(*(part.to(DEVICE) for part in test))
    results["against_exact"] = against_exact(network, train, moved)
    first = Digits(*(part[:LIKELIHOODS].to(DEVICE) for part in test))
    results["bits"] = {"digits": LIKELIHOODS}
    for steps in (50, 100):
        bits = digit_bits(network, first, steps)
        one = {"mean": bits.mean().item(), "standard_error": bits.std().item() / len(bits) ** 0.5}
        results["bits"][str(steps)] = one
        print(steps, one, flush=True)
    results["few_seeds_because"] = (
        "10 000 digits from one seed; mnist_samplers.json has three seeds of 2000"
    )
    save("mnist_quality", results, [SEED], started)


if __name__ == "__main__":
    main()
