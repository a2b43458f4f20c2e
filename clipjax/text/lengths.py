"""How long captions are, and the few lengths that they are cut to so that few programs serve them all.

Text is causal and read off at the end token: what follows it changes nothing, so cutting a batch to its longest caption
is exact and saves most of the text tower's work.
"""

import numpy as np

BUCKETS = (16, 24, 32, 40, 48, 64, 77, 96, 128, 192, 256, 384, 512)
FINE_BUCKETS = (8, 10, 12, 14, 18, 20, 22, 28, *BUCKETS)  # for programs that compile fast: most texts are that short


def lengths(tokens: np.ndarray, end_token: int) -> np.ndarray:
    """Tokens up to and with the first end token of each row: tokens [n, L] int -> [n] int64; 1 where there is none."""
    return (tokens == end_token).argmax(axis=1) + 1


def bucket(longest: int, context_length: int, sizes=BUCKETS) -> int:
    """The length to cut a batch to whose longest caption has `longest` tokens; never more than the context."""
    return min((size for size in sizes if longest <= size < context_length), default=context_length)
