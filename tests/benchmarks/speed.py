"""Pairing, likelihood and training against torchcfm's and Facebook's, on one thread in one run.

    .venv/bin/python -m pip install --group test
    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/speed.py

- Pairing: `exact_ot` against `OTPlanSampler(method="exact").sample_plan`, in the plane and in the
  784 dimensions of MNIST. torchcfm's solver stops after 100 000 pivots; how much its plan costs
  above the least is given too.
- Likelihood: the exact divergence of an MLP in the plane against flow_matching's
  `ODESolver.compute_likelihood(exact_divergence=True)`, with the same solver and steps.
- Training: our U-Net and run (chapter 8) against torchcfm's example, which is float32. Once as the
  processor is, in our fastest precision; once in float32 in a process whose libraries are told
  that it ends at AVX2, as most processors without bfloat16 do.

Ours and theirs take turns; the least processor time of several turns counts, since other processes
can only add to it.

Source: torchcfm, examples/images/conditional_mnist.ipynb.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
import warnings

import torch
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper
from provenance import save
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.models.unet import UNetModel
from torchcfm.optimal_transport import OTPlanSampler

from fmtutorial.couplings import exact_ot, squared_distances
from fmtutorial.distributions import Gaussian, ring_of_gaussians
from fmtutorial.images.data import Digits
from fmtutorial.images.devices import fast_precision
from fmtutorial.images.run import Run, Settings
from fmtutorial.likelihood import log_likelihood
from fmtutorial.networks import MLP
from fmtutorial.solvers import midpoint

SEED, SIZES, DIMENSIONS = 0, (128, 256, 512, 1024, 2048), (2, 784)
POINTS, STEPS, WIDTHS = 1000, 25, (128, 256)
BATCH = 128
CPU = torch.device("cpu")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def milliseconds(repeats, **functions):
    """Return the least processor time of each function, by its name."""
    least = dict.fromkeys(functions, float("inf"))
    for turn in range(repeats + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if turn:  # the first one warms up
                least[name] = min(least[name], 1000 * (time.process_time() - started))
    times = {name: float(f"{value:.4g}") for name, value in least.items()}
    ours, theirs = least.values()
    return times | {"times_as_fast": round(theirs / ours, 2)}


def pairing(size, dimension):
    """Noise and data: a ring of Gaussians in the plane, clusters in more dimensions."""
    generator = torch.Generator().manual_seed(SEED)
    x0 = torch.randn(size, dimension, generator=generator)
    if dimension == 2:
        x1 = ring_of_gaussians().sample(size, generator=generator).float()
    else:
        centres = torch.randn(10, dimension, generator=generator)
        rows = torch.randint(10, (size,), generator=generator)
        x1 = centres[rows] + 0.5 * torch.randn(size, dimension, generator=generator)
    sampler = OTPlanSampler(method="exact")
    found = milliseconds(
        max(3, 8000 // size),
        ours=lambda: exact_ot(x0, x1),
        torchcfm=lambda: sampler.sample_plan(x0, x1),
    )
    cost = squared_distances(x0, x1) / size
    least = (exact_ot(x0, x1).double() - x1.double()).square().sum().item() / size
    plan = torch.from_numpy(sampler.get_map(x0, x1)) * size
    return found | {"torchcfm_excess": round((plan * cost).sum().item() / least - 1, 6) + 0.0}


class Wrapped(ModelWrapper):
    """Our network as flow_matching calls one."""

    def forward(self, x, t, **extras):
        return self.model(x, t.expand(len(x)))


def likelihood(width):
    """Log-likelihoods of the same points, which must agree."""
    torch.manual_seed(SEED)
    network, x = MLP((2,), width=width), torch.randn(POINTS, 2)
    base, times = Gaussian(torch.zeros(2), 1.0), torch.linspace(1, 0, STEPS + 1)
    solver = ODESolver(Wrapped(network))

    def ours():
        with torch.no_grad():
            return log_likelihood(network, x, base, times, midpoint)

    def theirs():
        return solver.compute_likelihood(
            x, base.log_prob, step_size=1 / STEPS, method="midpoint", exact_divergence=True
        )[1]

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    return milliseconds(8, ours=ours, flow_matching=theirs)


def our_training(digits, precision):
    """Return a function that takes a step of a run of chapter 8."""
    settings = Settings(seed=SEED, precision=precision, batch=BATCH, steps=1000)
    steps = Run(settings, CPU).steps(digits)
    return lambda: next(steps)


def their_training(digits):
    """Return a function that takes a step of torchcfm's example."""
    torch.manual_seed(SEED)
    network = UNetModel(
        dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=10, class_cond=True
    )
    optimizer = torch.optim.Adam(network.parameters())
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def step():
        rows = torch.randint(len(digits.labels), (BATCH,))
        x1 = digits.images[rows].unsqueeze(1) / 127.5 - 1
        t, x_t, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = (network(t, x_t, digits.labels[rows]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training(precision):
    """Time a step on images of random bytes, which cost what digits do."""
    generator = torch.Generator().manual_seed(SEED)
    digits = Digits(
        torch.randint(256, (10 * BATCH, 28, 28), dtype=torch.uint8, generator=generator),
        torch.randint(10, (10 * BATCH,), generator=generator),
    )
    turns = {"ours": our_training(digits, precision), "torchcfm": their_training(digits)}
    found = milliseconds(5, **turns)
    rates = {f"{name}_images_per_second": round(1000 * BATCH / found[name], 1) for name in turns}
    return {"precision": precision} | found | rates


def training_until_avx2():
    """Train in float32 in a process whose libraries use nothing newer than AVX2."""
    command = [sys.executable, __file__, "float32"]
    done = subprocess.run(
        command, env=os.environ | AVX2, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Run everything and write the results."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="numItermax reached")
    packages = ("torchcfm", "flow_matching", "pot", "scipy", "numpy")
    results = {
        "unit": "milliseconds of processor time, the least of several turns",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "pairing": {
            str(dimension): {str(size): pairing(size, dimension) for size in SIZES}
            for dimension in DIMENSIONS
        },
        "likelihood": {str(width): likelihood(width) for width in WIDTHS},
        "training": {
            "as it is": training(str(fast_precision(CPU)).removeprefix("torch.")),
            "until AVX2": training_until_avx2(),
        },
        "few_seeds_because": "these are times; the seed draws the points and changes them little",
    }
    print(json.dumps(results, indent=1), flush=True)
    save("speed", results, [SEED], started)


if __name__ == "__main__":
    if sys.argv[1:]:
        torch.set_num_threads(1)
        print(json.dumps(training(*sys.argv[1:])))
    else:
        main()
