"""Ways to damage a file: bytes, lengths, ends, and the structure of JSON, safetensors, msgpack and pickles in zips."""

import io
import json
import pathlib
import pickletools
import random
import re
import struct
import zipfile

import msgpack
from fuzz_models import zipped

CANARY = "canary"  # the file that planted commands would make

_NUMBERS = (0, 1, 2, 3, 7, 64, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)
_WORDS = ("", "gelu", "../x", "\0", "two\nlines", "long" * 2000)
_VALUES = (None, True, False, -1, 0.5, 1e999, -1e-9, 10**30, [], [1], [[[[]]]], {}, {"a": 1}, *_WORDS)
_COMMAND = f"touch {CANARY}"
_PIECES = (  # of pickles: planted calls, lies about lengths, and single opcodes
    b"cos\nsystem\n" + b"X" + struct.pack("<I", len(_COMMAND)) + _COMMAND.encode() + b"\x85R0",
    b"(S'" + _COMMAND.encode() + b"'\nios\nsystem\n0",
    b"cbuiltins\neval\n",
    b"c__torch__.x\nY\n)\x81",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nDoubleStorage\n",
    b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    b"Pdata/0\n",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
    *(bytes([code]) for code in b"R()tbsuae]}0129NQoq.Klh\x81\x82\x85\x86\x87\x88\x8a\x92\x93\x94"),
)


def damage(name: str, content: bytes, rng: random.Random) -> bytes:
    """The file's content, damaged once: half of the time in the structure that its name promises."""
    structured = _STRUCTURED.get(pathlib.Path(name).suffix)
    if structured and rng.random() < 0.5:
        try:
            return structured(content, rng)
        except Exception:  # damaged before, so that it has no structure any more
            pass
    return rng.choice((_bytes, _bytes, _lengths, _ends, _slices))(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            place = _place(changed, rng)
            changed[place] = rng.choice((changed[place] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255, 127, 128))
    return bytes(changed)


def _lengths(content: bytes, rng: random.Random) -> bytes:
    """A number of 1 to 8 bytes, in either order, where one may stand; often beside a zip's signature."""
    width = rng.choice((1, 2, 4, 8))
    number = (rng.choice((*_NUMBERS, len(content))) + rng.choice((0, 0, 1, -1))) % (1 << 8 * width)
    signs = [found.start() for found in re.finditer(b"PK", content)] if width > 1 else []
    place = rng.choice(signs) + rng.randrange(4, 60) if signs else _place(content, rng) if content else 0
    return content[:place] + number.to_bytes(width, rng.choice(("little", "big"))) + content[place + width :]


def _ends(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.7:
        return content[: rng.randrange(len(content) + 1)]
    return content + rng.choice((b"\0", b"PK\x05\x06" + bytes(18), content, content[:100]))


def _slices(content: bytes, rng: random.Random) -> bytes:
    """A part left out, doubled, zeroed or put elsewhere."""
    first = _place(content, rng) if content else 0
    last = first + rng.choice((1, 4, 8, 64, 1000))
    part, place = content[first:last], rng.randrange(len(content) + 1)
    without = content[:first] + content[last:]
    options = (without, content[:last] + content[first:], content[:first] + bytes(len(part)) + content[last:])
    return rng.choice((*options, without[:place] + part + without[place:]))


def _place(content: bytes | bytearray, rng: random.Random) -> int:
    """A position, most often near an end, where headers and directories are."""
    near = min(rng.choice((16, 256, 4096)), len(content))
    return rng.choice((rng.randrange(len(content)), rng.randrange(near), len(content) - 1 - rng.randrange(near)))


def _json(content: bytes, rng: random.Random) -> bytes:
    tree = _edited(json.loads(content), rng)
    if rng.random() < 0.05:
        return b"[" * 5000 + json.dumps(tree).encode() + b"]" * 5000
    return json.dumps(tree).encode()


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.3:  # kinds and places, where lies are plausible
        entry = rng.choice([entry for key, entry in header.items() if key != "__metadata__"])
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"))
    else:
        header = _edited(header, rng)
    header = json.dumps(header).encode()
    return (len(header) + rng.choice((0,) * 9 + (1,))).to_bytes(8, "little") + header + content[8 + length :]


def _msgpack(content: bytes, rng: random.Random) -> bytes:
    """Arrays are lists of (mark, code, shape, type, bytes) while the tree is edited."""

    def unpacked(code: int, data: bytes) -> list:
        return ["array", code, *msgpack.unpackb(data)]

    def packed(node):
        if isinstance(node, list) and node[:1] == ["array"] and len(node) > 1 and isinstance(node[1], int):
            return msgpack.ExtType(node[1] % 128, msgpack.packb([packed(item) for item in node[2:]]))
        if isinstance(node, list):
            return [packed(item) for item in node]
        return {key: packed(item) for key, item in node.items()} if isinstance(node, dict) else node

    return msgpack.packb(packed(_edited(msgpack.unpackb(content, ext_hook=unpacked), rng)))


def _edited(tree, rng: random.Random):
    """The tree with one value replaced, moved, left out, renamed or put elsewhere."""
    nodes, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        nodes += [(node, key) for key, _ in items]
        waiting += [value for _, value in items if isinstance(value, dict | list)]
    (node, key), (other, name) = rng.choice(nodes), rng.choice(nodes)
    number = rng.choice(_NUMBERS[:-2])
    match rng.randrange(6):
        case 0 | 1:
            node[key] = rng.choice((*_VALUES, number, -number, float(number)))
        case 2:
            del node[key]
        case 3:
            node[key], other[name] = other[name], node[key]
        case 4 if isinstance(node, dict):
            node[rng.choice((name, f"{key}x", *_WORDS))] = node.pop(key)
        case _ if isinstance(node[key], int | float):
            node[key] = rng.choice((node[key] + 1, node[key] - 1, node[key] * 2, str(node[key]), [node[key]]))
        case _:
            node[key] = [node[key]] * rng.choice((1, 2, 3))
    if rng.random() < 0.1:
        tree = rng.choice(([tree], {"a": tree}, None, tree))
    return tree


def _torch(content: bytes, rng: random.Random) -> bytes:
    """A member of the zip left out, renamed or emptied, or opcodes of its pickle planted, doubled, swapped, changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.15:
        name = rng.choice(list(members))
        value = members.pop(name)
        members |= rng.choice(({}, {name + "0": value}, {name: b""}, {name: value[:-1]}, {"other/data.pkl": value}))
        return zipped(members)
    name = next(name for name in members if name.endswith("/data.pkl"))
    places = [place for _, _, place in pickletools.genops(members[name])] + [len(members[name])]
    pieces = [members[name][first:last] for first, last in zip(places[:-1], places[1:], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        one, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        match rng.randrange(6):
            case 0:
                pieces.insert(one, rng.choice(_PIECES))
            case 1:
                pieces[one] = rng.choice(_PIECES)
            case 2:
                pieces[one], pieces[other] = pieces[other], pieces[one]
            case 3:
                pieces[one] = pieces[other]
            case 4:
                del pieces[one]
                pieces = pieces or [b"."]
            case 5:
                numbers = [place for place, piece in enumerate(pieces) if piece[:1] in b"JKM" and piece]
                if numbers:
                    pieces[rng.choice(numbers)] = b"J" + (rng.choice(_NUMBERS) % (1 << 32)).to_bytes(4, "little")
    members[name] = b"".join(pieces)
    return zipped(members)


_STRUCTURED = {".json": _json, ".safetensors": _safetensors, ".msgpack": _msgpack, ".pt": _torch}
