"""The batches as the step takes them: on the mesh, their texts cut to the longest caption of the global batch."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.parallel.mesh import greatest, place_rows
from clipjax.text.lengths import bucket, lengths


class Feed:
    """Hands out the batches of a run's remaining `steps`, from this process's rows `data` of each.

    Texts are cut to no more than the context of the step's stage.

    A caption's length is known to the process that reads it alone: which caption a record has, and which record takes
    the place of one that cannot be read, is not known before. So the processes exchange the longest of each batch, and
    with it whether one of them was asked to stop. The exchange is a program like the step. It is dispatched one step
    ahead, in the same order everywhere, and read after the step before is done: no device waits for it.

    Raises UserError, here or later, for what is wrong with the data.
    """

    def __init__(self, config: Config, mesh, rows: np.ndarray, data: Iterator[Batch], steps: int):
        self._config, self._mesh, self._rows, self._data, self._left = config, mesh, rows, data, steps
        self._ahead = self._read(asked=False) if steps else None

    @property
    def length(self) -> int | None:
        """Tokens a row of the next batch, the same in all processes; None after the last, and if it is not read yet."""
        return self._length(self._ahead) if self._ahead else None

    def next(self, asked: bool) -> tuple[Batch, bool]:
        """The next global batch, tokens [B, L], and whether to stop instead of using it; all processes agree on both.

        `asked` says whether this process was asked to stop; the others hear of it with the batch that is read now.
        """
        ready = self._ahead or self._read(asked)
        length, stop = self._length(ready), bool(np.asarray(ready.agreed)[1])
        self._left -= 1
        # A process alone needs nobody's agreement, and reads no sooner than it must.
        self._ahead = self._read(asked) if jax.process_count() > 1 and self._left else None
        batch = ready.batch._replace(tokens=ready.batch.tokens[:, :length])
        size = self._config.batch_size
        return jax.tree.map(lambda part: place_rows(self._mesh, part, self._rows, size), batch), stop

    def _read(self, asked: bool) -> "_Ready":
        batch = next(self._data)
        longest = lengths(batch.tokens, self._config.model.text.end_token).max(initial=0)
        return _Ready(batch, greatest(self._mesh, [longest, asked]))

    def _length(self, ready: "_Ready") -> int:
        return bucket(int(np.asarray(ready.agreed)[0]), ready.batch.tokens.shape[1])


class _Ready(NamedTuple):
    batch: Batch  # this process's rows, whole texts
    agreed: jax.Array  # [2] int32: longest caption, whether to stop; perhaps still under way
