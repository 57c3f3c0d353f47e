"""Our network and training against torchcfm's own MNIST example, on one machine in one run.

    .venv/bin/python -m pip install --group test
    .venv/bin/python tests/benchmarks/mnist_torchcfm.py

Ours (`python -m fmtutorial.images train`), with as many steps as should fit into MINUTES, then
their example's network and settings (class-conditional, batch 128, Adam, float32) for as long as
ours took by the clock. Both are measured by the same sampler on the same noise. Chapter 8.

Source: torchcfm, examples/images/conditional_mnist.ipynb.
"""

import dataclasses
import time

import torch
from provenance import save
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.models.unet import UNetModel

from fmtutorial.images.classifier import score_digits
from fmtutorial.images.data import Digits, mnist
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.run import Run, Settings, steps_within
from fmtutorial.images.sampling import sample_digits
from fmtutorial.labs import default_device

MINUTES, SEED, COUNT, STEPS = 6.0, 0, 1000, 10
DEVICE = default_device()


def theirs(digits, available):
    """Train torchcfm's example for so many seconds."""
    torch.manual_seed(SEED)
    network = UNetModel(
        dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=10, class_cond=True
    ).to(DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    seen, started = 0, time.perf_counter()
    while time.perf_counter() - started < available:
        rows = torch.randint(len(digits.labels), (128,), device=DEVICE)
        x1 = digits.images[rows].unsqueeze(1) / 127.5 - 1
        t, x_t, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = (network(t, x_t, digits.labels[rows]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += 128
    seconds = time.perf_counter() - started
    network.eval()
    return lambda x, t, label: network(t, x, label), network, seconds, seen


def ours(digits):
    """Train by the command's defaults, as many steps as fit."""
    settings = Settings(seed=SEED, precision=str(fast_precision(DEVICE)).removeprefix("torch."))
    settings = dataclasses.replace(settings, steps=steps_within(MINUTES, settings, digits))
    run = Run(settings, DEVICE)
    for _ in run.steps(digits):
        pass
    return run.ema.network, run.ema.network, run.seconds, settings.steps * settings.batch


def measured(field, network, seconds, seen):
    labels = torch.arange(COUNT, device=DEVICE) % 10
    started = time.perf_counter()
    images = torch.cat(list(sample_digits(field, labels, "euler", STEPS, batch=100)))
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "images_per_second": seen / seconds,
        "images": seen,
        "minutes": seconds / 60,
        "sampling_seconds": time.perf_counter() - started,
        **score_digits(images, labels)._asdict(),
    }


def main():
    started = time.perf_counter()
    digits = Digits(*(part.to(DEVICE) for part in mnist("train")))
    results = {"digits": COUNT, "evaluations": STEPS}
    trained = ours(digits)
    results["ours"] = measured(*trained)
    results["torchcfm"] = measured(*theirs(digits, trained[2]))
    print(results, flush=True)
    results["few_seeds_because"] = "one run of each; the difference is many times what a seed does"
    save("mnist_torchcfm", results, [SEED], started, DEVICE)


if __name__ == "__main__":
    main()
