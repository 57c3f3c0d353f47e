"""Whatever is typed: it works, or ends in one line with a code other than 0, before any work.

To try another value, add it to the list of its option.
"""

import json
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from fmtutorial.images import command as module
from fmtutorial.images import evaluation, process
from fmtutorial.images.command import main
from fmtutorial.images.data import DATA, ImageSet
from fmtutorial.images.options import parse
from fmtutorial.images.weights import load_weights, save_weights
from fmtutorial.networks import UNet

TINY = {
    "train": "--data small --width 4 --steps 1 --batch 2 --device cpu --out run",
    "sample": "--columns 1 --steps 1 --device cpu --weights tiny",
    "evaluate": "--samples 20 --steps 1 --data small --device cpu --weights tiny",
}
"""Options with which a command takes a moment."""

ODD = ["", " ", "x", "None", "½", "1,5", "0x10", "1 2", "1\n2", "\udcff", "--", "-", "[1]", "\0"]
NOT_FINITE = ["nan", "inf", "-inf", "1e400", "-1e400"]
NO_WHOLE = [*ODD, *NOT_FINITE, "1.5", "1e3", "-1", "9" * 30, "9" * 400, "9" * 5000]
COUNT = [*NO_WHOLE, "0", "-0"]
SHARE = [*ODD, *NOT_FINITE, "-0.1", "-1", "1.1", "2", "1e300", "1" * 400]
SOURCE = [*ODD, "FULL", "full ", "é", "1", "a file", "tiny", "/dev/null", "x" * 300, "none.npy"]
NAME = [*ODD, "FULL", "unet,dit", "full ", "é", "1"]
DEVICE = [*ODD, "gpu", "cuda:99", "cuda:-1", "cuda:x", "cpu:7", "cpu:-1", "meta", "vulkan", "xla"]
if not torch.cuda.is_available():
    DEVICE += ["cuda", "cuda:0"]
NO_FOLDER = ["", " ", "a file", "a file/run", "/dev/null", "/dev/null/run", "x" * 300, "\0"]
NO_FILE = [
    *["", " ", "a folder", "/dev/null", "/dev/null/x"],
    "missing/{}",
    "a file/{}",
    "/proc/{}",
    "\0{}",
    "x" * 250 + "{}",
]
NO_PICTURE = [name.format("a.png") for name in NO_FILE]
NO_PICTURE += ["picture", "a.jpg", ".png", ".gif", "a.png/", "a.png ", "png", "é.webp"]

SHARED = {"--device": DEVICE, "--seed": [*NO_WHOLE, "2147483648"], "--precision": [*NAME, "int8"]}
SAMPLING = {
    "--method": [*NAME, "ode45", "HEUN"],
    "--steps": [*COUNT, "1001"],
    "--guidance": [*SHARE[:-4], "1e300", "101"],
    "--noise-level": [*SHARE[:-4], "1e300", "101"],
}
REFUSED = {
    "train": SHARED
    | {
        "--out": NO_FOLDER,
        "--budget": [*SHARE[:-4], "0", "0.0", "-0.0", "1e7", "1e300"],
        "--save-every": COUNT,
        "--sample-every": COUNT,
        "--data": SOURCE,
        "--network": NAME,
        "--width": [*COUNT, "1", "1025"],
        "--size": [*COUNT, "4097"],
        "--levels": [*COUNT, "1", "13"],
        "--plan": ["1"],
        "--steps": [*COUNT, "10000001"],
        "--batch": [*COUNT, "1000001"],
        "--learning-rate": [*SHARE[:-4], "0", "11", "1e300"],
        "--warm-up": NO_WHOLE,
        "--max-gradient-norm": [*SHARE[:-4], "0", "-0.0"],
        "--ema-decay": [*SHARE, "1"],
        "--pairing": [*NAME, "best"],
        "--times": [*NAME, "never"],
        "--label-dropout": SHARE,
        "--resume": ["1", "yes"],
        "--compile": ["1"],
        "--checkpointing": ["no"],
        "--fly": ["", "1"],
    },
    "sample": SHARED | SAMPLING | {"--out": NO_PICTURE, "--columns": [*COUNT, "1001"]},
    "evaluate": SHARED
    | SAMPLING
    | {
        "--out": [name.format("a.json") for name in NO_FILE],
        "--samples": [*COUNT, "19", "1000001"],
        "--data": SOURCE,
        "--bits": [*NO_WHOLE, "10001"],
        "--bits-steps": [*COUNT, "10001"],
        "--divergence": [*NAME, "trace"],
    },
}
"""Values that are refused before anything is read or made."""

LATER = {
    "train": {
        "--out": ["/proc/run", "/dev/fd/run"],
        "--batch": ["1001", "60000"],
        "--data": ["a folder"],
        "--levels": ["6", "3 --network dit"],
        "--resume": [None],
    },
    "sample": {
        "--weights": [
            "",
            " ",
            "x",
            "½",
            "1\n2",
            "\udcff",
            "a file",
            "a folder",
            "half",
            "/dev/zero",
            "x" * 300,
        ]
    },
    "evaluate": {
        "--weights": ["", "a file", "a folder", "half"],
        "--samples": ["20 --data full"],
        "--bits": ["1", "1001"],
        "--data": ["a folder", "emoji"],
    },
}
"""Values that are wrong beside what was read: files, the digits, the machine."""

FINE = {
    "train": {
        "--out": ["é ü 数", "new/and/deep", "a folder", "./x"],
        "--width": ["2", "+5"],
        "--size": ["5", "28"],
        "--levels": ["3"],
        "--data": ["emoji", "emoji --size 7 --levels 3"],
        "--batch": ["1", "1_0", "1000"],
        "--steps": ["2"],
        "--learning-rate": ["1e-9", "10"],
        "--warm-up": ["0", "10000000"],
        "--max-gradient-norm": ["1e-9", "1e300"],
        "--ema-decay": ["0", "0.9999"],
        "--label-dropout": ["0", "1", "1e-300"],
        "--seed": ["0", "2147483647"],
        "--precision": ["bfloat16", "float16", "auto"],
        "--save-every": ["10000000"],
        "--budget": ["1e-9"],
        "--pairing": ["optimal-per-class"],
        "--device": ["cpu:0"],
        "--checkpointing": [None],
    },
    "sample": {
        "--out": ["é 数.png", "a folder/b.PNG", "film.gif", "film.GIF", "x" * 200 + ".png"],
        "--guidance": ["0", "100", "3"],
        "--method": ["euler", "sde", "ddpm", "dpm", "adaptive"],
        "--noise-level": ["0", "1"],
        "--columns": ["3"],
        "--steps": ["2"],
        "--seed": ["2147483647"],
        "--precision": ["bfloat16"],
    },
    "evaluate": {
        "--out": ["found.json", "é 数", "a file"],
        "--samples": ["21"],
        "--bits": ["0", "2 --bits-steps 1"],
    },
}
"""Values with which a command works."""


def cases(table):
    return [
        pytest.param(command, option, value, id=f"{command} {option} {str(value)[:20]!r}")
        for command, options in table.items()
        for option, values in options.items()
        for value in values
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    save_weights(path, UNet(width=4, labels=10), "unet", {"width": 4, "labels": 10}, {})
    return path.read_bytes()


@pytest.fixture(autouse=True)
def place(weights, tmp_path, monkeypatch):
    """A folder to work in, with weights, half of them, a file and a folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("tiny", weights),
        ("half", weights[: len(weights) // 2]),
        ("a file", b"?"),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a folder").mkdir()
    return tmp_path


def words(command, option, value):
    given = [] if option is None else [option] if value is None else [f"{option}={value}"]
    if value and " --" in value:  # another option behind
        first, *others = value.split()
        given = [f"{option}={first}", *others]
    return [command, *TINY[command].split(), *given]


def refusal(arguments, capsys):
    """The code and the one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    code, line = stop.value.code, err
    if isinstance(code, str):  # Python prints it and ends with code 1
        assert err == ""
        code, line = 1, code + "\n"
    assert code != 0 and out == ""
    assert re.fullmatch(r"[^\n\r]{10,1100}\n", line) and "Traceback" not in line
    return code, line


def files(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.parametrize("command, option, value", cases(REFUSED))
def test_values_are_refused_before_any_work(command, option, value, place, capsys, monkeypatch):
    monkeypatch.setattr(module, "COMMANDS", {})
    before = files(place)
    code, line = refusal(words(command, option, value), capsys)
    assert code == 2 and re.match(rf"python -m fmtutorial.images( {command})?: error: ", line)
    assert option in line
    assert files(place) == before


@pytest.mark.parametrize("command, option, value", cases(LATER))
def test_what_does_not_fit_is_refused(command, option, value, place, capsys, monkeypatch):
    """Before a digit is drawn, and nothing but an empty folder is left."""
    monkeypatch.setattr(module, "generate", None)
    monkeypatch.setattr(evaluation, "sample_digits", None)
    if "full" in str(value):  # all of MNIST has few 5s: in order, 20 digits hold one of them
        images, labels = torch.zeros(10_000, 28, 28, dtype=torch.uint8), torch.arange(10_000) // 893
        test = ImageSet(images, labels.clamp(max=9))
        monkeypatch.setitem(DATA, "full", lambda split: test)
    before = files(place)
    code, line = refusal(words(command, option, value), capsys)
    assert code == 1 and re.match(r"\w+Error: ", line)
    assert set(files(place)) - set(before) <= {"run"}


@pytest.mark.filterwarnings("ignore:a Fréchet distance")  # of twenty digits
@pytest.mark.parametrize("command, option, value", cases(FINE))
def test_values_that_are_fine_work(command, option, value, place, monkeypatch):
    monkeypatch.setattr(evaluation, "digit_bits", lambda *_: torch.tensor([1.0, 2.0]))
    states = module.states
    quick = {"steps": 1} if command == "train" else {}  # the picture of a step
    monkeypatch.setattr(module, "states", lambda *a, **k: states(*a, **k | quick))
    main(words(command, option, value))
    made = set(files(place)) - {"tiny", "half", "a file", "a folder"}
    if command == "train":
        assert any(name.endswith("weights.safetensors") for name in made)
    elif command == "sample":
        (name,) = made
        with Image.open(name) as picture:
            assert picture.format == ("GIF" if name.lower().endswith("gif") else "PNG")
    elif option == "--out":
        assert json.loads((place / value).read_text())["options"]["samples"] == "20"
    assert not [name for name in made if "partial" in name or "lock" in name]


@pytest.mark.parametrize("command", REFUSED)
def test_every_option_is_tried(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    named = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    tried = set(REFUSED[command]) | set(LATER[command])
    assert named and named == tried - {"--fly"}


LETTERS = "0123456789.-+e_ naif/\\é\t'\"%{}$"


@pytest.mark.parametrize(
    "command, option, value", cases({c: dict.fromkeys(o, [0]) for c, o in REFUSED.items()})
)
def test_random_words_are_read_or_refused(command, option, value, capsys):
    """Twenty for each option, from its name on, of letters that numbers and paths are made of."""
    generator = random.Random(f"{command} {option}")
    for _ in range(20):
        word = "".join(generator.choices(LETTERS, k=generator.randint(0, 8)))
        try:
            parse(words(command, option, word))
        except SystemExit as stop:
            assert stop.code == 2
            assert re.fullmatch(r"[^\n\r]+\n", capsys.readouterr().err), word


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "fly",
        "--fly",
        "train extra",
        "sample --columns",
        "train --out a --out",
        "-1",
        "\0",
        "trai",
    ],
)
def test_no_command_is_one_line(arguments, capsys):
    code, _ = refusal(arguments.split(), capsys)
    assert code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts this memory")
@pytest.mark.parametrize("arguments", ["train --width 1024", "sample --columns 1000"])
def test_too_little_memory_is_one_line(arguments, place, monkeypatch, capsys):
    """With 100 MB left; a network of width 1024 takes a thousand, 10 000 digits in a layer 130."""
    monkeypatch.setattr(process, "free_memory", lambda: 10**8)
    command, option, value = arguments.split()
    code, line = refusal(words(command, option, value), capsys)
    assert code == 1 and line.startswith("MemoryError: there is not enough memory")


def test_what_is_printed_survives_every_terminal(place):
    """Whose letters are ASCII; a line of warning is one, and so is an error of a real process."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.path.dirname(os.path.dirname(module.__file__)) + "/.."}
    options = words("sample", "--out", "é 数.png") + ["--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "fmtutorial.images", *options],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Digits in \\xe9 \\u6570.png\n" and (place / "é 数.png").exists()
    assert load_weights("tiny")
