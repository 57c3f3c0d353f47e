"""Hostile checkpoints and weights: each is refused by a ValueError that names the file, at once.

To try one more, add a line to a table. What is drawn at random is drawn from one seed.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import math
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fmtutorial.checkpoints import MARK, load_checkpoint, save_checkpoint
from fmtutorial.images import run as runs
from fmtutorial.images.data import small_digits
from fmtutorial.images.run import Run, settings_of
from fmtutorial.images.settings import Settings
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.networks import DiT

CPU = torch.device("cpu")
SETTINGS = Settings(data="small", network="dit", width=8, steps=8, batch=4, warm_up=2)
DROP = object()
"""Stands for an entry that is taken away."""


def refused(load, path, limit=20):
    """Whether a file is refused, with its name, as quickly as on a slow machine."""
    started = time.monotonic()
    with pytest.raises(ValueError, match=path.name) as found:
        load(path)
    assert type(found.value) is ValueError  # not one of its children, such as a UnicodeError
    assert time.monotonic() - started < limit
    return True


def at(state, names):
    for name in names:
        state = state[name]
    return state


def changed(state, names, value):
    """Nested dictionaries in which one entry is another, or missing; the rest is shared."""
    first, *rest = names
    if rest:
        value = changed(state[first], rest, value)
    others = {name: kept for name, kept in state.items() if name != first}
    return others if value is DROP else others | {first: value}


def paths(state, names=()):
    """The names of every entry, inner and outer."""
    for name, value in state.items():
        yield (*names, name)
        if isinstance(value, dict):
            yield from paths(value, (*names, name))


def spoiled(value):
    """A function that puts a value into the first place of a tensor."""

    def change(w):
        w = w.clone()
        w.view(-1)[0] = value
        return w

    return change


# What every entry must not become, and what a tensor must not.
ANYTHING = {
    "dropped": lambda v: DROP,
    "None": lambda v: None,
    "text": lambda v: "12",
    "bytes": lambda v: b"12",
    "a list": lambda v: [v],
    "a tuple": lambda v: (v, v),
    "a set": lambda v: {1, 2},
    "a dictionary of itself": lambda v: {"more": v, 0: 1},
    "an empty dictionary": lambda v: {},
    "a number below 0": lambda v: -3,
    "a huge number": lambda v: 10**30,
    "NaN": lambda v: math.nan,
    "a complex number": lambda v: 1j,
    "a type": lambda v: torch.float32,
    "a device": lambda v: CPU,
    "a size": lambda v: torch.Size([2]),
    "another tensor": lambda v: torch.ones(3, 2, 1, 5),
    "an integer tensor": lambda v: torch.ones(3, dtype=torch.int64),
    "an empty tensor": lambda v: torch.ones(0),
}
TENSOR = {
    "a row more": lambda w: torch.cat([w.reshape(-1), w.reshape(-1)[:1]]),
    "fewer": lambda w: w.reshape(-1)[1:].clone(),
    "a dimension more": lambda w: w[None].clone(),
    "one number": lambda w: torch.tensor([0.5]),
    "double": lambda w: w.double(),
    "half": lambda w: w.half(),
    "bfloat16": lambda w: w.bfloat16(),
    "integers": lambda w: w.long(),
    "booleans": lambda w: w.bool(),
    "complex": lambda w: w.to(torch.complex64),
    "a parameter": lambda w: nn.Parameter(w),
    "sparse": lambda w: w.to_sparse() if w.ndim else w.double(),
    "on no device": lambda w: w.to("meta"),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "claims 10¹² numbers": lambda w: torch.zeros(1).expand(10**6, 10**6),
    "a list of numbers": lambda w: w.tolist(),
    "NaN within": spoiled(math.nan),
    "infinite": spoiled(-math.inf),
}


# Checkpoints.


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """What the checkpoint of a run holds after three of its steps."""
    torch.manual_seed(0)
    run, path = Run(SETTINGS, CPU), tmp_path_factory.mktemp("run") / "checkpoint.pt"
    list(itertools.islice(run.steps(small_digits()), 3))
    run.save(path)
    return load_checkpoint(path)


def load(path):
    return Run.load(path, CPU)


def refused_in_memory(state, monkeypatch):
    """Whether a checkpoint that holds this is refused; much faster than with a file."""
    with monkeypatch.context() as patch:
        patch.setattr(runs, "load_checkpoint", lambda path: state)
        return refused(load, Path("spoiled.pt"))


def entries_of(state):
    """Names of tensors and of others: one of each kind, and some more at random."""
    chosen, every = random.Random(0), list(paths(state))
    tensors = [p for p in every if isinstance(at(state, p), torch.Tensor)]
    others = [p for p in every if p not in tensors and p[0] != "settings"]
    kinds = ("network", "average", "step", "exp_avg", "exp_avg_sq")
    first = [next(p for p in tensors if kind in p) for kind in kinds]
    return first + chosen.sample(tensors, 4), [("settings",), *chosen.sample(others, 8)]


def test_the_checkpoint_that_is_spoiled_below_is_sound(state, tmp_path):
    save_checkpoint(tmp_path / "sound.pt", state)
    run = load(tmp_path / "sound.pt")
    assert run.done == 3 and run.ema.updates == 3
    next(run.steps(small_digits()))


@pytest.mark.parametrize("name", ANYTHING)
def test_entries_that_are_something_else(state, tmp_path, monkeypatch, name):
    tensors, others = entries_of(state)
    for names in tensors + others:
        now, value = at(state, names), ANYTHING[name](at(state, names))
        if isinstance(now, dict) and value == now:  # the scaler's, which is empty
            continue
        spoiled = changed(state, names, value)
        assert refused_in_memory(spoiled, monkeypatch), names
    save_checkpoint(tmp_path / "spoiled.pt", changed(state, tensors[0], value))
    assert refused(load, tmp_path / "spoiled.pt")


@pytest.mark.filterwarnings("ignore")  # of sparse and quantised tensors
@pytest.mark.parametrize("name", TENSOR)
def test_tensors_that_are_others(state, tmp_path, monkeypatch, name):
    tensors, _ = entries_of(state)
    for names in tensors:
        spoiled = changed(state, names, TENSOR[name](at(state, names)))
        assert refused_in_memory(spoiled, monkeypatch), names
    save_checkpoint(tmp_path / "spoiled.pt", spoiled)
    assert refused(load, tmp_path / "spoiled.pt")


def counting(number):
    """All moments after this many steps."""
    count = torch.tensor(float(number))
    return lambda o: {"state": {i: one | {"step": count} for i, one in o["state"].items()}}


MOMENT = ("optimizer", "state", 5)
RUNS = {
    "steps below 0": {("done",): -1, ("updates",): -1},
    "no step done, three taken": {("done",): 0, ("updates",): 0},
    "more steps than there are": {("done",): 9, ("updates",): 9, ("optimizer",): counting(9)},
    "more steps than moments": {("done",): 4, ("updates",): 4},
    "more averages than steps": {("updates",): 4},
    "a truth for a number": {("done",): True, ("updates",): True},
    "seconds below 0": {("seconds",): -1.0},
    "infinite seconds": {("seconds",): math.inf},
    "a counter below 0": {(*MOMENT, "step"): torch.tensor(-3.0)},
    "a counter that is ahead": {(*MOMENT, "step"): torch.tensor(4.0)},
    "a counter that is behind": {(*MOMENT, "step"): torch.tensor(2.0)},
    "a counter between": {(*MOMENT, "step"): torch.tensor(2.5)},
    "a mean of squares below 0": {(*MOMENT, "exp_avg_sq"): lambda w: -1 - w},
    "no moments": {("optimizer",): {"state": {}}},
    "moments by name": {("optimizer",): {"state": {"enter.weight": {}}}},
    "groups": {("optimizer", "param_groups"): []},
    "a scaler for float32": {("scaler",): {"scale": 1.0}},
    "a key that is no name": {(7,): 7},
    "one more": {("more",): 0},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_runs_that_cannot_be(state, monkeypatch, changes):
    for names, value in changes.items():
        if callable(value):
            value = value(at(state, names))
        state = changed(state, names, value)
    assert refused_in_memory(state, monkeypatch)


VALUES = [None, "", "x", b"x", -1, 0, 0.5, 2.5, 10**9, 10**30, True, math.nan, math.inf, 1j, [], {}]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_settings_that_are_none_or_belong_to_another_run(state, monkeypatch, name):
    """Whatever ``Settings`` takes for this one, a run of three steps of this network may have."""
    for value in [DROP, *VALUES]:
        spoiled = changed(state, ("settings", name), value)
        try:
            settings = dataclasses.replace(SETTINGS, **{name: value})
        except (TypeError, ValueError):
            settings = None
        if settings and settings.width == 8 and settings.steps >= 3 and settings.classes == 10:
            assert settings_of(spoiled, CPU) == settings
        else:
            assert refused_in_memory(spoiled, monkeypatch), value


@pytest.mark.parametrize("other", [{"network": "unet"}, {"precision": "float16"}, {"more": 1}])
def test_settings_of_another_network(state, monkeypatch, other):
    spoiled = state | {"settings": state["settings"] | other}
    assert refused_in_memory(spoiled, monkeypatch)


SCALER = {
    "scale": [-1.0, 0.0, math.inf, math.nan, 1, None, torch.tensor(1.0)],
    "_growth_tracker": [-1, 2000, 10**12, 0.0, True, None],
    "growth_factor": [0.5, -2.0, math.nan, 2],
    "backoff_factor": [2.0, 0.0, math.nan],
    "growth_interval": [0, -1, 1, 2000.0],
}


@pytest.mark.parametrize("name", SCALER)
def test_scalers_that_would_go_wild(tmp_path, monkeypatch, name):
    run = Run(dataclasses.replace(SETTINGS, precision="float16"), CPU)
    run.save(tmp_path / "sound.pt")
    sound = load_checkpoint(tmp_path / "sound.pt")
    assert load(tmp_path / "sound.pt").scaler.get_scale() == 2.0**16
    for value in [DROP, *SCALER[name]]:
        spoiled = changed(sound, ("scaler", name), value)
        assert refused_in_memory(spoiled, monkeypatch), value


def test_a_scaler_skips_steps_of_all_weights_alike(state, monkeypatch):
    """Of three steps, none to three may have been taken; in half precision only."""
    scaled = changed(state, ("settings", "precision"), "float16")
    scaled |= {"scaler": torch.amp.GradScaler("cpu").state_dict()}
    moments = state["optimizer"]
    for taken in (1, 2, 3):
        assert settings_of(scaled | {"optimizer": counting(taken)(moments)}, CPU)
    assert settings_of(scaled | {"optimizer": {"state": {}}}, CPU)
    for wrong in (-1, 0.5, 2.5, 4):
        spoiled = scaled | {"optimizer": counting(wrong)(moments)}
        assert refused_in_memory(spoiled, monkeypatch), wrong
    spoiled = changed(scaled, (*MOMENT, "step"), torch.tensor(2.0))  # and the others three
    assert refused_in_memory(spoiled, monkeypatch)
    assert refused_in_memory(state | {"optimizer": counting(2)(moments)}, monkeypatch)


# The bytes of both kinds of files.


def bytes_of_a_checkpoint(folder, state):
    save_checkpoint(folder / "sound", state)
    return (folder / "sound").read_bytes()


def bytes_of_weights(folder):
    torch.manual_seed(0)
    network = DiT(**ARGUMENTS)
    save_weights(folder / "sound", network, "dit", ARGUMENTS, {"minutes": 12, "cpu": "quick"})
    return (folder / "sound").read_bytes()


@pytest.fixture(params=["checkpoint", "weights"])
def kind(request, tmp_path, state):
    """The bytes of a sound file, and what loads it."""
    if request.param == "checkpoint":
        return bytes_of_a_checkpoint(tmp_path, state), load
    return bytes_of_weights(tmp_path), load_weights


def test_bits_that_flipped(kind, tmp_path):
    """Of the first and last bytes, where names and checksums are, and of some in between."""
    whole, read = kind
    chosen = random.Random(1)
    places = [*range(0, 300, 7), *range(len(whole) - 70, len(whole), 3)]
    places += [chosen.randrange(len(whole)) for _ in range(60)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chosen.randrange(8)
        (tmp_path / "flipped").write_bytes(flipped)
        assert refused(read, tmp_path / "flipped"), place


def test_files_that_are_cut_or_joined(kind, tmp_path):
    whole, read = kind
    chosen = random.Random(2)
    cuts = [0, 1, 7, 8, 9, 64, len(whole) - 1, *(chosen.randrange(len(whole)) for _ in range(20))]
    pieces = [whole[:cut] for cut in cuts] + [whole[cut:] for cut in cuts if cut]
    for piece in [*pieces, whole + b"\0", whole + whole, whole[:500] + whole, bytes(len(whole))]:
        (tmp_path / "cut").write_bytes(piece)
        assert refused(read, tmp_path / "cut"), len(piece)


class Bomb:
    """A pickle that would make a folder when it is loaded."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.mkdir, (self.place,)


def torch_file(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def patched(old, new):
    """A PyTorch file of four numbers whose description says something else."""
    archive, file = zipfile.ZipFile(io.BytesIO(torch_file({"w": torch.arange(4.0)}))), io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for name in archive.namelist():
            data = archive.read(name)
            assert old in data or not name.endswith("data.pkl")
            target.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)
    return file.getvalue()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class OfUsers(dict):
    """A dictionary with a name that no file may ask for."""


FOREIGN = {
    "nothing": lambda bomb: b"",
    "text": lambda bomb: b"not a checkpoint",
    "a picture": lambda bomb: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "an empty archive": lambda bomb: b"PK\5\6" + bytes(18),
    "a pickle": lambda bomb: pickle.dumps({"done": 1}),
    "a pickle with code": lambda bomb: pickle.dumps({"done": bomb}),
    "code": lambda bomb: torch_file({"done": bomb}),
    "code in the old format": lambda bomb: torch_file(
        {"done": bomb}, _use_new_zipfile_serialization=False
    ),
    "the old format": lambda bomb: torch_file(
        {"w": torch.zeros(3)}, _use_new_zipfile_serialization=False
    ),
    "a module": lambda bomb: torch_file(nn.Linear(2, 2)),
    "another class": lambda bomb: torch_file(OfUsers()),
    "a script": lambda bomb: scripted(),
    "NumPy's": lambda bomb: torch_file({"w": np.zeros(3)}),
    "a tensor": lambda bomb: torch_file(torch.zeros(3)),
    "a list": lambda bomb: torch_file([1, 2]),
    "settings only": lambda bomb: torch_file({"settings": dataclasses.asdict(SETTINGS)}),
    "settings of text": lambda bomb: torch_file({"settings": "small"}),
    "more numbers than there are": lambda bomb: patched(b"K\x04", b"M\x00\x40"),
    "a negative size": lambda bomb: patched(b"K\x04", b"J\xff\xff\xff\xff"),
    "an unknown storage": lambda bomb: patched(b"FloatStorage", b"SmallStorage"),
    "a file out of the archive": lambda bomb: patched(b"X\1\0\0\x000", b"X\1\0\0\0/"),
    "deep": lambda bomb: torch_file({"settings": nested(200)}),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of TypedStorage and TorchScript
@pytest.mark.parametrize("checksum", [False, True], ids=["", "with a checksum"])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(tmp_path, name, checksum):
    content = FOREIGN[name](Bomb(tmp_path / "exploded"))
    if checksum:
        content += MARK + hashlib.sha256(content).digest()
    (tmp_path / "foreign").write_bytes(content)
    assert refused(load, tmp_path / "foreign") and refused(load_weights, tmp_path / "foreign")
    assert not (tmp_path / "exploded").exists()


# Weights. A file is 8 bytes for the length of a header, the header, the tensors.

ARGUMENTS = {
    "image_shape": [1, 8, 8], "patch": 4, "width": 8, "depth": 1, "heads": 2, "labels": 3,
}  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    """Header and tensors of a sound file without a checksum, which would find all of it."""
    whole = bytes_of_weights(tmp_path)
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    del header["__metadata__"]["sha256"]
    return header, whole[8 + size :]


def put(path, header, tensors, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + tensors)


def test_the_weights_that_are_spoiled_below_are_sound(parts, tmp_path):
    put(tmp_path / "sound", *parts)
    x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    assert load_weights(tmp_path / "sound").network(x, t, torch.tensor([0, 3])).shape == x.shape


ONE = "position"
HEADERS = {
    "a missing weight": lambda h: h.pop(ONE),
    "one more": lambda h: h.update(more=h[ONE]),
    "another name": lambda h: h.update({"Position": h.pop(ONE)}),
    "an unknown type": lambda h: h[ONE].update(dtype="F17"),
    "no type": lambda h: h[ONE].pop("dtype"),
    "integers": lambda h: h[ONE].update(dtype="I16"),
    "bfloat16": lambda h: h[ONE].update(dtype="BF16"),
    "bytes": lambda h: h[ONE].update(dtype="U8", shape=[4, 16]),
    "doubles": lambda h: h[ONE].update(dtype="F64", shape=[4, 2]),
    "another shape": lambda h: h[ONE].update(shape=[8, 4]),
    "one dimension": lambda h: h[ONE].update(shape=[32]),
    "a huge shape": lambda h: h[ONE].update(shape=[2**40, 2**40]),
    "a shape below 0": lambda h: h[ONE].update(shape=[-4, -8]),
    "a shape of text": lambda h: h[ONE].update(shape="48"),
    "bytes beyond the end": lambda h: h[ONE].update(data_offsets=[0, 10**9]),
    "bytes below 0": lambda h: h[ONE].update(data_offsets=[-64, 0]),
    "bytes in reverse": lambda h: h[ONE].update(data_offsets=h[ONE]["data_offsets"][::-1]),
    "bytes of another": lambda h: h[ONE].update(data_offsets=h["leave.bias"]["data_offsets"]),
    "no bytes": lambda h: h[ONE].update(data_offsets=[0, 0]),
    "metadata of numbers": lambda h: h.update(__metadata__={"fmtutorial": 3}),
    "no metadata": lambda h: h.pop("__metadata__"),
    "empty metadata": lambda h: h.update(__metadata__={}),
    "more metadata": lambda h: h["__metadata__"].update(more="x"),
    "a wrong checksum": lambda h: h["__metadata__"].update(sha256="0" * 64),
    "an empty checksum": lambda h: h["__metadata__"].update(sha256=""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(parts, tmp_path, name):
    header, tensors = parts
    HEADERS[name](header)
    put(tmp_path / "spoiled", header, tensors)
    assert refused(load_weights, tmp_path / "spoiled")


@pytest.mark.parametrize(
    "header, size",
    [
        (b"{}", None),
        (b"", None),
        (b"[]", None),
        (b"{" * 100_000, None),
        (b'{"a":' * 50_000, None),
        (b"\xff\xfe{}", None),
        (b"{}", 2**63),
        (b"{}", 2**64 - 1),
        (b"{}", 10**8),
    ],
    ids=lambda value: str(value)[:20],
)
def test_headers_that_are_none(parts, tmp_path, header, size):
    put(tmp_path / "spoiled", header, parts[1], size)
    assert refused(load_weights, tmp_path / "spoiled")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(parts, tmp_path, value):
    header, tensors = parts
    for place in random.Random(3).sample(range(0, len(tensors), 2), 20):
        spoiled = tensors[:place] + struct.pack("<e", value) + tensors[place + 2 :]
        put(tmp_path / "spoiled", header, spoiled)
        assert refused(load_weights, tmp_path / "spoiled"), place


DESCRIPTIONS = {
    "no JSON": "unet",
    "nothing": "",
    "null": "null",
    "a list": "[1, 2]",
    "NaN": "NaN",
    "deep": "[" * 100_000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "a number of many digits": '{"kind": ' + "9" * 5000 + "}",
    "half a character": '"\\ud800"',
    **{
        name: json.dumps({"kind": "dit", "arguments": ARGUMENTS, "provenance": {}} | change)
        for name, change in {
            "another kind": {"kind": "unet"},
            "an unknown kind": {"kind": "transformer"},
            "a kind of numbers": {"kind": 3},
            "a list of kinds": {"kind": ["dit"]},
            "no arguments": {"arguments": {}},
            "arguments of text": {"arguments": "dit"},
            "a list of arguments": {"arguments": [1, 8, 8]},
            "provenance of text": {"provenance": "here"},
            "no provenance": {"provenance": None},
            "one more": {"more": 1},
        }.items()
    },
}


@pytest.mark.parametrize("text", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_descriptions_that_lie(parts, tmp_path, text):
    header, tensors = parts
    header["__metadata__"]["fmtutorial"] = text
    put(tmp_path / "spoiled", header, tensors)
    assert refused(load_weights, tmp_path / "spoiled")


ODD = [None, "", "8", -1, 0, 0.5, 8.5, 10**7, 10**30, 1e300, True, math.nan, math.inf, [], [8], {}]
SHAPES = [1, 8], [1, 8, 8, 8], [3, 8, 8], [1, 16, 16], [1, 8, 10**9], [1.0, 8, 8], ["1", 8, 8]
ASKED = [(name, value) for name in [*ARGUMENTS, "checkpointing", "more"] for value in ODD]


def test_arguments_that_build_another_network_or_none(parts, tmp_path):
    header, tensors = parts
    for name, value in [*ASKED, *(("image_shape", shape) for shape in SHAPES), ("depth", 2)]:
        if (name, value) == ("checkpointing", True):  # which changes no weight
            continue
        described = {"kind": "dit", "arguments": ARGUMENTS | {name: value}, "provenance": {}}
        header["__metadata__"]["fmtutorial"] = json.dumps(described)
        put(tmp_path / "spoiled", header, tensors)
        assert refused(load_weights, tmp_path / "spoiled"), (name, value)
