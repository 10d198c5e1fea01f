"""Every test runs on 8 CPU devices, with strict dtype and rank promotion."""
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling takes most of the tests' time; XLA's older way of emitting fused loops compiles in half of it.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from absl import flags, logging

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads absl flags


@pytest.fixture(scope="session", autouse=True)
def shared_programs(tmp_path_factory):
    """What several tests, or the processes they start, compile alike is compiled once."""
    folder = str(tmp_path_factory.mktemp("programs"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(autouse=True)
def information_is_logged():
    """Some programs log warnings only, and a test that runs one leaves the process so."""
    logging.set_verbosity(logging.INFO)


@pytest.fixture
def optax_promotion():
    """optax multiplies step counters with floats, so code that runs it cannot be under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def quick_compiles():
    """For modules whose programs run once or for a few steps: compiling them is what takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
