"""The exercises of chapter 7."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise
from fmtutorial.fields import VelocityField, expand_time
from fmtutorial.paths import COSINE, LINEAR, AffinePath
from fmtutorial.solvers import ScalarTimeField


def velocity_from_noise(noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Velocity of the cosine path whose noise prediction at (x, t) is given."""
    return AffinePath(COSINE).convert(noise, x, t, "noise", "velocity")


def euler_maruyama_step(
    v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor, w: Tensor, noise: Tensor
) -> Tensor:
    """Take one step of dx = [v + (w²/2) ∇log p_t] dt + w dW on the linear path."""
    velocity = v(x, t)
    score = AffinePath(LINEAR).convert(velocity, x, t.expand(len(x)), "velocity", "score")
    return x + h * (velocity + w**2 / 2 * score) + w * h.sqrt() * noise


def ddim_step(noise: VelocityField, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Take one step of DDIM on the cosine path: in the plane of the two predictions, a turn."""
    begin, turn = (math.pi / 2 * expand_time(time, x) for time in (t, s - t))
    return (torch.sin(begin + turn) * x - torch.sin(turn) * noise(x, t)) / torch.sin(begin)


def _weights(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return α and σ of the cosine schedule."""
    return COSINE.alpha(t), COSINE.sigma(t)


def _velocity(
    noise: Tensor,
    x: Tensor,
    time: Tensor,
    chain: float = math.pi / 2,
    sign: float = -1.0,
    divide: bool = True,
) -> Tensor:
    """The velocity where the time has the dimensions of x, with switches for mistakes."""
    alpha, sigma = _weights(time)
    data = (x - sigma * noise) / (alpha if divide else 1)
    return chain * (sigma * data + sign * alpha * noise)


def _mirrored(noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = _weights(1 - expand_time(t, x))
    return math.pi / 2 * (alpha * noise - sigma * (x - sigma * noise) / alpha)


def _for_data(noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = _weights(expand_time(t, x))
    return math.pi / 2 * (sigma * x - alpha * noise)


def _difference(noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = _weights(expand_time(t, x))
    return (x - sigma * noise) / alpha - noise


def _predicted_noise(velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return x - t * velocity


def _noisy(
    strength: Callable[[Tensor], Tensor] = lambda w: w**2 / 2,
    sign: float = 1.0,
    root: bool = True,
    divide: bool = True,
) -> Callable[..., Tensor]:
    """Make a step with switches for mistakes."""

    def step(
        v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor, w: Tensor, noise: Tensor
    ) -> Tensor:
        velocity = v(x, t)
        score = -_predicted_noise(velocity, x, t) / (1 - t if divide else 1)
        drift = velocity + sign * strength(w) * score
        return x + h * drift + w * (h.sqrt() if root else h) * noise

    return step


def _ddim(
    at: str = "begin",
    divide: bool = True,
    keep: bool = False,
    mirror: bool = False,
    expand: bool = True,
) -> Callable[..., Tensor]:
    """Make a step with switches for mistakes."""

    def step(network: VelocityField, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        noise = network(x, t if at == "begin" else s)
        begin, end = (expand_time(a, x) if expand else a for a in (t, s))
        alpha, sigma = _weights(begin)
        alpha_end, sigma_end = _weights(end)
        if mirror:
            alpha, sigma, alpha_end, sigma_end = sigma, alpha, sigma_end, alpha_end
        data = (x - sigma * noise) / (alpha if divide else 1)
        return alpha_end * data + (sigma if keep else sigma_end) * noise

    return step


def _euler(network: VelocityField, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return x + expand_time(s - t, x) * velocity_from_noise(network(x, t), x, t)


def _linear_ddim(network: VelocityField, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    noise, begin, end = network(x, t), expand_time(t, x), expand_time(s, x)
    return end * (x - (1 - begin) * noise) / begin + (1 - end) * noise


def _prediction(draw: Draw) -> tuple:
    return draw.normal(), draw.normal(), draw.times()


def _noisy_step(draw: Draw) -> tuple:
    t, h, w = draw.uniform(0.1, 0.5), draw.uniform(0.1, 0.4), draw.uniform(0.5, 1.7)
    return draw.field("scalar"), draw.normal(), t, h, w, draw.normal()


def _two_times(draw: Draw) -> tuple:
    return draw.field(), draw.normal(), draw.times(0.2, 0.8), draw.times(0.1, 0.9)


EXERCISES = (
    Exercise(
        "diffusion.velocity_from_noise",
        velocity_from_noise,
        _prediction,
        {
            "A factor of the chain rule is missing: the angle is πt/2, not t.": (
                lambda noise, x, t: _velocity(noise, x, expand_time(t, x), chain=1.0)
            ),
            "The sign of the second term is wrong. σ falls, so its derivative is negative.": (
                lambda noise, x, t: _velocity(noise, x, expand_time(t, x), sign=1.0)
            ),
            "The prediction of the data is not divided by α.": (
                lambda noise, x, t: _velocity(noise, x, expand_time(t, x), divide=False)
            ),
            "The state x stands where the prediction of the data belongs. Compute that first.": (
                _for_data
            ),
            "α and σ are exchanged. In this book t = 0 is noise and t = 1 is data.": _mirrored,
            "This is the velocity of the linear schedule. The cosine one has other α and σ.": (
                lambda noise, x, t: (x - noise) / expand_time(t, x)
            ),
            "The difference of the two predictions is the velocity of the linear schedule. Here "
            "each is multiplied by the derivative of its factor.": _difference,
            "Times of shape (B,) line up with the last dimension of the event. Give t the "
            "dimensions of x.": _velocity,
        },
    ),
    Exercise(
        "diffusion.euler_maruyama_step",
        euler_maruyama_step,
        _noisy_step,
        {
            "There is noise, and no drift along the score that takes its effect away again.": (
                _noisy(lambda w: 0 * w)
            ),
            "The score has the factor w. For noise of level w it is λ = w²/2.": _noisy(lambda w: w),
            "The score has the factor w². For noise of level w it is λ = w²/2.": _noisy(
                lambda w: w**2
            ),
            "The score has the factor w/2. For noise of level w it is λ = w²/2.": _noisy(
                lambda w: w / 2
            ),
            "The score has the wrong sign. The drift goes uphill, towards higher density.": _noisy(
                sign=-1.0
            ),
            "The noise is multiplied by h. Its variance grows with the time, so the factor is "
            "the root of h.": _noisy(root=False),
            "The score is not divided by σ. Minus the predicted noise over σ is the score.": _noisy(
                divide=False
            ),
        },
    ),
    Exercise(
        "diffusion.ddim_step",
        ddim_step,
        _two_times,
        {
            "The network is asked at time s. It belongs to the state x, which is one of time t.": (
                _ddim(at="end")
            ),
            "The prediction of the data is not divided by α.": _ddim(divide=False),
            "The noise keeps the factor of time t. Both predictions get the factors of time s.": (
                _ddim(keep=True)
            ),
            "The factors are those of the linear schedule. Here they are the cosine's.": (
                _linear_ddim
            ),
            "This is Euler's step in t. DDIM puts the two predictions together with the weights "
            "of time s.": _euler,
            "α and σ are exchanged. In this book t = 0 is noise and t = 1 is data.": _ddim(
                mirror=True
            ),
            "Times of shape (B,) line up with the last dimension of the event. Give both the "
            "dimensions of x.": _ddim(expand=False),
        },
        points=2,
    ),
)
