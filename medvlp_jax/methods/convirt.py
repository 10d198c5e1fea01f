"""ConVIRT-style baseline (arXiv 2010.00747): MLIP's towers under the global contrast alone; configs/convirt.py says so."""
from medvlp_jax.methods.mlip import make

__all__ = ["make"]
