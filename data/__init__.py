"""Preparation of data sets: files of a release -> ArrayRecord shards that TFDS and medvlp_jax read."""
