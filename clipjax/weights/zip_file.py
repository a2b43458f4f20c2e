"""The directory of a zip file whose members lie in it uncompressed, as torch writes them; every number is checked."""

import struct
from typing import NamedTuple

import numpy as np

_END = struct.Struct("<4s4H2IH")  # end of central directory
_LOCATOR = struct.Struct("<4sIQI")  # where the 64-bit end is
_END_64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")  # one row of the central directory
_LOCAL = struct.Struct("<4s5H3I2H")  # what stands before a member's bytes

_LARGEST_DIRECTORY = 1 << 25  # bytes; a model's is under a megabyte
_MOST_MEMBERS = 100_000


class Member(NamedTuple):
    """One file in the zip, as the directory describes it."""

    header: int  # where its local header begins
    size: int  # bytes in the zip
    plain: bool  # neither compressed nor encrypted, with both sizes equal


def directory(data: np.ndarray) -> dict[str, Member]:
    """{name: member} of a zip file's bytes [n] uint8. Raises ValueError, saying why, for a damaged or huge one."""
    start, size, count = _central(data)
    if start + size > len(data):
        raise ValueError("truncated or damaged: its directory lies outside of it")
    if size > _LARGEST_DIRECTORY or count > _MOST_MEMBERS:
        raise ValueError(f"its directory has {count} members in {size} bytes, at most {_MOST_MEMBERS} expected")
    rows, members = data[start : start + size].tobytes(), {}
    position = 0
    for _ in range(count):
        if len(rows) < position + _ENTRY.size or rows[position : position + 4] != b"PK\x01\x02":
            raise ValueError("damaged: its directory ends too soon")
        entry = _ENTRY.unpack_from(rows, position)
        flags, method, packed, size, name_length, extra_length, comment_length = *entry[3:5], *entry[8:13]
        begin = position + _ENTRY.size
        name = rows[begin : begin + name_length].decode("utf-8", "replace")
        extra = rows[begin + name_length : begin + name_length + extra_length]
        size, packed, header = _wide(extra, size, packed, entry[16])
        if name in members:
            raise ValueError(f"its directory has {name!r:.80} twice")
        members[name] = Member(header, packed, plain=method == 0 and not flags & 1 and size == packed)
        position = begin + name_length + extra_length + comment_length
    return members


def content(data: np.ndarray, member: Member) -> np.ndarray:
    """The bytes of a member, [size] uint8, a view. Raises ValueError where it is compressed or leaves the file."""
    if not member.plain:
        raise ValueError("is compressed; torch stores data as it is")
    local = data[member.header : member.header + _LOCAL.size].tobytes()
    if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
        raise ValueError("is not where the directory says; the file is truncated or damaged")
    start = member.header + _LOCAL.size + sum(_LOCAL.unpack(local)[-2:])
    if start + member.size > len(data):
        raise ValueError(f"has {member.size} bytes, which end outside of the file; it is truncated or damaged")
    return data[start : start + member.size]


def _central(data: np.ndarray) -> tuple[int, int, int]:
    """Where the central directory begins, its bytes and its rows."""
    first = max(len(data) - _END.size - 0xFFFF, 0)  # a comment may follow the end
    tail = data[first:].tobytes()
    end = tail.rfind(b"PK\x05\x06")
    while end >= 0 and not _ends_there(tail[end:]):  # a comment may hold those four bytes too
        end = tail.rfind(b"PK\x05\x06", 0, end)
    if end < 0:
        raise ValueError("truncated or damaged: the end of the zip file is missing")
    count, size, start = _END.unpack_from(tail, end)[4:7]
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        at = first + end - _LOCATOR.size
        locator = data[max(at, 0) : first + end].tobytes()
        if len(locator) < _LOCATOR.size or locator[:4] != b"PK\x06\x07":
            raise ValueError("damaged: its 64-bit end is missing")
        at = _LOCATOR.unpack(locator)[2]
        record = data[at : at + _END_64.size].tobytes()
        if len(record) < _END_64.size or record[:4] != b"PK\x06\x06":
            raise ValueError("damaged: its 64-bit end is missing")
        count, size, start = _END_64.unpack(record)[-3:]
    return start, size, count


def _ends_there(tail: bytes) -> bool:
    """Whether this is an end of central directory whose comment reaches to the end of the file."""
    return len(tail) >= _END.size and _END.unpack_from(tail)[-1] == len(tail) - _END.size


def _wide(extra: bytes, *values: int) -> list[int]:
    """Size, packed size and header offset, those of 0xFFFFFFFF read from the 64-bit field among `extra`."""
    wide, position = b"", 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    found, result = iter(struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])), []
    for value in values:
        result.append(next(found, (value,))[0] if value == 0xFFFFFFFF else value)
    return result
