"""What a traced step computes and keeps, counted in its jaxpr: matrix products, and what waits for the gradient."""

import math

from clipjax.config import Config
from clipjax.models.flops import forward_flops


def useful_flops(config: Config) -> int:
    """FLOP that a step on the global batch is worth: three forward passes a pair, one of a frozen tower.

    Texts count whole, as the planned step computes them, and pictures with the patches that are kept. What is computed
    twice for want of memory is worth nothing.
    """
    towers = zip(("image", "text"), forward_flops(config.model, patch_dropout=config.patch_dropout), strict=True)
    return config.batch_size * sum(flops * (1 if tower == config.freeze else 3) for tower, flops in towers)


def executed_flops(jaxpr, devices: int, platform: str = "cpu", once: bool = False) -> float:
    """FLOP of all matrix products and convolutions of a step, over all devices; a multiply-add is 2.

    Of what is written for several platforms that of `platform` counts, of other branches the dearest. Rounds of loops
    count, unless `once`: then each body counts as often as it is written, as in XLA's cost analysis. Inside of
    `shard_map` every device counts, whatever the devices hold in common. Raises ValueError for a loop without length.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _product(eqn)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "cond":
            total += max(executed_flops(branch, devices, platform, once) for branch in _branches(eqn, platform))
        else:
            inner = sum(executed_flops(sub, devices, platform, once) for sub in subjaxprs(eqn))
            total += inner and inner * _times(eqn, devices, once)
    return total


def kept_bytes(jaxpr) -> int:
    """Bytes, over all devices, that loops of the forward pass stack for loops of the backward pass.

    With micro-batches, what one of them keeps. Arrays outside of loops are not counted: layers lie in loops.
    """
    stacked, total = {}, 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            carried = eqn.params["num_carry"]
            taken = eqn.invars[eqn.params["num_consts"] + carried :]
            total += sum(stacked.pop(var, 0) for var in taken if not hasattr(var, "val"))  # constants have no name
            stacked |= {var: _bytes(var) for var in eqn.outvars[carried:] if _on_device(var)}
    return max([total, *(kept_bytes(sub) for eqn in jaxpr.eqns for sub in subjaxprs(eqn))])


def subjaxprs(eqn):
    """The jaxprs inside of an equation, whatever it calls them."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr


def _branches(eqn, platform: str) -> list:
    """The jaxprs that may run: of branches by platform the one of this platform, or the default (None)."""
    branches = [branch.jaxpr for branch in eqn.params["branches"]]
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return branches
    fitting = [branch for branch, names in zip(branches, platforms, strict=True) if names and platform in names]
    return fitting or [branches[platforms.index(None)]]


def _times(eqn, devices: int, once: bool) -> float:
    name = eqn.primitive.name
    if name == "scan":
        return eqn.params["unroll" if once else "length"]  # a loop that is written out has `length` of them
    if name == "while":
        raise ValueError("a loop without a length: its matrix products cannot be counted")
    if name == "shard_map":
        return devices
    if name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return 1


def _product(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn) -> float:
    kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
    features = kernel[numbers.rhs_spec[0]]
    zeros = math.prod(eqn.params["lhs_dilation"])  # a dilated input is mostly zeros, which are not multiplied
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / features / zeros


def _bytes(var) -> int:
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize


def _on_device(var) -> bool:
    """Whether an array lies in the device's own memory, and not with the host."""
    return "host" not in str(getattr(var.aval, "memory_space", "")).lower()
