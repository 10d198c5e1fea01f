"""What TFDS is told of a record (medvlp_jax/input/records.py), and how an example becomes one."""
import json

import numpy as np

from medvlp_jax.input.records import FEATURES, pack, serialise
from medvlp_jax.reports import vocab


def features(image_format: str = "jpeg"):
    """The tfds.features.FeaturesDict of every data set prepared here; all are stored as bytes, none needs TensorFlow."""
    from tensorflow_datasets import features as f  # takes seconds, and the workers of data.prepare need it not

    own = {
        "image": f.Image(shape=(None, None, 1), encoding_format=image_format),
        "presence": f.Tensor(shape=(len(vocab.POSITIONS), len(vocab.ENTITIES)), dtype=np.int8, encoding=f.Encoding.ZLIB),
        "masks": f.Sequence({"name": f.Text(), "image": f.Image(shape=(None, None, 1), encoding_format="png")}),
    }
    texts = {name: f.Text() for name in FEATURES if name not in own and not name.startswith("masks/")}
    return f.FeaturesDict({**texts, **own})


def plain(example: dict) -> dict:
    """An example of `shards.example` as TFDS takes it: tables as JSON, masks as a list."""
    texts = {k: json.dumps(example[k], ensure_ascii=False) for k in ("finding_labels", "boxes", "severity")}
    masks = [{"name": name, "image": image} for name, image in example["masks"].items()]
    return {**example, **texts, "masks": masks}


def record(example: dict) -> bytes:
    """An example of `shards.example` -> a serialised tf.train.Example: the same bytes at every call.

    Raises:
      KeyError: a feature is missing.
    """
    flat = {**plain(example), "presence": pack(example["presence"])}
    lists = {k: [v if isinstance(v, bytes) else v.encode()] for k, v in flat.items() if k != "masks"}
    lists |= {f"masks/{k}": [m[k] if k == "image" else m[k].encode() for m in flat["masks"]] for k in ("name", "image")}
    return serialise({name: lists[name] for name in FEATURES})
