"""Models of diffusers, torchcfm and flow_matching as velocity fields, and the way back.

Chapter 16.
"""

from fmtutorial.other_models.denoisers import from_diffusers_model, load_diffusers, scheduler_grid
from fmtutorial.other_models.exports import to_diffusers_pipeline, to_onnx
from fmtutorial.other_models.peers import (
    from_flow_matching,
    from_torchcfm,
    to_flow_matching,
    to_torchcfm,
)

__all__ = [
    "from_diffusers_model",
    "from_flow_matching",
    "from_torchcfm",
    "load_diffusers",
    "scheduler_grid",
    "to_diffusers_pipeline",
    "to_flow_matching",
    "to_onnx",
    "to_torchcfm",
]
