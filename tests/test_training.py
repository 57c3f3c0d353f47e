"""Training against least squares, EMA against PyTorch's."""

import math
from itertools import islice

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fmtutorial.checkpoints import load_checkpoint, save_checkpoint
from fmtutorial.training import EMA, train


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def squared_loss(network, generator):
    """Of a fixed noisy linear relation."""
    x = torch.randn(50, 3, generator=generator)
    y = x @ torch.randn(3, 2, generator=generator) + 0.1 * torch.randn(50, 2, generator=generator)
    return x, y, lambda: ((network(x) - y) ** 2).sum(dim=1).mean()


def weights_of(network):
    return [p.detach().clone() for p in network.parameters()]


def test_training_reaches_the_least_squares_solution(generator):
    network = linear()
    x, y, loss = squared_loss(network, generator)
    steps = list(train(network, loss, 600, learning_rate=0.05))
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(50, 1)], dim=1), y).solution
    # the rate falls to 0, so Adam settles to float32's rounding of a sum over 50
    torch.testing.assert_close(network.weight, solution[:3].T, rtol=0, atol=1e-4)
    torch.testing.assert_close(network.bias, solution[3], rtol=0, atol=1e-4)
    assert [s.number for s in steps] == list(range(1, 601))
    assert steps[-1].loss == pytest.approx(loss().item(), rel=1e-4)
    assert steps[0].loss > 5 * steps[-1].loss


def test_learning_rate_falls_along_half_a_cosine():
    """lr · cos²(π k / 2n) after k of n steps: whole, half at the middle, almost 0 at the end."""
    network = linear()
    steps = list(train(network, lambda: network.weight.sum(), 100, learning_rate=0.2))
    rates = [s.learning_rate for s in steps]
    assert rates == pytest.approx([0.2 * math.cos(math.pi * k / 200) ** 2 for k in range(100)])
    assert rates[0] == 0.2 and rates[50] == pytest.approx(0.1)


def test_each_step_uses_its_rate_and_no_older_gradient():
    """Under a constant gradient Adam moves by exactly the rate, so the way is the sum of rates.

    A gradient that added up over steps, or weight decay, would change the way by per cents.
    """
    network = linear()
    start = network.weight.detach().clone()
    rates = [s.learning_rate for s in train(network, lambda: network.weight.sum(), 40, 0.1)]
    torch.testing.assert_close(start - network.weight.detach(), torch.full((2, 3), sum(rates)))


def test_nothing_happens_until_it_is_iterated(generator):
    network = linear()
    before = weights_of(network)
    steps = train(network, squared_loss(network, generator)[2], 10)
    assert all(map(torch.equal, before, weights_of(network)))
    next(steps)
    assert not all(map(torch.equal, before, weights_of(network)))
    after = weights_of(network)
    assert all(map(torch.equal, after, weights_of(network)))


def test_loss_is_reported_before_its_step(generator):
    network = linear()
    _, _, loss = squared_loss(network, generator)
    before = loss().item()
    assert next(train(network, loss, 10)).loss == before


def test_same_seed_same_result():
    def run(seed):
        network = linear(seed)
        generator = torch.Generator().manual_seed(seed)

        def loss():
            x = torch.randn(8, 3, generator=generator)
            return (network(x) - x[:, :2]).square().mean()

        return [s.loss for s in train(network, loss, 20)], weights_of(network)

    losses, weights = run(0)
    again, same = run(0)
    assert losses == again and all(map(torch.equal, weights, same))
    assert run(1)[0] != losses


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_harms(value):
    network, calls = linear(), []
    ema = EMA(network)

    def loss():
        calls.append(1)
        factor = value if len(calls) == 3 else 1.0
        return factor * network.weight.square().sum()

    steps = train(network, loss, 10, ema=ema)
    next(steps), next(steps)
    before, average = weights_of(network), weights_of(ema.network)
    with pytest.raises(FloatingPointError, match=f"the loss is {value} at step 3 of 10"):
        next(steps)
    assert all(map(torch.equal, before, weights_of(network)))
    assert all(map(torch.equal, average, weights_of(ema.network)))
    assert ema.updates == 2


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -1}, {"learning_rate": 0.0}], ids=str)
def test_steps_and_rate_must_be_positive(options):
    network = linear()
    with pytest.raises(ValueError, match="must be positive"):
        next(train(network, lambda: network.weight.sum(), **({"steps": 5} | options)))


def test_a_loss_of_many_numbers_is_refused():
    network = linear()
    with pytest.raises(ValueError, match=r"the loss has shape \(2, 3\); return its mean"):
        next(train(network, lambda: network.weight, 5))


def test_warm_up_rises_in_equal_steps_under_the_cosine():
    """Thirds of the cosine's 1, (1 + √½)/2, ½ and (1 − √½)/2, worked out by hand."""
    network = linear()
    rates = [
        s.learning_rate
        for s in train(network, lambda: network.weight.sum(), 4, learning_rate=0.6, warm_up=2)
    ]
    assert rates == pytest.approx([0.2, 0.2 + 0.2 * 0.5**0.5, 0.3, 0.3 - 0.3 * 0.5**0.5])


def test_a_warm_up_longer_than_the_run_only_rises():
    network = linear()
    steps = train(network, lambda: network.weight.sum(), 3, learning_rate=1.0, warm_up=9)
    # the cosine is 1, 3/4, 1/4
    assert [s.learning_rate for s in steps] == pytest.approx([0.1, 0.2 * 0.75, 0.3 * 0.25])


def slope(network):
    """A loss whose gradient is 3 in one entry of the weight and 4 in one of the bias: length 5."""
    return lambda: 3 * network.weight[0, 0] + 4 * network.bias[1]


@pytest.mark.parametrize("longest, factor", [(1.0, 0.2), (4.9, 0.98), (5.1, 1.0), (math.inf, 1.0)])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_a_long_gradient_is_shortened_to_the_norm(longest, factor, scaled):
    """The norm of all parameters together, and after a scaler's factor is taken out.

    Plain gradient descent shows its length; Adam would not.
    """
    network = linear()
    before = weights_of(network)
    steps = train(
        network,
        slope(network),
        1,
        learning_rate=0.1,
        max_gradient_norm=longest,
        optimizer=torch.optim.SGD(network.parameters(), lr=7.0),
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None,
    )
    assert next(steps).learning_rate == 0.1
    weight, bias = (a - b for a, b in zip(weights_of(network), before, strict=True))
    expected = torch.zeros(2, 3)
    expected[0, 0] = -0.1 * 3 * factor
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(bias, torch.tensor([0, -0.1 * 4 * factor]), rtol=1e-5, atol=1e-7)


def test_a_given_optimizer_continues_with_the_rates_of_the_run():
    """Under momentum 1/2 the steps are 1, 3/2 and 7/4 gradients, if the second run remembers.

    The rates are the run's, in every group of parameters.
    """
    network = linear()
    before = weights_of(network)
    groups = [{"params": [network.weight], "lr": 8.0}, {"params": [network.bias], "lr": 9.0}]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    rates = []
    for steps in (1, 2):
        run = train(network, slope(network), steps, learning_rate=0.1, optimizer=optimizer)
        rates += [s.learning_rate for s in run]
    assert rates == pytest.approx([0.1, 0.1, 0.05])
    way = 0.1 * 1 + 0.1 * 1.5 + 0.05 * 1.75
    assert (before[0] - network.weight.detach())[0, 0].item() == pytest.approx(3 * way, rel=1e-5)
    assert (before[1] - network.bias.detach())[1].item() == pytest.approx(4 * way, rel=1e-5)


def test_a_run_in_two_halves_is_the_whole_run(tmp_path):
    """Bit for bit, rates and numbers included, through a checkpoint as a lab would write it."""
    batches = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(3))

    def start(seed):
        network = linear(seed)
        return network, torch.optim.AdamW(network.parameters(), weight_decay=0.0)

    def steps(network, optimizer, done):
        left = iter(batches[done:])

        def loss():
            x = next(left)
            return (network(x) - x[:, :2].sin()).square().mean()

        options = {"warm_up": 4, "max_gradient_norm": 0.5, "optimizer": optimizer, "done": done}
        return train(network, loss, 6, learning_rate=0.1, **options)

    whole, optimizer = start(0)
    expected = list(steps(whole, optimizer, 0))
    assert [s.number for s in expected] == [1, 2, 3, 4, 5, 6]

    network, optimizer = start(0)
    first = list(islice(steps(network, optimizer, 0), 3))
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "run.pt", state)
    state = load_checkpoint(tmp_path / "run.pt")

    network, optimizer = start(9)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    assert first + list(steps(network, optimizer, 3)) == expected
    assert all(map(torch.equal, weights_of(network), weights_of(whole)))


def test_nothing_is_left_of_a_run_that_is_done():
    network = linear()
    before = weights_of(network)
    assert list(train(network, slope(network), 5, done=5)) == []
    assert all(map(torch.equal, before, weights_of(network)))


@pytest.mark.parametrize("longest", [math.inf, 0.3])
def test_a_scaler_changes_nothing_in_single_precision(longest, generator):
    """Its factors are powers of two, exact in float32, and it reports the loss without them."""
    runs = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)):
        network = linear()
        _, _, loss = squared_loss(network, torch.Generator().manual_seed(0))
        options = {"max_gradient_norm": longest, "scaler": scaler}
        runs.append((list(train(network, loss, 20, 0.05, **options)), weights_of(network)))
    (plain, weights), (scaled, same) = runs
    assert [s.loss for s in scaled] == pytest.approx([s.loss for s in plain], rel=1e-5)
    assert [s.learning_rate for s in scaled] == [s.learning_rate for s in plain]
    torch.testing.assert_close(same, weights)
    # it was in use: every five steps it tried a factor twice as large
    assert scaler.get_scale() == 2.0**14


@pytest.mark.parametrize("longest", [math.inf, 1.0])
def test_a_scaler_skips_a_step_whose_gradients_overflow(longest):
    """float32 ends at 2¹²⁸: 3 · 2¹²⁷ is beyond, after a halving 4 · 2¹²⁶ still is, 4 · 2¹²⁵ not."""
    network = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    options = {"max_gradient_norm": longest, "optimizer": sgd, "scaler": scaler}
    with torch.no_grad():  # a loss of 0 stays finite at any scale
        network.weight.zero_()
        network.bias.zero_()
    before = weights_of(network)
    moved, scales = [], []
    for step in train(network, slope(network), 4, learning_rate=1e-3, **options):
        moved.append(not all(map(torch.equal, before, weights_of(network))))
        scales.append(math.log2(scaler.get_scale()))
        assert math.isfinite(step.loss)
    assert moved == [False, False, True, True]
    assert scales == [126, 125, 125, 125]


def random_walk(network, steps, generator):
    """Change a network's weights at random, as training would."""
    for _ in range(steps):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        yield


def test_ema_after_its_warm_up_is_pytorchs(generator):
    """(1 + n)/(10 + n) is at least 2/11, so a decay of 0.15 is in force from the first update."""
    network = linear()
    ours = EMA(network, decay=0.15)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.15))
    theirs.update_parameters(network)  # its first update copies
    for _ in random_walk(network, 10, generator):
        ours.update(network)
        theirs.update_parameters(network)
        for average, expected in zip(
            weights_of(ours.network), weights_of(theirs.module), strict=True
        ):
            torch.testing.assert_close(average, expected)


def test_ema_warms_up(generator):
    """Decays 2/11, 3/12, 4/13, then 0.32 < 5/14 by recursion in Python numbers."""
    network = linear()
    ema = EMA(network, decay=0.32)
    expected = network.bias[0].item()
    decays = [2 / 11, 3 / 12, 4 / 13, 0.32, 0.32]
    for decay, _ in zip(decays, random_walk(network, 5, generator), strict=True):
        ema.update(network)
        expected = decay * expected + (1 - decay) * network.bias[0].item()
        assert ema.network.bias[0].item() == pytest.approx(expected, rel=1e-5)


def test_ema_is_a_copy_apart():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = weights_of(network)
    ema = EMA(network)
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert not ema.network.training and network.training
    assert all(p.requires_grad for p in network.parameters())
    network(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    ema.update(network)
    assert all(map(torch.equal, before, weights_of(network)))
    # buffers are copied, not averaged
    assert torch.equal(ema.network[1].running_mean, network[1].running_mean)
    assert ema.network[1].num_batches_tracked == 1


def test_train_updates_the_average_after_each_step(generator):
    network = linear()
    ema, by_hand = EMA(network, decay=0.9), EMA(network, decay=0.9)
    for _ in train(network, squared_loss(network, generator)[2], 7, ema=ema):
        by_hand.update(network)
    assert ema.updates == 7
    assert all(map(torch.equal, weights_of(ema.network), weights_of(by_hand.network)))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_ema_refuses_a_decay_outside_its_interval(decay):
    with pytest.raises(ValueError, match=r"decay is .*\[0, 1\)"):
        EMA(linear(), decay)


@pytest.mark.parametrize(
    "options",
    [
        {"max_gradient_norm": 0.0},
        {"max_gradient_norm": float("nan")},
        {"max_gradient_norm": -1.0},
        {"warm_up": -1},
        {"done": -1},
        {"done": 6},
    ],
    ids=str,
)
def test_numbers_that_would_train_backwards_or_never_are_refused(options):
    network = linear()
    with pytest.raises(ValueError, match=next(iter(options))):
        next(train(network, lambda: network.weight.sum(), 5, **options))


def test_a_gradient_that_is_not_finite_stops_before_it_harms():
    """The loss √w² is 0 at w = 0, and its gradient 0/0."""
    network = linear()
    with torch.no_grad():
        network.weight.zero_()
    before = weights_of(network)
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 1 of 3"):
        next(train(network, lambda: network.weight.square().sum().sqrt(), 3))
    assert all(map(torch.equal, before, weights_of(network)))
