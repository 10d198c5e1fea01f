"""The tiny configs as a file for the command line: --config=tests/tiny_config.py:mlip."""
from tests import tiny


def get_config(method: str = "mlip"):
    """`tiny.config` with the tokenizer's own vocabulary: runs on the phantom."""
    return tiny.run_config(method)
