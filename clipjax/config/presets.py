"""Models by name, as data: sizes from the paper's Tables 19 and 20 and the released code."""

from clipjax.config.model import ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError

#         name             image patch width layers heads  embed  text: width layers heads context
_ROWS = {
    "ViT-B/32": ((224, 32, 768, 12, 12), 512, (512, 12, 8, 77)),
    "ViT-B/16": ((224, 16, 768, 12, 12), 512, (512, 12, 8, 77)),
    "ViT-L/14": ((224, 14, 1024, 24, 16), 768, (768, 12, 12, 77)),
    "ViT-L/14@336px": ((336, 14, 1024, 24, 16), 768, (768, 12, 12, 77)),
    "tiny": ((32, 8, 64, 2, 1), 32, (64, 2, 1, 16)),
}


def preset(name: str) -> ModelConfig:
    """The model of that name; raises UserError that lists the names there are."""
    if name not in _ROWS:
        raise UserError(f"model.preset: {name!r} is not known. There are: {', '.join(_ROWS)}.")
    (image_size, patch_size, width, layers, heads), embed_dim, (text_width, text_layers, text_heads, context) = _ROWS[
        name
    ]
    return ModelConfig(
        preset=name,
        embed_dim=embed_dim,
        image=ImageConfig(image_size, patch_size, width, layers, heads),
        text=TextConfig(context_length=context, width=text_width, layers=text_layers, heads=text_heads),
    )


def preset_names() -> tuple[str, ...]:
    """The names that `preset` knows, largest models first within the paper's."""
    return tuple(_ROWS)
