"""The compiled step: traced from shapes alone, so that it can be made for devices that are not here."""

import jax

from clipjax.bundle import abstract_module
from clipjax.config import Config
from clipjax.data.batch import Batch, batch_spec
from clipjax.parallel.mesh import replicated, row_sharding
from clipjax.parallel.runtime import compiler_options, step_directory
from clipjax.training.lowered import lowered_step
from clipjax.training.memory import check_fit, device_limit, exhausted, program_bytes, shard_bytes
from clipjax.training.state import State, abstract_state
from clipjax.training.step import make_step


def compile_step(config: Config, optimizer, mesh, length: int, at: int | None = None):
    """The compiled step for texts of `length` tokens: the state is donated and stays where the rules put it.

    It is that of the stage which step `at` (from 0) lies in; None: of the config itself. The state is the same for all.
    Raises UserError, naming the knobs, where it does not fit into the memory of the mesh's devices.
    """
    sizes, limit = dict(mesh.shape), device_limit(mesh)
    state, batch = step_arguments(config, optimizer, mesh, length, at)
    held = shard_bytes(state)
    check_fit(config, sizes, held + shard_bytes(batch), limit, held)  # before minutes of compiling
    try:
        options = compiler_options(mesh.devices.flat[0].platform)
        program = _lower(config, optimizer, mesh, length, at).compile(options)
    except jax.errors.JaxRuntimeError as error:  # compilers for TPU say it themselves
        if found := exhausted(str(error)):
            check_fit(config, sizes, *found, held)
        raise
    if mesh.devices.flat[0].platform != "tpu":  # whose compiler has judged, knowing what it keeps at a time
        check_fit(config, sizes, program_bytes(program), limit, held)
    return program


def trace_step(config: Config, optimizer, mesh, length: int, at: int | None = None):
    """The step as `jax.stages.Traced`: its jaxpr, and what `lower` and `compile` make a program of."""
    step, arguments, out_shardings = _step(config, optimizer, mesh, length, at)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings).trace(*arguments)


def _lower(config: Config, optimizer, mesh, length: int, at: int | None):
    """The step as `jax.stages.Lowered`; on a single device it may have been kept from an earlier start."""
    folder = step_directory()
    if folder is None or mesh.size > 1:
        return trace_step(config, optimizer, mesh, length, at).lower()
    return lowered_step(folder, config if at is None else config.at(at), *_step(config, optimizer, mesh, length, at))


def _step(config: Config, optimizer, mesh, length: int, at: int | None):
    """(the step, shapes and shardings of its arguments, shardings of its results)."""
    arguments = step_arguments(config, optimizer, mesh, length, at)
    places = jax.tree.map(lambda leaf: leaf.sharding, arguments[0])
    config = config if at is None else config.at(at)
    step = make_step(config, optimizer, abstract_module(config, unroll=_writes_loops_out(mesh))[0], mesh)
    return step, arguments, (places, replicated(mesh))


def _writes_loops_out(mesh) -> bool:
    """Whether the loops over layers are: on a CPU, and on GPUs that hold the weights whole.

    In a loop, XLA's CPU backend copies each layer's weights out of their stack, and its gradients into one of zeros: a
    tenth of a step of ViT-B/32, a fifth of RN50's, for a quarter more to compile. Several of its devices stand for
    those of a cluster, which gain nothing; nor does encoding, which has no gradients. On a GPU what a layer keeps for
    its gradient is copied into a stack and out of it.
    """
    platform = mesh.devices.flat[0].platform
    return platform == "cpu" and mesh.size == 1 or platform == "gpu" and mesh.shape["fsdp"] == 1


def step_arguments(config: Config, optimizer, mesh, length: int, at: int | None = None) -> tuple[State, Batch]:
    """Shapes, dtypes and shardings of the state and of a global batch with texts of `length` tokens."""
    rows, spec = row_sharding(mesh), batch_spec(config if at is None else config.at(at), length)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), spec)
    return abstract_state(config, optimizer, mesh), batch
