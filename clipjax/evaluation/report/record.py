"""report.json: every number with what is needed to measure it again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipjax.evaluation import metrics
from clipjax.evaluation.datasets import Dataset
from clipjax.evaluation.embed import Embeddings
from clipjax.evaluation.protocols.retrieval import Found
from clipjax.evaluation.results import Result
from clipjax.text import identity
from clipjax.trees import flatten

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

MEASURED = {
    "scores": "inner products of unit float32 rows, multiplied at full float32 precision",
    "tie_rule": "equal scores: the lower class, caption or picture row comes first",
    "unreadable": "pictures that cannot be read, and those without caption or label, are listed and not counted",
    "captions": "captions are used as they stand; no prefix is put before them",
    "interval": {
        "accuracy": "Clopper-Pearson, 95 %, pictures taken as independent",
        "accuracy_top5": "Clopper-Pearson, 95 %, pictures taken as independent",
        "mean_per_class": "Clopper-Pearson, 95 %, at the effective number of pictures, classes being strata",
        "image_to_text_recall": "Clopper-Pearson, 95 %, pictures taken as independent",
        "text_to_image_recall": "Clopper-Pearson, 95 %, at the effective number of captions, because captions of one "
        "picture hang together (Korn and Graubard 1998)",
    },
}

_RESIZED = {
    "shortest": "short side to {} px, {}, then the middle square",
    "squash": "both sides to {} px, {}",
}


@dataclass(frozen=True)
class Scored:
    """One data set with its scores; `found` is what its protocol ranked: classes [N, 5], or a `Found`."""

    dataset: Dataset
    embeddings: Embeddings
    results: list[Result]
    found: np.ndarray | Found


def record(bundle: "Bundle", scored: list[Scored], created: str) -> dict:
    """The content of report.json; the same checkpoint and data give the same, `created` (a date) apart."""
    return {
        "checkpoint": bundle.name,
        "step": bundle.step,
        "created": created,
        "results": [result.row() for part in scored for result in part.results],
        "model": _model(bundle),
        "measured": MEASURED,
        "datasets": [_dataset(part) for part in scored],
    }


def _model(bundle: "Bundle") -> dict:
    from flax import nnx

    parameters = flatten(nnx.state(bundle.model, nnx.Param)).values()
    config, image = bundle.config, bundle.config.model.image
    return {
        "preset": config.model.preset,
        "parameters": sum(int(leaf.size) for leaf in parameters),
        "image_size": image.image_size,
        "embed_dim": config.model.embed_dim,
        "weights": bundle.fingerprint,
        "precision": config.precision,
        "logit_scale": round(float(bundle.logit_scale), 4),
        "pairs_seen": None if bundle.step is None else bundle.step * config.batch_size,
        "preprocessing": {
            "resize": _RESIZED[image.resize_mode].format(image.image_size, image.interpolation),
            "mean": list(image.mean),
            "std": list(image.std),
        },
        "tokenizer": identity() | {"context_length": config.model.text.context_length},
    }


def _dataset(part: Scored) -> dict:
    dataset, embeddings, first = part.dataset, part.embeddings, part.results[0]
    about = {
        "dataset": dataset.name,
        "protocol": dataset.protocol,
        "path": str(dataset.path),
        "pictures": len(embeddings.images),
        "samples": dataset.samples_hash,
        "chance": {result.metric: result.chance for result in part.results},
        "missing": list(first.missing),
    }
    if dataset.protocol == "retrieval":
        return about | {"captions": len(embeddings.texts), "prompts": {"prefix": ""}}
    return about | {
        "classes": len(dataset.class_names),
        "prompts": {
            "templates": dataset.templates,
            "default": dataset.default_templates,
            "hash": dataset.prompts_hash,
        },
        "per_class": first.per_class,
        "confused": _confused(part),
    }


def _confused(part: Scored, most: int = 50) -> list[dict]:
    labels, names = part.embeddings.labels, part.dataset.class_names
    total = np.bincount(labels, minlength=len(names))
    return [
        {"class": names[true], "taken_for": names[taken], "times": times, "n": int(total[true])}
        for true, taken, times in metrics.confused_pairs(labels, part.found[:, 0], most)
    ]
