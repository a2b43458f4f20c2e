"""Floating-point operations of a forward pass, counted from the config."""

from clipjax.config import ModelConfig


def forward_flops(config: ModelConfig, text_length=None) -> tuple[int, int]:
    """(image, text) FLOP of encoding one sample: a multiply-add is 2; text_length defaults to the whole context.

    Counts what torch's counter and open_clip's model profile count: patch embedding, linear maps, both products of
    attention over all pairs of tokens (the causal mask saves nothing), and the projection of the one pooled token.
    Left out: look-ups, biases, norms, softmax, activations. Every block counts in full: that the last one computes
    only the pooled token here is our saving, not less of a model, so utilisation figures compare across programs.
    A training step is 3 times this (the gradient costs two forward passes), without what rematerialisation repeats.
    """
    image, text = config.image, config.text
    patches = (image.image_size // image.patch_size) ** 2
    embedding = 2 * patches * 3 * image.patch_size**2 * image.width
    return (
        embedding + _transformer(image.layers, image.width, patches + 1) + 2 * image.width * config.embed_dim,
        _transformer(text.layers, text.width, text_length or text.context_length) + 2 * text.width * config.embed_dim,
    )


def _transformer(layers, width, tokens):
    linear = 2 * 12 * width**2 * tokens  # qkv 3, out 1, mlp 8
    attention = 2 * 2 * tokens**2 * width  # scores, and the mix of values
    return layers * (linear + attention)
