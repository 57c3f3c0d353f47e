"""What the tests of the networks for images share: a batch, and networks that do not answer 0."""

import torch

SHAPES = [(1, 28, 28), (3, 8, 8), (2, 4, 12)]


def awake(network, scale=0.5, seed=0):
    """The network in double precision with weights at random, the zeroed ones too.

    Scaled by the square root of what a layer sums over, so that nothing explodes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.double().parameters():
            fan = max(1, p[0].numel()) if p.ndim > 1 else 1
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan**0.5)
    return network


def image_batch(shape, generator, n=3):
    """Images and different times, in double precision."""
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.linspace(0.1, 0.9, n, dtype=torch.float64)
