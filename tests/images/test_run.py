"""Runs that are broken off in every way and go on, bit for bit; two processes that are one."""

import dataclasses
import hashlib
import io
import itertools
import math
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fmtutorial
from fmtutorial.checkpoints import MARK, load_checkpoint, save_checkpoint
from fmtutorial.images import run as runs
from fmtutorial.images.command import main
from fmtutorial.images.data import Digits, small_digits
from fmtutorial.images.devices import PRECISIONS
from fmtutorial.images.run import Run, Settings, join, steps_within

CPU = torch.device("cpu")
SMALL = Settings(data="small", width=8, steps=8, batch=6, warm_up=2)


@pytest.fixture(scope="module")
def digits():
    return small_digits()


@pytest.fixture(autouse=True)
def one_thread():
    """A sum by several threads is another sum in its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flat(state, name=""):
    """Tensors and plain values of nested dictionaries and lists, by their path."""
    if isinstance(state, dict | list):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in pairs for k, v in flat(value, f"{name}/{key}").items()}
    return {name: state}


def different(a, b, but=("/seconds",)):
    """Names of what two checkpoints do not have in common, to the last bit."""
    a, b = flat(a), flat(b)
    assert set(a) == set(b)
    return [
        name
        for name, value in a.items()
        if name not in but
        and not (torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name])
    ]


def saved(run, path):
    run.save(path)
    return load_checkpoint(path)


# In one process.


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"precision": "bfloat16"},
        {"network": "dit", "pairing": "optimal-per-class", "times": "uniform"},
        {"checkpointing": True, "seed": 3},
    ],
    ids=str,
)
def test_a_resumed_run_is_the_unbroken_one(digits, tmp_path, change):
    """Weights, average, moments of AdamW and counters; torch's own generator plays no part."""
    settings = dataclasses.replace(SMALL, **change)
    if settings.network == "dit":
        settings = dataclasses.replace(settings, width=16)
    whole = Run(settings, CPU)
    steps = list(whole.steps(digits))
    assert [step.number for step in steps] == list(range(1, 9)) and whole.done == 8

    broken, path = Run(settings, CPU), tmp_path / "checkpoint.pt"
    found = list(itertools.islice(broken.steps(digits), 3))
    broken.save(path)
    torch.manual_seed(77)
    again = Run.load(path, CPU)
    assert again.settings == settings and again.done == 3 and again.ema.updates == 3
    assert again.seconds == broken.seconds > 0
    found += list(itertools.islice(again.steps(digits), 2))
    again.save(path)  # and once more
    again = Run.load(path, CPU)
    found += list(again.steps(digits))
    assert found == steps
    assert again.seconds > broken.seconds
    assert different(saved(whole, tmp_path / "a"), saved(again, tmp_path / "b")) == []
    assert list(again.steps(digits)) == []


def test_a_checkpoint_keeps_the_scaler_of_float16(tmp_path):
    run = Run(dataclasses.replace(SMALL, precision="float16"), CPU)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 7})
    state = saved(run, tmp_path / "a")["scaler"]
    assert (state["scale"], state["_growth_tracker"]) == (512.0, 7)
    again = Run.load(tmp_path / "a", CPU)
    assert again.scaler.is_enabled() and again.scaler.get_scale() == 512.0
    assert not Run(SMALL, CPU).scaler.is_enabled()


def test_every_setting_comes_back(tmp_path):
    settings = Settings(
        *("small", "dit", 16, 7, 5, 0.25, 3, 4.0, 0.5, "optimal", "uniform", 0.75, "bfloat16"),
        *(True, True, 9, 32, None, (3, 32, 32), 4),
    )
    default = dataclasses.asdict(Settings())
    changed = {k: v for k, v in dataclasses.asdict(settings).items() if k != "levels"}
    assert all(value != default[name] for name, value in changed.items())
    run = Run(settings, CPU)
    run.save(tmp_path / "a")
    again = Run.load(tmp_path / "a", CPU)
    assert again.settings == settings
    assert again.ema.decay == 0.5 and again.network.checkpointing


def test_settings_build_the_network():
    assert Settings().arguments == {"labels": 10}
    assert Settings(width=8).arguments == {"labels": 10, "width": 8}
    other = Settings(levels=3, image_shape=[3, 20, 30], classes=0)
    assert other.arguments == {"labels": 0, "levels": 3, "image_shape": (3, 20, 30)}
    for network, kind in (("unet", "UNet"), ("dit", "DiT")):
        run = Run(Settings(network=network, width=16), CPU)
        assert type(run.network).__name__ == kind
        # ten classes, and a row for no label
        assert run.network.embed.label.num_embeddings == 11


def test_settings_reach_the_training(digits):
    """Rates, clipping and decay, seen from outside.

    After one step AdamW's first moment is (1 − 0.9) times the gradient, which is cut to a length.
    """
    settings = dataclasses.replace(
        SMALL, learning_rate=0.25, steps=10, warm_up=3, max_gradient_norm=1e-3, ema_decay=0.3
    )
    run = Run(settings, CPU)
    before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    rates = [next(run.steps(digits)).learning_rate]
    moments = [run.optimizer.state[p]["exp_avg"] for p in run.network.parameters()]
    length = math.sqrt(sum(m.square().sum().item() for m in moments))
    assert length == pytest.approx(0.1 * 1e-3, rel=1e-3)
    # a network that begins at 0 has a gradient in its last layers only; weights do not decay
    after = dict(run.network.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("leave", "beside")) for name in changed)
    rates += [step.learning_rate for step in run.steps(digits)]
    cosine = [0.125 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    warm = [0.25, 0.5, 0.75, *[1] * 7]
    assert rates == pytest.approx([a * b for a, b in zip(cosine, warm, strict=True)])
    assert run.ema.decay == 0.3 and run.ema.updates == 10


def test_a_run_learns(digits):
    """Its loss is near 1 + E x² = 1.9 at the start; 60 steps on 16 digits almost halve it."""
    few = Digits(digits.images[:16], digits.labels[:16])
    settings = dataclasses.replace(SMALL, batch=16, steps=60, learning_rate=0.01, ema_decay=0.9)
    run = Run(settings, CPU)
    losses = [step.loss for step in run.steps(few)]
    assert losses[0] == pytest.approx(1.9, abs=0.1)
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    # the average is a network too, near the last
    distance = sum(
        (a - b).square().sum()
        for a, b in zip(run.ema.network.parameters(), run.network.parameters(), strict=True)
    ).sqrt()
    size = sum(p.square().sum() for p in run.network.parameters()).sqrt()
    assert 0 < distance < 0.2 * size


def test_seed_decides_the_start(digits):
    a, b, c = (
        Run(dataclasses.replace(SMALL, seed=seed), CPU).network.state_dict() for seed in (1, 1, 2)
    )
    assert different(a, b) == [] and "/enter.weight" in different(a, c)


def test_seed_decides_the_batches(digits):
    """A network that starts at 0 shows the batch alone in its first loss."""
    losses = [
        next(Run(dataclasses.replace(SMALL, seed=s), CPU).steps(digits)).loss for s in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_settings_reach_the_batches(digits, monkeypatch):
    seen = []

    def spy(digits, step, **options):
        seen.append((step, options))
        return original(digits, step, **options)

    original = runs.digit_batch
    monkeypatch.setattr(runs, "digit_batch", spy)
    settings = dataclasses.replace(
        SMALL, pairing="optimal", times="uniform", label_dropout=0.5, seed=4, steps=2
    )
    list(Run(settings, CPU).steps(digits))
    wanted = {
        "size": 6, "seed": 4, "pairing": "optimal", "times": "uniform", "label_dropout": 0.5,
        "classes": 10,
    }  # fmt: skip
    assert seen == [(0, wanted), (1, wanted)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_has_its_precision_and_its_share(digits, monkeypatch, precision):
    """The network runs under autocast, and process 1 of 3 sees a third of the batch."""
    wrapped, seen = [], []
    monkeypatch.setattr(runs, "DistributedDataParallel", lambda field: wrapped.append(1) or field)
    run = Run(dataclasses.replace(SMALL, precision=precision), CPU)
    run.network.leave.register_forward_hook(  # what goes beside it keeps the precision of x
        lambda network, inputs, output: seen.append((len(inputs[0]), output.dtype))
    )
    next(run.steps(digits, (1, 3)))
    assert wrapped == [1]
    next(run.steps(digits))
    assert wrapped == [1]
    assert seen == [(2, PRECISIONS[precision]), (6, PRECISIONS[precision])]
    with pytest.raises(ValueError, match="a batch of 6 cannot be shared by 4 devices"):
        next(run.steps(digits, (0, 4)))


def test_wrong_runs_are_refused(digits):
    with pytest.raises(ValueError, match="a batch of 1001 images cannot be drawn from 1000"):
        next(Run(dataclasses.replace(SMALL, batch=1001), CPU).steps(digits))
    run = Run(SMALL, CPU)
    with torch.no_grad():
        run.network.leave[2].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1 of 8"):
        next(run.steps(digits))


# Checkpoints that are none.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    Run(SMALL, CPU).save(path)
    return path


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*none.pt"):
        Run.load(tmp_path / "none.pt", CPU)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path, keep):
    data, path = checkpoint.read_bytes(), tmp_path / "cut.pt"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(ValueError, match="cut.pt is not a checkpoint"):
        Run.load(path, CPU)


FOREIGN = {
    "empty": {},
    "number": 3,
    "list": [1, 2],
    "tensor": torch.zeros(3),
    "None": None,
    "weights": torch.nn.Linear(2, 2).state_dict(),
}


@pytest.mark.parametrize("state", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_checkpoint_is_refused(tmp_path, state):
    content = io.BytesIO()
    torch.save(state, content)  # save_checkpoint takes dictionaries only
    digest = hashlib.sha256(content.getvalue()).digest()
    (tmp_path / "foreign.pt").write_bytes(content.getvalue() + MARK + digest)
    with pytest.raises(ValueError, match="foreign.pt is not the checkpoint of a run"):
        Run.load(tmp_path / "foreign.pt", CPU)


def test_text_is_no_checkpoint(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="text.pt is not a checkpoint"):
        Run.load(tmp_path / "text.pt", CPU)


def other_settings(state, **change):
    return state | {"settings": state["settings"] | change}


CHANGES = {
    "unknown setting": lambda s: other_settings(s, momentum=0.9),
    "other width": lambda s: other_settings(s, width=12),
    "other network": lambda s: other_settings(s, network="dit"),
    "unknown network": lambda s: other_settings(s, network="vit"),
    "wrong decay": lambda s: other_settings(s, ema_decay=2.0),
    "settings of text": lambda s: s | {"settings": "small"},
    "optimizer of another": lambda s: s | {"optimizer": {"state": {}, "param_groups": []}},
    **{
        f"no {name}": lambda s, name=name: {k: v for k, v in s.items() if k != name}
        for name in ("network", "average", "optimizer", "scaler", "updates", "done", "seconds")
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint, tmp_path, change):
    save_checkpoint(tmp_path / "changed.pt", change(load_checkpoint(checkpoint)))
    with pytest.raises(ValueError, match="changed.pt is not the checkpoint of a run"):
        Run.load(tmp_path / "changed.pt", CPU)


# How many steps fit into a time.


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by the seconds of each step only; the first four are slow."""
    now = [100.0]
    taken = []

    def steps(run, digits, shard=(0, 1)):
        for number in range(1, run.settings.steps + 1):
            now[0] += 30 if number <= 4 else 0.5
            taken.append((number, shard))
            yield number

    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Run, "steps", steps)
    return taken


def test_steps_within_a_time_of_half_seconds(digits, clock):
    """Warming up does not count; and a run of one step is not mistaken for a limit."""
    settings = dataclasses.replace(SMALL, steps=1)
    assert steps_within(10, settings, digits) == 1200
    assert clock == [(n, (0, 1)) for n in range(1, 13)]
    assert steps_within(0.1, settings, digits) == 12
    assert steps_within(1e-6, settings, digits) == 1


def test_all_processes_take_the_steps_of_the_first(digits, clock, monkeypatch):
    def from_the_first(answer):
        asked.append(list(answer))
        answer[0] = 77

    asked = []
    monkeypatch.setattr(runs.dist, "broadcast_object_list", from_the_first)
    assert steps_within(1, SMALL, digits, (1, 2)) == 77
    assert asked == [[120]] and clock[-1] == (12, (1, 2))
    assert steps_within(1, SMALL, digits) == 120


def test_steps_within_takes_real_steps(digits):
    """Of a few milliseconds each: within a factor of 10 of a time taken here."""
    settings = dataclasses.replace(SMALL, steps=6)
    run = Run(settings, CPU)
    list(run.steps(digits))
    found = steps_within(0.05, settings, digits)
    assert 0.1 < found * run.seconds / 6 / 3 < 10


# Several processes.


def test_joining_without_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(CPU) == (CPU, (0, 1))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(CPU) == (CPU, (0, 1))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_joining_others(kind, monkeypatch):
    calls = []
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(runs.dist, "init_process_group", lambda backend: calls.append(backend))
    monkeypatch.setattr(runs.dist, "get_rank", lambda: 3)
    monkeypatch.setattr(runs.dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device))
    device, shard = join(torch.device(kind))
    assert shard == (3, 4)
    if kind == "cpu":
        assert device == CPU and calls == ["gloo"]
    else:
        own = torch.device("cuda", 2)
        assert device == own and calls == [own, "nccl"]


ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(fmtutorial.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "CUDA_VISIBLE_DEVICES": "",
}


def arguments(out, steps, *more):
    plain = f"train --data small --width 8 --batch 6 --steps {steps} --device cpu --warm-up 2"
    return [*plain.split(), "--precision", "float32", "--out", str(out), *map(str, more)]


def test_two_processes_do_what_one_does(tmp_path):
    """Weights, average, AdamW's first moment (a sum of gradients), up to the order of float32 sums.

    Sums of thousands of terms in another order differ by 1e-6 or so of the largest gradient;
    AdamW divides by its size, so where a gradient is small the way differs by that share. Six
    steps of 2e-3 cannot be off by more than a thousandth of them.
    """
    more = ("--max-gradient-norm", 1e9)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--standalone", "-m", "fmtutorial.images", *arguments(tmp_path / "two", 6, *more)]
    two = subprocess.run(
        command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Weights in") == 1
    main(arguments(tmp_path / "one", 6, *more))
    one, two = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("one", "two"))
    assert one["done"] == two["done"] == 6 and one["settings"] == two["settings"]
    for part in ("network", "average"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=0, atol=6 * 2e-3 / 1000)
    largest = max(s["exp_avg"].abs().max() for s in one["optimizer"]["state"].values())
    for key, state in one["optimizer"]["state"].items():
        torch.testing.assert_close(
            two["optimizer"]["state"][key]["exp_avg"], state["exp_avg"],
            rtol=0, atol=1e-5 * largest.item(),
        )  # fmt: skip
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))


def test_a_killed_run_and_a_full_disk(tmp_path):
    """Killed at a random moment; resumed where no file may grow to half a checkpoint; resumed.

    Each time the checkpoint of before is there, whole, and the end is that of an unbroken run.
    """
    steps, path = 150, tmp_path / "run" / "checkpoint.pt"
    start = [sys.executable, "-m", "fmtutorial.images"]
    often = ("--save-every", 5, "--sample-every", 10_000)
    process = subprocess.Popen(
        [*start, *arguments(path.parent, steps, *often)],
        env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        wait = random.uniform(0, 0.2)
        time.sleep(wait)
    finally:
        process.kill()
    assert process.wait() == -9, "it had ended before"
    done = load_checkpoint(path)["done"]
    assert 5 <= done < steps and done % 5 == 0, f"killed {wait} s after its first checkpoint"

    before = path.read_bytes()
    limit = len(before) // 2
    full = subprocess.run(
        [*start, *arguments(path.parent, steps, "--resume", *often)],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert full.returncode == 1
    assert path.read_bytes() == before
    assert "Traceback" not in full.stderr, full.stderr
    # after the bar of progress
    assert "Error: " in full.stderr.splitlines()[-1]
    left = set(os.listdir(path.parent)) - {"checkpoint.pt"}
    assert len(left) <= 1, "more than what the killed process may have left behind"

    main(arguments(path.parent, steps, "--resume", *often))
    main(arguments(tmp_path / "whole", steps, *often))
    broken, whole = (
        load_checkpoint(p / "checkpoint.pt") for p in (path.parent, tmp_path / "whole")
    )
    assert different(broken, whole) == [], f"killed {wait} s after its first checkpoint"
    assert whole["done"] == steps
