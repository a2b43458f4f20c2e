"""Floating-point operations of a forward pass, counted from the config."""

from clipjax.config import ImageConfig, ModelConfig
from clipjax.models.dropping import kept_patches


def forward_flops(config: ModelConfig, text_length=None, patch_dropout=0.0) -> tuple[int, int]:
    """(image, text) FLOP of encoding one sample: a multiply-add is 2; text_length defaults to the whole context.

    patch_dropout: the share of patches that a vision transformer in training embeds and then leaves out.

    Counts what torch's counter and open_clip's model profile count: convolutions, linear maps, both products of
    attention over all pairs of tokens (the causal mask saves nothing), and the projection of the one pooled token. A
    ResNet's attention pool is the release's, which asks for one token; open_clip's computes all of them.
    Left out: look-ups, biases, norms, pools, softmax, activations. Every block counts in full: that the last one
    computes only the pooled token here is our saving, not less of a model, so utilisation compares across programs.
    A training step is 3 times this (the gradient costs two forward passes), without what rematerialisation repeats.
    """
    text = config.text
    if config.image.kind == "resnet":
        image = _resnet(config.image, config.embed_dim)
    else:
        image = _vision_transformer(config.image, config.embed_dim, patch_dropout)
    return (
        image,
        _transformer(text.layers, text.width, text_length or text.context_length) + 2 * text.width * config.embed_dim,
    )


def _vision_transformer(image: ImageConfig, embed_dim, patch_dropout):
    patches = (image.image_size // image.patch_size) ** 2
    embedding = 2 * patches * 3 * image.patch_size**2 * image.width
    tokens = kept_patches(patches, patch_dropout) + 1
    return embedding + _transformer(image.layers, image.width, tokens) + 2 * image.width * embed_dim


def _transformer(layers, width, tokens):
    linear = 2 * 12 * width**2 * tokens  # qkv 3, out 1, mlp 8
    attention = 2 * 2 * tokens**2 * width  # scores, and the mix of values
    return layers * (linear + attention)


def _resnet(image: ImageConfig, embed_dim):
    half, area = image.width // 2, (image.image_size // 2) ** 2  # pixels of the stem's maps
    total = 2 * area * 9 * (3 * half + half * half + half * image.width)
    inputs, area = image.width, area // 4
    for stage, blocks in enumerate(image.stages):
        planes, before = image.width * 2**stage, area
        area = area // 4 if stage else area  # the first block shrinks its maps after its second convolution
        total += 2 * before * (inputs * planes + 9 * planes**2) + 2 * area * (planes + inputs) * 4 * planes
        total += 2 * area * (blocks - 1) * (4 * planes * planes + 9 * planes**2 + planes * 4 * planes)
        inputs = 4 * planes
    tokens = area + 1
    pool = 2 * inputs**2 * (2 * tokens + 1) + 2 * 2 * tokens * inputs  # keys, values, one query; scores and mix
    return total + pool + 2 * inputs * embed_dim
