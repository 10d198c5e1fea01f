"""Measurements: python -m medvlp_jax.bench NAME."""
