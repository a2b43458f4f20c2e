"""Text lengths that programs are compiled for: a batch of captions is cut to the shortest that holds its longest."""

import numpy as np

BUCKETS = (16, 24, 32, 48, 64)  # and the context length; captions mostly fit the first two


def bucket(longest: int, context_length: int) -> int:
    """The length in tokens, at most `context_length`, to which rows of at most `longest` tokens may be cut.

    Exact: no token of a caption sees a later one, and nothing is read after the end token.
    """
    return next((length for length in BUCKETS if longest <= length < context_length), context_length)


def lengths(tokens, end_token: int) -> np.ndarray:
    """int64 [n]: how many tokens of each row [n, L] are read, the first end token included.

    A row without end token is read at its first token (models/text.py), so 1.
    """
    return np.argmax(np.asarray(tokens) == end_token, axis=1) + 1
