"""Other libraries' samplers against ours on the same network, and the other way round.

All networks are built here from a seed. Their last layers are not zero, and ``assert_alive`` sees
that an answer depends on the state, the time and the label: two samplers of nothing agree.
Libraries are imported by fixtures, so that collecting the tests costs nothing.
"""

import pickle
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchdiffeq
from torch import nn

from fmtutorial.diffusion import ddim
from fmtutorial.distributions import Gaussian
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.likelihood import log_likelihood
from fmtutorial.networks import MLP, UNet
from fmtutorial.other_models import (
    from_diffusers_model,
    from_flow_matching,
    from_torchcfm,
    load_diffusers,
    scheduler_grid,
    to_diffusers_pipeline,
    to_flow_matching,
    to_onnx,
    to_torchcfm,
)
from fmtutorial.solvers import dpm_solver, euler, midpoint, rk4, solve

SHAPE, BATCH = (2, 8, 8), 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
"""In double precision. Their schedulers and time embeddings compute in single precision, 6e-8 a
step; in 50 steps that is 3e-6."""


def needs(name):
    return pytest.fixture(scope="module", name=name)(
        lambda: pytest.importorskip(name, reason=f"pip install {name}")
    )


diffusers, torchcfm, torchdyn = needs("diffusers"), needs("torchcfm"), needs("torchdyn")
flow_matching, onnxruntime = needs("flow_matching"), needs("onnxruntime")


def noise(shape=SHAPE, batch=BATCH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)


def lively(model, scale=1.0):
    """Return a model with random weights everywhere: zero first and last layers say nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            spread = scale / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    return model.double().requires_grad_(False).eval()


def assert_alive(field, *others, x=None):
    """The field is not zero, and depends on x and t; the others, of other labels, differ."""
    x = noise() if x is None else x
    t = torch.full((len(x),), 0.5, dtype=x.dtype)
    v = field(x, t)
    size = v.norm()
    assert size > 0.1 * len(x) ** 0.5
    changes = [field(x.roll(1, -1), t) - v, field(x, t / 2) - v]
    for change in [*changes, *(other(x, t) - v for other in others)]:
        assert change.norm() > 0.005 * size  # 500 times the tolerance


def unet(diffusers, classes=None, **options):
    torch.manual_seed(0)
    return lively(
        diffusers.UNet2DModel(
            sample_size=8,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            num_class_embeds=classes,
            **options,
        )
    )


def transformer(diffusers, classes=1000, outputs=4):
    torch.manual_seed(0)
    return lively(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=2,
            out_channels=outputs,
            num_layers=1,
            norm_num_groups=2,
            sample_size=8,
            num_embeds_ada_norm=classes,
        )
    )


def their_samples(scheduler, call, steps, x):
    """The loop of every pipeline; ``call`` is the network with its conditions."""
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        x = scheduler.step(call(x, k), k, x).prev_sample
    return x


# diffusers, their samplers and ours.


@pytest.mark.parametrize(
    "kind, spacing, steps",
    [
        ("epsilon", "leading", 50),
        ("epsilon", "trailing", 10),
        ("v_prediction", "trailing", 10),
        ("sample", "leading", 10),
        ("zero snr", "trailing", 10),
        ("stable", "leading", 10),
    ],
)
def test_ddim_of_diffusers_is_ours(diffusers, kind, spacing, steps):
    """With no signal at all at the first level only "v_prediction" makes sense.

    "stable" has the options of Stable Diffusion, which ends at the first level, not at data.
    """
    options = {
        "zero snr": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        "stable": {"set_alpha_to_one": False, "steps_offset": 1},
    }
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False,
        timestep_spacing=spacing,
        **options.get(kind, {"prediction_type": kind}),
    )
    model = unet(diffusers)
    field, path = from_diffusers_model(model, scheduler)
    assert_alive(field)
    theirs = their_samples(scheduler, lambda x, k: model(x, k).sample, steps, noise())
    ours = solve(field, noise(), scheduler_grid(scheduler, steps), ddim(path)).last
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_in_single_precision_and_with_fresh_noise(diffusers):
    """float32 rounds a state to 6e-8; through 20 steps of a network it grows to some 1e-6."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    model = unet(diffusers).float()
    field, path = from_diffusers_model(model, scheduler)
    scheduler.set_timesteps(20)
    x, fresh = noise(dtype=torch.float32), torch.Generator().manual_seed(3)
    for k in scheduler.timesteps:
        x = scheduler.step(model(x, k).sample, k, x, eta=1.0, generator=fresh).prev_sample
    step = ddim(path, 1.0, fresh.manual_seed(3))
    ours = solve(field, noise(dtype=torch.float32), scheduler_grid(scheduler, 20), step).last
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_dpm_solver_of_diffusers_is_ours(diffusers, schedule):
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule=schedule)
    model = unet(diffusers)
    field, path = from_diffusers_model(model, scheduler)
    theirs = their_samples(scheduler, lambda x, k: model(x, k).sample, 16, noise())
    ours = dpm_solver(field, noise(), scheduler_grid(scheduler, 16), path).last
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_a_network_with_a_table_of_levels_is_called_at_levels(diffusers):
    model = unet(diffusers, time_embedding_type="learned", num_train_timesteps=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    field, path = from_diffusers_model(model, scheduler)
    theirs = their_samples(scheduler, lambda x, k: model(x, k).sample, 5, noise())
    ours = solve(field, noise(), scheduler_grid(scheduler, 5), ddim(path)).last
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    with pytest.raises(ValueError, match="is no level of the model"):
        field(noise(), torch.full((3,), 0.5005, dtype=torch.float64))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_of_diffusers_is_eulers_method(diffusers, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    model = unet(diffusers)
    field, path = from_diffusers_model(model, scheduler)
    assert path.schedule.name == "linear"
    assert_alive(field)
    theirs = their_samples(scheduler, lambda x, k: model(x, k).sample, 20, noise())
    ours = solve(field, noise(), scheduler_grid(scheduler, 20), euler).last
    torch.testing.assert_close(ours, theirs, **CLOSE)


# Labels and guidance.


class Latents(nn.Module):
    """Stands for a VAE, and makes samples so small that the pipeline's clamp leaves them whole."""

    config = SimpleNamespace(scaling_factor=1.0)

    device, dtype = torch.device("cpu"), torch.float64

    def decode(self, latents):
        return SimpleNamespace(sample=latents / 1e4)


LABEL = torch.tensor([0, 7, 7])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_pipeline_of_transformers_guides_as_guided_does(diffusers, scale):
    """DiTPipeline, whole: its noise, its class for none, its doubled channels, its guidance."""
    scheduler, model = diffusers.DDIMScheduler(clip_sample=False), transformer(diffusers)
    pipeline = diffusers.DiTPipeline(model, Latents(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    theirs = pipeline(LABEL.tolist(), scale, seed, num_inference_steps=10, output_type="pt").images
    with pytest.warns(UserWarning, match="states of this model are latents"):
        loaded = load_diffusers(pipeline)
    field, path = from_diffusers_model(*loaded, LABEL, scale)
    assert_alive(field, *(from_diffusers_model(*loaded, y)[0] for y in (LABEL + 1, None)))
    x = torch.randn(3, *SHAPE, generator=seed.manual_seed(0), dtype=torch.float64)
    ours = solve(field, x, scheduler_grid(scheduler, 10), ddim(path)).last
    theirs = (theirs - 0.5) * 2e4
    assert theirs.abs().max() < 9e3  # nothing was clamped
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_classes_of_a_unet(diffusers):
    """It has no class for none: with ``null`` it has, here the last of eleven."""
    scheduler, model = diffusers.FlowMatchEulerDiscreteScheduler(), unet(diffusers, 11)
    field, _ = from_diffusers_model(model, scheduler, LABEL, 2.0, null=10)
    assert_alive(field, from_diffusers_model(model, scheduler, LABEL + 1, 2.0, null=10)[0])

    def guided(x, k):
        empty, own = (
            model(x, k, class_labels=y).sample for y in (torch.full_like(LABEL, 10), LABEL)
        )
        return empty + 2.0 * (own - empty)

    theirs = their_samples(scheduler, guided, 10, noise())
    ours = solve(field, noise(), scheduler_grid(scheduler, 10), euler).last
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_text(diffusers):
    """Guidance of StableDiffusionPipeline: both halves in one batch, then the extrapolation."""
    torch.manual_seed(0)
    model = lively(
        diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8,),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=6,
            attention_head_dim=4,
        ),
        scale=0.5,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    text, empty = 3 * noise((5, 6)), 3 * noise((5, 6), 1).flip(1)
    field, path = from_diffusers_model(model, scheduler, text, 7.5, empty)
    assert_alive(field, from_diffusers_model(model, scheduler, text.flip(0), 7.5, empty)[0])

    def both(x, k):
        states = torch.cat([empty.expand_as(text), text])
        free, own = model(torch.cat([x, x]), k, encoder_hidden_states=states).sample.chunk(2)
        return free + 7.5 * (own - free)

    theirs = their_samples(scheduler, both, 10, noise())
    ours = solve(field, noise(), scheduler_grid(scheduler, 10), ddim(path)).last
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


# Likelihood.

MEAN, WIDTH = 0.7, 0.5


def gaussian_model(diffusers, scheduler):
    """A network of diffusers that knows the answer for data N(MEAN, WIDTH² I)."""

    class Known(diffusers.UNet2DModel):
        def forward(self, sample, timestep, class_labels=None):
            if hasattr(scheduler, "alphas_cumprod"):
                whole = timestep.round().long()
                assert torch.allclose(timestep, whole.double(), rtol=0, atol=1e-6)
                bar = scheduler.alphas_cumprod.double()[whole]
                a, b = bar.sqrt(), (1 - bar).sqrt()
            else:
                b = timestep / 1000
                a = 1 - b
            a, b = (value[:, None, None, None] for value in (a, b))
            total = a**2 * WIDTH**2 + b**2
            noise = b / total * (sample - a * MEAN)
            data = MEAN + a * WIDTH**2 / total * (sample - a * MEAN)
            if not hasattr(scheduler, "alphas_cumprod"):
                return SimpleNamespace(sample=noise - data)
            kinds = {"epsilon": noise, "v_prediction": a * noise - b * data, "sample": data}
            return SimpleNamespace(sample=kinds[scheduler.config.prediction_type])

    return Known(in_channels=1, out_channels=1, block_out_channels=(32,), **ONE_BLOCK).double()


ONE_BLOCK = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


def density(x, mean, variance):
    return Gaussian(torch.full(x.shape[1:], mean, dtype=x.dtype), variance).log_prob(x)


def test_the_likelihood_of_a_flow_of_diffusers(diffusers):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    field, _ = from_diffusers_model(gaussian_model(diffusers, scheduler).eval(), scheduler)
    x = MEAN + WIDTH * noise((1, 2, 2))
    base = Gaussian(torch.zeros(1, 2, 2, dtype=x.dtype))
    found = log_likelihood(field, x, base, torch.linspace(1, 0, 31, dtype=x.dtype))
    # rk4 in 30 steps: (1/30)⁴ = 1e-6
    torch.testing.assert_close(found, density(x, MEAN, WIDTH**2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_likelihood_of_a_diffusion_of_diffusers(diffusers, kind):
    """From level 10 on to pure noise, with rk4 over whole levels; VP's start is N(α MEAN, …)."""
    scheduler = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=False)
    model = gaussian_model(diffusers, scheduler).eval()
    field, path = from_diffusers_model(model, scheduler)
    grid = 1 - torch.arange(10, 1001, 10, dtype=torch.float64) / 1000
    a, b = (path.schedule.alpha(grid), path.schedule.sigma(grid))
    total = a**2 * WIDTH**2 + b**2
    x = a[0] * MEAN + total[0].sqrt() * noise((1, 2, 2))
    base = Gaussian(torch.full((1, 2, 2), a[-1].item() * MEAN, dtype=x.dtype), total[-1].item())
    found = log_likelihood(field, x, base, grid)
    wanted = density(x, a[0].item() * MEAN, total[0].item())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


# torchcfm and flow_matching.


def test_torchcfms_unet_there_and_back(torchcfm, torchdyn):
    """NeuralODE of torchdyn, as in all of torchcfm's notebooks, by Euler's method.

    Their network computes in single precision only.
    """
    from torchcfm.models.unet.unet import UNetModelWrapper
    from torchdyn.core import NeuralODE

    torch.manual_seed(0)
    options = {"num_res_blocks": 1, "channel_mult": (1,), "num_heads": 1}
    options["use_scale_shift_norm"] = True  # else 32 groups of one channel undo the time
    model = lively(UNetModelWrapper((2, 8, 8), num_channels=32, **options)).float()
    x, times = noise(dtype=torch.float32), torch.linspace(0, 1, 6)
    field = from_torchcfm(model)
    assert_alive(field, x=x)
    theirs = NeuralODE(model, solver="euler").trajectory(x, times)[-1]
    torch.testing.assert_close(solve(field, x, times).last, theirs, **CLOSE)
    labelled = UNetModelWrapper((2, 8, 8), 32, class_cond=True, num_classes=11, **options)
    labelled = lively(labelled).float()
    field = from_torchcfm(labelled, LABEL, 2.0, null=10)
    assert_alive(field, from_torchcfm(labelled, LABEL + 1, 2.0, null=10), x=x)
    t = torch.full((3,), 0.3)
    empty, own = (labelled(t, x, y) for y in (torch.full_like(LABEL, 10), LABEL))
    torch.testing.assert_close(field(x, t), empty + 2 * (own - empty), **CLOSE)
    ours = lively(UNet(SHAPE, width=8, labels=3)).float()
    theirs = NeuralODE(to_torchcfm(ours), solver="euler").trajectory(x, times)[-1]
    torch.testing.assert_close(solve(ours, x, times).last, theirs, **CLOSE)
    label = LABEL % 3
    torch.testing.assert_close(to_torchcfm(ours)(t[0], x, label), ours(x, t, label), rtol=0, atol=0)


def test_torchcfms_mlp_there_and_back(torchcfm):
    from torchcfm.models import MLP as TheirMLP
    from torchcfm.utils import torch_wrapper

    torch.manual_seed(0)
    model, x = lively(TheirMLP(2, time_varying=True)), noise((2,))
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    field = from_torchcfm(model)
    assert_alive(field, x=x)
    theirs = torchdiffeq.odeint(torch_wrapper(model), x, times, method="euler")[-1]
    torch.testing.assert_close(solve(field, x, times).last, theirs, **CLOSE)
    ours = lively(MLP((2,), width=8, depth=1))
    theirs = torchdiffeq.odeint(to_torchcfm(ours), x, times, method="euler")[-1]
    torch.testing.assert_close(solve(ours, x, times).last, theirs, **CLOSE)


def test_flow_matching_there_and_back(flow_matching):
    """Their midpoint method is torchdiffeq's, with one time for the batch."""
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Wrapped(ModelWrapper):
        def forward(self, x, t, **extras):
            label = extras.get("y", torch.full((len(x),), 3))
            return self.model(x, t.expand(len(x)), label)

    ours, label = lively(UNet(SHAPE, width=8, labels=3)), LABEL % 3
    model, times = Wrapped(ours), torch.linspace(0, 1, 6, dtype=torch.float64)
    field = from_flow_matching(model, label, name="y")
    assert_alive(field, from_flow_matching(model), from_flow_matching(model, label, 3.0, name="y"))
    sampled = {
        "x_init": noise(),
        "step_size": 0.2,
        "method": "midpoint",
        "time_grid": times[[0, -1]],
    }
    theirs = ODESolver(model).sample(**sampled, y=label)
    torch.testing.assert_close(solve(field, noise(), times, midpoint).last, theirs, **CLOSE)
    back = ODESolver(to_flow_matching(ours)).sample(**sampled, label=label)
    torch.testing.assert_close(back, theirs, **CLOSE)
    t = torch.full((3,), 0.3, dtype=torch.float64)
    free, own = ours(noise(), t), ours(noise(), t, label)
    guided = from_flow_matching(model, label, 3.0, name="y")(noise(), t)
    torch.testing.assert_close(guided, free + 3 * (own - free), **CLOSE)
    x, grid = noise((1,), 2), torch.tensor([1.0, 0.0], dtype=torch.float64)
    base = Gaussian(torch.zeros(1, dtype=torch.float64))
    small = lively(MLP((1,), width=8, depth=1))
    solver = ODESolver(to_flow_matching(small))
    theirs = solver.compute_likelihood(
        x, base.log_prob, 0.05, "rk4", time_grid=grid, exact_divergence=True
    )[1]
    ours = log_likelihood(small, x, base, torch.linspace(1, 0, 21, dtype=torch.float64), rk4)
    # torchdiffeq's rk4 is the 3/8 rule: another method of the same order
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


# The book's weights elsewhere.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network with labels, as ``save_weights`` writes it."""
    arguments = {"image_shape": [1, 8, 8], "width": 8, "labels": 3}
    network = lively(UNet(**arguments)).float()
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, network, "unet", arguments, {})
    return path


def test_a_pipeline_of_the_books_weights(diffusers, weights, tmp_path):
    """Its loop, with and without labels, and again after a folder."""
    network, steps = load_weights(weights).network, 10
    pipeline = to_diffusers_pipeline(weights)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    seed = torch.Generator()
    x = torch.randn(3, 1, 8, 8, generator=seed.manual_seed(0))
    assert_alive(network, lambda x, t: network(x, t, LABEL % 3), x=x)
    grid = scheduler_grid(pipeline.scheduler, steps)
    ours = solve(network, x, grid).last
    for made in (pipeline, again):
        pictures = made(3, seed.manual_seed(0), steps, output_type="pt").images
        torch.testing.assert_close(pictures, (ours / 2 + 0.5).clamp(0, 1), rtol=1e-5, atol=1e-5)
    assert 0.1 < ((pictures > 0) & (pictures < 1)).float().mean()
    label = LABEL % 3
    theirs = their_samples(
        again.scheduler, lambda x, k: again.unet(x, k, class_labels=label).sample, steps, x
    )
    ours = solve(lambda x, t: network(x, t, label), x, grid).last
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_onnx_has_the_same_velocities(onnxruntime, weights, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    network = load_weights(weights).network
    to_onnx(network, tmp_path / "small.onnx", (1, 8, 8))
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    assert [value.name for value in session.get_inputs()] == ["x", "t", "label"]
    for batch in (1, 2, 5):
        x, t = noise((1, 8, 8), batch, torch.float32), torch.linspace(0.1, 0.9, batch)
        label = torch.arange(batch) % 4  # 3 is "no label"
        inputs = {"x": x.numpy(), "t": t.numpy(), "label": label.numpy()}
        (found,) = session.run(["velocity"], inputs)
        wanted = network(x, t, label)
        # other orders of addition in single precision
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wanted[3], network(x, t)[3])


def test_onnx_without_labels(onnxruntime, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
    network = lively(MLP((2,), width=8, depth=1)).float()
    to_onnx(network, tmp_path / "plane.onnx", (2,))
    session = onnxruntime.InferenceSession(tmp_path / "plane.onnx")
    x, t = noise((2,), 4, torch.float32), torch.rand(4)
    (found,) = session.run(None, {"x": x.numpy(), "t": t.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x, t), rtol=1e-5, atol=1e-5)


# What a field cannot do, and what is wrong.


def test_a_scheduler_that_clips_says_so(diffusers):
    model = unet(diffusers)
    for name in ("clip_sample", "thresholding"):
        options = {"clip_sample": False} | {name: True}
        with pytest.warns(UserWarning, match=f"{name}=True.*a field does not"):
            from_diffusers_model(model, diffusers.DDPMScheduler(**options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_diffusers_model(model, diffusers.DDPMScheduler(clip_sample=False))


def test_what_is_not_covered_is_said(diffusers):
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    plain = diffusers.DDPMScheduler(clip_sample=False)
    model = unet(diffusers)
    unknown = diffusers.DDPMScheduler(clip_sample=False, prediction_type="epsilon")
    unknown.register_to_config(prediction_type="curvature")
    jumping = diffusers.UNet2DConditionModel(
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        time_cond_proj_dim=4,
    )
    cases = [
        (ValueError, 'unknown prediction_type "curvature"', (model, unknown)),
        (TypeError, "scheduler is of type str", (model, "ddpm")),
        (TypeError, "has no alphas_cumprod", (model, diffusers.ScoreSdeVeScheduler())),
        (
            ValueError,
            "invert_sigmas",
            (model, diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)),
        ),
        (TypeError, "model is of type Linear.*by hand", (nn.Linear(1, 1), flow)),
        (ValueError, "training mode", (unet(diffusers).train(), flow)),
        (ValueError, "has no classes", (model, flow, LABEL)),
        (ValueError, "scale is for guidance", (model, flow, None, 2.0)),
        (ValueError, "11 classes: pass label", (unet(diffusers, 11), flow)),
        (ValueError, "11 classes: pass null", (unet(diffusers, 11), flow, LABEL, 2.0)),
        (ValueError, "from 0 to 10", (unet(diffusers, 11), flow, LABEL + 4)),
        (ValueError, "null is 11", (unet(diffusers, 11), flow, LABEL, 2.0, 11)),
        (TypeError, "label is of type torch.float32", (unet(diffusers, 11), flow, LABEL.float())),
        (ValueError, "takes 2 channels and returns 3", (transformer(diffusers, 9, 3), plain)),
        (ValueError, "time_cond_proj_dim=4 is not covered", (jumping, plain)),
    ]
    for kind, message, arguments in cases:
        with pytest.raises(kind, match=message):
            from_diffusers_model(*arguments)
    field, _ = from_diffusers_model(model, plain)
    with pytest.raises(ValueError, match=r"t = 1\.0 is outside \[0, 1\)"):
        field(noise(), torch.ones(3, dtype=torch.float64))


def test_a_pipeline_from_a_folder_and_none_from_nowhere(diffusers, tmp_path, monkeypatch):
    model, scheduler = unet(diffusers), diffusers.DDPMScheduler(clip_sample=False)
    diffusers.DDPMPipeline(model.float(), scheduler).save_pretrained(tmp_path)
    loaded = load_diffusers(tmp_path)
    x, t = noise(dtype=torch.float32), torch.full((3,), 0.5)
    fields = [from_diffusers_model(*pair)[0] for pair in (loaded, (model, scheduler))]
    torch.testing.assert_close(fields[0](x, t), fields[1](x, t), rtol=0, atol=0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (tmp_path / "missing", "nobody/nothing"):
        with pytest.raises(FileNotFoundError, match="no pipeline at.*is there a network"):
            load_diffusers(source)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModuleNotFoundError, match="this needs diffusers: pip install diffusers"):
        load_diffusers("google/ddpm-cat-256")


def test_fields_can_be_pickled_and_keep_the_precision_of_states(diffusers):
    field, _ = from_diffusers_model(unet(diffusers), diffusers.FlowMatchEulerDiscreteScheduler())
    t = torch.full((3,), 0.5, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(field))(noise(), t), field(noise(), t))
    single, _ = from_diffusers_model(
        unet(diffusers).float(), diffusers.FlowMatchEulerDiscreteScheduler()
    )
    assert single(noise(), t).dtype == torch.float64
    torch.testing.assert_close(single(noise(), t), field(noise(), t), **CLOSE)


def test_readme_leads_from_a_model_to_samples(diffusers, tmp_path):
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    block = next(b for b in text.split("```") if "load_diffusers" in b and "import" in b)
    model = diffusers.UNet2DModel(
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    diffusers.DDPMPipeline(model, scheduler).save_pretrained(tmp_path)
    space = {}
    exec(block.replace("google/ddpm-cifar10-32", str(tmp_path)), space)
    assert space["samples"].shape == (4, 3, 32, 32) and bool(space["samples"].isfinite().all())
