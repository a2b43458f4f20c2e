"""The shared checks say the value found and the values allowed."""

from types import SimpleNamespace

from clipjax.config.checks import at_least, one_of


def test_only_values_under_the_bound_are_named():
    assert at_least(SimpleNamespace(a=1, b=0, c=float("nan")), 1, "a", "b", "c") == [
        "b: 0 should be at least 1",
        "c: nan should be at least 1",
    ]


def test_a_value_outside_of_the_choice_is_named():
    assert one_of(SimpleNamespace(a="x"), "a", "x", "y") == []
    assert one_of(SimpleNamespace(a="z"), "a", "x", "y") == ["a: 'z' should be 'x' or 'y'"]
