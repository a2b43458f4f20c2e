"""Machines by name: `v5e:16x16`, `cpu:8`, or `here`; what of a name is wrong is said before anything is compiled."""

import importlib.util
import math
import re
from typing import NamedTuple

from clipjax.errors import UserError
from clipjax.planning.chips import TPUS, Chip

_FORMS = {2: "AxB, such as {}:4x4 or {}:16x16", 3: "AxBxC, such as {}:2x2x1 or {}:4x4x4"}


class Topology(NamedTuple):
    """A slice of so many JAX devices; `platform` is "tpu", "cpu" or "here", `chip` None where no table has it."""

    name: str
    platform: str
    shape: tuple[int, ...]
    chip: Chip | None

    @property
    def devices(self) -> int | None:
        """JAX devices of one slice; None where only the machine itself can tell."""
        if self.platform == "here":
            return None
        return math.prod(self.shape) * (self.chip.devices if self.chip else 1)


def machine(name: str) -> Topology:
    """The machine of that name. Raises UserError, with the forms that there are, for any other."""
    if name == "here":
        return Topology(name, "here", (), None)
    kind, _, extent = name.partition(":")
    if kind == "cpu" and extent.isdigit() and int(extent) > 0:
        return Topology(name, "cpu", (int(extent),), None)
    if kind not in TPUS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", extent):
        raise UserError(f"topology: {name!r} is not known. {known()}")
    chip, shape = TPUS[kind], tuple(map(int, extent.split("x")))
    if len(shape) != chip.dimensions:
        form = _FORMS[chip.dimensions].format(kind, kind)
        raise UserError(f"topology: {name!r} has {len(shape)} sizes, slices of {kind} have the form {kind}:{form}.")
    return Topology(name, "tpu", shape, chip)


def known() -> str:
    """The names that there are, in one sentence."""
    kinds = {count: ", ".join(kind for kind, chip in TPUS.items() if chip.dimensions == count) for count in _FORMS}
    forms = "; ".join(f"{kinds[count]} as NAME:{form.replace('{}', 'NAME')}" for count, form in _FORMS.items())
    return f"There are: {forms}; cpu:N; here (the devices of this machine)."


def require_libtpu() -> None:
    """Raise UserError if the compiler for TPUs is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("topology: compiling for a TPU needs its compiler, libtpu. Run: pip install 'clipjax[tpu]'.")


def find_devices(place: Topology, slices: int = 1) -> list:
    """The devices of `slices` such slices, absent ones included; call it in a process of its own.

    Raises UserError, with the compiler's reason, for a slice that it does not know.
    """
    import jax

    if place.platform != "tpu":
        return jax.devices()
    from jax.experimental import topologies

    options = {"num_slices": slices} if slices > 1 else {}
    if place.chip.config:
        options["chip_config_name"] = place.chip.config
    if math.prod(place.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=place.name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(": ")[2].strip().rstrip(".")
        raise UserError(f"topology: {place.name!r} is no slice that libtpu knows ({reason}). {known()}") from None
