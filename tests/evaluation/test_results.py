"""A result as it is listed."""

from clipjax.evaluation.results import Result


def test_a_row_holds_what_report_json_promises_and_no_more():
    result = Result("zeroshot", "zeroshot", "accuracy", 0.5, 10, 0.2, 0.8, 0.1, per_class=[{}], missing=("a: empty",))
    assert result.row() == {
        "dataset": "zeroshot",
        "protocol": "zeroshot",
        "metric": "accuracy",
        "value": 0.5,
        "n": 10,
        "low": 0.2,
        "high": 0.8,
    }
