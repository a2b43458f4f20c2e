"""The ResNet tower: golden values of the reference, sizes, and what may not change the numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ImageConfig, ModelConfig, TextConfig, preset
from clipjax.errors import UserError
from clipjax.models.clip import CLIP
from clipjax.models.initialise import draw
from clipjax.models.stacking import stack_layers
from clipjax.trees import flatten, map_with_path

# --- golden values: the reference code in float64 on weights drawn from a rule (no released weights needed) ---

GOLDEN = ModelConfig(
    embed_dim=8,
    image=ImageConfig(image_size=64, width=8, layers=0, heads=4, kind="resnet", stages=(2, 1, 1, 1)),
    text=TextConfig(context_length=10, vocab_size=100, width=128, layers=2, heads=2, end_token=99),
)
IMAGE_ROWS = [
    [-2.588852975, -0.894181341, 0.910185113, -9.943196364, 1.074240774, -8.443244901, 4.350986585, 1.240768631],
    [-2.950327415, -1.095381367, 1.024970643, -9.841276266, 0.999776625, -8.016342948, 4.462806667, 1.270731268],
]
LOGITS = [[0.552635842, -4.949290398], [0.768094747, -4.697494446]]
LOSS = 2.97922326  # in training mode, and so are the gradients
GRADIENT_NORMS = {
    "image/stem/conv1/kernel": 74.608379056,
    "image/stage2/first/shortcut/conv/kernel": 16.941227935,
    "image/pool/query/kernel": 8.168308719,
    "image/pool/positional_embedding": 1.989302761,
    "image/stage4/first/bn3/scale": 1.47194094,
}
AVERAGES = {  # the first four channels after one step
    "image/stem/bn1/mean": [0.060779339, -0.0027769, 0.068052724, 0.037198628],
    "image/stem/bn1/var": [0.528108543, 1.021530015, 0.781784249, 1.39682924],
    "image/stage4/first/bn3/var": [0.648042251, 0.935804656, 0.922692768, 1.267680619],
}

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def torch_rows():
    """(torch key, its shape, our path, torch layout to ours) of every tensor of the golden model."""
    yield "logit_scale", (), "logit_scale", np.asarray
    yield from text_rows(128, 8)
    channels = (3, 4, 4, 8)
    for i in (1, 2, 3):
        shape = (channels[i], channels[i - 1])
        yield from convolution(
            "visual", f"conv{i}", f"bn{i}", (*shape, 3, 3), f"image/stem/conv{i}", f"image/stem/bn{i}"
        )
    inputs = 8
    for stage, blocks in enumerate((2, 1, 1, 1)):
        for block in range(blocks):
            theirs = f"visual.layer{stage + 1}.{block}"
            ours = f"image/stage{stage + 1}/" + (f"blocks/{block - 1}" if block else "first")
            planes = 8 * 2**stage
            shapes = (planes, inputs, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)
            for i, shape in enumerate(shapes, 1):
                yield from convolution(theirs, f"conv{i}", f"bn{i}", shape, f"{ours}/conv{i}", f"{ours}/bn{i}")
            if block == 0:
                names = "downsample.0", "downsample.1", (4 * planes, inputs, 1, 1)
                yield from convolution(theirs, *names, f"{ours}/shortcut/conv", f"{ours}/shortcut/bn")
            inputs = 4 * planes
    yield "visual.attnpool.positional_embedding", (5, 256), "image/pool/positional_embedding", np.asarray
    for letter, name in {"q": "query", "k": "key", "v": "value", "c": "projection"}.items():
        outputs = 8 if letter == "c" else 256
        yield f"visual.attnpool.{letter}_proj.weight", (outputs, 256), f"image/pool/{name}/kernel", np.transpose
        yield f"visual.attnpool.{letter}_proj.bias", (outputs,), f"image/pool/{name}/bias", np.asarray


def convolution(theirs, conv, norm, shape, our_conv, our_norm):
    change = (lambda a: a[:, :, 0, 0].T) if shape[-1] == 1 else (lambda a: a.transpose(2, 3, 1, 0))
    yield f"{theirs}.{conv}.weight", shape, f"{our_conv}/kernel", change
    for key, name in _NORM.items():
        yield f"{theirs}.{norm}.{key}", shape[:1], f"{our_norm}/{name}", np.asarray


def text_rows(w, e):
    same = np.asarray
    yield "positional_embedding", (10, w), "text/positional_embedding", same
    yield "token_embedding.weight", (100, w), "text/token_embedding", same
    yield "text_projection", (w, e), "text/projection/kernel", same
    yield "ln_final.weight", (w,), "text/ln_final/scale", same
    yield "ln_final.bias", (w,), "text/ln_final/bias", same
    for i in (0, 1):
        theirs, ours = f"transformer.resblocks.{i}", f"text/blocks/{i}"
        for ln in ("ln_1", "ln_2"):
            yield f"{theirs}.{ln}.weight", (w,), f"{ours}/{ln}/scale", same
            yield f"{theirs}.{ln}.bias", (w,), f"{ours}/{ln}/bias", same
        split = lambda a: a.reshape(3, w, w).transpose(2, 0, 1)  # noqa: E731
        yield f"{theirs}.attn.in_proj_weight", (3 * w, w), f"{ours}/attention/qkv/kernel", split
        yield f"{theirs}.attn.in_proj_bias", (3 * w,), f"{ours}/attention/qkv/bias", lambda a: a.reshape(3, w)
        for key, name, shape in (
            ("attn.out_proj", "attention/out", (w, w)),
            ("mlp.c_fc", "mlp/fc", (4 * w, w)),
            ("mlp.c_proj", "mlp/proj", (w, 4 * w)),
        ):
            yield f"{theirs}.{key}.weight", shape, f"{ours}/{name}/kernel", np.transpose
            yield f"{theirs}.{key}.bias", shape[:1], f"{ours}/{name}/bias", same


def filled(j, key, shape):
    """Tensor number j of the sorted keys by the fill rule, float64."""
    s = np.random.RandomState(1000 + j).uniform(-1, 1, shape)
    if key == "logit_scale":
        return np.asarray(math.log(1 / 0.07))
    if key.endswith("running_var"):
        return 1 + 0.5 * s
    if key.endswith(("bias", "running_mean")):
        return 0.1 * s
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + 0.1 * s
    return s * np.sqrt(6 / (s.size / shape[0]))


def build(config, leaves, **options):
    """CLIP of a config with the leaves {path: array}, blocks stacked, running averages included."""
    graph, state = nnx.split(nnx.eval_shape(lambda: CLIP(config, **options)))
    assert set(leaves) == set(flatten(state))
    return nnx.merge(graph, map_with_path(lambda path, leaf: jnp.asarray(leaves[path], leaf.dtype), state))


@pytest.fixture(scope="module")
def golden_leaves():
    ours = {}
    rows = sorted(torch_rows(), key=lambda row: row[0])
    for j, (key, shape, path, change) in enumerate(rows):
        ours[path] = change(filled(j, key, shape))
    sizes = [leaf.size for path, leaf in ours.items() if not path.endswith(("/mean", "/var"))]
    assert (len(ours), sum(sizes)) == (149, 741_573)  # as the reference
    return stack_layers(ours)


@pytest.fixture(scope="module")
def golden_batch():
    images = np.random.RandomState(1).uniform(-1, 1, (2, 3, 64, 64)).transpose(0, 2, 3, 1)
    return jnp.asarray(images, jnp.float32), jnp.asarray([[98, 5, 7, 99, *[0] * 6], [98, *range(1, 9), 99]], jnp.int32)


def near(actual, expected, err_msg=""):
    """Within 3e-5 of the largest value: what float32 leaves of a float64 reference."""
    np.testing.assert_allclose(actual, expected, rtol=3e-5, atol=3e-5 * np.abs(expected).max(), err_msg=err_msg)


def test_forward_equals_the_reference(golden_leaves, golden_batch):
    model = build(GOLDEN, golden_leaves)
    model.eval()
    image, features = nnx.jit(lambda model, *batch: (model.encode_image(batch[0]), model(*batch)))(model, *golden_batch)
    near(image, IMAGE_ROWS)
    near(features.logit_scale * features.image @ features.text.T, LOGITS)


def dense_loss(features):
    """Mean of the two cross-entropies, all logits at once."""
    logits = features.logit_scale * features.image @ features.text.T
    rows, columns = (jax.nn.logsumexp(logits, axis=axis).mean() for axis in (1, 0))
    return (rows + columns) / 2 - jnp.diagonal(logits).mean()


@pytest.fixture(scope="module")
def differentiate(golden_batch):
    """differentiate(model) -> (loss, gradients {path: array}, running averages {path: array} after it)."""

    def differentiate(model):
        graph, *halves = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = map(nnx.to_pure_dict, halves)

        def loss_of(params, stats):
            model = nnx.merge(graph, params, stats)
            return dense_loss(model(*golden_batch)), nnx.state(model, nnx.BatchStat)

        (loss, stats), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params, stats)
        return float(loss), flatten(gradients), flatten(stats)

    return differentiate


@pytest.fixture(scope="module")
def trained(golden_leaves, differentiate):
    return differentiate(build(GOLDEN, golden_leaves))


def test_loss_and_gradients_of_training_equal_the_reference(trained):
    loss, gradients, _ = trained
    norms = {path: float(jnp.linalg.norm(leaf.ravel())) for path, leaf in gradients.items()}
    assert loss == pytest.approx(LOSS, rel=3e-5)
    assert abs(float(gradients["logit_scale"])) == pytest.approx(2.791771121, rel=3e-5)
    for path, expected in GRADIENT_NORMS.items():
        assert norms[path] == pytest.approx(expected, rel=1e-4), path
    assert math.hypot(*norms.values()) == pytest.approx(184.379893628, rel=1e-4)


def test_running_averages_after_a_step_equal_the_reference(trained, golden_leaves):
    _, _, averages = trained
    for path, expected in AVERAGES.items():
        near(averages[path][:4], expected, path)
    for path, leaf in averages.items():
        assert not np.allclose(leaf, golden_leaves[path]), path  # all of them moved, those of scanned blocks too


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"remat": "block"}, {"unroll": True}], ids=str)
def test_remat_and_unroll_change_no_number(trained, golden_leaves, differentiate, options):
    found = differentiate(build(GOLDEN, golden_leaves, **options))
    assert found[0] == pytest.approx(trained[0], rel=1e-5)
    for one, other in zip(found[1:], trained[1:], strict=True):
        for path, leaf in other.items():
            np.testing.assert_allclose(one[path], leaf, rtol=1e-3, atol=2e-5 * float(abs(leaf).max()), err_msg=path)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_averages(trained, golden_leaves, golden_batch):
    @nnx.jit
    def encode(model):
        return model.encode_image(golden_batch[0])

    model, wanted = (build(GOLDEN, golden_leaves, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    rows, exact = encode(model), encode(wanted)
    assert rows.dtype == jnp.float32
    assert not np.array_equal(rows, exact)
    assert float(jnp.linalg.norm(rows - exact)) < 0.1 * float(jnp.linalg.norm(exact))
    for path, leaf in flatten(nnx.state(model, nnx.BatchStat)).items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, trained[2][path], rtol=0.02, atol=0.02, err_msg=path)


# --- rows, averages and starts of a tiny model ---

TINY = preset("tiny-resnet")


@pytest.fixture(scope="module")
def drawn():
    """{path: array} of a tiny model, as it is drawn."""
    return draw(nnx.state(nnx.eval_shape(lambda: CLIP(TINY))), seed=0)


@pytest.fixture
def fresh(drawn):
    return build(TINY, drawn)


def test_in_evaluation_a_row_does_not_depend_on_the_others(fresh):
    fresh.eval()
    encode = nnx.jit(lambda model, pixels: model.encode_image(pixels))
    pixels = np.random.RandomState(0).randn(4, 64, 64, 3).astype(np.float32)
    before = {path: np.asarray(leaf) for path, leaf in flatten(nnx.state(fresh, nnx.BatchStat)).items()}
    rows = encode(fresh, pixels)
    pixels[1:] = 50.0
    np.testing.assert_array_equal(encode(fresh, pixels)[0], rows[0])
    for path, leaf in flatten(nnx.state(fresh, nnx.BatchStat)).items():
        np.testing.assert_array_equal(leaf, before[path], path)
    fresh.train()
    pixels[1:] = 0.0
    assert not np.allclose(encode(fresh, pixels)[0], rows[0])


def test_a_fresh_block_passes_on_what_comes_in(fresh):
    for path, leaf in flatten(nnx.state(fresh)).items():
        if "/bn" in path:
            last_of_block = path.endswith("bn3/scale") and "stage" in path
            wanted = 0 if last_of_block or path.endswith(("bias", "mean")) else 1
            np.testing.assert_array_equal(leaf, wanted, path)
    x = jnp.asarray(np.random.RandomState(0).rand(2, 8, 8, 32), jnp.float32)
    block = nnx.merge(
        nnx.graphdef(fresh.image.stage1.blocks), jax.tree.map(lambda a: a[0], nnx.state(fresh.image.stage1.blocks))
    )
    np.testing.assert_array_equal(block(x), x)


@pytest.mark.parametrize(
    ("path", "std"),
    [
        ("image/stem/conv2/kernel", (4 * 9) ** -0.5 / math.sqrt(3)),  # torch's default: U(±fan_in^-½)
        ("image/stage3/first/conv2/kernel", (32 * 9) ** -0.5 / math.sqrt(3)),
        ("image/stage4/first/conv3/kernel", 64**-0.5 / math.sqrt(3)),
        ("image/stage4/first/shortcut/conv/kernel", 128**-0.5 / math.sqrt(3)),
        ("image/pool/query/kernel", 256**-0.5),
        ("image/pool/projection/kernel", 256**-0.5),
        ("image/pool/positional_embedding", 256**-0.5),
        ("image/pool/key/bias", 256**-0.5 / math.sqrt(3)),
    ],
)
def test_initial_spread_is_the_release_s(drawn, path, std):
    leaf = drawn[path]
    assert leaf.std() == pytest.approx(std, rel=4 / math.sqrt(leaf.size))
    assert abs(leaf.mean()) < 5 * std / math.sqrt(leaf.size)


def test_pictures_of_another_size_are_refused(fresh):
    with pytest.raises(UserError, match=r"shape \(2, 32, 32, 3\) found, \[n, 64, 64, 3\] expected"):
        fresh.encode_image(jnp.zeros((2, 32, 32, 3)))


def test_stages_of_one_block_have_nothing_to_scan():
    config = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, stages=(1, 1, 1, 1)))
    paths = flatten(nnx.state(nnx.eval_shape(lambda: CLIP(config))))
    assert not any("/blocks/" in path for path in paths if path.startswith("image/"))
