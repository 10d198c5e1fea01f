"""A small in-memory source and tokenizer, importable by worker processes."""
import hashlib

import cv2
import numpy as np

from medvlp_jax.input import tokens
from medvlp_jax.reports import vocab

SENTENCES = (
    "The heart is normal in size.", "No pleural effusion.", "There is a small left pneumothorax.", "Lungs are clear.",
    "Right lower lobe opacity may be pneumonia.", "A pacemaker is in place.", "Mild edema.", "Stable cardiomegaly.",
)
WORDS = sorted({w.strip(".").lower() for s in SENTENCES for w in s.split()} - {"pneumothorax"})
CHARACTERS = [chr(c) for c in range(33, 127) if not chr(c).isupper()]


def write_vocab(folder) -> str:
    """A vocab.txt of the words above, except one that must fall into pieces, and all characters."""
    path = folder / "vocab.txt"
    pieces = ["pneumo", "##thorax", "##s"]
    path.write_text("\n".join([*tokens.SPECIAL, *CHARACTERS, *("##" + c for c in CHARACTERS), *pieces, *WORDS]) + "\n")
    return str(path)


class TinySource:
    """n studies of four sentences each, 56 x 48 px JPEGs that differ; `bad` rows hold no image, `silent` ones no report."""

    split = "train"

    def __init__(self, n=23, bad=(), silent=()):
        self.n, self.bad, self.silent = n, frozenset(bad), frozenset(silent)

    @property
    def fingerprint(self):
        return hashlib.sha256(repr((self.n, sorted(self.bad), sorted(self.silent))).encode()).hexdigest()

    def __len__(self):
        return self.n

    def text(self, index):
        if index in self.silent:
            return ""
        return " ".join(np.random.default_rng(index).permutation(SENTENCES)[:3]) + f" Film {index}."

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        rng = np.random.default_rng([7, index])
        image = cv2.resize(rng.integers(0, 256, (6, 6), np.uint8), (48, 56), interpolation=cv2.INTER_LINEAR)
        image[:8, :8] = index * 10 % 256  # a mark that survives JPEG
        presence = rng.choice(np.array([-1, 0, 1, 2], np.int8), (len(vocab.POSITIONS), len(vocab.ENTITIES)),
                              p=[0.97, 0.01, 0.01, 0.01])
        data = b"junk" if index in self.bad else cv2.imencode(".jpg", image)[1].tobytes()
        mask = np.zeros((56, 48), bool)
        mask[:8, :8] = True
        return {"id": f"study{index}", "patient_id": f"p{index // 2}", "image": data, "report": self.text(index),
                "presence": presence, "boxes": [("mass", 0, 0, 8, 8)], "masks": {"mass": mask},
                "finding_labels": {"mass": index % 2}}
