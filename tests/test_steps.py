"""Each step against its Butcher tableau; what is counted and what is returned."""

import pytest
import torch

from fmtutorial.solvers import CountedField, Solution, euler, heun, midpoint, rk4

DOUBLE = torch.float64
# The tableaux of Hairer, Nørsett and Wanner 1993, Sec. II.1: nodes c, rows of a, weights b.
TABLEAUX = {
    euler: ([0.0], [[]], [1.0]),
    midpoint: ([0.0, 0.5], [[], [0.5]], [0.0, 1.0]),
    heun: ([0.0, 1.0], [[], [1.0]], [0.5, 0.5]),
    rk4: (
        [0.0, 0.5, 0.5, 1.0],
        [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]],
        [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    ),
}
every_step = pytest.mark.parametrize("step", TABLEAUX, ids=lambda step: step.__name__)


def runge_kutta(tableau, v, x, t, h):
    """k_i = v(x + h Σ_j a_ij k_j, t + c_i h), then x + h Σ b_i k_i."""
    nodes, rows, weights = tableau
    stages = []
    for node, row in zip(nodes, rows, strict=True):
        inner = sum((a * k for a, k in zip(row, stages, strict=True)), torch.zeros_like(x))
        stages.append(v(x + h * inner, t + node * h))
    return x + h * sum(b * k for b, k in zip(weights, stages, strict=True))


def field(x, t):
    """Neither linear nor autonomous, and no two stages of a step agree."""
    return torch.sin(3 * x + t) * torch.exp(t) - 0.3 * x**2


@every_step
@pytest.mark.parametrize("h", [0.37, -0.8])
def test_step_is_that_of_its_tableau(step, h, event, generator):
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t, h = torch.tensor(0.4, dtype=DOUBLE), torch.tensor(h, dtype=DOUBLE)
    expected = runge_kutta(TABLEAUX[step], field, x, t, h)
    torch.testing.assert_close(step(field, x, t, h), expected, rtol=1e-13, atol=1e-13)


@every_step
def test_tableau_meets_the_conditions_of_its_order(step):
    """Σ b = 1; Σ b c = 1/2; Σ b c² = 1/3, Σ b a c = 1/6; … up to order four, and no further."""
    c, rows, b = TABLEAUX[step]
    c, b = torch.tensor(c, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE)
    a = torch.zeros(len(b), len(b), dtype=DOUBLE)
    for i, row in enumerate(rows):
        a[i, : len(row)] = torch.tensor(row, dtype=DOUBLE)
    torch.testing.assert_close(a.sum(dim=1), c)
    conditions = [
        [(b.sum(), 1)],
        [(b @ c, 1 / 2)],
        [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        [
            (b @ c**3, 1 / 4),
            ((b * c) @ (a @ c), 1 / 8),
            (b @ a @ c**2, 1 / 12),
            (b @ a @ a @ c, 1 / 24),
        ],
        [(b @ c**4, 1 / 5)],
    ]
    met = [all(abs(left.item() - right) < 1e-14 for left, right in row) for row in conditions]
    order = {euler: 1, midpoint: 2, heun: 2, rk4: 4}[step]
    assert met[:order] == [True] * order and not met[order]


@every_step
def test_step_evaluates_inside_its_interval(step):
    """At t and h of shape (), between t and t + h, the start first."""
    seen = []

    def v(x, t):
        seen.append(t)
        return x

    step(v, torch.ones(3, 2), torch.tensor(0.5), torch.tensor(-0.25))
    assert len(seen) == len(TABLEAUX[step][0])
    assert all(t.shape == () and 0.25 <= t <= 0.5 for t in seen) and seen[0] == 0.5


def test_last_state_of_a_solution(event, generator):
    states = torch.randn(4, 3, *event, generator=generator)
    solution = Solution(torch.linspace(0, 1, 4), states, 7)
    assert torch.equal(solution.last, states[3])
    times, same, evaluations = solution
    assert same is states and len(times) == 4 and evaluations == 7


def test_counted_field_counts_and_gives_each_sample_the_time(event, generator):
    seen = []

    def v(x, t):
        seen.append(t)
        return 2 * x

    x = torch.randn(3, *event, generator=generator)
    counted = CountedField(v)
    assert counted.evaluations == 0
    for calls in (1, 2):
        assert torch.equal(counted(x, torch.tensor(0.25)), 2 * x)
        assert counted.evaluations == calls
    assert [t.tolist() for t in seen] == [[0.25] * 3] * 2


def test_counted_field_refuses_another_shape():
    """With B = D a velocity of shape (B,) would be added to x without a word."""
    with pytest.raises(ValueError, match=r"v has shape \(3,\) and x has shape \(3, 3\)"):
        CountedField(lambda x, t: t)(torch.zeros(3, 3), torch.tensor(0.5))
    with pytest.raises(TypeError, match="v is a float"):
        CountedField(lambda x, t: 1.0)(torch.zeros(3, 3), torch.tensor(0.5))
