"""A training run on digits: what it is made of, its checkpoints, and several devices.

Chapter 8.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from fmtutorial.checkpoints import load_checkpoint, save_checkpoint
from fmtutorial.images.batches import CLASSES, digit_batch, digit_loss
from fmtutorial.images.data import DATA, Digits
from fmtutorial.images.devices import PRECISIONS
from fmtutorial.images.weights import NETWORKS
from fmtutorial.training import EMA, TrainingStep, train


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run was started with; its checkpoint keeps them for whoever resumes.

    See ``python -m fmtutorial.images train --help`` for each of them.

    Raises:
        ValueError: an unknown name of data, network or precision.
    """

    data: str = "full"
    network: str = "unet"
    width: int | None = None
    steps: int = 12_000
    batch: int = 128
    learning_rate: float = 2e-3
    warm_up: int = 200
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.999
    pairing: str = "independent"
    times: str = "logit-normal"
    label_dropout: float = 0.1
    precision: str = "float32"
    compile: bool = False
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("data", DATA), ("network", NETWORKS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f'unknown {name} "{getattr(self, name)}"; choose from {", ".join(known)}'
                )

    @property
    def arguments(self) -> dict[str, Any]:
        """With which the network is built."""
        return {"labels": CLASSES} | ({} if self.width is None else {"width": self.width})


class Run:
    """A network in training, and everything else that a checkpoint has to hold.

    Which digits and which noise come next follows from the seed and the number of steps done.

    Args:
        settings: of the run.
        device: where to train.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.done, self.seconds = settings, 0, 0.0
        torch.manual_seed(settings.seed)
        network = NETWORKS[settings.network](
            **settings.arguments, checkpointing=settings.checkpointing
        )
        self.network = network.to(device, memory_format=torch.channels_last)
        self.ema = EMA(self.network, settings.ema_decay)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=0.0, fused=True)
        self.scaler = GradScaler(device.type, enabled=settings.precision == "float16")

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            OSError: the disk is full; the former checkpoint is still there.
        """
        state = {
            "network": self.network.state_dict(),
            "average": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is truncated, or not one of a run.
        """
        state = load_checkpoint(path)
        try:
            if not isinstance(state, dict):
                raise TypeError(f"it holds a {type(state).__name__}")
            run = cls(Settings(**state["settings"]), device)
            run.network.load_state_dict(state["network"])
            run.ema.network.load_state_dict(state["average"])
            run.optimizer.load_state_dict(state["optimizer"])
            run.scaler.load_state_dict(state["scaler"])
            run.ema.updates, run.done = state["updates"], state["done"]
            run.seconds = state["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} is not the checkpoint of a run: {error!r}") from error
        return run

    def steps(self, digits: Digits, shard: tuple[int, int] = (0, 1)) -> Iterator[TrainingStep]:
        """Take the steps that are left; a generator, one item a step.

        Args:
            digits: to train on, on the device of the run.
            shard: (r, n) for process r of n, each of which takes its part of every batch; the
                gradients are averaged over them.

        Raises:
            ValueError: the batch is larger than the digits, or cannot be shared equally.
            FloatingPointError: the loss is not finite.
        """
        s, field = self.settings, self.network
        if shard[1] > 1:
            field = DistributedDataParallel(field)
        if s.compile:
            field = torch.compile(field)
        batches = partial(
            digit_batch,
            digits,
            size=s.batch,
            seed=s.seed,
            pairing=s.pairing,
            times=s.times,
            label_dropout=s.label_dropout,
        )
        loss = digit_loss(field, batches, PRECISIONS[s.precision], self.done, shard)
        started = time.perf_counter() - self.seconds
        for step in train(
            self.network,
            loss,
            s.steps,
            s.learning_rate,
            self.ema,
            s.warm_up,
            s.max_gradient_norm,
            self.optimizer,
            self.scaler,
            self.done,
        ):
            self.done, self.seconds = step.number, time.perf_counter() - started
            yield step


def steps_within(
    minutes: float, settings: Settings, digits: Digits, shard: tuple[int, int] = (0, 1)
) -> int:
    """Return how many steps of a run fit into a time, by taking a few.

    Compiling is not counted. All processes of a run get the answer of the first.

    Args:
        minutes: the time.
        settings: of the run; its number of steps does not matter.
        digits: to train on, on the device of the run.
        shard: see ``Run.steps``.
    """
    run = Run(dataclasses.replace(settings, steps=1_000_000), digits.images.device)
    marks = [time.perf_counter() for _ in islice(run.steps(digits, shard), 12)]
    steps = max(1, round(60 * minutes * 8 / (marks[-1] - marks[3])))
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
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device, (dist.get_rank(), dist.get_world_size())
