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
        max_gradient_norm=longest,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None,
    )
    assert next(steps).learning_rate == 0.1
    weight, bias = (a - b for a, b in zip(weights_of(network), before, strict=True))
    expected = torch.zeros(2, 3)
    expected[0, 0] = -0.1 * 3 * factor
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(bias, torch.tensor([0, -0.1 * 4 * factor]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tensors", [False, True], ids=["", "tensors"])
def test_a_given_optimizer_continues_with_the_rates_of_its_groups(tensors):
    """Under momentum 1/2 the steps are 1, 3/2 and 7/4 gradients, if the second run remembers.

    The second run begins at the peaks again, though the first ended below them.
    """
    network = linear()
    before, kind = weights_of(network), torch.tensor if tensors else float
    groups = [
        {"params": [network.weight], "lr": kind(0.1)},
        {"params": [network.bias], "lr": kind(0.3)},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    rates, second = [], []
    for steps in (1, 2):
        for step in train(network, slope(network), steps, optimizer=optimizer):
            rates.append(step.learning_rate)
            second.append(float(optimizer.param_groups[1]["lr"]))
    assert rates == pytest.approx([0.1, 0.1, 0.05])
    assert second == pytest.approx([0.3, 0.3, 0.15])
    way = 0.1 * 1 + 0.1 * 1.5 + 0.05 * 1.75
    assert (before[0] - network.weight.detach())[0, 0].item() == pytest.approx(3 * way, rel=1e-5)
    assert (before[1] - network.bias.detach())[1].item() == pytest.approx(12 * way, rel=1e-5)


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    """A compiled or captured step has no other; its peak must not change with it."""
    network, rate = linear(), torch.tensor(0.25)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    list(train(network, slope(network), 4, optimizer=optimizer))
    (group,) = optimizer.param_groups
    assert group["lr"] is rate and group["initial_lr"] == 0.25
    assert rate.item() == pytest.approx(0.25 * math.cos(math.pi * 3 / 8) ** 2)


def test_a_group_without_a_rate_stays():
    network = nn.Sequential(linear(), nn.Linear(2, 2))
    groups = [{"params": network[0].parameters(), "lr": 0.0}, {"params": network[1].parameters()}]
    optimizer, before = torch.optim.SGD(groups, lr=0.1), weights_of(network)
    steps = train(network, lambda: network(torch.ones(1, 3)).square().sum(), 5, optimizer=optimizer)
    assert [s.learning_rate for s in steps] == [0.0] * 5
    moved = [not torch.equal(a, b) for a, b in zip(before, weights_of(network), strict=True)]
    assert moved == [False, False, True, True]


def test_rates_are_given_once():
    """By the optimizer, or to train."""
    network = linear()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with pytest.raises(ValueError, match=r"learning_rate=0.1 and an optimizer .* leave"):
        next(train(network, slope(network), 5, learning_rate=0.1, optimizer=optimizer))
    assert next(train(network, slope(network), 5)).learning_rate == 1e-3


def test_an_optimizer_of_another_network_is_refused():
    """Also one of both: the gradients of the other's parameters are never cut or looked at."""
    network, other = linear(), linear()
    for parameters in (other.parameters(), [*network.parameters(), other.bias]):
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        with pytest.raises(ValueError, match="parameters that are not the network's"):
            next(train(network, slope(network), 5, optimizer=optimizer))
    # a part of the network's is fine
    next(train(network, slope(network), 5, optimizer=torch.optim.SGD([network.bias], lr=0.5)))


@pytest.mark.parametrize("rate", [-0.5, math.nan, math.inf])
def test_a_group_with_a_wrong_rate_is_refused(rate):
    network = linear()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(ValueError, match="the optimizer's learning rate is"):
        next(train(network, slope(network), 5, optimizer=optimizer))


def test_a_run_in_two_halves_is_the_whole_run(tmp_path):
    """Bit for bit, rates and numbers included, through a checkpoint as a lab would write it.

    The optimizer has two groups, whose present rates are not their peaks, and comes back from
    its state with other rates.
    """
    batches = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(3))

    def start(seed):
        network = linear(seed)
        peak = 0.1 + seed
        groups = [{"params": [network.weight]}, {"params": [network.bias], "lr": 2 * peak}]
        return network, torch.optim.AdamW(groups, lr=peak, weight_decay=0.0)

    def steps(network, optimizer, done):
        left = iter(batches[done:])

        def loss():
            x = next(left)
            return (network(x) - x[:, :2].sin()).square().mean()

        options = {"warm_up": 4, "max_gradient_norm": 0.5, "optimizer": optimizer, "done": done}
        return train(network, loss, 6, **options)

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
    sgd = torch.optim.SGD(network.parameters(), lr=1e-3)
    options = {"max_gradient_norm": longest, "optimizer": sgd, "scaler": scaler}
    with torch.no_grad():  # a loss of 0 stays finite at any scale
        network.weight.zero_()
        network.bias.zero_()
    before = weights_of(network)
    moved, scales = [], []
    for step in train(network, slope(network), 4, **options):
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


# The average in other precisions.


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64], ids=str
)
def test_an_average_moves_in_every_precision(dtype):
    """To within (1 − d)ⁿ of where the weights went: in bfloat16 it would stop on the way."""
    network = linear().to(dtype)
    ema = EMA(network, 0.999)
    ema.updates = 10_000  # past the warm-up
    before = weights_of(ema.network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.5)
    for _ in range(1000):
        ema.update(network)
    for start, now, end in zip(before, weights_of(ema.network), weights_of(network), strict=True):
        share = (now - start) / (end.to(now) - start)
        # float32 rounds 1000 steps of up to 1e-3 of the way at 2⁻²⁴ of a number below 1
        torch.testing.assert_close(share.real, torch.full_like(share.real, 1 - 0.999**1000),
                                   rtol=0, atol=1e-3)  # fmt: skip
        assert now.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_average_of_low_precision_is_a_network_in_float32(dtype, generator):
    """Buffers too, or its layers would meet two precisions."""
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(dtype)
    ema, x = EMA(network), torch.randn(10, 3, generator=generator)
    network(x.to(dtype))
    ema.update(network)
    assert ema.network(x).dtype == torch.float32
    assert torch.equal(ema.network[1].running_mean, network[1].running_mean.float())
    assert ema.network[1].num_batches_tracked == 1
    assert network[0].weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_network_may_change_its_precision_on_the_way(dtype, generator):
    """The average after it is that of the changed weights, in the precision of its start."""
    network = linear()
    ema, by_hand = EMA(network, 0.15), network.weight.detach().clone()
    network.to(dtype)
    for _ in random_walk(network, 3, generator):
        ema.update(network)
        by_hand = 0.15 * by_hand + 0.85 * network.weight.detach().float()
    assert ema.network.weight.dtype == torch.float32
    torch.testing.assert_close(ema.network.weight.detach(), by_hand)


def test_weights_that_are_shared_frozen_or_whole_numbers(generator):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)).bfloat16()
    network[1].weight = network[0].weight
    network[2].requires_grad_(False)
    network.count = nn.Parameter(torch.tensor([3]), requires_grad=False)
    ema = EMA(network, 0.15)
    assert ema.network[1].weight is ema.network[0].weight
    expected, frozen = ema.network[0].weight.clone(), ema.network[2].weight.clone()
    for _ in range(3):
        with torch.no_grad():
            network[0].weight.add_(1)
            network.count.add_(1)
        ema.update(network)
        expected = 0.15 * expected + 0.85 * network[0].weight.detach().float()
    torch.testing.assert_close(ema.network[1].weight, expected)
    assert torch.equal(ema.network[2].weight, frozen)
    assert ema.network.count.item() == 6


def test_an_average_made_under_inference_mode_can_be_updated():
    network = linear()
    with torch.inference_mode():
        ema = EMA(network)
    ema.update(network)
    assert not any(p.is_inference() for p in ema.network.parameters())


def test_the_average_of_another_network_is_refused():
    """Also where the shapes would broadcast; nothing is changed before that."""
    ema = EMA(nn.Linear(3, 2))
    before = weights_of(ema.network)
    for other in (nn.Linear(1, 2), nn.Linear(3, 2, bias=False), nn.Sequential(linear(), linear())):
        with pytest.raises(ValueError, match="other weights than the average"):
            ema.update(other)
    assert ema.updates == 0 and all(map(torch.equal, before, weights_of(ema.network)))
    for wrong in (None, torch.ones(2)):
        with pytest.raises(TypeError, match="network is of type .*, not Module"):
            EMA(wrong)
    with pytest.raises(TypeError, match="decay is True; pass a number"):
        EMA(linear(), True)


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
        {"steps": 0},
        {"steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-3},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
    ],
    ids=str,
)
def test_numbers_that_would_train_backwards_or_never_are_refused(options):
    network = linear()
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*must be"):
        next(train(network, lambda: network.weight.sum(), **({"steps": 5} | options)))


WRONG = {
    "steps": [5.0, math.nan, "5", None, True],
    "warm_up": [0.5, None, False],
    "done": [1.0, "1"],
    "learning_rate": ["fast", True, 1j, torch.tensor(0.1)],
    "max_gradient_norm": ["1", None, True],
    "ema": [0.999, nn.Linear(3, 2)],
    "optimizer": ["adam", torch.optim.SGD],
    "scaler": [1024.0],
    "network": [None, lambda x: x],
    "loss": [None],
}


@pytest.mark.parametrize(
    "name, value",
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: type(value).__name__ if callable(value) else repr(value),
)
def test_what_is_of_another_type_is_refused(name, value):
    network = linear()
    options = {"network": network, "loss": lambda: network.weight.sum(), "steps": 5}
    kinds = {"ema": "EMA", "network": "Module", "optimizer": "Optimizer", "scaler": "GradScaler"}
    wanted = f"of type .*, not {kinds[name]}" if name in kinds else ".*; pass a"
    with pytest.raises(TypeError, match=f"{name} is {wanted}"):
        next(train(**(options | {name: value})))


# Autograd switched off.


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_needs_autograd(off):
    """Where the generator is iterated, not where it was made."""
    network = linear()
    before = weights_of(network)
    with off():
        steps = train(network, lambda: network.weight.sum(), 5)
        with pytest.raises(ValueError, match=f"no gradient at step 1 of 5.*{off.__name__}"):
            next(steps)
    assert all(map(torch.equal, before, weights_of(network)))
    with off():
        steps = train(network, lambda: network.weight.sum(), 5)
    assert next(steps).number == 1


def test_a_loss_without_a_gradient_is_refused():
    network = linear()
    for loss in (
        lambda: network.weight.detach().sum(),
        lambda: torch.ones(()),
        lambda: torch.ones((), dtype=torch.int64),
    ):
        with pytest.raises(ValueError, match="the loss has no gradient at step 1 of 5"):
            next(train(network, loss, 5))
    with pytest.raises(TypeError, match="the loss is of type float, not Tensor"):
        next(train(network, lambda: 1.0, 5))
    # one's own gradients may be switched on where the caller has none
    with torch.no_grad():
        next(train(network, torch.enable_grad()(lambda: network.weight.sum()), 5))


def test_networks_that_cannot_be_trained_are_refused():
    network = linear()
    network.requires_grad_(False)
    for frozen in (network, nn.ReLU()):
        with pytest.raises(ValueError, match="no parameters to train"):
            next(train(frozen, lambda: torch.ones(()), 5))
    with torch.inference_mode():
        network = linear()
    with pytest.raises(ValueError, match=r"made under torch.inference_mode\(\): make it outside"):
        next(train(network, lambda: network.weight.sum(), 5))


def test_a_gradient_that_is_not_finite_stops_before_it_harms():
    """The loss √w² is 0 at w = 0, and its gradient 0/0."""
    network = linear()
    with torch.no_grad():
        network.weight.zero_()
    before = weights_of(network)
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 1 of 3"):
        next(train(network, lambda: network.weight.square().sum().sqrt(), 3))
    assert all(map(torch.equal, before, weights_of(network)))
