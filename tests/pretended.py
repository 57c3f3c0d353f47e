"""A device that is not the CPU, for machines that have none: what stops on a GPU stops on it.

Importing this file registers it with PyTorch under the name "pretended". Its tensors are wrappers
whose numbers stay on the CPU. It refuses what a GPU refuses: to mix with tensors of the CPU, but
for single numbers; a generator of another device; ``.numpy()``; matrix products of whole numbers;
and double precision, where it plays a GPU that has none, such as Apple's. It knows nothing of a
GPU's speed, memory and rounding.

Through ``torch.func`` (jvp, vmap, jacrev) it answers as the CPU does, ``test_pretended_device.py``
says: so what stops there is a fault of the book. One exception: attention falls back on the plain
formula, which has a forward derivative. The fast kernels of CPU and CUDA have none.
"""

import contextlib
import functools

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default}
"""Their tensors may be on two devices."""

INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
INDEXING |= {aten._index_put_impl_.default, aten._unsafe_index.Tensor}
"""A GPU takes indices that are on the CPU, and copies them."""

SINGLE = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill.Tensor, aten.fill_.Tensor}
"""They take a single number that is on the CPU, as does all that works entry by entry."""

PRODUCTS = {aten.mm.default, aten.mv.default, aten.bmm.default, aten.dot.default}
PRODUCTS |= {aten.addmm.default, aten.addmv.default, aten.baddbmm.default}
"""A GPU has them for real and complex numbers only."""

HALF = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
HALF += ("conv1d", "conv2d")
"""Under autocast a GPU does these in half precision."""


class Module:
    """What ``torch.pretended`` answers PyTorch."""

    double = True
    """Whether the device has double precision."""

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def _is_in_bad_fork(self):
        return False

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def manual_seed_all(self, seed):
        """The CPU's generator, which PyTorch seeds beside it, draws the numbers."""

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


MODULE = Module()


class Pretended(torch.Tensor):
    """A tensor on the pretended device; ``inner``, on the CPU, holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        if inner.dtype in (torch.float64, torch.complex128) and not MODULE.double:
            raise TypeError(f"the device {NAME} has no double precision")
        new = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        new.inner = inner
        return new

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, *args, **(kwargs or {}))

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, new):
        torch.Tensor.data.__set__(self, new)
        self.inner = new.inner

    # What PyTorch does for no class but its own.

    def __reduce_ex__(self, protocol):  # as if it were loaded with map_location="cpu"
        return self.detach().cpu().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):  # of a parameter, without its gradient
        if not isinstance(self, torch.nn.Parameter):
            return super().__deepcopy__(memo)
        fresh = torch.nn.Parameter(self.detach().clone(), self.requires_grad)
        return memo.setdefault(id(self), fresh)

    def tolist(self):
        return self.cpu().tolist()

    def __format__(self, form):
        return self.cpu().__format__(form)

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert a tensor on {self.device} to numpy. Use Tensor.cpu() first")


def run(operation, *args, **kwargs):
    """Refuse tensors of another device, and let the CPU do the rest."""
    ours = {}

    def unwrap(x):
        if isinstance(x, Pretended):
            ours[id(x.inner)] = x
            return x.inner
        if isinstance(x, torch.Tensor):
            refuse_mixing(operation, x, args)
        return x

    def wrap(x):
        if not isinstance(x, torch.Tensor):
            return x
        return ours[id(x)] if id(x) in ours else Pretended(x)  # ours: what was changed in place

    device, inner = kwargs.get("device"), every(unwrap, args)
    inner_kwargs = {key: every(unwrap, value) for key, value in kwargs.items()}
    if device is not None and device.type == NAME:
        inner_kwargs["device"] = torch.device("cpu")
    if operation is aten._efficientzerotensor.default:  # without numbers that could be wrapped
        operation = aten.zeros.default
    result = operation(*inner, **inner_kwargs)
    if operation in PRODUCTS and not (result.is_floating_point() or result.is_complex()):
        raise NotImplementedError(f'"{operation}" not implemented for {result.dtype}')
    if operation._schema.is_mutable:  # a shape may have been changed in place
        for x in ours.values():
            if x.shape != x.inner.shape or x.stride() != x.inner.stride():
                x.data = Pretended(x.inner)
    stays = bool(ours) if device is None else device.type == NAME
    return every(wrap, result) if stays else result


def every(function, value):
    """Apply a function to what stands in lists and tuples."""
    if isinstance(value, list | tuple):
        return type(value)(every(function, part) for part in value)
    return function(value)


def refuse_mixing(operation, x, args):
    """Raise unless an operation of a GPU would take this tensor of the CPU."""
    if operation in COPIES or operation in INDEXING and any(x is y for y in args[1]):
        return
    if x.dim() == 0 and (torch.Tag.pointwise in operation.tags or operation in SINGLE):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but {operation} got one of shape "
        f"{tuple(x.shape)} on {x.device} and others on {NAME}"
    )


def copy_from(source, target, non_blocking=False):
    """Copy in place, as ``torch.tensor`` asks for it."""
    return run(aten.copy_.default, target, source)


def in_half(operation, *args, **kwargs):
    """Do it in the precision of the autocast around it."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x):
        real = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(torch.get_autocast_dtype(NAME)) if real else x

    with torch._C._ExcludeDispatchKeyGuard(key):
        return operation(*tree_map(cast, args), **tree_map(cast, kwargs))


class Generator(torch.Generator):
    """PyTorch's generator, which may also be one of the pretended device.

    PyTorch takes it for one of the CPU: so ``Watch`` has to look at it.
    """

    def __new__(cls, device="cpu"):
        device = torch.device(device)
        new = super().__new__(cls, "cpu" if device.type == NAME else device)
        new.place = torch.device(NAME, 0) if device.type == NAME else device
        return new

    @property
    def device(self):
        return self.place


class Watch(TorchFunctionMode):
    """Refuse to draw on one device with the generator of another."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        for x in tree_leaves(result) if generator is not None else ():
            if isinstance(x, torch.Tensor) and x.device.type != generator.device.type:
                raise RuntimeError(
                    f"Expected a '{x.device.type}' device type for generator but found "
                    f"'{generator.device.type}'"
                )
        return result


def factories():
    """Return the operations that make tensors of nothing: they have to be led here."""
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::"):
            with contextlib.suppress(AttributeError, RuntimeError):  # not for Python
                packet, _, overload = name.removeprefix("aten::").partition(".")
                operation = getattr(getattr(aten, packet), overload or "default")
                kinds = {a.name: str(a.type) for a in operation._schema.arguments}
                if "device" in kinds and not any("Tensor" in kind for kind in kinds.values()):
                    yield name.removeprefix("aten::"), operation


_setup_privateuseone_for_python_backend(NAME, backend_module=MODULE)
LIBRARY, EVERY = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
for name, operation in factories():
    LIBRARY.impl(name, functools.partial(run, operation), "PrivateUse1")
LIBRARY.impl("_copy_from", copy_from, "PrivateUse1")
EVERY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for name in HALF:
    LIBRARY.impl(name, functools.partial(in_half, getattr(aten, name)), "AutocastPrivateUse1")
