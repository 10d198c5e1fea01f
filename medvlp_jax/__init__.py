"""medvlp_jax: pre-training and honest evaluation of medical vision-language models in JAX.

    model = medvlp_jax.load("runs/medklip-quickstart")
    model.zero_shot(["a.png", "b.dcm"], ["effusion", "pneumothorax"])  # (2, 2)

Research software, not a medical device.
"""
__version__ = "0.1.0"
__all__ = ["load"]


def load(path, **options):
    """The model of a run directory or of a published checkpoint, to ask about images; see `inference.load`."""
    from medvlp_jax import inference  # jax and all the rest: seconds that `import medvlp_jax` must not cost

    return inference.load(path, **options)
