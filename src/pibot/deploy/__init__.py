"""Putting PiBot on a machine: units, broker configuration, and what places them."""
