"""What a time and a label become, at times where sine and cosine are known."""

import math

import pytest
import torch
from image_networks import awake
from torch import nn

from fmtutorial.networks.embeddings import TimeLabelEmbedding, check_event, check_labels, zero


def inputs(n=3):
    return torch.zeros(n, 1, 4, 4).double(), torch.linspace(0.1, 0.9, n).double()


def test_what_the_first_layer_sees():
    """Frequencies 1, 10, 100, first all sines, then all cosines: at 0 and π/2 known by hand."""
    embed = TimeLabelEmbedding(12)
    seen = []
    embed.time[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    embed(torch.zeros(2, 1, 4, 4), torch.tensor([0.0, math.pi / 2]), None)
    expected = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 0, 0, 0, -1, 1]]).float()
    # float32 holds an angle of 50π to 157 · 6e-8 = 1e-5
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=2e-5)


def test_between_the_two_layers_is_a_silu():
    """At t = 0, where the first layer sees (0, 0, 1, 1), in Python numbers."""
    embed = awake(TimeLabelEmbedding(8))
    first, _, second = embed.time
    hidden = (first.weight[:, 2] + first.weight[:, 3] + first.bias).tolist()
    expected = second.bias + sum(
        second.weight[:, i] * h / (1 + math.exp(-h)) for i, h in enumerate(hidden)
    )
    x, t = inputs(1)
    torch.testing.assert_close(embed(x, 0 * t, None)[0], expected)


def test_frequencies_are_geometric_and_move_with_the_network():
    """Computed again rather than kept in a file, so that half precision does not round them."""
    embed = TimeLabelEmbedding(64)
    frequencies = embed.double().frequencies
    assert len(frequencies) == 16 and frequencies.dtype == torch.float64
    ratio = frequencies[1:] / frequencies[:-1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 100 ** (1 / 15)), rtol=1e-6, atol=0)
    assert frequencies[0] == 1
    assert "frequencies" not in embed.state_dict()


@pytest.mark.parametrize("width", [4, 6, 10, 32])
def test_the_vector_has_the_width_that_was_asked(width):
    x, t = inputs()
    assert awake(TimeLabelEmbedding(width, 2))(x, t, None).shape == (3, width)


def test_a_label_adds_its_row():
    """Beside the same times: whatever the time's part is, it drops out."""
    x, t = inputs()
    embed = awake(TimeLabelEmbedding(8, labels=4))
    label, other = torch.tensor([3, 0, 4]), torch.tensor([1, 1, 2])
    rows = embed.label.weight
    assert rows.shape == (5, 8)
    difference = embed(x, t, label) - embed(x, t, other)
    torch.testing.assert_close(difference, rows[[3, 0, 4]] - rows[[1, 1, 2]])


def test_no_label_is_the_row_after_the_last():
    x, t = inputs()
    embed = awake(TimeLabelEmbedding(8, labels=4))
    torch.testing.assert_close(
        embed(x, t, None) - embed(x, t, torch.zeros(3, dtype=torch.int64)),
        (embed.label.weight[4] - embed.label.weight[0]).expand(3, -1),
    )


def test_without_labels_there_is_no_table():
    """The linear layers (4 → 8) and (8 → 8) with biases, and nothing else."""
    embed = TimeLabelEmbedding(8)
    assert embed.label is None
    assert sum(p.numel() for p in embed.parameters()) == (4 * 8 + 8) + (8 * 8 + 8)


def test_close_times_are_told_apart():
    """The fastest sine turns π times and more within [0, 1]; the slowest never comes back."""
    t = torch.linspace(0, 1, 1001).double()
    x = torch.zeros(1001, 1).double()
    embed = TimeLabelEmbedding(16).double()
    seen = []
    embed.time[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    embed(x, t, None)
    step = (seen[0][1:] - seen[0][:-1]).norm(dim=1)
    # a step of 1e-3 turns the fastest pair by 0.1, which moves it by 2 sin 0.05 = 0.09996
    assert (step > 0.0999).all()
    assert torch.pdist(seen[0][::50]).min() > 0.05


@pytest.mark.parametrize(
    "label, error, match",
    [
        (torch.zeros(3, 1, dtype=torch.int64), ValueError, r"shape \(3, 1\); pass \(3,\)"),
        (torch.zeros(1, dtype=torch.int64), ValueError, r"shape \(1,\); pass \(3,\)"),
        (torch.tensor(1), ValueError, r"shape \(\); pass \(3,\)"),
        (torch.zeros(3), TypeError, r"dtype torch.float32; convert it with label.long\(\)"),
        (torch.zeros(3, dtype=torch.int32), TypeError, r"dtype torch.int32; convert it"),
        (torch.zeros(3, dtype=torch.bool), TypeError, r"dtype torch.bool; convert it"),
        (torch.tensor([0, 1, 3]), ValueError, "run from 0 to 3; the network knows 0 to 2"),
        (torch.tensor([0, -1, 1]), ValueError, "run from -1 to 1; the network knows 0 to 2"),
    ],
    ids=["column", "short", "single", "float", "int32", "bool", "too large", "negative"],
)
def test_wrong_labels_are_refused(label, error, match):
    """With two classes, 2 is still known: no label."""
    embed = TimeLabelEmbedding(8, labels=2).double()
    embed(*inputs(), torch.tensor([0, 1, 2]))
    with pytest.raises(error, match=match):
        embed(*inputs(), label)


def test_a_label_where_there_are_none_is_refused():
    with pytest.raises(ValueError, match=r"built with labels=0: got label tensor\(\[0, 0, 0\]\)"):
        TimeLabelEmbedding(8).double()(*inputs(), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(3, 1), (1,), ()], ids=str)
def test_wrong_times_are_refused(shape):
    with pytest.raises(ValueError, match=r"t has shape .*it must be \(3,\)"):
        TimeLabelEmbedding(8).double()(inputs()[0], torch.zeros(shape).double(), None)


def test_integers_are_refused():
    embed, (x, t) = TimeLabelEmbedding(8).double(), inputs()
    with pytest.raises(TypeError, match="t is of type torch.int64"):
        embed(x, t.long(), None)
    with pytest.raises(TypeError, match="x has dtype torch.uint8"):
        embed(x.byte(), t, None)


def test_labels_are_not_looked_at_while_compiling(monkeypatch):
    """Their values are unknown then; shape and type are known, and still checked."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check_labels(torch.tensor([7, -7]), 2, 3)
    with pytest.raises(ValueError, match=r"shape \(2,\); pass \(3,\)"):
        check_labels(torch.tensor([7, -7]), 3, 3)
    with pytest.raises(TypeError, match="torch.float32"):
        check_labels(torch.zeros(2), 2, 3)


def test_the_event_shape_is_compared_whole():
    check_event(torch.zeros(5, 1, 4, 6), [1, 4, 6])  # as JSON has it
    for shape in [(1, 6, 4), (1, 4), (4, 6), (1, 1, 4, 6), ()]:
        with pytest.raises(ValueError) as caught:
            check_event(torch.zeros(5, *shape), (1, 4, 6))
        assert f"event shape {shape}; the network was built for (1, 4, 6)" in str(caught.value)


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 1)], ids=["linear", "conv"])
def test_a_zeroed_layer_answers_zero_and_still_learns(layer):
    assert zero(layer) is layer
    assert not any(p.any() for p in layer.parameters())
    x = torch.ones((4, 3) if isinstance(layer, nn.Linear) else (4, 3, 2, 2))
    layer(x).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())
