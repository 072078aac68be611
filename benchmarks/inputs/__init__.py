"""Inputs that benchmarks make up for themselves."""
