"""softmax(q kᵀ / √D) v, in the form that suits the devices that the program is traced for. Softmax in float32."""

import jax
import jax.numpy as jnp

from clipjax.parallel.mesh import traced_platform


def self_attention(q, k, v, *, causal):
    """What each token mixes from all, or with `causal` from itself and those before: q, k, v [n, T, K, D] -> [n, T, W].

    On NVIDIA's GPUs cuDNN's flash kernel, which never writes the scores to memory; products elsewhere. That is decided
    while tracing, by the mesh: were it left to lowering (`jax.lax.platform_dependent`), every form would keep zeros in
    place of what the others keep for the gradient. Programs for other machines are traced without a mesh.
    """
    if _has_flash_kernel(q):
        return _flash(q, k, v, causal)
    tokens = q.shape[1]
    seen = jnp.tri(tokens, dtype=bool)[None, None] if causal else None  # [1, 1, T, T]
    return attend(q, k, v, seen)


def attend(q, k, v, seen):
    """q [n, Q, K, D] and k, v [n, T, K, D] -> [n, Q, W]; seen: None, or bool [.., .., Q, T].

    Written as matmuls over [n, K]: on CPU some 5 % of a training step faster than jax.nn.dot_product_attention.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [n, K, Q or T, D]
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(2, 3), preferred_element_type=jnp.float32)  # [n, K, Q, T]
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    mixed = jnp.matmul(_softmax(scores).astype(v.dtype), v).swapaxes(1, 2)  # [n, Q, K, D]
    return mixed.reshape(*mixed.shape[:2], -1)


@jax.custom_jvp
def _softmax(scores):
    """Over the last axis. Its gradient keeps the result alone, a third of what JAX's own keeps."""
    return jax.nn.softmax(scores)


_softmax.defjvps(lambda change, mixed, _: mixed * (change - (mixed * change).sum(-1, keepdims=True)))


def _flash(q, k, v, causal):
    """`self_attention` by cuDNN. JAX refuses a gradient of it over an odd number of tokens: they get one more, which
    none of the others sees, whatever stands there."""
    n, tokens = q.shape[:2]
    lengths = None
    if tokens % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        lengths = None if causal else jnp.full(n, tokens, jnp.int32)
    options = dict(is_causal=causal, key_value_seq_lengths=lengths, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v, **options)[:, :tokens].reshape(n, tokens, -1)


def suits_rows(x, causal) -> bool:
    """Whether attention among x [n, T, W] is `row_attention`'s: on TPU, in 16 bits, of more tokens than a register's
    lanes. Short texts are no trouble, and of 577 tokens the chip has room for a row or two at a time: products are then
    faster by the compiler's estimate (benchmarks/RESULTS.md)."""
    return traced_platform() == "tpu" and x.dtype.itemsize == 2 and not causal and 128 < x.shape[1] <= 384


def _has_flash_kernel(q) -> bool:
    """Whether cuDNN computes it: 16 bits, heads of a multiple of 8 up to 128, Ampere or newer."""
    if traced_platform() != "gpu" or q.dtype.itemsize != 2 or q.shape[-1] % 8 or q.shape[-1] > 128:
        return False
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))  # "8.0"; AMD's are names
    return capability.replace(".", "").isdigit() and float(capability) >= 8
