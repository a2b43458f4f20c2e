"""Zero-shot classification: a picture gets the class whose prompts' mean is nearest. Source: CLIP paper, 3.1."""

import numpy as np

from clipjax.evaluation import metrics
from clipjax.evaluation.datasets import Dataset
from clipjax.evaluation.embed import Embeddings
from clipjax.evaluation.results import Result


def predict(embeddings: Embeddings) -> np.ndarray:
    """The nearest classes of each picture, best first: int32 [N, min(5, classes)]; equal scores: lower row first."""
    return metrics.nearest(embeddings.images, embeddings.texts, k=5)


def score(dataset: Dataset, embeddings: Embeddings, predicted: np.ndarray) -> list[Result]:
    """accuracy (with the table of classes), accuracy_top5 and mean_per_class over the readable pictures.

    Mean per class: the mean of the accuracies of the classes that occur, whatever their sizes.
    """
    n, classes = len(embeddings.labels), len(dataset.class_names)
    own = predicted == embeddings.labels[:, None]  # [N, 5] bool
    table = metrics.per_class(embeddings.labels, predicted[:, 0], dataset.class_names)
    total = np.array([row["n"] for row in table])
    shares = np.array([row["accuracy"] for row in table])
    worth = metrics.effective_n_of_classes(np.rint(shares * total), total)
    top1, top5 = metrics.hit_within(own, 1).mean(), metrics.hit_within(own, 5).mean()

    def result(metric, value, trials, chance, per_class=None):
        low, high = metrics.interval(value, trials)
        missing = tuple(dataset.missing + embeddings.missing)
        return Result(dataset.name, "zeroshot", metric, float(value), n, low, high, chance, per_class, missing)

    return [
        result("accuracy", top1, n, 1 / classes, table),
        result("accuracy_top5", top5, n, min(1.0, 5 / classes)),
        result("mean_per_class", shares.mean(), worth, 1 / classes, table),
    ]
