"""Plots: inline, without addresses or ids that collide, in the page's colours."""

import re

import numpy as np
import pytest

from clipjax.evaluation.report import figures

TABLE = [{"class": f"class {n}", "accuracy": n / 100, "low": n / 200, "high": 1.0, "n": 5} for n in range(100)]


@pytest.fixture(scope="module")
def plots():
    lines = [
        {"step": step, "loss": 5 / step, "logit_scale": float("nan"), "recall_at_1": None} for step in range(1, 900)
    ]
    return figures.curves(lines)


def test_only_what_the_lines_hold_is_drawn(plots):
    assert [plot["title"] for plot in plots] == ["Loss"]
    assert figures.curves([]) == [] and figures.curves([{"step": 1, "loss": 2.0}]) == []


def test_a_plot_is_one_svg_element_with_a_label_and_nothing_from_outside(plots):
    svg = plots[0]["svg"]
    assert svg.startswith("<svg viewBox=") and svg.rstrip().endswith("</svg>")
    assert 'role="img"' in svg and 'aria-label="Loss by step: from' in svg
    assert "http" not in svg and "xmlns" not in svg and "<metadata" not in svg


def test_plots_take_the_colours_of_the_page(plots):
    assert "var(--accent)" in plots[0]["svg"] and "var(--muted)" in plots[0]["svg"]
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", plots[0]["svg"])


def test_a_long_run_is_thinned_to_means():
    steps, values = figures._thinned(np.stack([np.arange(3000.0), np.arange(3000.0) * 2], axis=1))
    assert len(steps) == 300 and steps[0] == 4.5 and values[0] == 9.0


def test_ids_of_two_plots_differ():
    one, two = (figures.class_bars(name, TABLE[:3])["svg"] for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, known in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= known


def test_the_same_numbers_give_the_same_plot():
    assert figures.class_bars("a", TABLE[:5]) == figures.class_bars("a", TABLE[:5])


def test_of_many_classes_the_best_and_the_worst_are_shown():
    drawn = figures.class_bars("a", TABLE, most=10)
    shown = set(re.findall(r">class (\d+)<", drawn["svg"]))
    assert shown == {str(n) for n in (*range(5), *range(95, 100))} and drawn["left_out"] == 90


def test_class_names_are_text_not_markup_or_formulas():
    table = [TABLE[0] | {"class": name} for name in ("<b>&", "$x_1$", "猫", 'say "id"')]
    svg = figures.class_bars("a", table)["svg"]
    assert "<b>" not in svg and "&lt;b&gt;&amp;" in svg and "$x_1$" in svg and "猫" in svg
