"""Continuous-time Markov chains on tokens: rates, steps, and the matrices that they stand for.

Chapter 12.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fmtutorial.fields import (
    check_callable,
    check_count,
    check_state,
    check_times,
    expand_time,
    generator_device,
)
from fmtutorial.solvers import check_grid

TokenRate = Callable[[Tensor, Tensor], Tensor]
"""rate(x, t), shape (B, *event, S): for each position the rate of jumps to each of S tokens.

x holds whole numbers, shape (B, *event), t has shape (B,). Off the present token the entries are
not negative; that at the present token is minus their sum.
"""

TokenStep = Callable[[Tensor, Tensor, Tensor], Tensor]
"""step(x, t, end), shape (B, *event, S): the law of each position's token at time end."""

ANY = 2**62  # tokens, where their number is not known


def check_tokens(x: Tensor, size: int, name: str = "x") -> None:
    """Raise unless x is a batch of tokens 0, …, size − 1, of shape (B, *event).

    Raises:
        TypeError: x is no dense tensor of dtype torch.int64.
        ValueError: x has no batch dimension, or holds another number.
    """
    check_count(size, "size", least=2)
    if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.layout is not torch.strided:
        kind = f"{x.dtype}, {x.layout}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is of type {kind}; tokens are a dense tensor of torch.int64")
    if x.ndim == 0:
        raise ValueError(f"{name} has no batch dimension; pass {name}.unsqueeze(0)")
    outside = (x < 0) | (x >= size)
    if bool(outside.any()):
        wrong = x[outside][0].item()
        raise ValueError(f"{name} has the token {wrong}; there are the tokens 0 to {size - 1}")


def check_rates(rates: Tensor, x: Tensor) -> None:
    """Raise unless the rates are those of a Markov chain at the states x.

    Args:
        rates: shape (B, *event, S).
        x: tokens, shape (B, *event).

    Raises:
        TypeError: they are no floating-point tensor.
        ValueError: another shape, a rate that is not finite, one off the present token that is
            negative, or rates that do not sum to zero, up to rounding.

    Source: Norris 1997. Chapter 12.
    """
    check_table(rates, x, "rates")
    if not bool(rates.isfinite().all()):
        raise ValueError("a rate is not finite; is t in the interval where rates are?")
    to_others = torch.where(one_hot(x, rates).bool(), 0, rates)
    if bool((to_others < 0).any()):
        raise ValueError(f"a rate of jumps is {to_others.min().item():g}; none is negative")
    off, large = rates.sum(-1).abs(), rates.abs().max() if rates.numel() else 0
    if not bool((off <= 64 * torch.finfo(rates.dtype).eps * rates.shape[-1] * large).all()):
        raise ValueError(
            f"the rates of a position sum to ± {off.max().item():g}; put minus the sum of the "
            "others at the present token"
        )


def check_probabilities(probabilities: Tensor, x: Tensor, name: str = "probabilities") -> None:
    """Raise as ``check_rates`` does, unless each position has a law on the tokens."""
    check_table(probabilities, x, name)
    if bool((probabilities < 0).any()):
        raise ValueError(f"{name}: an entry is {probabilities.min().item():g}, below 0")
    off = (probabilities.sum(-1) - 1).abs()
    if bool((off > 64 * torch.finfo(probabilities.dtype).eps * probabilities.shape[-1]).any()):
        raise ValueError(f"{name}: a sum over the tokens is 1 ± {off.max().item():g}; divide by it")


def check_table(table: Tensor, x: Tensor, name: str) -> None:
    """Raise as ``check_rates`` does, unless a table has numbers below +∞ for each token of x."""
    if not isinstance(table, Tensor) or not table.is_floating_point():
        kind = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise TypeError(f"{name}: of type {kind}; pass a floating-point tensor")
    if table.layout is not torch.strided or table.ndim == 0:
        raise TypeError(f"{name}: no dense tensor of shape (B, *event, S)")
    check_tokens(x, table.shape[-1])
    if table.shape[:-1] != x.shape:
        raise ValueError(
            f"{name}: shape {tuple(table.shape)}; for x of shape {tuple(x.shape)} it must be the "
            "same and one dimension more, for the tokens"
        )
    if not bool((table < torch.inf).all()):
        raise ValueError(f"{name}: not finite; look at the network, and at t")


def one_hot(x: Tensor, like: Tensor) -> Tensor:
    """Return 1 at the tokens of x and 0 elsewhere, shape (*x.shape, S), with S and type of like."""
    check_state(like, "like")
    check_tokens(x, like.shape[-1])
    return functional.one_hot(x, like.shape[-1]).to(like)


def expand_length(t: Tensor, end: Tensor, x: Tensor) -> Tensor:
    """Return end − t in [0, 1] with the dimensions of rates, (B, 1, …, 1), or raise."""
    check_tokens(x, ANY)
    for time in (t, end):
        check_times(time, "a chain")
    h = (expand_time(end, x.to(end)) - expand_time(t, x.to(t))).unsqueeze(-1)
    if bool((h < 0).any()):
        raise ValueError("a step ends before it starts; a chain runs forward")
    return h


def euler_step(rate: TokenRate, x: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """Return I + h R: each position jumps with probability h times its rates, h = end − t.

    Args:
        rate: of the chain, read at time t.
        x: tokens, shape (B, *event).
        t: shape (B,), in [0, 1].
        end: shape (B,), not before t.

    Returns:
        Probabilities of each position's token at end, shape (B, *event, S).

    Raises:
        ValueError: h times the rate of leaving a token is above 1.

    Source: Campbell et al. 2024. Chapter 12.
    """
    h, rates = expand_length(t, end, x), _rates(rate, x, t)
    found = one_hot(x, rates) + h * rates
    if bool((found < -1e-5).any()):
        raise ValueError(
            f"a step of {h.max().item():g} is longer than 1 over the rate of leaving a token: its "
            f"probability is {found.min().item():g}; take shorter steps, or leap_step"
        )
    found = found.clamp(min=0)
    return found / found.sum(-1, keepdim=True)  # rounding


def leap_step(rate: TokenRate, x: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """Return the law of each position's first jump, at rates that stand still from t to end.

    It stays with probability e^(−h λ), with λ the rate of leaving, and else goes where the rates
    say. Arguments and result as of ``euler_step``; the step may have any length.

    Source: Gillespie 2001; Campbell et al. 2022. Chapter 12.
    """
    h, rates = expand_length(t, end, x), _rates(rate, x, t)
    here = one_hot(x, rates)
    leaving = torch.where(here.bool(), 0, rates)
    total = leaving.sum(-1, keepdim=True)
    share = -torch.expm1(-h * total) / torch.where(total > 0, total, 1)
    return here * torch.exp(-h * total) + share * leaving


def draw_tokens(probabilities: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw a token for each row of probabilities, shape (*shape, S); they may have any sum.

    Raises:
        TypeError: they are no dense floating-point tensor.
        ValueError: a row has an entry that is negative or not finite, or none that is positive.
    """
    device = generator_device(generator)
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        raise TypeError("probabilities: no floating-point tensor")
    if probabilities.layout is not torch.strided or probabilities.ndim == 0:
        raise TypeError("probabilities: no dense tensor of shape (*shape, S)")
    sums = probabilities.cumsum(-1)
    total = sums[..., -1:]
    if not bool(((probabilities >= 0) & (total > 0) & total.isfinite()).all()):
        raise ValueError("probabilities: a row is negative, not finite, or zero everywhere")
    uniform = torch.rand(total.shape, generator=generator, device=device).to(total)
    below = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (sums > below).to(torch.uint8).argmax(-1)  # the first one above


def simulate(
    step: TokenStep, x: Tensor, times: Tensor, generator: Generator | None = None
) -> Tensor:
    """Run a chain along a grid of times, and return its states at the last, shaped like x.

    Args:
        step: such as ``partial(leap_step, rate)``; positions jump independently within a step.
        x: tokens at the first time, shape (B, *event).
        times: increasing in [0, 1], shape (T,).
        generator: for all draws.

    Raises:
        ValueError: the grid does not increase, or a step does not return probabilities.

    Source: Campbell et al. 2024. Chapter 12.
    """
    check_callable(step, "step")
    check_times(check_grid(times), "a chain")
    if bool((times.diff() < 0).any()):
        raise ValueError("times decrease; a chain runs forward: pass times.flip(0)")
    check_tokens(x, ANY)
    for t, end in zip(times[:-1], times[1:], strict=True):
        probabilities = step(x, t.expand(len(x)), end.expand(len(x)))
        check_probabilities(probabilities, x)
        x = draw_tokens(probabilities, generator)
    return x


def all_states(size: int, positions: int) -> Tensor:
    """Return every sequence of a number of positions, shape (size^positions, positions).

    Raises:
        ValueError: there are more than 20 000.
    """
    check_count(size, "size", least=2)
    check_count(positions, "positions")
    if positions > 14 or size**positions > 20_000:
        raise ValueError(f"there are {size}^{positions} states; up to 20 000 are listed")
    return torch.cartesian_prod(*[torch.arange(size)] * positions).reshape(-1, positions)


def rate_matrix(rates: Tensor) -> Tensor:
    """Return Q with Q(x, y) the rate from x to y, from the rates at ``all_states``.

    Shapes (N, d, S) to (N, N), with N = S^d. A row p of probabilities obeys dp/dt = p Q.

    Source: Norris 1997. Chapter 12.
    """
    states = _listed(rates, "rates")
    check_rates(rates, states)
    rows, tokens = (torch.arange(n, device=rates.device) for n in (len(states), rates.shape[2]))
    places = rates.shape[2] ** torch.arange(states.shape[1] - 1, -1, -1, device=rates.device)
    to = rows[:, None, None] + (tokens - states[:, :, None]) * places[:, None]  # (N, d, S)
    return rates.new_zeros(len(states), len(states)).scatter_add(1, to.flatten(1), rates.flatten(1))


def step_matrix(probabilities: Tensor) -> Tensor:
    """Return the matrix M of a step, from its probabilities at ``all_states``.

    Shapes (N, d, S) to (N, N), with N = S^d. Positions move independently: M(x, y) is a product
    over them. A row p of probabilities becomes p M.

    Source: Campbell et al. 2024. Chapter 12.
    """
    states = _listed(probabilities, "probabilities")
    check_probabilities(probabilities, states)
    return probabilities[:, torch.arange(states.shape[1], device=states.device), states].prod(-1)


def _listed(table: Tensor, name: str) -> Tensor:
    if not isinstance(table, Tensor) or table.ndim != 3:
        raise TypeError(f"{name}: no tensor of shape (N, d, S)")
    return all_states(table.shape[2], table.shape[1]).to(table.device)


def _rates(rate: TokenRate, x: Tensor, t: Tensor) -> Tensor:
    check_callable(rate, "rate")
    rates = rate(x, t)
    check_rates(rates, x)
    return rates
