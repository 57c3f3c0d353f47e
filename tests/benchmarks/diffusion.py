"""Samplers at equal evaluations, two ways to train, and wrong fields with noise (chapter 7).

python tests/benchmarks/diffusion.py, about 25 minutes on one core.
"""

import time
from functools import partial

import torch
from provenance import save
from torch import Tensor

from fmtutorial.diffusion import (
    as_velocity,
    change_schedule,
    ddim,
    noise_prediction_loss,
    reversal_noise_level,
    solve_sde,
)
from fmtutorial.distributions import GaussianMixture, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.fields import VelocityField
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import energy_distance, relative_error, wasserstein
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, VP, AffinePath
from fmtutorial.solvers import dpm_solver, euler, half_log_snr, solve, time_of
from fmtutorial.training import EMA, train

SEEDS = [0, 1, 2, 3]
RATES = [0.002, 0.01]
EVALUATIONS = [5, 10, 20, 50, 100]
RING = ring_of_gaussians()
PATHS = {"linear": AffinePath(LINEAR), "cosine": AffinePath(COSINE), "VP": AffinePath(VP)}
THREE = GaussianMixture(
    torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]]),
    torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.6]], [[0.3, -0.1], [-0.1, 0.2]]]),
    torch.tensor([0.5, 0.3, 0.2]),
)
ERRORS = {  # of the velocity
    "constant": lambda x: torch.tensor([0.5, 0.0]) + 0 * x,
    "wavy": lambda x: 0.7 * torch.sin(2 * x.flip(1)),
}
TRAINED = {  # name: schedule, what the network predicts
    "velocity, linear": ("linear", "velocity"),
    "noise, linear": ("linear", "noise"),
    "velocity, cosine": ("cosine", "velocity"),
    "noise, cosine": ("cosine", "noise"),
    "noise, VP": ("VP", "noise"),
}


def within_modes(x: Tensor) -> float:
    """Return the standard deviation of a coordinate about the nearest mode; 1 for the ring."""
    nearest = torch.cdist(x, RING.means).min(dim=1).values
    return (nearest.square().mean() / 2).sqrt().item()


def judge(x: Tensor, generator: torch.Generator) -> list[float]:
    """Return the Wasserstein distance to fresh data and the spread within the modes."""
    distance = sum(wasserstein(part, RING.sample(1000, generator)) for part in x[:2000].split(1000))
    return [distance / 2, within_modes(x)]


def summary(rows: list[list[float]]) -> dict[str, list[float]]:
    """Return mean and standard deviation over the seeds of what ``judge`` returned."""
    values = torch.tensor(rows)
    pairs = zip(values.mean(dim=0).tolist(), values.std(dim=0).tolist(), strict=True)
    return {
        key: [round(number, 3) for number in pair]
        for key, pair in zip(("distance", "spread"), pairs, strict=True)
    }


def samplers() -> dict:
    """Return by name: schedule, and (field, noise, grid, path, generator) → samples."""

    def by_step(field, x, grid, path, generator, step):
        return solve(field, x, grid, step(path, generator))

    def by_noise(field, x, grid, path, generator, level):
        return solve_sde(field, x, grid, path, level, generator)

    plain = partial(by_step, step=lambda path, generator: ddim(path))
    ancestral = partial(by_step, step=lambda path, generator: ddim(path, 1.0, generator))
    return {
        "Euler = DDIM, linear": ("linear", partial(by_step, step=lambda path, generator: euler)),
        "Euler, cosine": ("cosine", partial(by_step, step=lambda path, generator: euler)),
        "DDIM, cosine": ("cosine", plain),
        "DDIM, VP": ("VP", plain),
        "DPM-Solver++, linear": ("linear", lambda f, x, g, p, r: dpm_solver(f, x, g, p)),
        "DPM-Solver++, VP": ("VP", lambda f, x, g, p, r: dpm_solver(f, x, g, p)),
        "ancestral, cosine": ("cosine", ancestral),
        "ancestral, VP": ("VP", ancestral),
        "Euler–Maruyama w = 1, linear": ("linear", partial(by_noise, level=torch.ones_like)),
        "Euler–Maruyama w = √β, VP": ("VP", partial(by_noise, level=reversal_noise_level(VP))),
    }


def compare_samplers() -> dict:
    """Sample the ring with the exact field by every sampler at equal evaluations."""
    table = {}
    for name, (schedule, run) in samplers().items():
        path = PATHS[schedule]
        field, table[name] = ExactField(path, RING), {}
        for n in EVALUATIONS:
            rows = []
            for seed in SEEDS:
                generator = torch.Generator().manual_seed(seed)
                noise = torch.randn(4000, 2, generator=generator)
                solution = run(field, noise, torch.linspace(0, 1, n + 1), path, generator)
                assert solution.evaluations == n
                rows.append(judge(solution.last, generator))
            table[name][str(n)] = summary(rows)
        print(name, table[name], flush=True)
    return table


def fresh() -> dict[str, list[float]]:
    """Return what ``judge`` says of data."""
    generators = [torch.Generator().manual_seed(100 + seed) for seed in range(8)]
    return summary([judge(RING.sample(4000, g), g) for g in generators])


def train_network(kind: str, rate: float, seed: int) -> VelocityField:
    """Train by one of the two losses on one of the schedules; return the velocity of its path."""
    schedule, predicted = TRAINED[kind]
    path = PATHS[schedule]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = MLP()
    average = EMA(network, decay=0.995)
    loss = flow_matching_loss if predicted == "velocity" else noise_prediction_loss

    def batch_loss() -> Tensor:
        x1 = RING.sample(512, generator)
        x0 = torch.randn(x1.shape, generator=generator)
        return loss(network, path, x0, x1, uniform_times(512, generator))

    for _ in train(network, batch_loss, steps=2000, learning_rate=rate, ema=average):
        pass
    if predicted == "velocity":
        return average.network
    return as_velocity(average.network, path, predicted)


@torch.no_grad()
def assess(field: VelocityField, path: AffinePath, seed: int) -> dict[str, list[float]]:
    """Return the field's error on the linear path, and the quality of samples of two kinds."""
    generator = torch.Generator().manual_seed(1000 + seed)
    linear, vp = PATHS["linear"], PATHS["VP"]
    straight = change_schedule(field, path, linear)
    x1 = RING.sample(8000, generator)
    t = 0.01 + 0.97 * uniform_times(8000, generator)
    x = linear.sample(torch.randn(x1.shape, generator=generator), x1, t).x_t
    results = {"error": [relative_error(straight(x, t), ExactField(linear, RING)(x, t))]}
    noise = torch.randn(4000, 2, generator=generator)
    # the linear sampler starts at the noise level at which VP starts: conversions from noise
    # divide by alpha
    start = time_of(LINEAR, half_log_snr(VP, torch.zeros(())))
    scaled = noise * torch.hypot(LINEAR.alpha(start), LINEAR.sigma(start))
    for n in (10, 50):
        grid = torch.linspace(start.item(), 1, n + 1)
        results[f"Euler, linear, {n}"] = judge(solve(straight, scaled, grid).last, generator)
        grid = torch.linspace(0, 1, n + 1)
        samples = solve(change_schedule(field, path, vp), noise, grid, ddim(vp)).last
        results[f"DDIM, VP, {n}"] = judge(samples, generator)
    return results


def compare_training() -> dict:
    """Train every kind with every learning rate and seed, on the same budget."""
    table = {}
    for kind, (schedule, _) in TRAINED.items():
        table[kind] = {}
        for rate in RATES:
            path = PATHS[schedule]
            runs = [assess(train_network(kind, rate, seed), path, seed) for seed in SEEDS]
            errors = torch.tensor([run.pop("error") for run in runs])
            row = {key: summary([run[key] for run in runs]) for key in runs[0]}
            row["error"] = [round(errors.mean().item(), 4), round(errors.std().item(), 4)]
            table[kind][str(rate)] = row
            print(kind, rate, row, flush=True)
    return table


def disturbed(error: str, score: str, c: float, seed: int) -> float:
    """Sample three modes with a wrong velocity; return the energy distance to fresh data.

    The cosine path from t = 0.02 to 0.98 in 200 steps, with c times the noise level of the
    reversal. The score is converted from the wrong velocity ("one") or exact ("exact").
    """
    generator = torch.Generator().manual_seed(seed)
    path, level = PATHS["cosine"], reversal_noise_level(COSINE)
    field = ExactField(path, THREE)
    times = torch.linspace(0.02, 0.98, 201)

    def draw(t: Tensor) -> Tensor:
        x1 = THREE.sample(3000, generator)
        noise = torch.randn(x1.shape, generator=generator)
        return path.sample(noise, x1, t.expand(len(x1))).x_t

    x, fresh = draw(times[0]), draw(times[-1])
    if error == "none":
        return energy_distance(draw(times[-1]), fresh)
    for t, end in zip(times[:-1], times[1:], strict=True):
        time_, w, h = t.expand(len(x)), c * level(t), end - t
        v = field(x, time_) + ERRORS[error](x)
        s = path.convert(v, x, time_, "velocity", "score")
        if score == "exact":
            s = field.score(x, time_)
        z = torch.randn(x.shape, generator=generator)
        x = x + h * (v + w**2 / 2 * s) + w * h.sqrt() * z
    return energy_distance(x, fresh)


def compare_errors() -> dict:
    """Return the energy distances of the samples of wrong fields, mean and sd over the seeds."""
    cases = [(e, s, c) for e in ERRORS for s in ("one", "exact") for c in (0.0, 0.5, 1.0, 2.0)]
    table = {}
    for error, score, c in [("none", "one", 0.0), *cases]:
        values = torch.tensor([disturbed(error, score, c, seed) for seed in SEEDS])
        numbers = [round(values.mean().item(), 3), round(values.std().item(), 3)]
        table[f"{error}, {score}, {c:g}"] = numbers
        print(error, score, c, numbers, flush=True)
    return table


def main() -> None:
    started = time.perf_counter()
    results = {
        "fresh": fresh(),
        "samplers": compare_samplers(),
        "training": compare_training(),
        "errors": compare_errors(),
    }
    save("diffusion", results, SEEDS, started)


if __name__ == "__main__":
    main()
