"""The figures show what they were given, where it belongs."""

import base64

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402

from fmtutorial.distributions import Gaussian  # noqa: E402
from fmtutorial.plotting import (  # noqa: E402
    DATA,
    MODEL,
    NOISE,
    draw_density,
    draw_field,
    draw_samples,
    draw_trajectories,
    panels,
    show,
    square_grid,
)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_panels_are_square_windows_on_the_plane():
    figure, axes = panels(["a", "b", "c"], extent=4.0)
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    for ax in axes:
        assert ax.get_xlim() == ax.get_ylim() == (-4.0, 4.0)
        assert ax.get_aspect() == 1
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    assert figure.get_figwidth() == 6.0


def test_panels_fill_rows_and_hide_what_is_left_over():
    figure, axes = panels(["a", "b", "c"], rows=2, width=5.0)
    assert [ax.get_visible() for ax in axes] == [True, True, True, False]
    assert figure.get_figwidth() == 5.0
    figure.canvas.draw()
    a, b, c = (ax.get_position() for ax in axes[:3])
    assert a.y0 == pytest.approx(b.y0) and a.x0 < b.x0
    assert c.y1 < a.y0 and c.x0 == pytest.approx(a.x0)
    assert len(axes[0].get_xticks()) > 0  # ordinary axes without an extent


def test_panels_leave_the_style_of_others_alone():
    with plt.rc_context():
        plt.rcdefaults()
        before = dict(plt.rcParams)
        panels(["a"])
        assert dict(plt.rcParams) == before


def test_square_grid_goes_row_by_row_from_below():
    expected = [[-2, -2], [0, -2], [2, -2], [-2, 0], [0, 0], [2, 0], [-2, 2], [0, 2], [2, 2]]
    assert square_grid(2.0, 3).tolist() == expected


def test_a_peak_of_density_is_drawn_at_its_place(ax):
    """Peak at (2, −1): right of the centre and below it."""
    peak = Gaussian(torch.tensor([2.0, -1.0]), 0.05)
    draw_density(ax, peak.log_prob, extent=4.0, resolution=81)
    (image,) = ax.get_images()
    values = np.asarray(image.get_array())
    assert values.shape == (81, 81) and image.get_extent() == [-4.0, 4.0, -4.0, 4.0]
    assert image.origin == "lower"
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (column / 10 - 4, row / 10 - 4) == pytest.approx((2, -1))
    # the density itself and not its logarithm: 1/(2π 0.05)
    assert values.max() == pytest.approx(1 / (2 * np.pi * 0.05), rel=1e-4)
    # and on the canvas: the darkest pixel lies there too
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].sum(axis=2)
    x, y = ax.transData.transform((2, -1)).round().astype(int)
    centre = pixels[pixels.shape[0] - y, x]
    mirrored_x, mirrored_y = ax.transData.transform((2, 1)).round().astype(int)
    assert centre < pixels[pixels.shape[0] - mirrored_y, mirrored_x] - 100


def test_samples_are_drawn_where_they_are(ax):
    x = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], requires_grad=True)
    draw_samples(ax, x, color=MODEL, size=7.0)
    (points,) = ax.collections
    assert points.get_offsets().tolist() == x.tolist()
    assert to_hex(points.get_facecolor()[0]) == MODEL
    assert points.get_sizes() == [7.0]


def test_arrows_point_along_the_field_at_their_time(ax):
    """v = (−y, x) + (t, 0), which turns to the left, at every point of the grid."""
    seen = []

    def field(x, t):
        seen.append(t)
        return torch.stack([-x[:, 1] + t, x[:, 0]], dim=1)

    draw_field(ax, field, t=0.25, extent=3.0, resolution=5)
    (arrows,) = ax.collections
    assert len(arrows.XY) == 25 and seen[0].shape == (25,)
    np.testing.assert_allclose(arrows.U, -arrows.XY[:, 1] + 0.25, atol=1e-6)
    np.testing.assert_allclose(arrows.V, arrows.XY[:, 0], atol=1e-6)
    # half a cell of 6/5 inside the window, the middle of an arrow on its point
    assert np.abs(arrows.XY).max() == pytest.approx(3 * 0.8)
    assert arrows.pivot == "middle"


def test_trajectories_keep_their_order_and_ends(ax):
    states = torch.arange(12.0).reshape(3, 2, 2)  # three times, two paths
    draw_trajectories(ax, states)
    lines = [line.get_xydata().tolist() for line in ax.lines]
    assert lines == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
    starts, ends = ax.collections
    assert starts.get_offsets().tolist() == [[0, 1], [2, 3]]
    assert ends.get_offsets().tolist() == [[8, 9], [10, 11]]
    assert to_hex(starts.get_facecolor()[0]) == NOISE and to_hex(ends.get_facecolor()[0]) == DATA


def test_trajectories_without_ends(ax):
    draw_trajectories(ax, torch.zeros(3, 2, 2), color=NOISE, ends=False)
    assert len(ax.lines) == 2 and len(ax.collections) == 0
    assert ax.lines[0].get_color() == NOISE


def test_show_emits_picture_name_and_alternative_text(displayed):
    figure, _ = panels(["a"], width=5.0)
    show(figure, "ring", "Eleven blobs on a circle.")
    (((bundle,), options),) = displayed
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert options["raw"] is True
    assert options["metadata"]["image/png"] == {"alt": "Eleven blobs on a circle.", "width": 500}
    # the key under which myst-nb's glue finds it
    assert options["metadata"]["scrapbook"] == {"name": "ring", "mime_prefix": ""}
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("alt", ["", "  "])
def test_show_refuses_a_picture_without_alternative_text(alt, displayed):
    with pytest.raises(ValueError, match="alt is empty"):
        show(panels(["a"])[0], "ring", alt)
    assert displayed == []
