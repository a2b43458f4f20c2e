"""What an evaluation hands back: one number, how many it rests on, and how sure it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One metric of one data set.

    `value`, `low`, `high` and `chance` (what blind guessing reaches) are fractions in [0, 1]; low..high is a 95 %
    interval. `n` counts the queries that were scored. `per_class` holds a row a class where the metric has one;
    `missing` names, one line each, what the data set holds but could not be scored.
    """

    dataset: str
    protocol: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    chance: float
    per_class: list[dict] | None = None
    missing: tuple[str, ...] = ()

    def row(self) -> dict:
        """The result as report.json lists it."""
        names = ("dataset", "protocol", "metric", "value", "n", "low", "high")
        return {name: getattr(self, name) for name in names}
