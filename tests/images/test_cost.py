"""Counted costs against formulas, and against what PyTorch keeps when it computes."""

import dataclasses

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fmtutorial.images.cost import plan, training_cost
from fmtutorial.images.run import Run
from fmtutorial.images.settings import Settings

CPU = torch.device("cpu")
SMALL = Settings("small", width=8, batch=4, steps=100)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_shape": (3, 17, 30), "classes": 0, "levels": 3},
        {"network": "dit", "width": 16, "image_shape": (2, 9, 12)},
        {"batch": 7},
    ],
    ids=str,
)
def test_counts_are_those_of_a_real_step(change):
    """Parameters to the last; kept bytes and operations but for what the attention does inside."""
    settings = dataclasses.replace(SMALL, **change)
    cost = training_cost(settings)
    network = Run(settings, CPU).network
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.state_bytes == 20 * cost.parameters
    assert cost.bytes == cost.state_bytes + cost.activation_bytes
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    x = torch.zeros(settings.batch, *settings.image_shape)
    with saved_tensors_hooks(keep, lambda z: z):
        loss = network(x, torch.zeros(len(x))).square().mean()
    found = sum(size for size, _ in kept.values())
    # at this width the attention's matrix of weights, which a CPU does not keep, is a seventh
    assert 1 <= cost.activation_bytes / found < 1.2
    assert loss == 0


def test_operations_of_a_transformer_by_formula():
    """Six for each weight of a matrix and token, forward and backward; and the attention's own."""
    tokens, w = 12, 16
    cost = training_cost(Settings("small", "dit", w, batch=1, image_shape=(1, 12, 16), classes=0))
    depth, patch = 4, 16
    a_token = depth * 12 * w * w + 2 * patch * w
    a_sample = depth * 6 * w * w + 2 * w * w + w * w + 2 * (w // 4) * w
    attention = depth * 6 * 2 * tokens * tokens * w
    whole = 6 * (tokens * a_token + a_sample) + attention
    # where no gradient of x is asked for, the first layers need four and not six
    assert whole - 2 * (tokens * patch * w + 2 * (w // 4) * w) == cost.flops_per_image


def test_costs_grow_as_they_should():
    cost = training_cost(SMALL)
    twice = training_cost(dataclasses.replace(SMALL, batch=8))
    assert 1.8 < twice.activation_bytes / cost.activation_bytes < 2  # copies of weights do not
    assert twice.flops_per_image == cost.flops_per_image
    wide = training_cost(dataclasses.replace(SMALL, width=16))
    assert 3 < wide.flops_per_image / cost.flops_per_image < 4.1
    spared = training_cost(dataclasses.replace(SMALL, checkpointing=True))
    assert spared.activation_bytes < 0.7 * cost.activation_bytes
    assert spared.flops_per_image > 1.1 * cost.flops_per_image


def test_a_plan_says_what_is_counted():
    cost, lines = training_cost(SMALL), plan(SMALL, 2.0, CPU).splitlines()
    assert lines[0].split() == ["parameters", str(cost.parameters)]
    assert f"{cost.flops_per_image / 1e9:.3f} GFLOP an image" in lines[1]
    assert f"{cost.bytes / 1e6:.3g} MB" in lines[2] and "activations of 4 images" in lines[2]
    assert "2 s a step on cpu" in lines[3] and lines[3].endswith("3 min for 100 steps")
