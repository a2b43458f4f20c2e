"""The optimizer section: AdamW with a linear warm-up and a cosine to zero (paper, Table 18 and 19)."""

from dataclasses import dataclass

from clipjax.config.checks import at_least, one_of


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; `clip_norm` 0 means that gradients are not clipped. Defaults are the paper's for vision transformers.

    `layer_decay` is the factor from the learning rate of a layer to that of the layer below it (1: all the same).
    """

    learning_rate: float = 5e-4
    warmup_steps: int = 2000
    weight_decay: float = 0.2
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 0.0
    moments_dtype: str = "float32"
    layer_decay: float = 1.0

    def mistakes(self) -> list[str]:
        """What is wrong with the section on its own, one line each."""
        rows = at_least(self, 0, "learning_rate", "warmup_steps", "weight_decay", "eps", "clip_norm")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                rows.append(f"{name}: {getattr(self, name)} should lie in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            rows.append(f"layer_decay: {self.layer_decay} should lie in (0, 1]")
        return rows + one_of(self, "moments_dtype", "float32", "bfloat16", "float16")
