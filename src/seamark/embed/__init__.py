"""Embedders: their contract, and one file a provider."""
