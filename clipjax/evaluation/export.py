"""`embed`: every picture of a source, and its captions, to a file of features; made in parts, so that a stop costs one.

The source is whatever training reads, and plain pictures and folders of them. Several processes of one run share the
parts among them, if they share the disk.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from clipjax.config import DataConfig
from clipjax.data.files import is_address, local_path, make_folder, plain, replace_text
from clipjax.data.sources import RecordError, Source, open_source
from clipjax.data.sources.patterns import split_commas
from clipjax.data.storage import look_up
from clipjax.errors import UserError
from clipjax.evaluation import stored
from clipjax.evaluation.embed import ahead, caption_rows, check_finite, pixels_of
from clipjax.progress import Meter, say

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

_PART = 2048  # records of a part


class Pictures(NamedTuple):
    """A source of pictures; `specs` name it wherever the program is started, `root` is the folder that it lies in."""

    source: Source
    specs: list[str]
    root: str

    def key(self, name: str) -> str:
        """A record's name inside of `root`, as text that any file can hold."""
        return plain(name.removeprefix(self.root))


def export(
    bundle_or_path: "Bundle | str | Path",
    data: str | Sequence[str],
    out: str | Path,
    *,
    texts: bool = False,
    batch_size: int = 64,
    image_key: str = "",
    caption_key: str = "",
    activation: str | None = None,
) -> dict:
    """Write the features of the pictures at `data` (and, with `texts`, of their captions) to `out`, npz or Parquet.

    `batch_size` pictures a device are encoded at a time. Started again after a stop it goes on with the same bytes at
    the end; what is complete is left alone. Returns what the file says of itself: `pictures`, `captions`, `unreadable`
    (a line each) and what made it. Raises UserError for a source that holds nothing to embed, and for an `out` that is
    another kind of file.
    """
    out = _place(out)
    pictures = open_pictures(data, image_key, caption_key)
    bundle = loaded(bundle_or_path, activation)
    job = _job(bundle, pictures, texts=texts, batch_size=batch_size, image_key=image_key, caption_key=caption_key)
    if (known := stored.about(out)) and job.items() <= known.items():
        say(f"{out} is complete: nothing to do")
        return known
    folder = out.with_name(f"{out.name}.parts")
    parts = [folder / f"{number:06}.npz" for number in range(-(-len(pictures.source) // _PART))]
    first = jax.process_index() == 0
    if first:
        _prepare(folder, job)
    _meet("prepared")
    _make(bundle, pictures, parts, texts, batch_size * jax.local_device_count())
    _meet("made")
    if first:
        _check_any(pictures, parts)
        stored.write(out, {"checkpoint": bundle.name, **job}, parts)
        shutil.rmtree(folder)
    _meet("joined")
    return stored.about(out)


def open_pictures(data: str | Sequence[str], image_key: str = "", caption_key: str = "") -> Pictures:
    """What `data` names: the forms of data.train, pictures, folders of them. Raises UserError as `open_source`."""
    specs = _absolute([data] if isinstance(data, str | os.PathLike) else data)
    config = DataConfig(image_key=image_key, caption_key=caption_key, max_unreadable=1.0)
    try:
        source = open_source(specs, config, captions=False)
    except UserError as error:  # sources speak of the key of a config
        raise UserError(str(error).replace("data.train:", "data:")) from None
    folders = [
        spec if os.path.isdir(spec) else os.path.dirname(re.split(r"[*?\[{]", spec)[0])
        for spec in specs
        if not spec.startswith("tfds:")
    ]
    local = folders if not any(map(is_address, folders)) else []  # an address and a folder have nothing in common
    return Pictures(source, specs, os.path.join(os.path.commonpath(local), "") if local else "")


def loaded(bundle_or_path: "Bundle | str | Path", activation: str | None) -> "Bundle":
    """The Bundle itself, or that of a checkpoint (`activation`: see `clipjax.load`)."""
    if not isinstance(bundle_or_path, str | os.PathLike):
        return bundle_or_path
    from clipjax.bundle import load

    return load(bundle_or_path, activation=activation)


class _Read(NamedTuple):
    """A record as a thread made it ready: `pixels` float32 [height, width, 3], or why there are none."""

    index: int
    key: str
    captions: tuple[str, ...]
    pixels: np.ndarray | str


def _make(bundle: "Bundle", pictures: Pictures, parts: list[Path], texts: bool, batch: int) -> None:
    """Make the parts that are not there, of this process's share of them."""
    records = len(pictures.source)
    spans = [range(first, min(first + _PART, records)) for first in range(0, records, _PART)]
    mine = list(zip(parts, spans, strict=True))[jax.process_index() :: jax.process_count()]
    missing = [(part, span) for part, span in mine if stored.load_part(part) is None]
    total = sum(len(span) for _, span in mine)
    done = total - sum(len(span) for _, span in missing)
    if done:
        say(f"going on: {done:,} of {total:,} pictures are embedded")
    meter = Meter("embedding", total, "pictures", done=done)
    read = partial(_read, bundle, pictures, texts)
    with closing(ahead(read, chain.from_iterable(span for _, span in missing))) as ready:
        for part, span in missing:
            made = _part(bundle, islice(ready, len(span)), batch, meter)
            if texts and part is parts[0] and not made.captions:
                raise UserError(
                    f"data: none of the first {len(span):,} records has a caption. Name where the captions stand "
                    "(caption key), or embed the pictures alone."
                )
            stored.save_part(part, made)
    meter.close()


def _part(bundle: "Bundle", ready: Iterable[_Read], batch: int, meter: Meter) -> stored.Part:
    kept, unreadable, rows, waiting = [], [], [], []
    for item in ready:
        meter.advance()
        if isinstance(item.pixels, str):
            unreadable.append(plain(item.pixels))
            continue
        kept.append(item._replace(pixels=""))  # pixels go once they are encoded
        waiting.append(item.pixels)
        if len(waiting) == batch:
            rows.append(bundle.encode_pixels(np.stack(waiting)))
            waiting = []
    if waiting:
        rows.append(bundle.encode_pixels(np.stack(waiting)))
    nothing = np.zeros((0, bundle.config.model.embed_dim), np.float32)
    captions = [caption for item in kept for caption in item.captions]
    part = stored.Part(
        images=np.concatenate(rows or [nothing]).astype(np.float32),
        keys=[item.key for item in kept],
        index=np.array([item.index for item in kept], np.int64),
        texts=caption_rows(bundle, captions, lambda _: meter.advance(0)) if captions else nothing,
        captions=captions,
        owner=np.repeat(np.arange(len(kept), dtype=np.int64), [len(item.captions) for item in kept]),
        unreadable=unreadable,
    )
    check_finite(bundle, "pictures", part.images)
    check_finite(bundle, "captions", part.texts)
    return part


def _read(bundle: "Bundle", pictures: Pictures, texts: bool, index: int) -> _Read:
    try:
        record = pictures.source[index]
    except (RecordError, OSError) as error:
        return _Read(index, "", (), str(error))
    pixels = pixels_of(bundle, record.image, record.key)
    return _Read(index, pictures.key(record.key), record.captions if texts else (), pixels)


def _job(bundle: "Bundle", pictures: Pictures, **options) -> dict:
    """All that the rows depend on, and what a search needs to know; where it differs, parts are of no use."""
    return {
        "step": bundle.step,
        "fingerprint": bundle.fingerprint,
        "dimensions": bundle.config.model.embed_dim,
        "data": [plain(spec) for spec in pictures.specs],
        "records": len(pictures.source),
        "left_out": pictures.source.dropped,
        "files": _stamp(pictures.source.files),
        "part": _PART,
        **options,
    }


def _stamp(files: Sequence[str]) -> str:
    """Hash of the names, sizes and times of files; of what lies at addresses, its version."""
    digest = hashlib.sha256()
    addresses = [path for path in files if is_address(path)]
    for file in look_up(addresses):
        digest.update(f"{file}\n".encode())
    for path in files:
        try:
            stat = os.stat(path)
            known = (stat.st_size, stat.st_mtime_ns)
        except (OSError, ValueError):
            known = None
        digest.update(f"{path!r} {known}\n".encode())
    return digest.hexdigest()


def _prepare(folder: Path, job: dict) -> None:
    """A folder for the parts of this job; parts of another are removed."""
    about = folder / "job.json"
    wanted = json.dumps(job, indent=1)
    if folder.is_dir() and (not about.is_file() or about.read_text() != wanted):
        say(f"{folder}: its parts are of another checkpoint, other data or other options; starting anew")
        shutil.rmtree(folder)
    if not folder.is_dir():
        make_folder(folder)
        replace_text(about, wanted)


def _place(out: str | Path) -> Path:
    """The path to write, its folder made. Raises UserError where another file would be lost."""
    out = stored.checked(local_path(out))
    if out.exists() and stored.about(out) is None:
        raise UserError(f"out: {out} is there and no file of embeddings. Give another name or remove it.")
    make_folder(out.parent)
    return out


def _check_any(pictures: Pictures, parts: list[Path]) -> None:
    made = map(stored.load_part, parts)
    if not any(len(part.keys) for part in made):
        reason = stored.load_part(parts[0]).unreadable[0]
        raise UserError(f"data: none of the {len(pictures.source):,} pictures can be read: {reason}.")


def _absolute(specs: Sequence[str]) -> list[str]:
    """The sources, each on its own, as they are named from any folder."""
    found = []
    for spec in map(os.fspath, specs):
        for part in [spec] if os.path.exists(os.path.expanduser(spec)) else split_commas(spec):
            named = part.startswith("tfds:") or is_address(part)
            found.append(part if named else os.path.abspath(os.path.expanduser(part)))
    return found


def _meet(what: str) -> None:
    """Wait for the other processes of the run, if there are any."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"embed: {what}")
