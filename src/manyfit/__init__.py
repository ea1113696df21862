"""Manyfit: fit many models at once, keep what really wins."""

__version__ = "0.1.0"
