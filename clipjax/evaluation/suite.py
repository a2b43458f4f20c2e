"""`evaluate`: data sets in, embeddings, scores, report.json and report.html out."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax import weights
from clipjax.data.files import local_path, make_folder, replace_text
from clipjax.evaluation.datasets import Dataset, open_datasets
from clipjax.evaluation.embed import Embeddings, embed
from clipjax.evaluation.protocols import retrieval, zeroshot
from clipjax.evaluation.report.page import page
from clipjax.evaluation.report.record import Scored, record
from clipjax.evaluation.results import Result

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

# protocol → what ranks, what scores the ranking
_PROTOCOLS = {"zeroshot": (zeroshot.predict, zeroshot.score), "retrieval": (retrieval.search, retrieval.score)}


def evaluate(
    bundle_or_path: "Bundle | str | Path",
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int = 64,
    curves: list[dict] | None = None,
    activation: str | None = None,
) -> list[Result]:
    """Score a checkpoint on the data sets at `data` and write `out`/report.json and `out`/report.html.

    `data` is a folder or several, in the layouts of datasets.py. Embeddings are kept in `out`/embeddings, for the next
    time. `curves` are lines of a metrics.jsonl; by default those of the run that the checkpoint lies in.
    `activation` is that of `clipjax.load`. Raises UserError for a path that is no checkpoint and for data that cannot
    be scored.
    """
    datasets, kept = open_datasets(data), make_folder(local_path(out) / "embeddings")
    out = kept.parent
    bundle = bundle_or_path
    if isinstance(bundle_or_path, str | Path):
        from clipjax.bundle import load

        bundle = load(bundle_or_path, activation=activation)
        if curves is None and not weights.is_foreign(bundle_or_path):
            curves = _curves(Path(bundle_or_path))
    scored = [_scored(bundle, dataset, batch_size, _cache(kept, dataset)) for dataset in datasets]
    _write(bundle, scored, out, curves or [])
    return [result for part in scored for result in part.results]


def evaluate_live(
    bundle: "Bundle",
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int = 64,
    curves: list[dict] | None = None,
    write: bool = True,
) -> list[Result]:
    """`evaluate` for a model in training: nothing is kept for a next time, and only a host with `write` writes."""
    scored = [_scored(bundle, dataset, batch_size, None) for dataset in open_datasets(data)]
    if write:
        _write(bundle, scored, make_folder(out), curves or [])
    return [result for part in scored for result in part.results]


def _scored(bundle: "Bundle", dataset: Dataset, batch_size: int, cache: Path | None) -> Scored:
    embeddings: Embeddings = embed(bundle, dataset, batch_size=batch_size, cache=cache)
    rank, score = _PROTOCOLS[dataset.protocol]
    found = rank(embeddings)
    return Scored(dataset, embeddings, score(dataset, embeddings, found), found)


def _cache(folder: Path, dataset: Dataset) -> Path:
    return folder / f"{dataset.name.strip('/').replace('/', '-')}.npz"


def _write(bundle: "Bundle", scored: list[Scored], out: Path, curves: list[dict]) -> None:
    """The page first, then the record: where report.json stands, the report is complete."""
    content = record(bundle, scored, created=datetime.now(UTC).isoformat(timespec="seconds"))
    replace_text(out / "report.html", page(content, scored, curves))
    replace_text(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _curves(path: Path) -> list[dict]:
    """Lines of the metrics.jsonl of the run at `path`, or of the run that the checkpoint at `path` lies in.

    One line a step: what a resumed run wrote last. Half a line, left by a kill, is passed over.
    """
    for folder in (path, *path.resolve().parents[:2]):
        file = folder / "metrics.jsonl"
        if file.is_file():
            lines = [_json(line) for line in file.read_text("utf-8", "replace").split("\n")]
            steps = {line["step"]: line for line in lines if isinstance(line, dict) and "step" in line}
            return [steps[step] for step in sorted(steps)]
    return []


def _json(line: str):
    try:
        return json.loads(line)
    except ValueError:
        return None
