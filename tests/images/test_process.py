"""Signals, locks and limits of memory, mostly in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import fmtutorial
from fmtutorial.checkpoints import load_checkpoint
from fmtutorial.images import process as module
from fmtutorial.images.command import main
from fmtutorial.images.data import small_digits
from fmtutorial.images.process import Signals, Stopped, handle, handling, locked, within_memory
from fmtutorial.images.run import Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(fmtutorial.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "CUDA_VISIBLE_DEVICES": "",
}
TRAIN = "train --data small --width 8 --steps 100000 --batch 6 --device cpu --precision float32"
LONG = 120
"""Seconds after which a process hangs, on any machine."""


@pytest.fixture
def start():
    """Start a process of Python; those that are left are killed at the end."""
    started = []

    def start(*arguments, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *map(str, arguments)]
        started.append(subprocess.Popen(command, env=ENVIRONMENT, **pipes, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def read_until(words, stream):
    """Read a stream up to some words, which are missing if it ends before."""
    text = ""
    while words not in text and (letter := stream.read(1)):
        text += letter
    assert words in text, text


# Real runs.


def one_line_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert "\n" not in stop.value.code and "Traceback" not in capsys.readouterr().err
    return stop.value.code


def test_a_run_has_its_folder_alone_and_keeps_its_steps(start, tmp_path, capsys):
    """A fresh and a resumed run are refused beside it; signals in a row stop it with code 128 + n.

    The second signal comes while the first is being obeyed, perhaps within the checkpoint.
    """
    out = tmp_path / "a run"
    run = start("-m", "fmtutorial.images", *TRAIN.split(), "--out", out, "--save-every", 3)
    deadline = time.monotonic() + LONG
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    foreign = out / "weights.safetensors.partial-0123"
    foreign.write_text("of the run that is at work, for all one knows")
    for more in ([], ["--resume"]):
        message = one_line_of([*TRAIN.split(), "--out", out, *more], capsys)
        assert message.startswith("BlockingIOError: another run is at work in ")
    assert foreign.exists() and run.poll() is None
    foreign.unlink()
    run.send_signal(signal.SIGTERM)
    for _ in range(5):
        time.sleep(0.01)
        run.send_signal(signal.SIGINT)
    printed, errors = run.communicate(timeout=LONG)
    assert run.returncode == 128 + signal.SIGTERM
    assert printed.startswith("1000 images of 28×28 pixels") and printed.count("\n") == 1
    last = errors.splitlines()[-1]
    found = re.fullmatch(
        "stopped by SIGTERM after step (\\d+) of 100000; go on with: "
        f"python -m fmtutorial.images train --resume --out '{re.escape(str(out))}'",
        last,
    )
    assert found and "Traceback" not in errors, errors
    assert os.listdir(out) == ["checkpoint.pt"]
    again = Run.load(out / "checkpoint.pt", torch.device("cpu"))
    assert again.done == int(found[1]) >= 3
    assert next(again.steps(small_digits())).number == int(found[1]) + 1


def test_all_processes_of_a_run_stop_at_one_step(start, tmp_path):
    """A signal to one of two, not the first, which writes the checkpoint and speaks."""
    torchrun = "-m torch.distributed.run --nproc_per_node 2 --standalone -m fmtutorial.images"
    agent = start(*torchrun.split(), *TRAIN.split(), "--out", tmp_path)
    read_until("step/s", agent.stderr)
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(agent.pid)], text=True,
                            capture_output=True, check=True).stdout.splitlines()  # fmt: skip
    second = max(int(line.split()[0]) for line in listed if " train " in line)
    os.kill(second, signal.SIGTERM)
    _, errors = agent.communicate(timeout=LONG)
    (step,) = re.findall("stopped by SIGTERM after step (\\d+) of 100000; go on with", errors)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == int(step) >= 1
    # the rest is torchrun's: it reports the codes of both
    assert set(re.findall("exitcode *: (-?\\d+)", errors)) == {"143"}


def test_a_signal_while_measuring_is_one_line(start, tmp_path):
    options = "evaluate --data small --samples 1000000 --steps 1 --device cpu"
    process = start("-m", "fmtutorial.images", *options.split(), "--out", tmp_path / "found.json")
    read_until("digit/s", process.stderr)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    printed, errors = process.communicate(timeout=LONG)
    assert (process.returncode, printed) == (128 + signal.SIGINT, "")
    assert errors.splitlines()[-1] == "stopped by SIGINT" and "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_a_signal_while_modules_are_imported_is_one_line(start, tmp_path):
    """Python's option names each module when it is imported."""
    out = tmp_path / "digits.png"
    process = start("-X", "importtime", "-m", "fmtutorial.images", "sample", "--out", out)
    read_until("torch._utils", process.stderr)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=LONG)
    assert (process.returncode, printed) == (128 + signal.SIGINT, "")
    assert errors.endswith("stopped by SIGINT\n") and "Traceback" not in errors
    assert not out.exists()


# Locks.

HOLD = """
import sys, time
from pathlib import Path
from fmtutorial.images.process import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_neither_its_lock_nor_half_files(start, tmp_path):
    holder = start("-c", HOLD, tmp_path)
    read_until("locked", holder.stdout)
    for name in ("checkpoint.pt.partial-1a2b", "step-000004.png.partial-ffff", "partial-notes.txt"):
        (tmp_path / name).write_text("half")
    (tmp_path / "kept.partial-1").mkdir()
    with pytest.raises(BlockingIOError, match="another run is at work in"), locked(tmp_path):
        pass
    assert len(os.listdir(tmp_path)) == 5
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        kept = ["kept.partial-1", "partial-notes.txt"]
        assert sorted(os.listdir(tmp_path)) == [*kept, "run.lock"]
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    assert sorted(os.listdir(tmp_path)) == kept


def test_a_lock_is_not_taken_on_a_file_that_is_gone(tmp_path, monkeypatch):
    """Its owner removes it between our opening it and our locking it."""
    lock, seen = module.fcntl.flock, []

    def slow(file, how):
        if not seen:
            (tmp_path / "run.lock").unlink()
        seen.append(file)
        lock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", slow)
    with locked(tmp_path):
        assert len(seen) == 2 and (tmp_path / "run.lock").exists()
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", none)
    with locked(tmp_path):
        assert os.listdir(tmp_path) == ["run.lock"]
    assert os.listdir(tmp_path) == []


def test_without_fcntl_the_lock_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fcntl", None)
    with locked(tmp_path):
        with pytest.raises(BlockingIOError, match="if there is none, delete .*run.lock"):
            with locked(tmp_path):
                pass
        assert os.listdir(tmp_path) == ["run.lock"]
    assert os.listdir(tmp_path) == []


# Handlers.


def test_handlers_come_back_and_ignored_signals_stay_ignored():
    def note(number, frame):
        seen.append(number)

    seen, before = [], signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(note):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert seen == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_another_thread_leaves_the_handlers_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(handle(signal.SIG_IGN)))
    thread.start()
    thread.join()
    assert found == [{}] and signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_only_the_first_signal_counts():
    signals = Signals()
    with handling(signals.handle):
        with pytest.raises(Stopped, match="^stopped by SIGTERM$") as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.number == signals.first == signal.SIGTERM
    signals = Signals()
    signals.wait = True
    with handling(signals.handle):
        os.kill(os.getpid(), signal.SIGINT)
    assert signals.first == signal.SIGINT


# Memory.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts this memory")
def test_more_memory_than_is_free_is_an_error(monkeypatch):
    """And what is free is: half of it, which is not touched."""
    limits = module.resource.getrlimit(module.resource.RLIMIT_DATA)
    with within_memory():
        free = module.free_memory()
        torch.empty(free // 2, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(2 * free, dtype=torch.uint8)
    assert module.resource.getrlimit(module.resource.RLIMIT_DATA) == limits
    monkeypatch.setattr(module, "free_memory", lambda: None)
    with within_memory():
        assert module.resource.getrlimit(module.resource.RLIMIT_DATA) == limits
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= pages + 1024 * module._kilobytes("/proc/meminfo")["SwapTotal"]
