"""Zero-shot numbers against the full matrix of scores."""

import numpy as np
import pytest

from clipjax.evaluation.datasets import open_datasets
from clipjax.evaluation.embed import embed
from clipjax.evaluation.protocols import zeroshot


@pytest.fixture
def case(bundle, zeroshot_folder):
    """Six classes with random rows on a coarse grid, so that scores tie; twelve pictures of classes 0 to 3."""
    (zeroshot_folder / "classnames.txt").write_text("\n".join("abcdef"))
    dataset = open_datasets(zeroshot_folder)[0]
    embeddings = embed(bundle, dataset)
    rng = np.random.default_rng(5)
    embeddings.images[:] = rng.integers(-1, 2, embeddings.images.shape)
    embeddings.texts[:] = rng.integers(-1, 2, embeddings.texts.shape)
    return dataset, embeddings


def test_numbers_equal_those_of_the_full_matrix(case):
    dataset, embeddings = case
    results = {r.metric: r for r in zeroshot.score(dataset, embeddings, zeroshot.predict(embeddings))}
    order = np.argsort(-(embeddings.images @ embeddings.texts.T), axis=1, kind="stable")
    own = order == embeddings.labels[:, None]
    assert results["accuracy"].value == pytest.approx(own[:, 0].mean())
    assert results["accuracy_top5"].value == pytest.approx(own[:, :5].any(axis=1).mean())
    shares = [own[embeddings.labels == label, 0].mean() for label in range(4)]  # classes 4 and 5 do not occur
    assert results["mean_per_class"].value == pytest.approx(np.mean(shares))
    assert [row["accuracy"] for row in results["accuracy"].per_class] == pytest.approx(shares)


def test_chance_is_that_of_a_guess_among_all_classes(case):
    dataset, embeddings = case
    results = {r.metric: r for r in zeroshot.score(dataset, embeddings, zeroshot.predict(embeddings))}
    assert [r.chance for r in results.values()] == pytest.approx([1 / 6, 5 / 6, 1 / 6])


def test_every_interval_holds_its_value(case):
    dataset, embeddings = case
    for result in zeroshot.score(dataset, embeddings, zeroshot.predict(embeddings)):
        assert 0 <= result.low <= result.value <= result.high <= 1 and result.n == 12
