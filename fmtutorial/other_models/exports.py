"""The book's networks for other programs: a pipeline of diffusers, and ONNX. Chapter 16."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmtutorial.checkpoints import writing
from fmtutorial.conventions import to_diffusers
from fmtutorial.fields import check_count, check_kind
from fmtutorial.images.batches import DIGIT
from fmtutorial.images.weights import NETWORKS, read_weights
from fmtutorial.other_models.binding import library


def to_diffusers_pipeline(source: str | Path, train_timesteps: int = 1000) -> object:
    """Return a pipeline of diffusers that samples weights of this book.

    A DDPMPipeline whose ``unet`` takes (sample, timestep, class_labels=None) and answers
    noise − data, with a FlowMatchEulerDiscreteScheduler. ``pipeline.save_pretrained(folder)``
    writes it, and ``DDPMPipeline.from_pretrained(folder)`` reads it where fmtutorial is
    installed; no code is stored. The pipeline itself passes no labels: call ``unet`` in a loop.

    Args:
        source: a file of ``save_weights``, or one of the names in ``PUBLISHED``.
        train_timesteps: the timestep that stands for noise.

    Raises:
        FileNotFoundError: there is no such file or name.
        ModuleNotFoundError: diffusers is not installed.
    """
    diffusers = library("diffusers")
    check_count(train_timesteps, "train_timesteps")
    described, weights = read_weights(source)
    arguments = described["arguments"]
    channels, *sides = arguments.get("image_shape", DIGIT)
    unet = _component()(
        kind=described["kind"],
        arguments=arguments,
        train_timesteps=train_timesteps,
        in_channels=channels,
        sample_size=tuple(sides),
    )
    unet.network.load_state_dict(weights)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=train_timesteps)
    return diffusers.DDPMPipeline(unet.requires_grad_(False).eval(), scheduler)


@cache
def _component() -> type:
    """Return the class of networks that diffusers saves and loads."""
    base = library("diffusers")
    register = library("diffusers.configuration_utils").register_to_config
    output = library("diffusers.models.unets.unet_2d").UNet2DOutput

    class FlowModel(base.ModelMixin, base.ConfigMixin):
        """A network of this book as diffusers calls it: noise − data, at a timestep."""

        @register
        def __init__(
            self,
            kind: str,
            arguments: dict[str, Any],
            train_timesteps: int,
            in_channels: int,
            sample_size: tuple[int, int],
        ) -> None:
            super().__init__()
            self.network = NETWORKS[kind](**arguments)

        def forward(
            self,
            sample: Tensor,
            timestep: Tensor | float,
            class_labels: Tensor | None = None,
            return_dict: bool = True,
        ) -> Any:  # noqa: ANN401  a class of diffusers
            k = torch.as_tensor(timestep, device=sample.device).to(sample).expand(len(sample))
            model = to_diffusers(
                lambda x, t: self.network(x, t, class_labels), self.config.train_timesteps
            )
            answer = model(sample, k)
            return output(sample=answer) if return_dict else (answer,)

    FlowModel.__module__, FlowModel.__qualname__ = __name__, "FlowModel"
    return FlowModel


def __getattr__(name: str) -> type:
    """Give diffusers the class whose name it stored, and the base by which it tells the kind.

    It looks for both in this module. Nothing of diffusers is imported before.
    """
    if name == "FlowModel":
        return _component()
    if name == "ModelMixin":
        return library("diffusers").ModelMixin
    raise AttributeError(f"module {__name__} has no attribute {name}")


def to_onnx(network: nn.Module, path: str | Path, event_shape: tuple[int, ...]) -> None:
    """Write a network as ONNX: inputs x, t and, if it has classes, label; output velocity.

    The batch may have any size. ``label`` is int64, and the number of classes means "no label".

    Args:
        network: of this book or any ``nn.Module`` with v(x, t); on the CPU, after ``eval()``.
        path: of the file.
        event_shape: of one sample.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    check_kind(network, nn.Module, "network")
    check_kind(event_shape, tuple, "event_shape")
    for name in ("onnx", "onnxscript"):
        library(name)
    if network.training:
        raise ValueError("the network is in training mode: call network.eval() first")
    weight = next(network.parameters(), torch.empty(0))
    made = {"device": weight.device, "dtype": weight.dtype}
    inputs = {"x": torch.randn(3, *event_shape, **made), "t": torch.rand(3, **made)}
    if getattr(getattr(network, "embed", None), "labels", 0):
        inputs["label"] = torch.arange(3, device=weight.device) % network.embed.labels
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        # strict, as otherwise len(x) becomes a constant
        graph = torch.export.export(
            network, tuple(inputs.values()), dynamic_shapes=[{0: batch}] * len(inputs), strict=True
        )
        program = torch.onnx.export(
            graph, input_names=list(inputs), output_names=["velocity"], dynamo=True, verbose=False
        )
    with writing(path) as file:
        file.write(program.model_proto.SerializeToString())
