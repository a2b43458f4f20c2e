"""report.html: one page without outside parts, to show to a colleague."""

from datetime import datetime

from clipjax.evaluation.report import examples, figures
from clipjax.evaluation.report.pictures import Thumbnails
from clipjax.evaluation.report.record import Scored
from clipjax.evaluation.report.template import template

_METRICS = {
    "accuracy": "Right class first",
    "accuracy_top5": "Right class in the first five",
    "mean_per_class": "Right class first, mean over classes",
    "image_to_text_recall": "Picture finds its caption",
    "text_to_image_recall": "Caption finds its picture",
}
_SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)  # ends of the bars' axis: the first that holds every interval


def page(record: dict, scored: list[Scored], curves: list[dict]) -> str:
    """The page of what `record` returned; `curves` are the lines of a run's metrics.jsonl, or none."""
    top = max(result.high for part in scored for result in part.results)
    scale = next(end for end in _SCALES if end >= top or end == 1.0)
    thumbnail = Thumbnails()
    parts = [
        _part(number, part, about, scale, thumbnail)
        for number, (part, about) in enumerate(zip(scored, record["datasets"], strict=True), 1)
    ]
    filters = {"percent": percent, "range": _range, "day": day, "count_short": _count, "sentence": _sentence}
    return template("page.html", **filters).render(
        record=record, parts=parts, scale=scale, curves=figures.curves(curves), full=thumbnail.full
    )


def percent(share: float) -> str:
    """A share of 1 in percent, with two decimals where one would say little."""
    return f"{100 * share:.2f}" if share < 0.01 else f"{100 * share:.1f}"


def day(created: str) -> str:
    """An ISO date for people: 3 May 2025, 14:07 UTC."""
    return f"{datetime.fromisoformat(created):%d %B %Y, %H:%M} UTC".lstrip("0")


def _part(number: int, part: Scored, about: dict, scale: float, thumbnail: Thumbnails) -> dict:
    """What the page says of one data set."""
    rows = [{"result": result, "label": _label(result.metric), **_places(result, scale)} for result in part.results]
    shown = {"about": about, "rows": rows, "by_metric": {result.metric: result for result in part.results}}
    if part.dataset.protocol == "retrieval":
        return shown | {
            "captions": examples.caption_queries(part, thumbnail),
            "pictures": examples.picture_queries(part, thumbnail),
        }
    return shown | {
        "bars": figures.class_bars(f"classes{number}", about["per_class"]),
        "classes": examples.class_queries(part, thumbnail),
        "mistakes": examples.mistakes(part, thumbnail),
    }


def _places(result, scale: float) -> dict:
    """Where the bar of a result ends, its whisker runs and chance lies: percent of the axis."""
    names = ("value", "low", "high", "chance")
    return {name: f"{100 * min(1.0, getattr(result, name) / scale):.2f}%" for name in names}


def _label(metric: str) -> str:
    name, _, k = metric.partition("@")
    return _METRICS[name] + ({"": "", "1": " first"}.get(k, f" in the first {k}"))


def _range(result) -> str:
    return f"{percent(result.low)} to {percent(result.high)}"


def _count(number: int) -> str:
    """1,234 · 12.3 thousand · 151.3 million · 12.8 billion."""
    for least, size, name in ((10**9, 10**9, "billion"), (10**6, 10**6, "million"), (10**4, 10**3, "thousand")):
        if number >= least:
            return f"{number / size:.1f} {name}"
    return f"{number:,}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
