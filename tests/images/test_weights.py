"""Weights go through a file and come back rounded; everything else is refused and not run."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from image_networks import awake, image_batch
from safetensors import safe_open
from safetensors.torch import save_file

from fmtutorial.images import weights
from fmtutorial.images.weights import PUBLISHED, load_weights, save_weights
from fmtutorial.networks import DiT, UNet

SHAPE = (1, 8, 8)
ARGUMENTS = {
    "unet": {"image_shape": SHAPE, "width": 8, "labels": 3},
    "dit": {"image_shape": SHAPE, "patch": 2, "width": 8, "depth": 1, "heads": 2, "labels": 3},
}
PROVENANCE = {"steps": 12, "error": 0.25, "device": "Prüfstand", "seeds": [1, 2]}


@pytest.fixture(params=["unet", "dit"])
def kind(request):
    return request.param


def saved(path, kind="unet"):
    network = awake({"unet": UNet, "dit": DiT}[kind](**ARGUMENTS[kind])).float()
    save_weights(path, network, kind, ARGUMENTS[kind], PROVENANCE)
    return network


def test_weights_come_back_rounded_to_half_precision(tmp_path, kind):
    path = tmp_path / "digits.safetensors"
    network = saved(path, kind)
    loaded = load_weights(path).network
    assert type(loaded) is type(network)
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, w in before.items():
        assert after[name].dtype == torch.float32
        # 11 bits; below 2⁻¹⁴ the spacing is 2⁻²⁴
        assert ((after[name] - w).abs() <= 2**-11 * w.abs() + 2**-25).all(), name
    # two bytes a number, not four, and the names
    size = 2 * sum(w.numel() for w in before.values())
    assert size < path.stat().st_size < 1.3 * size + 1000
    assert os.listdir(tmp_path) == ["digits.safetensors"]


def test_the_network_that_comes_back_answers_like_the_one_that_went(tmp_path, kind, generator):
    network = saved(tmp_path / "digits", kind)
    x, t = (z.float() for z in image_batch(SHAPE, generator))
    label = torch.tensor([0, 3, 2])
    v, w = network(x, t, label), load_weights(str(tmp_path / "digits")).network(x, t, label)
    # weights are off by 2⁻¹² = 2e-4 in the mean, in both directions
    assert (v - w).norm() < 2e-3 * v.norm()


def test_loaded_networks_are_for_sampling(tmp_path, kind):
    saved(tmp_path / "digits", kind)
    network = load_weights(tmp_path / "digits").network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert all(p.device.type == "cpu" for p in network.parameters())


def test_saving_leaves_the_network_alone(tmp_path, kind):
    network = saved(tmp_path / "digits", kind)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_provenance_comes_back(tmp_path, kind):
    saved(tmp_path / "digits", kind)
    assert load_weights(tmp_path / "digits").provenance == PROVENANCE


def test_weights_in_another_layout_can_be_saved(tmp_path):
    """As training on a GPU leaves them; a file has one layout."""
    network = awake(UNet(**ARGUMENTS["unet"])).float().to(memory_format=torch.channels_last)
    save_weights(tmp_path / "digits", network, "unet", ARGUMENTS["unet"], {})
    loaded = load_weights(tmp_path / "digits").network.state_dict()
    for name, w in network.state_dict().items():
        torch.testing.assert_close(loaded[name], w, rtol=2**-11, atol=2**-25)


def test_a_published_name_is_a_file_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path / package)
    (tmp_path / "fmtutorial" / "data").mkdir(parents=True)
    for name in PUBLISHED:
        with pytest.raises(FileNotFoundError, match=f"no weights at .*{name}.safetensors"):
            load_weights(name)
        saved(tmp_path / "fmtutorial" / "data" / f"{name}.safetensors")
        assert load_weights(name).provenance == PROVENANCE


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match=f"no weights at cifar, .*{', '.join(PUBLISHED)}"):
        load_weights("cifar")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.99, -1], ids=str)
def test_a_truncated_file_is_refused(tmp_path, keep):
    """In the length of the header, in the header, in the weights, and by one byte."""
    path = tmp_path / "digits.safetensors"
    saved(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="digits.safetensors holds no weights .*is truncated"):
        load_weights(path)


@pytest.mark.parametrize("content", [b"hello, world", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(64)])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(ValueError, match="foreign holds no weights of fmtutorial"):
        load_weights(tmp_path / "foreign")


DESCRIBED = {"kind": "unet", "arguments": ARGUMENTS["unet"], "provenance": {}}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"fmtutorial": "unet"},
        {"fmtutorial": "[1, 2]"},
        {"fmtutorial": json.dumps({"arguments": {}, "provenance": {}})},
        {"fmtutorial": json.dumps(DESCRIBED | {"kind": "transformer"})},
        {"fmtutorial": json.dumps(DESCRIBED | {"kind": "dit"})},
        {"fmtutorial": json.dumps(DESCRIBED | {"arguments": {"labels": 3}})},
        {"fmtutorial": json.dumps(DESCRIBED | {"arguments": {"colour": 3}})},
        {"fmtutorial": json.dumps(DESCRIBED | {"arguments": {"image_shape": [1, 7, 7]}})},
    ],
    ids=[
        "none",
        "another library's",
        "no JSON",
        "a list",
        "no kind",
        "unknown kind",
        "another kind",
        "another width",
        "unknown argument",
        "impossible argument",
    ],
)
def test_safetensors_that_do_not_say_what_they_are_are_refused(tmp_path, metadata):
    """The same tensors with the right description are fine."""
    path = tmp_path / "digits"
    saved(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"fmtutorial": json.dumps(DESCRIBED)})
    load_weights(path)
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match="digits holds no weights of fmtutorial"):
        load_weights(path)


def test_missing_and_surplus_weights_are_refused(tmp_path):
    path = tmp_path / "digits"
    network = saved(path)
    tensors = {name: w.contiguous() for name, w in network.state_dict().items()}
    surplus = tensors | {"more": torch.zeros(1)}
    fewer = {name: w for name, w in tensors.items() if name != "enter.bias"}
    for wrong, match in ((surplus, "more"), (fewer, "enter.bias")):
        save_file(wrong, path, {"fmtutorial": json.dumps(DESCRIBED)})
        with pytest.raises(ValueError, match=match):
            load_weights(path)


class Bomb:
    """A pickle that would make a folder when it is loaded."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def unpickle(path):
    pickle.loads(path.read_bytes())


def unsafe_load(path):
    torch.load(path, weights_only=False)


@pytest.mark.parametrize("save, live", [(pickle.dump, unpickle), (torch.save, unsafe_load)])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, save, live):
    with open(tmp_path / "foreign", "wb") as file:
        save({"weights": Bomb(tmp_path / "exploded")}, file)
    with pytest.raises(ValueError, match="holds no weights"):
        load_weights(tmp_path / "foreign")
    assert not (tmp_path / "exploded").exists()
    live(tmp_path / "foreign")
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_load_and_say_where_they_come_from(name):
    network, provenance = load_weights(name)
    assert sum(p.numel() for p in network.parameters()) > 1e6
    assert provenance["minutes"] > 0 and provenance["cpu"]
    with safe_open(weights.resources.files("fmtutorial") / f"data/{name}.safetensors", "pt") as f:
        assert set(f.metadata()) == {"fmtutorial", "sha256"}


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "unet", "arguments": ARGUMENTS["unet"]},
        {"kind": "unet", "arguments": {"image_shape": [1]}, "provenance": {}},
        {"kind": "dit", "arguments": ARGUMENTS["dit"] | {"patch": 0}, "provenance": {}},
        {"kind": "dit", "arguments": ARGUMENTS["dit"] | {"heads": 0}, "provenance": {}},
    ],
    ids=["no provenance", "no image", "no patch", "no heads"],
)
def test_descriptions_that_build_no_network_are_refused(tmp_path, described):
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(9).half()}, path, {"fmtutorial": json.dumps(described)})
    with pytest.raises(ValueError, match="odd.safetensors holds no weights"):
        load_weights(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(tmp_path)


def test_weights_beyond_half_precision_are_not_written(tmp_path):
    """Above 65 504 they would become infinite; the file that was there stays."""
    path = tmp_path / "digits.safetensors"
    saved(path)
    before = path.read_bytes()
    network = awake(UNet(**ARGUMENTS["unet"])).float()
    with torch.no_grad():
        next(network.parameters()).flatten()[0] = 1e5
    with pytest.raises(ValueError, match="not finite, or too large for half precision"):
        save_weights(path, network, "unet", ARGUMENTS["unet"], PROVENANCE)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["digits.safetensors"]


def change(path, described=None, tensors=None, more=None):
    """Rewrite a file with another description or other tensors, without a checksum."""
    with safe_open(path, "pt") as file:
        text = file.metadata()["fmtutorial"]
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = json.dumps(json.loads(text) | (described or {}))
    save_file(kept | (tensors or {}), path, {"fmtutorial": text} | (more or {}))


def test_a_file_without_a_checksum_is_of_an_older_version(tmp_path):
    path = tmp_path / "digits"
    saved(path)
    change(path)
    assert load_weights(path).provenance == PROVENANCE
    change(path, more={"sha257": "0"})  # a bit of its name has flipped
    with pytest.raises(ValueError, match="digits holds no weights .*sha257"):
        load_weights(path)


@pytest.mark.parametrize(
    "lie",
    [
        {"described": {"provenance": {"minutes": 1}}},
        {"described": {"arguments": ARGUMENTS["dit"] | {"heads": 1}}},  # no shape shows it
        {"tensors": {"enter.bias": torch.full((8,), 0.5).half()}},
    ],
    ids=["provenance", "heads", "weights"],
)
def test_the_checksum_covers_description_and_weights(tmp_path, lie):
    path = tmp_path / "digits"
    saved(path, "dit")
    with safe_open(path, "pt") as file:
        checksum = file.metadata()["sha256"]
    change(path, more={"sha256": checksum})
    load_weights(path)
    change(path, more={"sha256": checksum}, **lie)
    with pytest.raises(ValueError, match="digits holds no weights .*its checksum is wrong"):
        load_weights(path)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.bool, torch.float64, torch.float32, torch.bfloat16]
)
def test_weights_of_another_type_are_refused(tmp_path, dtype):
    path = tmp_path / "digits"
    saved(path)
    change(path, tensors={"enter.bias": torch.ones(8, dtype=dtype)})
    with pytest.raises(ValueError, match=f"enter.bias is {dtype} .* not torch.float16"):
        load_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    path = tmp_path / "digits"
    saved(path)
    change(path, tensors={"enter.bias": torch.full((8,), value).half()})
    with pytest.raises(ValueError, match="enter.bias is not finite"):
        load_weights(path)


@pytest.mark.parametrize(
    "kind, more",
    [
        ("dit", {"depth": 10_000_000}),
        ("dit", {"depth": 200}),  # fewer than numbers, more than tensors
        ("dit", {"width": 2**31, "heads": 2**31}),
        ("unet", {"width": 10**12}),
        ("unet", {"labels": 10**9}),
        ("unet", {"image_shape": [10**9, 8, 8]}),
        ("dit", {"image_shape": [1, 10**9, 10**9]}),
        ("unet", {"width": 1e300}),
        ("unet", {"width": float("inf")}),
    ],
    ids=str,
)
def test_a_small_file_cannot_ask_for_a_large_network(tmp_path, monkeypatch, kind, more):
    """Nothing is built: ten million layers would take hours."""
    path = tmp_path / "digits"
    saved(path, kind)
    change(path, {"arguments": ARGUMENTS[kind] | more})
    monkeypatch.setattr(weights, "NETWORKS", dict.fromkeys(weights.NETWORKS))
    with pytest.raises(ValueError, match="is a larger network than there are weights for"):
        load_weights(path)


@pytest.mark.parametrize(
    "kind, arguments, match",
    [
        ("mlp", ARGUMENTS["unet"], 'unknown kind "mlp"; choose from unet, dit'),
        (
            "unet",
            ARGUMENTS["unet"] | {"width": 12},
            "is torch.float16 of shape .* not torch.float16 of shape",
        ),
        ("unet", {}, "should not have embed.label.weight"),
        ("unet", ARGUMENTS["unet"] | {"labels": 2}, "embed.label.weight is"),
        ("dit", ARGUMENTS["dit"], "its network lacks position"),
    ],
    ids=["kind", "width", "none", "labels", "another"],
)
def test_weights_that_could_not_be_loaded_are_not_written(tmp_path, kind, arguments, match):
    network = UNet(**ARGUMENTS["unet"])
    with pytest.raises(ValueError, match=match):
        save_weights(tmp_path / "digits", network, kind, arguments, {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_weights(tmp_path / "digits", network, "unet", ARGUMENTS["unet"], {"d": tmp_path})
    assert list(tmp_path.iterdir()) == []
