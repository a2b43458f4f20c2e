"""What fine-tuning does to what the model could before: its first evaluation held against a later one."""

import json
import pathlib
from collections.abc import Sequence

from clipjax.evaluation.results import Result


def before_and_after(workdir: pathlib.Path, results: Sequence[Result]) -> str | None:
    """A line with each score before the first step and now; None where the run has no evaluation of step 0.

    A score that lies below the 95 % interval of the first is marked as lost.
    """
    report = workdir / "evaluations/0/report.json"
    if not report.is_file():
        return None
    first = {(row["dataset"], row["metric"]): row for row in json.loads(report.read_text())["results"]}
    parts = []
    for result in results:
        row = first.get((result.dataset, result.metric))
        if row:
            lost = " (lost)" if result.value < row["low"] else ""
            parts.append(f"{result.dataset} {result.metric} {row['value']:.4f} -> {result.value:.4f}{lost}")
    return "before and after: " + "; ".join(parts) if parts else None
