"""What the network sees, and that samples of a batch do not meet in it."""

import math

import pytest
import torch

from fmtutorial.networks import MLP, MeanFlowMLP


def network(event=(2,), **options):
    torch.manual_seed(0)
    return MLP(event, width=16, depth=2, **options).double()


def batch(event, generator):
    x = torch.randn(3, *event, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def test_velocity_has_the_shape_of_the_state(event, generator):
    x, t = batch(event, generator)
    v = network(event)(x, t)
    assert v.shape == x.shape and v.dtype == x.dtype


def test_time_and_place_matter(event, generator):
    """Each sample's output moves with its own time and state, and with no other's."""
    net, (x, t) = network(event), batch(event, generator)
    v = net(x, t)
    for j in range(3):
        others = [i for i in range(3) if i != j]
        for moved_x, moved_t in ((x.clone(), t), (x, t.clone())):
            (moved_x if moved_x is not x else moved_t)[j] += 0.1
            moved = net(moved_x, moved_t)
            assert not torch.allclose(moved[j], v[j], rtol=1e-3)
            # matrix products of another batch may round differently
            torch.testing.assert_close(moved[others], v[others], rtol=1e-12, atol=1e-12)


def test_the_order_of_the_batch_does_not_matter(event, generator):
    net, (x, t) = network(event), batch(event, generator)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order], t[order]), net(x, t)[order], rtol=1e-12, atol=1e-12)


def test_what_the_first_layer_sees():
    """x, t, sin kπt, cos kπt and the label as one of K: at t = 1/2 and 1 known without a sine."""
    net = network(frequencies=3, labels=4)
    seen = []
    net.body[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x, t = torch.tensor([[5.0, 6.0], [7.0, 8.0]]).double(), torch.tensor([0.5, 1.0]).double()
    net(x, t, torch.tensor([3, 0]))
    expected = torch.tensor(
        [
            [5, 6, 0.5, 1, 0, -1, 0, -1, 0, 0, 0, 0, 1],
            [7, 8, 1.0, 0, 0, 0, -1, 1, -1, 1, 0, 0, 0],
        ]
    ).double()
    # the angles are kept in float32: π to 9e-8, three times over
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_size_is_as_asked():
    """Weights and biases of 2 + 1 + 2·4 → 7 → 7 → 7 → 2."""
    count = sum(p.numel() for p in MLP((2,), width=7, depth=3).parameters())
    assert count == (11 * 7 + 7) + 2 * (7 * 7 + 7) + (7 * 2 + 2)


def test_layers_are_smooth_and_not_linear(generator):
    """A field without a kink: the second derivative exists and is not zero."""
    net, (x, t) = network(), batch((2,), generator)
    hessian = torch.autograd.functional.hessian(lambda x: net(x, t).sum(), x)
    assert hessian.abs().max() > 1e-3


def test_label_matters_and_only_to_its_own_sample(generator):
    net, (x, t) = network(labels=3), batch((2,), generator)
    v, moved = net(x, t, torch.tensor([0, 1, 2])), net(x, t, torch.tensor([0, 2, 2]))
    assert not torch.allclose(v[1], moved[1], rtol=1e-3)
    torch.testing.assert_close(v[[0, 2]], moved[[0, 2]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "labels, label, error, match",
    [
        (0, torch.zeros(3, dtype=torch.int64), ValueError, "built with labels=0"),
        (2, None, ValueError, "built with labels=2: got label None"),
        (2, torch.zeros(3, 1, dtype=torch.int64), ValueError, r"shape \(3, 1\); pass \(3,\)"),
        (2, torch.zeros(1, dtype=torch.int64), ValueError, r"shape \(1,\); pass \(3,\)"),
        (2, torch.zeros(3), TypeError, r"dtype torch.float32; convert it with label.long\(\)"),
        (2, torch.tensor([0, 1, 2]), ValueError, "run from 0 to 2; the network knows 0 to 1"),
        (2, torch.tensor([0, -1, 1]), ValueError, "run from -1 to 1"),
    ],
    ids=["stray", "missing", "column", "short", "float", "too large", "negative"],
)
def test_wrong_labels_are_refused(labels, label, error, match, generator):
    with pytest.raises(error, match=match):
        network(labels=labels)(*batch((2,), generator), label)


def test_another_event_shape_is_refused(generator):
    with pytest.raises(ValueError, match=r"event shape \(3,\); the network was built for \(2,\)"):
        network((2,))(*batch((3,), generator))


def test_same_seed_same_network(generator):
    x, t = batch((2,), generator)
    assert torch.equal(network()(x, t), network()(x, t))


def test_time_features_do_not_repeat_within_the_interval():
    """sin πt and cos πt tell t = 0 from t = 1; the angles are no parameters but move with it."""
    net = MLP(frequencies=4)
    assert "angles" in dict(net.named_buffers()) and "angles" in net.state_dict()
    torch.testing.assert_close(net.angles, math.pi * torch.tensor([1.0, 2.0, 3.0, 4.0]))


END = torch.tensor([0.9, 0.6, 1.0], dtype=torch.float64)


def mean_flow_network(event=(2,), **options):
    torch.manual_seed(0)
    return MeanFlowMLP(event, width=16, depth=2, **options).double()


def test_mean_velocity_has_the_shape_of_the_state(event, generator):
    x, start = batch(event, generator)
    u = mean_flow_network(event)(x, start, END)
    assert u.shape == x.shape and u.dtype == x.dtype
    with torch.no_grad():
        alone = mean_flow_network(event)(x[:1], start[:1], END[:1])
    torch.testing.assert_close(alone, u[:1].detach(), rtol=1e-12, atol=1e-12)


def test_place_start_and_end_matter_each_in_its_own_way(event, generator):
    """Each sample's output moves with its own state and times, and with no other's."""
    net, (x, start) = mean_flow_network(event), batch(event, generator)
    u = net(x, start, END)
    for j in range(3):
        others = [i for i in range(3) if i != j]
        results = []
        for place in range(3):
            inputs = [x.clone(), start.clone(), END.clone()]
            inputs[place][j] -= 0.1
            moved = net(*inputs)
            # rounding would leave 1e-15
            assert (moved[j] - u[j]).abs().max() > 1e-5
            torch.testing.assert_close(moved[others], u[others], rtol=1e-12, atol=1e-12)
            results.append(moved[j])
        # start and end are not one input: their difference alone would not tell
        assert (results[1] - 2 * u[j] + results[2]).abs().max() > 1e-5


def test_what_the_first_layer_of_a_mean_velocity_sees():
    """x, the end, the start, and sin kπt, cos kπt of the start, known at 1/2 and 0."""
    net = mean_flow_network(frequencies=2)
    seen = []
    net.body.body[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.tensor([[5.0, 6.0], [7.0, 8.0]]).double()
    net(x, torch.tensor([0.5, 0.0]).double(), torch.tensor([0.9, 0.25]).double())
    expected = torch.tensor(
        [[5, 6, 0.9, 0.5, 1, 0, 0, -1], [7, 8, 0.25, 0.0, 0, 0, 1, 1]], dtype=torch.float64
    )
    # the angles are kept in float32: π to 9e-8, twice over
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_size_of_a_mean_velocity_is_as_asked():
    """An MLP of one coordinate more, which it drops: 2 + 1 + 1 + 2·5 → 7 → 7 → 3."""
    count = sum(p.numel() for p in MeanFlowMLP((2,), width=7, depth=2, frequencies=5).parameters())
    assert count == (14 * 7 + 7) + (7 * 7 + 7) + (7 * 3 + 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch loading forward mode
def test_mean_velocity_differentiates_forward_and_backward(generator):
    """Its derivative along (w, 1, 0), as MeanFlow needs it, against central differences."""
    net, (x, start) = mean_flow_network(), batch((2,), generator)
    w = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    along = (w, torch.ones_like(start), torch.zeros_like(END))
    _, rate = torch.func.jvp(net, (x, start, END), along)
    h = 1e-5
    differences = (net(x + h * w, start + h, END) - net(x - h * w, start - h, END)) / (2 * h)
    # h² = 1e-10 times derivatives of sin 4πt of order 1e3, less its small weight
    torch.testing.assert_close(rate, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "shapes, match",
    [
        (((3, 3), (3,), (3,)), r"event shape \(3,\); the network was built for \(2,\)"),
        (((3, 2, 1), (3,), (3,)), r"event shape \(2, 1\); the network was built for \(2,\)"),
        (((3, 2), (3, 1), (3,)), r"t has shape \(3, 1\)"),
        (((3, 2), (1,), (3,)), r"t has shape \(1,\)"),
        (((3, 2), (3,), (3, 1)), r"t has shape \(3, 1\)"),
        (((3, 2), (3,), (1,)), r"t has shape \(1,\)"),
        (((3, 2), (3,), ()), r"t has shape \(\)"),
    ],
    ids=["event", "reshaped", "start column", "one start", "end column", "one end", "scalar end"],
)
def test_wrong_shapes_for_a_mean_velocity_are_refused(shapes, match):
    with pytest.raises(ValueError, match=match):
        mean_flow_network()(*(torch.zeros(shape).double() for shape in shapes))


@pytest.mark.parametrize("place", range(3))
def test_a_mean_velocity_of_integers_is_refused(place, generator):
    inputs = [*batch((2,), generator), END]
    inputs[place] = inputs[place].long()
    with pytest.raises(TypeError, match="torch.int64"):
        mean_flow_network()(*inputs)


def test_a_network_without_hidden_layers_is_linear_in_its_state(generator):
    net = MLP((2,), depth=0).double()
    x, t = batch((2,), generator)
    middle = net((x + x.flip(0)) / 2, t)
    # t differs between the samples, so only the state is averaged
    torch.testing.assert_close(middle, (net(x, t) + net(x.flip(0), t)) / 2)


@pytest.mark.parametrize("event", [(2,), (), (1, 4, 4)], ids=str)
def test_an_empty_batch_has_an_empty_answer(event):
    x, t = torch.zeros(0, *event), torch.zeros(0)
    assert MLP(event, width=8)(x, t).shape == x.shape
    assert MeanFlowMLP(event, width=8)(x, t, t).shape == x.shape


def test_another_floating_point_type_is_refused_in_words():
    x, t = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(
        TypeError, match=r"x has dtype torch.float64 and the network's weights .*32"
    ):
        MLP(width=8)(x.double(), t)
    with pytest.raises(TypeError, match="t has dtype torch.float64"):
        MLP(width=8)(x, t.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert MLP(width=8)(x.bfloat16(), t).shape == x.shape  # converted
        with pytest.raises(TypeError, match="x has dtype torch.float64"):
            MLP(width=8)(x.double(), t)
