"""safetensors files: types, views, and headers that lie."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipjax.errors import UserError
from clipjax.weights import safetensors

NUMBERS = np.arange(6, dtype=np.float32)


def file(path, header, data):
    """Write a safetensors file by hand; the header may be bytes that are no JSON."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
)
def test_every_type_is_read_as_the_library_wrote_it(tmp_path, dtype):
    tensors = {"a.b": NUMBERS.reshape(2, 3).astype(dtype), "scalar": np.array(1, dtype)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = safetensors.read(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for key, x in tensors.items():
        assert found[key].dtype == dtype and found[key].shape == x.shape and np.array_equal(found[key], x)


def test_bfloat16_is_read(tmp_path):
    numbers = NUMBERS.astype(ml_dtypes.bfloat16)
    path = file(tmp_path / "a.safetensors", {"a": entry("BF16", (6,), (0, 12))}, numbers.tobytes())
    assert np.array_equal(safetensors.read(path)["a"].astype(np.float32), NUMBERS)


def test_the_library_reads_what_is_written_here(tmp_path):
    tensors = {"a": NUMBERS.reshape(2, 3).T, "b": np.array(2.5, np.float32), "c": np.array(3, np.int64)}
    safetensors.write(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(found[key].shape == x.shape and np.array_equal(found[key], x) for key, x in tensors.items())
    assert b'"format":"pt"' in (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        safetensors.write(tmp_path / "a.safetensors", tensors)


def test_numbers_stand_at_multiples_of_their_size(tmp_path):
    """torch cannot view eight-byte numbers that stand elsewhere."""
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"a": NUMBERS[:3], "b": np.array(3, np.int64), "c": np.array(4, np.int64)})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0 and header["b"]["data_offsets"] == [0, 8] and header["a"]["data_offsets"] == [16, 28]


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(offsets=(0, 48))},
        {"a": entry(offsets=(0, 20))},
        {"a": entry(offsets=(8, 32))},
        {"a": entry(offsets=(24, 0))},
        {"a": entry(offsets=(-24, 0))},
        {"a": entry(shape=(3, 3))},
        {"a": entry(shape=(-2, -3))},
        {"a": entry(shape=(1 << 62, 1 << 62))},
        {"a": entry(dtype="F31")},
        {"a": entry(), "b": entry()},  # one over the other
        {"a": {"dtype": "F32"}},
        {"a": 3},
        [],
        b"{",
        b'{"a": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_headers_that_lie_are_refused_in_one_line(tmp_path, header):
    path = file(tmp_path / "a.safetensors", header, NUMBERS.tobytes())
    with pytest.raises(UserError, match="not a whole safetensors file") as error:
        safetensors.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x05", struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 100) + b"{}"])
def test_lengths_that_lie_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors: "):
        safetensors.read(tmp_path / "a.safetensors")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.write(path, {"a": NUMBERS})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            safetensors.read(path)


def test_types_that_are_no_weights_are_refused_by_name(tmp_path):
    path = file(tmp_path / "a.safetensors", {"a": entry("F8_E4M3", (6,), (0, 6))}, bytes(6))
    with pytest.raises(UserError, match="a is of type F8_E4M3"):
        safetensors.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors"):
        safetensors.read(tmp_path / "none.safetensors")
