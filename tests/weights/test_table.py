"""The mapping engine: both ways, the table's order, and every mistake of a file in one error."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from clipjax.config import preset
from clipjax.errors import UserError
from clipjax.weights import table
from clipjax.weights.table import Row

TINY = preset("tiny")
TABLE = (
    Row("scale", "logit_scale"),
    Row("text/blocks/{i}/a", "t.{i}.a", table.TRANSPOSED),
    Row("text/blocks/{i}/c", ("q.{i+1}", "k.{i+1}"), table.Layout(lambda q, k: np.stack([q, k]), tuple)),
    Row("text/b", "b"),
)
ARRAYS = {
    "text/b": np.arange(4, dtype=np.float32),
    "text/blocks/1/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "text/blocks/0/c": np.ones((2, 5), np.float32),
    "text/blocks/0/a": -np.arange(6, dtype=np.float32).reshape(2, 3),
    "text/blocks/1/c": np.zeros((2, 5), np.float32),
    "scale": np.array(3, np.float32),
}


@pytest.fixture
def small(monkeypatch):
    """The engine for a model of the shapes above."""
    shapes = {path: x.shape for path, x in ARRAYS.items()}
    monkeypatch.setattr(table, "expected_shapes", lambda model, source: shapes)


def test_keys_come_in_the_table_s_order_layer_by_layer():
    written = table.write(TABLE, ARRAYS)
    assert list(written) == ["logit_scale", "t.0.a", "q.1", "k.1", "t.1.a", "q.2", "k.2", "b"]
    assert np.array_equal(written["t.1.a"], ARRAYS["text/blocks/1/a"].T)


def test_reading_is_the_inverse_of_writing(small):
    tensors = table.write(TABLE, ARRAYS)
    tensors = dict(reversed(tensors.items())) | {"mask": np.zeros(3)}
    back = table.read(TABLE, tensors, TINY, "file", "mask|other")
    assert back.keys() == ARRAYS.keys()
    for path, x in ARRAYS.items():
        assert np.array_equal(back[path], x) and back[path].flags.c_contiguous and back[path].flags.owndata
        assert not np.shares_memory(back[path], x)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types_become_float32(small, dtype):
    tensors = {key: x.astype(dtype) for key, x in table.write(TABLE, ARRAYS).items()}
    back = table.read(TABLE, tensors, TINY, "file")
    assert all(x.dtype == np.float32 and np.array_equal(x, ARRAYS[path]) for path, x in back.items())


def test_all_mistakes_are_listed_with_shape_found_and_expected(small):
    tensors = table.write(TABLE, ARRAYS)
    del tensors["q.2"]
    tensors |= {"t.0.a": np.zeros((2, 3)), "b": np.zeros(4, np.int32), "more": np.zeros((2, 2))}
    with pytest.raises(UserError) as error:
        table.read(TABLE, tensors, TINY, "file.pt")
    assert str(error.value) == (
        "file.pt: q.2 is missing, [5] expected; more [2, 2] is not part of the model; "
        "t.0.a is [2, 3], [3, 2] expected; b is int32, a float type expected."
    )


def test_very_many_mistakes_are_counted(small):
    tensors = table.write(TABLE, ARRAYS) | {f"more.{n}": np.zeros(1) for n in range(100)}
    with pytest.raises(UserError, match="more.19 .*; and 80 more.$"):
        table.read(TABLE, tensors, TINY, "file.pt")


def test_a_scalar_may_be_a_list_of_one(small):
    tensors = table.write(TABLE, ARRAYS)
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    assert table.read(TABLE, tensors, TINY, "file")["scale"].shape == ()


def test_a_table_with_a_fault_is_our_mistake():
    with pytest.raises(ValueError, match="scale.*two rows"):
        table.write((*TABLE, Row("scale", "again")), ARRAYS)
    with pytest.raises(ValueError, match="logit_scale.*two rows"):
        table.write((*TABLE[:-1], Row("text/b", "logit_scale")), ARRAYS)
    with pytest.raises(ValueError, match="text/b: no row"):
        table.write(TABLE[:-1], ARRAYS)


@pytest.mark.parametrize("shape, layout", [
    ((5, 7), table.TRANSPOSED),
    ((3, 4, 5, 6), table.CONVOLUTION),
    ((5, 7), table.POINTWISE),
    ((6, 3, 6), table.FUSED_QKV),
    ((3, 6), table.FUSED_QKV_BIAS),
    ((6, 3, 6), table.SPLIT_QKV),
    ((3, 6), table.SPLIT_QKV_BIAS),
])  # fmt: skip
def test_layouts_are_inverse(shape, layout):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.array_equal(layout.read(*layout.write(x)), x)


def test_layouts_are_those_of_torch():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 6)), rng.normal(size=(18, 6))  # torch: x @ weight.T, thirds are query, key, value
    ours = np.einsum("ni,ikj->nkj", x, table.FUSED_QKV.read(weight))
    assert np.allclose(ours.reshape(2, 18), x @ weight.T)
    assert np.array_equal(table.FUSED_QKV.read(weight), table.SPLIT_QKV.read(*np.split(weight, 3)))
    oihw = rng.normal(size=(4, 3, 2, 2))
    assert table.CONVOLUTION.read(oihw)[1, 0, 2, 3] == oihw[3, 2, 1, 0]


def test_shapes_are_the_model_s_one_entry_a_layer():
    shapes = table.expected_shapes(TINY, "x")
    assert shapes["text/blocks/1/attention/qkv/kernel"] == (64, 3, 64) and shapes["logit_scale"] == ()
    assert shapes["image/patch/kernel"] == (8, 8, 3, 64) and len(shapes) == 62
    resnet = dataclasses.replace(
        TINY.image, image_size=64, kind="resnet", width=8, layers=0, heads=4, patch_size=32, stages=(1, 2, 1, 1)
    )
    shapes = table.expected_shapes(dataclasses.replace(TINY, image=resnet), "x")
    assert shapes["image/stage2/blocks/0/bn1/mean"] == (16,) and shapes["image/pool/projection/bias"] == (32,)


@pytest.mark.parametrize(
    "section, change, message",
    [
        ("text", {"layers": 10**9}, "text layers: 1000000000 should be at most 1024"),
        ("text", {"vocab_size": 10**12, "width": 10**7}, "text vocab_size: .*at most.*; text width: "),
        ("image", {"image_size": 0}, "image image_size: 0 should be at least 1"),
        ("image", {"heads": 5}, "image heads: 5 does not divide"),
        ("image", {"interpolation": "random"}, "image interpolation: 'random'"),
        ("image", {"kind": "resnet", "layers": 0, "patch_size": 32, "stages": (1, 1, 1, 10**9)}, "stages"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(section, change, message):
    model = dataclasses.replace(TINY, **{section: dataclasses.replace(getattr(TINY, section), **change)})
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        table.expected_shapes(model, "config.json")


def test_renaming_refuses_two_keys_that_become_one():
    assert table.rename({"module.a": 1, "b": 2}, lambda key: key.removeprefix("module."), "x") == {"a": 1, "b": 2}
    with pytest.raises(UserError, match="x: module.a is there under two names; a is there under two names"):
        table.rename({"module.a": 1, "a": 2}, lambda key: key.removeprefix("module."), "x")


def test_a_model_gets_the_name_of_the_preset_with_its_sizes():
    other = dataclasses.replace(
        preset("RN50"), preset="", activation="gelu", image=dataclasses.replace(preset("RN50").image, mean=(0.5,) * 3)
    )
    assert table.named(other) == dataclasses.replace(other, preset="RN50")
    assert table.named(dataclasses.replace(other, embed_dim=7)).preset == ""
