"""Rounds of ReFlow on the ring beside distillation, OT pairing and MeanFlow, with three seeds.

    PYTHONPATH=. python tests/benchmarks/reflow.py

Every flow is a network of the same size. A round of ReFlow takes STEPS steps of training; what is
trained in one piece takes twice as many, the budget of two rounds. Chapter 6.
"""

import time
from statistics import mean

import torch
from provenance import save, summarise

from fmtutorial.couplings import exact_ot, independent
from fmtutorial.distributions import ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import wasserstein
from fmtutorial.networks import MLP, MeanFlowMLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import distillation_loss, mean_flow_loss, model_pairs, straightness
from fmtutorial.solvers import euler, heun, solve
from fmtutorial.training import EMA, train

SEEDS = [0, 1, 2]
STEPS, BATCH, PAIRS = 1500, 256, 20_000
SIZE = {"width": 128, "depth": 4}
PAIR_GRID = torch.linspace(0, 1, 31)
RING, PATH = ring_of_gaussians(), AffinePath(LINEAR)
SETS, POINTS = 2, 1000  # what each distance is averaged over


def convex_gradient(x):
    """Map noise to eleven clumps by the gradient of log(Σ exp(3 m_k·x))/3 + ‖x‖²/2.

    The gradient of a convex function: the lines never cross. It stretches about as much as the
    exact flow does.
    """
    return x + torch.softmax(3 * x @ RING.means.T, dim=1) @ RING.means


def fit(network, loss, steps, rate=4e-3):
    """Train a network; return its averaged weights and the seconds it took."""
    ema, started = EMA(network, decay=0.995), time.process_time()
    for _ in train(network, loss, steps, rate, ema):
        pass
    return ema.network, time.process_time() - started


def fit_flow(draw, steps):
    """Regress on the velocity of straight lines between the pairs that draw() returns."""
    network = MLP(**SIZE)
    return fit(
        network, lambda: flow_matching_loss(network, PATH, *draw(), uniform_times(BATCH)), steps
    )


def fit_distilled(draw, steps):
    """Regress one Euler step from noise on the other end of its pair."""
    network = MLP(**SIZE)
    return fit(network, lambda: distillation_loss(network, *draw()), steps)


def fit_mean_flow(steps, same=0.75):
    """Train a mean velocity; a share ``same`` of the pairs of times is flow matching."""
    network = MeanFlowMLP(**SIZE)

    def loss():
        start, end = torch.rand(2, BATCH).sort(dim=0).values
        end = torch.where(torch.rand(BATCH) < same, start, end)
        return mean_flow_loss(network, PATH, *draw_independent(), start, end)

    return fit(network, loss, steps, rate=3e-3)


def draw_independent(coupling=independent):
    x0, x1 = torch.randn(BATCH, 2), RING.sample(BATCH)
    return coupling(x0, x1), x1


def drawn_from(pairs):
    """Return a function that draws a batch of stored pairs."""

    def draw():
        rows = torch.randint(len(pairs[0]), (BATCH,))
        return pairs[0][rows], pairs[1][rows]

    return draw


def distance(x, data):
    """Average the Wasserstein distance over sets of POINTS."""
    sets = zip(x.split(POINTS), data.split(POINTS), strict=True)
    return mean(wasserstein(a, b) for a, b in sets)


def strays(x):
    """Return the share of samples more than 2.5 from every centre: exp(-2.5²/2) = 4 % of data.

    The bridges between the modes, which the Wasserstein distance hardly notices.
    """
    return (torch.cdist(x, RING.means).amin(dim=1) > 2.5).float().mean().item()


def pairs_of(field):
    started = time.process_time()
    pairs = model_pairs(field, torch.randn(PAIRS, 2), PAIR_GRID, heun)
    return pairs, time.process_time() - started


@torch.no_grad()
def measure(field, noise, data):
    """Measure a flow: its samples after 1, 2, 10 and 100 Euler steps, its bends and its costs."""
    row = {}
    for steps in (1, 2, 10, 100):
        solution = solve(field, noise, torch.linspace(0, 1, steps + 1), euler)
        row[f"w2_{steps}"] = distance(solution.last, data)
        row[f"strays_{steps}"] = strays(solution.last)
    solution = solve(field, noise, torch.linspace(0, 1, 51), heun)  # Euler cuts the corners
    move = solution.last - noise
    row["straightness"] = straightness(solution)
    row["squared_cost"] = move.square().sum(dim=1).mean().item()
    row["cost"] = move.norm(dim=1).mean().item()
    return row, solution.last


def apart(x, y):
    """Return the root mean square of the distance between the ends of two maps."""
    return (x - y).square().sum(dim=1).mean().sqrt().item()


def run(seed):
    """Train everything once; return a dictionary of rows, one for each flow."""
    torch.manual_seed(seed)
    noise, data = torch.randn(SETS * POINTS, 2), RING.sample(SETS * POINTS)
    rows, ends, exact = {}, {}, ExactField(PATH, RING)
    rows["exact"], ends["exact"] = measure(exact, noise, data)
    rows["fresh"] = {
        "w2_100": distance(RING.sample(SETS * POINTS), data),
        "strays_100": strays(data),
    }

    rows["independent, long"], _ = measure(fit_flow(draw_independent, 2 * STEPS)[0], noise, data)

    field, seconds = fit_flow(draw_independent, STEPS)
    for number in (1, 2, 3):
        name = f"{number}-rectified"
        rows[name], ends[name] = measure(field, noise, data)
        rows[name] |= {"training": seconds, "from_exact": apart(ends[name], ends["exact"])}
        if number > 1:
            rows[name]["from_teacher"] = apart(ends[name], ends[f"{number - 1}-rectified"])
        if number < 3:
            pairs, rows[name]["pairs"] = pairs_of(field)
            student = fit_distilled(drawn_from(pairs), STEPS)[0]
            with torch.no_grad():
                end = noise + student(noise, torch.zeros(len(noise)))
            rows[f"distilled from {number}-rectified"] = {
                "w2_1": distance(end, data),
                "strays_1": strays(end),
                "from_teacher": apart(end, ends[name]),
            }
            field, seconds = fit_flow(drawn_from(pairs), STEPS)

    pairing = [0.0]

    def timed_ot(x0, x1):
        begun = time.process_time()
        x0 = exact_ot(x0, x1)
        pairing[0] += time.process_time() - begun
        return x0

    field, seconds = fit_flow(lambda: draw_independent(timed_ot), 2 * STEPS)
    rows["OT, long"], _ = measure(field, noise, data)
    rows["OT, long"] |= {"training": seconds - pairing[0], "pairs": pairing[0]}

    start = torch.randn(SETS * POINTS, 2)
    field, _ = fit_flow(straight_pairs, STEPS)
    solution = follow(field, start)
    rows["straight pairs"] = {"straightness": straightness(solution)}

    field, seconds = fit_mean_flow(2 * STEPS)
    rows["MeanFlow"] = measure_mean_flow(field, noise, data) | {"training": seconds}
    return rows


def straight_pairs():
    x0 = torch.randn(BATCH, 2)
    return x0, convex_gradient(x0)


@torch.no_grad()
def follow(field, noise, steps=100):
    return solve(field, noise, torch.linspace(0, 1, steps + 1), euler)


@torch.no_grad()
def measure_mean_flow(mean_velocity, noise, data):
    """Measure samples in 1, 2 and 10 jumps, and in 100 Euler steps of its velocity."""
    row = {}
    for jumps in (1, 2, 10):
        x, times = noise, torch.linspace(0, 1, jumps + 1)
        for start, end in zip(times[:-1], times[1:], strict=True):
            x = x + (end - start) * mean_velocity(x, start.expand(len(x)), end.expand(len(x)))
        row[f"w2_{jumps}"] = distance(x, data)
        row[f"strays_{jumps}"] = strays(x)
    solution = follow(lambda x, t: mean_velocity(x, t, t), noise)
    row["w2_100"] = distance(solution.last, data)
    row["strays_100"] = strays(solution.last)
    return row


def main():
    started, runs = time.perf_counter(), []
    for seed in SEEDS:
        runs.append(run(seed))
        print(runs[-1], flush=True)
    settings = {"steps": STEPS, "batch": BATCH, "pairs": PAIRS, "points": SETS * POINTS}
    results = {"settings": settings, "flows": summarise(runs), "runs": runs}
    save("reflow", results, SEEDS, started)


if __name__ == "__main__":
    main()
