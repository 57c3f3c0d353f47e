"""Posteriors of tokens: exact ones of a known law, a network's, guided ones, and their losses.

Chapter 12.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from fmtutorial.discrete.chains import all_states, check_probabilities, check_tokens
from fmtutorial.discrete.paths import Posterior, TokenPath
from fmtutorial.fields import (
    check_callable,
    check_kind,
    check_number,
    check_times,
    expand_time,
    flatten,
)


@dataclass(frozen=True, eq=False)
class ExactRate:
    """What a perfectly trained network would answer, for a law on sequences given as a table.

    The law is a tensor of shape (S, …, S), one dimension for each of d positions: its entry at
    x₁ is the probability of that sequence. Calling the object gives the marginal rate, so it can
    be used wherever rates can.

    All methods take tokens x of shape (B, *event) with d positions, and t of shape (B,). They are
    defined for t in [0, 1], the rate for t in [0, 1); and where p_t(x) > 0. Memory is B · S^d.

    Raises:
        ValueError: a sequence x that the path never shows at t, or a law with a mask in it.

    Source: Gat et al. 2024. Chapter 12.
    """

    path: TokenPath
    law: Tensor

    def __post_init__(self) -> None:
        check_kind(self.path, TokenPath, "path")
        if not isinstance(self.law, Tensor) or not self.law.is_floating_point():
            kind = self.law.dtype if isinstance(self.law, Tensor) else type(self.law).__name__
            raise TypeError(f"law is of type {kind}; pass a floating-point tensor (S, …, S)")
        if self.law.layout is not torch.strided:
            raise TypeError("law is no dense tensor; pass law.to_dense()")
        if self.law.ndim == 0 or set(self.law.shape) != {self.path.size}:
            raise ValueError(
                f"law has shape {tuple(self.law.shape)}; the path has {self.path.size} tokens, so "
                "each dimension must have that size"
            )
        off = abs(self.law.sum().item() - 1)
        if not (bool((self.law >= 0).all()) and off < 1e-5):
            raise ValueError("law has a negative entry, or does not sum to 1; divide by its sum")
        if self.path.mask is not None and bool((self._sums[:, self.path.mask] > 0).any()):
            raise ValueError(f"law gives probability to token {self.path.mask}, which is the mask")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the marginal rate ν_t (p̂ − δ_x), shape (B, *event, S); t in [0, 1)."""
        self.path.hazard(t)
        return self.path.rate(self.posterior(x, t), x, t)

    def posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """Return p̂, the law of each position's data token given x_t = x; (B, *event, S)."""
        joint = self._joint(x, t)
        total = flatten(joint).sum(1)
        if bool((total <= 0).any()):
            wrong = x[total <= 0][0].tolist()
            raise ValueError(f"the path never shows {wrong} at this t; no law of x₁ belongs to it")
        laws = [_keep(joint, 1 + i) for i in range(self.law.ndim)]
        found = torch.stack(laws, dim=1) / total[:, None, None]
        return (found / found.sum(-1, keepdim=True)).reshape(*x.shape, self.path.size)

    def log_posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p̂, which a ``Denoiser`` takes for a network's logits."""
        return self.posterior(x, t).log()

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), shape (B,); −∞ where the path never is."""
        return flatten(self._joint(x, t)).sum(1).log()

    def target_entropy(self, x: Tensor, t: Tensor) -> Tensor:
        """Return Σ H(x₁^i | x_t = x) over positions, shape (B,), in nats.

        No network can push the denoising loss below its mean over x_t and t.
        """
        p = self.posterior(x, t)
        return flatten(torch.special.entr(p)).sum(1)

    def law_at(self, t: Tensor) -> Tensor:
        """Return the table of p_t for each t; shapes (B,) to (B, S, …, S)."""
        states = all_states(self.path.size, self.law.ndim).to(self.law.device)
        check_times(t, "a path")
        if t.ndim != 1:
            raise ValueError(f"t has shape {tuple(t.shape)}; pass (B,), one for each table")
        found = [self._joint(states, one.expand(len(states))).flatten(1).sum(1) for one in t]
        return torch.stack(found).reshape(-1, *self.law.shape) if len(t) else self.law[None][:0]

    @cached_property
    def _sums(self) -> Tensor:
        """The law of each single position, shape (d, S)."""
        return torch.stack([_keep(self.law[None], 1 + i)[0] for i in range(self.law.ndim)])

    def _joint(self, x: Tensor, t: Tensor) -> Tensor:
        """Return p(x₁) p_t(x | x₁) for each sequence x₁, shape (B, S, …, S)."""
        check_tokens(x, self.path.size)
        flat, positions = flatten(x), math.prod(x.shape[1:])
        if positions != self.law.ndim:
            raise ValueError(
                f"x has {positions} positions; the law has {self.law.ndim}, one for each dimension"
            )
        check_times(t, "a path")
        alpha = self.path.schedule.alpha(expand_time(t, flat.to(t))).to(self.law)
        noise = (1 - alpha) * self.path.noise(self.law)[flat]  # (B, d)
        joint = self.law.expand(len(x), *self.law.shape)
        tokens = torch.arange(self.path.size, device=x.device)
        for i in range(positions):
            kernel = noise[:, i, None] + alpha * (tokens == flat[:, i, None])  # (B, S)
            joint = joint * kernel.reshape(
                len(x), *[1] * i, self.path.size, *[1] * (positions - 1 - i)
            )
        return joint


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network's posterior p̂: its logits (B, *event, S), made probabilities that fit the path.

    A call takes x of shape (B, *event) and t of shape (B,).
    """

    network: Callable[[Tensor, Tensor], Tensor]
    path: TokenPath

    def __post_init__(self) -> None:
        check_callable(self.network, "network")
        check_kind(self.path, TokenPath, "path")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return p̂, shape (B, *event, S)."""
        return self.log_prob(x, t).exp()

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p̂, shape (B, *event, S)."""
        check_tokens(x, self.path.size)
        check_times(t, "a path")
        expand_time(t, x.to(t))
        return self.path.log_posterior(self.network(x, t), x)


def guided_posterior(posterior: Posterior, conditional: Posterior, scale: float) -> Posterior:
    """Return the posterior ∝ p̂^(1 − ω) p̂(· | y)^ω; ω = 0 and 1 give back the two.

    For one token and a mask its samples have the law ∝ p^(1 − ω) p(· | y)^ω.

    Args:
        posterior: p̂, without a label.
        conditional: p̂(· | y), with a label y bound to it.
        scale: ω, not negative.

    Raises:
        ValueError: a token that the label allows has no probability without it, or the two have
            different numbers of tokens.

    Source: Nisonoff et al. 2024 for rates. Chapter 12.
    """
    check_callable(posterior, "posterior")
    check_callable(conditional, "conditional")
    check_number(scale, "scale", low=0)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        first, second = posterior(x, t), conditional(x, t)
        check_probabilities(first, x, "posterior")
        check_probabilities(second, x, "conditional")
        if first.shape != second.shape:
            raise ValueError(
                f"posterior has {first.shape[-1]} tokens, conditional {second.shape[-1]}; they "
                "must be of one path"
            )
        if bool(((first == 0) & (second > 0)).any()):
            raise ValueError("posterior: 0 at a token to which the conditional gives more")
        never = (second == 0) if scale > 0 else (first == 0)
        mixed = (1 - scale) * first.log() + (scale * second.log() if scale > 0 else 0)
        return torch.where(never, -torch.inf, mixed).softmax(-1)

    return guided


def denoising_loss(
    model: Denoiser, x1: Tensor, t: Tensor, generator: Generator | None = None
) -> Tensor:
    """Return the mean of −Σ log p̂(x₁ | x_t) over positions, at x_t drawn given x₁.

    Its minimiser is the exact posterior, its floor the mean entropy of that.

    Args:
        model: with the path.
        x1: data tokens, shape (B, *event).
        t: shape (B,), in [0, 1].
        generator: for x_t.

    Returns:
        Shape (), in nats a sequence.

    Source: Gat et al. 2024. Chapter 12.
    """
    check_kind(model, Denoiser, "model")
    log_p = model.log_prob(model.path.sample(x1, t, generator), t)
    if len(x1) == 0:
        raise ValueError("a batch of no sequences has no loss")
    return -log_p.gather(-1, x1.unsqueeze(-1)).sum() / len(x1)


def likelihood_bound(
    model: Denoiser, x1: Tensor, t: Tensor, generator: Generator | None = None
) -> Tensor:
    """Return one term of a bound on −log p(x₁) for each sequence, shape (B,), in nats.

    Its mean over t uniform in [0, 1) and over x_t is at least −log p(x₁) of the chain with the
    model's rates. A position with x_t = x₁ has ν (1 − p̂(x_t)), any other −ν (log p̂(x₁) +
    p̂(x_t)). With a mask that is −ν log p̂(x₁) where it is masked, and 0 elsewhere.

    Arguments as of ``denoising_loss``, t in [0, 1).

    Source: Campbell et al. 2022; Shaul et al. 2024 for these paths. Chapter 12.
    """
    check_kind(model, Denoiser, "model")
    x = model.path.sample(x1, t, generator)
    log_p = model.log_prob(x, t)
    right, here = (log_p.gather(-1, at.unsqueeze(-1)).squeeze(-1) for at in (x1, x))
    terms = torch.where(x == x1, 1, -right) - here.exp()
    return model.path.hazard(t) * flatten(terms).sum(1)


def _keep(table: Tensor, dim: int) -> Tensor:
    """Sum a batch of tables over all dimensions but one; shape (B, S)."""
    others = [1 + i for i in range(table.ndim - 1) if 1 + i != dim]
    return table.sum(others) if others else table
