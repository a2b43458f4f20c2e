"""How long captions are, and the few lengths that they are cut to so that few programs serve them all.

Text is causal and read off at the end token: what follows it changes nothing, so cutting a batch to its longest caption
is exact and saves most of the text tower's work.
"""

from collections.abc import Iterator

import numpy as np

BUCKETS = (16, 24, 32, 40, 48, 64, 77, 96, 128, 192, 256, 384, 512)
FINE_BUCKETS = (8, 10, 12, 14, 18, 20, 22, 28, *BUCKETS)  # for programs that compile fast: most texts are that short
_PASS = 48  # tokens that take as long as reading all weights for a few more rows (ViT-B/32 on two cores: 40 to 60)


def lengths(tokens: np.ndarray, end_token: int) -> np.ndarray:
    """Tokens up to and with the first end token of each row: tokens [n, L] int -> [n] int64; 1 where there is none."""
    return (tokens == end_token).argmax(axis=1) + 1


def bucket(longest: int, context_length: int, sizes=BUCKETS) -> int:
    """The length to cut a batch to whose longest caption has `longest` tokens; never more than the context."""
    return min((size for size in sizes if longest <= size < context_length), default=context_length)


def by_length(needed: np.ndarray, context_length: int, most: int, devices: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Groups (rows [m] int64, the length to cut them to) of all texts, in order of the tokens `needed` [n] by each.

    `most` rows together at most; half of that where the shorter half can be cut so much further that a pass through the
    layers of its own pays.
    """
    order = np.argsort(needed, kind="stable")
    for first in range(0, len(order), most):
        rows = order[first : first + most]
        half = len(rows) // 2 if len(rows) > most // 2 else 0  # few numbers of rows: each is a program of its own
        shorter, length = (bucket(needed[rows[last]], context_length, FINE_BUCKETS) for last in (half - 1, -1))
        if half * (length - shorter) > _PASS * devices:
            yield rows[:half], shorter
            yield rows[half:], length
        else:
            yield rows, length
