"""Craftax in JAX: many worlds advanced by one compiled call. Only this room imports jax."""
