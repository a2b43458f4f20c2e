"""The two encoders of a model as pure functions, for the formats that hold programs."""

import functools
from collections.abc import Callable
from typing import Any

from clipjax.models.clip import CLIP
from clipjax.models.stacking import stack_layers
from clipjax.trees import unflatten
from clipjax.weights import Weights


def encoders(weights: Weights) -> tuple[Callable, Callable]:
    """The compiled (image, text) functions of a model: rows in, features [n, E] float32 out."""
    import jax

    variables, *functions = functions_of(weights)
    image, text = (functools.partial(jax.jit(function), variables) for function in functions)
    return image, text


def functions_of(weights: Weights) -> tuple[dict[str, Any], Callable, Callable]:
    """(variables, image, text): nested dict of float32 arrays on the device, and functions of it to features [n, E].

    `image(variables, pixels [n, height, width, 3] float32)` takes preprocessed pictures, `text(variables, tokens
    [n, L] int32)` rows of the model's context length; features are not normalised. Computed in float32.
    """
    import jax
    from flax import nnx

    graph = nnx.graphdef(nnx.eval_shape(lambda: _evaluating(CLIP(weights.model))))
    arrays = {path: array for path, array in weights.arrays.items() if path != "logit_bias"}  # no part of a feature
    variables = jax.device_put(unflatten(stack_layers(arrays)))

    def image(variables, pixels):
        return nnx.merge(graph, variables).encode_image(pixels)

    def text(variables, tokens):
        return nnx.merge(graph, variables).encode_text(tokens)

    return variables, image, text


def _evaluating(model: CLIP) -> CLIP:
    model.eval()
    return model
