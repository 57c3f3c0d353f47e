"""A layer against PyTorch's transformer, patches against slices of the image."""

import pytest
import torch
from image_networks import awake, image_batch
from torch import nn
from torch.nn import functional as F

from fmtutorial.networks import DiT
from fmtutorial.networks.dit import Layer


def test_size_is_as_asked():
    """Of matrices and biases; the two normalisations have no weights of their own."""
    w, tokens, pixels = 32, 12, 4
    count = sum(p.numel() for p in DiT((1, 6, 8), 2, w, depth=3, heads=2, labels=5).parameters())
    embed = (16 * w + w) + (w * w + w) + 6 * w
    layer = (6 * w * w + 6 * w) + (4 * w * w + 4 * w) + (8 * w * w + 5 * w)
    ends = (pixels * w + w) + tokens * w + (2 * w * w + 2 * w) + (w * pixels + pixels)
    assert count == embed + 3 * layer + ends


def pytorchs(layer, e):
    """PyTorch's layer for the embedding of one sample.

    Scale and shift become its normalisation's weight and bias, a gate a factor of the last
    matrix before a sum.
    """
    scale, shift, gate, scale2, shift2, gate2 = layer.modulate(e).detach().chunk(6)
    theirs = nn.TransformerEncoderLayer(
        len(e),
        layer.heads,
        4 * len(e),
        dropout=0.0,
        activation=nn.GELU(approximate="tanh"),
        batch_first=True,
        norm_first=True,
    ).double()
    ours = {name: p.detach() for name, p in layer.named_parameters()}
    theirs.load_state_dict(
        {
            "norm1.weight": 1 + scale,
            "norm1.bias": shift,
            "self_attn.in_proj_weight": ours["enter.weight"],
            "self_attn.in_proj_bias": ours["enter.bias"],
            "self_attn.out_proj.weight": gate[:, None] * ours["leave.weight"],
            "self_attn.out_proj.bias": gate * ours["leave.bias"],
            "norm2.weight": 1 + scale2,
            "norm2.bias": shift2,
            "linear1.weight": ours["body.0.weight"],
            "linear1.bias": ours["body.0.bias"],
            "linear2.weight": gate2[:, None] * ours["body.2.weight"],
            "linear2.bias": gate2 * ours["body.2.bias"],
        }
    )
    return theirs


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_layer_is_pytorchs_with_its_modulation(heads, generator):
    layer = awake(Layer(8, heads), scale=1.5)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    e = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    h = layer(x, e)
    for b in range(3):
        expected = pytorchs(layer, e[b])(x[b : b + 1])
        torch.testing.assert_close(h[b : b + 1], expected, rtol=1e-9, atol=1e-9)


def test_a_new_layer_changes_nothing(generator):
    x, e = (torch.randn(3, *s, generator=generator) for s in ((5, 8), (8,)))
    assert torch.equal(Layer(8, 2)(x, e), x)


def patches_of(x, side):
    """The patches by slices, row by row: a list of (B, channels · side²)."""
    return [
        x[:, :, i : i + side, j : j + side].flatten(1)
        for i in range(0, x.shape[2], side)
        for j in range(0, x.shape[3], side)
    ]


@pytest.mark.parametrize("shape, side", [((1, 8, 8), 4), ((3, 4, 8), 2), ((2, 9, 3), 3)])
def test_without_layers_each_patch_answers_for_itself(shape, side, generator):
    x, t = image_batch(shape, generator)
    network = awake(DiT(shape, side, width=8, depth=1, heads=1, labels=2))
    network.layers = torch.nn.ModuleList()
    label = torch.tensor([0, 2, 1])
    e = network.embed(x, t, label)
    scale, shift = network.modulate(e * torch.sigmoid(e)).split(8, dim=1)
    answers = patches_of(network(x, t, label), side)
    assert len(answers) == len(network.position)
    for patch, answer, position in zip(patches_of(x, side), answers, network.position, strict=True):
        h = network.enter(patch) + position
        for b in range(3):
            y = F.layer_norm(h[b], (8,), 1 + scale[b], shift[b])
            torch.testing.assert_close(answer[b], network.leave(y), rtol=1e-10, atol=1e-10)


def shuffled(x, side, order):
    """The image with its patches in another order."""
    patches = torch.stack([patches_of(x, side)[i] for i in order], dim=2)
    return F.fold(patches, x.shape[2:], side, stride=side)


def test_patches_may_trade_places_if_they_take_their_positions_along(generator):
    """Attention knows no order; with the positions left behind the answer is another one."""
    x, t = image_batch((2, 4, 6), generator)
    order = [3, 0, 5, 1, 4, 2]
    network = awake(DiT((2, 4, 6), 2, width=8, depth=2, heads=2))
    expected = shuffled(network(x, t), 2, order)
    moved = shuffled(x, 2, order)
    assert (network(moved, t) - expected).abs().max() > 1e-3
    network.position.data = network.position.data[order]
    torch.testing.assert_close(network(moved, t), expected, rtol=1e-10, atol=1e-10)


def test_patches_see_each_other(generator):
    """One layer is enough for every pixel to reach every other."""
    x, t = image_batch((1, 4, 6), generator, 1)
    network = awake(DiT((1, 4, 6), 2, width=8, depth=1, heads=2))
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, t), x).reshape(24, 24)
    assert jacobian.abs().min() > 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"patch": 29},
        {"patch": 56},
        {"width": 130},
        {"heads": 3},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=r"patch=\d+ must .* width=\d+ divisible by heads="):
        DiT(**options)


@pytest.mark.parametrize("shape, patch", [((1, 7, 8), 4), ((3, 8, 5), 3), ((2, 5, 5), 5)], ids=str)
def test_sides_that_the_patch_does_not_divide_are_padded_and_cut(shape, patch, generator):
    """As if somebody had repeated the last row and column, and cut the answer."""
    options = {"patch": patch, "width": 8, "depth": 1, "heads": 2, "labels": 2}
    network = awake(DiT(shape, **options))
    whole = [-(-side // patch) * patch for side in shape[1:]]
    large = DiT((shape[0], *whole), **options).double()
    large.load_state_dict(network.state_dict())
    x, t = image_batch(shape, generator)
    rows, columns = (
        torch.arange(n).clamp(max=side - 1) for n, side in zip(whole, shape[1:], strict=True)
    )
    v, expected = network(x, t), large(x[:, :, rows][..., columns], t)
    assert v.shape == x.shape and network(x[:0], t[:0]).shape == (0, *shape)
    torch.testing.assert_close(v, expected[..., : shape[1], : shape[2]], rtol=1e-10, atol=1e-10)


def test_an_empty_batch_has_an_empty_answer():
    x = torch.zeros(0, 2, 4, 8)
    assert DiT((2, 4, 8), 2, width=8, depth=1, heads=2)(x, torch.zeros(0)).shape == x.shape
