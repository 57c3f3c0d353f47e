"""Precisions of machines that are not here, by what PyTorch would say of them."""

import json
import platform
import warnings

import pytest
import torch

from fmtutorial import devices
from fmtutorial.devices import PRECISIONS, autocast, describe, fast_precision

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


def test_description_of_this_machine():
    described = describe(CPU)
    assert list(described) == ["python", "torch", "device", "cpu", "threads"]
    assert described["python"] == platform.python_version()
    assert described["torch"] == torch.__version__ and described["device"] == "cpu"
    assert described["threads"] == torch.get_num_threads()
    assert all(isinstance(described[k], str) and described[k] for k in list(described)[:4])
    # plain values, as it goes into files of JSON
    assert json.loads(json.dumps(described)) == described


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    described = describe(torch.device("cuda", 3))
    assert described["device"] == "GPU number 3"
    assert described["cpu"] == describe(CPU)["cpu"]


@pytest.mark.parametrize(
    "text, cpu",
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: B\n", "Fast CPU @ 3 GHz"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", "as Python has it"),
        (None, "as Python has it"),
    ],
    ids=["x86", "arm", "no Linux"],
)
def test_where_the_name_of_a_cpu_comes_from(monkeypatch, tmp_path, text, cpu):
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / path.rsplit("/", 1)[1])
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "as Python has it")
    assert describe(CPU)["cpu"] == cpu
