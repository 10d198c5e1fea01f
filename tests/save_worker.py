"""Saves checkpoint after checkpoint until it is killed, and prints each step once it is safe."""

import sys

import jax.numpy as jnp

from medvlp_jax import checkpoint
from tests.test_checkpoint import Iterator, abstract, state


def of_step(step):
    tree = state(float(step))
    return tree._replace(params={**tree.params, "large": jnp.full((1000, 1000), float(step))})


if __name__ == "__main__":
    mgr = checkpoint.manager(sys.argv[1], keep=2)
    iterator = Iterator()
    found = checkpoint.restore_newest(mgr, abstract(of_step(0)), iterator)
    step = found[1] if found else 0
    while True:
        step += 1
        checkpoint.save(mgr, step, of_step(step), Iterator(step * 10))
        print("saving", step, flush=True)
        checkpoint.finish(mgr)
        print("saved", step, flush=True)
