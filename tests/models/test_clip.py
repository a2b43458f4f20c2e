"""The whole model: its paths, golden values of the reference, and what may not change them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.models.clip import CLIP
from clipjax.trees import flatten, map_with_path


def test_paths_are_those_the_module_documents(small):
    state = flatten(nnx.state(nnx.eval_shape(lambda: CLIP(small)), nnx.Param))
    block = [
        *[f"ln_{i}/{name}" for i in (1, 2) for name in ("scale", "bias")],
        *[
            f"{part}/{name}"
            for part in ("attention/qkv", "attention/out", "mlp/fc", "mlp/proj")
            for name in ("kernel", "bias")
        ],
    ]
    image = ["patch/kernel", "class_embedding", "ln_pre/scale", "ln_pre/bias", "ln_post/scale", "ln_post/bias"]
    text = ["token_embedding", "ln_final/scale", "ln_final/bias"]
    both = [
        "positional_embedding",
        "projection/kernel",
        *[f"{part}/{name}" for part in ("blocks", "last") for name in block],
    ]
    assert set(state) == {"logit_scale"} | {f"image/{p}" for p in image + both} | {f"text/{p}" for p in text + both}
    assert state["image/blocks/attention/qkv/kernel"].shape == (2, 32, 3, 32)
    assert state["image/patch/kernel"].shape == (8, 8, 3, 32)


# --- golden values: the reference code in float64 on weights drawn from a rule (no released weights needed) ---

GOLDEN = ModelConfig(
    embed_dim=8,
    image=ImageConfig(image_size=32, patch_size=16, width=128, layers=2, heads=2),
    text=TextConfig(context_length=10, vocab_size=100, width=128, layers=2, heads=2, end_token=99),
)
IMAGE_ROWS = [
    [-1.860853941, -0.232089002, 0.985497209, -10.411044032, -9.179213611, 2.739329572, 1.036143371, 1.784078826],
    [-1.931849322, -3.22116651, 2.868413633, -2.944196211, -2.697524855, -2.376195383, 4.216825199, 12.406530913],
]
TEXT_ROWS = [
    [-10.33739363, 0.110730461, 3.628114373, 1.673544129, -7.401042963, -1.915190378, 1.021927188, -12.755335545],
    [-1.957874413, 5.135415118, 6.148665716, 4.804684809, -2.578437821, 5.208953795, 5.515171822, 2.058090596],
]
LOGITS = [[2.466634132, 0.45486144], [-5.464336876, 2.626463628]]
LOSS = 0.058537524
GRADIENT_NORMS = {
    "text/token_embedding": 3.349263271,
    "text/projection/kernel": 0.643851232,
    "text/blocks/attention/qkv/kernel": 4.597367308,
    "image/patch/kernel": 9.463930031,
    "image/class_embedding": 0.384717919,
    "image/last/mlp/fc/kernel": 1.342350812,
    "image/projection/kernel": 0.5830378,
    "text/ln_final/bias": 0.21706013,
}

_TRANSPOSE = np.transpose
_BLOCK = {  # torch's name in a block → (our path in `blocks`, torch layout to ours)
    "ln_1.weight": ("ln_1/scale", np.asarray),
    "ln_1.bias": ("ln_1/bias", np.asarray),
    "attn.in_proj_weight": ("attention/qkv/kernel", lambda a: a.reshape(3, -1, a.shape[1]).transpose(2, 0, 1)),
    "attn.in_proj_bias": ("attention/qkv/bias", lambda a: a.reshape(3, -1)),
    "attn.out_proj.weight": ("attention/out/kernel", _TRANSPOSE),
    "attn.out_proj.bias": ("attention/out/bias", np.asarray),
    "ln_2.weight": ("ln_2/scale", np.asarray),
    "ln_2.bias": ("ln_2/bias", np.asarray),
    "mlp.c_fc.weight": ("mlp/fc/kernel", _TRANSPOSE),
    "mlp.c_fc.bias": ("mlp/fc/bias", np.asarray),
    "mlp.c_proj.weight": ("mlp/proj/kernel", _TRANSPOSE),
    "mlp.c_proj.bias": ("mlp/proj/bias", np.asarray),
}
_SINGLE = {
    "logit_scale": ("logit_scale", np.asarray),
    "positional_embedding": ("text/positional_embedding", np.asarray),
    "token_embedding.weight": ("text/token_embedding", np.asarray),
    "ln_final.weight": ("text/ln_final/scale", np.asarray),
    "ln_final.bias": ("text/ln_final/bias", np.asarray),
    "text_projection": ("text/projection/kernel", np.asarray),
    "visual.class_embedding": ("image/class_embedding", np.asarray),
    "visual.positional_embedding": ("image/positional_embedding", np.asarray),
    "visual.conv1.weight": ("image/patch/kernel", lambda a: a.transpose(2, 3, 1, 0)),
    "visual.ln_pre.weight": ("image/ln_pre/scale", np.asarray),
    "visual.ln_pre.bias": ("image/ln_pre/bias", np.asarray),
    "visual.ln_post.weight": ("image/ln_post/scale", np.asarray),
    "visual.ln_post.bias": ("image/ln_post/bias", np.asarray),
    "visual.proj": ("image/projection/kernel", np.asarray),
}


def torch_shapes():
    """{torch key: shape} of the golden model."""
    e, w, p = 8, 128, 16
    block = {"ln_1.weight": (w,), "ln_1.bias": (w,), "ln_2.weight": (w,), "ln_2.bias": (w,)}
    block |= {"attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,)}
    block |= {"attn.out_proj.weight": (w, w), "attn.out_proj.bias": (w,)}
    block |= {"mlp.c_fc.weight": (4 * w, w), "mlp.c_fc.bias": (4 * w,)}
    block |= {"mlp.c_proj.weight": (w, 4 * w), "mlp.c_proj.bias": (w,)}
    shapes = {"logit_scale": (), "positional_embedding": (10, w), "token_embedding.weight": (100, w)}
    shapes |= {"ln_final.weight": (w,), "ln_final.bias": (w,), "text_projection": (w, e), "visual.proj": (w, e)}
    shapes |= {
        "visual.class_embedding": (w,),
        "visual.positional_embedding": (5, w),
        "visual.conv1.weight": (w, 3, p, p),
    }
    shapes |= {f"visual.{norm}.{name}": (w,) for norm in ("ln_pre", "ln_post") for name in ("weight", "bias")}
    for tower in ("", "visual."):
        shapes |= {f"{tower}transformer.resblocks.{i}.{key}": shape for i in (0, 1) for key, shape in block.items()}
    return shapes


def golden_weights():
    """{torch key: float64 array} by the fill rule: key number j of the sorted keys draws from RandomState(1000 + j)."""
    weights = {}
    for j, (key, shape) in enumerate(sorted(torch_shapes().items())):
        s = np.random.RandomState(1000 + j).uniform(-1, 1, shape)
        if key == "logit_scale":
            s = np.asarray(np.log(1 / 0.07))
        elif key.endswith("bias"):
            s = 0.1 * s
        elif len(shape) == 1 and key.endswith("weight"):
            s = 1 + 0.1 * s
        else:
            s = s * np.sqrt(6 / (s.size / shape[0]))
        weights[key] = s
    return weights


def as_ours(weights):
    """{our path: float32 array} from {torch key: array}."""
    ours = {path: change(weights[key]) for key, (path, change) in _SINGLE.items()}
    for ours_tower, tower in (("text", ""), ("image", "visual.")):
        for key, (path, change) in _BLOCK.items():
            layers = [change(weights[f"{tower}transformer.resblocks.{i}.{key}"]) for i in (0, 1)]
            ours |= {f"{ours_tower}/blocks/{path}": layers[0][None], f"{ours_tower}/last/{path}": layers[1]}
    return {path: jnp.asarray(leaf, jnp.float32) for path, leaf in ours.items()}


def golden_model(config=GOLDEN):
    graph, state = nnx.split(nnx.eval_shape(lambda: CLIP(config)))
    ours = as_ours(golden_weights())
    assert set(ours) == set(flatten(state))
    return nnx.merge(graph, map_with_path(lambda path, leaf: ours[path].reshape(leaf.shape), state))


@pytest.fixture(scope="module")
def golden_batch():
    images = np.random.RandomState(1).uniform(-1, 1, (2, 3, 32, 32)).transpose(0, 2, 3, 1)
    return jnp.asarray(images, jnp.float32), jnp.asarray([[98, 5, 7, 99, *[0] * 6], [98, *range(1, 9), 99]], jnp.int32)


def near(actual, expected):
    """Within 3e-5 of the largest value: what float32 leaves of a float64 reference."""
    np.testing.assert_allclose(actual, expected, rtol=3e-5, atol=3e-5 * np.abs(expected).max())


def test_golden_weights_have_the_reference_s_size():
    weights = golden_weights()
    assert (len(weights), sum(leaf.size for leaf in weights.values())) == (62, 909_057)


@nnx.jit
def everything(model, pixels, tokens):
    """(image rows, text rows, Features)."""
    return model.encode_image(pixels), model.encode_text(tokens), model(pixels, tokens)


def test_forward_equals_the_reference(golden_batch):
    image, text, features = everything(golden_model(), *golden_batch)
    near(image, IMAGE_ROWS)
    near(text, TEXT_ROWS)
    near(features.logit_scale * features.image @ features.text.T, LOGITS)


def test_exact_gelu_moves_the_features_as_far_as_in_the_reference(golden_batch):
    image, text, _ = everything(golden_model(dataclasses.replace(GOLDEN, activation="gelu")), *golden_batch)
    assert np.abs(image - np.asarray(IMAGE_ROWS)).max() == pytest.approx(0.071, abs=6e-4)
    assert np.abs(text - np.asarray(TEXT_ROWS)).max() == pytest.approx(0.100, abs=6e-4)


def dense_loss(features):
    """Mean of the two cross-entropies, all logits at once."""
    logits = features.logit_scale * features.image @ features.text.T
    own = jnp.diagonal(logits).mean()
    rows, columns = (jax.nn.logsumexp(logits, axis=axis).mean() for axis in (1, 0))
    return (rows + columns) / 2 - own


def test_loss_and_gradients_equal_the_reference(golden_batch):
    graph, state = nnx.split(golden_model())
    loss, gradients = jax.jit(jax.value_and_grad(lambda state: dense_loss(nnx.merge(graph, state)(*golden_batch))))(
        state
    )
    gradients = flatten(gradients)
    assert float(loss) == pytest.approx(LOSS, rel=3e-5)
    assert float(gradients["logit_scale"]) == pytest.approx(-0.116220165, rel=3e-5)
    for path, expected in GRADIENT_NORMS.items():
        assert float(jnp.linalg.norm(gradients[path].ravel())) == pytest.approx(expected, rel=3e-5), path
    whole = sum(float(jnp.square(leaf).sum()) for leaf in gradients.values()) ** 0.5
    assert whole == pytest.approx(15.62028209, rel=3e-5)


# --- what may not change the numbers ---


forward = nnx.jit(lambda model, pixels, tokens: model(pixels, tokens))


@pytest.fixture(scope="module")
def features(build, pixels, tokens):
    return forward(build(), pixels, tokens)


def test_features_are_unit_float32_rows_and_the_scale_is_exponentiated(features):
    for rows in (features.image, features.text):
        assert rows.shape == (4, 24) and rows.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert float(features.logit_scale) == pytest.approx(1 / 0.07, rel=1e-6) and features.logit_scale.shape == ()


def test_bfloat16_compute_is_close_to_float32(build, pixels, tokens, features):
    rounded = forward(build(dtype=jnp.bfloat16), pixels, tokens)
    assert rounded.image.dtype == rounded.text.dtype == rounded.logit_scale.dtype == jnp.float32
    for one, other in ((features.image, rounded.image), (features.text, rounded.text)):
        assert float((one * other).sum(1).min()) > 0.9995
        assert not np.array_equal(one, other)


def test_unroll_and_remat_reach_both_towers_and_change_nothing(build, pixels, tokens, features):
    model = build(remat="block", unroll=True)
    assert {model.image.remat, model.text.remat, model.image.unroll, model.text.unroll} == {"block", True}
    for one, other in zip(*map(jax.tree.leaves, (features, forward(model, pixels, tokens))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_second_model_of_the_same_config_is_not_traced_again(build, tokens):
    traces = []

    @nnx.jit
    def encode(model, tokens):
        traces.append(1)
        return model.encode_text(tokens)

    for _ in range(2):
        encode(build(), tokens)
    assert len(traces) == 1


def test_a_model_for_the_sigmoid_loss_has_a_bias_and_another_first_scale(small):
    softmax, sigmoid = (
        nnx.state(nnx.eval_shape(lambda kind=kind: CLIP(small, loss=kind)), nnx.Param)
        for kind in ("softmax", "sigmoid")
    )
    assert flatten(sigmoid).keys() - flatten(softmax).keys() == {"logit_bias"}
    first = {path: variable.get_metadata()["init"] for path, variable in sigmoid.items() if path.startswith("logit_")}
    assert first == {"logit_scale": ("constant", pytest.approx(np.log(10))), "logit_bias": ("constant", -10)}
