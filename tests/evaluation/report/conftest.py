"""Scored data sets, as the report takes them."""

import pytest

from clipjax.evaluation.datasets import open_datasets
from clipjax.evaluation.embed import embed
from clipjax.evaluation.protocols import retrieval, zeroshot
from clipjax.evaluation.report.record import Scored


@pytest.fixture
def classified(bundle, zeroshot_folder):
    dataset = open_datasets(zeroshot_folder)[0]
    embeddings = embed(bundle, dataset)
    found = zeroshot.predict(embeddings)
    return Scored(dataset, embeddings, zeroshot.score(dataset, embeddings, found), found)


@pytest.fixture
def retrieved(bundle, retrieval_folder):
    dataset = open_datasets(retrieval_folder)[0]
    embeddings = embed(bundle, dataset)
    embeddings.texts[-8:] = embeddings.texts[0]  # captions that cannot find their pictures
    found = retrieval.search(embeddings)
    return Scored(dataset, embeddings, retrieval.score(dataset, embeddings, found), found)
