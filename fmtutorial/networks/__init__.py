"""Networks that learn a velocity field: (x, t, label=None) → velocity. Chapters 3 and 8."""

from fmtutorial.networks.dit import DiT
from fmtutorial.networks.mlp import MLP, MeanFlowMLP
from fmtutorial.networks.unet import UNet

__all__ = ["DiT", "MLP", "MeanFlowMLP", "UNet"]
