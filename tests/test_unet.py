"""The blocks by hand, and what the two ways through a U-Net carry."""

import math

import pytest
import torch
from image_networks import awake, image_batch

from fmtutorial.networks import UNet
from fmtutorial.networks.unet import Attention, Double, Halve, Pixelwise, ResidualBlock


def normalised(x):
    """Each sample with mean 0 and variance 1 over all its numbers; 1e-5 as PyTorch has it."""
    flat = x.flatten(1)
    mean, variance = flat.mean(dim=1), flat.var(dim=1, correction=0)
    rows = [(s - m) / (v + 1e-5) ** 0.5 for s, m, v in zip(x, mean, variance, strict=True)]
    return torch.stack(rows)


def test_size_for_mnist():
    """The size that the docstring and the book give."""
    count = sum(p.numel() for p in UNet(labels=10).parameters())
    assert 0.9e6 < count < 1.1e6
    assert round(count / 1e6, 2) == 1.05


def test_attention_pixel_by_pixel(generator):
    """Over a rectangle: softmax(q·k / √C) of one pixel with all others, in loops."""
    x = torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    attention = awake(Attention(4), scale=1.5)
    y = normalised(x) * attention.norm.weight[:, None, None] + attention.norm.bias[:, None, None]
    pixels = [(i, j) for i in range(2) for j in range(3)]
    weight, bias = attention.enter.weight[:, :, 0, 0], attention.enter.bias
    expected = x.clone()
    for b in range(2):
        q, k, v = torch.stack([weight @ y[b, :, i, j] + bias for i, j in pixels]).split(4, dim=1)
        for n, (i, j) in enumerate(pixels):
            energies = [math.exp((q[n] @ k[m]).item() / 2) for m in range(6)]
            seen = sum(w * v[m] for m, w in enumerate(energies)) / sum(energies)
            expected[b, :, i, j] += attention.leave.weight[:, :, 0, 0] @ seen + attention.leave.bias
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "fast, plain, options",
    [
        (Pixelwise, torch.nn.Conv2d, {"kernel_size": 1}),
        (Halve, torch.nn.Conv2d, {"kernel_size": 2, "stride": 2}),
        (Double, torch.nn.ConvTranspose2d, {"kernel_size": 2, "stride": 2}),
    ],
)
def test_products_of_matrices_are_the_convolutions(fast, plain, options, layout, generator):
    """Values and gradients, with the same weights, of images that are not square and none."""
    fast, plain = (kind(3, 5, **options).double() for kind in (fast, plain))
    plain.load_state_dict(fast.state_dict())
    for n in (2, 0):
        x = torch.randn(n, 3, 4, 6, generator=generator, dtype=torch.float64)
        x = x.contiguous(memory_format=layout).requires_grad_()
        results = []
        for layer in (fast, plain):
            y = layer(x)
            weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
            results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])])
        for ours, theirs in zip(*results, strict=True):
            # sums of twelve products in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_layouts_are_kept(generator):
    """Else every layer would copy, which is what makes them slow."""
    x = torch.randn(2, 4, 4, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    for layer in (Pixelwise(4, 8, 1), Halve(4, 8, 2, stride=2), Double(4, 8, 2, stride=2)):
        assert layer(x).is_contiguous(memory_format=torch.channels_last)


def silu(x):
    return x / (1 + (-x).exp())


@pytest.mark.parametrize("outputs", [3, 5])
def test_residual_block_in_steps(outputs, generator):
    """Scale and shift, one a channel, act on the normalised result of the first convolution."""
    x = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    e = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    block = awake(ResidualBlock(3, outputs, 7))

    def affine(norm, y):
        return normalised(y) * norm.weight[:, None, None] + norm.bias[:, None, None]

    h = affine(block.norm, block.first[2](silu(affine(block.first[0], x))))
    for b in range(2):
        made = block.modulate.weight @ e[b] + block.modulate.bias
        for c in range(outputs):
            h[b, c] = h[b, c] * (1 + made[c]) + made[outputs + c]
    beside = x if outputs == 3 else torch.einsum("oc,bchw->bohw", block.skip.weight[:, :, 0, 0], x)
    if outputs != 3:
        beside = beside + block.skip.bias[:, None, None]
    torch.testing.assert_close(block(x, e), beside + block.second(silu(h)), rtol=1e-9, atol=1e-9)


def test_new_blocks_are_their_skips(generator):
    x = torch.randn(2, 4, 4, 4, generator=generator)
    assert torch.equal(ResidualBlock(4, 4, 7)(x, torch.randn(2, 7, generator=generator)), x)
    assert torch.equal(Attention(4)(x), x)


def test_what_each_part_sees(generator):
    """Two resolutions, a half and a quarter of the sides; the same silu(e) in every block."""
    x, t = image_batch((3, 8, 12), generator)
    network, seen = awake(UNet((3, 8, 12), width=5, labels=2)), {}
    for name, part in network.named_children():
        part.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i, o)}))
    v = network(x, t)
    shapes = {name: tuple(inputs[0].shape[1:]) for name, (inputs, _) in seen.items()}
    assert shapes == {
        "embed": (3, 8, 12),
        "fold": (3, 8, 12),
        "enter": (12, 4, 6),
        "fine_down": (5, 4, 6),
        "down": (5, 4, 6),
        "coarse_in": (10, 2, 3),
        "attention": (10, 2, 3),
        "coarse_out": (10, 2, 3),
        "up": (10, 2, 3),
        "fine_up": (10, 4, 6),
        "leave": (5, 4, 6),
        "unfold": (12, 4, 6),
    }
    e = silu(seen["embed"][1])
    for name in ("fine_down", "coarse_in", "coarse_out", "fine_up"):
        torch.testing.assert_close(seen[name][0][1], e)
    last = network.leave[2](silu(network.leave[0](seen["leave"][0][0])))
    torch.testing.assert_close(seen["unfold"][0][0], last)
    beside = torch.stack([network.beside(row) * image for row, image in zip(e, x, strict=True)])
    torch.testing.assert_close(v, seen["unfold"][1] + beside)
    # the first four channels are one image channel's 2×2 neighbours
    corner = seen["enter"][0][0][:, :4, 0, 0]
    assert torch.equal(corner, x[:, 0, :2, :2].flatten(1))


def test_fine_pixels_pass_beside_the_coarse_level(generator):
    """The rank of the derivative counts what passes: 64 numbers, of which the coarse level has 32.

    The last normalisation takes a mean and a length out of the 64.
    """
    x, t = image_batch((1, 8, 8), generator, 1)
    network = awake(UNet((1, 8, 8), width=4), scale=1.0)
    for parameter in network.beside.parameters():
        parameter.data.zero_()  # x itself would pass whole

    def rank():
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x, t), x).reshape(64, 64)
        # rounding leaves singular values of 1e-16 of the largest, what passes 1e-5 and more
        return torch.linalg.matrix_rank(jacobian, rtol=1e-10).item()

    assert rank() >= 60

    def cut_the_skip(block, inputs):
        h, e = inputs
        return torch.cat([h[:, :4], torch.zeros_like(h[:, 4:])], dim=1), e

    with_skip = network(x, t)
    handle = network.fine_up.register_forward_pre_hook(cut_the_skip)
    assert 10 < rank() <= 32
    handle.remove()
    # and the coarse level has a part in it
    network.up.weight.data.zero_()
    assert (network(x, t) - with_skip).abs().min() > 1e-6


EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""In double precision: an angle of 400 is known to 1e-13."""


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("shape", [(1, 28, 30), (3, 9, 17), (2, 16, 11), (1, 5, 16)], ids=str)
def test_sides_that_cannot_be_halved_are_padded_and_cut(shape, levels, generator):
    """As if somebody had repeated the last row and column, and cut the answer."""
    options = {"width": 4, "labels": 2, "levels": levels}
    network = awake(UNet(shape, **options))
    whole = [-(-side // 2**levels) * 2**levels for side in shape[1:]]
    large = UNet((shape[0], *whole), **options).double()
    large.load_state_dict(network.state_dict())
    x, t = image_batch(shape, generator)
    rows, columns = (
        torch.arange(n).clamp(max=side - 1) for n, side in zip(whole, shape[1:], strict=True)
    )
    label = torch.tensor([0, 1, 2])
    v, expected = network(x, t, label), large(x[:, :, rows][..., columns], t, label)
    assert v.shape == x.shape
    torch.testing.assert_close(v, expected[..., : shape[1], : shape[2]], **EXACT)


def test_sides_that_can_be_halved_are_left_alone(generator, monkeypatch):
    x, t = image_batch((1, 8, 16), generator)
    network = awake(UNet((1, 8, 16), width=4, levels=3))
    before = network(x, t)
    monkeypatch.setattr("torch.nn.functional.pad", None)
    assert torch.equal(network(x, t), before)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_levels_halve_the_sides(levels, generator):
    """The last one has the attention; channels are width, twice, and four times."""
    x, t = image_batch((2, 32, 16), generator)
    network, seen = awake(UNet((2, 32, 16), width=4, labels=3, levels=levels)), []
    for part in (network.fine_down, *(rung.before for rung in network.rungs), network.attention):
        part.register_forward_pre_hook(lambda m, i: seen.append(tuple(i[0].shape[1:])))
    v = network(x, t, torch.tensor([0, 1, 3]))
    assert v.shape == x.shape
    widths = [4, 8, 16, 16][:levels]
    assert seen == [(w, 32 >> k, 16 >> k) for k, w in enumerate(widths, 1)]
    v.square().mean().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 1e-9, name
    none = network(x[:0], t[:0], torch.zeros(0, dtype=torch.int64))
    assert none.shape == (0, 2, 32, 16)
    odd = UNet((2, 31, 15), width=4, levels=levels)
    assert odd(torch.zeros(0, 2, 31, 15), torch.zeros(0)).shape == (0, 2, 31, 15)


def test_fine_pixels_pass_beside_every_deeper_level(generator):
    """With the skip of a level between put to zero, its answer changes."""
    x, t = image_batch((1, 16, 16), generator, 1)
    network = awake(UNet((1, 16, 16), width=4, levels=3))
    v = network(x, t)
    network.rungs[0].after.register_forward_pre_hook(
        lambda m, i: (torch.cat([i[0][:, :8], 0 * i[0][:, 8:]], dim=1), i[1])
    )
    assert (network(x, t) - v).abs().max() > 1e-6


def test_two_levels_have_the_weights_that_they_had():
    """So that files of weights fit; a third has others beside them."""
    two, three = (UNet(width=4, levels=n).state_dict() for n in (2, 3))
    assert not any(name.startswith("rungs") for name in two)
    assert set(three) - set(two) == {name for name in three if name.startswith("rungs.0.")}
    assert set(two) < set(three)
    parts = [[name for name, _ in UNet(width=4, levels=n).named_children()] for n in (2, 3)]
    assert parts[0] == [name for name in parts[1] if name != "rungs"]


@pytest.mark.parametrize("levels", [1, 6, 40])
def test_levels_without_pixels_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels is {levels}; "):
        UNet(levels=levels)


def test_waves_of_a_pixel_enter_beside_it(generator):
    x, t = image_batch((3, 8, 12), generator)
    network, seen = awake(UNet((3, 8, 12), width=5, frequencies=(1, 7))), []
    network.enter.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with_waves = network(x, t)
    entered = torch.nn.functional.pixel_shuffle(seen[0], 2)  # (B, 15, 8, 12)
    # the angle 2⁷πx is a sum of whole turns and a rest: float64 keeps 12 digits of the rest
    turn = (x.unsqueeze(1) * torch.tensor([2.0, 128.0], dtype=x.dtype).view(2, 1, 1, 1) / 2) % 1
    waves = torch.polar(torch.ones_like(turn), 2 * torch.pi * turn).flatten(1, 2)
    torch.testing.assert_close(entered, torch.cat([x, waves.imag, waves.real], 1), **EXACT)
    plain = UNet((3, 8, 12), width=5)
    assert plain.enter.weight.shape[1] == 12 and network.enter.weight.shape[1] == 60
    # a grey level further, x is 1/128 further: the wave of period 2/128 changes its sign
    network(x + 1 / 128, t)
    further = torch.nn.functional.pixel_shuffle(seen[1], 2)
    torch.testing.assert_close(further[:, 6:9], -entered[:, 6:9], **EXACT)
    assert (network(x + 1 / 128, t) - with_waves).abs().max() > 1e-3


@pytest.mark.parametrize("powers", [(17,), (3, 60)], ids=str)
def test_waves_finer_than_a_pixel_are_refused(powers):
    with pytest.raises(ValueError, match=r"frequencies are \(.*\); .*finer"):
        UNet(frequencies=powers)
