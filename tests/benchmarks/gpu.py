"""What a GPU does: steps of training, their memory, samplers, all labs, emoji. Chapters 8 and 15.

    PYTHONPATH=. python tests/benchmarks/gpu.py FOLDER SECONDS

On CUDA only. First the times, with nothing beside them. Then every lab and every solved sheet: each
line few times, and then whole, as many as there is time for; beside them a training on the emoji.
FOLDER gets what the labs print and the emoji.
"""

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import torch
from mnist_time import SAMPLERS
from provenance import save
from your_own import TRAIN, command, draw, measure

from fmtutorial.images.cost import training_cost
from fmtutorial.images.data import ImageSet, small_digits
from fmtutorial.images.run import Run
from fmtutorial.images.sampling import evaluations, sample_digits
from fmtutorial.images.settings import Settings
from fmtutorial.images.weights import load_weights

ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda")
RUNS = {
    f"{precision}, {batch}": {"precision": precision, "batch": batch}
    for batch in (128, 1024)
    for precision in ("float32", "bfloat16", "float16")
}
RUNS["bfloat16, 1024, compiled"] = {"precision": "bfloat16", "batch": 1024, "compile": True}
WARM, STEPS = 30, 100
DIGITS = 1000
WORKERS = 12  # labs at a time
SHOWN = (375, 1500, 6000)
EMOJI = f"{TRAIN} --steps 6000".replace("--batch 32", "--batch 128")


def step_of_training(changes):
    """Time the steps of chapter 8's run, and see how much memory they take beside the images."""
    settings = Settings(steps=WARM + STEPS, **changes)
    digits = ImageSet(*(part.to(DEVICE) for part in small_digits("train")))
    # twice the thousand, for a batch of 1024
    digits = ImageSet(*(part.repeat(2, *[1] * (part.ndim - 1)) for part in digits))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps = Run(settings, DEVICE).steps(digits)
    for _ in islice(steps, WARM):
        pass
    marks = [time.perf_counter() for _ in steps]  # each waits for its loss
    taken = [1000 * (b - a) for a, b in zip(marks, marks[1:], strict=False)]
    cost = training_cost(settings)
    return {
        "batch": settings.batch,
        "milliseconds": statistics.median(taken),
        "mean_milliseconds": statistics.mean(taken),
        "tflop_per_second": cost.flops_per_image * settings.batch / statistics.median(taken) / 1e9,
        "peak_bytes": torch.cuda.max_memory_allocated() - before,
        "counted_bytes": cost.bytes,
    }


def sampler(weights, method, steps, seed):
    """Time 1000 digits in one batch, in float32 as PyTorch has it there: convolutions in TF32."""
    network = load_weights(weights).network.to(DEVICE, memory_format=torch.channels_last)
    labels, seconds = torch.arange(DIGITS, device=DEVICE) % 10, []
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for part in sample_digits(network, labels, method, steps, seed=seed, batch=DIGITS):
            part.cpu()
        seconds.append(time.perf_counter() - started)
    return {
        "evaluations": evaluations(method, steps),
        "milliseconds": 1000 * statistics.median(seconds[1:]) / DIGITS,
    }


def lab(folder, name, small, end):
    """Run a lab in a process of its own; return name, seconds, and its error or None."""
    mode, started = ["--small"] if small else [], time.perf_counter()
    words = [sys.executable, ROOT / "tests" / "lab_runner.py", *mode, name]
    path = folder / f"{name.replace('/', '-')}{'-small' if small else ''}.txt"
    with path.open("w") as file:
        try:
            left = max(end - time.perf_counter(), 1)
            done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, timeout=left)
        except subprocess.TimeoutExpired:
            return name, small, None, "no time was left"
    error = path.read_text().strip().splitlines()[-1] if done.returncode else None
    return name, small, round(time.perf_counter() - started), error


def emoji(folder):
    """Train with the command, as a reader would, and measure what comes out."""
    command([*EMOJI.split(), "--sample-every", str(SHOWN[0]), "--out", str(folder)])
    made, found = measure(folder)
    return {
        "command": f"python -m fmtutorial.images {EMOJI}",
        "minutes": made["minutes"],
        **found,
        "shown_steps": SHOWN,
        "picture": draw([folder / f"step-{step:06d}.png" for step in SHOWN]),
    }


def main(folder, seconds):
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU here")
    folder.mkdir(parents=True, exist_ok=True)
    started, results = time.perf_counter(), {"few_seeds_because": "a time needs no seed"}

    def keep(**new):
        results.update(new)
        save("gpu", results, [0], started, DEVICE)

    keep(training={name: step_of_training(changes) for name, changes in RUNS.items()})
    keep(digits=DIGITS, samplers={name: sampler(*how) for name, how in SAMPLERS.items()})
    print(json.dumps(results), flush=True)
    labs = ROOT / "notebooks"
    names = sorted(str(p.relative_to(labs).with_suffix("")) for p in labs.rglob("*.py"))
    names = [name for name in names if not name.startswith("exercises/")]  # they have holes
    names.sort(key=lambda name: name == "08-mnist")  # which trains in full
    taken, failed = {"small": {}, "whole": {}}, {}
    with ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as one:
        flow = one.submit(emoji, folder / "emoji")
        runs = [(name, small) for small in (True, False) for name in names]
        for done in as_completed([pool.submit(lab, folder, *r, started + seconds) for r in runs]):
            name, small, time_taken, error = done.result()
            print(name, small, time_taken, error, flush=True)
            if error:
                failed[f"{name}{', small' * small}"] = error
            else:
                taken["small" if small else "whole"][name] = time_taken
            keep(labs=taken, failed=failed, at_a_time=WORKERS)
        keep(emoji=flow.result())


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
