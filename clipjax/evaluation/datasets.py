"""Folders that evaluation can read, and what each says about its pictures; the pictures themselves stay on disk.

A folder is one of three things:
- classification shards: `classnames.txt`, `zeroshot_classification_templates.txt` (`{c}` stands for the class),
  `test/nshards.txt`, `test/0.tar …` holding `key.jpg|png|webp` + `key.cls`;
- retrieval shards: `dataset_type.txt` saying `retrieval`, `test/0.tar …` holding `key.jpg` + `key.txt`, whose lines
  are captions;
- class folders: one folder of pictures a class, named like it (`_` stands for a blank).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.data.files import plain
from clipjax.data.sources.record import IMAGE_EXTENSIONS, lines_of
from clipjax.data.sources.tar import read_members
from clipjax.data.sources.tar_index import tar_index
from clipjax.errors import UserError

DEFAULT_TEMPLATES = ["a photo of a {c}."]

_LAYOUTS = (
    "classnames.txt with test/*.tar (classification), dataset_type.txt saying retrieval with test/*.tar, "
    f"and folders of pictures named after their classes ({', '.join(IMAGE_EXTENSIONS)})"
)


@dataclass(frozen=True)
class Sample:
    """Where a picture lies (`size` bytes from `offset` of `path`), and its label or its captions."""

    key: str
    path: Path
    offset: int
    size: int
    label: int = -1
    captions: tuple[str, ...] = ()

    def read(self) -> bytes:
        """The picture's bytes, not decoded."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Dataset:
    """One data set, without its pictures' content.

    `protocol` is "zeroshot" (samples have labels: rows of `class_names`) or "retrieval" (samples have captions).
    `missing` names what the folder holds but cannot be scored, one line each; `files` are (name, bytes, mtime in ns).
    """

    name: str
    path: Path
    protocol: str
    samples: list[Sample]
    class_names: list[str]
    templates: list[str]
    default_templates: bool
    missing: list[str]
    files: list[tuple[str, int, int]]

    @property
    def fingerprint(self) -> str:
        """Hash of what the folder was when it was opened: files with sizes and times, class names, templates."""
        return _hash([self.protocol, self.files, self.class_names, self.templates])

    @property
    def prompts_hash(self) -> str:
        """Hash of class names and templates, wherever the folder lies."""
        return _hash([self.class_names, self.templates])

    @property
    def samples_hash(self) -> str:
        """Hash of keys, labels and captions, wherever the folder lies."""
        return _hash([[sample.key, sample.label, sample.captions] for sample in self.samples])


def open_datasets(data: str | Path | Sequence[str | Path]) -> list[Dataset]:
    """The data sets at one path or several, named by their folders (parent/name where two folders share a name).

    Raises UserError for a folder that is absent, of no known layout, incomplete or given twice.
    """
    paths = [data] if isinstance(data, str | Path) else list(data)
    if not paths or "" in paths:
        raise UserError("data: no folder was given to evaluate on. Give at least one.")
    folders = [Path(path).expanduser().resolve() for path in paths]
    for folder, times in Counter(folders).items():
        if times > 1:
            raise UserError(f"data: {folder} is given {times} times. Give each folder once.")
    return [open_dataset(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def open_dataset(folder: Path, name: str | None = None) -> Dataset:
    """The data set in a folder; see the top of the file for the layouts. Raises UserError as `open_datasets`."""
    if not folder.is_dir():
        raise UserError(f"data: {folder} is no folder. Give a folder that holds {_LAYOUTS}.")
    kind = _lines(folder / "dataset_type.txt")[:1] or ["classification"]
    if kind == ["retrieval"]:
        parts = _retrieval(folder)
    elif kind != ["classification"]:
        raise UserError(f"data: {folder}/dataset_type.txt says {kind[0]!r}. Known are classification and retrieval.")
    elif (folder / "classnames.txt").exists():
        parts = _classification(folder)
    else:
        parts = _class_folders(folder)
    dataset = Dataset(name=name or folder.name, path=folder, **parts)
    if not dataset.samples:
        raise UserError(f"data: {folder} holds nothing that can be scored{_first(dataset.missing)}.")
    return dataset


def _classification(folder: Path) -> dict:
    class_names = _class_names(folder)
    templates, texts = _templates(folder)
    shards = _shards(folder)
    samples, missing = [], _damage(shards)
    for key, path, members in _members(shards):
        image, reason = _picture(members)
        if "cls" not in members:
            reason = reason or "no .cls beside the picture"
        if reason:
            missing.append(f"{key}: {reason}")
            continue
        label = _label(_read(path, members["cls"]), key, folder, len(class_names))
        samples.append(Sample(key, path, *image, label=label))
    return _parts(folder, "zeroshot", samples, missing, shards + texts, class_names, templates)


def _retrieval(folder: Path) -> dict:
    shards = _shards(folder)
    samples, missing = [], _damage(shards)
    for key, path, members in _members(shards):
        image, reason = _picture(members)
        captions = lines_of(_read(path, members["txt"])) if "txt" in members else ()
        if not captions:
            reason = reason or ("no caption in its .txt" if "txt" in members else "no .txt beside the picture")
        if reason:
            missing.append(f"{key}: {reason}")
        else:
            samples.append(Sample(key, path, *image, captions=captions))
    return _parts(folder, "retrieval", samples, missing, shards)


def _class_folders(folder: Path) -> dict:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    samples, missing = [], []
    for label, inside in enumerate(classes):
        files = sorted(path for path in inside.iterdir() if path.is_file() and not path.name.startswith("."))
        pictures = [path for path in files if path.suffix[1:].lower() in IMAGE_EXTENSIONS]
        others = [path for path in files if path not in set(pictures)]
        missing += [f"{inside.name}/{path.name}: no kind of picture that is read" for path in others]
        if not pictures:
            missing.append(f"{inside.name}: no picture in it; the class stays a wrong answer that can be given")
        for path in pictures:
            samples.append(Sample(f"{inside.name}/{path.name}", path, 0, path.stat().st_size, label=label))
    if not samples:
        there = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        found = ", ".join(there[:6]) + (" …" if len(there) > 6 else "")
        raise UserError(f"data: {folder} has no layout that can be read. Looked for {_LAYOUTS}; found: {found or '-'}.")
    class_names = [plain(path.name.replace("_", " ")) for path in classes]
    if len(class_names) < 2:
        raise UserError(f"data: {folder} holds one class folder, {classes[0].name}. Two are needed to tell apart.")
    templates, texts = _templates(folder)
    files = [sample.path for sample in samples] + texts
    return _parts(folder, "zeroshot", samples, missing, files, class_names, templates)


def _parts(folder, protocol, samples, missing, files, class_names=(), templates=()) -> dict:
    """The fields of a Dataset other than its name and path."""
    stats = [(str(path.relative_to(folder)), path.stat()) for path in files]
    return {
        "protocol": protocol,
        "samples": samples,
        "class_names": list(class_names),
        "templates": list(templates) or DEFAULT_TEMPLATES * bool(class_names),
        "default_templates": bool(class_names) and not templates,
        "missing": missing,
        "files": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
    }


def _shards(folder: Path) -> list[Path]:
    """The tars of the test split, in order; nshards.txt, where it stands, must agree."""
    found = sorted(folder.glob("test/*.tar"), key=lambda path: (len(path.name), path.name))
    counted = _lines(folder / "test" / "nshards.txt")[:1]
    if not counted and not found:
        raise UserError(f"data: {folder}/test holds no tar. Expected test/nshards.txt and test/0.tar …")
    if not counted:
        return found
    if not counted[0].isdigit() or not int(counted[0]):
        raise UserError(f"data: {folder}/test/nshards.txt says {counted[0]!r}. Expected the number of tars in test/.")
    wanted = [folder / "test" / f"{number}.tar" for number in range(int(counted[0]))]
    if absent := [path.name for path in wanted if not path.is_file()]:
        raise UserError(
            f"data: {folder}/test/nshards.txt counts {len(wanted)} tars, but test/{absent[0]} is absent"
            f"{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}. Complete the folder or mend the count."
        )
    if len(found) > len(wanted):
        raise UserError(f"data: {folder}/test holds {len(found)} tars, but nshards.txt counts {len(wanted)}.")
    return wanted


def _members(shards: list[Path]):
    """Each sample of the shards as (a key that names the shard, the shard, {extension: (offset, size)})."""
    for path in shards:
        for key, members in read_members(path):
            yield f"test/{path.name}/{key}", path, members


def _damage(shards: list[Path]) -> list[str]:
    damages = [(path, tar_index(path).damage) for path in shards]
    return [f"test/{path.name}: {damage}; what comes after is not there" for path, damage in damages if damage]


def _picture(members: dict) -> tuple[tuple[int, int], str]:
    """Place of a sample's picture, and why there is none ("" if there is)."""
    for extension in IMAGE_EXTENSIONS:
        if extension in members:
            return members[extension], ""
    return (0, 0), f"no picture beside .{', .'.join(members)}"


def _label(text: bytes, key: str, folder: Path, classes: int) -> int:
    words = text.decode("utf-8", "replace").strip()
    if not words.isdecimal():
        raise UserError(f"data: {folder}: {key}.cls holds {words[:40]!r}. Expected the number of a class, from 0.")
    if int(words) >= classes:
        raise UserError(
            f"data: {folder}: {key}.cls holds class {words}, but classnames.txt names {classes} classes "
            f"(0 to {classes - 1}). Give the class names that belong to these labels."
        )
    return int(words)


def _class_names(folder: Path) -> list[str]:
    names = _lines(folder / "classnames.txt")
    if "" in names:
        raise UserError(f"data: {folder}/classnames.txt: line {names.index('') + 1} is empty. Expected a class a line.")
    if len(names) < 2:
        raise UserError(f"data: {folder}/classnames.txt names {len(names)} classes. Two are needed to tell apart.")
    return names


def _templates(folder: Path) -> tuple[list[str], list[Path]]:
    """Prompts with `{c}` and the file that they come from; empty lists where the folder has none."""
    path = folder / "zeroshot_classification_templates.txt"
    lines = [line for line in _lines(path) if line]
    if bare := [line for line in lines if "{c}" not in line]:
        raise UserError(f"data: {path}: {bare[0]!r} has no {{c}} to stand for the class.")
    return lines, [path] * path.is_file()


def _lines(path: Path) -> list[str]:
    """Lines of a small text file without white space at their ends or empty ones at the bottom; [] if absent."""
    if not path.is_file():
        return []
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: {path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None


def _read(path: Path, place: tuple[int, int]) -> bytes:
    return Sample("", path, *place).read()


def _names(folders: list[Path]) -> list[str]:
    often = Counter(folder.name for folder in folders)
    names = [folder.name if often[folder.name] == 1 else "/".join(folder.parts[-2:]) for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _first(missing: list[str]) -> str:
    return f": {missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "") if missing else ""


def _hash(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
