"""Scores from embeddings: pure functions of arrays that walk their rows in blocks, so no N x M matrix exists."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

LEVEL = 0.95


def nearest(queries, candidates, *, k: int, block: int = 1024) -> np.ndarray:
    """For every query the rows of the k candidates with the highest inner product, best first: int32 [N, min(k, M)].

    queries [N, E] and candidates [M, E]: float32 rows. Among equal scores the lower row comes first, so the place of a
    query's best own candidate is 1 + the strictly better ones + the equal wrong ones of lower row.
    Blocks are always padded to `block` rows, so that equal candidates get equal scores wherever they stand.
    """
    k = min(k, len(candidates))
    columns = [_padded(candidates[first : first + block], block) for first in range(0, len(candidates), block)]
    found = []
    for first in range(0, len(queries), block):
        rows = _padded(queries[first : first + block], block)
        best = jnp.full((block, k), -jnp.inf), jnp.zeros((block, k), jnp.int32)
        for number, column in enumerate(columns):
            best = _merged(best, rows, column, number * block, len(candidates), k=k)
        found.append(np.asarray(best[1])[: len(queries) - first])
    return np.concatenate(found) if found else np.zeros((0, k), np.int32)


def hit_within(own, k: int) -> np.ndarray:
    """bool [N]: whether one of a query's first k candidates is its own; own: bool [N, found], best first."""
    return np.asarray(own)[:, :k].any(axis=1)


def per_class(labels, predicted, class_names: list[str]) -> list[dict]:
    """A row for each class that occurs in labels [N]: its name, label, n, accuracy, and the interval low..high."""
    total = np.bincount(labels, minlength=len(class_names))
    right = np.bincount(labels[labels == predicted], minlength=len(class_names))
    rows = []
    for row in np.flatnonzero(total):
        accuracy = right[row] / total[row]
        low, high = interval(accuracy, total[row])
        about = {"class": class_names[row], "label": int(row), "n": int(total[row])}
        rows.append(about | {"accuracy": float(accuracy), "low": low, "high": high})
    return rows


def confused_pairs(labels, predicted, most: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (class, class taken for it, times), most frequent first, then by class row."""
    wrong = labels != predicted
    pairs, times = np.unique(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")[:most]
    return [(*pairs[row].tolist(), int(times[row])) for row in order]


def interval(share: float, n: float) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval of a share of n independent trials; n may be an effective, fractional number."""
    from scipy import special

    share, tail = float(share), (1 - LEVEL) / 2
    hits = share * n
    low = 0.0 if share <= 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if share >= 1 else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def effective_n_of_clusters(hits, owner) -> float:
    """How many independent trials the hits [M] bool are worth, given that those of one owner [M] hang together.

    n / design effect, the variance being the linearised one of a ratio over clusters, with the correction for few
    clusters, never above M; all hit or all missed: the number of clusters. Source: Korn and Graubard, Survey
    Methodology 24 (1998), "Confidence intervals for proportions with small expected number of positive counts".
    """
    from scipy import special

    hits, owner = np.asarray(hits, float), np.unique(owner, return_inverse=True)[1]
    n, clusters, share = len(hits), int(owner.max()) + 1, hits.mean()
    if clusters == 1 or share in (0.0, 1.0):
        return float(clusters)
    sums = np.bincount(owner, weights=hits - share)
    variance = clusters / (clusters - 1) * float(sums @ sums) / n**2
    few = (special.stdtrit(n - 1, 0.975) / special.stdtrit(clusters - 1, 0.975)) ** 2
    return float(min(n, few * share * (1 - share) / variance)) if variance > 0 else float(n)


def effective_n_of_classes(right, total) -> float:
    """How many independent trials a mean over classes is worth: p (1 - p) / its variance, classes being strata.

    right and total: counts of the classes that occur. Each class's share is first drawn towards the pooled share by
    one trial, so that a class of one picture does not look certain. Source as for clusters.
    """
    right, total = np.asarray(right, float), np.asarray(total, float)
    classes, share, pooled = len(total), (right / total).mean(), right.sum() / total.sum()
    if share in (0.0, 1.0):
        return float(min(total.sum(), classes**2 / (1 / total).sum()))
    drawn = (right + pooled) / (total + 1)
    variance = (drawn * (1 - drawn) / total).sum() / classes**2
    return float(min(total.sum(), share * (1 - share) / variance))


def _padded(rows, block: int):
    """float32 [block, E]: the rows, and zeros below the last block's."""
    rows = np.asarray(rows, np.float32)
    return rows if len(rows) == block else np.pad(rows, ((0, block - len(rows)), (0, 0)))


@partial(jax.jit, static_argnames="k")
def _merged(best, rows, column, first, candidates, *, k):
    """The k best of those so far (all of lower rows) and of one block of candidates."""
    scores = jnp.matmul(rows, column.T, precision="highest")  # [block, block]; bf16 would swap near neighbours
    numbers = first + jnp.arange(column.shape[0], dtype=jnp.int32)  # [block] candidate rows
    scores = jnp.where(numbers[None, :] < candidates, scores, -jnp.inf)
    top, place = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), k)  # stable: equal scores keep their order
    known = jnp.concatenate([best[1], jnp.broadcast_to(numbers[None, :], scores.shape)], axis=1)
    return top, jnp.take_along_axis(known, place, axis=1)
