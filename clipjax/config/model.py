"""The model section: two towers and what joins them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from clipjax.config.checks import at_least, one_of

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """Image tower, and the preprocessing that its pictures need (sizes in pixels).

    kind "vit": a vision transformer of `layers` blocks. kind "resnet": CLIP's ResNet of `stages` blocks a stage, whose
    stem has `width` channels; `layers` is 0, `patch_size` 32 (it halves the picture five times), and `heads` are those
    of the attention pool over its 32 `width` channels.
    """

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    kind: str = "vit"
    stages: tuple[int, ...] = ()

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = one_of(self, "kind", "vit", "resnet") or at_least(self, 1, "image_size", "patch_size", "width", "heads")
        if not rows:
            rows += self._resnet_mistakes() if self.kind == "resnet" else self._vit_mistakes()
        if not rows and self.image_size % self.patch_size:
            rows.append(f"image_size: {self.image_size} does not divide by patch_size={self.patch_size}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                rows.append(f"{name}: {getattr(self, name)} should be three numbers, one a colour channel")
        if any(value <= 0 for value in self.std):
            rows.append(f"std: {self.std} should be positive")
        rows += one_of(self, "interpolation", "bicubic", "bilinear")
        return rows + one_of(self, "resize_mode", "shortest", "squash")

    def _vit_mistakes(self) -> list[str]:
        rows = at_least(self, 1, "layers")
        if self.stages:
            rows.append(f"stages: {self.stages} belong to kind='resnet'; a vit has layers={self.layers} alone")
        if self.width % self.heads:
            rows.append(f"heads: {self.heads} does not divide width={self.width}")
        return rows

    def _resnet_mistakes(self) -> list[str]:
        rows = []
        if len(self.stages) != 4 or min(self.stages) < 1:
            rows.append(f"stages: {self.stages} should be four numbers of blocks, each at least 1, for kind='resnet'")
        if self.layers:
            rows.append(f"layers: {self.layers} should be 0 for kind='resnet', whose blocks are counted by stages")
        if self.patch_size != 32:
            rows.append(f"patch_size: {self.patch_size} should be 32 for kind='resnet', which halves pictures 5 times")
        if self.width % 2:
            rows.append(f"width: {self.width} should be even for kind='resnet', whose stem begins with half of it")
        if 32 * self.width % self.heads:
            rows.append(f"heads: {self.heads} does not divide the {32 * self.width} channels of width={self.width}")
        return rows


@dataclass(frozen=True)
class TextConfig:
    """Text tower: a causal transformer, pooled at the first `end_token`."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    end_token: int = 49407
    weights_dtype: str = "float32"

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = at_least(self, 1, "vocab_size", "width", "layers", "heads") + at_least(self, 3, "context_length")
        if not rows and self.width % self.heads:
            rows.append(f"heads: {self.heads} does not divide width={self.width}")
        if not 0 <= self.end_token < self.vocab_size:
            rows.append(f"end_token: {self.end_token} is outside of vocab_size={self.vocab_size}")
        return rows + one_of(self, "weights_dtype", "float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """A CLIP model. `preset` names the row that fills whatever else is left unset."""

    preset: str = "ViT-B/32"
    embed_dim: int = 512
    activation: str = "quick_gelu"
    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        return at_least(self, 1, "embed_dim") + one_of(self, "activation", "quick_gelu", "gelu")


def differences(one: ModelConfig, other: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """What weights or features depend on and the two models have not in common: `{key: (one's, other's)}`.

    Keys are those of a config below `model.`. The name of the preset and how weights are stored do not count.
    """
    return {
        key: (value, theirs)
        for (key, value), theirs in zip(model_values(one).items(), model_values(other).values(), strict=True)
        if value != theirs
    }


def model_values(model: ModelConfig) -> dict[str, Any]:
    """`{key below model.: value}` of all that weights or features depend on."""
    plain = asdict(model)
    values = {key: plain[key] for key in ("embed_dim", "activation")}
    for tower in ("image", "text"):
        values |= {f"{tower}.{key}": value for key, value in plain[tower].items() if key != "weights_dtype"}
    return values
