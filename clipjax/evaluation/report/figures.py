"""Plots as inline SVG that takes its colours and its font from the page, so that it follows light and dark."""

import html
import io
import re
import warnings

import numpy as np

_POINTS = 300  # of a curve, so that a long run does not weigh megabytes

# matplotlib needs colours; the page's own take their place in the SVG
_COLOURS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)", "#040404": "var(--accent)"}
INK, MUTED, LINE, ACCENT = _COLOURS

_STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "clipjax",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "font.size": 11,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}

CURVES = (  # key of metrics.jsonl, title, whether the axis starts at zero
    ("loss", "Loss", False),
    ("recall_at_1", "Recall@1 inside the batch", True),
    ("learning_rate", "Learning rate", True),
    ("logit_scale", "Logit scale", False),
)


def curves(lines: list[dict]) -> list[dict]:
    """A plot for each known key that the lines of a run (`step` and numbers) hold: {"title", "svg"}."""
    plots = []
    for key, title, from_zero in CURVES:
        points = [(line["step"], line[key]) for line in lines if _finite(line.get(key))]
        if len(points) > 1:
            plots.append({"title": title, "svg": _curve(key, title, *_thinned(np.array(points, float)), from_zero)})
    return plots


def class_bars(name: str, table: list[dict], most: int = 60) -> dict:
    """Bars of accuracy with 95 % whiskers, best class on top; of more than `most` classes the best and the worst.

    `name` sets the plot's ids apart from those of other plots. Returns {"svg", "left_out": classes not shown}.
    """
    table = sorted(table, key=lambda row: (-row["accuracy"], row["class"]))
    left_out = len(table) - most
    if left_out > 0:
        table = table[: most // 2] + table[-(most // 2) :]
    share = np.array([row["accuracy"] for row in table])
    whiskers = np.stack([share - [row["low"] for row in table], [row["high"] for row in table] - share]).clip(0)
    places = np.arange(len(table))

    def draw(axes):
        axes.barh(places, 100 * share, height=0.66, color=ACCENT, alpha=0.75)
        axes.errorbar(100 * share, places, xerr=100 * whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        axes.set_yticks(places, [_short(row["class"]) for row in table], color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_xlim(0, 101)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x")
        axes.set_axisbelow(True)

    label = "Accuracy of each class: " + ", ".join(f"{row['class']} {row['accuracy']:.0%}" for row in table)
    return {"svg": svg(name, label, (5.0, 0.9 + 0.27 * len(table)), draw), "left_out": max(0, left_out)}


def svg(name: str, label: str, size: tuple[float, float], draw) -> str:
    """What `draw(axes)` draws, as an <svg> element with a label for those who do not see it."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that matplotlib's own font lacks: the reader's font draws them
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return _inline(stream.getvalue(), name, label)


def _curve(key: str, title: str, steps: np.ndarray, values: np.ndarray, from_zero: bool) -> str:
    def draw(axes):
        axes.plot(steps, values, color=ACCENT, linewidth=1.6, solid_joinstyle="round")
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.margins(x=0.01)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=5)

    label = f"{title} by step: from {values[0]:.3g} at step {steps[0]:.0f} to {values[-1]:.3g} at step {steps[-1]:.0f}"
    return svg(key, label, (4.6, 2.6), draw)


def _thinned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [n, 2], each the mean of its piece where there are more than `_POINTS`."""
    pieces = np.array_split(points, min(len(points), _POINTS))
    steps, values = np.stack([piece.mean(axis=0) for piece in pieces]).T
    return steps, values


def _finite(value) -> bool:
    return isinstance(value, int | float) and np.isfinite(value)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _inline(svg: str, name: str, label: str) -> str:
    """The <svg> element alone: no header, no metadata, no addresses, ids that no other plot on the page has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
    return head + svg[svg.index(">") + 1 :]
