"""Before and after: scores of step 0 stand beside the later ones, and a loss is marked."""

import json

from clipjax.evaluation.results import Result
from clipjax.training.guard import before_and_after


def result(metric, value):
    return Result("colours", "zeroshot", metric, value, 100, value - 0.1, value + 0.1, 0.25)


def test_scores_before_and_after_stand_in_a_line_and_what_is_lost_is_marked(tmp_path):
    folder = tmp_path / "evaluations/0"
    folder.mkdir(parents=True)
    rows = [result("accuracy", 0.8).row(), result("accuracy_top5", 0.9).row()]
    (folder / "report.json").write_text(json.dumps({"results": rows}))
    now = [result("accuracy", 0.6), result("accuracy_top5", 0.85), result("another", 0.5)]
    assert before_and_after(tmp_path, now) == (
        "before and after: colours accuracy 0.8000 -> 0.6000 (lost); colours accuracy_top5 0.9000 -> 0.8500"
    )
    assert before_and_after(tmp_path, now[2:]) is None


def test_a_run_without_a_first_evaluation_has_nothing_to_compare(tmp_path):
    assert before_and_after(tmp_path, [result("accuracy", 0.6)]) is None
