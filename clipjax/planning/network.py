"""How long a collective takes on the links of a torus of chips, if nothing else uses them."""

from clipjax.planning.chips import Rates
from clipjax.planning.groups import Groups
from clipjax.planning.topology import Topology


def wire_rate(groups: Groups, places: list[tuple[int, ...]], place: Topology, rates: Rates) -> float:
    """Bytes/s that a device of these groups sends: two ways round each ring that a group spans, one way along a line.

    places: of each device of the mesh, in its flat order, the slice it belongs to and its coordinates there. An axis of
    the torus closes to a ring where the group has all of it and it is long enough. Between slices all goes over the
    data-centre network, which is the slowest part.
    """
    spanned = [set(axis) for axis in zip(*(places[item] for item in max(groups, key=len)), strict=True)]
    if not spanned or len(spanned[0]) > 1:
        return rates.slice if spanned else rates.link
    rate = 0.0
    for axis, taken in enumerate(spanned[1:]):
        if len(taken) > 1:
            rate += rates.link * (2 if _wraps(place, axis, len(taken)) else 1)
    return rate or rates.link  # the two devices of one chip


def coordinates(device) -> tuple[int, ...]:
    """(slice, x, y, …) of a TPU's device, absent or not; () for devices that lie in no torus."""
    found = getattr(device, "coords", None)
    return (getattr(device, "slice_index", 0) or 0, *found) if found else ()


def _wraps(place: Topology, axis: int, length: int) -> bool:
    if place.chip is None or axis >= len(place.shape):
        return False
    return bool(place.chip.wraps) and length == place.shape[axis] and length % place.chip.wraps == 0
