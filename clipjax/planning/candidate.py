"""One candidate, compiled in a process of its own: the very train step, for devices that need not be here.

`python -m clipjax.planning.candidate` reads a request from stdin and writes what it found to the file that it names.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from typing import Any

from clipjax.config import Config, as_json, from_json, judge_devices
from clipjax.errors import UserError
from clipjax.planning.topology import Topology, find_devices, machine

SECONDS = 20 * 60.0


def examine(config: Config, place: Topology, seconds: float = SECONDS) -> dict[str, Any]:
    """What compiling the step of `config` for `place` tells: see `_look`; {"refused": why} where it may not run so.

    Raises UserError for a slice that the compiler does not know, and for a compilation that takes longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = {"config": json.loads(as_json(config)), "topology": place.name, "answer": f"{folder}/answer.json"}
        command = [sys.executable, "-m", "clipjax.planning.candidate"]
        with open(f"{folder}/noise", "w+") as noise:
            try:
                subprocess.run(
                    command, input=json.dumps(request), text=True, stdout=noise, stderr=noise, timeout=seconds,
                    env=_environment(place), check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise UserError(
                    f"topology: compiling for {place.name} took longer than {seconds / 60:.0f} minutes. "
                    "Set remat='block', whose program is smaller."
                ) from None
            noise.seek(0)
            said = noise.read()
        try:
            with open(request["answer"]) as file:
                answer = json.load(file)
        except OSError:
            raise RuntimeError(f"planning: the compiling process failed:\n{said[-4000:]}") from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def devices_here() -> int:
    """JAX devices of this machine, counted in a process of its own, which gives their memory back."""
    code = "import jax; print(jax.device_count())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=_environment(machine("here")), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"topology: the devices here cannot be counted ({done.stderr.strip().splitlines()[-1]}).")
    return int(done.stdout.split()[-1])


def _environment(place: Topology) -> dict[str, str]:
    """Of the child: no other devices than those it plans for, and libtpu may be loaded by several at once."""
    if place.platform == "here":
        return {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    made = {**os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    if place.platform == "cpu":
        flags = [flag for flag in made.get("XLA_FLAGS", "").split() if "device_count" not in flag]
        made["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={place.devices}"])
    return made


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    config = from_json(json.dumps(request["config"]))
    try:
        answer = _look(config, machine(request["topology"]))
    except UserError as error:
        answer = {"error": str(error)}
    with open(request["answer"], "w") as file:
        json.dump(answer, file)


def _look(config: Config, place: Topology) -> dict[str, Any]:
    """Everything that the plan is made of, as plain numbers; bytes are those of a device.

    devices, sizes, rates, limit, state, moments, batch, kept, executed, executed_once; and of a program that was made
    total, apart, arguments, aliased, host, counted, traffic, offloaded, cycles, collectives, network; else needed and
    limit as the compiler says them. total: what is in use at once, where the compiler says that and judges by it (TPU;
    memory on the chip is part of it), else apart: arguments, temporaries and outputs, as if all were kept.
    """
    import jax

    from clipjax.models.remat import check_platform
    from clipjax.parallel.mesh import make_mesh
    from clipjax.parallel.runtime import compiler_options
    from clipjax.planning import work
    from clipjax.training.memory import device_limit, exhausted, shard_bytes
    from clipjax.training.optimizer import make_optimizer
    from clipjax.training.program import step_arguments, trace_step

    devices = find_devices(place, config.mesh.num_slices)
    check_platform(config.remat, devices[0].platform)
    judge_devices(config, len(devices))
    mesh, optimizer, length = make_mesh(config.mesh, devices), make_optimizer(config), config.model.text.context_length
    if (limit := place.chip.memory if place.chip else device_limit(mesh)) is None:
        raise UserError("topology: the devices here do not say how much memory they have, so nothing can be planned.")
    state, batch = step_arguments(config, optimizer, mesh, length)
    traced = trace_step(config, optimizer, mesh, length)
    jaxpr, count, platform = traced.jaxpr.jaxpr, len(devices), devices[0].platform
    weights = jax.tree.leaves(state.params)
    answer = {
        "devices": count,
        "judged": platform == "tpu",
        "devices_per_chip": place.chip.devices if place.chip else 1,
        "sizes": dict(mesh.shape),
        "limit": limit,
        "state": shard_bytes(state),
        "moments": shard_bytes(state.opt_state),
        "batch": shard_bytes(batch),
        "gradients": 4 * sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in weights),
        "kept": work.kept_bytes(jaxpr) / (mesh.shape["data"] * mesh.shape["fsdp"]),
        "executed": work.executed_flops(jaxpr, count, platform),
        "executed_once": work.executed_flops(jaxpr, count, platform, once=True),
        "rates": _rates(place, devices)._asdict(),
        "versions": _versions(),
    }
    try:
        program = traced.lower().compile(compiler_options(platform))
    except jax.errors.JaxRuntimeError as error:
        if (found := exhausted(str(error))) is None:
            raise
        return {**answer, "needed": found[0], "limit": found[1]}
    return {**answer, **_read(program, mesh, config.mesh.num_slices, place, answer)}


def _read(program, mesh, slices: int, place: Topology, answer: dict) -> dict[str, Any]:
    """What the compiled program itself tells."""
    from clipjax.planning import hlo, traffic
    from clipjax.planning.chips import Rates
    from clipjax.planning.collectives import collectives, totals
    from clipjax.planning.network import coordinates, wire_rate
    from clipjax.training.memory import program_bytes

    stats, module = program.memory_analysis(), hlo.parse(program.as_text())
    found = collectives(module, dict(mesh.shape), mesh.size, slices)
    places = [coordinates(device) for device in mesh.devices.flat]
    seconds = sum(
        item.count * item.wire / wire_rate(item.groups, places, place, Rates(**answer["rates"])) for item in found
    )
    return {
        "total": stats.peak_memory_in_bytes if answer["judged"] else program_bytes(program),
        "apart": program_bytes(program),
        "arguments": stats.argument_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "host": stats.host_temp_size_in_bytes,
        "counted": (program.cost_analysis() or {}).get("flops"),
        "traffic": traffic.memory_bytes(module),
        "offloaded": traffic.host_bytes(module),
        "cycles": traffic.estimated_cycles(module),
        "collectives": totals(found),
        "network": seconds,
    }


def _rates(place: Topology, devices: list):
    from clipjax.planning.chips import GPUS, TPUS, measured, rates

    if place.chip:
        return rates(place.chip, "stated by the maker")
    kind = devices[0].device_kind
    if kind in GPUS:
        return rates(GPUS[kind], "stated by the maker")
    here = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
    if kind in here:
        return rates(TPUS[here[kind]]._replace(devices=1), "stated by the maker")
    return measured(len(devices))


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("jax", "libtpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
