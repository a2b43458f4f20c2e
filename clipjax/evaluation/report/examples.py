"""What the page shows of a data set: queries with what they found, and mistakes with the pictures they were made on.

Examples are taken at even distances through the data set, never chosen for their looks.
"""

import numpy as np

from clipjax.evaluation import metrics
from clipjax.evaluation.report.pictures import Thumbnails
from clipjax.evaluation.report.record import Scored

SHOWN = 5  # pictures or captions a query


def caption_queries(part: Scored, thumbnail: Thumbnails, each: int = 4) -> list[dict]:
    """Captions with the pictures they find: up to `each` that find their own first, and `each` that do not in five."""
    owner, found = part.embeddings.owner, part.found.images
    own = found == owner[:, None]  # [T, 10]
    picked = _even(own[:, 0], each) + _even(~metrics.hit_within(own, SHOWN), each)
    queries = []
    for row in picked:
        place = int(own[row].argmax()) + 1 if own[row].any() else _place(part, row)
        pictures = [_picture(part, thumbnail, image, image == owner[row]) for image in found[row, :SHOWN]]
        if place > SHOWN:
            pictures.append(_picture(part, thumbnail, owner[row], True))
        queries.append({"query": part.embeddings.captions[row], "place": place, "pictures": pictures})
    return queries


def picture_queries(part: Scored, thumbnail: Thumbnails, each: int = 3) -> list[dict]:
    """Pictures with the captions they find: up to `each` that find one of their own first, and `each` not in five."""
    owner = part.embeddings.owner
    own = owner[part.found.captions] == np.arange(len(part.embeddings.images))[:, None]  # [N, 10]
    queries = []
    for row in _even(own[:, 0], each) + _even(~metrics.hit_within(own, SHOWN), each):
        captions = [
            {"text": part.embeddings.captions[text], "own": bool(mine)}
            for text, mine in zip(part.found.captions[row, :SHOWN], own[row], strict=False)
        ]
        theirs = [] if own[row, :SHOWN].any() else [part.embeddings.captions[np.flatnonzero(owner == row)[0]]]
        queries.append({"picture": _picture(part, thumbnail, row, False), "captions": captions, "right": theirs})
    return queries


def class_queries(part: Scored, thumbnail: Thumbnails, each: int = 2) -> list[dict]:
    """Classes with the pictures nearest to their prompts: the `each` of highest accuracy, and the `each` of lowest."""
    labels = part.embeddings.labels
    table = sorted(part.results[0].per_class, key=lambda row: -row["accuracy"])
    rows = table if len(table) <= 2 * each else table[:each] + table[-each:]
    numbers = [row["label"] for row in rows]
    found = metrics.nearest(part.embeddings.texts[numbers], part.embeddings.images, k=SHOWN + 1)
    return [
        {
            "query": row["class"],
            "accuracy": row["accuracy"],
            "pictures": [_picture(part, thumbnail, image, labels[image] == number) for image in images],
        }
        for row, number, images in zip(rows, numbers, found, strict=True)
    ]


def mistakes(part: Scored, thumbnail: Thumbnails, most: int = 8, each: int = 4) -> list[dict]:
    """The most frequent confusions with up to `each` of the pictures they were made on."""
    names, labels, predicted = part.dataset.class_names, part.embeddings.labels, part.found[:, 0]
    rows = []
    for true, taken, times in metrics.confused_pairs(labels, predicted, most):
        made_on = _even((labels == true) & (predicted == taken), each)
        pictures = [_picture(part, thumbnail, image, False) for image in made_on]
        n = int((labels == true).sum())
        rows.append({"true": names[true], "taken": names[taken], "times": times, "n": n, "pictures": pictures})
    return rows


def _place(part: Scored, text: int) -> int:
    """Place of a caption's picture among all of them, where it is not among the first ten."""
    scores = part.embeddings.images @ part.embeddings.texts[text]  # [N]
    own = part.embeddings.owner[text]
    better = int((scores > scores[own]).sum() + (scores[:own] == scores[own]).sum())
    return max(better, part.found.images.shape[1]) + 1


def _picture(part: Scored, thumbnail: Thumbnails, image: int, own: bool) -> dict:
    """One picture for the page; `image` is its row among the embeddings."""
    sample = part.dataset.samples[part.embeddings.samples[image]]
    alt = sample.captions[0] if sample.captions else part.dataset.class_names[sample.label]
    return {"uri": thumbnail(f"{sample.path}:{sample.offset}", sample.read), "alt": alt, "own": bool(own)}


def _even(chosen: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the rows where `chosen` is true, at even distances."""
    rows = np.flatnonzero(chosen)
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))].tolist()
