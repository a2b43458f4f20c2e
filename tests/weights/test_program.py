"""The encoders as functions are those of the module."""

import jax
import numpy as np
import pytest
from flax import nnx

from clipjax.models.clip import CLIP
from clipjax.models.stacking import stack_layers
from clipjax.trees import unflatten
from clipjax.weights import parity
from clipjax.weights.program import encoders


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_encoders_are_the_module_s_in_evaluation_mode(kind, foreign):
    weights = foreign(kind)
    model, table = weights.model, weights.arrays
    variables = jax.device_put(unflatten(stack_layers(table)))
    module = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: CLIP(model))), variables)
    module.eval()
    pixels, tokens = parity.inputs(model)
    image, text = encoders(weights)
    np.testing.assert_allclose(image(pixels), jax.jit(module.encode_image)(pixels), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(text(tokens), jax.jit(module.encode_text)(tokens), rtol=1e-5, atol=1e-6)
