"""Experts that are trained here, in JAX, for planners to learn from."""
