"""No tensor of a lab goes to matplotlib or NumPy from the default device, which may be a GPU.

The labs run on a GPU too rarely to find out there. So their code is read: a name that was computed
from what PyTorch made on the default device must go through ``.cpu()``, or become a number.
"""

import ast

import pytest
from test_notebooks import LABS, NOTEBOOKS, code_cells

DRAWS = {
    "plot",
    "scatter",
    "hist",
    "fill_between",
    "imshow",
    "errorbar",
    "bar",
    "contour",
    "quiver",
}
LEAVES = {"cpu", "tolist", "item", "numpy"}


def on_device(node, names):
    """Whether the value of an expression may be a tensor on the default device."""
    match node:
        case ast.Call(func=ast.Attribute(attr=attr, value=value)):
            if attr in LEAVES:
                return False
            if isinstance(value, ast.Name) and value.id == "torch":
                return True
            return on_device(value, names)
        case ast.Call(func=ast.Name(id=name)):
            return name in names
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(value=value) | ast.Subscript(value=value) | ast.UnaryOp(operand=value):
            return on_device(value, names)
        case ast.BinOp(left=left, right=right):
            return on_device(left, names) or on_device(right, names)
    return False


def drawn_from_device(cells):
    """Arguments of matplotlib's methods, and of ``.numpy()``, that are still on the device."""
    names = set()
    for tree in cells:
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.Call)]
        for node in sorted(calls, key=lambda n: (n.end_lineno, n.end_col_offset)):
            if isinstance(node, ast.Assign):
                parts = [part for target in node.targets for part in ast.walk(target)]
                assigned = {part.id for part in parts if isinstance(part, ast.Name)}
                names = names | assigned if on_device(node.value, names) else names - assigned
            elif isinstance(node.func, ast.Attribute) and node.func.attr in {*DRAWS, "numpy"}:
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                values = [node.func.value] if node.func.attr == "numpy" else given
                yield from (ast.unparse(value) for value in values if on_device(value, names))


ON_DEVICE = [
    lab
    for lab in LABS
    if "set_default_device" in (NOTEBOOKS / f"{lab}.py").read_text(encoding="utf-8")
]
"""The others make their tensors on the CPU unless they name a device."""


@pytest.mark.parametrize("lab", ON_DEVICE)
def test_matplotlib_and_numpy_get_nothing_from_the_default_device(lab):
    cells = [ast.parse(cell.source) for cell in code_cells(lab)[1:]]
    assert list(drawn_from_device(cells)) == []


@pytest.mark.parametrize(
    "code, found",
    [
        ("ax.scatter(torch.zeros(12), x.cpu())", ["torch.zeros(12)"]),
        ("t = torch.linspace(0, 1, 5)\nleft.plot(t, t.cpu())", ["t"]),
        ("t = torch.ones(5)\nu = 2 * t[:3]\nax.plot(u.square(), u.tolist())", ["u.square()"]),
        ("solve_ivp(f, torch.ones(2).numpy())", ["torch.ones(2)"]),
        ("ax.plot([0] * 12, torch.ones(2).cpu().numpy())", []),
    ],
)
def test_the_reading_finds_what_is_on_the_device(code, found):
    assert list(drawn_from_device([ast.parse(code)])) == found
