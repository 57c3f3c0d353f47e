"""The arithmetic of the living figures, in a real browser, held to the package on new inputs."""

import json
import math
import random

import pytest
import torch
from browser import HTML

from fmtutorial import couplings, solvers
from fmtutorial.assignment import assignment
from fmtutorial.diffusion import solve_sde
from fmtutorial.distributions import GaussianMixture, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.networks import MLP
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman

SEED = random.SystemRandom().randrange(2**31)
SCHEDULES = {"LINEAR": LINEAR, "COSINE": COSINE, "SQRT": SQRT, "VP": VP}
# Both sides compute in double precision, in another order of additions.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def draw():
    print(f"seed {SEED}")  # shown when a test fails
    return torch.Generator().manual_seed(SEED)


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
     ("logProb", "log_prob")],
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
