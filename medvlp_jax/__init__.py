"""medvlp_jax: pre-training and honest evaluation of medical vision-language models in JAX.

Research software, not a medical device.
"""
__version__ = "0.1.0"
