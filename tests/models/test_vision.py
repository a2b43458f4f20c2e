"""The image tower's own parts: patches, shapes, initialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ImageConfig
from clipjax.errors import UserError
from clipjax.models.dropping import fold
from clipjax.models.positions import resize_grid
from clipjax.models.vision import PatchEmbedding, VisionTransformer
from clipjax.trees import flatten, unflatten

encode = nnx.jit(lambda tower, pixels: tower(pixels))


@pytest.fixture(scope="module")
def model(build):
    return build().image


def test_patches_equal_a_strided_convolution(drawn, pixels):
    patch = drawn(lambda: PatchEmbedding(8, 5, dtype=jnp.float32))
    expected = jax.lax.conv_general_dilated(
        pixels, patch.kernel[...], (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(patch(pixels), expected.reshape(4, 16, 5), rtol=1e-5, atol=1e-5)


def test_features_are_float32_rows_even_in_bfloat16(build, pixels):
    features = jax.eval_shape(build(dtype=jnp.bfloat16).image, pixels)
    assert features.shape == (4, 24) and features.dtype == jnp.float32


def test_the_place_of_a_patch_counts(model, pixels):
    swapped = pixels.at[:, :8].set(pixels[:, 8:16]).at[:, 8:16].set(pixels[:, :8])
    assert jnp.abs(encode(model, swapped) - encode(model, pixels)).max() > 1e-3


def test_a_picture_of_another_size_is_refused(model):
    with pytest.raises(UserError, match=r"shape \(2, 16, 16, 3\) found, \[n, 32, 32, 3\] expected"):
        model(jnp.zeros((2, 16, 16, 3)))


def test_positions_of_another_size_are_resized_for_the_pictures_at_hand_and_all_get_a_gradient(
    small, drawn, model, pixels
):
    config, options = small.image, dict(activation="quick_gelu", dtype=jnp.float32, remat="none", unroll=1)
    other = dataclasses.replace(config, image_size=24)
    graph, state = nnx.split(drawn(lambda: VisionTransformer(other, 24, **options)))
    params = flatten(nnx.state(model))
    assert params["positional_embedding"].shape == (17, 32)
    resized = params | {"positional_embedding": resize_grid(params["positional_embedding"], 3)}  # [10, W]
    pictures = pixels[:, :24, :24]

    def encode(params):
        return nnx.merge(graph, unflatten(params))(pictures)

    np.testing.assert_allclose(jax.jit(encode)(params), jax.jit(encode)(resized), rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda params: encode(params).sum()))(params)["positional_embedding"]
    assert gradient.shape == (17, 32) and (jnp.abs(gradient).max(1) > 0).all()


def test_a_share_of_the_patches_is_left_out_and_the_class_token_never(small, drawn, pixels):
    options = dict(activation="quick_gelu", dtype=jnp.float32, remat="none", unroll=1, patch_dropout=0.75)
    tower = drawn(lambda: VisionTransformer(small.image, 24, **options))
    keys = fold(jnp.broadcast_to(jax.random.key(0), 4), jnp.arange(4))
    seen = nnx.jit(lambda tower, pixels, keys: jax.grad(lambda pixels: jnp.square(tower(pixels, keys)).sum())(pixels))
    for given, count in ((keys, 4), (None, 16)):  # of 16 patches
        gradient = seen(tower, pixels, given).reshape(4, 4, 8, 4, 8, 3)
        assert (jnp.abs(gradient).max((2, 4, 5)) > 0).sum((1, 2)).tolist() == [count] * 4
    blank = drawn(lambda: VisionTransformer(small.image, 24, **options))
    blank.patch.kernel[...] = jnp.zeros_like(blank.patch.kernel[...])
    blank.positional_embedding[...] = jnp.zeros_like(blank.positional_embedding[...])
    assert jnp.abs(blank(pixels, keys)).max() > 1e-3  # of the class token alone


def test_initialisation_is_the_release_s(drawn):
    width, patch = 128, 8
    config = ImageConfig(image_size=64, patch_size=patch, width=width, layers=2, heads=2)
    options = dict(activation="gelu", dtype=jnp.float32, remat="none", unroll=1)
    state = flatten(nnx.state(drawn(lambda: VisionTransformer(config, 24, **options))))
    deviation = {  # torch's defaults in the blocks, N(W^-1/2) around them
        "patch/kernel": (3 * patch**2 * 3) ** -0.5,
        "class_embedding": width**-0.5,
        "positional_embedding": width**-0.5,
        "projection/kernel": width**-0.5,
        "blocks/attention/qkv/kernel": (1.5 / width / 3) ** 0.5,
        "blocks/attention/out/kernel": (3 * width) ** -0.5,
        "blocks/mlp/fc/kernel": (3 * width) ** -0.5,
        "blocks/mlp/fc/bias": (3 * width) ** -0.5,
        "blocks/mlp/proj/kernel": (12 * width) ** -0.5,
        "blocks/mlp/proj/bias": (12 * width) ** -0.5,
    }
    deviation |= {path.replace("blocks", "last"): value for path, value in deviation.items()}
    for path, leaf in state.items():
        if path in deviation:
            assert np.std(leaf) == pytest.approx(deviation[path], rel=4 / leaf.size**0.5), path
            assert abs(np.mean(leaf)) < 4 * deviation[path] / leaf.size**0.5, path
        else:
            assert (leaf == (1.0 if path.endswith("scale") else 0.0)).all(), path
    for path in ("patch/kernel", "blocks/attention/qkv/kernel", "blocks/mlp/proj/bias"):  # uniform: bound = std √3
        assert np.abs(state[path]).max() == pytest.approx(deviation[path] * 3**0.5, rel=0.02), path
