"""Pictures of densities, samples, fields and trajectories in the plane.

Every function draws on the axes it is given, so that a lab composes its own figure. The only
module that imports matplotlib.
"""

import io
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_number,
    check_same_shape,
    check_state,
)
from fmtutorial.labs import check_caption, display_picture

NOISE, DATA, MODEL, TRUTH = "#6b7280", "#c2410c", "#1d4ed8", "#111827"
"""Colours that differ in lightness too, so that they survive a grey print."""

_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def panels(
    titles: Sequence[str], extent: float | None = None, rows: int = 1, width: float = 6.0
) -> tuple[Figure, list[Axes]]:
    """Make a row (or rows) of axes, six inches wide so that they fit a page and a phone.

    With ``extent`` each panel shows the square [−extent, extent]² with equal units and no ticks.

    Args:
        titles: one for each panel, filled row by row.
        extent: half the side of the square, in the unit of x; None for ordinary axes.
        rows: how many rows.
        width: of the whole figure, inches.

    Returns:
        The figure and its axes in reading order.
    """
    if not isinstance(titles, (list, tuple)) or not all(isinstance(name, str) for name in titles):
        raise TypeError(f'titles is {titles!r}; pass a list of strings, such as ["a", "b"]')
    check_count(len(titles), "the number of titles")
    if extent is not None:
        check_number(extent, "extent", low=0, without_low=True)
    check_count(rows, "rows")
    check_number(width, "width", low=0, without_low=True)
    columns = -(-len(titles) // rows)
    side = width / columns
    height = rows * (side + 0.25 if extent is not None else min(0.8 * side, 2.8))
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
        )
        axes = list(grid.flat)
        for ax, title in zip(axes, titles, strict=False):
            ax.set_title(title)
    for ax in axes[: len(titles)]:
        if extent is not None:
            ax.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
            ax.spines[:].set_color("#d1d5db")
    for ax in axes[len(titles) :]:
        ax.set_visible(False)
    return figure, axes


def square_grid(extent: float, resolution: int) -> Tensor:
    """Return the points of a grid on [−extent, extent]², row by row from below.

    They live on PyTorch's default device, as do the fields that a lab draws on them.

    Returns:
        Shape (resolution², 2).
    """
    check_number(extent, "extent", low=0, without_low=True)
    check_count(resolution, "resolution", least=2)
    side = torch.linspace(-extent, extent, resolution)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


@torch.no_grad()
def draw_density(
    ax: Axes, log_prob: Callable[[Tensor], Tensor], extent: float, resolution: int = 120
) -> None:
    """Draw exp(log_prob) as a heat map; log_prob maps (B, 2) to (B,)."""
    _check_drawing(ax)
    points = square_grid(extent, resolution)
    check_callable(log_prob, "log_prob")
    values = log_prob(points)
    check_same_shape(values, points[:, 0], "log_prob, one coordinate")
    image = _finite(values.exp(), "exp(log_prob)").reshape(resolution, resolution).numpy()
    bounds = (-extent, extent, -extent, extent)
    ax.imshow(image, origin="lower", extent=bounds, cmap="Blues", interpolation="bilinear")


def draw_samples(ax: Axes, x: Tensor, color: str = DATA, size: float = 3.0) -> None:
    """Draw points of shape (B, 2)."""
    _check_drawing(ax, color)
    check_number(size, "size", low=0, without_low=True)
    x = _points(x, "x")
    ax.scatter(x[:, 0], x[:, 1], s=size, c=color, alpha=0.5, linewidths=0, rasterized=True)


@torch.no_grad()
def draw_field(
    ax: Axes,
    field: VelocityField,
    t: float,
    extent: float,
    resolution: int = 17,
    color: str = TRUTH,
    longest: float | None = None,
) -> None:
    """Draw the arrows of v(·, t) on a grid.

    Args:
        ax: where to.
        field: v(x, t) in the plane.
        t: one time.
        extent: half the side of the square, in the unit of x.
        resolution: arrows in a row.
        color: of the arrows.
        longest: speed that is drawn two cells long, to give several panels one scale; None
            scales each panel by itself.
    """
    _check_drawing(ax, color)
    check_number(t, "t")
    check_number(extent, "extent", low=0, without_low=True)
    check_count(resolution, "resolution", least=2)
    if longest is not None:
        check_number(longest, "longest", low=0, without_low=True)
    check_callable(field, "field")
    points = square_grid(extent * (1 - 1 / resolution), resolution)
    v = field(points, torch.full((len(points),), float(t)))
    check_same_shape(v, points, "v, x")
    points, v = _points(points, "x"), _points(v, "v")
    scale = None if longest is None else longest * resolution / (4 * extent)
    style = {"color": color, "width": 0.006, "pivot": "mid", "angles": "xy", "scale_units": "xy"}
    ax.quiver(points[:, 0], points[:, 1], v[:, 0], v[:, 1], scale=scale, **style)


def draw_trajectories(ax: Axes, states: Tensor, color: str = MODEL, ends: bool = True) -> None:
    """Draw paths of shape (T, B, 2), with their starts in grey and their ends in orange."""
    _check_drawing(ax, color)
    states = _points(states, "states", 3)
    ax.plot(states[:, :, 0], states[:, :, 1], color=color, alpha=0.35, linewidth=0.7)
    if ends:
        draw_samples(ax, states[0], NOISE, size=6)
        draw_samples(ax, states[-1], DATA, size=6)


def show(figure: Figure, name: str, alt: str) -> None:
    """Display a finished figure in a notebook, with its alternative text, and close it.

    Args:
        figure: what ``panels`` returned.
        name: key under which the book's chapters cite the figure, unique within the lab.
        alt: what the picture shows, for those who do not see it.

    Raises:
        ValueError: there is no alternative text.
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is {figure!r}; pass what panels returned first")
    check_caption(name, alt)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=160)
    plt.close(figure)
    # 256 colours look the same here and take a third of the bytes
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256).save(picture, "png", optimize=True)
    width = round(100 * figure.get_figwidth())
    display_picture("image/png", picture.getvalue(), width, name, alt)


def _check_drawing(ax: Axes, color: str = TRUTH) -> None:
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is {ax!r}; pass one of the axes that panels returned")
    if not is_color_like(color):
        raise ValueError(f"color is {color!r}; pass a name or a code such as '#1d4ed8'")


def _points(x: Tensor, name: str, dimensions: int = 2) -> Tensor:
    """Return points of the plane, (…, 2), as matplotlib takes them."""
    check_state(x, name)
    if x.ndim != dimensions or x.shape[-1] != 2 or (dimensions == 3 and len(x) == 0):
        wanted = "(B, 2)" if dimensions == 2 else "(T, B, 2) with T ≥ 1"
        raise ValueError(f"{name} has shape {tuple(x.shape)}; pass {wanted}")
    return _finite(x, name)


def _finite(x: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} is not finite everywhere; the picture would leave that out")
    return x.detach().cpu().float()
