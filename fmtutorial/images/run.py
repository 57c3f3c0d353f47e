"""A training run on images: what it is made of, its checkpoints, and several devices.

Chapter 8.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from fmtutorial.checkpoints import check_form, load_checkpoint, save_checkpoint
from fmtutorial.fields import check_kind, check_number
from fmtutorial.images.batches import check_shard, digit_batch, digit_loss
from fmtutorial.images.data import ImageSet
from fmtutorial.images.devices import PRECISIONS, check_device
from fmtutorial.images.settings import MOST_STEPS, Settings, check_fits
from fmtutorial.images.weights import NETWORKS
from fmtutorial.training import EMA, TrainingStep, train


class Run:
    """A network in training, and everything else that a checkpoint has to hold.

    Which digits and which noise come next follows from the seed and the number of steps done.

    Args:
        settings: of the run.
        device: where to train.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        check_kind(settings, Settings, "settings")
        check_kind(device, torch.device, "device")
        self.settings, self.done, self.seconds = settings, 0, 0.0
        torch.manual_seed(settings.seed)
        network = NETWORKS[settings.network](
            **settings.arguments, checkpointing=settings.checkpointing
        )
        self.network = network.to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.network, settings.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=0.0, fused=True
        )
        self.scaler = GradScaler(device.type, enabled=settings.precision == "float16")

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all; the settings say what it does not hold.

        Raises:
            OSError: the disk is full; the former checkpoint is still there.
        """
        state = {
            "network": dict(self.network.state_dict()),
            "average": dict(self.ema.network.state_dict()),
            "optimizer": {"state": self.optimizer.state_dict()["state"]},
            "scaler": self.scaler.state_dict(),
            "updates": self.ema.updates,
            "done": self.done,
            "seconds": self.seconds,
            "settings": dataclasses.asdict(self.settings),
        }
        save_checkpoint(path, state)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "Run":
        """Return the run that a checkpoint holds, to go on with.

        Nothing is built before all that it holds is what its settings ask for.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is truncated, damaged, or not one of a run.
        """
        check_device(device)
        state = load_checkpoint(path)
        try:
            settings = settings_of(state, device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is not the checkpoint of a run: {error}") from error
        run = cls(settings, device)
        run.network.load_state_dict(state["network"])
        run.ema.network.load_state_dict(state["average"])
        run.scaler.load_state_dict(state["scaler"])
        moments = state["optimizer"]["state"]
        for i, p in enumerate(run.network.parameters() if moments else ()):
            # in the layout of the parameter, which a fused step takes for granted
            run.optimizer.state[p] = {k: torch.empty_like(p).copy_(moments[i][k]) for k in MOMENTS}
            run.optimizer.state[p]["step"] = moments[i]["step"].to(device)
        run.ema.updates, run.done = state["updates"], state["done"]
        run.seconds = state["seconds"]
        return run

    def steps(self, digits: ImageSet, shard: tuple[int, int] = (0, 1)) -> Iterator[TrainingStep]:
        """Take the steps that are left; a generator, one item a step.

        Args:
            digits: to train on, on the device of the run.
            shard: (r, n) for process r of n, each of which takes its part of every batch; the
                gradients are averaged over them.

        Raises:
            ValueError: the images have another shape or number of classes than the settings, or the
                batch is larger than their number, or cannot be shared equally.
            FloatingPointError: the loss is not finite.
        """
        check_shard(shard)
        s, field = self.settings, self.network
        check_fits(s, digits)
        if shard[1] > 1:
            field = DistributedDataParallel(field)
        if s.compile:
            field = torch.compile(field)
        if not s.classes:
            field = partial(lambda network, x, t, label: network(x, t), field)
        batches = partial(
            digit_batch,
            digits,
            size=s.batch,
            seed=s.seed,
            pairing=s.pairing,
            times=s.times,
            label_dropout=s.label_dropout,
            classes=s.classes,
        )
        loss = digit_loss(field, batches, PRECISIONS[s.precision], self.done, shard)
        started = time.perf_counter() - self.seconds
        for step in train(
            self.network,
            loss,
            s.steps,
            ema=self.ema,
            warm_up=s.warm_up,
            max_gradient_norm=s.max_gradient_norm,
            optimizer=self.optimizer,
            scaler=self.scaler,
            done=self.done,
        ):
            self.done, self.seconds = step.number, time.perf_counter() - started
            yield step


MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW: running means of the gradients and of their squares."""


def settings_of(state: object, device: torch.device) -> Settings:
    """Return the settings in a checkpoint, if all else in it belongs to a run with them.

    Args:
        state: what the file holds.
        device: where the run is to go on.

    Raises:
        TypeError: a setting is of another type.
        ValueError: something is missing, of another form, not finite or outside its range.
    """
    names, kept = {field.name for field in dataclasses.fields(Settings)}, None
    if type(state) is dict:
        kept = state.get("settings")
    if type(kept) is not dict or kept.keys() != names:
        raise ValueError("it holds no settings, or those of another version")
    settings = Settings(**kept)
    with torch.device("meta"):
        network = NETWORKS[settings.network](**settings.arguments)
    scaler = GradScaler(device.type, enabled=settings.precision == "float16")
    moment = {"step": torch.empty((), device="meta")}
    moments = {
        i: moment | dict.fromkeys(MOMENTS, p.data) for i, p in enumerate(network.parameters())
    }
    if state.get("optimizer") == {"state": {}}:  # before the first step that was not skipped
        moments = {}
    weights = dict(network.state_dict())
    expected = {
        "network": weights,
        "average": weights,
        "optimizer": {"state": moments},
        "scaler": scaler.state_dict(),
        "updates": 0,
        "done": 0,
        "seconds": 0.0,
        "settings": kept,
    }
    check_form(state, expected)
    done, found = state["done"], state["optimizer"]["state"].values()
    if not (0 <= done <= settings.steps and state["updates"] == done and state["seconds"] >= 0):
        raise ValueError(f"{done} steps done of {settings.steps}, {state['updates']} averaged")
    taken = {one["step"].item() for one in found} or {0.0}
    least = 0 if scaler.is_enabled() else done  # a scaler skips steps
    if len(taken) > 1 or not all(least <= n <= done and n.is_integer() for n in taken):
        raise ValueError(f"the optimizer took {sorted(taken)} steps, and the run {done}")
    if any(bool((one["exp_avg_sq"] < 0).any()) for one in found):
        raise ValueError("a mean of squares is negative")
    for name, value in scaler.state_dict().items():
        here = state["scaler"][name]
        inside = {"scale": here > 0, "_growth_tracker": 0 <= here < scaler.get_growth_interval()}
        if not inside.get(name, here == value):
            raise ValueError(f"the scaler's {name} is {here}")
    return settings


def seconds_per_step(
    settings: Settings, digits: ImageSet, shard: tuple[int, int] = (0, 1)
) -> float:
    """Return how long a step of a run takes, by taking twelve, of which the last eight count.

    Args:
        settings: of the run; its number of steps does not matter.
        digits: to train on, on the device of the run.
        shard: see ``Run.steps``.
    """
    check_kind(settings, Settings, "settings")
    check_kind(digits, ImageSet, "digits")
    run = Run(dataclasses.replace(settings, steps=1_000_000), digits.images.device)
    marks = [time.perf_counter() for _ in islice(run.steps(digits, shard), 12)]
    return (marks[-1] - marks[3]) / 8


def steps_within(
    minutes: float, settings: Settings, digits: ImageSet, shard: tuple[int, int] = (0, 1)
) -> int:
    """Return how many steps of a run fit into a time, by taking a few.

    Compiling is not counted. All processes of a run get the answer of the first.

    Args:
        minutes: the time.
        settings: of the run; its number of steps does not matter.
        digits: to train on, on the device of the run.
        shard: see ``Run.steps``.
    """
    check_number(minutes, "minutes", low=0, without_low=True)
    # of a clock that may stand still
    fit = 60 * minutes / max(seconds_per_step(settings, digits, shard), 1e-10)
    steps = round(min(max(1, fit), MOST_STEPS))
    if shard[1] > 1:
        answer = [steps]
        dist.broadcast_object_list(answer)
        steps = answer[0]
    return steps


def join(device: torch.device) -> tuple[torch.device, tuple[int, int]]:
    """Return this process's device and its shard, joining the others if torchrun started it.

    The processes meet over NCCL on GPUs, where each takes the one of its local rank, and over
    gloo elsewhere.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device, (0, 1)
    if device.type == "cuda":
        if "LOCAL_RANK" not in os.environ:
            raise ValueError("WORLD_SIZE is set without LOCAL_RANK: start with torchrun")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device, (dist.get_rank(), dist.get_world_size())


def largest(number: int, device: torch.device, shard: tuple[int, int]) -> int:
    """Return the largest of a number that each process of a run has, in all of them at once."""
    if shard[1] == 1:
        return number
    answer = torch.tensor(number, device=device)
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return int(answer)
