"""The page of an interpolation: each score stands in it, and what two data sets trade is drawn."""

import re

import pytest

from clipjax.evaluation.report.interpolation import page


def record(datasets, alphas=(0.0, 0.5, 1.0)):
    rows = [
        {
            "alpha": alpha,
            "dataset": name,
            "protocol": "zeroshot",
            "metric": metric,
            "value": value + 0.1 * alpha,
            "n": 1200,
            "low": value,
            "high": value + 0.2,
        }
        for alpha in alphas
        for name in datasets
        for metric, value in (("accuracy", 0.5), ("accuracy_top5", 0.7))
    ]
    return {"zero": "runs/a <first>", "fine": "runs/b", "created": "2025-05-03T14:07:00+00:00", "results": rows}


@pytest.mark.parametrize("datasets", [["pets"], ["pets", "cars"], ["pets", "cars", "birds"]])
def test_each_data_set_has_its_curve_and_two_have_their_trade(datasets):
    text = page(record(datasets))
    assert len(re.findall(r"<svg", text)) == len(datasets) + (len(datasets) > 1)
    assert ("What one costs the other" in text) == (len(datasets) > 1) == ("of each first metric" in text)
    for name in datasets:
        assert f'<th scope="row">{name}<code>accuracy_top5, n = 1,200</code></th>' in text
    assert "runs/a &lt;first&gt;" in text and "3 May 2025" in text and "http" not in text


def test_the_best_of_a_row_is_marked():
    assert re.findall(r'<td class="right top">([\d.]+)</td>', page(record(["pets"]))) == ["60.0", "80.0"]


def test_one_alpha_is_a_table_with_points():
    text = page(record(["pets", "cars"], alphas=(0.5,)))
    assert "What one costs the other" not in text and text.count("<svg") == 2
