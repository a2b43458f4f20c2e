"""The page of an interpolation: what two data sets trade against each other, and each score by alpha."""

from collections.abc import Sequence

from clipjax.evaluation.report import figures
from clipjax.evaluation.report.page import day, percent
from clipjax.evaluation.report.template import template


def page(record: dict) -> str:
    """The page of what `evaluation.interpolate` returned."""
    rows = record["results"]
    alphas = sorted({row["alpha"] for row in rows})
    series: dict[tuple[str, str], list[dict]] = {}  # a data set's metric at each alpha
    for row in sorted(rows, key=lambda row: row["alpha"]):
        series.setdefault((row["dataset"], row["metric"]), []).append(row)
    firsts = {}  # the first metric of each data set stands for it
    for (dataset, metric), points in series.items():
        firsts.setdefault(dataset, {"dataset": dataset, "metric": metric, "points": points})
    heads = list(firsts.values())
    table = [
        {
            "dataset": dataset,
            "metric": metric,
            "n": points[0]["n"],
            "values": [point["value"] for point in points],
            "top": max(point["value"] for point in points),
        }
        for (dataset, metric), points in series.items()
    ]
    return template("interpolation.html", percent=percent, day=day).render(
        record=record,
        alphas=alphas,
        table=table,
        mean=_mean(heads, alphas),
        trade=_trade(heads[0], heads[1]) if len(heads) > 1 and len(alphas) > 1 else None,
        curves=[{"title": head["dataset"], "svg": _curve(number, head)} for number, head in enumerate(heads)],
    )


def _mean(heads: Sequence[dict], alphas: Sequence[float]) -> list[float]:
    """Mean over the data sets of their first metric, at each alpha."""
    return [sum(head["points"][place]["value"] for head in heads) / len(heads) for place in range(len(alphas))]


def _trade(across: dict, up: dict) -> str:
    """The way from one end to the other: the first data set to the right, the second upwards."""
    x, y = ([100 * point["value"] for point in head["points"]] for head in (across, up))
    alphas = [point["alpha"] for point in across["points"]]

    def draw(axes):
        axes.plot(x, y, color=figures.ACCENT, linewidth=1.6, marker="o", markersize=5)
        for alpha, place in zip(alphas, zip(x, y, strict=True), strict=True):
            end = {0: "0, first", 1: "1, second"}.get(alpha)
            style = dict(ha="right", xytext=(-8, -3), color=figures.INK) if end else dict(color=figures.MUTED)
            options = {"xytext": (6, 6), "textcoords": "offset points", "fontsize": 9} | style
            axes.annotate(end or f"{alpha:g}", place, **options)
        axes.set_xlabel(f"{across['dataset']}: {across['metric']}, %")
        axes.set_ylabel(f"{up['dataset']}: {up['metric']}, %")
        axes.margins(0.16, 0.12)
        axes.grid()
        axes.set_axisbelow(True)

    said = f"{up['dataset']} against {across['dataset']} for alpha from {alphas[0]:g} to {alphas[-1]:g}"
    return figures.svg("trade", said, (6.2, 4.2), draw)


def _curve(number: int, head: dict) -> str:
    """A data set's first metric by alpha, with its 95 % interval."""
    points = head["points"]
    alphas = [point["alpha"] for point in points]
    low, value, high = ([100 * point[name] for point in points] for name in ("low", "value", "high"))

    def draw(axes):
        axes.fill_between(alphas, low, high, color=figures.ACCENT, alpha=0.15, linewidth=0)
        axes.plot(alphas, value, color=figures.ACCENT, linewidth=1.6, marker="o", markersize=4)
        axes.set_xlabel("α")
        axes.set_ylabel(f"{head['metric']}, %")
        axes.grid(axis="y")

    said = f"{head['metric']} on {head['dataset']} by alpha: from {value[0]:.1f} % to {value[-1]:.1f} %"
    return figures.svg(f"curve{number}", said, (4.6, 2.9), draw)
