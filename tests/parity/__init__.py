"""Equality with other implementations of the same model."""
