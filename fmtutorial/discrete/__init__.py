"""Flow matching for tokens: chains that jump, paths and rates, posteriors. Chapter 12."""

from fmtutorial.discrete.chains import (
    TokenRate,
    TokenStep,
    all_states,
    check_probabilities,
    check_rates,
    check_tokens,
    draw_tokens,
    euler_step,
    leap_step,
    one_hot,
    rate_matrix,
    simulate,
    step_matrix,
)
from fmtutorial.discrete.paths import Posterior, TokenPath, gillespie, masking_path, uniform_path
from fmtutorial.discrete.posteriors import (
    Denoiser,
    ExactRate,
    denoising_loss,
    guided_posterior,
    likelihood_bound,
)

__all__ = [
    "Denoiser",
    "ExactRate",
    "Posterior",
    "TokenPath",
    "TokenRate",
    "TokenStep",
    "all_states",
    "check_probabilities",
    "check_rates",
    "check_tokens",
    "denoising_loss",
    "draw_tokens",
    "euler_step",
    "gillespie",
    "guided_posterior",
    "leap_step",
    "likelihood_bound",
    "masking_path",
    "one_hot",
    "rate_matrix",
    "simulate",
    "step_matrix",
    "uniform_path",
]
