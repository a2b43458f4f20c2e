"""The models that presets name, with their sizes: parameters, and operations of encoding one picture and one text."""

from typing import NamedTuple

from clipjax.config import ModelConfig, preset, preset_names
from clipjax.models.flops import forward_flops


class Entry(NamedTuple):
    """A preset's name, its parameters (running averages are none), and GFLOP of a picture and of a whole context."""

    name: str
    parameters: int
    image_parameters: int
    text_parameters: int
    image_gflops: float
    text_gflops: float


def catalogue() -> list[Entry]:
    """Every preset, the paper's nine first."""
    entries = []
    for name in preset_names():
        config = preset(name)
        entries.append(Entry(name, *count_parameters(config), *(flops / 1e9 for flops in forward_flops(config))))
    return entries


def table() -> str:
    """The catalogue as lines of text."""
    rows = [("model", "parameters", "image", "text", "GFLOP image", "GFLOP text")]
    rows += [
        (name, *(f"{n:,}" for n in (total, image, text)), f"{picture:.2f}", f"{words:.2f}")
        for name, total, image, text, picture, words in catalogue()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def count_parameters(config: ModelConfig) -> tuple[int, int, int]:
    """(all, image tower, text tower), the towers with their projections; by shapes alone, without memory."""
    from flax import nnx

    from clipjax.models.clip import CLIP
    from clipjax.trees import flatten

    sizes = {
        path: leaf.size for path, leaf in flatten(nnx.state(nnx.eval_shape(lambda: CLIP(config)), nnx.Param)).items()
    }
    image, text = (sum(size for path, size in sizes.items() if path.startswith(tower)) for tower in ("image/", "text/"))
    return sum(sizes.values()), image, text
