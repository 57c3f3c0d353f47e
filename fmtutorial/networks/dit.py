"""A small diffusion transformer for images, interchangeable with the U-Net. Chapter 8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fmtutorial.fields import check_count
from fmtutorial.networks.embeddings import (
    TimeLabelEmbedding,
    check_event,
    check_event_shape,
    padded,
    zero,
)


class DiT(nn.Module):
    """A transformer on patches of pixels: (x, t, label=None) → velocity.

    Each patch is a token; time and label set scale, shift and gate of every layer ("adaLN-Zero").
    Sides that the patch does not divide are padded inside (see ``padded``) and the velocity is cut
    back to them.

    Args:
        image_shape: (channels, height, width) of one sample.
        patch: side of a patch in pixels; at most the longer side of the image.
        width: numbers in a token; a multiple of the heads.
        depth: number of layers.
        heads: of the attention.
        labels: number of classes; 0 for none. Label ``labels`` and None mean "no label".
        checkpointing: recompute each layer in the backward pass, for less memory and more time.

    Source: Peebles and Xie 2023. Chapter 8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        labels: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape = check_event_shape(image_shape, "image_shape", length=3)
        for name, value in (("patch", patch), ("width", width), ("depth", depth), ("heads", heads)):
            check_count(value, name)
        channels, height, across = self.image_shape
        rows, columns = (-(-side // patch) for side in (height, across))
        if patch > max(height, across) or width % heads:
            raise ValueError(
                f"patch={patch} must be at most the longer side of {height}×{across}, and "
                f"width={width} divisible by heads={heads}"
            )
        self.labels, self.multiple = labels, patch
        self.checkpointing = checkpointing
        self.embed = TimeLabelEmbedding(width, labels)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.patches = (channels * patch**2, rows, columns)
        self.enter = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(rows * columns, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = zero(nn.Linear(width, 2 * width))
        self.leave = zero(nn.Linear(width, channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the velocity at x and t.

        Args:
            x: images, shape (B, *image_shape).
            t: times, shape (B,).
            label: classes, integers from 0 to ``labels``, shape (B,).

        Raises:
            TypeError: x or t has another type than the weights, or label is not one of integers.
            ValueError: another image shape, an unknown class, or a label where none belongs.
        """
        e = F.silu(self.embed(x, t, label))  # (B, width)
        check_event(x, self.image_shape)
        # (B, numbers of a patch, rows, columns); PyTorch's fold keeps the shape of an empty batch
        patches = self.fold(padded(x, self.multiple)).reshape(len(x), *self.patches)
        h = self.enter(patches.flatten(2).transpose(1, 2)) + self.position  # (B, tokens, width)
        for layer in self.layers:
            if self.checkpointing:
                h = checkpoint(layer, h, e, use_reentrant=False)
            else:
                h = layer(h, e)
        scale, shift = self.modulate(e)[:, None].chunk(2, dim=-1)  # (B, 1, width) each
        h = self.leave(self.norm(h) * (1 + scale) + shift)  # (B, tokens, numbers of a patch)
        v = self.unfold(h.transpose(1, 2).reshape(patches.shape))
        return v[..., : x.shape[2], : x.shape[3]]


class Layer(nn.Module):
    """Attention among the tokens, then two linear layers on each, both gated by the embedding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulate = zero(nn.Linear(width, 6 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return the layer's output for tokens of shape (B, tokens, width)."""
        # (B, 1, width) each
        scale, shift, gate, scale2, shift2, gate2 = self.modulate(e)[:, None].chunk(6, dim=-1)
        # (B, tokens, 3, heads, width / heads)
        parts = self.enter(self.norm(x) * (1 + scale) + shift).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, tokens, width / heads) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, tokens, width)
        x = x + gate * self.leave(h)
        return x + gate2 * self.body(self.norm(x) * (1 + scale2) + shift2)
