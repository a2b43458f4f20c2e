"""The small layers that both towers are made of: linear map, layer normalisation, activations, initialisers.

Modules are made of zeros: each parameter says how it is drawn, and `initialise.draw` does that on the host. A compiled
program that draws costs seconds at every start, and is thrown away when weights are loaded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.parallel.mesh import traced_platform


def lean(function, *, apart=False):
    """A function of elementwise work and sums along a row, whose gradient keeps its inputs alone and works from them.

    Otherwise it keeps each step on the way, arrays as large as the input: a third of a training step's memory, for
    work that is next to nothing. Where blocks are written out, on a CPU, XLA merges that work with the first and keeps
    its result after all. For LayerNorms this takes a twelfth less time of a step; `apart` says that it gains nothing.
    """

    def call(*arguments):
        return jax.checkpoint(function, prevent_cse=apart and traced_platform() == "cpu")(*arguments)

    return call


ACTIVATIONS = {
    "quick_gelu": lean(lambda x: x * jax.nn.sigmoid(1.702 * x), apart=True),  # CLIP's release, both towers
    "gelu": lean(lambda x: jax.nn.gelu(x, approximate=False), apart=True),  # exact erf form, most later models
}


class Linear(nnx.Module):
    """x [..., inputs] -> x @ kernel + bias [..., *outputs], multiplied in `dtype`; parameters stay float32.

    `outputs` may be a tuple: the fused query, key and value map has kernel [W, 3, W], whose last axis divides by heads.
    """

    def __init__(self, inputs, outputs, *, kernel_init, bias_init=None, dtype=jnp.float32, out_dtype=None):
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        self.kernel = param(kernel_init, inputs, *outputs)
        self.bias = param(bias_init, *outputs) if bias_init else None
        self.dtype, self.out_dtype = dtype, out_dtype

    def __call__(self, x):
        bias = None if self.bias is None else self.bias[...]
        return dense(x, self.kernel[...], bias, self.dtype, self.out_dtype)


class LayerNorm(nnx.Module):
    """Normalises the last axis: epsilon 1e-5, biased variance, gain and bias, all in float32; returns `dtype`.

    The variance is the mean of squared deviations (two passes): E[x²] - E[x]² loses every digit where |mean| >> std.
    """

    def __init__(self, width, *, dtype=jnp.float32):
        self.scale = param(constant(1.0), width)
        self.bias = param(constant(0.0), width)
        self.dtype = dtype

    def __call__(self, x):
        return _normalised(x, _as_rank(self.scale[...], x.ndim), _as_rank(self.bias[...], x.ndim)).astype(self.dtype)


class MLP(nnx.Module):
    """W -> 4W -> W with biases. Biases start as torch's linear layers do, U(±fan_in^-½), not at zero."""

    def __init__(self, width, *, activation, fc_init, proj_init, dtype=jnp.float32):
        hidden = 4 * width
        self.fc = Linear(width, hidden, kernel_init=fc_init, bias_init=uniform(width**-0.5), dtype=dtype)
        self.proj = Linear(hidden, width, kernel_init=proj_init, bias_init=uniform(hidden**-0.5), dtype=dtype)
        self.activation = activation

    def __call__(self, x):
        return self.proj(ACTIVATIONS[self.activation](self.fc(x)))


def dense(x, kernel, bias, dtype, out_dtype=None):
    """x [..., I] times kernel [I, ...], plus bias if there is one; multiplied in `dtype`, returned in `out_dtype`."""
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    y = jax.lax.dot_general(x.astype(dtype), kernel.astype(dtype), contract, preferred_element_type=out_dtype)
    return y if bias is None else add_rows(y, bias)


def add_rows(x, row):
    """x [..., *S] + row [*S], in the dtype of x. The gradient of row, a sum over all of x, is summed in float32.

    In half precision that sum would stall at some hundreds of equal terms, or overflow; a batch has a million.
    Where each token has a row of its own, as positions have, on GPU the sum is a product with ones: XLA lays out what
    it sums there so that the terms lie side by side, which would turn everything in the tower around.
    """
    return _add_rows(x, row.astype(jnp.float32))


@jax.custom_vjp
def _add_rows(x, row):
    return x + _as_rank(row.astype(x.dtype), x.ndim)


def _add_rows_forward(x, row):
    return _add_rows(x, row), row


def _add_rows_backward(row, dy):
    if dy.ndim - row.ndim == 1 and traced_platform() == "gpu":
        ones = jnp.ones(dy.shape[0], dy.dtype)
        return dy, jnp.einsum("n,n...->...", ones, dy, preferred_element_type=jnp.float32)
    return dy, dy.astype(jnp.float32).sum(tuple(range(dy.ndim - row.ndim)))


_add_rows.defvjp(_add_rows_forward, _add_rows_backward)


class Init(NamedTuple):
    """How a parameter is drawn: `kind` "normal", "uniform" (between -size and size) or "constant"."""

    kind: str
    size: float


def normal(std):
    """N(0, std²)."""
    return Init("normal", float(std))


def uniform(bound):
    """U(-bound, bound), whose standard deviation is bound / √3."""
    return Init("uniform", float(bound))


def constant(value):
    """The same number everywhere."""
    return Init("constant", float(value))


def param(init: Init, *shape) -> nnx.Param:
    """A float32 parameter that says in its metadata how it is drawn; zeros until then, unless it is constant."""
    return nnx.Param(jnp.full(shape, init.size if init.kind == "constant" else 0.0, jnp.float32), init=init)


def unit(features):
    """Rows [n, E] divided by their length, in float32. A zero row stays zero instead of NaN."""
    features = features.astype(jnp.float32)
    squared = jnp.square(features).sum(-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


@lean
def _normalised(x, scale, bias):
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
    return x * scale + bias


def _as_rank(x, rank):
    """Leading axes of size 1 up to `rank`, so that adding it is no implicit rank promotion."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)
