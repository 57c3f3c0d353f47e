"""Precisions of machines that are not here, by what PyTorch would say of them."""

import warnings

import pytest
import torch

from fmtutorial.images.devices import (
    PRECISIONS,
    autocast,
    fast_precision,
    in_precision,
    precision_named,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def product():
    return torch.ones(2, 2) @ torch.ones(2, 2)


@pytest.mark.parametrize("name, dtype", PRECISIONS.items())
def test_autocast_changes_the_precision_of_a_product(name, dtype):
    """Float32 without PyTorch's warning that it cannot cast to it."""
    assert str(dtype) == f"torch.{name}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with autocast(CPU, dtype):
            assert product().dtype == dtype
    assert product().dtype == torch.float32


def test_float32_means_float32_within_another_context():
    with autocast(CPU, torch.bfloat16), autocast(CPU, torch.float32):
        assert product().dtype == torch.float32


@pytest.mark.parametrize(
    "able, dtype",
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({"avx512_fp16": True, "amx_fp16": True}, torch.float32),
        ({}, torch.float32),
    ],
    ids=["both", "avx", "amx", "neither", "float16 only", "unknown"],
)
def test_a_cpu_trains_in_bfloat16_where_it_multiplies_it(monkeypatch, able, dtype):
    """Never in float16, which would need a scaler and is not faster."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert fast_precision(CPU) == dtype


def test_an_older_pytorch_does_not_know_its_cpu(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision(CPU) == torch.float32


@pytest.mark.parametrize(
    "capability, dtype",
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_gpu_trains_in_bfloat16_unless_it_only_emulates_it(monkeypatch, capability, dtype):
    """Ampere is the first that multiplies it; a T4, 7.5, does not."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_precision(CUDA) == dtype


@pytest.mark.parametrize("kind", ["mps", "meta"])
def test_other_devices_train_in_float32(monkeypatch, kind):
    """Whatever the CPU beside them can do."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert fast_precision(torch.device(kind)) == torch.float32


@pytest.mark.parametrize("wrong", [torch.int64, torch.float64, "float32", None])
def test_a_precision_in_which_nothing_runs_is_refused(wrong):
    """PyTorch would warn and stay in float32."""
    for use in (lambda: autocast(CPU, wrong), lambda: in_precision(lambda x, t, label: x, wrong)):
        with pytest.raises(ValueError, match="choose from torch.float32, torch.bfloat16"):
            use()


def test_a_precision_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert precision_named("auto", CUDA) == torch.float16
    for name in ("float32", "bfloat16", "float16"):
        assert precision_named(name, CUDA) == getattr(torch, name)
    with pytest.raises(ValueError, match='unknown precision "float64"; choose from auto, float32'):
        precision_named("float64", CPU)
