"""What a training source holds: counts, captions, sizes, and what cannot be used, over a sample of it."""

from collections import Counter

import numpy as np

from clipjax.config import Config
from clipjax.data.sources import RecordError, open_source
from clipjax.images.decode import ImageError, decode
from clipjax.progress import track
from clipjax.text import encode


def inspect(config: Config, sample: int = 1000) -> str:
    """`survey` in lines for a person."""
    facts = survey(config, sample)
    lines = [f"{name:<22} {_show(value)}" for name, value in facts.items() if name != "examples"]
    return "\n".join([*lines, *(f"  {example}" for example in facts["examples"])])


def survey(config: Config, sample: int = 1000) -> dict:
    """Counts of the whole source and figures over `sample` records, the first that a run with this seed visits.

    Lists are [least, median, greatest]; shares lie in [0, 1]; `short_side` is in pixels, `caption_tokens` counts the
    start and end tokens. `examples` names what cannot be used. Raises UserError as `open_source`.
    """
    source = open_source(config.data.train, config.data)
    visited = source.order(config.seed, 0)[:sample]
    captions, tokens, sides, modes, bad, empty = [], [], [], Counter(), [], []
    for index in track(visited.tolist(), "looking at records", unit="records"):
        try:
            record = source[index]
            image = decode(record.image, record.key)
        except (RecordError, ImageError) as error:
            bad.append(str(error))
            continue
        if not record.captions:
            empty.append(f"{record.key}: no caption")
        captions.append(len(record.captions))
        tokens += [len(encode(caption)) + 2 for caption in record.captions]
        sides.append(min(image.size))
        modes[image.mode] += 1
    length, size = config.model.text.context_length, config.model.image.image_size
    return {
        "records": len(source),
        "left_out": source.dropped,
        "looked_at": len(visited),
        "unreadable": len(bad) / len(visited),
        "empty_captions": len(empty) / len(visited),
        "captions_a_picture": _spread(captions),
        "caption_tokens": _spread(tokens),
        f"longer_than_{length}_tokens": float(np.mean(np.array(tokens) > length)) if tokens else 0.0,
        "short_side": _spread(sides),
        f"smaller_than_{size}_pixels": float(np.mean(np.array(sides) < size)) if sides else 0.0,
        "modes": dict(modes.most_common()),
        "examples": [*source.dropped_names, *bad[:5], *empty[:5]],
    }


def _spread(values: list[int]) -> list[float]:
    return [float(np.min(values)), float(np.median(values)), float(np.max(values))] if values else []


def _show(value) -> str:
    if isinstance(value, list):
        return " … ".join(f"{number:g}" for number in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "-"
    return f"{value:.2%}" if isinstance(value, float) else f"{value:,}"
