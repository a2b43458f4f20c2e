"""The page of a search: for each query the nearest pictures. One file without outside parts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.data.sources import RecordError
from clipjax.evaluation.report.pictures import Thumbnails
from clipjax.evaluation.report.template import template
from clipjax.images.decode import ImageError

if TYPE_CHECKING:
    from clipjax.evaluation.search import Found

_BUDGET = 12_000_000  # bytes of thumbnails


def page(found: Sequence["Found"], about: dict, read: Callable[[int, str], bytes]) -> str:
    """The page of what a search found; `about` is what the embeddings say of themselves.

    `read(index, key)` gives a picture's bytes; where it cannot (LookupError, OSError), the page names the picture only.
    """
    thumbnail, absent = Thumbnails(_BUDGET), set()

    def uri(name: str, load: Callable[[], bytes]) -> str | None:
        try:
            return thumbnail(name, load)
        except (LookupError, OSError, RecordError, ImageError):
            absent.add(name)
            return None

    queries = [
        {
            "query": one.query,
            "picture": uri(one.query, Path(one.query).read_bytes) if one.by_picture else None,
            "by_picture": one.by_picture,
            "pictures": [
                {"key": key, "score": score, "uri": uri(f"{index}:{key}", lambda at=(index, key): read(*at))}
                for key, score, index in zip(one.keys, one.scores, one.index, strict=True)
            ],
        }
        for one in found
    ]
    return template("found.html").render(queries=queries, about=about, absent=len(absent), full=thumbnail.full)
