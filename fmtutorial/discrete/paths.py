"""Flow matching for tokens: paths, the rates that follow them, and exact sampling.

Chapter 12.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from fmtutorial.discrete.chains import (
    check_probabilities,
    check_table,
    check_tokens,
    draw_tokens,
    expand_length,
    one_hot,
)
from fmtutorial.fields import (
    check_callable,
    check_count,
    check_kind,
    check_number,
    check_state,
    check_times,
    expand_time,
    flatten,
    generator_device,
)
from fmtutorial.paths import LINEAR, Schedule

Posterior = Callable[[Tensor, Tensor], Tensor]
"""posterior(x, t), shape (B, *event, S): for each position the law of its token at t = 1."""


@dataclass(frozen=True, eq=False)
class TokenPath:
    """Each token is noise with probability 1 − α_t and the data's with probability α_t.

    p_t(x | x₁) = (1 − α_t) p_0(x) + α_t [x = x₁] for each position, independently. α is that of a
    schedule; its σ is not read.

    Args:
        source: p_0, probabilities of the S tokens, shape (S,). A source on one token is a mask,
            and then data and posteriors do not have that token.
        schedule: of the data's weight.

    Source: Gat et al. 2024; Campbell et al. 2024. Chapter 12.
    """

    source: Tensor
    schedule: Schedule = LINEAR

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "schedule")
        if not isinstance(self.source, Tensor) or self.source.layout is not torch.strided:
            raise TypeError(f"source is of type {type(self.source).__name__}; pass a dense tensor")
        if self.source.ndim != 1:
            raise ValueError(f"source has shape {tuple(self.source.shape)}; pass (S,)")
        check_probabilities(self.source[None], torch.zeros(1, dtype=torch.int64), "source")

    @property
    def size(self) -> int:
        """Number of tokens S, a mask among them."""
        return len(self.source)

    @cached_property
    def mask(self) -> int | None:
        """The token that all noise has, if there is one."""
        return int(self.source.argmax()) if bool((self.source > 0).sum() == 1) else None

    def noise(self, like: Tensor) -> Tensor:
        """Return p_0 with the type of another tensor, in whose precision it sums to 1."""
        check_state(like, "like")
        source = self.source.to(like)
        return source / source.sum()

    def check_data(self, x1: Tensor) -> None:
        """Raise unless x₁ holds tokens, and no mask."""
        check_tokens(x1, self.size, "x1")
        if self.mask is not None and bool((x1 == self.mask).any()):
            raise ValueError(f"x1 has the token {self.mask}, which is the mask; data have none")

    def sample(self, x1: Tensor, t: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw x_t given x₁; shapes (B, *event) and (B,), t in [0, 1]."""
        self.check_data(x1)
        check_times(t, "a path")
        alpha = self._alpha(t, x1)
        noise = self.noise(alpha).expand(*x1.shape, -1)
        return draw_tokens((1 - alpha) * noise + alpha * one_hot(x1, noise), generator)

    def hazard(self, t: Tensor) -> Tensor:
        """Return ν_t = α̇/(1 − α), the rate at which noise becomes data; t in [0, 1)."""
        check_times(t, "the rate of a path", open_end=True)
        left = 1 - self.schedule.alpha(t)
        if bool((left <= 0).any()):
            raise ValueError("the rate of a path divides by 1 − α, which is 0; keep t below 1")
        return self.schedule.alpha_dot(t) / left

    def conditional_rate(self, x: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return ν_t (δ_{x₁} − δ_x), shape (B, *event, S); t in [0, 1).

        Source: Gat et al. 2024. Chapter 12.
        """
        self.check_data(x1)
        check_times(t, "a path")
        return self.rate(one_hot(x1, self.noise(t)), x, t)

    def rate(self, posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return ν_t (p̂ − δ_x), the marginal rate; t in [0, 1).

        Args:
            posterior: p̂, the law of each position's data token given x, shape (B, *event, S).
            x: tokens, shape (B, *event).
            t: shape (B,).

        Source: Gat et al. 2024. Chapter 12.
        """
        self._check(posterior, x)
        hazard = expand_time(self.hazard(t), x.to(t)).unsqueeze(-1)
        return _leaving(hazard.to(posterior) * posterior, x)

    def corrector_rate(self, posterior: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return α p̂ + (1 − α) p_0 − δ_x, which leaves p_t as it is; t in [0, 1].

        Arguments as of ``rate``. Added to it with any factor ≥ 0 it changes no marginal.

        Source: Campbell et al. 2024; Gat et al. 2024. Chapter 12.
        """
        self._check(posterior, x)
        check_times(t, "a path")
        alpha = self._alpha(t, x).to(posterior)
        return _leaving(alpha * posterior + (1 - alpha) * self.noise(posterior), x)

    def step(self, posterior: Posterior, x: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Return (1 − g) δ_x + g p̂ with g = (α_end − α_t)/(1 − α_t).

        The posterior stands still, and ν is integrated exactly: for data of one token and a mask
        there is no error. A ``TokenStep``, with the posterior bound; t in [0, 1).

        Source: Sahoo et al. 2024, with time reversed. Chapter 12.
        """
        check_callable(posterior, "posterior")
        expand_length(t, end, x)  # checks both
        self.hazard(t)
        found = posterior(x, t)
        self._check(found, x)
        alpha, later = (self._alpha(time, x).to(found) for time in (t, end))
        share = (later - alpha) / (1 - alpha)
        return (1 - share) * one_hot(x, found) + share * found

    def log_posterior(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return log p̂ of logits, shape (B, *event, S).

        With a mask: no position ends as the mask, and a token that is no mask stays.
        """
        check_tokens(x, self.size)
        check_table(logits, x, "logits")
        self._check_size(logits, "logits")
        if self.mask is None:
            return logits.log_softmax(-1)
        tokens = torch.arange(self.size, device=x.device)
        known = (x != self.mask).unsqueeze(-1) & (x.unsqueeze(-1) != tokens)
        return logits.masked_fill(known | (tokens == self.mask), -torch.inf).log_softmax(-1)

    def _alpha(self, t: Tensor, x: Tensor) -> Tensor:
        return self.schedule.alpha(expand_time(t, x.to(t))).unsqueeze(-1)

    def _check(self, posterior: Tensor, x: Tensor) -> None:
        check_tokens(x, self.size)
        check_probabilities(posterior, x, "posterior")
        self._check_size(posterior, "posterior")

    def _check_size(self, table: Tensor, name: str) -> None:
        if table.shape[-1] != self.size:
            raise ValueError(
                f"{name}: {table.shape[-1]} tokens in the last dimension; the path has "
                f"{self.size}" + (", with the mask" if self.mask is not None else "")
            )


def _leaving(rates: Tensor, x: Tensor) -> Tensor:
    """Return rates with minus the sum of the others at the present token.

    Where a rate is large, near t = 1, the rounding of p̂'s sum would not cancel.
    """
    others = torch.where(one_hot(x, rates).bool(), 0, rates)
    return others - one_hot(x, rates) * others.sum(-1, keepdim=True)


def masking_path(tokens: int, schedule: Schedule = LINEAR) -> TokenPath:
    """Return the path from masks to data of ``tokens`` tokens; the mask is one more, the last."""
    check_count(tokens, "tokens")
    source = torch.zeros(tokens + 1)
    source[-1] = 1
    return TokenPath(source, schedule)


def uniform_path(tokens: int, schedule: Schedule = LINEAR) -> TokenPath:
    """Return the path from noise that has every token with the same probability."""
    check_count(tokens, "tokens", least=2)
    return TokenPath(torch.full((tokens,), 1 / tokens), schedule)


def gillespie(
    posterior: Posterior,
    path: TokenPath,
    x: Tensor,
    start: float,
    end: float,
    generator: Generator | None = None,
) -> Tensor:
    """Run the marginal chain bell by bell, with no error of steps; return its states at end.

    At each position a bell rings at rate ν_t, and the position is drawn anew from p̂ given all
    others as they are then. With a mask only masked positions need to listen: they are unmasked
    one at a time, in random order.

    Args:
        posterior: p̂ of the path.
        path: for its clock.
        x: tokens at start, shape (B, *event).
        start: in [0, 1).
        end: from start to 1; below 1 without a mask, as bells ring for ever near 1.
        generator: for all draws.

    Source: Gillespie 1977, in the time −log(1 − α). Chapter 12.
    """
    check_callable(posterior, "posterior")
    check_kind(path, TokenPath, "path")
    check_tokens(x, path.size)
    check_number(start, "start", low=0, high=1, without_high=True)
    check_number(end, "end", low=start, high=1, without_high=path.mask is None)
    device = generator_device(generator)
    t = torch.full(x.shape[:1], float(start), device=x.device)
    flat, dtype = flatten(x), torch.get_default_dtype()
    left, last = (1 - path.schedule.alpha(t * 0 + time) for time in (start, end))
    while True:
        live = (flat == path.mask if path.mask is not None else flat >= 0).to(dtype)
        count = live.sum(1)
        uniform = 1 - torch.rand(len(x), generator=generator, device=device).to(t)
        left = left * uniform ** (1 / count)  # the first of count bells
        going = (left > last) & (count > 0)
        if not bool(going.any()):
            return flat.reshape(x.shape)
        t = torch.where(going, _time_of(path.schedule, 1 - left), t)
        place = draw_tokens(torch.where(going[:, None], live, 1), generator)[:, None]
        laws = posterior(flat.reshape(x.shape), t)
        path._check(laws, x)
        rows = laws.reshape(*flat.shape, -1)[torch.arange(len(x)), place[:, 0]]
        drawn = draw_tokens(rows, generator)[:, None]
        token = torch.where(going[:, None], drawn, flat.gather(1, place))
        flat = flat.scatter(1, place, token)


def _time_of(schedule: Schedule, alpha: Tensor) -> Tensor:
    """Return the time below 1 at which α has a value, by bisection."""
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(30):
        middle = (low + high) / 2
        below = schedule.alpha(middle) < alpha
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low
