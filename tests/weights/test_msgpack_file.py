import msgpack
import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from clipjax.errors import UserError
from clipjax.weights import msgpack_file

ARRAYS = {
    "a/b/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/b/bias": np.zeros((0, 4), np.float32),
    "scale": np.float32(2.5).reshape(()),
}


def test_flax_reads_what_is_written(tmp_path):
    msgpack_file.write(tmp_path / "x.msgpack", ARRAYS)
    tree = serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
    np.testing.assert_array_equal(tree["a"]["b"]["kernel"], ARRAYS["a/b/kernel"])
    assert tree["a"]["b"]["bias"].shape == (0, 4)
    assert tree["scale"].shape == () and tree["scale"] == 2.5


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16, np.float64, np.int64, bool])
def test_what_flax_writes_is_read(dtype, tmp_path):
    arrays = {path: array.astype(dtype) for path, array in ARRAYS.items()}
    tree = {"a": {"b": {name: arrays[f"a/b/{name}"] for name in ("kernel", "bias")}}, "scale": arrays["scale"]}
    (tmp_path / "x").write_bytes(serialization.msgpack_serialize(tree))
    found = msgpack_file.read(tmp_path / "x")
    assert found.keys() == arrays.keys()
    for path, array in arrays.items():
        assert found[path].dtype == array.dtype
        np.testing.assert_array_equal(found[path], array)


def test_an_array_that_flax_cut_is_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    whole = np.arange(10, dtype=np.float32).reshape(5, 2)
    (tmp_path / "x").write_bytes(serialization.msgpack_serialize({"a": {"b": whole}}))
    np.testing.assert_array_equal(msgpack_file.read(tmp_path / "x")["a/b"], whole)


def _array(shape=(1,), name="float32", values=bytes(4), code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, name, values)))


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "Unpack failed: incomplete input"),
        (msgpack.packb({"a": _array()})[:-1], "Unpack failed: incomplete input"),
        (msgpack.packb({"a": _array()}) + b"\0", "extra data"),
        (msgpack.packb({"a": 3}), "a: is 3, no array"),
        (msgpack.packb([1]), "exceeds max_array_len"),
        (msgpack.packb({3: _array()}), "int is not allowed for map key"),
        (msgpack.packb({b"a": _array()}), "b'a' is no name"),
        (b"\x82" + 2 * (b"\xa1a" + msgpack.packb(_array())), "a name comes twice"),
        (msgpack.packb({"a/b": _array(), "a": {"b": _array()}}), "a/b: comes twice"),
        (msgpack.packb({"a": _array(code=7)}), "extension type 7 is unknown"),
        (msgpack.packb({"a": _array(name="object")}), "arrays of 'object' are unknown"),
        (msgpack.packb({"a": _array(shape=(2,))}), "does not have the bytes"),
        (msgpack.packb({"a": _array(shape=(-1, -1))}), "is no shape"),
        (msgpack.packb({"a": _array(shape=(1 << 60, 1 << 60))}), "does not have the bytes"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 3}}}), "no shape or no chunks"),
        (msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}}}), "does not fit together"),
        (b"\xdf\xff\xff\xff\xff", "exceeds max_map_len"),
        (b"\x81\xa1a" * 2000, "nested|recursion|StackError"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(content, reason, tmp_path):
    (tmp_path / "x.msgpack").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.msgpack: .*({reason})") as caught:
        msgpack_file.read(tmp_path / "x.msgpack")
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_change_of_bytes_raises_anything_else(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "changed.msgpack"
    msgpack_file.write(path, ARRAYS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        msgpack_file.read(path)
    except UserError:
        pass
