"""The other image tower: CLIP's ResNet, with a stem of three convolutions, antialiased strides and an attention pool.

The changes to ResNet-50 are those of the paper's section 2.4; order and details are the release's.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.config import ImageConfig
from clipjax.errors import UserError
from clipjax.models.attention import attend
from clipjax.models.convolution import BatchNorm, Convolution, average_pool
from clipjax.models.layers import Linear, add_rows, normal, param, uniform
from clipjax.models.positions import resize_grid
from clipjax.models.remat import checkpointed
from clipjax.parallel.sharding import by_rows


class ModifiedResNet(nnx.Module):
    """pixels [n, image_size, image_size, 3] float32, preprocessed -> [n, E] float32, not normalised.

    Its parameters may be those of another picture size: positions are then resized for this one, at each call.
    In training (`train()`, the start) the running averages of its BatchNorms move with every call. Nothing is left out
    at random: `keys` are those of the other image tower.
    """

    def __init__(self, config: ImageConfig, embed_dim, *, dtype, remat, unroll):
        width = config.width
        self.stem = Stem(width, dtype=dtype)
        inputs = [
            width,
            *(4 * width * 2**stage for stage in range(4)),
        ]  # channels before each stage, and after the last
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            Stage(blocks, inputs[i], width * 2**i, shrink=i > 0, dtype=dtype, remat=remat, unroll=unroll)
            for i, blocks in enumerate(config.stages)
        )
        side = config.image_size // config.patch_size
        self.pool = AttentionPool(side, inputs[-1], config.heads, embed_dim, dtype=dtype)
        self.config = config

    def __call__(self, pixels, keys=None):
        size = self.config.image_size
        if pixels.shape[1:] != (size, size, 3):
            raise UserError(
                f"images: shape {pixels.shape} found, [n, {size}, {size}, 3] expected. Preprocess them first."
            )
        x = self.stem(by_rows(pixels, "tensor"))  # [n, size / 4, size / 4, W]
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        return by_rows(self.pool(x))  # of [n, size / 32, size / 32, 32 W]


class Stem(nnx.Module):
    """pixels [n, 4 h, 4 w, 3] -> [n, h, w, W]."""

    def __init__(self, width, *, dtype):
        channels = (3, width // 2, width // 2, width)
        self.conv1, self.conv2, self.conv3 = (
            Convolution(channels[i], channels[i + 1], size=3, stride=1 if i else 2, dtype=dtype) for i in range(3)
        )
        self.bn1, self.bn2, self.bn3 = (BatchNorm(count, dtype=dtype) for count in channels[1:])

    def __call__(self, x):
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return average_pool(jax.nn.relu(self.bn3(self.conv3(x))))


class Stage(nnx.Module):
    """A first Bottleneck, which changes the channels from `inputs` to 4 P and may halve the sides, and stacked others.

    P: `planes`. remat and unroll are as in `transformer.run`.
    """

    def __init__(self, blocks, inputs, planes, *, shrink, dtype, remat, unroll):
        self.first = Bottleneck(inputs, planes, shrink=shrink, shortcut=True, dtype=dtype)

        @nnx.vmap(in_axes=(), out_axes=0, axis_size=blocks - 1)
        def create():
            return Bottleneck(4 * planes, planes, shrink=False, shortcut=False, dtype=dtype)

        self.blocks = create() if blocks > 1 else None
        self.remat, self.unroll = remat, unroll

    def __call__(self, x):
        x, averages = self._apply(self.first)(x, nnx.state(self.first))
        self._remember(self.first, averages)
        if self.blocks is not None:
            unroll = self.unroll if self.remat == "none" else 1
            x, averages = jax.lax.scan(self._apply(self.blocks), x, nnx.state(self.blocks), unroll=unroll)
            self._remember(self.blocks, averages)
        return x

    def _apply(self, block):
        """The pure function (x, state of one block) -> (result, its running averages after that)."""
        graph = nnx.graphdef(block)

        def apply(x, state):
            module = nnx.merge(graph, state)
            return by_rows(module(x), "tensor"), nnx.state(module, nnx.BatchStat)

        return checkpointed(apply, self.remat)

    def _remember(self, block, averages):
        if not block.bn1.use_running_average:
            nnx.update(block, averages)


class Bottleneck(nnx.Module):
    """x [n, height, width, I] -> [n, height, width, 4 P], or half the sides with `shrink`.

    Strides are average pools before a convolution of stride 1, in the block and beside it. The gain of the last
    BatchNorm starts at 0, so that a fresh block passes on what came in (the release).
    """

    def __init__(self, inputs, planes, *, shrink, shortcut, dtype):
        self.conv1 = Convolution(inputs, planes, size=1, dtype=dtype)
        self.bn1 = BatchNorm(planes, dtype=dtype)
        self.conv2 = Convolution(planes, planes, size=3, dtype=dtype)
        self.bn2 = BatchNorm(planes, dtype=dtype)
        self.conv3 = Convolution(planes, 4 * planes, size=1, dtype=dtype)
        self.bn3 = BatchNorm(4 * planes, dtype=dtype, scale=0.0)
        self.shortcut = Shortcut(inputs, 4 * planes, dtype=dtype) if shortcut else None
        self.shrink = shrink

    def __call__(self, x):
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        if self.shrink:
            x, y = average_pool(x), average_pool(y)
        y = self.bn3(self.conv3(y))
        return jax.nn.relu(y + (self.shortcut(x) if self.shortcut else x))


class Shortcut(nnx.Module):
    """The way past a block that changes the channels: a 1 x 1 convolution and a BatchNorm."""

    def __init__(self, inputs, outputs, *, dtype):
        self.conv = Convolution(inputs, outputs, size=1, dtype=dtype)
        self.bn = BatchNorm(outputs, dtype=dtype)

    def __call__(self, x):
        return self.bn(self.conv(x))


class AttentionPool(nnx.Module):
    """x [n, side, side, C] -> [n, E] float32: what the mean of all pixels attends to among itself and them.

    It is the projection into the joint space as well. Only the mean token asks, so only its query is computed.
    """

    def __init__(self, side, channels, heads, embed_dim, *, dtype):
        std = channels**-0.5
        options = dict(kernel_init=normal(std), bias_init=uniform(std), dtype=dtype)
        self.positional_embedding = param(normal(std), side * side + 1, channels)
        self.query = Linear(channels, channels, **options)
        self.key = Linear(channels, channels, **options)
        self.value = Linear(channels, channels, **options)
        self.projection = Linear(channels, embed_dim, out_dtype=jnp.float32, **options)
        self.heads = heads

    def __call__(self, x):
        n, height, width, channels = x.shape
        x = x.reshape(n, height * width, channels)  # row by row
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)  # [n, T, C], the mean first
        x = add_rows(x, resize_grid(self.positional_embedding[...], height))
        q, k, v = (
            y.reshape(n, -1, self.heads, channels // self.heads)
            for y in (self.query(x[:, :1]), self.key(x), self.value(x))
        )
        return self.projection(attend(q, k, v, None)[:, 0])
