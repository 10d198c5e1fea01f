"""python -m medvlp_jax.bench NAME [--option=...]: runs one of the benchmarks."""
import importlib
import sys

NAMES = ("phantom", "ablation", "input", "reports", "contrast", "step", "manifest")


def main(argv: list[str]) -> None:
    """Hands the remaining arguments to `medvlp_jax.bench.<name>.main`."""
    if not argv or argv[0] not in NAMES:
        raise SystemExit(f"usage: python -m medvlp_jax.bench {{{','.join(NAMES)}}} [options]")
    importlib.import_module(f"medvlp_jax.bench.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
