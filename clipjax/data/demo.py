"""The demo set: drawn pictures of coloured shapes, written as the tar shards that real data comes in."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipjax.data.demo_shapes import COLORS, SHAPES, Scene, captions, draw, full_caption, random_scene
from clipjax.data.files import local_path
from clipjax.errors import UserError
from clipjax.progress import say

COMBINATIONS = [(color, shape) for color in COLORS for shape in SHAPES]  # the classes of the zero-shot test
TEMPLATES = ("a {c}", "a picture of a {c}", "a drawing of a {c}", "there is a {c}", "one {c}")

_FORMAT = 1  # raise it when the pictures, captions or files change
_PAIRS_PER_SHARD = 2000
_SUMMARY = "summary.json"  # the mark of a complete set


def prepare_demo(out: str | os.PathLike, *, seed: int = 0, pairs: int = 8000, tests: int = 600) -> dict:
    """Draw the demo set into the folder `out` and return what it was made from (out/summary.json also has the hashes).

    out/train/train-*.tar: `pairs` pictures (png) with captions (json list `captions`, its first one as txt);
    out/zeroshot/: `tests` pictures of one shape each, in the combinations of colour and shape that training never
    shows, to be told apart among all combinations;
    out/retrieval/: `tests` // 3 pictures, each with one caption that fits no other.
    The same arguments give the same bytes. The folder appears whole or not at all; a complete one is kept.
    Raises UserError if `out` holds anything else or cannot be written.
    """
    out = local_path(out).absolute()
    wanted = {"format": _FORMAT, "seed": seed, "pairs": pairs, "tests": tests}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _existing(out, wanted)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as parent:
            work = Path(parent) / "set"
            summary = _write(work, wanted)
            os.replace(work, out)  # an empty folder at `out` gives way
    except OSError as error:
        raise UserError(f"demo: cannot write {out}: {error}. Choose another folder.") from error
    return summary


def held_out_combinations(seed: int) -> list[tuple[str, str]]:
    """The (colour, shape) pairs kept out of training: one for each colour, at most two for a shape."""
    rng = _rng(seed, "held out")
    colors, shapes = rng.permutation(list(COLORS)), rng.permutation(SHAPES)
    return sorted((str(color), str(shapes[i % len(shapes)])) for i, color in enumerate(colors))


def _existing(out: Path, wanted: dict) -> dict:
    """The summary of a complete set at `out` made with the arguments `wanted`; anything else is a UserError."""
    remedy = "Choose another folder or remove this one."
    try:
        summary = json.loads((out / _SUMMARY).read_text())
        found = {key: summary[key] for key in wanted}
        files = dict(summary.pop("files"))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"demo: {out} is in use and holds no demo set. {remedy}") from None
    if found != wanted:
        raise UserError(f"demo: {out} holds a demo set made with {found}, not {wanted}. {remedy}")
    damaged = [name for name, digest in files.items() if not (out / name).is_file() or _sha256(out / name) != digest]
    if damaged:
        raise UserError(f"demo: {out / damaged[0]} is missing or changed ({len(damaged)} such files). {remedy}")
    say(f"demo: {out} is already complete")
    return summary


def _write(folder: Path, wanted: dict) -> dict:
    """The whole set under `folder`, its summary last."""
    seed, tests = wanted["seed"], wanted["tests"]
    held_out = held_out_combinations(seed)
    _write_train(folder / "train", held_out, seed, wanted["pairs"])
    _write_zeroshot(folder / "zeroshot", held_out, seed, tests)
    _write_retrieval(folder / "retrieval", seed, tests // 3)
    files = {str(p.relative_to(folder)): _sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    summary = wanted | {"held_out": [" ".join(c) for c in held_out]}
    (folder / _SUMMARY).write_text(json.dumps(summary | {"files": files}, indent=1) + "\n")
    return summary


def _write_train(folder: Path, held_out: list, seed: int, pairs: int) -> None:
    rng = _rng(seed, "train")
    shown = [c for c in COMBINATIONS if c not in held_out]
    for shard, first in enumerate(range(0, pairs, _PAIRS_PER_SHARD)):
        samples = []
        for i in range(first, min(pairs, first + _PAIRS_PER_SHARD)):
            scene = random_scene(rng, *shown[i % len(shown)])
            texts = captions(scene, rng)
            fields = {"png": _png(scene, rng), "txt": texts[0].encode(), "json": _json({"captions": texts})}
            samples.append((f"{i:06d}", fields))
        _write_tar(folder / f"train-{shard:05d}.tar", samples)


def _write_zeroshot(folder: Path, held_out: list, seed: int, count: int) -> None:
    rng = _rng(seed, "zeroshot")
    samples = []
    for i in range(count):
        combination = held_out[i % len(held_out)]
        picture = _png(random_scene(rng, *combination, number=1), rng)  # "a {c}" is one shape
        samples.append((f"{i:06d}", {"png": picture, "cls": str(COMBINATIONS.index(combination)).encode()}))
    _write_tar(folder / "test" / "0.tar", samples)
    _write_lines(folder / "test" / "nshards.txt", ["1"])
    _write_lines(folder / "classnames.txt", [" ".join(c) for c in COMBINATIONS])
    _write_lines(folder / "zeroshot_classification_templates.txt", TEMPLATES)


def _write_retrieval(folder: Path, seed: int, count: int) -> None:
    rng = _rng(seed, "retrieval")
    samples = [
        (f"{i:06d}", {"png": _png(scene, rng), "txt": full_caption(scene, rng).encode()})
        for i, scene in enumerate(_distinct_scenes(rng, count))
    ]
    _write_tar(folder / "test" / "0.tar", samples)
    _write_lines(folder / "test" / "nshards.txt", ["1"])
    _write_lines(folder / "dataset_type.txt", ["retrieval"])


def _distinct_scenes(rng: np.random.Generator, count: int) -> Iterator[Scene]:
    seen = set()
    while len(seen) < count:
        scene = random_scene(rng, *COMBINATIONS[rng.integers(len(COMBINATIONS))])
        if scene not in seen:
            seen.add(scene)
            yield scene


def _write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """A webdataset shard of (key, {extension: bytes}); no clock, user or machine enters its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, fields in samples:
            for extension, content in fields.items():
                member = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid and gid are 0
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _write_lines(path: Path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _png(scene: Scene, rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    draw(scene, rng).save(buffer, "PNG")
    return buffer.getvalue()


def _json(value) -> bytes:
    return json.dumps(value).encode()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])
