"""Attention a few rows of the batch at a time, so that a TPU keeps their scores on the chip, forward and backward.

XLA's own form writes every score of the batch to memory several times, and changes its layout in between: for
ViT-L/14's 257 tokens three quarters of a block's time by the compiler's estimate (benchmarks/tpu_attention.py).
Arrays are [n, K, D, T] here: tokens lie along the 128 lanes of a register, and products give and take them so.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from clipjax.models.remat import MIXED
from clipjax.parallel.mesh import ROWS

_LANES, _FEW = 128, 8
_SCORE_BYTES = 40 * 2**20  # of the 128 MiB on a chip: scores in float32, what follows from them, and their operands


@jax.custom_vjp
def attend_by_rows(q, k, v):
    """softmax(q kᵀ / √D) v for q, k, v [n, K, D, T] -> [n, K, D, T]; n is the global batch, divided by the mesh.

    Scores, their greatest, their sum and what it divides are float32; weights are rounded to the dtype of v before the
    product and the sum, which are the same matrix product.
    """
    return _forward(q, k, v)[0]


def by_lanes(x):
    """x [n, K, D, T] with that order of axes in memory, whatever the product that makes it would like better.

    Said device by device: XLA's partitioner can take the constraint on a global array for one that wants all of it
    everywhere (v5p:4x4x4 exchanged every query, key and value).
    """
    order = Layout(major_to_minor=tuple(range(x.ndim)))
    (x,) = _on_mesh(lambda x: (with_layout_constraint(x, order),), 1)(x)
    return x


def _forward(q, k, v):
    def here(q, k, v):
        logs = jnp.zeros_like(q[:, :, 0], jnp.float32)  # [b, K, T]
        return _loop(_rows_forward, 2, q, logs, k, v)

    mixed, logs = _on_mesh(here, 2)(q, k, v)
    mixed, logs = checkpoint_name(mixed, MIXED), checkpoint_name(logs, MIXED)  # traced after the block around it
    return mixed, (q, k, v, mixed, logs)


def _backward(kept, d_mixed):
    def here(*arrays):
        return _loop(_rows_backward, 3, *arrays)

    return _on_mesh(here, 3)(*kept, d_mixed)


attend_by_rows.defvjp(_forward, _backward)


def _rows_forward(q, logs, k, v):
    """(mixed [r, K, D, T], log-sum-exp of the scores [r, K, T]) of r rows."""
    size, odd = q.shape[2], _Odd(q, k, v)
    scores = _product("nkdq,nkdt->nkqt", q * size**-0.5, odd.even(k))  # [r, K, T, even]
    best = jnp.maximum(scores.max(-1), odd.scores.max(2, initial=-jnp.inf))  # [r, K, T]
    # A head fills half of the matrix unit's width, so a line of ones beside v gives the sum of the weights for nothing.
    lines = jnp.concatenate([odd.even(v), jnp.ones_like(v[:, :, :_FEW, : odd.first])], axis=2)  # [r, K, D + 8, even]
    both = _product("nkqt,nkdt->nkdq", jnp.exp(scores - best[..., None]).astype(v.dtype), lines)
    weights = jnp.exp(odd.scores - best[:, :, None])  # [r, K, odd, T]
    mixed = both[:, :, :size] + jnp.einsum("nkoq,nkdo->nkdq", weights, odd.v)
    total = both[:, :, size] + weights.sum(2)
    return (mixed / total[:, :, None]).astype(q.dtype), best + jnp.log(total)


def _rows_backward(q, k, v, mixed, logs, d_mixed):
    """(dq, dk, dv) of r rows; scores are computed again."""
    scale, odd = q.shape[2] ** -0.5, _Odd(q, k, v)
    given, asked = d_mixed.astype(jnp.float32), q.astype(jnp.float32)
    inner = jnp.sum(given * mixed.astype(jnp.float32), axis=2)  # [r, K, T]
    weights = jnp.exp(_product("nkdq,nkdt->nkqt", q * scale, odd.even(k)) - logs[..., None])  # [r, K, T, even]
    d_weights = _product("nkdq,nkdt->nkqt", d_mixed, odd.even(v))
    d_scores = (weights * (d_weights - inner[..., None])).astype(q.dtype)
    dq = _product("nkqt,nkdt->nkdq", d_scores, odd.even(k))
    dk = _product("nkqt,nkdq->nkdt", d_scores, q)
    dv = _product("nkqt,nkdq->nkdt", weights.astype(v.dtype), d_mixed)
    weights = jnp.exp(odd.scores - logs[:, :, None])  # [r, K, odd, T]
    d_scores = weights * (jnp.einsum("nkdq,nkdo->nkoq", given, odd.v) - inner[:, :, None])
    dq = dq + jnp.einsum("nkoq,nkdo->nkdq", d_scores, odd.k)
    dk = jnp.concatenate([dk, jnp.einsum("nkoq,nkdq->nkdo", d_scores, asked)], axis=3)
    dv = jnp.concatenate([dv, jnp.einsum("nkoq,nkdq->nkdo", weights, given)], axis=3)
    return (dq * scale).astype(q.dtype), (dk * scale).astype(k.dtype), dv.astype(v.dtype)


class _Odd:
    """The few keys that would begin another 128 lanes, as 257 tokens do: apart from the others, in float32.

    k, v [r, K, D, odd]; scores [r, K, odd, T], of all queries; odd may be 0.
    """

    def __init__(self, q, k, v):
        tokens = k.shape[3]
        self.first = tokens - tokens % _LANES if tokens > _LANES and tokens % _LANES <= _FEW else tokens
        self.k, self.v = (x[..., self.first :].astype(jnp.float32) for x in (k, v))
        self.scores = jnp.einsum("nkdq,nkdo->nkoq", q.astype(jnp.float32), self.k) * q.shape[2] ** -0.5

    def even(self, x):
        return x[..., : self.first]


def _product(form, x, y):
    return jnp.einsum(form, x, y, preferred_element_type=jnp.float32)


def _loop(function, results, *arrays):
    """The first `results` arrays after `function` of a few rows of all arrays has put its results in their place.

    In place: results in arrays of their own would first be filled with zeros.
    """
    rows, heads, _, tokens = arrays[0].shape
    few = max(1, _SCORE_BYTES // (heads * tokens * -(-tokens // _LANES) * _LANES * 4))
    few = next(count for count in range(min(few, rows), 0, -1) if rows % count == 0)

    def step(i, arrays):
        found = function(*(jax.lax.dynamic_slice_in_dim(x, i * few, few) for x in arrays))
        written = [jax.lax.dynamic_update_slice_in_dim(x, y, i * few, 0) for x, y in zip(arrays, found, strict=False)]
        return (*written, *arrays[len(found) :])

    return jax.lax.fori_loop(0, rows // few, step, arrays)[:results]


def _on_mesh(function, results: int):
    """`function` of this device's rows and heads -> the same of global arrays, each [n, K, ...]."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    spec = PartitionSpec(ROWS, "tensor")
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=(spec,) * results)
