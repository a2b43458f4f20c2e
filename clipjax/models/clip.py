"""CLIP: an image tower and a text tower that meet in one embedding space.

Parameter paths (n: all layers of a tower but the last; p: patch side; qkv: query, key, value in this order):

    logit_scale [], and logit_bias [] of a model for the sigmoid loss
    image/patch/kernel [p, p, 3, W]             text/token_embedding [vocabulary, W]
    image/class_embedding [W]                   text/positional_embedding [context, W]
    image/positional_embedding [T, W]
    image/ln_pre/{scale,bias} [W]
    image/blocks/...                            text/blocks/...
        ln_1/{scale,bias}, ln_2/{scale,bias}    [n, W]
        attention/qkv/{kernel,bias}             [n, W, 3, W], [n, 3, W]
        attention/out/{kernel,bias}             [n, W, W], [n, W]
        mlp/fc/{kernel,bias}                    [n, W, 4W], [n, 4W]
        mlp/proj/{kernel,bias}                  [n, 4W, W], [n, W]
    image/last/...                              text/last/...
        the last layer: the same without the leading axis
    image/ln_post/{scale,bias} [W]              text/ln_final/{scale,bias} [W]
    image/projection/kernel [W, E]              text/projection/kernel [W, E]

Where the image tower is a ResNet (P: planes of the stage, W 2^(i-1); C: 32 W channels; I: what comes in; O: 4 P):

    image/stem/conv{1,2,3}/kernel [3, 3, I, O]          image/stem/bn{1,2,3}/{scale,bias} [O]
    image/stage{1,2,3,4}/first/...                      image/stage{1,2,3,4}/blocks/... (with a leading axis of blocks)
        conv1/kernel [I, P], bn1/{scale,bias} [P]           the same, without shortcut; I is 4 P
        conv2/kernel [3, 3, P, P], bn2/{scale,bias} [P]
        conv3/kernel [P, 4 P], bn3/{scale,bias} [4 P]
        shortcut/conv/kernel [I, 4 P], shortcut/bn/{scale,bias} [4 P]
    image/pool/positional_embedding [T, C]              image/pool/{query,key,value}/{kernel,bias} [C, C], [C]
    image/pool/projection/{kernel,bias} [C, E], [E]
    running averages (nnx.BatchStat) beside scale and bias: mean, var

Heads are contiguous in the last axis of qkv and the first of out, so dividing those axes divides by heads.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.config import ModelConfig
from clipjax.models.dropping import fold
from clipjax.models.layers import constant, param, unit
from clipjax.models.resnet import ModifiedResNet
from clipjax.models.text import TextTransformer
from clipjax.models.vision import VisionTransformer

_FIRST_SCALE = {"softmax": 1 / 0.07, "sigmoid": 10.0}  # paper, 2.5; SigLIP, 3.2


class Features(NamedTuple):
    """What the loss compares: float32 unit rows of both towers, the factor of their products and what is added."""

    image: jax.Array  # [B, E]
    text: jax.Array  # [B, E]
    logit_scale: jax.Array  # [], exponentiated
    logit_bias: jax.Array | None = None  # []


class CLIP(nnx.Module):
    """The model of a config. `dtype` is what the matmuls of both towers compute in.

    Parameters are float32, zeros until they are drawn (`initialise.draw`) or loaded. LayerNorm, softmax and
    normalisation are float32 whatever the dtype, and so are the features. remat: what blocks keep for the gradient
    (models/remat.py). unroll: see `transformer.run`; True suits CPU.
    dropout, patch_dropout: shares that are left out where a call is given random keys, one a row; without, nothing is.
    loss: the kind that the model is for; "sigmoid" begins at another scale and adds a bias to the logits.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype=jnp.float32,
        remat="none",
        unroll=1,
        dropout=0.0,
        patch_dropout=0.0,
        loss="softmax",
    ):
        options = dict(dtype=dtype, remat=remat, unroll=unroll)
        blocks = dict(activation=config.activation, dropout=dropout, **options)
        if config.image.kind == "resnet":
            self.image = ModifiedResNet(config.image, config.embed_dim, **options)
        else:
            self.image = VisionTransformer(config.image, config.embed_dim, patch_dropout=patch_dropout, **blocks)
        self.text = TextTransformer(config.text, config.embed_dim, **blocks)
        self.logit_scale = param(constant(math.log(_FIRST_SCALE[loss])))
        if loss == "sigmoid":
            self.logit_bias = param(constant(-10.0))  # SigLIP, 3.2: most questions have the answer no

    def encode_image(self, pixels, keys=None):
        """pixels [n, height, width, 3] float32, preprocessed -> [n, E] float32, not normalised."""
        return self.image(pixels, None if keys is None else fold(keys, 0))

    def encode_text(self, tokens, keys=None):
        """tokens [n, L] int32, L <= context_length -> [n, E] float32, not normalised."""
        return self.text(tokens, None if keys is None else fold(keys, 1))

    def features(self, image, text) -> Features:
        """What the loss compares, of what the two encoders return."""
        bias = self.logit_bias[...] if hasattr(self, "logit_bias") else None
        return Features(unit(image), unit(text), jnp.exp(self.logit_scale[...]), bias)

    def __call__(self, pixels, tokens, keys=None) -> Features:
        return self.features(self.encode_image(pixels, keys), self.encode_text(tokens, keys))
