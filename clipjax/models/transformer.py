"""The pre-LN transformer block of CLIP, stacked layer on layer and run by one scan, the last one apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.models.attention import attend, self_attention, suits_rows
from clipjax.models.dropping import drop_numbers, fold
from clipjax.models.layers import MLP, Init, LayerNorm, Linear, constant, dense
from clipjax.models.remat import MIDDLE, MIXED, QKV, checkpointed, named
from clipjax.models.row_attention import attend_by_rows, by_lanes
from clipjax.parallel.sharding import by_rows


class BlockInit(NamedTuple):
    """Initialisers of a block's four kernels, which differ between the towers."""

    qkv: Init
    out: Init
    fc: Init
    proj: Init


class Attention(nnx.Module):
    """Multi-head self-attention of x [n, T, W]; causal: a token sees itself and the tokens before it.

    qkv kernel [W, 3, W]: query, key, value; head h owns the columns h·D to (h+1)·D of each. Softmax in float32.
    """

    def __init__(self, width, heads, *, causal, init, dtype):
        zeros = constant(0.0)
        self.qkv = Linear(width, (3, width), kernel_init=init.qkv, bias_init=zeros, dtype=dtype)
        self.out = Linear(width, width, kernel_init=init.out, bias_init=zeros, dtype=dtype)
        self.heads, self.causal, self.dtype = heads, causal, dtype

    def __call__(self, x):
        if suits_rows(x, self.causal):
            return self._by_rows(x)
        n, tokens, width = x.shape
        qkv = named(self.qkv(x), QKV).reshape(n, tokens, 3, self.heads, -1)  # [n, T, 3, K, D]
        mixed = self_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=self.causal)  # [n, T, W]
        return self.out(named(mixed, MIXED))

    def _by_rows(self, x):
        """`__call__` by way of arrays [n, K, D, T] (row_attention.py)."""
        (width, _, _), heads, dtype = self.qkv.kernel.shape, self.heads, self.dtype
        kernel = self.qkv.kernel[...].astype(dtype).reshape(width, 3, heads, -1)  # [W, 3, K, D]
        bias = self.qkv.bias[...].astype(dtype).reshape(1, 3, heads, -1, 1)
        q, k, v = (
            named(by_lanes(jnp.einsum("ntw,wkd->nkdt", x.astype(dtype), kernel[:, i]) + bias[:, i]), QKV)
            for i in range(3)
        )
        out = self.out.kernel[...].astype(dtype).reshape(heads, -1, width)  # [K, D, W]
        return jnp.einsum("nkdt,kdw->ntw", attend_by_rows(q, k, v), out) + self.out.bias[...].astype(dtype)[None, None]

    def row(self, query, x, position):
        """The row that `__call__` puts at `position`: query [n, W] is that row of x [n, T, W]. Returns [n, W]."""
        n, tokens, width = x.shape
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        q = dense(query, kernel[:, 0], bias[0], self.dtype).reshape(n, 1, self.heads, -1)  # [n, 1, K, D]
        kv = dense(x, kernel[:, 1:], bias[1:], self.dtype).reshape(n, tokens, 2, self.heads, -1)  # [n, T, 2, K, D]
        seen = None
        if self.causal:
            seen = jnp.arange(tokens)[None, :] <= jnp.broadcast_to(position, n)[:, None]  # [n, T]
            seen = seen[:, None, None, :]  # [n, 1, 1, T] for every head and the one query
        return self.out(attend(q, kv[:, :, 0], kv[:, :, 1], seen)[:, 0])


class Block(nnx.Module):
    """x += attention(ln_1(x)); x += mlp(ln_2(x)).

    With keys [n], a random key a row, a share `dropout` of the numbers of both branches is left out.
    """

    def __init__(self, width, heads, *, activation, causal, init: BlockInit, dtype, dropout=0.0):
        self.ln_1 = LayerNorm(width, dtype=dtype)
        self.attention = Attention(width, heads, causal=causal, init=init, dtype=dtype)
        self.ln_2 = LayerNorm(width, dtype=dtype)
        self.mlp = MLP(width, activation=activation, fc_init=init.fc, proj_init=init.proj, dtype=dtype)
        self.dropout = dropout

    def __call__(self, x, keys=None):
        x = named(x + self._drop(self.attention(self.ln_1(x)), keys, 0), MIDDLE)
        return x + self._drop(self.mlp(self.ln_2(x)), keys, 1)

    def row(self, x, position, keys=None):
        """Row `position` of `__call__`: keys and values of all tokens, everything else of one. Returns [n, W]."""
        row = take_row(x, position)
        row = row + self._drop(self.attention.row(self.ln_1(row), self.ln_1(x), position), keys, 0, position)
        return row + self._drop(self.mlp(self.ln_2(row)), keys, 1, position)

    def _drop(self, x, keys, branch, position=None):
        return x if keys is None else drop_numbers(x, fold(keys, branch), self.dropout, position)


def stack(
    layers, width, heads, *, activation, causal, init: BlockInit, dtype, dropout=0.0
) -> tuple[Block | None, Block]:
    """(a Block whose parameters have a leading axis of `layers - 1`, or None for one layer; the last Block)."""

    def create():
        return Block(width, heads, activation=activation, causal=causal, init=init, dtype=dtype, dropout=dropout)

    return nnx.vmap(create, in_axes=(), out_axes=0, axis_size=layers - 1)() if layers > 1 else None, create()


def run(blocks: Block | None, last: Block, x, position, *, keys=None, remat="none", unroll=1):
    """Row `position` (an int, or int32 [n]) of what the blocks of `stack` make of x [n, T, W]. Returns [n, W].

    CLIP reads one token of each sequence, so the last block computes only that one: the same numbers for 10/12 less
    of one layer. Its parameters are arrays of their own: cut out of one stack, those of all layers would be copied in
    every step, and their gradients too. `unroll` is that of `jax.lax.scan`.
    What a block keeps for its gradient is what `remat` says (models/remat.py); but for "none" it always loops: XLA on
    CPU moves the second computation forward in unrolled code and saves nothing. The last block is left out, since its
    gradient comes first. keys [n]: a random key a row, for dropout; None, as in evaluation, leaves out nothing.
    """
    keys = keys if last.dropout else None
    count = 0 if blocks is None else len(jax.tree.leaves(nnx.state(blocks))[0])

    def keys_of(index):
        return None if keys is None else fold(keys, index)

    x = by_rows(x)
    if blocks is not None:
        graph, layers = nnx.split(blocks)

        def block(x, layer):
            layer, index = layer
            return by_rows(nnx.merge(graph, layer)(x, keys_of(index))), None

        unroll = unroll if remat == "none" else 1
        layers = layers, None if keys is None else jnp.arange(count)
        x, _ = jax.lax.scan(checkpointed(block, remat), x, layers, unroll=unroll)
    return by_rows(last.row(x, position, keys_of(count)))


def take_row(x, position):
    """x [n, T, W] -> [n, W]: token `position` of each sequence, one int for all or int32 [n]."""
    if isinstance(position, int):
        return x[:, position]
    return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]
