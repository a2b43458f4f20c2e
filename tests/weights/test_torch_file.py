"""torch's files without torch: kinds of file, views, lies about places and sizes, damage of every sort."""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.weights import torch_file, torch_write
from clipjax.weights.torch_file import read

NUMBERS = np.arange(12, dtype=np.float32)


def refused(path, message):
    """The one line with which a file is refused."""
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("DoubleStorage", np.float64),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_every_type_is_read_as_itself(torch_zip, spec, kind, dtype):
    numbers = np.array([0, 1, 0, 1, 1, 0], dtype)
    path = torch_zip(OrderedDict(a=spec("0", 6, 0, (2, 3), (3, 1), kind)), {"0": numbers.tobytes()})
    found = read(path)
    assert found.kind == "state dict" and found.classes == frozenset()
    assert found.tensors["a"].dtype == dtype and np.array_equal(found.tensors["a"], numbers.reshape(2, 3))


def test_views_are_those_of_numpy(torch_zip, spec):
    """Transposed, sliced, shared and single numbers of one storage."""
    specs = {
        "transposed": spec("s", 12, 0, (4, 3), (1, 4)),
        "sliced": spec("s", 12, 5, (2, 2), (4, 2)),
        "one": spec("s", 12, 11, (), ()),
        "flat": spec("s", 12, 0, (12,), (1,)),
        "thin": spec("s", 12, 2, (1, 3), (1 << 40, 1)),  # the stride of an axis of one means nothing
        "spread": spec("s", 12, 3, (5,), (0,)),
    }
    grid = NUMBERS.reshape(3, 4)
    expected = {
        "transposed": grid.T,
        "sliced": grid[1:, 1::2],
        "one": NUMBERS[11],
        "flat": NUMBERS,
        "thin": NUMBERS[None, 2:5],
        "spread": np.full(5, 3, np.float32),
    }
    found = read(torch_zip(specs, {"s": NUMBERS.tobytes()})).tensors
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert found[key].shape == np.shape(x) and np.array_equal(found[key], x), key


@pytest.mark.parametrize(
    "given",
    [
        ("s", 12, 0, (13,), (1,)),
        ("s", 12, 1, (12,), (1,)),
        ("s", 12, 12, (), ()),
        ("s", 12, 1 << 62, (1,), (1,)),
        ("s", 12, 0, (3, 4), (5, 1)),
        ("s", 12, 0, (2,), (1 << 62,)),
        ("s", 12, 0, (100, 100), (0, 0)),
        ("s", 12, 0, (1 << 40, 1 << 40), (0, 0)),
        ("s", 12, 0, (0, 1 << 62), (1, 1)),
        ("s", 0, 0, (1,), (1,)),
        ("s", 13, 0, (12,), (1,)),
        ("s", 1 << 62, 0, (12,), (1,)),
        ("s", 12, 0, (12,), (1,), "DoubleStorage"),
        ("missing", 12, 0, (12,), (1,)),
        ("../data.pkl", 4, 0, (4,), (1,)),
    ],
)
def test_tensors_that_leave_their_storage_are_refused_by_name(torch_zip, spec, given):
    refused(torch_zip({"visual.proj": spec(*given)}, {"s": NUMBERS.tobytes()}), "visual.proj ")


def test_storages_shared_without_end_are_refused(torch_zip, spec):
    """Each tensor is a view of the same bytes: as a model they would fill the memory."""
    numbers = np.zeros(1 << 14, np.float32)
    specs = {f"a{index}": spec("s", 1 << 14, 0, (1 << 14,), (1,)) for index in range(100)}
    refused(torch_zip(specs, {"s": numbers.tobytes()}), "unfold to more than 8 times")


def test_negative_offsets_and_strides_are_refused(torch_zip, spec):
    for given in (
        ("s", 12, -1, (2,), (1,)),
        ("s", 12, 3, (2,), (-1,)),
        ("s", 12, 0, (-2,), (1,)),
        ("s", -12, 0, (2,), (1,)),
    ):
        refused(torch_zip({"a": spec(*given)}, {"s": NUMBERS.tobytes()}), "wrong")


def test_a_training_checkpoint_gives_its_state_dict(torch_zip, spec):
    value = {"epoch": 1, "optimizer": {"state": {0: {"step": 1.0}}}, "state_dict": {"a": spec("0", 12, 0, (12,), (1,))}}
    found = read(torch_zip(value, {"0": NUMBERS.tobytes()}))
    assert found.kind == "training checkpoint" and list(found.tensors) == ["a"]


def test_a_torchscript_model_gives_its_modules_tensors(torch_zip, spec):
    inner = spec.module("__torch__.a.___torch_mangle_3 QuickGELU", {"weight": spec("0", 12, 0, (3, 4), (4, 1)), "n": 3})
    top = spec.module("__torch__.a Top", {"training": False, "-1": inner, "scale": spec("0", 12, 7, (), ())})
    found = read(torch_zip(top, {"0": NUMBERS.tobytes()}, script=True))
    assert found.kind == "TorchScript" and found.tensors.keys() == {"-1.weight", "scale"}
    assert found.classes == {"__torch__.a Top", "__torch__.a.___torch_mangle_3 QuickGELU"}
    assert found.tensors["scale"] == 7


def test_modules_within_themselves_are_refused(torch_zip):
    name = b"c__torch__.a\nB\n"
    itself = b"\x80\x02" + name + b")\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    refused(torch_zip(itself, script=True), "nested without end")
    step = name + b")\x81}X\x01\x00\x00\x00ah\x00sX\x01\x00\x00\x00bh\x00sbq\x00"  # two of the one before
    wide = b"\x80\x02" + name + b")\x81}bq\x00" + step * 40 + b"."
    refused(torch_zip(wide, script=True), "nested without end")


@pytest.mark.parametrize(
    "value, message",
    [
        ({"epoch": 1, "model": "x"}, "a dict of epoch, model, but no tensors"),
        ({"state_dict": 3}, "no tensors by name"),
        ({}, "no tensors by name"),
        ([1, 2], "holds a list"),
        ("text", "holds a str"),
        (b"not a pickle", "damaged pickle|opcode"),
        (pickle.dumps({"a": io.BytesIO}, 2), "_io.BytesIO.*nothing was executed"),
    ],
)
def test_files_of_other_things_are_refused(torch_zip, value, message):
    refused(torch_zip(value), message)


def test_other_byte_orders_and_missing_pickles_are_refused(torch_zip, spec, tmp_path):
    refused(torch_zip({"a": spec("0", 12, 0, (12,), (1,))}, {"0": NUMBERS.tobytes()}, byteorder="big"), "'big'")
    refused(torch_zip({}, byteorder="x" * 1000), "byteorder has 1000 bytes")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "other.zip", "without the data.pkl")


def test_zip_bombs_do_not_unfold(torch_zip, spec):
    """16 MB of zeros in 16 KB, which torch would never write compressed."""
    value = {"a": spec("0", 1 << 22, 0, (1 << 22,), (1,))}
    refused(torch_zip(value, {"0": bytes(1 << 24)}, compression=zipfile.ZIP_DEFLATED), "is compressed")


def test_a_pickle_too_large_is_refused_unread(torch_zip, monkeypatch):
    monkeypatch.setattr(torch_file, "_LARGEST_PICKLE", 1000)
    refused(torch_zip({"a": "x" * 2000}), "data.pkl has 2.* bytes, at most 1000 expected")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before 1.6"),
        (pickle.dumps({"a": 1}), "a bare pickle, which could execute anything"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html>", "not a torch file"),
    ],
)
def test_files_that_are_no_zip_are_told_apart(tmp_path, content, message):
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", message)


def test_a_tar_and_a_missing_file_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    refused(tmp_path / "a.tar", "a tar")
    refused(tmp_path / "none.pt", "cannot be read")


def test_damage_anywhere_is_one_clear_line_or_harmless(tmp_path):
    """Truncated at many places, and single bytes changed at random (of the directory and the pickle above all)."""
    torch_write.write(tmp_path / "whole.pt", {"a.b": NUMBERS.reshape(3, 4), "n": np.array(3, np.int64)})
    whole = (tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "a.pt"
    for length in range(0, len(whole) - 1, 13):
        path.write_bytes(whole[:length])
        refused(path, ".")
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read(path)
        except UserError as error:
            assert "\n" not in str(error)
