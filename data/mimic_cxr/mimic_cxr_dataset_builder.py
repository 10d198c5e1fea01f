"""MIMIC-CXR for TFDS; layout and terms: data/README.md."""
from data import builder


class Builder(builder.Builder):
    """MIMIC-CXR: radiographs, reports where there are any, and presence of 75 entities at 51 positions."""
