"""Models of diffusers as velocity fields, with label and guidance. Chapter 16."""

import copy
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmtutorial.conventions import (
    at_levels,
    ddpm_schedule,
    from_diffusers,
    from_v_prediction,
)
from fmtutorial.diffusion import as_velocity
from fmtutorial.fields import VelocityField, check_count
from fmtutorial.guidance import LabelledField, autoguided
from fmtutorial.other_models.binding import bound, check_classes, guides, library, stated
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import check_grid

GIVEN = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
"""What a scheduler's ``prediction_type`` is called here."""


class _Reading(NamedTuple):
    """How a scheduler reads its model's answer."""

    given: str  # "flow" or a value of GIVEN
    path: AffinePath
    levels: int
    whole: bool


def from_diffusers_model(
    model: nn.Module,
    scheduler: object,
    label: Tensor | None = None,
    scale: float | Tensor = 1.0,
    null: int | Tensor | None = None,
) -> tuple[VelocityField, AffinePath]:
    """Turn a network of diffusers, read as its scheduler says, into a velocity field and its path.

    A scheduler with ``alphas_cumprod`` (DDPM, DDIM, DPM-Solver, …) has the path
    ``ddpm_schedule`` through its levels: index j is t = 1 − (j + 1)/T, and the field is defined on
    0 ≤ t < 1. The path of ``FlowMatchEulerDiscreteScheduler`` is LINEAR, with t = 1 − sigma on
    [0, 1]; its ``shift`` moves the grid and not the field. A scheduler's choice of steps is no
    part of the field: see ``scheduler_grid``.

    Args:
        model: a UNet2DModel, DiTTransformer2DModel or UNet2DConditionModel, after ``eval()``. It
            is called in its own precision; of doubled channels, those for the variance are left.
        scheduler: with the configuration that the model was trained for.
        label: classes, shape (B,); for a UNet2DConditionModel what its text encoder returned,
            shape (B, tokens, width). None for a model without, or for the answer to ``null``.
        scale: s of ``guidance.guided``, their ``guidance_scale``; acts also between 0 and 1.
        null: what stands for "no label": a class, or the encoded empty text, shape
            (1 or B, tokens, width). A DiTTransformer2DModel has one, its number of classes.

    Returns:
        v(x, t), and the path to which it belongs.

    Raises:
        TypeError: model or scheduler of another kind.
        ValueError: an unknown ``prediction_type``, a model in training mode, a label too many or
            missing, or a model that needs more than these.

    A ``UserWarning`` says when the scheduler clips the data that it predicts, which a field does
    not do.
    """
    diffusers = library("diffusers")
    name, classes = _condition(model, diffusers)
    reading = _reading(scheduler, diffusers)
    if model.training:
        raise ValueError("the model is in training mode, in which it may drop labels: model.eval()")
    if getattr(model.config, "time_embedding_type", None) == "learned":
        reading = reading._replace(whole=True)
    if isinstance(model, diffusers.DiTTransformer2DModel) and null is None:
        null = classes - 1
    network = partial(_velocity, model, name, reading)
    if name == "encoder_hidden_states":
        return _with_text(network, label, scale, null), reading.path
    if classes == 0 and not (label is None and null is None):
        raise ValueError("the model has no classes: leave label and null out")
    if classes > 0 and null is None and (label is None or guides(scale)):
        wanted = "label, shape (B,), or null" if label is None else "null, for guidance"
        raise ValueError(f"the model has {classes} classes: pass {wanted}")
    check_classes(label, null, classes)
    return bound(network, label, scale, null), reading.path


def _condition(model: nn.Module, diffusers: ModuleType) -> tuple[str, int]:
    """Return the name under which a model takes what it is conditioned on, and its classes."""
    names = ("UNet2DModel", "DiTTransformer2DModel", "UNet2DConditionModel")
    if not isinstance(model, tuple(getattr(diffusers, name) for name in names)):
        raise TypeError(
            f"model is of type {type(model).__name__}; pass a {', '.join(names)}, or call another "
            "one by hand: from_diffusers(lambda x, k: model(x, k, …).sample)"
        )
    config = model.config
    outputs = config.out_channels or config.in_channels
    if outputs not in (config.in_channels, 2 * config.in_channels):
        raise ValueError(
            f"the model takes {config.in_channels} channels and returns {outputs}: one that sees "
            "more than its state, as for inpainting, is not covered"
        )
    for option in (
        *("class_embed_type", "addition_embed_type", "time_embedding_type"),
        "time_cond_proj_dim",  # of a model that jumps, for the scale of its guidance
    ):
        if config.get(option) not in (None, "positional", "learned"):
            raise ValueError(f"{option}={config[option]!r} is not covered: call it by hand")
    if isinstance(model, diffusers.UNet2DConditionModel):
        return "encoder_hidden_states", 0
    transformer = isinstance(model, diffusers.DiTTransformer2DModel)
    # a transformer has one more row in its table, for no label
    classes = config.num_embeds_ada_norm + 1 if transformer else config.num_class_embeds
    return "class_labels", classes or 0


def _reading(scheduler: object, diffusers: ModuleType) -> _Reading:
    """Return how a scheduler reads its model, or raise."""
    if not isinstance(scheduler, diffusers.SchedulerMixin):
        raise TypeError(f"scheduler is of type {type(scheduler).__name__}; pass one of diffusers")
    config, kind = scheduler.config, type(scheduler).__name__
    if kind.startswith("FlowMatch"):
        if config.get("invert_sigmas"):
            raise ValueError("invert_sigmas=True has noise and data exchanged, and is not covered")
        return _Reading("flow", AffinePath(LINEAR), config.num_train_timesteps, False)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise TypeError(f"{kind} has no alphas_cumprod and is no flow: it is not covered")
    given = config.get("prediction_type", "epsilon")
    if given not in GIVEN:
        raise ValueError(f'unknown prediction_type "{given}"; known are {", ".join(GIVEN)}')
    for name in ("thresholding", "clip_sample"):
        if config.get(name):
            warnings.warn(
                f"{kind} has {name}=True: its samplers clip the data that the model predicts, and "
                f"a field does not. For equal samples take {kind}.from_config(scheduler.config, "
                f"{name}=False)",
                stacklevel=3,
            )
    # in double precision, so that the levels are the scheduler's own numbers
    bars = scheduler.alphas_cumprod.detach().cpu().double()
    if bars[-1] == 0:  # rescale_betas_zero_snr; a beta of 1 has no logarithm
        bars[-1] = 1e-4 * bars[-2]
    betas = 1 - bars / torch.cat([bars.new_ones(1), bars[:-1]])
    return _Reading(GIVEN[given], AffinePath(ddpm_schedule(betas)), len(bars), False)


def _velocity(
    model: nn.Module, name: str, reading: _Reading, x: Tensor, t: Tensor, label: Tensor | None
) -> Tensor:
    """Return the velocity for a label, as ``guided`` asks for it."""
    called = partial(_called, model, name, label)
    if reading.given == "flow":
        return from_diffusers(called, reading.levels)(x, t)
    prediction = at_levels(called, reading.levels, reading.whole)
    if reading.given == "v":
        return from_v_prediction(prediction, reading.path)(x, t)
    return as_velocity(prediction, reading.path, reading.given)(x, t)


def _called(model: nn.Module, name: str, label: Tensor | None, x: Tensor, k: Tensor) -> Tensor:
    own = x.to(model.dtype)
    if label is not None and label.is_floating_point():
        label = label.to(own)
    answer = model(own, k, **{name: label}).sample
    return answer[:, : x.shape[1]].to(x.dtype)  # the rest is a variance


def _with_text(
    network: LabelledField, text: Tensor | None, scale: float | Tensor, empty: Tensor | None
) -> VelocityField:
    for name, value in (("label", text), ("null", empty)):
        if value is not None and (not isinstance(value, Tensor) or value.ndim != 3):
            raise TypeError(
                f"{name} is {value!r:.40}; pass encoder_hidden_states, (B, tokens, width)"
            )
    if text is None:
        raise ValueError(
            "the model is conditioned on text: pass its encoder_hidden_states as label"
        )
    own = partial(stated, network, text)
    if not guides(scale):
        return own
    if empty is None:
        raise ValueError("guidance needs null, what the text encoder returns for the empty text")
    return autoguided(own, partial(stated, network, empty.expand_as(text)), scale)


def load_diffusers(source: object) -> tuple[nn.Module, object]:
    """Return the network and the scheduler of a pipeline, for ``from_diffusers_model``.

    Args:
        source: a folder of ``save_pretrained``, a name on the Hub, or a pipeline. A folder needs
            no network; a name is downloaded once.

    Returns:
        The pipeline's ``unet`` or ``transformer``, and its ``scheduler``. A ``UserWarning`` says
        when their states are latents, which the pipeline's ``vae`` turns into images.

    Raises:
        FileNotFoundError: there is no such folder, and the Hub gives nothing of that name, for
            instance because there is no network.
        ValueError: the pipeline has no such parts.
    """
    diffusers = library("diffusers")
    if isinstance(source, str | Path):
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(source)
        except Exception as error:
            said = str(error).strip().split("\n")[0]
            raise FileNotFoundError(
                f"no pipeline at {source}: neither a folder of save_pretrained, nor does the Hub "
                f"give one of that name (is there a network?): {said:.200}"
            ) from error
    elif isinstance(source, diffusers.DiffusionPipeline):
        pipeline = source
    else:
        raise TypeError(f"source is of type {type(source).__name__}; pass a name or a pipeline")
    parts = pipeline.components
    model = parts.get("unet", parts.get("transformer"))
    if model is None or parts.get("scheduler") is None:
        raise ValueError(f"the pipeline has {', '.join(parts)}; unet and scheduler are needed")
    if "vae" in parts:
        warnings.warn(
            "states of this model are latents: decode them with the pipeline's vae; a likelihood "
            "is that of latents",
            stacklevel=2,
        )
    return model, parts["scheduler"]


def scheduler_grid(scheduler: object, steps: int) -> Tensor:
    """Return the times of this book at which a scheduler evaluates its model, and the last.

    With ``ddim`` for DDIMScheduler (its spacing "leading" or "trailing", and steps that divide T),
    ``dpm_solver`` for DPMSolverMultistepScheduler and ``euler`` for FlowMatchEulerDiscreteScheduler
    the same samples come out. Their default grids do not begin at t = 0, but where their first
    level lies.

    Args:
        scheduler: of diffusers; it is left as it is.
        steps: their ``num_inference_steps``.

    Returns:
        Shape (steps + 1,), increasing, double precision.

    Raises:
        ValueError: the scheduler visits a level twice.
    """
    diffusers = library("diffusers")
    check_count(steps, "steps")
    if not isinstance(scheduler, diffusers.SchedulerMixin):
        raise TypeError(f"scheduler is of type {type(scheduler).__name__}; pass one of diffusers")
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    if type(own).__name__.startswith("FlowMatch"):
        return check_grid(1 - own.sigmas.cpu().double())
    levels = own.config.num_train_timesteps
    noisy = not own.config.get("set_alpha_to_one", True)
    noisy = noisy or own.config.get("final_sigmas_type") == "sigma_min"
    down = torch.cat([own.timesteps.cpu().double() + 1, torch.tensor([float(noisy)], device="cpu")])
    return check_grid(1 - down / levels)
