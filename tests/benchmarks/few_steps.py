"""Every few-step method of the book on the ring, at equal budget, with three seeds.

    PYTHONPATH=. python tests/benchmarks/few_steps.py

The budget is counted in multiplications: all that a method does before it can sample, teachers and
pairs included. Seconds depend on the machine and on its other work, and updates on the method: one
of flow matching costs a third of one that differentiates twice. Chapter 10.
"""

import copy
import time
from functools import partial
from statistics import mean

import torch
from provenance import save, summarise
from torch.utils.flop_counter import FlopCounterMode

from fmtutorial.distribution_matching import distribution_matching_loss, kernel_drift
from fmtutorial.distributions import ring_of_gaussians
from fmtutorial.flow_maps import (
    consistency_loss,
    improved_mean_flow_loss,
    jump,
    jump_along,
    lagrangian_loss,
    shortcut_loss,
)
from fmtutorial.losses import flow_matching_loss, mean_squared_norm, uniform_times
from fmtutorial.metrics import energy_distance
from fmtutorial.networks import MLP, MeanFlowMLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import distillation_loss, mean_flow_loss, model_pairs
from fmtutorial.solvers import euler, heun, solve
from fmtutorial.training import EMA, train

SEEDS = [0, 1, 2]
UPDATES = 1500  # of flow matching, which the budget pays for
BATCH, RATE, SAME = 256, 3e-3, 0.5
WARM_UP, LONGEST = 50, 30.0  # updates and gradient, without which the Lagrangian loss may diverge
SIZE = {"width": 128, "depth": 3}
PAIRS, PAIR_STEPS = 4000, 10
FOLLOWED, WIDTHS = 4, (0.5, 4.0)
STEPS = (1, 2, 4)
SETS, POINTS = 2, 1000  # what each distance is averaged over
UPDATED = []  # the updates of each training since the list was emptied
RING, PATH = ring_of_gaussians(), AffinePath(LINEAR)


def count(work):
    """Return the multiplications that a function does, or 2 for each as the counter has it."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def draw():
    return torch.randn(BATCH, 2), RING.sample(BATCH)


def drawn_from(pairs):
    def draw():
        rows = torch.randint(len(pairs[0]), (BATCH,))
        return pairs[0][rows], pairs[1][rows]

    return draw


def matching(network, draw=draw):
    return flow_matching_loss(network, PATH, *draw(), uniform_times(BATCH))


def fit(network, loss, budget):
    """Train a network until the budget is spent; return its averaged weights."""
    steps = int(budget / count(lambda: loss().backward()))
    UPDATED.append(steps)
    ema = EMA(network, decay=0.995)
    for _ in train(network, loss, steps, RATE, ema, WARM_UP, LONGEST):
        pass
    return ema.network


def budget():
    network = MLP(**SIZE)
    return UPDATES * count(lambda: matching(network).backward())


def in_euler_steps(field, noise, n):
    return solve(field, noise, torch.linspace(0, 1, n + 1), euler, last_only=True).last


def in_jumps(mean_velocity, noise, n):
    return jump_along(mean_velocity, noise, torch.linspace(0, 1, n + 1))


def with_fresh_noise(mean_velocity, noise, n):
    """Sample a consistency model: jump to the data, go back to time k/n with new noise, jump."""
    x, one = noise, torch.ones(len(noise))
    for k in range(n):
        t = one * k / n
        x = jump(mean_velocity, PATH.sample(torch.randn_like(x), x, t).x_t if k else x, t, one)
    return x


def flow_matching(budget):
    network = MLP(**SIZE)
    return partial(in_euler_steps, fit(network, lambda: matching(network), budget))


def second_round(budget, loss_of):
    """Spend 0.4 on a teacher, what they cost on pairs, and the rest on the student."""
    teacher = MLP(**SIZE)
    teacher = fit(teacher, lambda: matching(teacher), 0.4 * budget)
    made, grid = [], torch.linspace(0, 1, PAIR_STEPS + 1)
    spent = count(lambda: made.append(model_pairs(teacher, torch.randn(PAIRS, 2), grid, heun)))
    student = MLP(**SIZE)
    return fit(student, lambda: loss_of(student, drawn_from(made[0])), 0.6 * budget - spent)


def reflow(budget):
    return partial(in_euler_steps, second_round(budget, matching))


def distillation(budget):
    return one_step(second_round(budget, lambda network, draw: distillation_loss(network, *draw())))


def consistency(budget):
    """Gaps fall from 0.2 to 0.02 in the course of the training, evenly in their logarithm."""
    network, steps = MeanFlowMLP(**SIZE), [0]
    share = count(lambda: consistency_step(network, 0.1).backward()) / budget

    def loss():
        steps[0] += 1
        return consistency_step(network, 0.2 * 0.1 ** min(1.0, share * steps[0]))

    return partial(with_fresh_noise, fit(network, loss, budget))


def consistency_step(network, gap):
    start = uniform_times(BATCH)
    return consistency_loss(network, PATH, *draw(), start, (start + gap).clamp(max=1))


def flow_map(budget, loss_of):
    """Train a mean velocity; for a share SAME of the pairs of times it is flow matching.

    The longest jump grows from 0 to 1 in the first half of the training: a map that teaches
    itself far from the data before it knows the velocity there runs away (Lagrangian).
    """
    network, steps = MeanFlowMLP(**SIZE), [0]

    def step(longest):
        start, end = torch.rand(2, BATCH).sort(dim=0).values
        end = start + longest * (end - start) * (torch.rand(BATCH) > SAME)
        return loss_of(network, PATH, *draw(), start, end)

    share = count(lambda: step(1.0).backward()) / budget

    def loss():
        steps[0] += 1
        return step(min(1.0, 2 * share * steps[0]))

    return partial(in_jumps, fit(network, loss, budget))


def one_step(generator):
    return lambda noise, n: in_euler_steps(generator, noise, 1) if n == 1 else None


def made_by(generator):
    noise = torch.randn(BATCH, 2)
    return noise + generator(noise, torch.zeros(BATCH))


def distribution_matching(budget):
    """Spend 0.4 on a teacher; a copy of it follows the student, FOLLOWED updates for each."""
    teacher = MLP(**SIZE)
    teacher, student = fit(teacher, lambda: matching(teacher), 0.4 * budget), MLP(**SIZE)
    own = copy.deepcopy(teacher).requires_grad_(True)
    optimizer = torch.optim.AdamW(own.parameters(), RATE, weight_decay=0.0)

    def pairs():
        return torch.randn(BATCH, 2), made_by(student).detach()

    def loss():
        for _ in range(FOLLOWED):
            optimizer.zero_grad()
            matching(own, pairs).backward()
            optimizer.step()
        t, noise = uniform_times(BATCH), torch.randn(BATCH, 2)
        return distribution_matching_loss(made_by(student), own, teacher, PATH, t, noise)

    return one_step(fit(student, loss, 0.6 * budget))


def drifting(budget):
    """Regress samples on where a kernel's drift takes them; a width for each update."""
    student = MLP(**SIZE)

    def loss():
        x, own = made_by(student), made_by(student).detach()
        width = WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** torch.rand(()).item()
        goal = x.detach() + kernel_drift(x.detach(), RING.sample(BATCH), own, width)
        return mean_squared_norm(x - goal) / 2

    return one_step(fit(student, loss, budget))


METHODS = {
    "flow matching": flow_matching,
    "ReFlow": reflow,
    "distillation": distillation,
    "consistency": consistency,
    "MeanFlow": partial(flow_map, loss_of=mean_flow_loss),
    "improved MeanFlow": partial(flow_map, loss_of=improved_mean_flow_loss),
    "shortcut": partial(flow_map, loss_of=shortcut_loss),
    "Lagrangian": partial(flow_map, loss_of=lagrangian_loss),
    "distribution matching": distribution_matching,
    "drifting": drifting,
}
"""From a name to a function of the budget that returns sample(noise, n), None where n steps have
no meaning."""


def strays(x):
    """Return the share of samples more than 2.5 from every centre: exp(-2.5²/2) = 4 % of data."""
    return (torch.cdist(x, RING.means).amin(dim=1) > 2.5).float().mean().item()


def measure(x, data):
    """Return the energy distance, averaged over sets of POINTS, and the share of strays."""
    sets = zip(x.split(POINTS), data.split(POINTS), strict=True)
    return mean(energy_distance(a, b) for a, b in sets), strays(x)


def run(seed):
    torch.manual_seed(seed)
    noise, data = torch.randn(SETS * POINTS, 2), RING.sample(SETS * POINTS)
    far, stray = measure(RING.sample(SETS * POINTS), data)
    rows = {"fresh data": {"energy_1": far, "strays_1": stray}}
    for name, method in METHODS.items():
        torch.manual_seed(seed)
        UPDATED.clear()
        started = time.process_time()
        sample = method(budget())
        rows[name] = {"seconds": time.process_time() - started, "updates": sum(UPDATED)}
        for n in STEPS:
            with torch.no_grad():
                x = sample(noise, n)
            if x is not None:
                rows[name][f"energy_{n}"], rows[name][f"strays_{n}"] = measure(x, data)
        print(seed, name, {k: round(v, 3) for k, v in rows[name].items()}, flush=True)
    return rows


def main():
    started, runs = time.perf_counter(), [run(seed) for seed in SEEDS]
    settings = {"updates": UPDATES, "batch": BATCH, "same": SAME, "pairs": PAIRS}
    settings |= {"pair_steps": PAIR_STEPS, "points": SETS * POINTS}
    results = {"settings": settings, "methods": summarise(runs), "runs": runs}
    save("few_steps", results, SEEDS, started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
