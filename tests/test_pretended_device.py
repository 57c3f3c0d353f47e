"""The pretended device refuses what a GPU refuses, and answers all else as the CPU does."""

import copy

import numpy as np
import pytest
import torch
from pretended import MODULE, NAME, Generator, Pretended, Watch
from torch import nn
from torch.func import hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

HERE = torch.device(NAME)


@pytest.fixture
def watched():
    with Watch():
        yield


@pytest.fixture
def single(monkeypatch):
    monkeypatch.setattr(MODULE, "double", False)


def here(*shape):
    return torch.ones(shape, device=HERE)


MIXED = {
    "sum": lambda: here(3) + torch.ones(3),
    "product with a number of the device": lambda: torch.ones(3) * here(),
    "matrix": lambda: here(2, 2) @ torch.ones(2, 2),
    "two numbers side by side": lambda: torch.stack([here(), torch.tensor(1.0)]),
    "choice": lambda: torch.where(here(3) > 0, here(3), torch.ones(3)),
    "in place": lambda: here(3).add_(torch.ones(3)),
    "into the CPU": lambda: torch.ones(3).mul_(here(3)),
    "rows": lambda: here(3).index_select(0, torch.tensor([0])),
    "gather": lambda: here(3).gather(0, torch.tensor([0])),
    "index on the device": lambda: torch.ones(3)[torch.tensor([0], device=HERE)],
    "mask": lambda: here(3).masked_fill(torch.ones(3) > 0, 0.0),
    "output": lambda: torch.add(here(3), here(3), out=torch.empty(3)),
    "layer": lambda: nn.Linear(2, 2)(here(1, 2)),
    "network": lambda: nn.Linear(2, 2).to(HERE)(torch.ones(1, 2)),
    "loss": lambda: F.mse_loss(here(3), torch.ones(3)),
    "distances": lambda: torch.cdist(here(3, 2), torch.ones(3, 2)),
    "comparison": lambda: torch.equal(here(3), torch.ones(3)),
    "closeness": lambda: torch.allclose(here(3), torch.ones(3)),
    "jvp": lambda: jvp(lambda x: x * torch.ones(3), (here(3),), (here(3),)),
    "tangent": lambda: jvp(torch.sin, (here(3),), (torch.ones(3),)),
    "vmap": lambda: vmap(lambda x: x * torch.ones(3))(here(2, 3)),
    "jacrev": lambda: jacrev(lambda x: torch.ones(3, 3) @ x)(here(3)),
}
"""A tensor of the CPU planted among those of the device."""


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_tensors_of_the_cpu_are_refused(mixed):
    with pytest.raises(RuntimeError, match=r"same device|tangent|device"):
        mixed()


def test_single_numbers_of_the_cpu_are_taken_where_a_gpu_takes_them():
    two = torch.tensor(2.0)
    for x in (
        here(3) * two,
        two * here(3),
        here(3).fill_(two),
        torch.lerp(0 * here(3), here(3), two),
    ):
        assert x.device.type == NAME and x.tolist() == [2.0, 2.0, 2.0]
    assert torch.where(here(3) > 0, two, here(3)).tolist() == [2.0, 2.0, 2.0]


def test_indices_may_be_on_the_cpu():
    x = torch.arange(4.0, device=HERE)
    for rows in ([1, 3], torch.tensor([1, 3]), torch.tensor([1, 3], device=HERE), np.array([1, 3])):
        assert x[rows].device.type == NAME and x[rows].tolist() == [1.0, 3.0]
    assert x[torch.tensor([False, True, False, True])].tolist() == x[x % 2 == 1].tolist()
    x[torch.tensor([0])] = 7.0
    with pytest.raises(RuntimeError, match="same device"):
        x[torch.tensor([0, 1])] = torch.ones(2)
    assert x.tolist() == [7.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("leave", [np.asarray, np.array, Pretended.numpy, lambda x: np.sin(x)])
def test_numpy_is_refused(leave):
    with pytest.raises(TypeError, match=r"Tensor.cpu\(\) first"):
        leave(here(3))
    assert here(3).cpu().numpy().sum() == 3


def test_matplotlib_is_refused():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for draw in (figure.subplots().plot, figure.subplots().hist, figure.subplots().imshow):
        with pytest.raises(TypeError, match="Tensor.cpu"):
            draw(here(3, 3))


DRAWS = {
    "randn": lambda g, d: torch.randn(3, generator=g, device=d),
    "randn_like": lambda g, d: torch.rand_like(torch.ones(3, device=d), generator=g),
    "randint": lambda g, d: torch.randint(0, 9, (3,), generator=g, device=d),
    "randperm": lambda g, d: torch.randperm(5, generator=g, device=d),
    "multinomial": lambda g, d: torch.multinomial(torch.ones(5, device=d), 3, generator=g),
    "bernoulli": lambda g, d: torch.bernoulli(torch.ones(3, device=d) / 2, generator=g),
    "normal": lambda g, d: torch.normal(torch.zeros(3, device=d), 1.0, generator=g),
    "in place": lambda g, d: torch.empty(3, device=d).uniform_(generator=g),
}


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_generator_draws_on_its_own_device_only(draw):
    drawn = {place: draw(Generator(place).manual_seed(0), place) for place in ("cpu", NAME)}
    assert drawn[NAME].device.type == NAME and drawn["cpu"].device.type == "cpu"
    assert drawn[NAME].tolist() == drawn["cpu"].tolist()
    for place, other in ((NAME, "cpu"), ("cpu", NAME)):
        with pytest.raises(RuntimeError, match=f"'{place}' device type for generator but found"):
            draw(Generator(other), place)


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3, dtype=torch.float64, device=HERE),
        lambda: torch.ones(3, dtype=torch.float64).to(HERE),
        lambda: here(3).double(),
        lambda: torch.tensor([1.0], dtype=torch.float64, device=HERE),
        lambda: torch.as_tensor(np.ones(3), device=HERE),
        lambda: here(3).sum(dtype=torch.float64),
    ],
)
def test_double_precision_can_be_refused(make):
    with pytest.raises(TypeError, match="double precision"):
        make()


def test_what_is_made_lives_on_the_device():
    base = here(2, 3)
    made = [
        torch.zeros(2, device=HERE),
        torch.tensor([[1.0, 2.0]], device=HERE),
        torch.as_tensor(3, device=HERE),
        torch.arange(4, device=HERE),
        torch.linspace(0, 1, 5, device=HERE),
        torch.eye(3, device=HERE),
        torch.full((2,), 7.0, device=HERE),
        torch.rand(2, device=HERE),
        base.new_zeros(3),
        base.new_tensor([1.0, 2.0]),
        torch.ones_like(base),
        torch.from_numpy(np.ones(3)).to(HERE),
        base.T.reshape(-1),
        base.sum(),
        *base.max(dim=1),
        *base.unbind(),
    ]
    assert all(x.device == torch.device(NAME, 0) for x in made)
    assert base.cpu().device.type == "cpu" and base.to("cpu").device.type == "cpu"
    previous = torch.get_default_device()
    try:
        torch.set_default_device(HERE)
        assert torch.tensor([1.0]).device.type == torch.zeros(2).device.type == NAME
    finally:
        torch.set_default_device(previous)


def test_numbers_are_printed_and_read():
    x = torch.tensor([0.5, 2.0], device=HERE)
    assert f"{x[0]:.2f} {x.sum():.1f}" == "0.50 2.5" and NAME in repr(x)
    assert float(x[1]) == x[1].item() == 2.0 and bool(x[0] > 0) and x.tolist() == [0.5, 2.0]


def test_views_share_their_numbers_and_shapes_change_in_place():
    x = torch.zeros(2, 3, device=HERE)
    row = x[1]
    row += 1
    x.view(3, 2)[0, 1] = 5
    assert x.tolist() == [[0, 5, 0], [1, 1, 1]]
    x.unsqueeze_(0).squeeze_(0).t_()
    assert x.shape == (3, 2) and (x @ torch.ones(2, device=HERE)).tolist() == [1, 6, 1]


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("fused", [False, True])
def test_training_on_it_is_training_on_the_cpu(fused):
    weights = {}
    for place in ("cpu", NAME):
        net = network().to(place, memory_format=torch.channels_last)
        average = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(net.parameters(), fused=fused)
        x = torch.linspace(0, 1, 32, device=place).view(2, 1, 4, 4)
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
        assert all(p.device.type == place for p in (*net.parameters(), *average.parameters()))
        assert all(p.grad.device.type == place for p in net.parameters())
        assert all(p.grad is None for p in copy.deepcopy(net).parameters())
        weights[place] = [p.detach().cpu() for p in net.parameters()]
    for ours, theirs in zip(weights[NAME], weights["cpu"], strict=True):
        # the CPU may choose another algorithm for its own tensors: rounding of float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_network_changes_its_precision_in_place():
    net, x = network().to(HERE), torch.linspace(0, 1, 32, dtype=torch.float64).view(2, 1, 4, 4)
    for real in (torch.float64, torch.float32):
        y = net.to(real)(x.to(HERE, real))
        assert y.dtype == real
        torch.testing.assert_close(y.cpu(), network().to(real)(x.to(real)))


def test_autocast_and_its_scaler():
    net = network().to(HERE)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    scaler = torch.amp.GradScaler(NAME, init_scale=2.0**40)
    with torch.autocast(NAME, torch.float16):
        y = net(here(2, 1, 4, 4))
    assert y.dtype == torch.float16 and net[0].weight.dtype == torch.float32
    before = [p.tolist() for p in net.parameters()]
    scaler.scale(y.float().square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert [p.tolist() for p in net.parameters()] == before and scaler.get_scale() == 2.0**39


def attention(x):
    q = x.view(1, 1, 3, 2)
    return F.scaled_dot_product_attention(q.sin(), q, q.cos()).flatten()


def layer(x):
    weight = torch.linspace(-1, 1, 36, device=x.device).view(6, 6)
    return F.silu(F.group_norm(F.linear(x.view(1, 6), weight), 2)).flatten()


FUNCTIONS = {
    "products": lambda x: torch.outer(x.sin(), x) @ x.square(),
    "layer": layer,
    "choice": lambda x: torch.where(x > 0.5, x**3, x.logsumexp(0)),
    "zeros": lambda x: torch.cat([x, torch.zeros(2, device=x.device)])[:6] * x.norm(),
}
TRANSFORMS = {
    "jvp": lambda f, x: jvp(f, (x,), (x.cos(),)),
    "vjp": lambda f, x: vjp(f, x)[1](x.cos()),
    "jacrev": lambda f, x: jacrev(f)(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "vmap": lambda f, x: vmap(f)(torch.stack([x, x.sin()])),
    "vmap of jacrev": lambda f, x: vmap(jacrev(f))(torch.stack([x, x.sin()])),
    "vmap of jvp": lambda f, x: vmap(lambda v: jvp(f, (x,), (v,))[1])(
        torch.eye(6, device=x.device)
    ),
    "hessian": lambda f, x: hessian(lambda y: f(y).sum())(x),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_products_of_jacobians_are_those_of_the_cpu(transform, function):
    """So what stops on it and not on the CPU is a fault of the book, not of the device."""
    found, wanted = (
        transform(function, torch.linspace(0.1, 1, 6, device=place)) for place in (HERE, "cpu")
    )
    parts = [x if isinstance(x, tuple) else (x,) for x in (found, wanted)]
    for one, other in zip(*parts, strict=True):
        assert one.device.type == NAME
        torch.testing.assert_close(one.cpu(), other)


def test_attention_has_a_forward_derivative_here_which_no_fast_kernel_has():
    """A limit of the device: it takes the plain formula, where CPU and CUDA may refuse."""
    x = torch.linspace(0.1, 1, 6)
    with pytest.raises(NotImplementedError, match="forward AD"):
        jvp(attention, (x,), (x.cos(),))
    on_it = jvp(attention, (x.to(HERE),), (x.cos().to(HERE),))[1].cpu()
    step = 1e-3  # a central difference is off by its square, and by rounding / step
    apart = (attention(x + step * x.cos()) - attention(x - step * x.cos())) / (2 * step)
    assert (on_it - apart).abs().max() < 1e-3
    columns = vmap(jacrev(attention))(torch.stack([x, x.sin()]).to(HERE)).cpu()
    torch.testing.assert_close(columns, torch.stack([jacrev(attention)(y) for y in (x, x.sin())]))
