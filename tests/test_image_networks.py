"""What the U-Net and the transformer have in common, so that one can stand for the other."""

import pytest
import torch
from image_networks import SHAPES, awake, image_batch
from torch.autograd.graph import saved_tensors_hooks

from fmtutorial.images.devices import autocast
from fmtutorial.networks import DiT, UNet

NONE = 3
"""The label that stands for no label, where there are three classes."""


def unet(shape=(1, 8, 8), **options):
    return UNet(shape, width=8, **options)


def dit(shape=(1, 8, 8), **options):
    return DiT(shape, width=16, depth=2, heads=2, **options)


@pytest.fixture(params=[unet, dit], ids=["unet", "dit"])
def build(request):
    return request.param


def close(a, b):
    # sums in another order
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n", [1, 4])
def test_velocity_has_the_shape_of_the_images(build, shape, n, generator):
    """B = 4 is also the height of some."""
    x, t = image_batch(shape, generator, n)
    v = awake(build(shape))(x, t)
    assert v.shape == x.shape and v.dtype == x.dtype
    # every pixel gets an answer of its own
    assert len(v.flatten().unique()) == v.numel()


def test_a_new_network_answers_zero(build, generator):
    """As its last layer is 0, which starts every training from the same loss."""
    x, t = (z.float() for z in image_batch((1, 8, 8), generator))
    network = build(labels=3)
    assert network(x, t, torch.tensor([0, 1, 3])).abs().max() == 0
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.startswith("leave"):
                p.fill_(0.1)
    assert network(x, t).abs().max() > 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_do_not_meet(build, shape, generator):
    """Neither in a normalisation nor in the attention: a batch of one is a row of a batch."""
    x, t = image_batch(shape, generator)
    label = torch.tensor([2, 0, NONE])
    network = awake(build(shape, labels=3))
    v = network(x, t, label)
    for j in range(3):
        close(network(x[j : j + 1], t[j : j + 1], label[j : j + 1]), v[j : j + 1])
    order = torch.tensor([2, 0, 1])
    close(network(x[order], t[order], label[order]), v[order])


def test_place_time_and_label_matter_each_to_its_own_sample(build, generator):
    x, t = image_batch((1, 8, 8), generator)
    label = torch.tensor([2, 0, 1])
    network = awake(build(labels=3))
    v = network(x, t, label)
    for j in range(3):
        others = [i for i in range(3) if i != j]
        for place, by in enumerate((0.1, 0.1, 1)):
            inputs = [x.clone(), t.clone(), label.clone()]
            inputs[place][j] += by
            moved = network(*inputs)
            # rounding would leave 1e-15
            assert (moved[j] - v[j]).abs().min() > 1e-8
            close(moved[others], v[others])


def test_no_label_is_the_label_after_the_last(build, generator):
    x, t = image_batch((1, 8, 8), generator)
    network = awake(build(labels=3))
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), NONE)))
    assert not torch.allclose(network(x, t), network(x, t, torch.full((3,), NONE - 1)))


@pytest.mark.parametrize("shape", [(3, 8, 12), (3, 8), (1, 3, 8, 8), (3,), ()], ids=str)
def test_another_event_shape_is_refused(build, shape):
    with pytest.raises(ValueError, match=r"event shape .*the network was built for \(3, 8, 8\)"):
        build((3, 8, 8))(torch.zeros(2, *shape), torch.zeros(2))


def test_wrong_times_and_labels_are_refused(build):
    """By the embedding, whose own tests go into detail."""
    network, x, t = build(labels=3), torch.zeros(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match=r"t has shape \(1,\)"):
        network(x, t[:1])
    with pytest.raises(ValueError, match=r"label has shape \(1,\); pass \(2,\)"):
        network(x, t, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels=0"):
        build()(x, t, torch.zeros(2, dtype=torch.int64))


def test_every_parameter_is_trained(build, generator):
    """A part left out of forward, or behind a closed gate, would have no gradient."""
    x, t = image_batch((2, 8, 8), generator, 4)
    network = awake(build((2, 8, 8), labels=3))
    network(x, t, torch.tensor([0, 1, 2, NONE])).square().mean().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.flatten().abs().max() > 1e-9, name
    # and every class has its own row
    assert (network.embed.label.weight.grad.abs().amax(dim=1) > 1e-9).all()


def test_checkpointing_changes_memory_and_nothing_else(build, generator):
    x, t = image_batch((1, 8, 8), generator)
    label = torch.tensor([0, NONE, 2])
    results, kept = [], []
    for checkpointing in (False, True):
        network, sizes = awake(build(labels=3, checkpointing=checkpointing)), []
        with saved_tensors_hooks(lambda z, s=sizes: (s.append(z.numel()), z)[1], lambda z: z):
            loss = network(x, t, label).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in network.parameters())])
        kept.append(sum(sizes))
    # the same operations once more, so the same numbers
    assert all(map(torch.equal, *results))
    assert kept[1] < 0.7 * kept[0]


def test_checkpointing_recomputes_only_where_there_is_a_backward_pass(build, generator):
    x, t = image_batch((1, 8, 8), generator)
    network, calls = awake(build(checkpointing=True)), []
    block = network.coarse_in if build is unet else network.layers[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(x, t)
    assert len(calls) == 1
    network(x, t).sum().backward()
    assert len(calls) == 3


def test_channels_last_is_a_layout_and_no_other_network(build, generator):
    x, t = image_batch((3, 8, 8), generator)
    network = awake(build((3, 8, 8)))
    v = network(x, t)
    network.to(memory_format=torch.channels_last)
    close(network(x.contiguous(memory_format=torch.channels_last), t), v)


def test_half_precision_is_close_to_single(build, generator):
    x, t = (z.float() for z in image_batch((1, 8, 8), generator))
    network = awake(build()).float()
    v = network(x, t)
    with autocast(torch.device("cpu"), torch.bfloat16):
        half = network(x, t)
    error = ((half.float() - v).norm() / v.norm()).item()
    # 0.2 % (2⁻⁹) a rounding, some twenty of them at random: 0.9 %; float32 would leave 1e-7
    assert 1e-4 < error < 0.015


@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler loading
def test_compiles_as_one_graph(build, generator):
    """A look at a value, as in the check of labels, would cut it in two."""
    x, t = image_batch((1, 8, 8), generator)
    network = awake(build(labels=3))
    label = torch.tensor([0, NONE, 2])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    close(compiled(x, t, label), network(x, t, label))
