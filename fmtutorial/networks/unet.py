"""A U-Net for small images, built for speed: it folds pixels into channels first. Chapter 8."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fmtutorial.fields import check_count, expand_time
from fmtutorial.networks.embeddings import (
    TimeLabelEmbedding,
    check_event,
    check_event_shape,
    check_types,
    padded,
    zero,
)


class UNet(nn.Module):
    """Some resolutions, residual blocks, one attention layer: (x, t, label=None) → velocity.

    Patches of 2×2 pixels become four channels, so that the first level has a quarter of the
    pixels; each further one has a quarter of those before it. Attention is at the last, where
    pixels are fewest. Sides that 2^levels does not divide are padded inside (see ``padded``) and
    the velocity is cut back to them: states keep their size. A multiple of x, which depends on t
    and the label, goes beside it all: noise that has been normalised on its way is not taken out
    of x exactly. 1.05 million parameters for MNIST.

    Args:
        image_shape: (channels, height, width) of one sample.
        width: channels of the first level; the second has twice as many, all others four times.
        labels: number of classes; 0 for none. Label ``labels`` and None mean "no label".
        checkpointing: recompute each block in the backward pass, for less memory and more time.
        frequencies: whole numbers n from 1 to 16; sin(2ⁿπx) and cos(2ⁿπx) of each pixel enter
            beside x. With n = 7 a period is two grey levels, which a likelihood has to tell apart.
        levels: number of resolutions, two or more; the last has 1/2^levels of the sides, rounded
            up. Two are right for 28×28, three for 32×32 to 64×64, one more for twice the sides.

    Source: Ronneberger et al. 2015; Ho et al. 2020, App. B; Kingma et al. 2021, App. C, for the
    frequencies; Karras et al. 2022, Sec. 5, for x beside it. Chapter 8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        labels: int = 0,
        checkpointing: bool = False,
        frequencies: tuple[int, ...] = (),
        levels: int = 2,
    ) -> None:
        super().__init__()
        self.image_shape = check_event_shape(image_shape, "image_shape", length=3)
        check_count(width, "width", least=2)  # the embedding has twice as many numbers
        powers = check_event_shape(frequencies, "frequencies")
        if max(powers, default=1) > 16:
            raise ValueError(f"frequencies are {tuple(powers)}; pixels are no finer than 2^16")
        channels = image_shape[0]
        inputs = channels * (1 + 2 * len(powers))
        check_count(levels, "levels", least=2)
        height, across = self.image_shape[1:]
        most = max(2, (max(height, across) - 1).bit_length())  # at the last a pixel is left
        if levels > most:
            raise ValueError(f"levels is {levels}; images of {height}×{across} have at most {most}")
        self.labels, self.multiple = labels, 2**levels
        sides = (-(-side // self.multiple) * self.multiple // 2 for side in (height, across))
        at = [width * min(2**k, 4) for k in range(levels)]
        self.checkpointing = checkpointing
        self.embed = TimeLabelEmbedding(2 * width, labels)
        self.fold, self.unfold = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        rates = torch.tensor([float(2**n) for n in powers])
        self.register_buffer("rates", rates[:, None, None, None], persistent=False)
        self.folded = (4 * inputs, *sides)
        self.enter = nn.Conv2d(4 * inputs, width, 3, padding=1)
        self.fine_down = ResidualBlock(width, width, 2 * width)
        self.down = Halve(width, 2 * width, 2, stride=2)
        rungs = [Rung(*pair, 2 * width) for pair in pairwise(at[1:])]
        self.rungs = nn.ModuleList(rungs) if rungs else ()  # no part where there is none
        self.coarse_in = ResidualBlock(at[-1], at[-1], 2 * width)
        self.attention = Attention(at[-1])
        self.coarse_out = ResidualBlock(at[-1], at[-1], 2 * width)
        self.up = Double(2 * width, width, 2, stride=2)
        self.fine_up = ResidualBlock(2 * width, width, 2 * width)  # sees `up` and the skip
        self.leave = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.SiLU(),
            zero(nn.Conv2d(width, 4 * channels, 3, padding=1)),
        )
        self.beside = zero(nn.Linear(2 * width, 1))

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
        expand_time(t, x)  # for its checks
        check_event(x, self.image_shape)
        check_types(self.enter.weight, x, t)
        e = F.silu(self.embed(x, t, label))  # (B, 2 · width)
        # H and W from here on: the sides that 2^levels divides
        h = self._with_waves(padded(x, self.multiple))  # → (B, inputs, H, W)
        # → (B, 4 · inputs, H/2, W/2); PyTorch does not fold an empty batch
        h = self.fold(h).reshape(len(x), *self.folded)
        h = self.enter(h)  # → (B, width, H/2, W/2)
        skip = self._run(self.fine_down, h, e)
        h = self.down(skip)  # → (B, 2 · width, H/4, W/4)
        skips = []
        for rung in self.rungs:  # each → half the sides
            skips.append(self._run(rung.before, h, e))
            h = rung.down(skips[-1])
        h = self._run(self.coarse_in, h, e)
        h = self.attention(h)
        h = self._run(self.coarse_out, h, e)
        for rung in reversed(self.rungs):
            h = self._run(rung.after, torch.cat([rung.up(h), skips.pop()], dim=1), e)
        h = self.up(h)  # → (B, width, H/2, W/2)
        h = torch.cat([h, skip], dim=1)  # → (B, 2 · width, H/2, W/2)
        h = self._run(self.fine_up, h, e)  # → (B, width, H/2, W/2)
        h = self.leave(h)  # → (B, 4 · channels, H/2, W/2)
        v = self.unfold(h)[..., : x.shape[2], : x.shape[3]]  # → (B, channels, height, width)
        # in the precision of x: the gradient, a sum over all pixels, is too large for half of it
        multiple = (e.to(x) * self.beside.weight).sum(dim=1) + self.beside.bias  # (B,)
        return v + expand_time(multiple.to(x), x) * x

    def _with_waves(self, x: Tensor) -> Tensor:
        """Return x with its sines and cosines as further channels."""
        if not len(self.rates):
            return x
        angle = math.pi * (self.rates * x[:, None])  # (B, frequencies, channels, H, W)
        return torch.cat([x, angle.sin().flatten(1, 2), angle.cos().flatten(1, 2)], dim=1)

    def _run(self, block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        if self.checkpointing:
            return checkpoint(block, h, e, use_reentrant=False)
        return block(h, e)


class Rung(nn.Module):
    """A level between the first and the last: a block on the way down, and one on the way up."""

    def __init__(self, channels: int, below: int, embedding: int) -> None:
        super().__init__()
        self.before = ResidualBlock(channels, channels, embedding)
        self.down = Halve(channels, below, 2, stride=2)
        self.up = Double(below, channels, 2, stride=2)
        self.after = ResidualBlock(2 * channels, channels, embedding)  # sees `up` and the skip


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip; the embedding scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(1, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm = nn.GroupNorm(1, outputs)
        self.second = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = Pixelwise(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return the block's output for x of shape (B, C, H, W) and an embedding (B, E)."""
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, dim=1)  # (B, outputs, 1, 1)
        h = self.first(x)  # (B, inputs, H, W) → (B, outputs, H, W)
        h = self.norm(h) * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the pixels of an image, beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.enter = Pixelwise(channels, 3 * channels, 1)
        self.leave = zero(Pixelwise(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Let every pixel look at all others; x and the result have shape (B, C, H, W)."""
        parts = self.enter(self.norm(x)).flatten(2).transpose(1, 2)  # (B, H·W, 3C)
        q, k, v = parts.unsqueeze(1).chunk(3, dim=-1)  # (B, 1, H·W, C) each: one head
        h = F.scaled_dot_product_attention(q, k, v)  # (B, 1, H·W, C)
        h = h.squeeze(1).transpose(1, 2)  # (B, C, H·W)
        return x + self.leave(h.reshape(x.shape))


class Pixelwise(nn.Conv2d):
    """A 1×1 convolution as one product of matrices.

    This and the next two compute what their parents do, with the same weights. On a CPU they
    train one and a half times as fast: the images lie in memory pixel by pixel (channels last),
    so that moving the channels to the end costs nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for x of shape (B, inputs, H, W)."""
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class Halve(nn.Conv2d):
    """A 2×2 convolution of stride 2: each patch of four pixels is one row of the product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H/2, W/2) for x of shape (B, inputs, H, W)."""
        b, c, h, w = x.shape
        patches = x.movedim(1, -1).reshape(b, h // 2, 2, w // 2, 2, c).transpose(2, 3)
        patches = patches.reshape(b, h // 2, w // 2, 4 * c)
        weight = self.weight.movedim(1, -1).flatten(1)  # (outputs, 4 · inputs)
        return F.linear(patches, weight, self.bias).movedim(-1, 1)


class Double(nn.ConvTranspose2d):
    """A transposed 2×2 convolution of stride 2: the product gives four pixels for each."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, 2H, 2W) for x of shape (B, inputs, H, W)."""
        b, _, h, w = x.shape
        c = self.out_channels
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 · outputs, inputs)
        patches = F.linear(x.movedim(1, -1), weight, self.bias.repeat(4))  # (B, H, W, 4 · outputs)
        patches = patches.reshape(b, h, w, 2, 2, c).transpose(2, 3)
        return patches.reshape(b, 2 * h, 2 * w, c).movedim(-1, 1)
