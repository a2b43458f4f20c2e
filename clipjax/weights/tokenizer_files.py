"""Tokenizer files of a transformers folder: recognise CLIP's vocabulary, and write it."""

import pathlib
from typing import Any

from clipjax import text
from clipjax.errors import UserError
from clipjax.weights import json_file

_ENDING = "</w>"
_FOREIGN = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_ADVICE = "this program reads CLIP's tokenizer only"
_OURS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")  # the latter say no kind
_CASES = r"'s|'t|'re|'ve|'m|'ll|'d"
_PIECE = rf"<\|startoftext\|>|<\|endoftext\|>|{_CASES}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


def check(folder: pathlib.Path) -> tuple[str, ...]:
    """Lines to say: none if the folder's tokenizer is CLIP's, one if it has none. Raises UserError for another."""
    for name in _FOREIGN:
        if (folder / name).is_file():
            raise UserError(f"{folder / name}: a tokenizer other than CLIP's; {_ADVICE}.")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        kind = json_file.read(settings).get("tokenizer_class", _OURS[0])
        if kind not in _OURS:
            raise UserError(f"{settings}: tokenizer_class is {kind!r:.60}; {_ADVICE}.")
    checks = {"vocab.json": _check_vocabulary, "merges.txt": _check_merges, "tokenizer.json": _check_both}
    present = [name for name in checks if (folder / name).is_file()]
    if present:
        symbols, merges = text.symbols_and_merges()
        ours = {symbol: token for token, symbol in enumerate(symbols)}, list(map(" ".join, merges))
        for name in present:
            checks[name](folder / name, *ours)
    return () if present else ("no tokenizer files: CLIP's own tokenizer is used",)


def write(folder: pathlib.Path, context_length: int) -> None:
    """CLIP's vocabulary as transformers' CLIPTokenizer reads it, in each of its forms."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    symbols, merges = text.symbols_and_merges()
    start, end = symbols[text.START], symbols[text.END]
    ids = {symbol: token for token, symbol in enumerate(symbols)}
    json_file.write(folder / "vocab.json", ids)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    json_file.write(folder / "special_tokens_map.json", special)
    kind = {"tokenizer_class": "CLIPTokenizer", "processor_class": "CLIPProcessor", "do_lower_case": True}
    json_file.write(folder / "tokenizer_config.json", {**kind, **special, "model_max_length": context_length})
    # transformers' own CLIPTokenizer, part by part: models/clip/tokenization_clip.py
    model = BPE(ids, merges, unk_token=end, continuing_subword_prefix="", end_of_word_suffix=_ENDING)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in (start, end)])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(_PIECE), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing((end, text.END), (start, text.START), False, False)
    tokenizer.save(str(folder / "tokenizer.json"))


def _check_vocabulary(path: pathlib.Path, ids: dict[str, int], merges: list[str]) -> None:
    _compare_symbols(path, json_file.read(path), ids)


def _check_merges(path: pathlib.Path, ids: dict[str, int], merges: list[str]) -> None:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: some symbols are line ends to it
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    _compare_merges(path, [line for line in lines if line and not line.startswith("#version")], merges)


def _check_both(path: pathlib.Path, ids: dict[str, int], merges: list[str]) -> None:
    model = json_file.section(json_file.read(path), "model", str(path))
    _compare_symbols(path, model.get("vocab"), ids)
    found = model.get("merges")
    if not isinstance(found, list):
        raise UserError(f"{path}: merges are {type(found).__name__}, a list expected; {_ADVICE}.")
    pairs = [" ".join(map(str, merge)) if isinstance(merge, list) else merge for merge in found]
    _compare_merges(path, pairs, merges)


def _compare_symbols(path: pathlib.Path, found: Any, ids: dict[str, int]) -> None:
    if found == ids:
        return
    count = f"{len(found)} entries" if isinstance(found, dict | list) else f"{found!r:.60}"
    same = " of the same number, not of the same symbols" if count == f"{len(ids)} entries" else ""
    raise UserError(f"{path}: its vocabulary is {count}, CLIP's {len(ids)}{same}; {_ADVICE}.")


def _compare_merges(path: pathlib.Path, found: list[Any], merges: list[str]) -> None:
    if found == merges:
        return
    pairs = zip(found, merges, strict=False)
    row = next((row for row, (one, other) in enumerate(pairs) if one != other), min(len(found), len(merges)))
    raise UserError(f"{path}: {len(found)} merges, CLIP has {len(merges)}; merge {row} is the first other; {_ADVICE}.")
