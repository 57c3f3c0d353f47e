"""Labs, sheets and the commands of chapter 8 run on a device that is not the CPU.

It is pretended: see ``pretended.py``. Here every line of a lab runs, and few of them often;
`make device` runs them as a reader does, and their assertions hold.
"""

import os
import subprocess
import sys
from pathlib import Path

import pretended
import pretended_labs
import pytest
import torch
from pretended import NAME
from test_notebooks import LABS

from fmtutorial.images.weights import load_weights

TESTS = Path(__file__).resolve().parent
LONG = "LONG" in os.environ
RUN = [lab for lab in LABS if not lab.startswith("exercises/")]
"""The others have holes where a reader is to write."""

THREE = [RUN[i::3] for i in range(3)]
"""For each a process, since loading PyTorch takes longer than a lab."""


def ran(*arguments, folder, script="pretended_labs.py"):
    """Return what a run says; it is alone in its process, where the device plays "cuda"."""
    command = [sys.executable, TESTS / script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr + done.stdout


@pytest.mark.parametrize("labs", [[lab] for lab in RUN] if LONG else THREE, ids=", ".join)
def test_labs_run_on_a_device_that_is_not_the_cpu(labs, tmp_path):
    said = ran(*([] if LONG else ["--small"]), *labs, folder=tmp_path)
    assert all(f"==== {lab} has run" in said for lab in labs)


STEPS = 300 if LONG else 3
TRAIN = f"train --data small --width 8 --batch 8 --steps {STEPS} --sample-every {STEPS} --out run"
COMMANDS = [
    TRAIN,
    f"{TRAIN} --resume",
    f"{TRAIN}-two --pairing optimal-per-class --network dit --width 16",
    "sample --weights run/weights.safetensors --columns 1 --steps 2 --out made.png",
    *(
        f"sample --columns 1 --steps 3 --method {method} --guidance 2 --out made.gif"
        for method in ("euler", "heun", "rk4", "dpm", "ddpm", "renoise", "sde")
    ),
    "evaluate --data small --samples 20 --steps 2 --bits 2 --bits-steps 2 --out found.json",
]


@pytest.mark.parametrize("played", ["cuda", "mps"])
def test_commands_run_on_a_device_that_is_not_the_cpu(played, tmp_path):
    """CUDA is found, and as old as a T4 trains in float16; mps is named and has no float64."""
    commands = COMMANDS if played == "cuda" else [f"{c} --device {NAME}" for c in COMMANDS]
    ran(*(["--single"] if played == "mps" else []), "--command", *commands, folder=tmp_path)
    made = {path.name for path in tmp_path.rglob("*")}
    assert {"run", "run-two", "weights.safetensors", "made.png", "made.gif", "found.json"} <= made
    settings = load_weights(tmp_path / "run" / "weights.safetensors").provenance["settings"]
    assert settings["precision"] == ("float16" if played == "cuda" else "float32")


def test_the_device_plays_cuda(tmp_path):
    lab = tmp_path / "lab.py"
    lab.write_text(
        """
# %%
# the first cell is left out: raise
# %%
import torch
from fmtutorial.images.devices import fast_precision
from fmtutorial.labs import default_device, hardware
device = default_device()
assert device.type == "cuda" and torch.zeros(1, device=device).device.type == "cuda"
assert fast_precision(device) is torch.float16
assert torch.Generator("cuda").device.type == device.type
print("name", hardware(device)["device"])
""",
        encoding="utf-8",
    )
    assert f"name {NAME}" in ran(str(lab), folder=tmp_path)


def test_labs_run_where_nothing_is_pretended(tmp_path):
    """As on a GPU that is there."""
    lab = tmp_path / "lab.py"
    lab.write_text("# %%\nraise\n# %%\nimport sys\nassert 'pretended' not in sys.modules\n")
    assert f"==== {lab} has run" in ran(str(lab), folder=tmp_path, script="lab_runner.py")


PLANTED = {
    "tensor": "y = x + torch.ones(3, device='cpu')",
    "data": "import numpy as np\ny = x * torch.from_numpy(np.ones(3))",
    "drawing": "y = torch.randn(3, generator=torch.Generator())",
    "generator of the device": "y = torch.randn(3, device='cpu', generator=generator)",
    "default generator": "torch.set_default_device('cpu'); y = torch.rand(3, generator=generator)",
    "numpy": "y = x.numpy()",
    "matplotlib": "import matplotlib.pyplot as plt\nplt.figure().add_subplot().plot(x, x)",
    "network": "y = torch.nn.Linear(3, 1).to('cpu')(x)",
    "whole numbers": "y = torch.ones(3, 3, dtype=torch.int64) @ torch.arange(3)",
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_what_would_stop_on_a_gpu_stops_here(planted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "Generator", pretended.Generator)
    lab = tmp_path / "lab.py"
    start = 'device = torch.device("cuda")\ntorch.set_default_device(device)'
    cells = [
        "# %%",
        "# %%\nimport torch\n" + start,
        "# %%\ngenerator = torch.Generator(device).manual_seed(0)",
        "# %%\nx = torch.randn(3, generator=generator)",
        f"# %%\n{planted}",
    ]
    for small in (True, False):
        lab.write_text("\n".join(cells), encoding="utf-8")
        try:
            with pytest.raises((RuntimeError, TypeError)), pretended.Watch():
                pretended_labs.run(str(lab), small)
        finally:
            torch.set_default_device(None)
        assert "cell 5" in capsys.readouterr().err
        lab.write_text("\n".join(cells[:-1]), encoding="utf-8")
        with pretended.Watch():
            pretended_labs.run(str(lab), small)
        assert "has run" in capsys.readouterr().err
