"""Every public function with every argument replaced, in turn, by every bad value of its kind.

A bad value must end in an error of the package that says so: a TypeError or ValueError, or a
FloatingPointError where a computation went non-finite, raised by a ``raise`` of the package and not
by PyTorch on the way. What is not finite may also show in the result; it must not vanish there.
A value that means the same in another type must give the same result.

``CALLS`` has a valid call of every public function; a new one without a line there fails. ``FINE``
lists the values that a kind calls bad and a function rightly takes.
"""

import ast
import importlib
import inspect
import itertools
import math
import pkgutil
import tempfile
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from test_structure import HIDDEN
from torch.utils._python_dispatch import TorchDispatchMode

import fmtutorial
from fmtutorial import checkpoints, discrete, metrics, paths, solvers, steering, tables, training
from fmtutorial.bridges import Bridge, ExactBridge
from fmtutorial.distributions import Gaussian, GaussianMixture, two_moons
from fmtutorial.exact import ExactField
from fmtutorial.images.batches import Batch
from fmtutorial.images.classifier import DigitClassifier
from fmtutorial.images.data import Digits, small_digits
from fmtutorial.images.run import Run
from fmtutorial.images.settings import Settings
from fmtutorial.manifolds import (
    GeodesicField,
    Rotations,
    Sphere,
    Torus,
    VonMisesFisher,
    WrappedField,
)
from fmtutorial.networks import MLP, DiT, MeanFlowMLP, UNet
from fmtutorial.paths import AffinePath

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

HOME = Path(fmtutorial.__file__).parent
PATH = AffinePath(paths.COSINE)
NAN, INF = math.nan, math.inf


# Kinds of arguments


class Argument(NamedTuple):
    """A good value and, by name, bad ones, ones that may show as not finite, and equal ones."""

    good: Any
    bad: dict[str, Any]
    shows: dict[str, Any] = {}
    same: dict[str, Any] = {}
    empty: Any = None
    """The value for a batch of no samples."""

    def but(self, *names: str, **more: Any) -> "Argument":
        """Without some of the bad values, and with others."""
        return self._replace(bad={k: v for k, v in self.bad.items() if k not in names} | more)


def tensor(x, dtype=torch.int64):
    """No tensor, or none of the right type."""
    return Argument(
        x,
        {
            **{"None": None, "text": "x", "number": 1.5, "list": x.tolist(), "array": x.numpy()},
            **{"other dtype": x.to(dtype), "bool": x.bool(), "complex": x.to(torch.complex64)},
            "sparse": x.to_sparse(),
        },
    )


def state(x):
    """One batch, of any event shape."""
    broken = x.clone()
    broken.view(-1)[0] = NAN
    endless = x.clone()
    endless.view(-1)[-1] = INF
    shows = {"nan": broken, "inf": endless}
    return tensor(x).but(scalar=x.flatten()[0])._replace(shows=shows, empty=x[:0])


def partner(x):
    """A batch whose shape another argument fixes."""
    more = {"fewer": x[:-1], "rank": x[..., None], "event": x[..., :1]}
    return state(x).but(**more)


def times(t, low=0.0, high=1.0):
    """Times (B,), which lie between two ends."""
    wrong = {"column": t[:, None], "scalar": t[0], "fewer": t[:-1], "nan": t * NAN, "inf": t + INF}
    outside = {"early": t * 0 + low - 0.5, "late": t * 0 + high + 0.5}
    return tensor(t).but(**wrong, **outside)._replace(same={"double": t.double()}, empty=t[:0])


def grid(t):
    wrong = {"matrix": t[:, None], "scalar": t[0], "one": t[:1], "none": t[:0], "nan": t * NAN}
    return (
        tensor(t)
        .but(**wrong, **{"inf": t / 0, "equal": 0 * t, "zigzag": t[[0, 2, 1, 3]]})
        ._replace(same={"double": t.double()})
    )


def count(n, least=1):
    types = {"None": None, "text": "3", "half": n + 0.5, "nan": NAN, "inf": INF, "bool": True}
    wrong = {"few": least - 1, "negative": -3, "huge": 10**30, "list": [n], "complex": 1j}
    return Argument(n, types | wrong, same={"numpy": np.int64(n)})


def number(x, low=-INF, high=INF, ends=()):
    """A number from ``low`` to ``high``; of ``ends`` those that are themselves outside."""
    types = {"None": None, "text": "x", "complex": 1j, "bool": True, "list": [x], "nan": NAN}
    types |= {"tensor": torch.tensor(x)}
    outside = {"below": low - 1, "above": high + 1, "inf": INF, "-inf": -INF, "huge": 10**400}
    outside |= {f"end {end}": end for end in ends}
    return Argument(x, types | outside, same={"double": np.float64(x), "single": np.float32(x)})


def name(word):
    return Argument(word, {"None": None, "unknown": "unknown", "number": 3, "list": [word]})


def text(words):
    return Argument(words, {"None": None, "number": 3, "bytes": b"x"})


def function(f):
    """A function, or one that returns nonsense."""
    returns = {
        "gives None": lambda *a, **k: None,
        "gives text": lambda *a, **k: "x",
        "gives integers": lambda *a, **k: f(*a, **k).long(),
        "gives an array": lambda *a, **k: f(*a, **k).detach().numpy(),
        "gives another shape": lambda *a, **k: f(*a, **k)[..., None],
    }
    shows = {"gives nan": lambda *a, **k: f(*a, **k) * NAN}
    return Argument(f, {"None": None, "text": "x", "number": 3} | returns, shows)


def generator():
    made = torch.Generator().manual_seed(0)
    return Argument(made, {"seed": 0, "text": "x", "numpy": np.random.default_rng(0)})


def labels(label, classes=None):
    wrong = {"fewer": label[:-1], "column": label[:, None]}
    if classes is not None:
        wrong |= {"too large": label + classes, "negative": label - classes - 1}
    found = tensor(label, torch.float32).but(**wrong)
    return found._replace(empty=label[:0])


def thing(good, **bad):
    """An object of a certain class."""
    return Argument(good, {"None": None, "text": "x", "number": 3, "object": object()} | bad)


def shape(sizes, length=None):
    wrong = {"None": None, "text": "ab", "number": 3, "zero": (0, *sizes[1:])}
    wrong |= {"negative": (-2, *sizes[1:]), "half": (1.5, *sizes[1:])}
    if length is not None:
        wrong |= {"short": sizes[:-1], "long": (*sizes, 4)}
    return Argument(sizes, wrong, same={"list": list(sizes)})


def flag(value):
    """True or False, which nobody gets wrong."""
    return Argument(value, {})


def file(path):
    return Argument(path, {"None": None, "number": 3.5, "list": [path]})


def optional(argument):
    return argument.but("None")


# What the calls are made of


def plane(seed=0, n=3):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def clock(n=3):
    return torch.linspace(0.2, 0.8, n)


def velocity(x, t):
    return -x


def labelled(x, t, label):
    return -x


def mean_velocity(x, start, end):
    return -x


def mlp(**options):
    torch.manual_seed(0)
    return MLP((2,), width=8, depth=1, **options)


def images(n=3, size=8):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(0))


@cache
def digits():
    return Digits(*(part[::20] for part in small_digits()))  # 50, five of each class


def some_digits():
    pictures, label = digits()
    wrong = {"pair": (None, None), "empty": Digits(pictures[:0], label[:0])}
    wrong |= {"fewer": Digits(pictures, label[:-1]), "text": Digits(pictures, "x")}
    wrong |= {"floating": Digits(pictures.float(), label)}
    wrong |= {"floating labels": Digits(pictures, label.float())}
    wrong |= {"flat": Digits(pictures.flatten(1), label)}
    return thing(digits(), **wrong)


def pixels(x):
    """Unsigned bytes, shape (N, height, width)."""
    found = tensor(x, torch.float32).but("bool", flat=x.flatten(1), one=x[0], rank=x[None, None])
    return found.but(long=x.long())._replace(empty=x[:0])


def three_sets():
    """Samples, training images and held-out images."""
    whole = digits().images
    names = ("samples", "train", "held_out")
    sets = {k: pixels(whole[10 * i : 10 * i + 10]) for i, k in enumerate(names)}
    return {k: a.but(one_alone=a.good[:1], other=a.good[:, :5]) for k, a in sets.items()}


def shard():
    return thing((0, 1), none=(0, 0), beyond=(1, 1), negative=(-1, 1), one=(0,), list=[0, 1])


NONSENSE = [f"gives {nonsense}" for nonsense in ("None", "text", "integers", "an array")]
NONSENSE += ["gives another shape"]


def pictures():
    """A folder of pictures."""
    place = folder() / "pictures"
    place.mkdir(exist_ok=True)
    for i, image in enumerate(digits().images[:3]):
        if not (place / f"{i}.png").exists():
            Image.fromarray(image.numpy()).save(place / f"{i}.png")
    return place


def image_batch(step):
    return Batch(images(2, 28), images(2, 28), clock(2), torch.tensor([0, 1]))


def settings(**other):
    return Settings(data="small", width=8, steps=2, batch=2, **other)


def solution():
    return solvers.solve(velocity, plane(), torch.linspace(0, 1, 4))


def some_solution():
    found = solution()
    return thing(found, states=found.states, pair=tuple(found)[:2])


def loss_of(network):
    return lambda: network(plane(), clock()).square().mean()


def column():
    return partner(torch.full((3, 1), 0.5)).but("event")


@cache
def folder():
    return Path(tempfile.mkdtemp())


def saved(write, name, *content):
    """A file that is there."""
    if not (folder() / name).exists():
        write(folder() / name, *content)
    return folder() / name


def at(field):
    """Call a field that a function has returned."""
    return field(plane(), clock())


def entered(context):
    with context as found:
        return found


def take(items):
    return list(itertools.islice(items, 2))


def path():
    return thing(PATH, schedule=paths.COSINE)


def schedule():
    return thing(paths.COSINE, path=PATH)


def sequence(n=3, size=3):
    """Tokens of two positions."""
    return torch.arange(2 * n).reshape(n, 2) * 2 % size


def tokens(x, size=3):
    """One batch of tokens below a size."""
    wrong = {"too large": x + size, "negative": x - size, "scalar": x[0, 0]}
    return tensor(x, torch.float32).but(int32=x.int(), **wrong)._replace(empty=x[:0])


def table(x):
    """For each token of a batch, and for each of the tokens there are."""
    wrong = {"nan": x * NAN, "inf": x * INF, "negative": -x, "double": 2 * x + 1, "rank": x[None]}
    return tensor(x).but(fewer=x[:-1], **wrong)._replace(empty=x[:0])


def posterior_of_three(x, t):
    return torch.full((*x.shape, 3), 1 / 3, device=x.device)


def rate_of_three(x, t):
    return discrete.uniform_path(3).rate(posterior_of_three(x, t), x, t)


def step_of_three(x, t, end):
    return posterior_of_three(x, t)


def law_of_three():
    law = torch.tensor([[0.3, 0.1, 0.1], [0.1, 0.1, 0.05], [0.05, 0.1, 0.1]])
    wrong = {"nan": law * NAN, "inf": law * INF, "negative": -law, "double": 2 * law}
    return tensor(law).but(smaller=law[:2, :2] * 2, oblong=law[:2] * 2, **wrong)


def token_path():
    return thing(discrete.uniform_path(3), affine=PATH)


def denoiser():
    return discrete.Denoiser(lambda x, t: x.unsqueeze(-1) * torch.ones(3), token_path().good)


def states_of_three():
    return torch.cartesian_prod(torch.arange(3), torch.arange(3))


def of_tokens():
    """Tokens and their times."""
    return {"x": tokens(sequence()), "t": times(clock())}


def with_posterior():
    return {"posterior": table(posterior_of_three(sequence(), None)), **of_tokens()}


def of_exact_rate():
    x = tokens(sequence())
    return {"on": exact_rate(), **of_tokens(), "x": x.but(rank=x.good[..., None].expand(3, 2, 2))}


def exact_rate():
    return discrete.ExactRate(discrete.uniform_path(3), law_of_three().good)


def of_token_loss():
    return {
        "model": thing(denoiser(), network=posterior_of_three),
        "x1": tokens(sequence()),
        "t": times(clock()),
        "generator": optional(generator()),
    }


def at_tokens(posterior):
    return posterior(sequence(), clock())


def ax():
    return thing(plt.figure().gca())


def device():
    return thing(torch.device("cpu"))


def precision():
    return thing(torch.float32, unknown="float32", whole=torch.int64)


def gaussian():
    return Gaussian(torch.zeros(2))


def mixture():
    return GaussianMixture(plane(n=4), torch.ones(4), torch.tensor([0.1, 0.2, 0.3, 0.4]))


def two_ends():
    return Gaussian(torch.zeros(2, 2))


def short_end():
    return Gaussian(torch.zeros(3))


def positive(x):
    return number(x, low=0, ends=(0,))


def class_labels(n=3, known=None):
    return labels(torch.arange(n) % 2, known)


def conditions():
    """Labels of a network that has been trained with any sort of them, and checks them itself."""
    return class_labels().but("other dtype", "bool", "complex", "sparse")._replace(empty=None)


def pair(*names):
    return {key: partner(plane(i)) for i, key in enumerate(names)}


def of_likelihood():
    return {"method": name("exact"), "probe": Argument(None, {"text": "x", "stray": plane()})}


def down():
    return grid(torch.linspace(1, 0, 4))


def up():
    return grid(torch.linspace(0, 1, 4))


def step():
    return function(solvers.euler)


def distances(first, second):
    return {first: event(plane()), second: event(plane(1, 4))._replace(empty=None)}


def costs():
    x = np.arange(9.0).reshape(3, 3) ** 2
    wrong = {"None": None, "text": "x", "number": 3, "list": x.tolist(), "complex": x * 1j}
    wrong |= {"tensor": torch.from_numpy(x), "flat": x[0], "wide": x[:2], "none": x[:0, :0]}
    return Argument(x, wrong | {"nan": x * NAN, "objects": x.astype(object)})


def matrix(n):
    """A cost."""
    return (
        event(torch.rand(n, n))
        .but("event", flat=torch.rand(3), rectangle=torch.rand(2, 3))
        ._replace(empty=torch.rand(0, 0))
    )


def event(x):
    """A batch whose event shape another argument or the object fixes."""
    return state(x).but(rank=x[..., None], event=x[..., :1])


def betas():
    return tensor(torch.linspace(0.01, 0.2, 10)).but(
        **{"nan": torch.full((3,), NAN), "zero": torch.zeros(3), "one": torch.ones(3)},
        **{"negative": -torch.ones(3), "none": torch.ones(0), "matrix": torch.full((2, 2), 0.1)},
    )


def wide():
    return torch.randn(4, 3)


def plane_anew(n):
    return torch.randn(n, 2)


def refused_nan(argument):
    """Where a result could not show what is not finite."""
    return argument._replace(bad=argument.bad | argument.shows, shows={})


def untimed(t):
    """Times of any interval."""
    return times(t).but("early", "late", "nan", "inf")._replace(shows={"nan": t * NAN})


def of_type(argument):
    """What must have the type of a network's weights."""
    double = {"double": argument.good.double()}
    return argument._replace(bad=argument.bad | double, same={})


def of_network(network, x, known):
    return {
        "on": network,
        "x": of_type(partner(x)),
        "t": of_type(untimed(clock())),
        "label": optional(class_labels(known=known)),
    }


def of_bridge(*names):
    return pair(*names) | {"t": times(clock()).but(start=0 * clock(), end=0 * clock() + 1)}


def share(n):
    """Weights that sum to 1."""
    w = torch.full((n,), 1 / n)
    return refused_nan(state(w)._replace(empty=None)).but(
        matrix=w[:, None], negative=w - 0.5, zero=torch.eye(n)[0], large=2 * w, fewer=w[:-1] * 1.5
    )


def of_path(*names):
    return pair(*names) | {"t": times(clock())}


def drawn(made):
    return made.sample(3, torch.Generator().manual_seed(0))


@cache
def a_run():
    return Run(settings(), torch.device("cpu"))


def stored():
    return next(HOME.glob("results/*.json")).stem


def of_training(network):
    return {
        "network": thing(network),
        "loss": refused_nan(function(loss_of(network))).but(constant=lambda: torch.tensor(1.0)),
        "steps": count(2),
        "learning_rate": optional(positive(0.1)),
        "ema": optional(thing(training.EMA(network))),
        "warm_up": count(1, 0),
        "max_gradient_norm": positive(1.0).but("inf", "above"),
        "optimizer": optional(thing(None, stray=torch.optim.SGD(MLP(width=8).parameters(), 0.1))),
        "scaler": optional(thing(None)),
        "done": count(0, 0).but(beyond=3),
        "then": take,
    }


def figure_text():
    return {"name": text("key"), "alt": text("What it shows.").but(empty=" ")}


def sampler():
    return {"method": name("heun"), "steps": count(3), "noise_level": number(1.0, low=0)}


def a_reward():
    return steering.QuadraticReward(plane()[0], 0.5)


def seen():
    """What is known of an event, and which entries."""
    known, mask = plane()[0], torch.tensor([True, True])
    return {
        "known": refused_nan(state(known)).but("scalar", rank=known[:, None])._replace(empty=None),
        "mask": tensor(mask).but("bool", rank=mask[:, None], fewer=mask[:1]),
    }


def of_adjoint():
    made = solvers.solve(velocity, plane(), torch.linspace(0.1, 0.9, 4))
    turned = made._replace(times=made.times.flip(0))
    return {
        "field": function(lambda x, t: -x),
        "path": path(),
        "solution": thing(
            made, states=made.states, last=made._replace(states=made.states[-1:])
        ).but(turned=turned),
    }


GLOBE = Sphere(2)
SPACES = {"Torus": Torus((1.0, 2.0)), "Sphere": GLOBE}


def globe(seed=0, n=3):
    return GLOBE.uniform(n, torch.Generator().manual_seed(seed))


def on(space, seed=0):
    """Points, which have their shape and lie where they lie."""
    x = space.uniform(3, torch.Generator().manual_seed(seed))
    return refused_nan(event(x)).but(off=x + 4)


def tangent_at(space):
    """A batch of tangent vectors at the points of ``on``."""
    x = space.uniform(3, torch.Generator().manual_seed(0))
    return partner(space.tangent(x, torch.ones_like(x)))


def vectors(space):
    return event(torch.ones(3, *space.event_shape))


def of_space(name, space):
    """The calls of what every space of its own gives."""
    keys = ["follow", "project", "shortest", "squared_norm", "tangent", "uniform", "volume_factor"]
    return {f"{name}.{key}": lambda key=key: {"on": space} | calls_on(space)[key] for key in keys}


def calls_on(space):
    motion = {"x": on(space), "v": tangent_at(space)}
    near = event(space.uniform(3, torch.Generator().manual_seed(0)))
    return {
        "follow": motion | {"t": untimed(clock())},
        "project": {"x": near},
        "shortest": {"x": on(space), "y": on(space, 1)},
        "squared_norm": {"v": vectors(space)},
        "tangent": {"x": near, "v": tangent_at(space)},
        "uniform": {"count": count(3, 0), "generator": generator()},
        "volume_factor": {"v": vectors(space)},
    }


UNITS = tables.Units(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))


def units_of(key):
    """Shift or scale of a table of two columns."""
    x = getattr(UNITS, key)
    wrong = {"rank": x[:, None], "scalar": x[0], "other": torch.ones(3)}
    return refused_nan(state(x)).but(**wrong)._replace(empty=None)


def some_rows():
    """A table of two columns, whose rows differ."""
    x = plane(n=9)
    wrong = {"rank": x[..., None], "vector": x[:, 0], "one": x[:1], "constant": 0 * x}
    return refused_nan(state(x)).but(**wrong)._replace(empty=None)


def manifold():
    return thing(GLOBE, torus_radii=(1.0, 2.0))


def globe_field():
    return function(lambda x, t: -x.flip(1))


def data_on(space):
    """A data set: any number of points."""
    return on(space)._replace(empty=None)


CALLS = {
    "assignment.assignment": lambda: {"cost": costs()},
    "assignment.cost_matrix": lambda: distances("x", "y"),
    "bridges.Bridge": lambda: {
        "sigma": positive(0.7),
        "schedule": schedule(),
    },
    "bridges.Bridge.conditional_score": lambda: {"on": Bridge(0.7), **of_bridge("x", "x0", "x1")},
    "bridges.Bridge.conditional_velocity": lambda: {
        "on": Bridge(0.7),
        **of_bridge("x", "x0", "x1"),
    },
    "bridges.Bridge.sample": lambda: {"on": Bridge(0.7), **of_bridge("x0", "x1", "noise")},
    "bridges.bridge_matching_loss": lambda: {
        "velocity": function(velocity),
        "score": function(velocity),
        "bridge": thing(Bridge(0.7), number=0.7),
        **of_bridge("x0", "x1", "noise"),
    },
    "bridges.draw_pairs": lambda: {
        "plan": refused_nan(matrix(3).but("rectangle"))
        ._replace(empty=None)
        .but(negative=-torch.ones(3, 3), none=torch.zeros(3, 3)),
        "n": count(5, 0),
        "generator": generator(),
    },
    "bridges.drifts": lambda: {
        "velocity": function(velocity),
        "score": function(velocity),
        "sigma": positive(0.7),
        "then": lambda made: [field(plane(), clock()) for field in made],
    },
    "bridges.solve_bridge": lambda: {
        "drift": function(velocity),
        "x": refused_nan(state(plane())),
        "times": up(),
        "sigma": positive(0.7),
        "generator": generator(),
        "last_only": flag(False),
    },
    "bridges.static_bridge": lambda: {
        "log_kernel": refused_nan(matrix(3))._replace(empty=None),
        "first": share(3),
        "last": share(3),
        "iterations": count(5),
    },
    "discrete.all_states": lambda: {
        "size": count(3, 2),
        "positions": count(2).but("negative"),
    },
    "discrete.check_probabilities": lambda: {
        "probabilities": table(posterior_of_three(sequence(), None)),
        "x": tokens(sequence()),
        "name": Argument("p", {}),
    },
    "discrete.check_rates": lambda: {
        "rates": table(rate_of_three(sequence(), clock())),
        "x": tokens(sequence()),
    },
    "discrete.check_tokens": lambda: {
        "x": tokens(sequence()),
        "size": count(3, 2),
        "name": Argument("x", {}),
    },
    "discrete.draw_tokens": lambda: {
        "probabilities": table(posterior_of_three(sequence(), None)).but("double", "rank", "fewer"),
        "generator": optional(generator()),
    },
    **{
        f"discrete.{name}": lambda: {
            "rate": function(rate_of_three),
            "x": tokens(sequence()),
            "t": times(clock()),
            "end": times(clock() + 0.1),
        }
        for name in ("euler_step", "leap_step")
    },
    "discrete.one_hot": lambda: {
        "x": tokens(sequence()),
        "like": tensor(torch.ones(2, 3)).but("number"),
    },
    "discrete.rate_matrix": lambda: {
        "rates": table(rate_of_three(states_of_three(), torch.zeros(9)))
        .but("rank")
        ._replace(empty=None),
    },
    "discrete.simulate": lambda: {
        "step": function(step_of_three),
        "x": tokens(sequence()).but(),
        "times": up(),
        "generator": optional(generator()),
    },
    "discrete.step_matrix": lambda: {
        "probabilities": table(posterior_of_three(states_of_three(), None))._replace(empty=None),
    },
    "checkpoints.as_path": lambda: {"path": file(folder() / "a")},
    "checkpoints.check_form": lambda: {
        "found": thing({"a": 1}, list=[1], other={"b": 1}, kind={"a": "x"}),
        "expected": Argument({"a": 1}, {}),
        "name": Argument("the state", {}),
    },
    "checkpoints.load_checkpoint": lambda: {
        "path": file(saved(checkpoints.save_checkpoint, "a.pt", {"a": 1}))
    },
    "checkpoints.save_checkpoint": lambda: {"path": file(folder() / "b.pt"), "state": thing({})},
    "checkpoints.writing": lambda: {"path": file(folder() / "c.pt"), "then": entered},
    "conventions.at_levels": lambda: {
        "model": function(velocity),
        "levels": count(1000),
        "whole_levels": flag(False),
        "then": at,
    },
    "conventions.ddpm_schedule": lambda: {
        "betas": betas(),
        "then": lambda made: made.sigma(clock()),
    },
    "conventions.from_ddpm": lambda: {
        "model": function(velocity),
        "betas": betas(),
        "whole_levels": flag(False),
        "then": lambda found: at(found[0]),
    },
    "conventions.from_diffusers": lambda: {
        "model": function(velocity),
        "train_timesteps": positive(1000.0),
        "then": at,
    },
    "conventions.from_v_prediction": lambda: {
        "model": function(velocity),
        "path": path(),
        "then": at,
    },
    "conventions.reverse_time": lambda: {"field": function(velocity), "then": at},
    "conventions.time_first": lambda: {"field": function(lambda t, x: -x), "then": at},
    "conventions.to_diffusers": lambda: {
        "field": function(velocity),
        "train_timesteps": positive(1000.0),
        "then": at,
    },
    "couplings.exact_ot": lambda: pair("x0", "x1"),
    "couplings.independent": lambda: pair("x0", "x1"),
    "couplings.sinkhorn": lambda: {
        **pair("x0", "x1"),
        "relative_epsilon": positive(0.1),
        "iterations": count(500),
    },
    "couplings.sinkhorn_kernel": lambda: {
        "cost": matrix(3).but("rectangle"),
        "epsilon": positive(1.0),
        "iterations": count(500),
    },
    "couplings.sinkhorn_log": lambda: {
        "cost": matrix(3).but("rectangle"),
        "epsilon": positive(1.0),
        "iterations": count(500),
    },
    "couplings.squared_distances": lambda: distances("x0", "x1"),
    "couplings.within_labels": lambda: {
        "coupling": function(lambda x0, x1: x0),
        **pair("x0", "x1"),
        "label": class_labels(),
    },
    "diffusion.as_velocity": lambda: {
        "network": function(velocity),
        "path": path(),
        "given": name("noise"),
        "then": at,
    },
    "diffusion.change_schedule": lambda: {
        "field": function(velocity),
        "path": path(),
        "wanted": thing(AffinePath(paths.LINEAR)),
        "then": at,
    },
    "diffusion.ddim": lambda: {
        "path": path(),
        "eta": number(0.5, 0, 1),
        "generator": generator(),
        "then": lambda made: solvers.solve(velocity, plane(), torch.linspace(0.1, 0.9, 4), made),
    },
    "diffusion.noise_prediction_loss": lambda: {
        "network": function(velocity),
        "path": path(),
        **pair("x0", "x1"),
        "t": times(clock()),
    },
    "diffusion.reversal_noise_level": lambda: {
        "schedule": schedule(),
        "then": lambda level: level(torch.tensor(0.5)),
    },
    "diffusion.solve_sde": lambda: {
        "last_only": flag(False),
        "field": function(velocity),
        "x": state(plane()),
        "times": grid(torch.linspace(0.1, 0.9, 4)),
        "path": path(),
        "noise_level": function(lambda t: 1 - t).but("gives integers"),
        "generator": generator(),
    },
    "discrete.TokenPath": lambda: {
        "source": tensor(torch.ones(3) / 3).but(
            negative=torch.tensor([1.5, -0.5]),
            double=torch.ones(3),
            one=torch.ones(1),
            none=torch.ones(0),
            rank=torch.ones(3, 3) / 3,
            nan=torch.ones(3) * NAN,
        ),
        "schedule": schedule(),
    },
    "discrete.TokenPath.check_data": lambda: {
        "on": discrete.uniform_path(3),
        "x1": tokens(sequence()),
    },
    **{
        f"discrete.TokenPath.{method}": lambda: {
            "on": discrete.uniform_path(3),
            **with_posterior(),
        }
        for method in ("corrector_rate", "rate")
    },
    "discrete.TokenPath.conditional_rate": lambda: {
        "on": discrete.uniform_path(3),
        "x1": tokens(sequence()).but(fewer=sequence()[:-1]),
        **of_tokens(),
    },
    "discrete.TokenPath.hazard": lambda: {
        "on": discrete.uniform_path(3),
        "t": times(clock()).but("column", "scalar", "fewer"),
    },
    "discrete.TokenPath.log_posterior": lambda: {
        "on": discrete.uniform_path(3),
        "logits": table(posterior_of_three(sequence(), None)).but("negative", "double"),
        "x": tokens(sequence()),
    },
    "discrete.TokenPath.noise": lambda: {
        "on": discrete.uniform_path(3),
        "like": tensor(torch.ones(2)).but("number"),
    },
    "discrete.TokenPath.sample": lambda: {
        "on": discrete.uniform_path(3),
        "x1": tokens(sequence()),
        "t": times(clock()),
        "generator": optional(generator()),
    },
    "discrete.TokenPath.step": lambda: {
        "on": discrete.uniform_path(3),
        "posterior": function(posterior_of_three),
        **of_tokens(),
        "end": times(clock() + 0.1),
    },
    **{
        f"discrete.{name}": lambda least=least: {"tokens": count(3, least), "schedule": schedule()}
        for name, least in (("masking_path", 1), ("uniform_path", 2))
    },
    "discrete.gillespie": lambda: {
        "posterior": function(posterior_of_three),
        "path": token_path(),
        "x": tokens(sequence()),
        "start": number(0.1, 0, 0.9, ends=(1,)),
        "end": number(0.9, 0.2, 1, ends=(1,)),
        "generator": optional(generator()),
    },
    "distribution_matching.distribution_matching_loss": lambda: {
        "x1": partner(plane()),
        "student": function(velocity),
        "target": function(lambda x, t: x),
        "path": path(),
        "t": times(clock()),
        "x0": partner(plane(1)),
        "normalised": flag(True),
    },
    "distribution_matching.kernel_drift": lambda: {
        "x": event(plane()),
        "data": event(plane(1, 4)).but(none=plane()[:0])._replace(empty=None),
        "own": event(plane(2, 5)).but(none=plane()[:0])._replace(empty=None),
        "width": positive(1.0),
    },
    "distribution_matching.renoise": lambda: {
        "path": path(),
        "bound": positive(1.0).but("inf", "above"),
        "generator": generator(),
        "then": lambda made: solvers.solve(velocity, plane(), torch.linspace(0.1, 0.9, 4), made),
    },
    "distributions.Gaussian": lambda: {
        "mean": state(plane()[0]).but("scalar")._replace(empty=None),
        "covariance": number(2.0, low=0).but("tensor"),
    },
    "distributions.Gaussian.log_prob": lambda: {"on": gaussian(), "x": event(plane())},
    "distributions.Gaussian.sample": lambda: {
        "on": gaussian(),
        "n": count(3, 0),
        "generator": generator(),
    },
    "distributions.Gaussian.score": lambda: {"on": gaussian(), "x": event(plane())},
    "distributions.GaussianMixture": lambda: {
        "means": state(plane()).but(fewer=plane()[:2], none=plane()[:0])._replace(empty=None),
        "covariances": partner(torch.ones(3))
        .but("event", negative=-torch.ones(3))
        ._replace(empty=None),
        "weights": optional(
            partner(torch.full((3,), 1 / 3)).but("event", sum=torch.ones(3), none=torch.zeros(3))
        )._replace(empty=None),
    },
    "manifolds.VonMisesFisher": lambda: {
        "means": data_on(GLOBE).but(none=globe()[:0]),
        "concentration": positive(2.0),
        "then": lambda made: made.log_prob(globe(1)),
    },
    "manifolds.VonMisesFisher.log_prob": lambda: {
        "on": VonMisesFisher(globe(), 2.0),
        "x": on(GLOBE),
    },
    "manifolds.VonMisesFisher.sample": lambda: {
        "on": VonMisesFisher(globe(), 2.0),
        "count": count(3, 0),
        "generator": generator(),
    },
    "manifolds.WrappedField": lambda: {
        "torus": thing(SPACES["Torus"], globe=GLOBE),
        "means": data_on(SPACES["Torus"]).but(none=torch.zeros(0, 2)),
        "std": positive(0.5),
        "then": lambda made: made(plane(), clock()),
    },
    **{
        f"manifolds.WrappedField.{method}": lambda: {
            "on": WrappedField(SPACES["Torus"], plane(), 0.5),
            "x": on(SPACES["Torus"]),
            "t": times(clock()).but(end=torch.ones(3)),
        }
        for method in ("__call__", "log_prob")
    },
    "labs.airports": lambda: {},
    "distributions.GaussianMixture.log_prob": lambda: {"on": mixture(), "x": event(plane())},
    "distributions.GaussianMixture.observe": lambda: {
        "on": mixture(),
        "x": event(plane()).but(fewer=plane()[:2]),
        "alpha": column(),
        "sigma": column(),
    },
    "distributions.GaussianMixture.sample": lambda: {
        "on": mixture(),
        "n": count(3, 0),
        "generator": generator(),
    },
    "distributions.GaussianMixture.score": lambda: {"on": mixture(), "x": event(plane())},
    "distributions.Samples": lambda: {
        "draw": function(lambda n, g: torch.randn(n, 2, generator=g)),
        "then": lambda made: made.sample(3),
    },
    "distributions.Samples.sample": lambda: {
        "on": two_moons(),
        "n": count(3, 0),
        "generator": generator(),
    },
    "distributions.checkerboard": lambda: {
        "then": drawn,
        "squares": count(4).but(odd=3),
        "width": positive(8.0),
    },
    "distributions.circles": lambda: {
        "then": drawn,
        "noise": number(0.1, low=0),
        "radii": shape((1.5, 3.0), 2).but("half", nan=(NAN, 1.0), text=("1", "2")),
    },
    "distributions.eight_gaussians": lambda: {
        "then": drawn,
        "radius": number(5.0, low=0),
        "std": number(0.5, low=0),
    },
    "distributions.ring_of_gaussians": lambda: {
        "then": drawn,
        "modes": count(5),
        "radius": number(5.0, low=0),
        "std": number(0.5, low=0),
    },
    "distributions.s_curve": lambda: {
        "then": drawn,
        "noise": number(0.1, low=0),
        "scale": positive(2.0),
    },
    "distributions.two_moons": lambda: {
        "then": drawn,
        "noise": number(0.1, low=0),
        "scale": positive(2.0),
    },
    "exact.ExactField": lambda: {
        "path": path(),
        "target": state(plane()).but(none=plane()[:0])._replace(shows={}, empty=None),
        "then": at,
    },
    **{
        f"exact.ExactField.{method}": lambda: {
            "on": ExactField(PATH, mixture()),
            "x": partner(plane()),
            "t": times(clock()),
        }
        for method in ("__call__", "log_prob", "posterior_mean", "score", "target_variance")
    },
    "bridges.ExactBridge": lambda: {
        "bridge": thing(Bridge(0.7), number=0.7),
        "ends": thing(two_ends(), tensor=plane(), one=short_end()),
    },
    **{
        f"bridges.ExactBridge.{method}": lambda: {
            "on": ExactBridge(Bridge(0.7), two_ends()),
            "x": event(plane()),
            "t": times(clock()),
        }
        for method in ("__call__", "drift", "log_prob", "score")
    },
    **{
        f"bridges.{name}": lambda: {
            "source": thing(gaussian(), mixture=mixture(), other=short_end()),
            "target": thing(gaussian(), mixture=mixture(), other=short_end()),
            "sigma": positive(0.7),
        }
        for name in ("gaussian_bridge_cost", "gaussian_ends")
    },
    "bridges.independent_ends": lambda: {
        "source": thing(gaussian(), tensor=plane(), other=short_end()),
        "target": thing(mixture(), tensor=plane(), other=short_end()),
    },
    "bridges.markovian_ends": lambda: {
        "ends": thing(two_ends(), mixture=two_ends().as_mixture, one=short_end()),
        "sigma": positive(0.7),
        "steps": count(5),
    },
    "fields.check_callable": lambda: {"value": thing(velocity), "name": Argument("v", {})},
    "fields.check_count": lambda: {
        "value": count(3),
        "name": Argument("n", {}),
        "least": Argument(1, {}),
    },
    "fields.check_kind": lambda: {
        "value": path(),
        "kind": Argument(AffinePath, {}),
        "name": Argument("path", {}),
    },
    "fields.check_number": lambda: {
        "value": number(0.5, 0, 1),
        "name": Argument("n", {}),
        "low": Argument(0, {}),
        "high": Argument(1, {}),
        "without_low": flag(False),
        "without_high": flag(False),
    },
    "fields.check_same_shape": lambda: {
        **{key: argument._replace(shows={}) for key, argument in pair("x", "y").items()},
        "names": Argument("x, y", {}),
    },
    "fields.check_state": lambda: {
        "x": state(plane())._replace(shows={}),
        "name": Argument("x", {}),
    },
    "fields.check_times": lambda: {
        "t": times(clock()).but("column", "scalar", "fewer"),
        "what": Argument("a path", {}),
        "open_end": flag(False),
    },
    "fields.expand_time": lambda: {
        "t": times(clock()).but("early", "late", "nan", "inf"),
        "x": state(plane()).but(fewer=plane()[:2])._replace(shows={}),
    },
    "fields.generator_device": lambda: {"generator": generator()},
    **{
        f"flow_maps.{loss}_loss": lambda: {
            "mean_velocity": function(mean_velocity),
            "path": path(),
            **pair("x0", "x1"),
            "start": times(clock()),
            "end": times(clock() + 0.1),
            "field": optional(function(velocity)),
        }
        for loss in ("improved_mean_flow", "lagrangian", "shortcut")
    },
    "flow_maps.consistency_loss": lambda: {
        "mean_velocity": function(mean_velocity),
        "path": path(),
        **pair("x0", "x1"),
        "start": times(clock()),
        "later": times(clock() + 0.1),
    },
    "flow_maps.gaussian_flow_map": lambda: {
        "path": path(),
        "target": thing(gaussian(), mixture=mixture()),
        "then": lambda made: made(plane(), clock(), clock() + 0.1),
    },
    "flow_maps.jump": lambda: {
        "mean_velocity": function(mean_velocity),
        "x": state(plane()),
        "start": times(clock()),
        "end": times(clock() + 0.1),
    },
    "flow_maps.jump_along": lambda: {
        "mean_velocity": function(mean_velocity),
        "x": state(plane()),
        "times": up(),
    },
    "guidance.autoguided": lambda: {
        **{name: function(velocity) for name in ("good", "worse")},
        "scale": number(2.0),
        "then": at,
    },
    "manifolds.GeodesicField": lambda: {
        "manifold": manifold(),
        "points": data_on(GLOBE).but(none=globe()[:0]),
        "then": lambda made: made(globe(1), clock()),
    },
    **{
        f"manifolds.GeodesicField.{method}": lambda: {
            "on": GeodesicField(GLOBE, globe()),
            "x": on(GLOBE, 1),
            "t": times(clock()).but(end=torch.ones(3)),
        }
        for method in ("__call__", "log_prob")
    },
    "manifolds.divergence": lambda: {
        "field": globe_field(),
        "manifold": manifold(),
        "x": on(GLOBE),
        "t": times(clock()).but("early", "late", "nan", "inf"),
    },
    "manifolds.geodesic": lambda: {
        "manifold": manifold(),
        "x0": on(GLOBE),
        "x1": on(GLOBE, 1),
        "t": times(clock()),
    },
    "manifolds.geodesic_euler": lambda: {
        "manifold": manifold(),
        "then": lambda made: solvers.solve(lambda x, t: -x, globe(), torch.linspace(0, 1, 4), made),
    },
    "manifolds.geodesic_matching_loss": lambda: {
        "field": globe_field(),
        "manifold": manifold(),
        "x0": on(GLOBE),
        "x1": on(GLOBE, 1),
        "t": times(clock()),
    },
    "manifolds.log_likelihood": lambda: {
        "field": globe_field(),
        "manifold": manifold(),
        "x": on(GLOBE),
        "times": down().but(up=torch.linspace(0, 1, 4), short=torch.linspace(1, 0.5, 4)),
        "step": step(),
    },
    "manifolds.staying": lambda: {
        "manifold": manifold(),
        "step": step(),
        "then": lambda made: solvers.solve(
            lambda x, t: -x.flip(1), globe(), torch.linspace(0, 1, 4), made
        ),
    },
    "manifolds.tangent_part": lambda: {
        "manifold": manifold(),
        "field": globe_field(),
        "then": lambda made: made(globe(), clock()),
    },
    "guidance.guided": lambda: {
        "network": function(labelled),
        "label": conditions(),
        "scale": number(2.0),
        "during": Argument(
            (0.1, 0.9),
            {"None": None, "text": "ab", "number": 0.5, "one": (0.1,), "words": ("a", "b")}
            | {"turned": (0.9, 0.1), "early": (-1, 0.9), "late": (0.1, 2), "nan": (0.1, NAN)},
            same={"list": [0.1, 0.9]},
        ),
        "then": at,
    },
    "guidance.rescaled": lambda: {
        "network": function(labelled),
        "label": conditions(),
        "scale": number(2.0),
        "rest": number(0.1, 0, 1),
        "then": at,
    },
    "images.batches.digit_batch": lambda: {
        "digits": some_digits(),
        "step": count(0, 0),
        "size": count(4),
        "seed": count(0, 0),
        "pairing": name("optimal"),
        "times": name("uniform"),
        "label_dropout": number(0.1, 0, 1),
        "classes": count(10, 0),
    },
    "images.batches.check_shard": lambda: {"shard": shard()},
    "images.batches.digit_loss": lambda: {
        "field": function(labelled),
        "batches": thing(image_batch, wrong=lambda step: None),
        "precision": precision(),
        "done": count(0, 0),
        "shard": shard(),
        "then": lambda loss: loss(),
    },
    "images.bits.bits_per_dimension": lambda: {
        "log_prob": state(plane()[:, 0]).but(rank=plane()),
        "event_shape": shape((1, 4, 4)),
    },
    "images.bits.digit_bits": lambda: {
        "network": function(labelled),
        "digits": some_digits().but("floating labels"),
        "steps": count(2),
        "method": name("hutchinson"),
        "seed": count(0, 0),
        "batch": count(25),
    },
    "images.classifier.DigitClassifier": lambda: {},
    "images.classifier.DigitClassifier.features": lambda: {
        "on": DigitClassifier(),
        "images": pixels(digits().images[:3]),
    },
    "images.classifier.DigitClassifier.forward": lambda: {
        "on": DigitClassifier(),
        "images": pixels(digits().images[:3]),
    },
    "images.classifier.class_spread": lambda: {
        "features": state(torch.randn(50, 4)).but(flat=torch.randn(50)),
        "labels": labels(torch.arange(50) // 5, 10),
    },
    "images.classifier.digit_classifier": lambda: {},
    "images.classifier.digit_distance": lambda: {"images": pixels(digits().images)},
    "images.classifier.score_digits": lambda: {
        "images": pixels(digits().images),
        "labels": labels(digits().labels, 10),
    },
    "images.data.check_digits": lambda: {"digits": some_digits()},
    "images.data.check_images": lambda: {
        "images": pixels(digits().images[:3]).but("flat", "one", "rank"),
        "name": Argument("images", {}),
    },
    "images.data.check_labels": lambda: {
        "labels": class_labels(known=2)._replace(empty=None),
        "most": Argument(1, {}),
        "n": Argument(3, {}),
    },
    "images.cost.Cost": lambda: {
        key: Argument(value, {})
        for key, value in (
            ("flops_per_image", 1.0),
            ("parameters", 1),
            ("state_bytes", 1),
            ("activation_bytes", 1),
        )
    },
    "images.cost.plan": lambda: {
        "settings": thing(settings()),
        "seconds": number(0.1, 0),
        "device": device(),
    },
    "images.cost.training_cost": lambda: {"settings": thing(settings())},
    "images.data.check_split": lambda: {"split": name("train")},
    "images.data.data_folder": lambda: {},
    "images.data.dequantise": lambda: {
        "images": pixels(digits().images[:3]).but("flat", "one", "rank"),
        "generator": generator(),
    },
    "images.data.mnist": lambda: {
        "split": name("train"),
        "root": Argument(None, {"number": 3.5, "list": ["x"]}),
        "valid": False,  # looks for 60 000 digits
    },
    "images.data.small_digits": lambda: {"split": name("train")},
    "images.data.to_pixels": lambda: {"x": state(images()).but(flat=plane(), film=images(3)[None])},
    "images.data.verify": lambda: {"raw": file(folder()), "valid": False},
    "images.devices.autocast": lambda: {"device": device(), "precision": precision()},
    "images.devices.check_device": lambda: {"device": device()},
    "images.devices.fast_precision": lambda: {"device": device()},
    "images.devices.in_precision": lambda: {
        "network": function(labelled),
        "precision": precision(),
        "then": lambda field: field(plane(), clock(), None),
    },
    "images.devices.precision_named": lambda: {"name": name("float32"), "device": device()},
    "images.folders.held_out": lambda: {
        "labels": labels(torch.arange(50) // 5).but("fewer"),
        "split": name("test"),
        "name": Argument("some", {}),
    },
    "images.folders.read_folder": lambda: {
        "folder": file(pictures()),
        "split": name("train"),
        "size": optional(count(4)),
    },
    "images.measures.held_out_loss": lambda: {
        "network": function(labelled),
        "train": some_digits().but("floating labels"),
        "held_out": some_digits().but("floating labels"),
        "most": count(3, 2),
        "draws": count(2),
        "seed": count(0, 0),
        "precision": precision(),
    },
    "images.measures.nearest_distances": lambda: {
        "images": pixels(digits().images[:3]),
        "among": pixels(digits().images[:4])._replace(empty=None),
    },
    "images.measures.nearest_ratio": lambda: three_sets(),
    "images.measures.pixel_scores": lambda: {
        **three_sets(),
        "most": count(5, 2),
        "seed": count(0, 0),
    },
    "images.pictures.encode": lambda: {
        "frames": pixels(digits().images[:3]),
        "pause": count(60, 0),
    },
    "images.pictures.show_pixels": lambda: {
        "frames": pixels(digits().images[:1]),
        **figure_text(),
        "zoom": count(2),
        "pause": count(60, 0),
    },
    "images.pictures.tile": lambda: {
        "images": pixels(digits().images[:3]),
        "columns": count(2),
        "gap": count(2, 0),
    },
    "images.pictures.plain": lambda: {
        "image": thing(Image.new("L", (3, 4)), array=np.zeros((3, 4), np.uint8)),
        "grey": flag(True),
        "then": np.asarray,
    },
    "images.pictures.pixels": lambda: {
        "image": thing(Image.new("L", (3, 4))),
        "grey": flag(True),
        "size": optional(count(4)),
    },
    "images.pictures.squared": lambda: {
        "images": pixels(digits().images[:3]),
        "size": count(4),
    },
    "images.run.Run": lambda: {"settings": thing(settings()), "device": device()},
    "images.run.Run.load": lambda: {
        "on": Run,
        "path": file(saved(lambda place: a_run().save(place), "run.pt")),
        "device": device(),
    },
    "images.run.Run.save": lambda: {"on": a_run(), "path": file(folder() / "other.pt")},
    "images.run.Run.steps": lambda: {
        "on": Run(settings(), torch.device("cpu")),
        "digits": some_digits(),
        "shard": shard(),
        "then": take,
    },
    "images.run.seconds_per_step": lambda: {
        "settings": thing(settings()),
        "digits": some_digits(),
        "shard": shard(),
        "then": lambda seconds: None,  # of the machine's speed
    },
    "images.run.steps_within": lambda: {
        "minutes": positive(0.01),
        "settings": thing(settings()),
        "digits": some_digits(),
        "shard": shard(),
        "then": lambda steps: None,  # of the machine's speed
    },
    "images.sampling.check_guidance": lambda: {
        "network": function(labelled).but(*NONSENSE)._replace(shows={}),
        "scale": Argument(1.0, {}),
    },
    "images.sampling.images_of": lambda: {
        "network": function(labelled).but(*NONSENSE)._replace(shows={}),
    },
    "images.sampling.check_seed": lambda: {"seed": count(0, 0)},
    "images.sampling.evaluations": lambda: {"method": name("heun"), "steps": count(3)},
    "images.sampling.generate": lambda: {
        "last_only": flag(False),
        "network": function(labelled),
        "labels": class_labels(3),
        **{key: argument for key, argument in sampler().items()},
        "scale": number(2.0),
        "start": generator(),
        "later": generator(),
        "precision": precision(),
    },
    "images.sampling.image_field": lambda: {
        "network": function(labelled),
        "label": conditions(),
        "scale": number(2.0),
        "precision": precision(),
        "then": at,
    },
    "images.sampling.noise_generators": lambda: {
        "seed": count(0, 0),
        "device": device(),
        "then": lambda made: None,
    },
    "images.sampling.sample": lambda: {
        "last_only": flag(False),
        "field": function(velocity),
        "x0": state(plane()),
        **sampler(),
        "generator": generator(),
    },
    "images.sampling.sample_digits": lambda: {
        "network": function(labelled),
        "labels": class_labels(3),
        **sampler(),
        "scale": number(2.0),
        "seed": count(0, 0),
        "precision": precision(),
        "batch": count(3),
        "then": take,
    },
    "images.settings.Settings": lambda: {
        "data": name("small").but("unknown", none=""),
        "network": name("dit"),
        "levels": Argument(None, {"text": "3", "few": 1, "many": 40, "of a DiT": 2}),
        "size": optional(count(8)),
        "image_shape": shape((1, 28, 28), 3),
        "classes": count(10, 0),
        **{key: name(value) for key, value in (("pairing", "optimal"), ("times", "uniform"))},
        "precision": name("float32"),
        "width": optional(count(8)),
        **{key: count(3) for key in ("steps", "batch")},
        **{key: count(3, 0) for key in ("warm_up", "seed")},
        "learning_rate": positive(0.1),
        "max_gradient_norm": positive(1.0),
        "ema_decay": number(0.9, 0, 1, ends=(1,)),
        "label_dropout": number(0.1, 0, 1),
        **{key: Argument(False, {"text": "x", "None": None}) for key in ("compile",)},
        "checkpointing": Argument(False, {"text": "x", "None": None}),
    },
    "images.settings.check_fits": lambda: {
        "settings": thing(settings()),
        "images": some_digits().but("floating labels"),
    },
    "images.settings.class_count": lambda: {"images": some_digits()},
    "images.settings.fitted": lambda: {"settings": thing(settings()), "images": some_digits()},
    "images.settings.image_shape": lambda: {"images": some_digits()},
    "images.sources.read_images": lambda: {
        "source": file(pictures()),
        "split": name("train"),
        "size": optional(count(4)),
    },
    "images.settings.check_setting": lambda: {"name": name("steps"), "value": count(3)},
    "images.weights.load_weights": lambda: {"source": file("mnist")},
    "images.weights.read_weights": lambda: {"source": file("mnist")},
    "images.weights.save_weights": lambda: {
        "path": file(folder() / "w.safetensors"),
        "network": thing(UNet((1, 8, 8), width=8)),
        "kind": name("unet"),
        "arguments": thing({"image_shape": [1, 8, 8], "width": 8}),
        "provenance": thing({}),
    },
    "labs.check_caption": figure_text,
    "labs.default_device": lambda: {},
    "labs.display_picture": lambda: {
        "kind": name("image/png"),
        "picture": Argument(b"x", {"None": None, "text": "x", "number": 3}),
        "width": count(100),
        **figure_text(),
    },
    "labs.hardware": lambda: {"device": device()},
    "labs.record": lambda: {"name": text("key"), "value": number(1.5).but("text")},
    "labs.shakespeare_words": lambda: {},
    "labs.stored_results": lambda: {"name": name(stored())},
    "labs.use_default_device": lambda: {},
    "likelihood.divergence": lambda: {
        "field": function(velocity),
        "x": state(plane()).but(fewer=plane()[:2]),
        "t": times(clock()).but("early", "late", "nan", "inf"),
        **of_likelihood(),
    },
    "likelihood.log_likelihood": lambda: {
        "field": function(velocity),
        "x": event(plane()),
        "base": thing(gaussian(), tensor=plane()),
        "times": down().but(up=torch.linspace(0, 1, 4)),
        "step": step(),
        **of_likelihood(),
    },
    "likelihood.rademacher_like": lambda: {
        "x": state(plane())._replace(shows={}),
        "generator": generator(),
    },
    "likelihood.transport": lambda: {
        "field": function(velocity),
        "x": state(plane()).but(fewer=plane()[:2]),
        "log_prob": state(plane()[:, 0]).but(fewer=plane()[:2, 0], column=plane()[:, :1]),
        "times": down(),
        "step": step(),
        **of_likelihood(),
    },
    "manifolds.Manifold": lambda: {"valid": False},
    "manifolds.Manifold.check": lambda: {"on": GLOBE, "x": on(GLOBE), "name": flag("x")},
    "manifolds.Manifold.distance": lambda: {
        "on": Rotations(),
        "x": on(Rotations()),
        "y": on(Rotations(), 1),
    },
    "manifolds.Manifold.exp": lambda: {"on": GLOBE, "x": on(GLOBE), "v": tangent_at(GLOBE)},
    "manifolds.Manifold.log": lambda: {"on": GLOBE, "x": on(GLOBE), "y": on(GLOBE, 1)},
    "manifolds.Sphere": lambda: {"dimension": count(2)},
    "manifolds.Sphere.distance": lambda: {"on": GLOBE, "x": on(GLOBE), "y": on(GLOBE, 1)},
    "manifolds.Torus": lambda: {
        "radii": Argument(
            (1.0, 2.0),
            {
                **{"None": None, "text": "ab", "number": 3, "list": [1.0], "none": ()},
                **{"zero": (0.0,), "negative": (1.0, -1.0), "nan": (NAN,), "texts": ("a",)},
            },
        )
    },
    **of_space("manifolds.Sphere", GLOBE),
    **of_space("manifolds.Torus", SPACES["Torus"]),
    **of_space("manifolds.Rotations", Rotations()),
    "manifolds.Rotations": lambda: {},
    "losses.flow_matching_loss": lambda: {
        "field": function(velocity),
        "path": path(),
        **pair("x0", "x1"),
        "t": times(clock()),
    },
    "losses.likelihood_times": lambda: {
        "n": count(3, 0),
        "closest": positive(0.002).but(one=1.0, more=2.0),
        "generator": generator(),
    },
    "losses.logit_normal_times": lambda: {
        "n": count(3, 0),
        "mean": number(0.5),
        "std": positive(1.0),
        "generator": generator(),
    },
    "losses.mean_squared_norm": lambda: {"difference": state(plane())},
    "losses.uniform_times": lambda: {"n": count(3, 0), "generator": generator()},
    "metrics.energy_distance": lambda: pair("x", "y"),
    "metrics.frechet_between": lambda: {
        "first": thing(metrics.moments(plane()), pair=(None, None), other=metrics.moments(wide())),
        "second": thing(metrics.moments(plane()), pair=(None, None), one=metrics.Moments(1, 2)),
    },
    "metrics.frechet_distance": lambda: {
        "x": event(plane()).but(one=plane()[:1], flat=plane()[:, 0]),
        "y": event(plane(1)).but(one=plane()[:1], flat=plane()[:, 0]),
    },
    "metrics.fresh_ratio": lambda: {
        "samples": event(plane(n=8)).but(few=plane(n=1)),
        "draw_data": function(plane_anew),
        "parts": count(2, 2),
    },
    "metrics.mode_shares": lambda: {"x": event(plane()), "centres": event(plane(1))},
    "metrics.moments": lambda: {"x": state(plane()).but(one=plane()[:1], rank=plane()[None])},
    "metrics.relative_error": lambda: {"estimate": partner(plane()), "truth": partner(plane(1))},
    "metrics.two_sample_test": lambda: {
        "x": event(plane()),
        "y": event(plane(1)),
        "permutations": count(20),
        "generator": generator(),
    },
    "metrics.wasserstein": lambda: pair("x", "y"),
    "networks.DiT": lambda: {
        "image_shape": shape((1, 8, 8), 3),
        **{key: count(n) for key, n in (("patch", 4), ("width", 8), ("depth", 1), ("heads", 2))},
        "labels": count(2, 0),
        "checkpointing": flag(False),
        "then": lambda network: None,  # initialised at random
    },
    "networks.DiT.forward": lambda: of_network(DiT((1, 8, 8), 4, 8, 1, 2, labels=2), images(), 3),
    "networks.MLP": lambda: {
        "event_shape": shape((2,)),
        "width": count(8),
        **{key: count(1, 0) for key in ("depth", "frequencies", "labels")},
        "then": lambda network: None,
    },
    "networks.MLP.forward": lambda: {
        **of_network(MLP(width=8, labels=2), plane(), 2),
        "label": class_labels(known=2),
    },
    "networks.MeanFlowMLP": lambda: {
        "event_shape": shape((2,)),
        "width": count(8),
        **{key: count(1, 0) for key in ("depth", "frequencies")},
        "then": lambda network: None,
    },
    "networks.MeanFlowMLP.forward": lambda: {
        "on": MeanFlowMLP(width=8),
        "x": of_type(partner(plane())),
        **{key: of_type(untimed(clock())) for key in ("start", "end")},
    },
    "networks.UNet": lambda: {
        "image_shape": shape((1, 8, 8), 3),
        "width": count(8),
        "labels": count(2, 0),
        "checkpointing": flag(False),
        "frequencies": shape((6, 7)),
        "levels": count(2, 2),
        "then": lambda network: None,
    },
    "networks.UNet.forward": lambda: of_network(UNet((1, 8, 8), 8, labels=2), images(), 3),
    "other_models.from_flow_matching": lambda: {
        "model": function(lambda x, t, y=None: -x),
        "label": optional(class_labels())._replace(empty=None),
        "scale": number(2.0),
        "null": optional(count(10, least=0)),
        "name": Argument("y", {"None": None, "number": 3, "list": ["y"]}),
        "then": at,
    },
    "other_models.from_torchcfm": lambda: {
        "model": function(lambda t, x, y=None: -x),
        "label": optional(class_labels())._replace(empty=None),
        "scale": number(2.0),
        "null": count(10, least=0),
        "then": at,
    },
    "other_models.to_flow_matching": lambda: {"network": function(velocity), "then": at},
    "other_models.to_torchcfm": lambda: {
        "network": function(velocity),
        "then": lambda model: model(clock(), plane()),
    },
    "paths.AffinePath": lambda: {"schedule": schedule()},
    "paths.AffinePath.conditional_score": lambda: {"on": PATH, **of_path("x", "x1")},
    "paths.AffinePath.conditional_velocity": lambda: {"on": PATH, **of_path("x", "x1")},
    "paths.AffinePath.convert": lambda: {
        "on": PATH,
        **of_path("value", "x"),
        "given": name("data"),
        "want": name("score"),
    },
    "paths.AffinePath.sample": lambda: {"on": PATH, **of_path("x0", "x1")},
    "paths.Schedule": lambda: {
        "name": Argument("mine", {}),
        **{
            key: function(torch.ones_like)._replace(shows={})
            for key in ("alpha", "sigma", "alpha_dot", "sigma_dot")
        },
        "finite_at_one": flag(True),
    },
    "paths.Schedule.check_velocity_times": lambda: {
        "on": paths.COSINE,
        "t": times(clock()).but("column", "scalar", "fewer"),
    },
    "paths.lipman": lambda: {"sigma_min": number(0.1, 0, 1, ends=(1,)), "then": lambda made: None},
    "plotting.draw_density": lambda: {
        "ax": ax(),
        "log_prob": refused_nan(function(lambda x: -x.square().sum(dim=1))),
        "extent": positive(3.0),
        "resolution": count(5, 2),
    },
    "plotting.draw_field": lambda: {
        "ax": ax(),
        "field": refused_nan(function(velocity)),
        "t": number(0.5),
        "extent": positive(3.0),
        "resolution": count(5, 2),
        "color": name("black"),
        "longest": optional(positive(1.0)),
    },
    "plotting.draw_samples": lambda: {
        "ax": ax(),
        "x": refused_nan(state(plane())).but(rank=plane()[None], event=plane()[:, :1]),
        "color": name("black"),
        "size": positive(2.0),
    },
    "plotting.draw_trajectories": lambda: {
        "ax": ax(),
        "states": refused_nan(state(solution().states))
        .but(rank=plane())
        ._replace(empty=solution().states[:, :0]),
        "color": name("black"),
        "ends": flag(True),
    },
    "plotting.panels": lambda: {
        "titles": Argument(["a", "b"], {"None": None, "text": "ab", "none": [], "numbers": [1, 2]}),
        "extent": optional(positive(3.0)),
        "rows": count(1),
        "width": positive(6.0),
        "then": lambda made: None,
    },
    "plotting.show": lambda: {"figure": thing(plt.figure()), **figure_text()},
    "plotting.square_grid": lambda: {"extent": positive(3.0), "resolution": count(5, 2)},
    "discrete.Denoiser": lambda: {
        "network": function(lambda x, t: posterior_of_three(x, t).log()),
        "path": token_path(),
        "then": at_tokens,
    },
    **{
        f"discrete.Denoiser.{method}": lambda: {"on": denoiser(), **of_tokens()}
        for method in ("__call__", "log_prob")
    },
    "discrete.ExactRate": lambda: {
        "path": token_path(),
        "law": law_of_three(),
        "then": at_tokens,
    },
    **{
        f"discrete.ExactRate.{method}": lambda: of_exact_rate()
        for method in ("__call__", "log_posterior", "log_prob", "posterior", "target_entropy")
    },
    "discrete.ExactRate.law_at": lambda: {
        "on": exact_rate(),
        "t": times(clock()).but("fewer"),
    },
    "discrete.denoising_loss": lambda: of_token_loss(),
    "discrete.guided_posterior": lambda: {
        "posterior": function(posterior_of_three),
        "conditional": function(posterior_of_three),
        "scale": number(2.0, 0),
        "then": at_tokens,
    },
    "discrete.likelihood_bound": lambda: of_token_loss(),
    "reflow.distillation_loss": lambda: {"field": function(velocity), **pair("x0", "x1")},
    "reflow.mean_flow_loss": lambda: {
        "mean_velocity": function(mean_velocity),
        "path": path(),
        **pair("x0", "x1"),
        "start": times(clock()),
        "end": times(clock() + 0.1),
    },
    "reflow.model_pairs": lambda: {
        "field": function(velocity),
        "x0": state(plane()),
        "times": up(),
        "step": step(),
    },
    "reflow.path_energy": lambda: {"solution": some_solution()},
    "reflow.straightness": lambda: {"solution": some_solution()},
    "steering.ExactValue": lambda: {
        "path": path(),
        "target": thing(mixture(), other=Gaussian(torch.zeros(3)), tensor=plane()),
        "reward": thing(a_reward()),
        "then": at,
    },
    "steering.ExactValue.__call__": lambda: {
        "on": steering.ExactValue(PATH, mixture(), a_reward()),
        "x": partner(plane()),
        "t": times(clock()),
    },
    "steering.QuadraticReward": lambda: {
        "linear": refused_nan(state(plane()[0])).but("scalar")._replace(empty=None),
        "curvature": number(0.5).but("tensor"),
    },
    **{
        f"steering.QuadraticReward.{method}": lambda: {"on": a_reward(), "x": event(plane())}
        for method in ("__call__", "gradient")
    },
    "steering.QuadraticReward.log_mean": lambda: {
        "on": a_reward(),
        "mean": partner(plane()),
        "variance": untimed(clock()).but(negative=-clock(), nan=clock() * NAN)._replace(shows={}),
    },
    "steering.observed": lambda: {**seen(), "noise": positive(0.5)},
    "steering.tilted": lambda: {
        "target": thing(mixture(), other=Gaussian(torch.zeros(3)), tensor=plane()),
        "reward": thing(a_reward(), explosive=steering.QuadraticReward(torch.zeros(2), -2.0)),
    },
    "solvers.CountedField": lambda: {
        "field": function(velocity),
        "then": lambda made: made(plane(), torch.tensor(0.5)),
    },
    "solvers.CountedField.__call__": lambda: {
        "on": solvers.CountedField(velocity),
        "x": state(plane()),
        "t": tensor(torch.tensor(0.5)).but(column=clock()[:, None], two=clock(2)),
    },
    "solvers.check_grid": lambda: {"times": up()},
    "solvers.clock": lambda: {"times": up(), "x": state(plane())._replace(shows={})},
    "solvers.dpm_solver": lambda: {
        "last_only": flag(False),
        "field": function(velocity),
        "x": state(plane()),
        "times": up().but(down=torch.linspace(1, 0, 4), beyond=torch.linspace(0, 2, 4)),
        "path": path(),
    },
    "solvers.half_log_snr": lambda: {
        "schedule": schedule(),
        "t": times(clock()).but("column", "scalar", "fewer"),
    },
    "solvers.level_grid": lambda: {
        "levels": count(10),
        "steps": count(3),
        "last": count(1, 0),
        "halves": flag(False),
        "dtype": thing(None, whole=torch.int64).but("None"),
    },
    "solvers.log_snr_grid": lambda: {
        "schedule": schedule(),
        "dtype": thing(None, whole=torch.int64).but("None"),
        "start": number(0.1, 0, 1, ends=(0,)),
        "end": number(0.9, 0, 1, ends=(1,)),
        "steps": count(3),
    },
    "solvers.solve": lambda: {
        "last_only": flag(False),
        "field": function(velocity),
        "x": state(plane()),
        "times": up(),
        "step": step(),
    },
    "solvers.solve_adaptive": lambda: {
        "last_only": flag(False),
        "field": function(velocity),
        "x": state(plane()),
        "t0": number(0.0, ends=(1,)),
        "t1": number(1.0, ends=(0,)),
        "rtol": positive(1e-3),
        "atol": positive(1e-3),
    },
    "solvers.time_of": lambda: {
        "schedule": schedule(),
        "value": tensor(clock()).but(nan=clock() * NAN),
    },
    "steering.adjoint_matching_loss": lambda: {
        "network": function(velocity),
        **of_adjoint(),
        "adjoint": partner(of_adjoint()["solution"].good.states)._replace(empty=None),
    },
    "steering.guessed_value": lambda: {
        "field": function(velocity),
        "path": path(),
        "reward": thing(a_reward()),
        "spread": optional(function(lambda t: 1 - t)),
        "then": at,
    },
    "steering.lean_adjoint": lambda: {
        **of_adjoint(),
        "gradient": partner(plane())._replace(empty=None),
    },
    "steering.memoryless_strength": lambda: {
        "schedule": schedule(),
        "t": times(clock()).but("column", "scalar", "fewer", start=0 * clock()),
    },
    "steering.replaced": lambda: {
        "step": step(),
        "path": path(),
        **seen(),
        "repeats": count(2),
        "generator": generator(),
        "then": lambda made: solvers.solve(velocity, plane(), torch.linspace(0.1, 0.9, 4), made),
    },
    "steering.steered": lambda: {
        "field": function(velocity),
        "path": path(),
        "value": function(lambda x, t: -x.square().sum(dim=1)),
        "then": at,
    },
    "tables.Units": lambda: {
        **{key: units_of(key).but(zero=0 * UNITS.scale) for key in ("scale",)},
        "shift": units_of("shift"),
        "then": lambda made: made.log_volume,
    },
    "tables.Units.restore": lambda: {"on": UNITS, "x": event(plane())},
    "tables.Units.standardise": lambda: {"on": UNITS, "rows": event(plane())},
    "tables.covering": lambda: {
        "rows": some_rows(),
        "kernels": count(2),
        "generator": generator(),
    },
    "tables.enough_steps": lambda: {
        "log_density_with": refused_nan(function(lambda steps: clock() - 1 / steps)),
        "start": count(2),
        "most": count(64).but(less=3),
    },
    "tables.estimate": lambda: {
        "values": refused_nan(state(clock())).but(one=clock()[:1], rank=clock()[:, None])
    },
    "tables.log_density": lambda: {
        "field": function(velocity),
        "x": event(plane()),
        "units": thing(UNITS, pair=(UNITS.shift, UNITS.scale)),
        "steps": count(3),
    },
    "tables.nearest_ratio": lambda: {
        "samples": refused_nan(event(plane())),
        "train": refused_nan(event(plane(1))),
        "held_out": refused_nan(event(plane(2))).but(trained=plane(1)),
    },
    "tables.read_table": lambda: {
        "path": file(saved(np.save, "rows.npy", plane(n=30).numpy())).but(kind="rows.xlsx")
    },
    "tables.split_rows": lambda: {
        "rows": some_rows(),
        "held_out": number(0.5, 0, 1, ends=(0, 1)),
        "generator": optional(generator()),
    },
    "tables.total_mass": lambda: {
        "log_density_of": refused_nan(function(lambda rows: -rows.square().sum(dim=1))),
        "proposal": thing(mixture(), one=gaussian()),
        "draws": count(9, 2),
        "generator": optional(generator()),
    },
    "training.EMA": lambda: {
        "network": thing(MLP(width=8)),
        "decay": number(0.9, 0, 1, ends=(1,)),
        "then": lambda made: None,
    },
    "training.EMA.update": lambda: {
        "on": training.EMA(MLP(width=8)),
        "network": thing(MLP(width=8), other=MLP(width=9), fewer=MLP(width=8, depth=1)),
    },
    "training.train": lambda: of_training(MLP(width=8)),
}
"""From the name of a function to its arguments. ``on`` is the object of a method, ``then`` what is
done with a result that is itself a function or a generator; None for no valid call."""


LEFT_OUT = {
    **dict.fromkeys(
        ["images.command", "images.evaluation", "images.options", "images.process"]
        + ["images.__main__"],
        "the command line, whose own test breaks it",
    ),
    **dict.fromkeys(
        ["images.run.join", "images.run.largest", "images.run.settings_of"],
        "between the processes and checkpoints of the command line",
    ),
    **dict.fromkeys(
        [f"solvers.{step}" for step in ("euler", "heun", "midpoint", "rk4")]
        + ["images.sampling.heun_to_data"],
        "one line of arithmetic, called by a solver that has checked everything",
    ),
    **dict.fromkeys(
        [f"manifolds.{name}" for name in ("angle_over_sine", "cos_and_sinc", "dot")],
        "arithmetic on what has been checked",
    ),
    "images.folders.check_memory": "arithmetic on what has been checked",
    "fields.flatten": "one line of arithmetic on a state that has been checked",
    **dict.fromkeys(
        ["fields.gradients", "fields.outside_inference"], "for those who have checked their input"
    ),
    **dict.fromkeys(
        ["bridges.BridgeSample", "distributions.Observation", "paths.PathSample"]
        + ["fields.VelocityField"],
        "made by the package, or a type",
    ),
    "couplings.ConvergenceWarning": "a warning",
    **dict.fromkeys(
        [f"other_models.{name}" for name in ("from_diffusers_model", "load_diffusers")]
        + [f"other_models.{name}" for name in ("scheduler_grid", "to_diffusers_pipeline")]
        + ["other_models.to_onnx"],
        "needs another library, and seconds to import it: test_other_models breaks it",
    ),
}
"""Names, and modules or classes with all their names, that are not tried, and why."""

FINE = {
    "flow_maps.shortcut_loss, field, gives nan": "it is read for jumps of no length only",
    "steering.adjoint_matching_loss, adjoint, inf": "of the last time nothing is read",
    "steering.replaced, step, gives nan": "every entry is known here, and replaced",
    **{
        f"images.sampling.{name}, labels, fewer": "as many digits as labels"
        for name in ("generate", "sample_digits")
    },
    **{
        f"couplings.{name}, x1, {value}": "only the shape of x1 matters"
        for name in ("independent", "within_labels")
        for value in ("nan", "inf")
    },
    **{
        f"conventions.time_first, field, gives {nonsense}": "it swaps arguments and reads none"
        for nonsense in ("None", "text", "integers", "an array", "another shape")
    },
    **{
        f"{space}.volume_factor, v, inf": "exp is not shortest so far away, and the answer is 0"
        for space in ("manifolds.Sphere", "manifolds.Torus", "manifolds.Rotations")
    },
    **{
        f"manifolds.Torus.tangent, x, {value}": "all velocities of angles are tangent, anywhere"
        for value in ("nan", "inf")
    },
    **{
        f"likelihood.divergence, x, {value}": "this field diverges alike everywhere"
        for value in ("nan", "inf")
    },
}
"""From "function, argument, value" to why this value, bad elsewhere, is taken."""

NEEDS_SAMPLES = {
    *(f"couplings.{name}" for name in ("exact_ot", "independent", "sinkhorn", "within_labels")),
    *(f"couplings.{name}" for name in ("sinkhorn_kernel", "sinkhorn_log")),
    "bridges.bridge_matching_loss",
    "diffusion.noise_prediction_loss",
    *(f"flow_maps.{name}_loss" for name in ("consistency", "improved_mean_flow")),
    *(f"flow_maps.{name}_loss" for name in ("lagrangian", "shortcut")),
    *(f"images.classifier.{name}" for name in ("class_spread", "digit_distance")),
    "images.classifier.score_digits",
    "images.folders.held_out",
    *(f"images.measures.{name}" for name in ("nearest_ratio", "pixel_scores")),
    *(f"images.pictures.{name}" for name in ("encode", "show_pixels", "squared", "tile")),
    *(f"losses.{name}" for name in ("flow_matching_loss", "mean_squared_norm")),
    *(f"metrics.{name}" for name in ("energy_distance", "frechet_distance", "fresh_ratio")),
    *(f"metrics.{name}" for name in ("mode_shares", "moments", "relative_error")),
    *(f"metrics.{name}" for name in ("two_sample_test", "wasserstein")),
    *(f"reflow.{name}" for name in ("distillation_loss", "mean_flow_loss")),
    "distribution_matching.distribution_matching_loss",
    "discrete.denoising_loss",
    "manifolds.geodesic_matching_loss",
    "solvers.solve_adaptive",
    *("tables.estimate", "tables.nearest_ratio"),
}
"""Functions for which a batch of no samples has no answer, and which say so."""

DOUBLE = {
    *(f"conventions.{name}" for name in ("ddpm_schedule", "from_ddpm")),
    "couplings.squared_distances",
    "images.bits.digit_bits",
    *(f"images.classifier.{name}" for name in ("class_spread", "digit_classifier")),
    *(f"images.classifier.{name}" for name in ("digit_distance", "score_digits")),
    *(f"metrics.{name}" for name in ("frechet_between", "moments")),
    *("tables.Units", "tables.Units.restore", "tables.Units.standardise", "tables.log_density"),
    *("tables.covering", "tables.enough_steps", "tables.estimate", "tables.nearest_ratio"),
    *("tables.read_table", "tables.split_rows", "tables.total_mass"),
}
"""Functions that have numbers in double precision, but on the CPU whatever the device."""

FILES = (OSError,)
"""What functions of files may raise too: the system's word on a file."""


def public():
    """Return the public functions, classes and methods by name, as the book would import them."""
    found = {}
    for _, full, _ in pkgutil.walk_packages(fmtutorial.__path__, "fmtutorial."):
        name = full.removeprefix("fmtutorial.")
        if name.startswith("coursework") or name in LEFT_OUT:
            continue
        if name.partition(".")[0] in HIDDEN and "." in name:
            continue
        module = importlib.import_module(full)
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == full]
        for word in getattr(module, "__all__", own):
            value = getattr(module, word)
            if word.startswith("_") or not (inspect.isclass(value) or callable(value)):
                continue
            if get_origin(value) or (inspect.isclass(value) and issubclass(value, tuple)):
                continue  # a type, or a record, which holds what it is given
            found[f"{name}.{word}"] = value
            for method, function in vars(value).items() if inspect.isclass(value) else ():
                wanted = not method.startswith("_") or method == "__call__"
                if wanted and (inspect.isfunction(function) or isinstance(function, classmethod)):
                    found[f"{name}.{word}.{method}"] = getattr(value, method)
    return {name: v for name, v in found.items() if not set(stems(name)) & set(LEFT_OUT)}


def stems(name):
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def prepared(name, changed=None):
    """Return the valid call of a function, with some arguments changed, to be made later."""
    torch.manual_seed(0)
    entry = CALLS[name]()
    function = PUBLIC[name]
    if "on" in entry:
        function = getattr(entry["on"], name.rpartition(".")[2])
    then = entry.get("then", lambda result: result)
    arguments = {k: a.good for k, a in entry.items() if isinstance(a, Argument)}
    return lambda: then(function(**arguments | (changed or {})))


def call(name, changed=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepared(name, changed)()


PUBLIC = public()


@cache
def raises(file):
    """Return the lines of a file that are part of a raise, with the name of the error."""
    found = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for line in range(node.lineno, node.end_lineno + 1):
                found[line] = ast.unparse(node.exc.func)
    return found


def is_ours(error):
    """Whether the package raised this error on purpose, and with words."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not isinstance(error, (TypeError, ValueError, FloatingPointError, *FILES)):
        return False
    inside = Path(frame.filename).is_relative_to(HOME)
    return inside and raises(frame.filename).get(frame.lineno) == type(error).__name__


def leaves(value):
    """Return the tensors and numbers in a result."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return [torch.as_tensor(value)]
    if isinstance(value, (float, int, np.number)):
        return [torch.tensor(float(value))]
    if isinstance(value, dict):
        return leaves(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    if hasattr(value, "__dataclass_fields__"):
        return leaves(list(vars(value).values()))
    return []


def verdict(name, expected, changed):
    """Return what is wrong with a call, or None."""
    try:
        result = call(name, changed)
    except Exception as error:
        if is_ours(error):
            return None if expected in ("bad", "shows") else f"refused: {error}"
        return f"{type(error).__name__} not of ours: {str(error).strip().splitlines()[:1]}"
    found = leaves(result)
    if expected == "bad":
        return "accepted"
    if expected == "shows" and all(bool(x.isfinite().all()) for x in found):
        return "vanished"
    if expected == "same":
        for x, y in itertools.zip_longest(found, leaves(call(name))):
            if (
                x is None
                or y is None
                or not torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
            ):
                return f"another result: {x} instead of {y}"
    return None


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nothing is shown, and no figure stays."""
    monkeypatch.setattr("IPython.display.display", lambda *data, **options: None)
    yield
    plt.close("all")


def test_every_public_function_is_tried_with_all_its_arguments():
    assert sorted(CALLS) == sorted(PUBLIC)
    for name, function in PUBLIC.items():
        wanted = [p for p in inspect.signature(function).parameters if p != "self"]
        found = [k for k, a in CALLS[name]().items() if isinstance(a, Argument)]
        assert sorted(found) == sorted(wanted), name


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_is_refused_in_words(name):
    entry, wrong = CALLS[name](), []
    if entry.get("valid", True):
        call(name)
    for key, argument in entry.items():
        for expected in ("bad", "shows", "same") if isinstance(argument, Argument) else ():
            for word, value in getattr(argument, expected).items():
                with np.errstate(all="ignore"):
                    said = verdict(name, expected, {key: value})
                if said and f"{name}, {key}, {word}" not in FINE:
                    wrong.append(f"{name}, {key}, {word}: {said}")
    assert not wrong, "\n".join(wrong)


def empty_arguments(name):
    """Return the arguments of a function of batches that are empty together."""
    arguments = {k: a for k, a in CALLS[name]().items() if isinstance(a, Argument)}
    return {k: a.empty for k, a in arguments.items() if a.empty is not None}


def verdict_on_nothing(name, empty):
    """Return what is wrong with a call for an empty batch, or None."""
    try:
        found = leaves(call(name, empty))
    except Exception as error:
        if is_ours(error):
            return None if name in NEEDS_SAMPLES else f"refused: {error}"
        return f"{type(error).__name__} not of ours: {str(error).strip().splitlines()[:1]}"
    for none, full in zip(found, leaves(call(name)), strict=True):
        sizes = list(full.shape)
        if 3 in sizes:
            sizes[sizes.index(3)] = 0
        if list(none.shape) != sizes:
            return f"shape {list(none.shape)} instead of {sizes}"
    return "accepted" if name in NEEDS_SAMPLES else None


def test_an_empty_batch_has_an_empty_answer_or_is_refused_in_words():
    said = {
        name: verdict_on_nothing(name, empty) for name in CALLS if (empty := empty_arguments(name))
    }
    assert not any(said.values()), "\n".join(f"{k}: {v}" for k, v in said.items() if v)
    assert set(said) >= NEEDS_SAMPLES


class WithoutDouble(TorchDispatchMode):
    """A device without float64, such as Apple's, played by the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(result, "dtype", None) == torch.float64:
            raise TypeError(f"{function} has float64, which this device has not")
        return result


@pytest.mark.parametrize("name", sorted(set(CALLS) - DOUBLE))
def test_no_device_is_asked_for_double_precision(name):
    if CALLS[name]().get("valid", True):
        made = prepared(name)
        with WithoutDouble():
            made()


def test_the_lists_of_exceptions_name_what_there_is():
    assert set(CALLS) >= DOUBLE
    for line in FINE:
        name, key, word = line.split(", ")
        argument = CALLS[name]()[key]
        assert word in argument.bad | argument.shows | argument.same, line
