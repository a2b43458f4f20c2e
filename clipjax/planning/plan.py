"""What a step needs of a machine and how long it takes at best, from the program that its compiler makes of it."""

from dataclasses import dataclass
from typing import Any

from clipjax.config import Config, judge_devices, resolve
from clipjax.parallel.precision import check_platform
from clipjax.planning.candidate import SECONDS, examine
from clipjax.planning.chips import HOST_RATE
from clipjax.planning.topology import Topology, machine, require_libtpu
from clipjax.planning.work import useful_flops
from clipjax.training.memory import in_words, knobs

_EDGE = 0.95  # of the memory: what the runtime keeps for itself is not known


@dataclass(frozen=True)
class Plan:
    """What compiling told of one config on one machine. Bytes and seconds are those of one device and one step."""

    config: Config
    topology: str
    found: dict[str, Any]  # what `clipjax.planning.candidate` tells

    @property
    def fits(self) -> bool:
        """Whether the compiler made a program of it, and, where compilers do not judge, the memory holds it."""
        judged = self.found["judged"] or self.found.get("total", 0) <= self.chip_memory_bytes
        return "total" in self.found and judged

    @property
    def chip_memory_bytes(self) -> int:
        """What a program may use of a device's memory."""
        return self.found["limit"]

    @property
    def bytes_per_chip(self) -> dict[str, int]:
        """parameters (and what else of the state is no moment), moments, activations, temporaries, total.

        Exact from the shapes: parameters, moments. Counted: activations, the batch and what the loops of the forward
        pass keep for the gradient. The compiler's: total. Temporaries are what remains: gradients and workspace.
        """
        found = self.found
        total = round(found.get("total") or found.get("needed"))
        rest = max(total - found["state"], 0)
        activations = min(round(found["batch"] + found["kept"]), rest)
        return {
            "parameters": found["state"] - found["moments"],
            "moments": found["moments"],
            "activations": activations,
            "temporaries": rest - activations,
            "total": total,
        }

    @property
    def flops_per_step(self) -> int:
        """What the global batch is worth: without what is computed again for want of memory."""
        return useful_flops(self.config)

    @property
    def step_seconds(self) -> dict[str, float | None]:
        """The least time that the matrix units, the memory and the network need, and the longest of them."""
        found, rates = self.found, self.found["rates"]
        compute = found["executed"] / (found["devices"] * rates["flops"])
        if "total" not in found:
            return {"compute": compute, "memory": None, "network": None, "total": None}
        memory = found["traffic"] / rates["memory"] + found["offloaded"] / HOST_RATE
        terms = {"compute": compute, "memory": memory, "network": found["network"]}
        return {**terms, "total": max(terms.values())}

    @property
    def useful_seconds(self) -> float:
        """Time of `flops_per_step` alone at the full rate of the matrix units, less what our last blocks do without."""
        useful = min(self.flops_per_step, self.found["executed"])
        return useful / (self.found["devices"] * self.found["rates"]["flops"])

    @property
    def utilisation(self) -> float | None:
        """Useful time over the longest term, in [0, 1]: if everything overlaps."""
        total = self.step_seconds["total"]
        return total and self.useful_seconds / total

    @property
    def serial_seconds(self) -> float | None:
        """The sum of the three terms: if nothing overlaps."""
        terms = self.step_seconds
        return terms["total"] and terms["compute"] + terms["memory"] + terms["network"]

    @property
    def utilisation_serial(self) -> float | None:
        """Useful time over the sum of the terms."""
        return self.serial_seconds and self.useful_seconds / self.serial_seconds

    @property
    def compiler_seconds(self) -> float | None:
        """The compiler's own estimate of all operations one after another, collectives apart; None if it has none."""
        cycles, clock = self.found.get("cycles"), self.found["rates"]["clock"]
        return cycles / clock if cycles and clock else None

    @property
    def collectives(self) -> list[dict[str, Any]]:
        """Rows `{kind, axis, count, bytes}` a step; bytes: what is gathered, reduced, exchanged or passed on."""
        rows: dict[tuple, dict] = {}
        for row in self.found.get("collectives", []):
            mine = rows.setdefault((row["kind"], row["axis"]), {**row, "count": 0, "bytes": 0})
            mine["count"] += row["count"]
            mine["bytes"] += row["bytes"]
        return [{key: row[key] for key in ("kind", "axis", "count", "bytes")} for row in rows.values()]

    @property
    def advice(self) -> list[str]:
        """What to change where it does not fit, and what is close to a limit."""
        if not self.fits:
            return self._knobs()
        rows = []
        if self.found["apart"] > _EDGE * self.chip_memory_bytes:
            rows.append(
                f"at the edge: arguments and temporaries are {in_words(self.found['apart'])} of "
                f"{in_words(self.chip_memory_bytes)}; to be safe: {'; or '.join(self._knobs())}"
            )
        if self.found["aliased"] < 0.99 * self.found["state"]:
            rows.append("the state is not donated: its old and its new copy lie in memory together")
        return rows

    def _knobs(self) -> list[str]:
        return knobs(self.config, self.found["sizes"], self.chip_memory_bytes, self.found["state"])

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values, under the names of the properties: what `--json` prints."""
        names = ("fits", "chip_memory_bytes", "bytes_per_chip", "flops_per_step", "step_seconds", "utilisation")
        more = ("utilisation_serial", "compiler_seconds", "collectives")
        made = {name: getattr(self, name) for name in (*names, *more)}
        micro = self.config.micro_batch_size or self.config.batch_size
        return {**made, "mesh": self.found["sizes"], "micro_batch_size": micro, "advice": self.advice}


def plan(config: Any, topology: str = "here", *, seconds: float = SECONDS) -> Plan:
    """Compile the train step of a config (a ConfigDict or a resolved Config) for a machine and say what it needs.

    `topology`: a slice such as "v5e:16x16", "cpu:8", or "here" for the devices of this machine. Nothing is trained
    and no such machine is needed; compiling takes seconds to minutes, in a process of its own, at most `seconds`.
    Raises UserError for mistakes in the config, a mesh or batch that the machine cannot take, a machine that is not
    known, and a missing compiler. A step that does not fit is no error: see `Plan.fits` and `Plan.advice`.
    """
    config = config if isinstance(config, Config) else resolve(config)
    place = machine(topology)
    check(config, place)
    return Plan(config, topology, examine(config, place, seconds))


def check(config: Config, place: Topology) -> None:
    """Raise UserError where a config cannot run on a machine, as far as that shows without compiling."""
    if place.platform == "tpu":
        require_libtpu()
    if place.devices is not None:
        judge_devices(config, place.devices * config.mesh.num_slices)
    if place.platform != "here":
        check_platform(config, place.platform)
