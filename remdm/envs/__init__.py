"""Worlds: single environments, and many of them that run whole plans."""
