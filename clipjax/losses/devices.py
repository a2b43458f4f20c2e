"""How a loss lies over the devices of a mesh: which rows each owns, in tiles of what size, and how columns travel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.errors import UserError
from clipjax.losses import gather, ring, tiles

_ROW_AXES = ("data", "fsdp")
ROWS, ALL = PartitionSpec(_ROW_AXES), PartitionSpec()
_METHODS = {"ring": ring, "gather": gather}
# "auto" gathers while all texts and their float32 gradient fit into this; beyond, the ring saves more than it costs.
_GATHER_BYTES = 64 * 2**20
# A device that holds all columns keeps its cosines for the gradient while they fit into this, and saves a product of
# four. (The ring's columns come in another order on each device, and its batch is larger.)
_COSINE_BYTES = 256 * 2**20


class Merge(NamedTuple):
    """How what devices have found of the same columns becomes one.

    two(x, y): of two parts; scatter(x, axes): of the parts of all devices [devices * tiles, ...], to each the columns
    [tiles, ...] that it owns.
    """

    two: Callable[[Any, Any], Any]
    scatter: Callable[[Any, tuple], Any]


ADD = Merge(
    lambda x, y: jax.tree.map(jnp.add, x, y), lambda x, axes: lax.psum_scatter(x, axes, tiled=True)
)  # sums of trees of arrays


class Layout(NamedTuple):
    """Where and in what pieces a loss is computed. Hashable: a static argument of what is compiled.

    keeps_cosines: for the gradient, where they are needed again; else they are computed again.
    """

    mesh: Mesh | None
    block_size: int
    method: str
    keeps_cosines: bool

    @property
    def axes(self):
        return () if self.mesh is None else _ROW_AXES

    def on_mesh(self, function, in_specs, out_specs):
        """`function` of this device's rows -> the same of global arrays."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)

    def blocks(self, image, text, keys):
        """(image Block, text Block) of this device's rows [b, E] and their keys, arrays [b]."""
        first = lax.axis_index(self.axes) * image.shape[0]
        return [tiles.block(x, keys, first, self.block_size) for x in (image, text)]

    def visit(self, against, rows, columns, mine, nothing, merge=ADD, kept=None):
        """`visit` of the method: this device's rows against everybody's columns."""
        return _METHODS[self.method].visit(against, rows, columns, mine, nothing, merge, self.axes, kept)

    def place(self, rows, scalars):
        """The arrays on the mesh: rows divided, scalars everywhere."""
        if self.mesh is None:
            return rows, scalars
        return jax.device_put((rows, scalars), (NamedSharding(self.mesh, ROWS), NamedSharding(self.mesh, ALL)))


def lay_out(image, text, mesh, block_size, method):
    """The Layout for features [B, E] global of both towers; raises UserError for what does not fit."""
    if image.ndim != 2 or image.shape != text.shape or image.shape[0] == 0:
        raise UserError(f"loss: features have shapes {image.shape} and {text.shape}, expected the same [B, E] twice.")
    if image.dtype != text.dtype or image.dtype not in (jnp.float32, jnp.bfloat16):
        raise UserError(
            f"loss: features are {image.dtype} and {text.dtype}, expected float32 or bfloat16 for both. Cast them."
        )
    if block_size < 1:
        raise UserError(f"loss.block_size: {block_size}, expected at least 1.")
    if method not in (*_METHODS, "auto"):
        raise UserError(f"loss.method: {method!r}, expected one of {', '.join(_METHODS)}, auto.")
    if mesh is not None:
        _check_mesh(mesh, image.shape[0])
    method = _pick(method, mesh, text)
    cosines = 4 * text.shape[0] ** 2 // (1 if mesh is None else _row_devices(mesh))
    return Layout(mesh, block_size, method, method == "gather" and cosines <= _COSINE_BYTES)


def scalar(value, name):
    """The value as float32 []; raises UserError that names it."""
    value = jnp.asarray(value, jnp.float32)
    if value.shape != ():
        raise UserError(f"loss: {name} has shape {value.shape}, expected a scalar.")
    return value


def _check_mesh(mesh, rows):
    if not set(_ROW_AXES) <= set(mesh.axis_names):
        raise UserError(f"loss: the mesh has axes {mesh.axis_names}, expected 'data' and 'fsdp' among them.")
    if rows % _row_devices(mesh):
        raise UserError(
            f"loss: {rows} rows over {_row_devices(mesh)} devices (mesh.data x mesh.fsdp) leave a remainder. "
            "Choose a batch size that they divide."
        )


def _row_devices(mesh):
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _pick(method, mesh, text):
    if mesh is None or _row_devices(mesh) == 1:
        return "gather"  # nothing to exchange: the tiles alone
    if method == "auto":
        return "gather" if text.size * (text.dtype.itemsize + 4) <= _GATHER_BYTES else "ring"
    return method
