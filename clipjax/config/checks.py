"""Small checks that the sections share; each returns the mistakes it found, one line each."""

from typing import Any


def at_least(section: Any, bound: float, *names: str) -> list[str]:
    """Lines for those fields that lie under `bound`."""
    return [
        f"{name}: {getattr(section, name)} should be at least {bound}"
        for name in names
        if not getattr(section, name) >= bound
    ]


def one_of(section: Any, name: str, *allowed: str) -> list[str]:
    """A line if the field is none of the values allowed."""
    value = getattr(section, name)
    return [] if value in allowed else [f"{name}: {value!r} should be {' or '.join(repr(item) for item in allowed)}"]
