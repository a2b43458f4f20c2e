"""CLIP's byte-pair tokenizer: `regex` splits a cleaned caption, the `tokenizers` library merges each piece."""

import gzip
import hashlib
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipjax.errors import UserError
from clipjax.text.cleaning import clean

START, END = 49406, 49407

_VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
_SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
_MERGES = 49152 - 256 - 2  # the file holds more; the release stops here
_PIECE = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_LONGEST_CACHED = 32  # characters; bounds what the cache of words can hold


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> np.ndarray:
    """Token ids [n, context_length] int32 of n captions: START, ids, END, then zeros.

    A longer caption is cut, its last id then being END. An empty one is START, END. `<|endoftext|>` inside a caption
    becomes END, as in the release. One string counts as a list of one. Safe in threads and after a fork.
    Raises UserError for what is not text and for a context_length below 3.
    """
    if context_length < 3:
        raise UserError(f"tokenize: context_length={context_length} has no room for a caption. Give 3 or more.")
    texts = [texts] if isinstance(texts, str) else list(texts)
    rows = np.zeros((len(texts), context_length), np.int32)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"tokenize: text {row} is a {type(text).__name__}, {text!r:.60}. Give strings.")
        ids = [START, *encode(text)[: context_length - 2], END]
        rows[row, : len(ids)] = ids
    return rows


def encode(text: str) -> list[int]:
    """All ids of one caption, uncut, without START and END."""
    ids: list[int] = []
    for word in clean(text).split(" "):  # no piece spans white space
        ids += _cached_ids(word) if len(word) <= _LONGEST_CACHED else _ids(word)
    return ids


def decode(ids: Sequence[int]) -> str:
    """The text of one row of ids, a space after each word as the release writes it; START is left out, END ends it.

    Bytes that are no UTF-8 become U+FFFD. Raises UserError for an id outside of the vocabulary.
    """
    symbols, text = _symbols(), bytearray()
    for token in map(int, ids):
        if token == END:
            break
        if not 0 <= token < END:
            raise UserError(f"decode: {token} is no token id. Ids run from 0 to {END}.")
        if token != START:
            text += symbols[token]
    return text.decode("utf-8", errors="replace")


def symbols_and_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """The printable symbol of each id, and the pairs that merge, by rank: what other tokenizers' files hold.

    Ids: 256 bytes, 256 bytes that end a word, one a merge, START, END.
    """
    lines = gzip.decompress(_VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in map(str.split, lines[1 : _MERGES + 1])]
    letters = _byte_symbols().values()
    return [*letters, *(symbol + "</w>" for symbol in letters), *map("".join, merges), *_SPECIAL], merges


def identity() -> dict:
    """What a checkpoint stores to know its tokenizer again: name, size, SHA-256 of the vocabulary file."""
    return {"name": "clip", "vocab_size": END + 1, "sha256": _sha256()}


class _Engine(NamedTuple):
    split: Callable[[str], list[str]]  # a cleaned word to pieces
    merge: Callable[[str], list]  # byte symbols of a piece to tokens, each with an id
    to_symbols: dict[int, str]  # byte to the printable character that stands for it


def _byte_symbols() -> dict[int, str]:
    """Byte to the printable character that stands for it; their order is that of the ids 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


@cache
def _engine() -> _Engine:
    """Reads the vocabulary at the first call."""
    import regex
    from tokenizers.models import BPE

    vocabulary, merges = symbols_and_merges()
    ids = {symbol: row for row, symbol in enumerate(vocabulary[:START])}  # no piece becomes one of the special two
    model = BPE(ids, merges, end_of_word_suffix="</w>")
    return _Engine(regex.compile(_PIECE, regex.IGNORECASE).findall, model.tokenize, _byte_symbols())


@cache
def _symbols() -> list[bytes]:
    """Id to the bytes it stands for; a word's last symbol ends with a space."""
    to_bytes = {symbol: bytes([byte]) for byte, symbol in _byte_symbols().items()}
    return [
        b"".join(to_bytes[character] for character in symbol.removesuffix("</w>")) + b" " * symbol.endswith("</w>")
        for symbol in symbols_and_merges()[0][:START]
    ]


def _ids(word: str) -> tuple[int, ...]:
    engine, ids = _engine(), list[int]()
    for piece in engine.split(word):
        if piece in _SPECIAL:
            ids.append(_SPECIAL[piece])
        else:
            symbols = piece.encode("utf-8").decode("latin-1").translate(engine.to_symbols)  # one character a byte
            ids += (token.id for token in engine.merge(symbols))
    return tuple(ids)


_cached_ids = lru_cache(maxsize=1 << 16)(_ids)  # captions repeat their words: five times as fast


@cache
def _sha256() -> str:
    return hashlib.sha256(_VOCABULARY.read_bytes()).hexdigest()
