"""The text tower: a causal transformer that reads a caption off at its end token."""

import jax.numpy as jnp
from flax import nnx

from clipjax.config import TextConfig
from clipjax.errors import UserError
from clipjax.models.layers import LayerNorm, Linear, add_rows, normal, param
from clipjax.models.transformer import BlockInit, run, stack
from clipjax.parallel.sharding import by_rows, laid_out


class TextTransformer(nnx.Module):
    """tokens [n, L] int32, L <= context_length -> [n, E] float32, not normalised.

    A caption's feature stands at its first end token. No token sees a later one, so what follows the end token, and
    any length L that holds every end token, changes nothing. There is no padding mask. A row without end token is
    read at position 0; the tokenizer always writes one. Initialised as the release is (open_clip: the same).
    With keys [n], a random key a row, a share `dropout` of the numbers inside the blocks is left out.
    """

    def __init__(self, config: TextConfig, embed_dim, *, activation, dtype, remat, unroll, dropout=0.0):
        width = config.width
        std, residual_std = width**-0.5, width**-0.5 * (2 * config.layers) ** -0.5
        self.token_embedding = param(normal(0.02), config.vocab_size, width)
        self.positional_embedding = param(normal(0.01), config.context_length, width)
        self.blocks, self.last = stack(
            config.layers,
            width,
            config.heads,
            activation=activation,
            causal=True,
            init=BlockInit(
                qkv=normal(std), out=normal(residual_std), fc=normal((2 * width) ** -0.5), proj=normal(residual_std)
            ),
            dtype=dtype,
            dropout=dropout,
        )
        self.ln_final = LayerNorm(width, dtype=dtype)
        self.projection = Linear(width, embed_dim, kernel_init=normal(std), dtype=dtype, out_dtype=jnp.float32)
        self.config, self.dtype, self.remat, self.unroll = config, dtype, remat, unroll

    def __call__(self, tokens, keys=None):
        length, longest = tokens.shape[1], self.config.context_length
        if length > longest:
            raise UserError(f"texts: {length} tokens a row found, at most {longest} expected. Tokenize to that length.")
        x = add_rows(look_up(self.token_embedding[...], tokens), self.positional_embedding[...][:length])  # [n, L, W]
        end = jnp.argmax(tokens == self.config.end_token, axis=1)  # [n] the first one
        x = x.astype(self.dtype)
        x = run(self.blocks, self.last, x, end, keys=keys, remat=self.remat, unroll=self.unroll)  # [n, W]
        return by_rows(self.projection(self.ln_final(x)))


def look_up(table, tokens):
    """Rows of table [vocabulary, W] for tokens [n, L] int32: [n, L, W].

    A device looks its columns up for its rows and its neighbours' along fsdp, then columns are exchanged for rows: less
    to send than the table, and no gradient of the whole table anywhere.
    """
    columns = laid_out(table[laid_out(tokens, "data")], "data", None, ("fsdp", "tensor"))
    return by_rows(laid_out(columns, "data", None, "fsdp"))
