"""PiBot turns a handful of Raspberry Pis into one team of AI agents."""

__version__ = "0.1.0"
