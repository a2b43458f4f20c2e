"""Retrieval between pictures and captions, both ways, captions as they stand. Source: CLIP paper, E.1 and Table 13."""

from typing import NamedTuple

import numpy as np

from clipjax.evaluation import metrics
from clipjax.evaluation.datasets import Dataset
from clipjax.evaluation.embed import Embeddings
from clipjax.evaluation.results import Result

KS = (1, 5, 10)


class Found(NamedTuple):
    """Best ten first: `captions` [N, 10] caption rows for each image, `images` [T, 10] image rows for each caption."""

    captions: np.ndarray
    images: np.ndarray


def search(embeddings: Embeddings) -> Found:
    """What each picture finds among all captions and each caption among all pictures; equal scores: lower row first."""
    k = max(KS)
    return Found(
        captions=metrics.nearest(embeddings.images, embeddings.texts, k=k),
        images=metrics.nearest(embeddings.texts, embeddings.images, k=k),
    )


def score(dataset: Dataset, embeddings: Embeddings, found: Found) -> list[Result]:
    """image_to_text_recall@K and text_to_image_recall@K for K = 1, 5, 10: the share of queries that find their own.

    A picture has found its own if any of its captions is among the first K. Captions of one picture hang together, so
    their interval rests on an effective number of captions (metrics.effective_n_of_clusters).
    """
    owner, texts, images = embeddings.owner, len(embeddings.texts), len(embeddings.images)
    of_image = owner[found.captions] == np.arange(images)[:, None]  # [N, 10] bool
    of_text = found.images == owner[:, None]  # [T, 10] bool
    captions = np.bincount(owner, minlength=images)
    results = []
    for k in KS:
        hit = metrics.hit_within(of_image, k)
        chance = 1 - np.mean([_all_miss(texts, int(count), k) for count in captions])
        results.append(_result(dataset, embeddings, f"image_to_text_recall@{k}", hit, len(hit), chance))
    for k in KS:
        hit = metrics.hit_within(of_text, k)
        worth = metrics.effective_n_of_clusters(hit, owner)
        results.append(_result(dataset, embeddings, f"text_to_image_recall@{k}", hit, worth, min(1.0, k / images)))
    return results


def _result(dataset, embeddings, metric, hit, worth, chance) -> Result:
    low, high = metrics.interval(hit.mean(), worth)
    missing = tuple(dataset.missing + embeddings.missing)
    return Result(
        dataset.name, "retrieval", metric, float(hit.mean()), len(hit), low, high, float(chance), missing=missing
    )


def _all_miss(texts: int, own: int, k: int) -> float:
    """Probability that k captions drawn without replacement out of `texts` are none of the picture's own."""
    share = 1.0
    for drawn in range(min(k, texts)):
        share *= max(0, texts - own - drawn) / (texts - drawn)
    return share
