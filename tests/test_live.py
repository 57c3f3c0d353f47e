"""The arithmetic of the living figures, in a real browser, held to the package on new inputs."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from browser import HTML, SEED, show
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from fmtutorial import couplings, solvers
from fmtutorial.assignment import assignment
from fmtutorial.bridges import Bridge, ExactBridge
from fmtutorial.diffusion import solve_sde
from fmtutorial.discrete import (
    ExactRate,
    TokenPath,
    all_states,
    euler_step,
    leap_step,
    masking_path,
    step_matrix,
    uniform_path,
)
from fmtutorial.distributions import GaussianMixture, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.guidance import autoguided, guided
from fmtutorial.manifolds import GeodesicField, Sphere, geodesic_euler
from fmtutorial.metrics import mode_shares, relative_error
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman
from fmtutorial.steering import QuadraticReward, guessed_value, steered, tilted
from fmtutorial.training import EMA

SCHEDULES = {"LINEAR": LINEAR, "COSINE": COSINE, "SQRT": SQRT, "VP": VP}
# Both sides compute in double precision, in another order of additions.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def page(browser, address):
    """Run JavaScript in a page of the site; `modules` are imported, arguments come as JSON."""
    browser.get(f"{address}404.html")

    def run(modules, body, **arguments):
        folder = f"{address}_static/live/"
        loads = ", ".join(f'import("{folder}{module}.js")' for module in modules)
        script = f"""
            const [data, done] = arguments;
            const points = (rows) => Float64Array.from(rows.flat());
            (async () => {{
              const modules = Object.assign({{}}, ...(await Promise.all([{loads}])));
              const plain = (key, value) => ArrayBuffer.isView(value) ? [...value] : value;
              done(JSON.stringify(await (async (m, a) => {{ {body} }})(modules, data), plain));
            }})().catch((error) => done(JSON.stringify({{error: `${{error}}`}})));
        """
        answer = json.loads(browser.execute_async_script(script, arguments))
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    assert (HTML / "_static" / "live").is_dir()
    return run


def normal(draw, *shape):
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def uniform(draw, *shape):
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


def same(answer, expected):
    torch.testing.assert_close(
        torch.tensor(answer, dtype=torch.float64).reshape(expected.shape), expected, **CLOSE
    )


@pytest.fixture
def mixture(draw):
    """A random mixture in the plane as the package and as the page have it."""
    weights, means, variances = uniform(draw, 5) + 0.1, 3 * normal(draw, 5, 2), uniform(draw, 5)
    weights = weights / weights.sum()
    target = {"weights": weights, "means": means, "variances": variances}
    in_page = {name: value.tolist() for name, value in target.items()}
    return GaussianMixture(means, variances, weights), in_page


TARGET = """
    const target = {weights: a.target.weights, means: points(a.target.means),
                    variances: a.target.variances};
"""


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(page, draw, name):
    t = uniform(draw, 20)
    kinds = {"alpha": "alpha", "sigma": "sigma", "alphaDot": "alpha_dot", "sigmaDot": "sigma_dot"}
    for theirs, ours in kinds.items():
        answer = page(["schedules"], f"return a.t.map(m.{name}.{theirs});", t=t.tolist())
        same(answer, getattr(SCHEDULES[name], ours)(t))


def test_lipman_schedule_leaves_noise(page, draw):
    t = uniform(draw, 10)
    body = "const s = m.lipman(0.1); return [a.t.map(s.sigma), a.t.map(s.sigmaDot)];"
    same(page(["schedules"], body, t=t.tolist()), torch.stack(
        [lipman(0.1).sigma(t), lipman(0.1).sigma_dot(t)]))  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("velocity", "__call__"), ("score", "score"), ("posteriorMean", "posterior_mean"),
     ("logProb", "log_prob"), ("targetVariance", "target_variance")],
)  # fmt: skip
def test_exact_field(page, draw, mixture, name, theirs, ours):
    target, in_page = mixture
    x, t = 3 * normal(draw, 7, 2), 0.05 + 0.9 * uniform(draw, 1).item()
    body = TARGET + f"return new m.ExactField(m.{name}, target).{theirs}(points(a.x), a.t);"
    answer = page(["schedules", "exact"], body, target=in_page, x=x.tolist(), t=t)
    exact = ExactField(AffinePath(SCHEDULES[name]), target)
    same(answer, getattr(exact, ours)(x, torch.full((7,), t, dtype=torch.float64)))


def test_exact_field_of_points(page, draw):
    data, x, t = normal(draw, 30, 2), normal(draw, 7, 2), 0.9
    body = """
        const field = new m.ExactField(m.LINEAR, m.points(points(a.data)));
        return field.velocity(points(a.x), a.t);
    """
    answer = page(["schedules", "exact"], body, data=data.tolist(), x=x.tolist(), t=t)
    times = torch.full((7,), t, dtype=torch.float64)
    same(answer, ExactField(AffinePath(LINEAR), data)(x, times))


def test_ring(page):
    answer = page(["exact"], "return m.ring().means;")
    # the package's ring is in single precision
    expected = ring_of_gaussians().means
    torch.testing.assert_close(torch.tensor(answer).reshape(11, 2), expected)


@pytest.mark.parametrize("step", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("direction", [1, -1])
def test_solver(page, draw, mixture, step, direction):
    target, in_page = mixture
    x, times = normal(draw, 6, 2), torch.linspace(0, 0.9, 8, dtype=torch.float64)
    times = times if direction == 1 else times.flip(0)
    body = (
        TARGET
        + f"""
        const field = new m.ExactField(m.COSINE, target);
        return m.solve(field.velocity, points(a.x), a.times, m.{step}).at(-1);
    """
    )
    modules = ["schedules", "exact", "solvers"]
    answer = page(modules, body, target=in_page, x=x.tolist(), times=times.tolist())
    exact = ExactField(AffinePath(COSINE), target)
    same(answer, solvers.solve(exact, x, times, getattr(solvers, step)).last)


def test_cost_of_a_step(page):
    counted = """
        return Object.entries(m.STEPS).map(([name, step]) => {
          let calls = 0;
          step((x) => (calls++, x), new Float64Array(2), 0, 1);
          return calls - m.COSTS[name];
        });
    """
    assert page(["solvers"], counted) == [0, 0, 0, 0]
    same(page(["solvers"], "return m.grid(4, 1, 0);"), torch.linspace(1, 0, 5, dtype=torch.float64))


def test_exact_pairing(page, draw):
    x0, x1 = normal(draw, 40, 2), 3 * normal(draw, 40, 2)
    body = "return m.assignment(m.squaredDistances(points(a.x0), points(a.x1)));"
    order = page(["couplings"], body, x0=x0.tolist(), x1=x1.tolist())
    cost = torch.cdist(x0, x1).square()
    best = assignment(cost.numpy())
    assert sorted(order) == list(range(40))
    found = cost[order, range(40)].sum()
    rows = torch.as_tensor(best)
    assert math.isclose(found, cost[rows, range(40)].sum(), rel_tol=1e-10) or math.isclose(
        found, cost[range(40), rows].sum(), rel_tol=1e-10
    )
    torch.testing.assert_close(x0[order], couplings.exact_ot(x0, x1))


def test_sinkhorn(page, draw):
    cost = 5 * uniform(draw, 9, 9)
    body = "return m.sinkhornLog(a.cost.map((r) => Float64Array.from(r)), a.epsilon, 30).flatMap("
    plan = page(["couplings"], body + "(r) => [...r]);", cost=cost.tolist(), epsilon=0.3)
    same(plan, couplings.sinkhorn_log(cost, 0.3, 30))


def test_pairing_from_a_plan(page, draw):
    x0, x1 = normal(draw, 12, 2), normal(draw, 12, 2)
    body = """
        const cost = m.squaredDistances(points(a.x0), points(a.x1));
        const mean = cost.flatMap((r) => [...r]).reduce((x, y) => x + y) / 144;
        const plan = m.sinkhornLog(cost.map((r) => r.map((c) => c / mean)), 0.1, 200);
        return [m.argmax(plan), m.drawn(plan, a.u), m.nearestPermutation(plan),
                plan.flatMap((r) => [...r])];
    """
    u = uniform(draw, 12)
    answer = page(["couplings"], body, x0=x0.tolist(), x1=x1.tolist(), u=u.tolist())
    largest, drawn, order, flat = answer
    plan = torch.tensor(flat, dtype=torch.float64).reshape(12, 12)
    assert largest == plan.argmax(dim=0).tolist()
    cells = torch.searchsorted(plan.flatten().cumsum(dim=0), u * plan.sum(), right=True)
    assert drawn == [list(divmod(cell, 12)) for cell in cells.tolist()]
    torch.testing.assert_close(x0[order], couplings.sinkhorn(x0, x1, 0.1, 200))


def test_mass_in_wrong_rows(page, draw):
    cost = 5 * uniform(draw, 9, 9)
    body = "return m.wrongRows(m.sinkhornLog(a.cost.map((r) => Float64Array.from(r)), 0.1, 2));"
    sums = couplings.sinkhorn_log(cost, 0.1, 2).sum(dim=1)
    assert sums.std() > 1e-3
    # what is too much in some rows is missing in others
    same(page(["couplings"], body, cost=cost.tolist()), (sums - 1 / 9).clamp(min=0).sum())


def test_sde_step(page, draw, mixture, monkeypatch):
    target, in_page = mixture
    x, noise = normal(draw, 6, 2), normal(draw, 6, 2)
    body = (
        TARGET
        + """
        const field = new m.ExactField(m.COSINE, target).velocity;
        return m.sdeStep(field, m.COSINE, points(a.x), 0.4, a.h, 0.7, points(a.noise));
    """
    )
    exact, path = ExactField(AffinePath(COSINE), target), AffinePath(COSINE)
    monkeypatch.setattr("torch.randn", lambda *shape, **options: noise)
    level = torch.tensor(0.7, dtype=torch.float64)
    for h in (0.05, -0.05):
        given = {"target": in_page, "x": x.tolist(), "noise": noise.tolist(), "h": h}
        answer = page(["schedules", "exact", "diffusion"], body, **given)
        times = torch.tensor([0.4, 0.4 + h], dtype=torch.float64)
        same(answer, solve_sde(exact, x, times, path, lambda t: level).last)


def test_network_and_its_gradient(page, draw):
    network = MLP(width=8, depth=2, frequencies=3).double()
    network.angles = math.pi * torch.arange(1, 4, dtype=torch.float64)  # else single precision's π
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.5 * normal(draw, *weight.shape))
    x, t, target = normal(draw, 5, 2), uniform(draw, 5), normal(draw, 5, 2)
    loss = (network(x, t) - target).square().sum(dim=1).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())])
    weights = torch.cat([weight.flatten() for weight in network.parameters()])
    body = """
        const network = new m.MLP({width: 8, depth: 2, frequencies: 3});
        network.weights.set(a.weights);
        const {loss, gradient} = network.lossAndGradient(points(a.x), a.t, points(a.target));
        return [[...network.velocity(points(a.x), a.t)], loss, [...gradient]];
    """
    given = {"weights": weights.tolist(), "x": x.tolist(), "t": t.tolist()}
    velocity, value, slopes = page(["mlp"], body, target=target.tolist(), **given)
    same(velocity, network(x, t).detach())
    same(value, loss.detach())
    same(slopes, gradient)


def test_adam(page, draw):
    weights, gradients = normal(draw, 10), normal(draw, 3, 10)
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.01)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    body = """
        const weights = Float64Array.from(a.weights), adam = new m.Adam(10);
        a.gradients.forEach((g) => adam.step(weights, g, 0.01));
        return weights;
    """
    answer = page(["mlp"], body, weights=weights.tolist(), gradients=gradients.tolist())
    same(answer, parameter.detach())


def test_average_of_weights(page, draw):
    weights = normal(draw, 4, 10)
    network = torch.nn.Linear(10, 1, bias=False).double()
    network.weight.data = weights[:1].clone()
    average = EMA(network, 0.5)
    for step in weights[1:]:
        network.weight.data = step[None].clone()
        average.update(network)
    body = """
        const [first, ...steps] = a.weights.map((row) => ({weights: Float64Array.from(row)}));
        const average = new m.EMA(first, 0.5);
        steps.forEach((step) => average.update(step));
        return average.weights;
    """
    same(page(["mlp"], body, weights=weights.tolist()), average.network.weight[0])


def in_package(weights):
    """Return the network of chapter 3's figure with the weights of the page."""
    network = MLP(width=32, depth=3, frequencies=4).double()
    network.angles = math.pi * torch.arange(1, 5, dtype=torch.float64)
    weights = torch.tensor(weights, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    return network


def test_update_of_the_training(page, mixture):
    body = (
        TARGET
        + """
        const training = new m.Training(target, a.seed);
        for (let i = 0; i < 3; i++) training.update(0.01);
        const before = training.network.weights.slice(), average = training.average.weights.slice();
        const adam = [training.adam.mean.slice(), training.adam.square.slice()];
        training.uniform = m.generator(a.seed);
        const loss = training.update(0.01);
        const after = training.network.weights, averaged = training.average.weights;
        const uniform = m.generator(a.seed);  // the same batch again
        const t = Float64Array.from({length: 128}, uniform);
        const x0 = m.normal(uniform, 256), x1 = m.sample(target, uniform, 128);
        return {before, average, adam, loss, after, averaged, t, x0, x1};
    """
    )
    target, in_page = mixture
    got = page(["training", "random"], body, target=in_page, seed=SEED)
    t, x0, x1 = (torch.tensor(got[name], dtype=torch.float64) for name in ("t", "x0", "x1"))
    x0, x1, path = x0.reshape(-1, 2), x1.reshape(-1, 2), AffinePath(LINEAR)
    network = in_package(got["before"])
    point = path.sample(x0, x1, t)
    loss = (network(point.x_t, t) - point.velocity).square().sum(dim=1).mean()
    same(got["loss"], loss.detach())
    # PyTorch's Adam with the page's moments after three steps, on all weights as one tensor
    weights = torch.nn.Parameter(torch.tensor(got["before"], dtype=torch.float64))
    gradient = torch.autograd.grad(loss, network.parameters())
    weights.grad = torch.cat([slope.flatten() for slope in gradient])
    adam = torch.optim.Adam([weights], lr=0.01)
    mean, square = torch.tensor(got["adam"], dtype=torch.float64)
    adam.state[weights] = {"step": torch.tensor(3.0), "exp_avg": mean, "exp_avg_sq": square}
    adam.step()
    same(got["after"], weights.detach())
    average = torch.tensor(got["average"], dtype=torch.float64)
    decay = (1 + 4) / (10 + 4)
    same(got["averaged"], decay * average + (1 - decay) * weights.detach())


def test_measurements_of_the_training(page, mixture):
    body = (
        TARGET
        + """
        const training = new m.Training(target, a.seed);
        for (let i = 0; i < 20; i++) training.update(0.01);
        return {errors: training.errors(), floor: training.floor, probe: training.probe,
                truth: training.truth, weights: training.network.weights,
                average: training.average.weights, noise: training.noise,
                samples: training.samples().at(-1)};
    """
    )
    target, in_page = mixture
    got = page(["training"], body, target=in_page, seed=SEED)
    x = torch.tensor(got["probe"]["x"], dtype=torch.float64).reshape(-1, 2)
    t = torch.tensor(got["probe"]["t"], dtype=torch.float64)
    exact = ExactField(AffinePath(LINEAR), target)
    same(got["truth"], exact(x, t))
    networks = [in_package(got[name]) for name in ("weights", "average")]
    with torch.no_grad():
        errors = [relative_error(network(x, t), exact(x, t)) for network in networks]
    same(got["errors"], torch.tensor(errors, dtype=torch.float64))
    noise = torch.tensor(got["noise"], dtype=torch.float64).reshape(-1, 2)
    times = torch.linspace(0, 1, 13, dtype=torch.float64)
    same(got["samples"], solvers.solve(networks[1], noise, times, solvers.heun).last.detach())
    # the floor is a mean over random points on both sides
    n, draw = 40_000, torch.Generator().manual_seed(SEED)
    t, x0 = uniform(draw, n), normal(draw, n, 2)
    x = AffinePath(LINEAR).sample(x0, target.sample(n, draw).double(), t).x_t
    variance = exact.target_variance(x, t)
    error = variance.std() * math.sqrt(1 / n + 1 / 6000)
    assert abs(got["floor"] - variance.mean()) < 5 * error


def test_random_numbers(page):
    body = """
        const uniform = m.generator(a.seed), again = m.generator(a.seed);
        const u = Array.from({length: 40000}, uniform);
        return {repeats: u.slice(0, 5).every((v) => v === again()), u,
                normals: m.normal(uniform, 40001)};
    """
    answer = page(["random"], body, seed=SEED)
    assert answer["repeats"]
    u, z = torch.tensor(answer["u"]).double(), torch.tensor(answer["normals"]).double()
    assert 0 <= u.min() and u.max() < 1
    # five standard errors: 0.289 and 1 over the root of 40,000; of a variance √2 over it
    assert abs(u.mean() - 0.5) < 5 * 0.289 / 200
    assert abs(z.mean()) < 5 / 200 and abs(z.var() - 1) < 5 * math.sqrt(2) / 200


def test_samples_of_a_mixture(page, mixture):
    target, in_page = mixture
    body = TARGET + "return m.sample(target, m.generator(a.seed), 20000);"
    x = page(["random"], body, target=in_page, seed=SEED)
    x = torch.tensor(x, dtype=torch.float64).reshape(-1, 2)
    mean = (target.weights[:, None] * target.means).sum(dim=0)
    # five standard errors of each coordinate's mean
    assert ((x.mean(dim=0) - mean).abs() < 5 * x.std(dim=0) / math.sqrt(20000)).all()
    exact = ExactField(AffinePath(LINEAR), target)
    ones = torch.ones(len(x), dtype=torch.float64)
    fresh = target.sample(20000, torch.Generator().manual_seed(SEED)).double()
    ours, theirs = (exact.log_prob(points, ones) for points in (x, fresh))
    spread = math.sqrt((ours.var() + theirs.var()) / 20000)
    assert abs(ours.mean() - theirs.mean()) < 5 * spread


@pytest.mark.parametrize("name", ["a rotation", "a source", "more stretching to the right"])
def test_box_grows_as_the_divergence_says(page, draw, name):
    """Its area and the flux through its sides, against autograd and a fine solution."""
    x, y = (2 * uniform(draw, 2) - 1).tolist()
    body = """
        const field = m.FIELDS[a.name], box = m.outline(a.x, a.y, 0.01);
        return {divergence: field.divergence(a.x, a.y), flux: m.flux(field.v, box) / m.area(box),
                area: m.area(box), v: field.v(a.x, a.y)};
    """
    answer = page(["01-flows"], body, name=name, x=x, y=y)
    assert math.isclose(answer["area"], 0.02**2, rel_tol=1e-9)
    # the box has sides of 0.02: the second derivative of the divergence enters with their square
    assert abs(answer["flux"] - answer["divergence"]) < 1e-4
    fields = {
        "a rotation": lambda p: torch.stack([-p[1], p[0]]),
        "a source": lambda p: 0.4 * p,
        "more stretching to the right": lambda p: torch.stack(
            [0.3 * torch.exp(0.4 * p[0]), 0 * p[1]]
        ),
    }
    place = torch.tensor([x, y], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(fields[name], place)
    same([answer["divergence"]], jacobian.trace()[None])
    same(answer["v"], fields[name](place))


def test_marginal_and_histogram(page, mixture):
    target, in_page = mixture
    body = (
        TARGET
        + """
        const x = m.sample(target, m.generator(a.seed), 20000);
        const t = a.t;
        return {density: a.at.map((v) => m.marginal(target, m.LINEAR, v, t)),
                heights: m.histogram(x.filter((_, i) => i % 2 === 0), {from: -20, to: 20}, 80)};
    """
    )
    at = torch.linspace(-5, 5, 9, dtype=torch.float64)
    modules = ["07-diffusion", "chart", "schedules", "random"]
    answer = page(modules, body, target=in_page, seed=SEED, at=at.tolist(), t=0.7)
    variances = torch.tensor(in_page["variances"], dtype=torch.float64)
    means, stds = 0.7 * target.means[:, 0], (0.49 * variances + 0.09).sqrt()
    normal = torch.distributions.Normal(means, stds)
    same(answer["density"], normal.log_prob(at[:, None]).exp() @ target.weights)
    # nothing is left out: the bars add up to one
    assert math.isclose(0.5 * sum(answer["heights"]), 1, rel_tol=1e-9)


def test_distance_of_two_sets(page, draw):
    x, y = normal(draw, 6, 2), normal(draw, 6, 2)
    answer = page(["05-solvers"], "return m.distance(points(a.x), points(a.y));",
                  x=x.tolist(), y=y.tolist())  # fmt: skip
    same([answer], (x - y).square().sum(dim=1).mean().sqrt()[None])


def test_guidance(page, draw):
    means, x = normal(draw, 3, 2), normal(draw, 6, 2)
    scale = 1 + 3 * uniform(draw, 1).item()
    body = """
        const all = {weights: [1 / 3, 1 / 3, 1 / 3], means: points(a.means),
                     variances: [0.5, 0.5, 0.5]};
        const one = {weights: [1], means: points([a.means[1]]), variances: [0.5]};
        const [free, label] = [all, one].map((target) => new m.ExactField(m.LINEAR, target));
        const x = points(a.x);
        return [m.guided(free.velocity, label.velocity, a.scale)(x, 0.6),
                m.sharpened(free.logProb(x, 1), label.logProb(x, 1), a.scale)];
    """
    modules = ["schedules", "exact", "guidance"]
    answer = page(modules, body, means=means.tolist(), x=x.tolist(), scale=scale)
    half = torch.full((3,), 0.5, dtype=torch.float64)
    mixture = GaussianMixture(means, half, torch.full_like(half, 1 / 3))
    single = GaussianMixture(means[1:2], half[:1])
    path = AffinePath(LINEAR)

    def network(x, t, label):
        return ExactField(path, mixture if label is None else single)(x, t)

    field = guided(network, torch.ones(6, dtype=torch.long), scale)
    same(answer[0], field(x, torch.full((6,), 0.6, dtype=torch.float64)))
    # p(x) p(y | x)^s, with p(y | x) by Bayes, up to a constant
    log_p = mixture.log_prob(x)
    expected = log_p + scale * (single.log_prob(x) - log_p)
    same(answer[1], expected)


def test_summary_of_weighted_points(page, draw):
    x, w = normal(draw, 20, 2), uniform(draw, 20)
    body = "return m.summary(points(a.x), (i) => a.w[i]);"
    answer = page(["guidance"], body, x=x.tolist(), w=w.tolist())
    w = w / w.sum()
    same(answer["mean"], w @ x)
    same([answer["spread"]], (w @ (x - w @ x).square().sum(dim=1)).sqrt()[None])


# The worker behind chapter 3's figure; a test can count its answers, end it or send it nowhere.
WATCH = """
const Real = Worker;
window.workers = [];
window.answers = [];
window.Worker = class extends Real {
  constructor(url, options) {
    super(window.broken ? "nowhere.js" : url, options);
    workers.push(this);
    this.addEventListener("message", (event) => answers.push(event.data));
  }
};
"""


@pytest.fixture
def training(browser, address):
    """Open chapter 3's figure; return its words, its button of a name, and a wait."""
    show(browser, 1280)
    features = [{"name": "prefers-reduced-motion", "value": "no-preference"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    watch = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    browser.get(f"{address}book/03-flow-matching.html?plain")
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", watch)
    element = browser.find_element("id", "live-03-flow-matching")

    def words():
        found = element.find_elements("class name", "live-words")
        return found[0].text if found else ""

    def button(name):
        buttons = element.find_elements("tag name", "button")
        next(b for b in buttons if b.text == name).click()

    def wait(condition):
        # a busy machine may need several times as long as a reader's
        WebDriverWait(browser, 60).until(lambda _: condition())

    def see():
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)

    return SimpleNamespace(words=words, button=button, wait=wait, see=see, element=element)


def test_ring_is_learned_and_the_worker_rests_out_of_sight(browser, training):
    training.see()
    on_data = r"(\d+) % of their samples lie on the data"

    def learned():
        found = re.search(on_data, training.words())
        return found and int(found[1]) >= 80

    training.wait(learned)
    samples = browser.execute_script("return [...answers.findLast(a => a.states).states.at(-1)]")
    samples = torch.tensor(samples).reshape(-1, 2)
    assert (mode_shares(samples, ring_of_gaussians().means) > 0.3 / 11).all()
    browser.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    pause = "setTimeout(() => arguments[0](answers.length), 700)"
    first = browser.execute_async_script(pause)
    assert browser.execute_async_script(pause) == first
    training.see()
    training.wait(lambda: browser.execute_script("return answers.length") > first)


def test_lost_worker_gets_a_sentence_and_a_new_start(browser, training):
    training.see()
    training.wait(lambda: training.words().startswith("After"))
    browser.execute_script("workers.at(-1).terminate()")
    training.wait(lambda: "does not answer" in training.words())
    training.button("Train")
    training.wait(lambda: training.words().startswith("After"))


def test_worker_that_cannot_start_gets_a_sentence_and_a_new_start(browser, training):
    browser.execute_script("window.broken = true")
    training.see()
    training.wait(lambda: "could not start" in training.words())
    browser.execute_script("window.broken = false")
    training.button("Train")
    training.wait(lambda: training.words().startswith("After"))


def test_training_without_data_gets_a_sentence(browser, training):
    training.see()
    training.wait(training.words)
    training.element.find_element("tag name", "select").send_keys("what I draw")
    training.wait(lambda: "no data yet" in training.words())
    for name in ("Train", "Start again"):
        training.button(name)
        assert "no data yet" in training.words()
    training.element.find_element("tag name", "canvas").send_keys(Keys.ARROW_LEFT)
    training.wait(lambda: training.words().startswith("After"))


@pytest.fixture
def line(draw):
    """A random mixture on the line as the package and as the page have it."""
    weights, means, variances = uniform(draw, 3) + 0.2, 2 * normal(draw, 3), uniform(draw, 3) + 0.1
    weights = weights / weights.sum()
    target = {"weights": weights, "means": means, "variances": variances}
    in_page = {name: value.tolist() for name, value in target.items()}
    return GaussianMixture(means[:, None], variances, weights), in_page


def below(target, x, t):
    """Return the share of x_t that lies below x."""
    std = ((1 - t) ** 2 + t**2 * torch.tensor(target["variances"], dtype=torch.float64)).sqrt()
    z = (x[:, None] - t * torch.tensor(target["means"], dtype=torch.float64)) / std
    return torch.special.ndtr(z) @ torch.tensor(target["weights"], dtype=torch.float64)


def test_normal_distribution_function(page, draw):
    z = torch.cat([3 * normal(draw, 50), torch.tensor([0.0, 8.3, -8.3, 40, -40]).double()])
    same(page(["reflow"], "return a.z.map(m.normalCdf);", z=z.tolist()), torch.special.ndtr(z))


def test_quantiles_on_the_line(page, draw, line):
    _, in_page = line
    share, t = uniform(draw, 9), uniform(draw, 1).item()
    body = "return a.share.map((share) => m.quantile(a.target, share, a.t));"
    x = page(["reflow"], body, target=in_page, share=share.tolist(), t=t)
    same(below(in_page, torch.tensor(x, dtype=torch.float64), t).tolist(), share)


def test_density_on_the_line(page, draw, line):
    target, in_page = line
    x, t = normal(draw, 9), uniform(draw, 1).item()
    body = "return a.x.map((x) => m.observeLine(a.target, x, a.t).density);"
    answer = page(["reflow"], body, target=in_page, x=x.tolist(), t=t)
    field = ExactField(AffinePath(LINEAR), target)
    same(answer, field.log_prob(x[:, None], torch.full((9,), t, dtype=torch.float64)).exp())


def test_flow_map_on_the_line(page, draw, line):
    target, in_page = line
    x, s, t, h = normal(draw, 7), 0.3 * uniform(draw, 1).item(), 0.6, 1e-5
    body = """
        const times = [a.t - a.h, a.t, a.t + a.h];
        return times.map((t) => a.x.map((x) => m.flowMap(a.target, x, a.s, t)));
    """
    given = {"target": in_page, "x": x.tolist(), "s": s, "t": t, "h": h}
    before, now, after = torch.tensor(page(["reflow"], body, **given), dtype=torch.float64)
    same(below(in_page, now, t).tolist(), below(in_page, x, s))
    # it follows the package's field; a central difference errs by h² and by rounding over h
    field = ExactField(AffinePath(LINEAR), target)
    velocity = field(now[:, None], torch.full((7,), t, dtype=torch.float64))[:, 0]
    torch.testing.assert_close((after - before) / (2 * h), velocity, rtol=1e-5, atol=1e-5)


def test_mean_velocity_on_the_line(page, draw, line):
    target, in_page = line
    x, s, t = normal(draw, 7), 0.2, 0.7
    body = "return a.x.map((x) => m.meanVelocity(a.target, x, a.s, a.t));"
    answer = page(["reflow"], body, target=in_page, x=x.tolist(), s=s, t=t)
    times = torch.linspace(s, t, 401, dtype=torch.float64)
    field = ExactField(AffinePath(LINEAR), target)
    end = solvers.solve(field, x[:, None], times, solvers.rk4).last[:, 0]
    # rk4 errs by h⁴, with h = 1/800 and a field that changes within some tenths
    expected = (end - x) / (t - s)
    torch.testing.assert_close(torch.tensor(answer).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [0, 0.35, 1])
def test_velocity_of_new_lines(page, draw, line, t):
    _, in_page = line
    x0 = normal(draw, 9)
    body = """
        const x1 = a.x0.map((x) => m.flowMap(a.target, x, 0, 1));
        const x = a.x0.map((x, i) => (1 - a.t) * x + a.t * x1[i]);
        return [x1, x.map((place) => m.straightVelocity(a.target, place, a.t))];
    """
    answer = page(["reflow"], body, target=in_page, x0=x0.tolist(), t=t)
    x1, velocity = torch.tensor(answer, dtype=torch.float64)
    # where few particles are, a share of them says little of the place
    torch.testing.assert_close(velocity, x1 - x0, rtol=1e-8, atol=1e-8)


def test_field_of_the_line_in_the_plane(page, draw):
    """With equal variances the exact field of the plane, on an axis, is that of the line."""
    means, x, t = 2 * normal(draw, 3), normal(draw, 7), uniform(draw, 1).item()
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    variances = torch.full((3,), 0.04, dtype=torch.float64)
    body = """
        const axis = (numbers) => points(numbers.map((x) => [x, 0]));
        const target = {weights: a.weights, means: axis(a.means), variances: [0.04, 0.04, 0.04]};
        return new m.ExactField(m.LINEAR, target).velocity(axis(a.x), a.t);
    """
    given = {"weights": weights.tolist(), "means": means.tolist(), "x": x.tolist(), "t": t}
    answer = page(["schedules", "exact"], body, **given)
    exact = ExactField(AffinePath(LINEAR), GaussianMixture(means[:, None], variances, weights))
    velocity = exact(x[:, None], torch.full((7,), t, dtype=torch.float64))
    same(answer, torch.cat([velocity, 0 * velocity], dim=1))


def test_crossings(page, draw):
    x0, x1 = normal(draw, 15), normal(draw, 15)
    count = page(["reflow"], "return m.crossings(a.x0, a.x1);", x0=x0.tolist(), x1=x1.tolist())
    assert count == ((x0[:, None] < x0) & (x1[:, None] > x1)).sum()


# Distribution matching: the page's own formulas against autograd and the package's exact field.

STUDENTS = {"GaussianStudent": 6, "PointStudent": 10}
"""The numbers of weights, for points of any number."""

MATCHING = (
    TARGET
    + """
    const data = new m.ExactField(m.LINEAR, target);
    const student = new m[a.kind](m.LINEAR, a.weights);
    const z = points(a.z), noise = points(a.noise);
"""
)


def samples_of(kind, weights, z):
    if kind == "PointStudent":
        places = weights.reshape(-1, 2)
        return places[torch.arange(len(z)) % len(places)]
    return weights[:2] + z @ weights[2:].reshape(2, 2).T


def noisy_student(kind, weights, t):
    """The student's density with noise, by PyTorch's own distributions."""
    if kind == "GaussianStudent":
        factor = weights[2:].reshape(2, 2)
        covariance = t**2 * factor @ factor.T + (1 - t) ** 2 * torch.eye(2).double()
        return torch.distributions.MultivariateNormal(t * weights[:2], covariance)
    places = t * weights.reshape(-1, 2)
    spread = torch.full_like(places, 1 - t)
    parts = torch.distributions.Independent(torch.distributions.Normal(places, spread), 1)
    mix = torch.distributions.Categorical(torch.ones(len(places)).double())
    return torch.distributions.MixtureSameFamily(mix, parts)


@pytest.fixture(params=STUDENTS)
def matching(request, draw, mixture):
    target, in_page = mixture
    kind, t = request.param, 0.2 + 0.7 * uniform(draw, 1).item()
    z, noise, weights = normal(draw, 20, 2), normal(draw, 20, 2), normal(draw, STUDENTS[kind])
    given = {"target": in_page, "kind": kind, "t": t, "weights": weights.tolist()}
    given |= {"z": z.tolist(), "noise": noise.tolist()}
    return kind, target, given, z, noise, weights, t


MODULES = ["matching", "exact", "schedules"]


def test_students_know_their_density(page, matching):
    kind, _, given, z, _, weights, t = matching
    body = "return [student.samples(z), student.logProb(z, a.t), student.score(z, a.t)];"
    made, log_prob, score = page(MODULES, MATCHING + body, **given)
    same(made, samples_of(kind, weights, z))
    place = z.clone().requires_grad_()
    expected = noisy_student(kind, weights, t).log_prob(place)
    same(log_prob, expected.detach())
    same(score, torch.autograd.grad(expected.sum(), place)[0])


def test_gradient_of_the_divergence_is_a_difference_of_scores(page, matching):
    """Autograd through the samples alone, both densities held fixed."""
    kind, target, given, z, noise, weights, t = matching
    body = """
        const x = m.noised(m.LINEAR, student.samples(z), noise, a.t);
        return [m.seeking(student, data, z, noise, a.t), m.scoreDifference(student, data, x, a.t),
                [m.divergence(student, data, x, a.t)]];
    """
    gradient, difference, divergence = page(MODULES, MATCHING + body, **given)
    moved = weights.clone().requires_grad_()
    x = t * samples_of(kind, moved, z) + (1 - t) * noise
    times = torch.full((20,), t, dtype=torch.float64)
    exact = ExactField(AffinePath(LINEAR), target)
    gap = noisy_student(kind, weights, t).log_prob(x) - exact.log_prob(x, times)
    same(gradient, torch.autograd.grad(gap.mean(), moved, retain_graph=True)[0])
    same(difference, 20 * torch.autograd.grad(gap.mean(), x)[0])
    same(divergence[0], gap.mean().detach())


def test_gradient_of_the_other_divergence_needs_two_moments(page, draw, mixture):
    target, in_page = mixture
    weights, t = normal(draw, 6), 0.2 + 0.7 * uniform(draw, 1).item()
    given = {"target": in_page, "kind": "GaussianStudent", "t": t, "weights": weights.tolist()}
    body = MATCHING + "return [student.covering(target, a.t), m.moments(target)];"
    gradient, moments = page(MODULES, body, z=[], noise=[], **given)
    mean = target.weights @ target.means
    centred = target.means - mean
    covariance = (target.weights[:, None] * centred).T @ centred
    within = target.weights @ torch.tensor(in_page["variances"], dtype=torch.float64)
    covariance = covariance + within * torch.eye(2).double()
    same(moments, torch.stack([*mean, *covariance.flatten()[[0, 1, 3]]]))
    noisy = t**2 * covariance + (1 - t) ** 2 * torch.eye(2).double()
    data = torch.distributions.MultivariateNormal(t * mean, noisy)
    moved = weights.clone().requires_grad_()
    divergence = torch.distributions.kl_divergence(data, noisy_student("GaussianStudent", moved, t))
    same(gradient, torch.autograd.grad(divergence, moved)[0])


def test_tilted_mixture(page, draw, mixture):
    target, in_page = mixture
    linear = normal(draw, 2)
    body = TARGET + "return m.tilted(target, a.linear);"
    answer = page(["steering"], body, target=in_page, linear=linear.tolist())
    expected = tilted(target, QuadraticReward(linear))
    same(answer["weights"], expected.weights)
    same(answer["means"], expected.means)
    same(answer["variances"], expected.covariances)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steering_by_a_guess(page, draw, mixture, name):
    target, in_page = mixture
    linear, x = normal(draw, 2), 2 * normal(draw, 6, 2)
    t = 0.1 + 0.8 * uniform(draw, 1).item()
    body = TARGET + f"const field = new m.ExactField(m.{name}, target);"
    body += "return m.guessed(field, a.linear)(points(a.x), a.t);"
    modules = ["schedules", "exact", "steering"]
    answer = page(modules, body, target=in_page, linear=linear.tolist(), x=x.tolist(), t=t)
    path = AffinePath(SCHEDULES[name])
    field = ExactField(path, target)
    value = guessed_value(field, path, QuadraticReward(linear))
    same(answer, steered(field, path, value)(x, torch.full((6,), t, dtype=torch.float64)))


@pytest.mark.parametrize("t", [0.2, 0.3, 0.5, 0.7, 0.9])
def test_guidance_on_an_interval(page, draw, t):
    """In the interval, both of its ends included, and outside."""
    x, scale = normal(draw, 6, 2), 3 * uniform(draw, 1).item()
    body = """
        const fields = [(x, t) => x.map((value) => Math.sin(value + t)),
                        (x, t) => x.map((value) => t * value)];
        return m.guided(...fields, a.scale, [0.3, 0.7])(points(a.x), a.t);
    """
    answer = page(["guidance"], body, x=x.tolist(), t=t, scale=scale)

    def network(x, t, label):
        return torch.sin(x + t[:, None]) if label is None else t[:, None] * x

    times, label = torch.full((6,), t, dtype=torch.float64), torch.ones(6, dtype=torch.long)
    same(answer, guided(network, label, scale, during=(0.3, 0.7))(x, times))
    if 0.3 <= t <= 0.7:
        both = [lambda x, t, y=y: network(x, t, y) for y in (label, None)]
        same(answer, autoguided(*both, scale)(x, times))


def test_shares_near_the_modes(page, draw, mixture):
    target, in_page = mixture
    spread = target.covariances.sqrt().repeat(5)[:, None]
    of_modes = target.means.repeat(5, 1) + spread * normal(draw, 25, 2)
    x, w = torch.cat([of_modes, 4 * normal(draw, 25, 2)]), uniform(draw, 50)
    body = TARGET + "return m.sharesNear(points(a.x), target, 1.5, (i) => a.w[i]);"
    answer = page(["steering"], body, target=in_page, x=x.tolist(), w=w.tolist())
    distances = torch.cdist(x, target.means)
    w, nearest = w / w.sum(), distances.argmin(dim=1)
    same(answer["near"], torch.stack([w[nearest == k].sum() for k in range(5)]))
    far = (distances > 1.5 * target.covariances.sqrt()).all(dim=1)
    # each of the first 25 is near its own mode in two cases of three
    assert 0 < far.sum() < 50
    same([answer["away"]], w[far].sum()[None])


def test_spiral_has_the_moments_of_noise(page):
    x = torch.tensor(page(["steering"], "return m.spiral(500);"), dtype=torch.float64).reshape(
        500, 2
    )
    # The tail beyond the last point is missing: some 1/500 of the mass, at squares of 12
    torch.testing.assert_close(x.T.cov(correction=0), torch.eye(2).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(2).double(), rtol=0, atol=0.01)
    # and radii of a normal law: half of the points within its median, √(2 log 2)
    assert (x.norm(dim=1) < math.sqrt(2 * math.log(2))).sum() == 250


# Bridges between two clouds of points: the page's own averages over pairs against the package's
# mixture of bridges, whose ends are a mixture of pairs without any width.

CLOUDS = """
    const [x0, x1, x] = [a.x0, a.x1, a.x].map(points);
    const field = new m.PlanField(x0, x1, a.plan, a.sigma);
"""


@pytest.fixture
def clouds(draw):
    x0, x1, x = normal(draw, 4, 2), normal(draw, 5, 2) + 1, normal(draw, 7, 2)
    plan, sigma = uniform(draw, 4, 5), 0.4 + uniform(draw, 1).item()
    plan = plan / plan.sum()
    pairs = torch.stack([x0[:, None].expand(4, 5, 2), x1.expand(4, 5, 2)], dim=2).reshape(20, 2, 2)
    ends = GaussianMixture(pairs, torch.zeros(20).double(), plan.flatten())
    given = {"x0": x0, "x1": x1, "x": x, "plan": plan}
    given = {name: value.tolist() for name, value in given.items()} | {"sigma": sigma}
    return ExactBridge(Bridge(sigma), ends), x, given


def test_field_of_a_plan(page, draw, clouds):
    exact, x, given = clouds
    t = 0.05 + 0.9 * uniform(draw, 1).item()
    body = CLOUDS + "return [field.velocity(x, a.t), field.score(x, a.t), field.drift(x, a.t)];"
    found = page(["bridges"], body, t=t, **given)
    times = torch.full((7,), t, dtype=torch.float64)
    for answer, function in zip(found, (exact, exact.score, exact.drift), strict=True):
        same(answer, function(x, times))


def test_steps_between_bridges(page, draw, clouds):
    """A step to its end is exact for one pair; a short one follows the drift or the velocity."""
    exact, x, given = clouds
    t, s = 0.1 + 0.3 * uniform(draw, 2)
    s, noise, h = t.item() + s.item(), normal(draw, 7, 2), 1e-5
    body = (
        CLOUDS
        + """
        const noise = points(a.noise);
        const [begin, end] = [a.x0, a.x1].map((rows) => points(a.x.map(() => rows[0])));
        const still = noise.map(() => 0);
        const ends = field.ends(x, a.t);
        return [
          m.bridgeStep(x, end, a.t, a.s, a.sigma, noise),
          m.flowStep(x, [begin, end], a.t, a.s),
          m.bridgeStep(x, ends[1], a.t, a.t + a.h, a.sigma, still),
          m.flowStep(x, ends, a.t, a.t + a.h),
        ];
    """
    )
    given |= {"t": t.item(), "s": s, "h": h, "noise": noise.tolist()}
    stepped, flowed, drifted, moved = (
        torch.tensor(rows, dtype=torch.float64).reshape(7, 2)
        for rows in page(["bridges"], body, **given)
    )
    start, target = exact.ends.means[0, :, None].expand(2, 7, 2)
    # Brownian motion from x at t, known to be at `end` at 1: a bridge on the time that is left
    share = (s - t) / (1 - t)
    rest = Bridge(given["sigma"] * (1 - t.item()) ** 0.5)
    expected = rest.sample(x, target, share.expand(7), noise).x_t
    torch.testing.assert_close(stepped, expected, **CLOSE)
    kept = -exact.bridge.conditional_score(x, start, target, t.expand(7))
    kept = kept * given["sigma"] * (t * (1 - t)).sqrt()
    there = exact.bridge.sample(start, target, torch.full_like(x[:, 0], s), kept).x_t
    torch.testing.assert_close(flowed, there, **CLOSE)
    # the first order in h; the next is 1e-5 times second derivatives of a few tens
    for end_of_step, field in ((drifted, exact.drift), (moved, exact)):
        velocity = field(x, t.expand(7))
        torch.testing.assert_close((end_of_step - x) / h, velocity, rtol=1e-3, atol=1e-3)


def test_variance_and_partners_of_a_plan(page, draw, clouds):
    """The variance of a mixture, and the entropy of each row, by PyTorch's own distributions."""
    exact, _, given = clouds
    t = uniform(draw, 1).item()
    body = CLOUDS + "return [m.variance(x0, x1, a.plan, a.sigma, a.t), m.partners(a.plan)];"
    found = page(["bridges"], body, t=t, **given)
    first, last = exact.ends.means.unbind(dim=1)
    width = given["sigma"] * (t * (1 - t)) ** 0.5
    places = (1 - t) * first + t * last
    parts = torch.distributions.Normal(places, torch.full_like(places, width))
    parts = torch.distributions.Independent(parts, 1)
    plan = torch.tensor(given["plan"], dtype=torch.float64)
    mix = torch.distributions.Categorical(plan.flatten())
    spread = torch.distributions.MixtureSameFamily(mix, parts).variance.sum()
    number = torch.distributions.Categorical(plan).entropy().exp().mean()
    same(found, torch.stack([spread, number]))


# Chains on tokens.


@pytest.fixture(params=["maskingPath", "uniformPath"])
def tokens(request, draw):
    """A law of two tokens in the package and in the page, and a time of its path."""
    path = {"maskingPath": masking_path, "uniformPath": uniform_path}[request.param](3)
    law = torch.zeros(path.size, path.size, dtype=torch.float64)
    law[:3, :3] = uniform(draw, 3, 3)
    law = law / law.sum()
    t = 0.1 + 0.6 * uniform(draw, 1).item()
    given = {"path": request.param, "law": law.flatten().tolist(), "t": t}
    return ExactRate(path, law), given


CHAIN = """
    const path = m[a.path](3), exact = new m.ExactRate(path, a.law, 2);
    const {states} = exact, posteriors = states.map((x) => exact.posterior(x, a.t));
"""


def on_all_states(exact, t):
    states = all_states(exact.path.size, 2)
    times = torch.full((len(states),), t, dtype=torch.float64)
    return states, times, exact.posterior(states, times)


def test_rates_of_tokens(page, tokens):
    exact, given = tokens
    body = """
        return {states, posteriors, law: exact.lawAt(a.t), hazard: path.hazard(a.t),
                rates: states.map((x, s) => path.rate(posteriors[s], x, a.t)),
                corrector: states.map((x, s) => path.correctorRate(posteriors[s], x, a.t))};
    """
    answer = page(["discrete"], CHAIN + body, **given)
    states, times, posterior = on_all_states(exact, given["t"])
    assert answer["states"] == states.tolist()
    same(answer["posteriors"], posterior)
    same(answer["law"], exact.law_at(times[:1])[0].flatten())
    same(answer["hazard"], exact.path.hazard(times[:1])[0])
    same(answer["rates"], exact(states, times))
    same(answer["corrector"], exact.path.corrector_rate(posterior, states, times))


@pytest.mark.parametrize("schedule", ["COSINE", "VP"])
def test_tokens_of_another_schedule(page, tokens, schedule):
    exact, given = tokens
    body = """
        const other = new m.ExactRate(m[a.path](3, m[a.schedule]), a.law, 2);
        return other.states.map((x) => other.path.rate(other.posterior(x, a.t), x, a.t));
    """
    found = page(["discrete", "schedules"], CHAIN + body, schedule=schedule, **given)
    other = ExactRate(TokenPath(exact.path.source, SCHEDULES[schedule]), exact.law)
    states, times, _ = on_all_states(other, given["t"])
    same(found, other(states, times))


@pytest.mark.parametrize(("theirs", "ours"), [("eulerStep", euler_step), ("leapStep", leap_step)])
def test_step_of_tokens(page, draw, tokens, theirs, ours):
    """Its tables, then a corrector's at the end; what both do to a law, and how far that is."""
    exact, given = tokens
    states, times, _ = on_all_states(exact, given["t"])
    ends = times + 0.2 * uniform(draw, 1).item()
    law = torch.softmax(normal(draw, len(states)), 0)
    body = """
        const parts = m.stepTables(exact, m[a.step], a.t, a.end, a.strength);
        const after = parts.reduce((law, one) => m.push(states, law, one), a.before);
        return {parts, after, far: m.totalVariation(after, a.before)};
    """
    more = {"step": theirs, "end": ends[0].item(), "strength": 3, "before": law.tolist()}
    answer = page(["discrete"], CHAIN + body, **more, **given)
    first = ours(exact, states, times, ends)
    corrector = lambda x, t: 3 * exact.path.corrector_rate(exact.posterior(x, ends), x, ends)  # noqa: E731
    second = leap_step(corrector, states, times, ends)
    same(answer["parts"], torch.stack([first, second]))
    after = law @ step_matrix(first) @ step_matrix(second)
    same(answer["after"], after)
    same(answer["far"], (after - law).abs().sum() / 2)


def test_tokens_that_are_never_shown_stay(page, tokens):
    """At t = 0 a mask shows nothing but masks: elsewhere there is no posterior, and steps stay."""
    _, given = tokens
    body = """
        const [parts] = m.stepTables(exact, m.eulerStep, 0, 0.25, 0);
        return states.map((x, s) => [exact.posterior(x, 0) === null, parts[s]]);
    """
    for s, (hidden, table) in enumerate(page(["discrete"], CHAIN + body, **given)):
        size = len(table[0])
        x = [s // size, s % size]
        assert hidden == (given["path"] == "maskingPath" and x != [3, 3])
        assert not hidden or [row.index(1) for row in table] == x


def on_sphere(draw, n):
    x = normal(draw, n, 3)
    return x / x.norm(dim=1, keepdim=True)


def test_shortest_paths_on_the_globe(page, draw):
    globe = Sphere(2)
    x, y, t = on_sphere(draw, 9), on_sphere(draw, 9), uniform(draw, 1).item()
    near = globe.project(x[:3] + 1e-7 * y[:3])
    far = globe.project(1e-3 * y[:3] - x[:3])  # nearer to the antipode directions lose digits
    x, y = torch.cat([x, x[:3], x[:3]]), torch.cat([y, near, far])
    body = """
        const [x, y] = [points(a.x), points(a.y)];
        const v = m.shortest(x, y);
        return [v, m.follow(x, v, a.t), Array.from({length: 15}, (_, i) => m.angle(x, i, y, i))];
    """
    v, point, angle = page(["manifolds"], body, x=x.tolist(), y=y.tolist(), t=t)
    same(v, globe.log(x, y))
    times = torch.full((15,), t, dtype=torch.float64)
    same(point, globe.follow(x, globe.log(x, y), times).x_t)
    same(angle, globe.distance(x, y))
    refused = "try { m.shortest(points(a.x), points(a.y)); } catch (e) { return e.message; }"
    pair = {"x": x[:1].tolist(), "y": (-x[:1]).tolist()}
    assert "antipode" in page(["manifolds"], refused, **pair)


@pytest.mark.parametrize("time", [0.0, 0.4, 0.9])
def test_field_on_the_globe(page, draw, time):
    """At t = 0.9 most places are out of reach of all points."""
    data, x = on_sphere(draw, 5), on_sphere(draw, 40)
    body = """
        const field = new m.GeodesicField(points(a.data));
        return [field.velocity(points(a.x), a.t), [...field.logProb(points(a.x), a.t)].map(String)];
    """
    given = {"data": data.tolist(), "x": x.tolist(), "t": time}
    v, density = page(["manifolds"], body, **given)
    field, times = GeodesicField(Sphere(2), data), torch.full((40,), time, dtype=torch.float64)
    same(v, field(x, times))
    same([float(value.replace("Infinity", "inf")) for value in density], field.log_prob(x, times))


def test_euler_on_the_globe(page, draw):
    data, x = on_sphere(draw, 3), on_sphere(draw, 6)
    times = torch.linspace(0, 1, 13, dtype=torch.float64)
    body = """
        const field = new m.GeodesicField(points(a.data));
        return m.solve(field.velocity, points(a.x), a.times, m.geodesicEuler).at(-1);
    """
    given = {"data": data.tolist(), "x": x.tolist(), "times": times.tolist()}
    answer = page(["manifolds", "solvers"], body, **given)
    globe = Sphere(2)
    field = GeodesicField(globe, data)
    same(answer, solvers.solve(field, x, times, geodesic_euler(globe)).last)
