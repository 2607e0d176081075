"""Engines run a bundle's graph."""
