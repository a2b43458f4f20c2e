"""Models by name, as data: sizes from the paper's Tables 19 and 20 and the released code."""

from clipjax.config.model import ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError

# name: image tower (size, patch, width, layers, heads), embed_dim, text tower (width, layers, heads, context)
# A tuple of blocks a stage in place of layers makes the image tower a ResNet.
_ROWS: dict[str, tuple] = {
    "RN50": ((224, 32, 64, (3, 4, 6, 3), 32), 1024, (512, 12, 8, 77)),
    "RN101": ((224, 32, 64, (3, 4, 23, 3), 32), 512, (512, 12, 8, 77)),
    "RN50x4": ((288, 32, 80, (4, 6, 10, 6), 40), 640, (640, 12, 10, 77)),
    "RN50x16": ((384, 32, 96, (6, 8, 18, 8), 48), 768, (768, 12, 12, 77)),
    "RN50x64": ((448, 32, 128, (3, 15, 36, 10), 64), 1024, (1024, 12, 16, 77)),
    "ViT-B/32": ((224, 32, 768, 12, 12), 512, (512, 12, 8, 77)),
    "ViT-B/16": ((224, 16, 768, 12, 12), 512, (512, 12, 8, 77)),
    "ViT-L/14": ((224, 14, 1024, 24, 16), 768, (768, 12, 12, 77)),
    "ViT-L/14@336px": ((336, 14, 1024, 24, 16), 768, (768, 12, 12, 77)),
    "tiny": ((32, 8, 64, 2, 1), 32, (64, 2, 1, 16)),
    "tiny-resnet": ((64, 32, 8, (2, 1, 1, 1), 4), 32, (64, 2, 1, 16)),
}


def preset(name: str) -> ModelConfig:
    """The model of that name; raises UserError that lists the names there are."""
    if name not in _ROWS:
        raise UserError(f"model.preset: {name!r} is not known. There are: {', '.join(_ROWS)}.")
    (image_size, patch_size, width, blocks, heads), embed_dim, text = _ROWS[name]
    kind, layers, stages = ("resnet", 0, blocks) if isinstance(blocks, tuple) else ("vit", blocks, ())
    text_width, text_layers, text_heads, context = text
    return ModelConfig(
        preset=name,
        embed_dim=embed_dim,
        image=ImageConfig(image_size, patch_size, width, layers, heads, kind=kind, stages=stages),
        text=TextConfig(context_length=context, width=text_width, layers=text_layers, heads=text_heads),
    )


def preset_names() -> tuple[str, ...]:
    """The names that `preset` knows: the paper's nine, then small ones."""
    return tuple(_ROWS)
