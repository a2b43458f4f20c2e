"""torch's part of pickle: what it may say, and that nothing else is possible."""

import collections
import os
import pickle
import struct

import pytest

from clipjax.weights import torch_pickle
from clipjax.weights.torch_pickle import Record, Storage, Tensor, load

BEGIN = b"\x80\x02"
DICT = b"ccollections\nOrderedDict\n)R"


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [1, 2.5, -7, 1 << 40], "c": (True, False, None), "d": ()},
        {"shared": (items := ["x", {}]), "again": items},
        {0: {"step": 1.0}, 1: ("é", "\u2603", (1, (2, (3,))))},
        "text",
    ],
)
def test_plain_values_are_those_of_the_standard_library(value):
    assert load(pickle.dumps(value, 2)) == value


def test_tensors_and_parameters_are_descriptions():
    storage = b"(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x02K\x03t(K\x03K\x01t\x89" + DICT + b"tR"
    expected = Tensor(Storage("float16", "7", 6), 0, (2, 3), (3, 1))
    assert load(BEGIN + tensor + b".") == expected
    assert load(BEGIN + b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88" + DICT + b"tR.") == expected


def test_an_ordered_dict_loses_its_metadata_and_a_module_is_a_record():
    assert load(BEGIN + DICT + b"X\x01\x00\x00\x00aK\x01s}X\x09\x00\x00\x00_metadata}sb.") == {"a": 1}
    record = load(BEGIN + b"c__torch__.os\nsystem\n)\x81}X\x01\x00\x00\x00aK\x01sb.")
    assert isinstance(record, Record) and record.name == "__torch__.os system" and record.attributes == {"a": 1}


class Hostile:
    """Whatever is called when a pickle of this is loaded."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "function, name", [(os.mkdir, "posix.mkdir"), (eval, "eval"), (getattr, "getattr"), (collections.deque, "deque")]
)
def test_no_other_name_is_looked_up_and_nothing_is_called(tmp_path, protocol, function, name):
    target = tmp_path / "made"
    arguments = {os.mkdir: (str(target),), eval: (f"__import__('os').mkdir({str(target)!r})",), getattr: ("", "x")}
    stream = pickle.dumps({"a": Hostile(function, *arguments.get(function, ()))}, protocol)
    with pytest.raises(ValueError, match=f"{name}.*nothing was executed" if protocol == 2 else ".") as error:
        load(stream)
    assert not target.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "stream",
    [
        b"ctorch\\clo\nad\n.",  # an escape that means nothing
        b"ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
        b"ctorch._utils\n_rebuild_sparse_tensor\n)R.",
        b"cos\n__torch__.system\n)R.",
        b"ccollections\nOrderedDict\n(lR.",  # arguments
        b"ctorch\nFloatStorage\n)R.",  # a storage is no function
        b"c__torch__.a\nb\n)R.",  # nor is a class
        b"ccollections\nOrderedDict\n)\x81.",
        b"X\x01\x00\x00\x00a)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))tR.",
        b"ctorch._utils\n_rebuild_parameter\n(K\x01t\x86R.",
        b"K\x01Q.",
        b"(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x01\x00\x00\x00cK\x01tQ.",
        b"K\x01}b.",
        b"}K\x01b.",
        b"}K\x01a.",
        b"]K\x01K\x02s.",
        b"}]K\x01s.",  # a list as key
        b"}((t(tts.",
        b"}(K\x01K\x02K\x01K\x03u.",  # a key twice
        b"}(K\x01u.",
        b"u.", b"t.", b"s.", b"a.", b"e.", b"R.", b"b.", b"Q.", b"\x81.", b"\x86.", b".", b"",
        b"h\x07.",  # never stored
        b"q\x00.",
        b"(K\x01",
        b"P1\n.", b"I1\n.", b"i" b"os\nsystem\n.", b"(cos\nsystem\no.", b"\x82\x01.", b"0.", b"2.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x96" + struct.pack("<Q", 1 << 62) + b".",
        b"X\xff\xff\xff\xffab.",
        b"X\x01\x00\x00\x00\xff.",
        b"\x80\x04.",
        b"\xff",
    ],
)  # fmt: skip
def test_streams_that_torch_does_not_write_are_refused(stream):
    with pytest.raises(ValueError) as error:
        load(BEGIN + stream)
    assert "\n" not in str(error.value)


def test_sizes_must_be_whole_numbers_from_zero_on():
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x01\x00\x00\x00c%btQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"%b(%bt(%bt\x89" + DICT + b"tR."
    good = [b"K\x06", b"K\x00", b"K\x02", b"K\x01"]
    assert isinstance(load(BEGIN + tensor % tuple(good)), Tensor)
    for place in range(4):
        for wrong in (b"J\xff\xff\xff\xff", b"\x88", b"N", b"G" + bytes(8), b"X\x01\x00\x00\x001"):
            with pytest.raises(ValueError):
                load(BEGIN + tensor % tuple(wrong if n == place else piece for n, piece in enumerate(good)))
    with pytest.raises(ValueError):
        load(BEGIN + tensor % (*good[:2], b"K\x02K\x02", b"K\x01"))  # more sizes than strides


def test_very_long_streams_are_refused(monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MOST_STEPS", 10)
    assert load(BEGIN + b"]" * 8 + b".") == []
    with pytest.raises(ValueError, match="more than 10 opcodes"):
        load(BEGIN + b"]" * 9 + b".")


def test_shared_tuples_do_not_unfold():
    """t = (t, t), sixty times: cheap as long as nobody walks it."""
    stream = BEGIN + b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
    assert isinstance(load(stream + b"."), tuple)
    with pytest.raises(ValueError, match="a key of type tuple"):
        load(stream + b"}h\x00K\x01s.")


def test_every_truncation_is_refused():
    stream = pickle.dumps({"a": (1, 2.5, "x"), "b": [1, {}]}, 2)
    for length in range(len(stream)):
        with pytest.raises(ValueError):
            load(stream[:length])
