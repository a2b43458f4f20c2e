"""Scores of a checkpoint: pictures and texts are embedded once, protocols read those rows, a report shows them."""

from clipjax.evaluation.results import Result
from clipjax.evaluation.suite import evaluate, evaluate_live

__all__ = ["Result", "evaluate", "evaluate_live"]
