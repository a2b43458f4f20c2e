"""What ResNets are made of: convolution, batch normalisation and average pooling of maps [n, height, width, C]."""

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.models.layers import constant, dense, param, uniform
from clipjax.models.remat import CONVOLVED, named

_EPSILON = 1e-5
_MOMENTUM = 0.9  # of the running averages; torch calls this 0.1


class Convolution(nnx.Module):
    """x [n, height, width, I] -> [n, height / stride, width / stride, O], without bias, multiplied in `dtype`.

    size 3 pads one pixel on every side (as torch does; "SAME" would pad none before the first at stride 2) and has
    kernel [3, 3, I, O]. size 1 has kernel [I, O]: a matrix product of the pixels, which XLA on CPU computes five times
    faster than the convolution it is, and no slower elsewhere. Drawn as torch does, U(±fan_in^-½).
    """

    def __init__(self, inputs, outputs, *, size, stride=1, dtype):
        shape = (inputs, outputs) if size == 1 else (size, size, inputs, outputs)
        self.kernel = param(uniform((inputs * size * size) ** -0.5), *shape)
        self.size, self.stride, self.dtype = size, stride, dtype

    def __call__(self, x):
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.size == 1:
            n, height, width, channels = x.shape
            y = dense(x.reshape(-1, channels), kernel, None, self.dtype).reshape(n, height, width, -1)
        else:
            y = convolve_3x3(x, kernel) if self.stride == 1 else _convolve(x, kernel, self.stride)
        return named(y, CONVOLVED)


class BatchNorm(nnx.Module):
    """Normalises each channel of x [n, height, width, C], in float32; returns `dtype`.

    In training (`train()`, the start) by the mean and the biased variance of the whole batch: under `jit` those of all
    devices' rows. It then moves the running averages a tenth of the way to the batch's, the variance unbiased as torch
    stores it. In evaluation (`eval()`) by the running averages, so that a row does not depend on the others.
    The variance is the mean of squared deviations (two passes), see `layers.LayerNorm`.
    """

    def __init__(self, channels, *, dtype, scale=1.0):
        self.scale = param(constant(scale), channels)
        self.bias = param(constant(0.0), channels)
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32), init=constant(0.0))
        self.var = nnx.BatchStat(jnp.zeros(channels, jnp.float32), init=constant(1.0))
        self.use_running_average = False  # the name that nnx's train() and eval() set
        self.dtype = dtype

    def __call__(self, x):
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean = x.mean((0, 1, 2))
            var = jnp.square(x - mean[None, None, None]).mean((0, 1, 2))
            self._remember(mean, var, x.size // x.shape[-1])
        factor = self.scale[...] * jax.lax.rsqrt(var + _EPSILON)
        shift = self.bias[...] - mean * factor
        return (x * factor[None, None, None] + shift[None, None, None]).astype(self.dtype)

    def _remember(self, mean, var, count):
        unbiased = var * (count / max(count - 1, 1))
        for average, value in ((self.mean, mean), (self.var, unbiased)):
            average[...] = _MOMENTUM * average[...] + (1 - _MOMENTUM) * jax.lax.stop_gradient(value)


@jax.custom_vjp
def convolve_3x3(x, kernel):
    """x [n, height, width, I] * kernel [3, 3, I, O] -> [n, height, width, O]: one pixel of zeros around, stride 1."""
    return _convolve(x, kernel, 1)


def _forward(x, kernel):
    return convolve_3x3(x, kernel), (x, kernel)


def _backward(kept, dy):
    x, kernel = kept
    (dx,) = jax.vjp(lambda x: _convolve(x, kernel, 1), x)[1](dy)
    dk = jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient_by_product, default=_kernel_gradient)
    return dx, dk.astype(kernel.dtype)


convolve_3x3.defvjp(_forward, _backward)


def _convolve(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _kernel_gradient(x, dy):
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.vjp(lambda kernel: _convolve(x, kernel, 1), kernel)[1](dy)[0]


def _kernel_gradient_by_product(x, dy):
    """The same as one matrix product over all pixels: x moved three ways along a row times dy moved three ways along a
    column has all nine places of the kernel.

    XLA on CPU computes the gradient of a kernel as a convolution whose kernel is as large as the maps, which is two to
    seven times slower: a third of a training step of RN50. It would also move x of every convolution before the whole
    backward pass, which brings the first dy, and keep it: a fifth of the step's memory. So x is made to wait for dy.
    """
    inputs, outputs = x.shape[-1], dy.shape[-1]
    x = jnp.where(jnp.isnan(dy[0, 0, 0, 0]), jnp.nan, x)  # a gradient that has a NaN gives nothing else anyway
    moved_x = _moved(x, 2).reshape(-1, 3 * inputs)  # [n height width, 3 I]
    moved_dy = _moved(dy, 1).reshape(-1, 3 * outputs)  # [n height width, 3 O]
    product = (moved_x.T @ moved_dy).reshape(3, inputs, 3, outputs)  # [column, I, row from below, O]
    return product[:, :, ::-1].transpose(2, 0, 1, 3)


def _moved(x, axis):
    """x moved one pixel forth, not, and one back along an axis, with zeros behind it: [..., 3 C]."""
    padding = [(1, 1) if i == axis else (0, 0) for i in range(4)]
    padded = jnp.pad(x, padding)
    parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3)]
    return jnp.concatenate(parts, axis=-1)


def average_pool(x):
    """[n, height, width, C] -> [n, height / 2, width / 2, C]: means of squares of 2 x 2 pixels."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
