"""What a train step costs on accelerators that are not there: python -m medvlp_jax.plan."""
