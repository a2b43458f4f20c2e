"""The precision policy: which dtype is computed in; parameters and moments stay float32."""


def compute_dtype(precision: str):
    """The dtype of the towers' matmuls for a config's `precision` ("float32" or "bfloat16")."""
    import jax.numpy as jnp

    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[precision]
