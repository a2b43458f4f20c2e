"""The directory of a zip against the standard library's, and zips that lie."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipjax.weights import zip_file
from clipjax.weights.zip_file import content, directory


def packed(members, compression=zipfile.ZIP_STORED, comment=b""):
    """The bytes [n] uint8 of a zip of {name: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
        archive.comment = comment
    return np.frombuffer(buffer.getvalue(), np.uint8)


@given(
    members=st.dictionaries(st.text("abc/é.", min_size=1, max_size=8), st.binary(max_size=50), max_size=5),
    comment=st.binary(max_size=9),
)
@example(members={"a": b"b"}, comment=b"PK\x05\x06")
def test_members_are_those_of_the_standard_library(members, comment):
    data = packed(members, comment=comment)
    found = directory(data)
    assert {name: content(data, member).tobytes() for name, member in found.items()} == members


def test_a_64_bit_directory_is_read():
    data = packed({"a": b"first", "b": b"second"}).tobytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, end - start, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    new = np.frombuffer(data[:end] + wide + locator + last, np.uint8)
    assert {name: content(new, member).tobytes() for name, member in directory(new).items()} == {
        "a": b"first",
        "b": b"second",
    }
    for damaged in (data[:end] + last, data[:end] + wide[:20] + locator + last, data[:end] + locator + last):
        with pytest.raises(ValueError, match="damaged"):
            directory(np.frombuffer(damaged, np.uint8))


def test_64_bit_sizes_of_a_member_are_read():
    """Written for members over 4 GB: here the sizes are small and stand in the extra field all the same."""
    data = bytearray(packed({"a": b"first"}).tobytes())
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = bytearray(data[start:end])
    struct.pack_into("<II", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
    field = struct.pack("<2H3Q", 1, 24, 5, 5, 0)
    struct.pack_into("<H", entry, 30, len(field))
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) + len(field), start, 0)
    new = np.frombuffer(bytes(data[:start] + entry + field) + last, np.uint8)
    assert content(new, directory(new)["a"]).tobytes() == b"first"


def test_every_truncation_is_refused():
    data = packed({"a": b"first" * 9, "b": b"second"})
    for length in range(len(data)):
        with pytest.raises(ValueError):
            directory(data[:length])


def test_a_compressed_member_is_not_unfolded():
    data = packed({"bomb": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        content(data, directory(data)["bomb"])


@pytest.mark.parametrize(
    "offset, value, message",
    [
        (20, 1 << 20, "is compressed"),  # the packed size alone
        (42, 1 << 30, "is not where the directory says"),
        (42, 1, "is not where the directory says"),
    ],
)
def test_a_member_that_is_not_where_it_should_be_is_refused(offset, value, message):
    data = bytearray(packed({"a": b"first"}).tobytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + offset, value)
    data = np.frombuffer(bytes(data), np.uint8)
    with pytest.raises(ValueError, match=message):
        content(data, directory(data)["a"])


def test_sizes_that_end_outside_of_the_file_are_refused():
    data = bytearray(packed({"a": b"first"}).tobytes())
    struct.pack_into("<II", data, data.index(b"PK\x01\x02") + 20, 1 << 31, 1 << 31)
    data = np.frombuffer(bytes(data), np.uint8)
    with pytest.raises(ValueError, match="has 2147483648 bytes, which end outside of the file"):
        content(data, directory(data)["a"])


def test_one_name_twice_is_refused():
    data = packed({"a": b"1", "b": b"2"}).tobytes().replace(b"b", b"a")
    with pytest.raises(ValueError, match="'a' twice"):
        directory(np.frombuffer(data, np.uint8))


def test_a_directory_of_very_many_members_is_refused_unread(monkeypatch):
    monkeypatch.setattr(zip_file, "_MOST_MEMBERS", 2)
    assert len(directory(packed({"a": b"", "b": b""}))) == 2
    with pytest.raises(ValueError, match="3 members"):
        directory(packed({"a": b"", "b": b"", "c": b""}))
