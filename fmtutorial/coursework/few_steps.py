"""The exercises of the excursion "Few steps", chapter 10."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function
from fmtutorial.fields import VelocityField, expand_time
from fmtutorial.paths import LINEAR, AffinePath


class Trained:
    """A smooth function of states and times with a tensor ``weight``, a number for each entry.

    It is called as a generator, g(z), or as a mean velocity, u(x, start, end).
    """

    def __init__(self, draw: Draw) -> None:
        self.weight = draw.normal(max(1, draw.normal()[0].numel())).requires_grad_()

    def __call__(self, x: Tensor, *times: Tensor) -> Tensor:
        """Return the values, in the shape of x; each of the times has shape (B,)."""
        flat = x.reshape(len(x), -1)
        angle = flat * (1 + self.weight) + flat.roll(1, dims=1) / 2
        for i, time in enumerate(times):
            angle = angle + (i - 2) * expand_time(time, flat)
        return (flat / 2 + torch.sin(angle + self.weight)).reshape(x.shape)


def gaussian_flow_map(x: Tensor, start: Tensor, end: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return where the flow of the linear path to N(mean, std² I) takes x from start to end."""
    return _map(x, expand_time(start, x), expand_time(end, x), mean, std)


def semigroup_gradient(u: Trained, x: Tensor, start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
    """Gradient of the semigroup loss: from what u lacks of its target, back through u alone."""
    value = u(x, start, end)
    with torch.no_grad():
        landed = _jump(u, _jump(u, x, start, middle), middle, end)
        lacks = x + expand_time(end - start, x) * value - landed
    pull = 2 * lacks / expand_time(end - start, x) / len(x)
    return torch.autograd.grad(value, u.weight, pull)[0]


def matching_gradient(
    g: Trained, student: VelocityField, data: VelocityField, z: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Gradient of KL(student ‖ data) at noise level t, from the two scores."""
    y, path, alpha = g(z), AffinePath(LINEAR), expand_time(t, z)
    x = alpha * y + (1 - alpha) * noise
    one, other = (path.convert(v(x, t), x, t, "velocity", "score") for v in (student, data))
    return torch.autograd.grad(y, g.weight, alpha * (one - other) / len(z))[0]


def _spread(t: Tensor, std: Tensor) -> Tensor:
    """Standard deviation of x_t."""
    return torch.hypot(1 - t, t * std)


def _map(
    x: Tensor,
    s: Tensor,
    t: Tensor,
    mean: Tensor,
    std: Tensor,
    spread: Function = _spread,
    before: Function = lambda s: s,
    after: Function = lambda t: t,
) -> Tensor:
    """Map from s to t where the times have the dimensions of x, with switches for mistakes."""
    return after(t) * mean + spread(t, std) / spread(s, std) * (x - before(s) * mean)


def _wrong_map(
    change: Callable[..., tuple] = lambda *arguments: arguments, **switches: Function
) -> Function:
    def mapped(x: Tensor, start: Tensor, end: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        arguments = change(x, expand_time(start, x), expand_time(end, x), mean, std)
        return _map(*arguments, **switches)

    return mapped


def _euler(x: Tensor, start: Tensor, end: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    s, t = expand_time(start, x), expand_time(end, x)
    return x + (t - s) * (mean + (s * std**2 - (1 - s)) / _spread(s, std) ** 2 * (x - s * mean))


def _jump(u: Trained, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return x + expand_time(end - start, x) * u(x, start, end)


def _sum(x: Tensor) -> Tensor:
    """Add up over the event, average over the batch."""
    return x.reshape(len(x), -1).sum(dim=1).mean()


def _semigroup(
    average: Function = lambda one, two, s, m, t: ((m - s) * one + (t - m) * two) / (t - s),
    land: Function = lambda x, one, s, m, t: x + (m - s) * one,
    again: Callable[..., tuple] = lambda s, m, t: (m, t),
    loss: Function = lambda value, target: _sum((value - target.detach()) ** 2),
    expand: bool = True,
) -> Function:
    """Make a gradient with switches for mistakes."""

    def gradient(u: Trained, x: Tensor, start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
        times = [expand_time(a, x) if expand else a for a in (start, middle, end)]
        one = u(x, start, middle)
        two = u(land(x, one, *times), *again(start, middle, end))
        target = average(one, two, *times)
        return torch.autograd.grad(loss(u(x, start, end), target), u.weight)[0]

    return gradient


def _matching(
    factor: Function = lambda t: t**2 / (1 - t),
    mix: Function = lambda t, y, noise: t * y + (1 - t) * noise,
    loss: Function = lambda y, pull: _sum(y * pull.detach()),
    expand: bool = True,
) -> Function:
    """Make a gradient with switches for mistakes."""

    def gradient(
        g: Trained, student: VelocityField, data: VelocityField, z: Tensor, noise: Tensor, t: Tensor
    ) -> Tensor:
        y, time = g(z), expand_time(t, z) if expand else t
        x = mix(time, y, noise)
        pull = factor(time) * (student(x, t) - data(x, t))
        return torch.autograd.grad(loss(y, pull), g.weight)[0]

    return gradient


def _gaussian(draw: Draw) -> tuple:
    """Draw ends that are mostly later than the starts, and some earlier."""
    x, mean, std = draw.normal(), 2 * draw.normal()[0], draw.uniform(0.3, 0.7)
    return x, draw.times(0.1, 0.5), draw.times(0.3, 0.9), mean, std


def _halves(draw: Draw) -> tuple:
    u, start = Trained(draw), draw.times(0.05, 0.3)
    middle = start + draw.times(0.1, 0.2)
    return u, draw.normal(), start, middle, middle + draw.times(0.3, 0.4)


def _samples(draw: Draw) -> tuple:
    three = Trained(draw), draw.field(), draw.field()
    return *three, draw.normal(), draw.normal(), draw.times(0.55, 0.8)


BATCH_SUM = "The batch is summed. Average over it."
BROADCAST = (
    "Times of shape (B,) line up with the last dimension of the event. Give them the dimensions "
    "of the states."
)

EXERCISES = (
    Exercise(
        "few_steps.gaussian_flow_map",
        gaussian_flow_map,
        _gaussian,
        {
            "The start and the end are exchanged. The state x is one of time start.": (
                lambda x, start, end, *a: gaussian_flow_map(x, end, start, *a)
            ),
            "The mean is forgotten. At time t the states lie around t m.": _wrong_map(
                before=torch.zeros_like, after=torch.zeros_like
            ),
            "The mean of the data stands where that of time start or end belongs: s m and t m.": (
                _wrong_map(before=torch.ones_like, after=torch.ones_like)
            ),
            "The mean of time s is not taken away before the spread is changed. Move x to the "
            "middle, stretch, and move it back.": _wrong_map(before=torch.zeros_like),
            "This is right only from s = 0, where x is noise. At time s take off the mean s m, and "
            "divide by the spread of that time.": _wrong_map(lambda x, s, *a: (x, 0 * s, *a)),
            "std is taken for a variance. It is a standard deviation: square it.": _wrong_map(
                lambda x, s, t, mean, std: (x, s, t, mean, std.sqrt())
            ),
            "The states are stretched by the ratio of the variances. The spread is their root.": (
                _wrong_map(spread=lambda t, std: _spread(t, std) ** 2)
            ),
            "The standard deviations of t x₁ and (1 − t) x₀ are added. For independent variables "
            "it is the variances that add up.": _wrong_map(spread=lambda t, std: t * std + 1 - t),
            "This is one Euler step. The velocity changes on the way.": _euler,
            BROADCAST: _map,
        },
    ),
    Exercise(
        "few_steps.semigroup_gradient",
        semigroup_gradient,
        _halves,
        {
            "The gradient flows into the target too. Hold the target fixed: compute it under "
            "torch.no_grad(), or detach it.": _semigroup(
                loss=lambda value, target: _sum((value - target) ** 2)
            ),
            "The gradient flows through the target alone. It is the long jump that learns.": (
                _semigroup(loss=lambda value, target: _sum((value.detach() - target) ** 2))
            ),
            "The second jump begins at x. It begins where the first one lands.": _semigroup(
                land=lambda x, *a: x
            ),
            "The first jump is too long: the whole of end − start. It ends at the middle.": (
                _semigroup(land=lambda x, one, s, m, t: x + (t - s) * one)
            ),
            "The first mean velocity is added without the time that it lasts. A jump moves x by "
            "(middle − start) u.": _semigroup(land=lambda x, one, *a: x + one),
            "The second jump asks for the times of the first. It goes from middle to end.": (
                _semigroup(again=lambda s, m, t: (s, m))
            ),
            "The two mean velocities count alike. The middle is not half-way: each counts with "
            "the time that it lasts.": _semigroup(average=lambda one, two, *a: (one + two) / 2),
            "The target is the displacement. Divide it by end − start for the mean velocity.": (
                _semigroup(average=lambda one, two, s, m, t: (m - s) * one + (t - m) * two)
            ),
            "The squares are averaged over the entries of an event. Sum over the event, and "
            "average over the batch.": _semigroup(
                loss=lambda value, target: (value - target.detach()).square().mean()
            ),
            BATCH_SUM: _semigroup(
                loss=lambda value, target: (value - target.detach()).square().sum()
            ),
            BROADCAST: _semigroup(expand=False),
        },
    ),
    Exercise(
        "few_steps.matching_gradient",
        matching_gradient,
        _samples,
        {
            "The sign is wrong. The gradient is the student's score less that of the data; with "
            "the two exchanged, the samples run away from the data.": _matching(
                lambda t: -(t**2) / (1 - t)
            ),
            "α is missing. The scores are those at x_t, and y enters x_t with the factor α = t.": (
                _matching(lambda t: t / (1 - t))
            ),
            "σ is missing. The score is minus the predicted noise, divided by σ = 1 − t.": (
                _matching(lambda t: t**2)
            ),
            "This is the difference of the velocities. That of the scores is t/(1 − t) times "
            "that, and y enters x_t with the factor t.": _matching(torch.ones_like),
            "This is the difference of the data predictions. In the gradient it has α²/σ² before "
            "it.": _matching(lambda t: 1 - t),
            "The gradient flows through the fields. The difference of the scores is the gradient "
            "already: hold it fixed, and multiply it by y.": _matching(
                loss=lambda y, pull: _sum(y * pull)
            ),
            "This is the gradient of the squared difference of the scores. That of the divergence "
            "is the difference itself, multiplied by y.": _matching(
                lambda t: t / (1 - t), loss=lambda y, pull: _sum(pull**2) / 2
            ),
            "α and σ are exchanged. In this book t = 0 is noise and t = 1 is data.": _matching(
                lambda t: (1 - t) ** 2 / t, lambda t, y, noise: (1 - t) * y + t * noise
            ),
            "The fields are asked at y. Add noise first: they are those of time t.": _matching(
                mix=lambda t, y, noise: y
            ),
            "The gradient is averaged over the entries of an event. Average over the batch "
            "alone.": _matching(loss=lambda y, pull: (y * pull.detach()).mean()),
            BATCH_SUM: _matching(loss=lambda y, pull: (y * pull.detach()).sum()),
            BROADCAST: _matching(expand=False),
        },
        points=2,
    ),
)
