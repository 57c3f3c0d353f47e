"""ReFlow of the published digits, and its distillation into one step. Chapter 8.

    .venv/bin/python tests/benchmarks/mnist_reflow.py

PAIRS of noise and digit from the published weights by Heun's method; a second flow, started from
the first, learns the straight lines between them, and a third, started from the second, learns
one Euler step. Writes fmtutorial/data/mnist-reflow.safetensors and mnist-one-step.safetensors.
One seed for the training; 10 000 digits to measure.
"""

import copy
import time
from functools import partial

import torch
from provenance import RESULTS, save
from torch.amp import GradScaler

from fmtutorial.images.batches import CLASSES
from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import mnist
from fmtutorial.images.devices import fast_precision, in_precision
from fmtutorial.images.sampling import evaluations, image_field, sample, sample_digits
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.labs import default_device, hardware
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import distillation_loss, straightness
from fmtutorial.training import EMA, train

PAIRS, PAIR_STEPS, BATCH = 40_000, 6, 64
STEPS = {"reflow": 3500, "one-step": 7500}
RATE, SEED = 1e-3, 0
DEVICE = default_device()
PRECISION = fast_precision(DEVICE)
DATA = RESULTS.parent / "data"


@torch.no_grad()
def make_pairs(network):
    """Return noise, the digits it becomes (in half precision, to save memory) and their labels."""
    generator = torch.Generator().manual_seed(SEED)
    label = torch.arange(PAIRS) % CLASSES
    x0, ends = torch.randn(PAIRS, 1, 28, 28, generator=generator), []
    for start, part in zip(x0.split(500), label.split(500), strict=True):
        field = image_field(network, part.to(DEVICE), precision=PRECISION)
        ends.append(sample(field, start.to(DEVICE), "heun", PAIR_STEPS).last.half().cpu())
        if len(ends) % 10 == 0:
            print("pairs", 500 * len(ends), flush=True)
    return x0, torch.cat(ends), label


def fitted(network, pairs, loss_of, steps):
    """Go on training a copy of a network on stored pairs; return its average and the minutes."""
    network, started = copy.deepcopy(network).requires_grad_(True).train(), time.perf_counter()
    generator, ema = torch.Generator().manual_seed(SEED + 1), EMA(network, 0.999)
    run_in_precision = in_precision(network, PRECISION)

    def loss():
        rows = torch.randint(PAIRS, (BATCH,), generator=generator)
        x0, x1, label = (part[rows].to(DEVICE) for part in pairs)

        def field(x, t):
            x = x.contiguous(memory_format=torch.channels_last)
            return run_in_precision(x, t, label)

        return loss_of(field, x0, x1.float(), generator) / x0[0].numel()

    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.0, fused=True)
    scaler = GradScaler(DEVICE.type, enabled=PRECISION == torch.float16)
    for step in train(network, loss, steps, None, ema, 100, 1.0, optimizer, scaler):
        if step.number % 500 == 0:
            print(step.number, round(step.loss, 5), flush=True)
    return ema.network.eval(), (time.perf_counter() - started) / 60


def straight_lines(field, x0, x1, generator):
    t = uniform_times(BATCH, generator).to(DEVICE)
    return flow_matching_loss(field, AffinePath(LINEAR), x0, x1, t)


def measured(network, steps):
    """Scores of 10 000 digits, labelled as the test digits, from noise that no pair has seen."""
    labels = mnist("test").labels.to(DEVICE)
    make = partial(sample_digits, network, labels, "euler", steps, seed=99, precision=PRECISION)
    return score_digits(torch.cat(list(make())), labels)._asdict()


@torch.no_grad()
def bends(network):
    """Straightness S per pixel, of 100 trajectories."""
    label = torch.arange(100, device=DEVICE) % CLASSES
    x0 = torch.randn(100, 1, 28, 28, generator=torch.Generator().manual_seed(98)).to(DEVICE)
    return straightness(sample(image_field(network, label), x0, "heun", 20)) / 784


def main():
    started = time.perf_counter()
    network = load_weights("mnist").network.to(DEVICE, memory_format=torch.channels_last)
    pairs = make_pairs(network)
    results = {"pairs": PAIRS, "pair_evaluations": evaluations("heun", PAIR_STEPS)}
    results["pair_minutes"] = (time.perf_counter() - started) / 60
    results |= {"steps": STEPS, "batch": BATCH, "flows": {}}
    flows = {"mnist": (network, 0.0)}
    flows["mnist-reflow"] = fitted(network, pairs, straight_lines, STEPS["reflow"])

    def one_step(field, x0, x1, generator):
        return distillation_loss(field, x0, x1)

    flows["mnist-one-step"] = fitted(flows["mnist-reflow"][0], pairs, one_step, STEPS["one-step"])
    for name, (flow, minutes) in flows.items():
        if name != "mnist":
            made = {"script": "tests/benchmarks/mnist_reflow.py", "seed": SEED, "minutes": minutes}
            made |= hardware(DEVICE)
            path = DATA / f"{name}.safetensors"
            save_weights(path, flow, "unet", {"labels": CLASSES}, made)
        one = {"minutes": minutes, "straightness": bends(flow), "euler": {}}
        for steps in (1,) if name == "mnist-one-step" else (1, 2, 5):
            one["euler"][str(steps)] = measured(flow, steps)
            print(name, steps, one["euler"][str(steps)], flush=True)
        results["flows"][name] = one
    results["few_seeds_because"] = (
        "one training of the second and third flow takes most of an hour on two cores"
    )
    save("mnist_reflow", results, [SEED], started, DEVICE)


if __name__ == "__main__":
    main()
