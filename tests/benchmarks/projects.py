"""The starts of four projects, and how far the obvious way from each of them leads.

    PYTHONPATH=. python tests/benchmarks/projects.py

Each function returns the number by which its project is judged, for the start and for one answer
that a student may find. They are no best answers: nothing was tuned but where it says so.
"""

import math
import statistics
import time

import numpy as np
import torch
from provenance import save, summarise
from scipy.interpolate import CubicSpline

from fmtutorial.couplings import exact_ot, independent
from fmtutorial.distributions import Gaussian, checkerboard, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.likelihood import log_likelihood
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import energy_distance
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import rk4, solve
from fmtutorial.training import EMA, train

SEEDS = [0, 1, 2]
PATH = AffinePath(LINEAR)


def coupling():
    """Four Euler steps of a checkerboard: independent pairs, and pairs of exact transport."""
    data, found = checkerboard(), {}
    for name, pairs in (("start", independent), ("answer", exact_ot)):
        network = MLP((2,), 128)

        def loss(network=network, pairs=pairs):
            x1 = data.sample(256)
            x0 = pairs(torch.randn_like(x1), x1)
            return flow_matching_loss(network, PATH, x0, x1, uniform_times(256))

        for _ in train(network, loss, 1000, 2e-3):
            pass
        with torch.no_grad():
            noise = torch.randn(2000, 2)
            made = solve(network, noise, torch.linspace(0, 1, 5)).last
        found[name] = energy_distance(made, data.sample(2000))
    found["floor"] = energy_distance(data.sample(2000), data.sample(2000))
    return found


def rows(n):
    """Draw a table of three columns, and the logarithm of its density at each row."""
    z = torch.randn(n, 3)
    a = z[:, 0]
    b = a**2 + 0.5 * z[:, 1]
    c = (2 * a).sin() + 0.2 * z[:, 2]
    log_p = -0.5 * z.square().sum(dim=1) - 1.5 * math.log(2 * math.pi) - math.log(0.5 * 0.2)
    return torch.stack([a, b, c], dim=1), log_p


def table():
    """Nats of held-out rows: one Gaussian, a flow of 2000 updates, and the truth."""
    known, (held, truth) = rows(4000)[0], rows(1000)
    mean, std = known.mean(dim=0), known.std(dim=0)
    fitted = Gaussian(mean, known.T.cov())
    network = MLP((3,), 128)
    ema = EMA(network, 0.99)

    def loss():
        x1 = ((known - mean) / std)[torch.randint(len(known), (256,))]
        return flow_matching_loss(network, PATH, torch.randn_like(x1), x1, uniform_times(256))

    for _ in train(network, loss, 2000, 2e-3, ema):
        pass
    with torch.no_grad():
        base, grid = Gaussian(torch.zeros(3)), torch.linspace(1, 0, 31)
        of_flow = log_likelihood(ema.network, (held - mean) / std, base, grid, rk4)
    return {
        "start": (truth - fitted.log_prob(held)).mean().item(),
        "answer": (truth - of_flow + std.log().sum()).mean().item(),
    }


def euler_end(field, x, times):
    """Return where Euler's steps end; gradients flow to the times."""
    for t, end in zip(times[:-1], times[1:], strict=True):
        x = x + (end - t) * field(x, t.expand(len(x)))
    return x


def grid():
    """Eight Euler steps of the exact field of a ring: even times, and times that were learned."""
    field = ExactField(PATH, ring_of_gaussians())

    def error(times, x):
        with torch.no_grad():
            true = solve(field, x, torch.linspace(0, 1, 31), rk4, last_only=True).last
        return (euler_end(field, x, times) - true).square().sum(dim=1).mean().sqrt()

    free = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.Adam([free], 0.1)
    for _ in range(100):
        times = torch.cat([torch.zeros(1), free.softmax(dim=0).cumsum(dim=0)]).clamp(max=1)
        optimizer.zero_grad()
        error(times, torch.randn(128, 2)).backward()
        optimizer.step()
    fresh = torch.randn(1000, 2)
    return {
        "start": error(torch.linspace(0, 1, 9), fresh).item(),
        "answer": error(times.detach(), fresh).item(),
    }


def crowd(n):
    """Return nine snapshots of n fresh particles each, at times 0, 1/8, …, 1.

    Two clumps go round the origin, kept near a circle by a spring and apart by nothing.
    """
    shots = []
    for last in range(9):
        x = torch.tensor([[2.0, 0.0], [0.0, -2.0]]).repeat(n // 2, 1) + 0.2 * torch.randn(n, 2)
        for _ in range(25 * last):
            r = x.norm(dim=1, keepdim=True)
            turn = 1.5 * math.pi * torch.stack([-x[:, 1], x[:, 0]], dim=1)
            x = x + (turn + 4 * (2 - r) * x / r) / 200 + 0.4 * 200**-0.5 * torch.randn(n, 2)
        shots.append(x)
    return shots


def snapshots():
    """A crowd between five snapshots: straight lines of exact transport, and splines along them."""
    shots, fresh = crowd(400), crowd(400)
    chain = [shots[0]]
    for shot in shots[2::2]:
        chain.append(exact_ot(shot, chain[-1]))  # each particle's next place
    spline = CubicSpline(np.arange(5), torch.stack(chain).numpy())
    found = {"start": [], "answer": [], "floor": []}
    for k in range(4):
        straight, curved = (chain[k] + chain[k + 1]) / 2, torch.tensor(spline(k + 0.5)).float()
        for name, x in (("start", straight), ("answer", curved), ("floor", fresh[2 * k + 1])):
            found[name].append(energy_distance(x, shots[2 * k + 1]))
    return {name: statistics.mean(values) for name, values in found.items()}


PROJECTS = {"coupling": coupling, "table": table, "grid": grid, "snapshots": snapshots}


def main():
    started = time.perf_counter()
    found = {}
    for name, project in PROJECTS.items():
        runs = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            runs.append({name: project()})
            print(seed, runs[-1], flush=True)
        found |= summarise(runs)
    save("projects", {"projects": found}, SEEDS, started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
