"""The image tower: a vision transformer with one more LayerNorm before its blocks (paper, 2.4)."""

import jax.numpy as jnp
from flax import nnx

from clipjax.config import ImageConfig
from clipjax.errors import UserError
from clipjax.models.dropping import drop_patches, fold
from clipjax.models.layers import LayerNorm, Linear, add_rows, dense, normal, param, uniform
from clipjax.models.positions import resize_grid
from clipjax.models.transformer import BlockInit, run, stack
from clipjax.parallel.sharding import by_rows


class VisionTransformer(nnx.Module):
    """pixels [n, image_size, image_size, 3] float32, preprocessed -> [n, E] float32, not normalised.

    Its parameters may be those of another picture size: positions are then resized for this one, at each call.
    With keys [n], a random key a row, a share `patch_dropout` of the patches is left out, never the class token, and
    `dropout` of the numbers inside the blocks.
    Initialised as the release is: its vision blocks keep torch's defaults, U(±fan_in^-½), and Xavier for qkv.
    """

    def __init__(
        self, config: ImageConfig, embed_dim, *, activation, dtype, remat, unroll, dropout=0.0, patch_dropout=0.0
    ):
        width, patch = config.width, config.patch_size
        tokens = (config.image_size // patch) ** 2 + 1
        small = normal(width**-0.5)
        self.patch = PatchEmbedding(patch, width, dtype=dtype)
        self.class_embedding = param(small, width)
        self.positional_embedding = param(small, tokens, width)
        self.ln_pre = LayerNorm(width, dtype=dtype)
        self.blocks, self.last = stack(
            config.layers,
            width,
            config.heads,
            activation=activation,
            causal=False,
            init=BlockInit(
                qkv=uniform((1.5 / width) ** 0.5),  # Xavier over torch's [3W, W]
                out=uniform(width**-0.5),
                fc=uniform(width**-0.5),
                proj=uniform((4 * width) ** -0.5),
            ),
            dtype=dtype,
            dropout=dropout,
        )
        self.patch_dropout = patch_dropout
        self.ln_post = LayerNorm(width, dtype=dtype)
        self.projection = Linear(width, embed_dim, kernel_init=small, dtype=dtype, out_dtype=jnp.float32)
        self.config, self.dtype, self.remat, self.unroll = config, dtype, remat, unroll

    def __call__(self, pixels, keys=None):
        size = self.config.image_size
        if pixels.shape[1:] != (size, size, 3):
            raise UserError(
                f"images: shape {pixels.shape} found, [n, {size}, {size}, 3] expected. Preprocess them first."
            )
        x = self.patch(pixels)  # [n, g², W]
        first = add_rows(jnp.zeros_like(x[:, :1]), self.class_embedding[...])
        x = jnp.concatenate([first, x], axis=1)  # [n, T, W]
        positions = resize_grid(self.positional_embedding[...], size // self.config.patch_size)  # [T, W]
        x = add_rows(x, positions)
        if keys is not None and self.patch_dropout:  # a number that no layer has
            patches = drop_patches(x[:, 1:], fold(keys, self.config.layers), self.patch_dropout)
            x = jnp.concatenate([x[:, :1], patches], axis=1)  # [n, 1 + kept, W]
        x = self.ln_pre(x)
        x = run(self.blocks, self.last, x, 0, keys=keys, remat=self.remat, unroll=self.unroll)  # [n, W], class token
        return by_rows(self.projection(self.ln_post(x)))


class PatchEmbedding(nnx.Module):
    """pixels [n, g·p, g·p, 3] -> [n, g², W], rows of patches first: a p×p convolution of stride p without bias.

    Written as reshape and matmul, which gives the same numbers and is faster on CPU; kernel [p, p, 3, W] (HWIO).
    """

    def __init__(self, patch, width, *, dtype):
        self.kernel = param(uniform((3 * patch * patch) ** -0.5), patch, patch, 3, width)
        self.dtype = dtype

    def __call__(self, pixels):
        patch, _, _, width = self.kernel.shape
        n, grid = pixels.shape[0], pixels.shape[1] // patch
        x = pixels.reshape(n, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)  # [n, g, g, p, p, 3]
        return dense(x.reshape(n, grid * grid, -1), self.kernel[...].reshape(-1, width), None, self.dtype)
