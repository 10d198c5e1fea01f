"""Variables of a model filled by numpy: random initialisation would have to be compiled in every test."""
import jax
import numpy as np
from flax import traverse_util


def flat(tree: dict) -> dict:
    """{slash-joined name: leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


def variables(model, *inputs, seed: int = 0) -> dict:
    """Kernels of variance 1 / fan-in, embeddings of size 0.5, scales and variances around 1, other vectors around 0."""
    rng = np.random.RandomState(seed)
    shapes = flat(jax.eval_shape(model.init, jax.random.key(0), *inputs))

    def fill(name, shape):
        x = rng.standard_normal(shape)
        if name.endswith("kernel"):
            return x / np.sqrt(np.prod(shape[:-1]))
        if name.endswith(("scale", "var")):
            return 1.0 + 0.1 * np.abs(x)
        return (0.5 if name.endswith("embedding") else 0.1) * x

    filled = {name: fill(name, s.shape).astype(s.dtype) for name, s in shapes.items()}
    return traverse_util.unflatten_dict(filled, sep="/")
