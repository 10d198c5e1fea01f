"""NIH ChestX-ray14 for TFDS; layout and terms: data/README.md."""
from data import builder


class Builder(builder.Builder):
    """NIH ChestX-ray14: radiographs, reports where there are any, and presence of 75 entities at 51 positions."""
