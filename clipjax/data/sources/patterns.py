"""From what a user writes for data.train to files: commas, brace ranges, globs, folders, and the form of each file."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipjax.data import storage
from clipjax.data.files import is_address
from clipjax.data.sources.record import IMAGE_EXTENSIONS
from clipjax.errors import UserError

_FORMS = {  # form to what its files are called; a file called otherwise is taken for a tar, whose reader then judges it
    "tar": r"\.tar$",
    "array_record": r"\.array_?record(-\d+-of-\d+)?$",
    "table": r"\.(csv|tsv|jsonl|ndjson|parquet)$",
}
_PICTURE = rf"\.({'|'.join(IMAGE_EXTENSIONS)})$"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_REMOTE_MAGIC = r"[*\[]"  # a question mark belongs to an address
_MOST = 1_000_000  # files of one pattern
_HINT = "Give a glob of tar shards or tfds:NAME."


def expand(specs: Iterable[str], pictures: bool = False) -> list[tuple[str, str]]:
    """(form, path) of each file that the specs name, in their order, globs sorted; ("tfds", spec) for a tfds:NAME.

    Forms: tar, array_record, table, tfds. A folder stands for its shards, or for the one table in it; with `pictures`,
    where it holds none, for all shards or else all pictures in the folders below, and pictures are a form as well.
    Raises UserError for a spec that names nothing and for files of a range that are absent.
    """
    found = []
    for spec in specs:
        literal = os.path.exists(os.path.expanduser(spec))  # a name may itself hold commas or brackets
        for part in [spec] if literal else split_commas(spec):
            found += [("tfds", part)] if part.startswith("tfds:") else _matches(os.path.expanduser(part), pictures)
    if not found:
        raise UserError(f"data.train: no source is given. {_HINT}")
    return found


def split_commas(text: str) -> list[str]:
    """The parts between those commas that stand in no braces or brackets, stripped; empty parts are left out."""
    return [part.strip() for part in _split(text) if part.strip()]


def expand_braces(text: str) -> list[str]:
    """What bash makes of `{a,b}` and `{000..041}`; braces that are neither stay as they are.

    Raises UserError beyond a million names.
    """
    for start, end in _groups(text):
        if options := _options(text[start + 1 : end]):
            middles = [name for option in options for name in expand_braces(option)]
            tails = expand_braces(text[end + 1 :])
            _check_count(text, len(middles) * len(tails))
            return [text[:start] + middle + tail for middle in middles for tail in tails]
    return [text]


def _matches(pattern: str, pictures: bool) -> list[tuple[str, str]]:
    if is_address(pattern):
        return _remote_matches(pattern)
    if os.path.exists(pattern):
        return _files(pattern, pictures)
    names = expand_braces(pattern)
    found = [match for name in names for match in ([name] if os.path.exists(name) else sorted(_glob(name)))]
    if not found:
        folder = os.path.abspath(os.path.dirname(re.split(r"[*?\[]", names[0])[0]))
        looked = folder if os.path.isdir(folder) else f"{folder}, which is no folder"
        raise UserError(f"data.train: no file matches {pattern!r} (looked in {looked}). {_HINT}")
    absent = [name for name in names if not glob.has_magic(name) and not os.path.exists(name)]
    if absent:
        raise UserError(
            f"data.train: {len(absent):,} of the {len(names):,} files of {pattern!r} are absent, first {absent[0]!r}. "
            "Complete them or give the range that is there."
        )
    return [file for path in found for file in _files(path, pictures)]


def _remote_matches(pattern: str) -> list[tuple[str, str]]:
    """The tar shards that a pattern, a name or a folder at an address stands for."""
    names = expand_braces(pattern)
    exact = [name for name in names if not re.search(_REMOTE_MAGIC, name)]
    there = dict(zip(exact, storage.look_up(exact), strict=True))
    found, absent = [], []
    for name in names:
        matched = [name] if there.get(name) else [] if name in there else storage.match(name)
        matched = matched or [file.url for file in storage.list_folder(name.rstrip("/")) if _form(file.url) == "tar"]
        found += matched
        absent += [] if matched else [name]
    absent = [name for name in absent if name in there or not found]  # a glob may match nothing beside others
    if absent:
        raise UserError(
            f"data.train: {len(absent):,} of the {len(names):,} names of {pattern!r} are absent, first {absent[0]!r}. "
            "Check the address, or give the range that is there."
        )
    if other := [name for name in found if _form(name) in ("array_record", "table")]:
        raise UserError(f"data.train: {other[0]!r}: only tar shards are read from an address. Copy it to a local disk.")
    return [("tar", name) for name in found]


def _glob(name: str) -> list[str]:
    return glob.glob(name, recursive=True) if glob.has_magic(name) else []


def _files(path: str, pictures: bool) -> list[tuple[str, str]]:
    """A file with its form; for a folder, all files of the first form that it holds."""
    if not os.path.isdir(path):
        form = _form(path) or ("pictures" if pictures and re.search(_PICTURE, path, re.IGNORECASE) else "tar")
        return [(form, path)]
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    for form in _FORMS:
        held = [name for name in names if _form(name) == form]
        if form == "table" and len(held) > 1:
            raise UserError(f"data.train: {path} holds {len(held)} tables ({', '.join(held[:5])}). Give one of them.")
        if held:
            return [(form, os.path.join(path, name)) for name in held]
    if pictures and (below := _below(path)):
        return below
    raise UserError(
        f"data.train: the folder {path} holds no tar, ArrayRecord, CSV, TSV, JSONL or Parquet file"
        f"{pictures * ' and no picture'} (found: {', '.join(names[:5]) or 'nothing'}). "
        "Give the files themselves, a pattern or tfds:NAME."
    )


def _below(path: str) -> list[tuple[str, str]]:
    """All shards in the folders below, or else all pictures there, sorted; hidden files and folders are left out."""
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    for called in (_FORMS["tar"], _FORMS["array_record"], _PICTURE):
        if held := sorted(name for name in found if re.search(called, name, re.IGNORECASE)):
            return [(_form(name) or "pictures", name) for name in held]
    return []


def _form(name: str) -> str:
    return next((form for form, called in _FORMS.items() if re.search(called, Path(name).name, re.IGNORECASE)), "")


def _split(text: str) -> list[str]:
    depth, parts, start = 0, [], 0
    for place, character in enumerate(text):
        depth = max(0, depth + (character in "{[") - (character in "}]"))
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _groups(text: str) -> Iterator[tuple[int, int]]:
    """Each opening brace that is closed, from the left, with the place of its closing brace."""
    for start, character in enumerate(text):
        depth = 0
        for end in range(start, len(text) if character == "{" else start):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                yield start, end
                break


def _options(inside: str) -> list[str]:
    """What a pair of braces stands for; [] if they are no list and no range."""
    if match := _RANGE.fullmatch(inside):
        first, last = match.groups()
        _check_count(inside, abs(int(last) - int(first)) + 1)
        step = 1 if int(first) <= int(last) else -1
        zeros = any(len(end) > 1 and end[0] == "0" for end in (first, last))
        width = max(len(first), len(last)) if zeros else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    parts = _split(inside)
    return parts if len(parts) > 1 else []


def _check_count(text: str, count: int) -> None:
    if count > _MOST:
        raise UserError(f"data.train: {text!r} names {count:,} files, more than {_MOST:,}. Give a smaller range.")
