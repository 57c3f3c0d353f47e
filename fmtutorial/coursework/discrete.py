"""The exercises of the excursion "Discrete", chapter 12."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function, Setting
from fmtutorial.fields import expand_time

TABLES = (
    Setting(3, (2,), torch.float64),
    Setting(2, (2,), torch.float64),
    Setting(4, (2,), torch.float32),
    Setting(5, (2,), torch.float64),
)
"""For laws of two tokens: the batch is the number of tokens."""


class MaskedModel:
    """A model of the tokens behind the mask: logits that depend on the neighbour and the time.

    Args:
        draw: of its coefficients, which can be trained.
        mask: the number of tokens, and the token that stands for none of them.
    """

    def __init__(self, draw: Draw, mask: int) -> None:
        self.weight = (2 * draw.normal(mask + 1, mask)).requires_grad_()
        self.mask = mask

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits of shape (B, *event, S) for tokens x of shape (B, *event).

        Raises:
            ValueError: x is not made of the tokens 0 to S, or t is not of shape (B,).
        """
        if x.is_floating_point() or not bool(((x >= 0) & (x <= self.mask)).all()):
            raise ValueError(f"the model takes whole numbers from 0 to the mask, {self.mask}")
        flat = x.reshape(len(x), -1)
        logits = self.weight[flat] + self.weight[flat.roll(1, dims=1)] / 2
        return (logits + expand_time(t, logits) * self.weight[0]).reshape(*x.shape, -1)


def marginal_rate(posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return the rates to each token, for α = t²: the posterior mean of the conditional rates."""
    return _pace(expand_time(t, posterior)) * (posterior - _one_hot(x, posterior))


def euler_law(law: Tensor, rate: Tensor, h: Tensor) -> Tensor:
    """Return the law of two tokens after a step in which each jumps with its own rates."""
    first, second = _euler(_now(law), rate, h).unbind(dim=2)
    return torch.einsum("ab,abi,abj->ij", law, first, second)


def likelihood_bound(model: MaskedModel, x1: Tensor, mask: int, u: Tensor, t: Tensor) -> Tensor:
    """Return the bound in bits a token, for α = t²."""
    hidden = u >= expand_time(t, u) ** 2
    log_prob = torch.log_softmax(model(torch.where(hidden, mask, x1), t), dim=-1)
    cost = -log_prob.gather(-1, x1.unsqueeze(-1)).squeeze(-1)
    return (_pace(expand_time(t, u)) * cost * hidden).mean() / math.log(2)


def _one_hot(x: Tensor, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(x, like.shape[-1]).to(like)


def _pace(t: Tensor) -> Tensor:
    return 2 * t / (1 - t**2)


def _rate(
    pace: Function = _pace,
    change: Callable[[Tensor, Tensor], Tensor] = lambda p, now: p - now,
    expand: bool = True,
) -> Function:
    """Make a rate with switches for mistakes."""

    def rate(posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
        time = expand_time(t, posterior) if expand else t
        return pace(time) * change(posterior, _one_hot(x, posterior))

    return rate


def _law(posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
    kappa = expand_time(t, posterior) ** 2
    return kappa * posterior + (1 - kappa) / posterior.shape[-1]


def _now(law: Tensor) -> Tensor:
    """One where the next token is the present one, shape (S, S, 2, S) as the rates."""
    one = torch.eye(len(law), dtype=law.dtype)
    shape = *law.shape, len(law)
    return torch.stack([one.unsqueeze(1).expand(shape), one.expand(shape)], dim=2)


def _euler(now: Tensor, rate: Tensor, h: Tensor) -> Tensor:
    return now + h * rate


def _frozen(now: Tensor, rate: Tensor, h: Tensor) -> Tensor:
    """Rates that stay as they are until the first jump, which is the last."""
    leave = -(now * rate).sum(dim=-1, keepdim=True)
    jumps = (rate + leave * now) / leave
    return now + (1 - torch.exp(-h * leave)) * (jumps - now)


def _after(table: Function = _euler, product: str = "ab,abi,abj->ij") -> Function:
    """Make a step with switches for mistakes."""
    return lambda law, rate, h: torch.einsum(product, law, *table(_now(law), rate, h).unbind(dim=2))


def _one_jump(law: Tensor, rate: Tensor, h: Tensor) -> Tensor:
    first = torch.tensor([[1.0], [0.0]], dtype=law.dtype)
    return euler_law(law, first * rate, h) + euler_law(law, (1 - first) * rate, h) - law


def _two_marginals(law: Tensor, rate: Tensor, h: Tensor) -> Tensor:
    after = euler_law(law, rate, h)
    return torch.outer(after.sum(dim=1), after.sum(dim=0))


def _bound(
    weight: Function = _pace,
    hide: Callable[[Tensor, Tensor], Tensor] = lambda u, time: u >= time**2,
    count: Callable[[Tensor], Tensor] = lambda hidden: hidden,
    normalise: Function = lambda logits: torch.log_softmax(logits, dim=-1),
    divide: Callable[[Tensor], Tensor | float] = lambda hidden: hidden.numel() * math.log(2),
    clean: bool = False,
    expand: bool = True,
) -> Function:
    """Make a bound with switches for mistakes."""

    def bound(model: MaskedModel, x1: Tensor, mask: int, u: Tensor, t: Tensor) -> Tensor:
        time = expand_time(t, u) if expand else t
        hidden = hide(u, time)
        logits = model(x1 if clean else torch.where(hidden, mask, x1), t)
        cost = -normalise(logits).gather(-1, x1.unsqueeze(-1)).squeeze(-1)
        return (weight(time) * cost * count(hidden)).sum() / divide(hidden)

    return bound


def _tokens(draw: Draw) -> tuple[Tensor, int]:
    """Draw tokens and say how many there are, which in odd batches are as many as the samples."""
    batch, event, _ = draw.setting
    size = batch if batch % 2 and 1 < batch < 6 else 4
    return torch.randint(size, (batch, *event), generator=draw.generator), size


def _posterior(draw: Draw) -> tuple:
    x, size = _tokens(draw)
    return torch.softmax(draw.normal(*x.shape, size), dim=-1), x, draw.times()


def _table(draw: Draw) -> tuple:
    """Draw a law of two tokens, and rates that are low enough for the step."""
    size = draw.setting.batch
    rate = draw.uniform(0.1, 1.0, size, size, 2, size)
    now = _now(rate[:, :, 0, 0])
    rate = rate - now * rate.sum(dim=-1, keepdim=True)
    law = torch.softmax(draw.normal(size * size), dim=0).reshape(size, size)
    return law, rate, draw.uniform(0.1, 0.2)


def _masking(draw: Draw) -> tuple:
    x1, size = _tokens(draw)
    u = draw.uniform(0.0, 1.0, *x1.shape)
    return MaskedModel(draw, size), x1, size, u, draw.times(0.2, 0.8)


BROADCAST = (
    "Times of shape (B,) line up with the last dimension. Give them one for each of the others."
)

EXERCISES = (
    Exercise(
        "discrete.marginal_rate",
        marginal_rate,
        _posterior,
        {
            "The factor α̇ = 2t is missing.": _rate(lambda t: 1 / (1 - t**2)),
            "The factor 1/(1 − α) is missing. Where little time is left, rates are high.": _rate(
                lambda t: 2 * t
            ),
            "The factor is that of α = t, not of α = t².": _rate(lambda t: 1 / (1 - t)),
            "The factor is α̇/α. It must grow towards the data: α̇/(1 − α).": _rate(lambda t: 2 / t),
            "The present token is not subtracted. The rates of a row sum to zero.": _rate(
                change=lambda p, now: p
            ),
            "The entry at the present token is zero. It is minus the sum of the others.": _rate(
                change=lambda p, now: p * (1 - now)
            ),
            "The entry at the present token is −α̇/(1 − α). Add the posterior's share: a token "
            "that is right already does not leave.": _rate(
                change=lambda p, now: p * (1 - now) - now
            ),
            "The uniform law is subtracted. The token is known here: subtract one at its place, "
            "and nothing elsewhere.": _rate(change=lambda p, now: p - 1 / p.shape[-1]),
            "Only the likeliest token has a rate. Average over all, with the posterior.": _rate(
                change=lambda p, now: _one_hot(p.argmax(dim=-1), p) - now
            ),
            "This is a law, α p + (1 − α)/S, and no rate: its rows sum to one.": _law,
            BROADCAST: _rate(expand=False),
        },
    ),
    Exercise(
        "discrete.euler_law",
        euler_law,
        _table,
        {
            "Only one of the tokens jumps. So does the chain, but in a step of Euler's method each "
            "token decides for itself, and both may jump.": _one_jump,
            "The two tokens are made independent. Multiply the probabilities for each state before "
            "the step, and then sum over these states.": _two_marginals,
            "The positions are exchanged: rate[a, b, 0] is that of the first token.": (
                lambda law, rate, h: euler_law(law, rate.flip(2), h)
            ),
            "The second token asks for its rate when the first has jumped. In one step both use "
            "the rates of the state before.": _after(product="ab,abi,ibj->ij"),
            "The step h is missing: a rate times h is a probability.": (
                lambda law, rate, h: euler_law(law, rate, torch.ones_like(h))
            ),
            "The probability to stay is h times a negative rate. Add one to it.": _after(
                lambda now, rate, h: h * rate
            ),
            "The probability to stay is one. It falls by h times the rate at which the token "
            "leaves.": _after(lambda now, rate, h: now + h * rate * (1 - now)),
            "The step runs the wrong way: it sums over the states after it. Sum over those before, "
            "with their probabilities.": _after(product="ij,abi,abj->ab"),
            "The law before the step is not used: every state counts alike.": (
                lambda law, rate, h: euler_law(torch.full_like(law, 1 / law.numel()), rate, h)
            ),
            "The rates are held until the first jump, with exp(−h λ) to stay. Euler's method has "
            "1 − h λ.": _after(_frozen),
        },
        settings=TABLES,
    ),
    Exercise(
        "discrete.likelihood_bound",
        likelihood_bound,
        _masking,
        {
            "The weight α̇/(1 − α) is missing: this bounds nothing.": _bound(torch.ones_like),
            "The weight lacks the factor 1/(1 − α).": _bound(lambda t: 2 * t),
            "The weight lacks the factor α̇ = 2t.": _bound(lambda t: 1 / (1 - t**2)),
            "The weight is that of α = t, not of α = t².": _bound(lambda t: 1 / (1 - t)),
            "The tokens that are shown count too. Sum over the hidden ones.": _bound(
                count=torch.ones_like
            ),
            "Tokens with u below α are hidden. A token is shown with probability α.": _bound(
                hide=lambda u, t: u < t**2
            ),
            "Tokens are hidden as by α = t. Here α = t².": _bound(hide=lambda u, t: u >= t),
            "The model sees the data. Put the mask in the place of hidden tokens first.": _bound(
                clean=True
            ),
            "Logits are no logarithms of probabilities. Normalise them: torch.log_softmax over "
            "the last dimension.": _bound(normalise=lambda logits: logits),
            "The mean is over the hidden tokens. Divide by the number of all: the weight makes up "
            "for those that are shown.": _bound(divide=lambda hidden: hidden.sum() * math.log(2)),
            "The bound is that of a whole sequence. Divide it by the number of its tokens.": (
                _bound(divide=lambda hidden: len(hidden) * math.log(2))
            ),
            "These are nats. A bit is log 2 of them.": _bound(divide=torch.numel),
            BROADCAST: _bound(expand=False),
        },
        points=2,
        trains=True,
    ),
)
