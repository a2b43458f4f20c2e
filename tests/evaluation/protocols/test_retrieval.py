"""Retrieval numbers against the full matrix of scores and the literal rank."""

import numpy as np
import pytest

from clipjax.evaluation.datasets import open_datasets
from clipjax.evaluation.embed import embed
from clipjax.evaluation.protocols import retrieval


@pytest.fixture
def case(bundle, retrieval_folder):
    """25 pictures and 51 captions whose scores are exact and often equal."""
    dataset = open_datasets(retrieval_folder)[0]
    embeddings = embed(bundle, dataset)
    rng = np.random.default_rng(3)
    embeddings.images[:] = rng.integers(-1, 2, embeddings.images.shape)
    embeddings.texts[:] = embeddings.images[embeddings.owner] + rng.integers(-3, 4, embeddings.texts.shape)
    embeddings.images[:, 6:] = embeddings.texts[:, 6:] = 0
    return dataset, embeddings


def rank(scores, positives):
    """Section "recall@K": 1 + strictly better + equal negatives of lower index than the best positive."""
    best = max(positives, key=lambda index: (scores[index], -index))
    return 1 + sum(
        score > scores[best] or (score == scores[best] and index < best and index not in positives)
        for index, score in enumerate(scores)
    )


@pytest.mark.parametrize("k", retrieval.KS)
def test_recalls_equal_those_of_the_literal_rank(case, k):
    dataset, embeddings = case
    results = {r.metric: r for r in retrieval.score(dataset, embeddings, retrieval.search(embeddings))}
    scores = embeddings.images @ embeddings.texts.T
    of_image = [rank(scores[i], np.flatnonzero(embeddings.owner == i).tolist()) <= k for i in range(25)]
    of_text = [rank(scores[:, t], [embeddings.owner[t]]) <= k for t in range(51)]
    assert 0 < np.mean(of_text) < 1
    assert results[f"image_to_text_recall@{k}"].value == pytest.approx(np.mean(of_image))
    assert results[f"text_to_image_recall@{k}"].value == pytest.approx(np.mean(of_text))
    assert (results[f"image_to_text_recall@{k}"].n, results[f"text_to_image_recall@{k}"].n) == (25, 51)


def test_chance_is_what_random_rankings_reach(case):
    dataset, embeddings = case
    results = {r.metric: r for r in retrieval.score(dataset, embeddings, retrieval.search(embeddings))}
    rng, own = np.random.default_rng(0), np.bincount(embeddings.owner)
    drawn = [np.isin(embeddings.owner[rng.permutation(51)[:5]], image).any() for image in range(25) for _ in range(400)]
    assert own.max() == 3
    assert results["image_to_text_recall@5"].chance == pytest.approx(np.mean(drawn), abs=0.02)
    assert results["text_to_image_recall@5"].chance == 5 / 25


def test_few_pictures_make_high_recalls_certain(bundle, retrieval_folder, write_tar, picture):
    members = {f"{name}.png": picture(name) for name in ("red", "blue")}
    members |= {f"{name}.txt": name.encode() for name in ("red", "blue")}
    write_tar(retrieval_folder / "test" / "0.tar", members)
    dataset = open_datasets(retrieval_folder)[0]
    embeddings = embed(bundle, dataset)
    results = {r.metric: r for r in retrieval.score(dataset, embeddings, retrieval.search(embeddings))}
    assert results["text_to_image_recall@10"].value == results["image_to_text_recall@10"].chance == 1
    assert results["text_to_image_recall@1"].low < 0.5 and results["text_to_image_recall@1"].high == 1
