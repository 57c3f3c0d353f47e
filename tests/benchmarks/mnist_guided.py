"""Guidance trained into the field of digits. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_guided.py

A copy of the published weights learns v(x, t, label) + (s − 1) (v(x, t, label) − v(x, t, None)),
with the line's velocity in the place of the first term: then a step costs one evaluation, and
data still correct the field. Writes fmtutorial/data/mnist-guided.safetensors. One training; 10 000
digits beside the guidance of two evaluations.
"""

import time

import torch
from provenance import RESULTS, save
from torch.amp import GradScaler

from fmtutorial.images.batches import CLASSES, digit_batch
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import Digits, mnist
from fmtutorial.images.devices import fast_precision, in_precision
from fmtutorial.images.sampling import evaluations, sample_digits
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.training import EMA, train

SCALE, STEPS, BATCH, RATE, SEED = 1.15, 2000, 64, 5e-4, 11
RUNS = (
    ("mnist", "dpm", 10, 1.0),
    ("mnist", "dpm", 5, SCALE),
    ("mnist-guided", "dpm", 10, 1.0),
    ("mnist-guided", "dpm", 50, 1.0),
)
"""Weights, solver, steps and scale of the guidance while sampling."""
DEVICE = default_device()
PRECISION = fast_precision(DEVICE)
DATA = RESULTS.parent / "data"


def fitted(digits):
    def copy_of_mnist():
        return load_weights("mnist").network.to(DEVICE, memory_format=torch.channels_last)

    network, path, done = copy_of_mnist().requires_grad_(True).train(), AffinePath(LINEAR), 0
    field, frozen = (in_precision(part, PRECISION) for part in (network, copy_of_mnist()))

    def loss():
        nonlocal done
        x0, x1, t, label = digit_batch(digits, done, BATCH, SEED)
        sample, done = path.sample(x0, x1, t), done + 1
        x = sample.x_t.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            towards = frozen(x, t, label) - frozen(x, t, None)
        wanted = sample.velocity + (SCALE - 1) * towards
        return mean_squared_norm(field(x, t, label) - wanted) / x1[0].numel()

    ema = EMA(network, 0.999)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.0, fused=True)
    scaler = GradScaler(DEVICE.type, enabled=PRECISION == torch.float16)
    for step in train(network, loss, STEPS, None, ema, 50, 1.0, optimizer, scaler):
        if step.number % 250 == 0:
            print(step.number, round(step.loss, 4), flush=True)
    return ema.network.eval()


def main():
    started = time.perf_counter()
    digits = Digits(*(part.to(DEVICE) for part in mnist("train")))
    network = fitted(digits)
    minutes = (time.perf_counter() - started) / 60
    made = {"script": "tests/benchmarks/mnist_guided.py", "seed": SEED, "minutes": minutes}
    path = DATA / "mnist-guided.safetensors"
    save_weights(path, network, "unet", {"labels": CLASSES}, made | hardware(DEVICE))
    labels, results = mnist("test").labels.to(DEVICE), {"scale": SCALE, "steps": STEPS, "runs": []}
    results["training_minutes"] = minutes
    for name, method, steps, scale in RUNS:
        network = load_weights(DATA / f"{name}.safetensors").network.to(DEVICE)
        made = sample_digits(network, labels, method, steps, scale, seed=99, precision=PRECISION)
        scores = score_digits(torch.cat(list(made)), labels)
        count = evaluations(method, steps) * (1 if scale == 1 else 2)
        row = {"weights": name, "method": method, "scale": scale, "evaluations": count}
        results["runs"].append(row | scores._asdict())
        print(name, method, count, scores.frechet, scores.accuracy, flush=True)
    results["few_seeds_because"] = "one training; mnist_samplers.py has three seeds of samplers"
    save("mnist_guided", results, [SEED, 99], started, DEVICE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
