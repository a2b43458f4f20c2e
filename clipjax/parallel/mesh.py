"""The device mesh, with the axes `data`, `fsdp` and `tensor`, and where batches lie on it."""

import functools
from collections.abc import Sequence

import numpy as np

from clipjax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that divide the rows of a batch


def make_mesh(config: MeshConfig, devices=None):
    """A `jax.sharding.Mesh` over `devices` (default: all of the run); raises UserError where the sizes do not fit."""
    import jax
    from jax.sharding import AxisType

    devices = jax.devices() if devices is None else devices
    sizes = config.sizes(len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def row_sharding(mesh):
    """The sharding of an array whose first axis is the global batch."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh):
    """The sharding of an array that every device holds whole."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh, count: int) -> np.ndarray:
    """Positions in a global batch of `count` rows that this process's devices need, ascending; int64 [rows]."""
    places = row_sharding(mesh).addressable_devices_indices_map((count,))
    spans = {(span[0].start or 0, count if span[0].stop is None else span[0].stop) for span in places.values()}
    return np.unique(np.concatenate([np.arange(first, last) for first, last in sorted(spans)]))


def place_rows(mesh, local, rows: np.ndarray, count: int):
    """A global array [count, ...] from this process's rows `local` [len(rows), ...], laid out by `row_sharding`."""
    import jax

    local = np.asarray(local)

    def piece(index):
        wanted = np.arange(count)[index[0]]
        first = np.searchsorted(rows, wanted[0])
        return local[first : first + len(wanted)]

    return jax.make_array_from_callback((count, *local.shape[1:]), row_sharding(mesh), piece)


def greatest(mesh, values: Sequence[int]):
    """The greatest of each of n whole numbers over the processes: int32 [n], perhaps still under way when it returns.

    Every process calls it at the same place among the programs that it dispatches.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    values = np.asarray(values, np.int32)
    if jax.process_count() == 1:
        return values
    own = NamedSharding(mesh, PartitionSpec(AXES))  # a row a device, whatever the mesh divides or repeats
    rows = jax.make_array_from_callback((mesh.size, len(values)), own, lambda _: values[None])
    return _greatest_row(mesh)(rows)


@functools.cache
def _greatest_row(mesh):
    import jax

    return jax.jit(lambda rows: rows.max(axis=0), out_shardings=replicated(mesh))
