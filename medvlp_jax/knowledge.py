"""Knowledge tables: texts of all entities and positions, encoded once by a frozen BERT (MedKLIP, section 3.2)."""
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from medvlp_jax import weights
from medvlp_jax.input import knowledge_table, tokens
from medvlp_jax.models import bert
from medvlp_jax.reports import knowledge
from medvlp_jax.weights import hub

RANDOM = "random"  # config.knowledge.init of an encoder without trained weights


def is_random(k) -> bool:
    """Whether config.knowledge names no trained encoder; an empty `init` in the config of an old run means the same."""
    return k.init in ("", RANDOM)


def encoder(k, fallback: tokens.Tokenizer):
    """The frozen text encoder of config.knowledge -> (encode (ids, mask) -> (n, M, T), tokenizer, hash of its weights).

    With `k.init` "random" it is a BERT with random weights fixed by `k.seed`: its vectors tell texts apart, but know nothing.
    """
    if not is_random(k):
        path = hub.resolve(k.init)
        fields, variables = weights.load("bert", path)
        model, tokenizer = bert.Bert(**fields), tokens.load(path if path.is_dir() else path.parent)
        tokens.check_fits(tokenizer, fields["vocab_size"], k.init)
    else:
        tokenizer = fallback
        model = bert.Bert(vocab_size=tokenizer.vocab_size, **bert.SIZES[k.size])
        ids = jnp.zeros((1, 8), jnp.int32)
        variables = jax.jit(model.init)(jax.random.key(k.seed), ids, ids + 1)
    encode = jax.jit(lambda ids, mask: model.apply(variables, ids, mask)[0])
    return encode, tokenizer, knowledge_table.hash_arrays(jax.tree.map(np.asarray, variables["params"]))


def tables(k, fallback: tokens.Tokenizer, cache_dir: Path) -> dict[str, np.ndarray]:
    """{"entities": (75, T), "positions": (51, T)} float32 of config.knowledge, cached on disk by content.

    Raises:
      ValueError: a description is missing or of an unknown entity.
      FileNotFoundError: no weights or tokenizer where `k.init` says.
    """
    texts = knowledge.load(k.descriptions or None)
    groups = {"entities": texts.entities, "positions": texts.positions}
    encode, tokenizer, weights_hash = encoder(k, fallback)
    made = knowledge_table.tables(
        groups, encode, tokenizer, weights_hash=weights_hash, max_length=k.max_length, pooling=k.pooling,
        standardize=k.standardize, cache_dir=k.cache_dir or cache_dir,
    )  # fmt: skip
    name = f"a random BERT ({k.size}, seed {k.seed}): its vectors carry no medical knowledge" if is_random(k) else k.init
    table_hash = hashlib.sha256(b"".join(made[group].tobytes() for group in groups)).hexdigest()
    logging.info("knowledge table of %d entities and %d positions, SHA-256 %s, encoded by %s (weights SHA-256 %s)",
                 *(len(made[group]) for group in groups), table_hash[:16], name, weights_hash[:16])  # fmt: skip
    return made


def queries(k, fallback: tokens.Tokenizer, descriptions: list[str], table: np.ndarray) -> np.ndarray:
    """Vectors (n, T) of descriptions that are in no table, made as the rows of the entity table `table` (K, T) were.

    Raises:
      ValueError: the encoder is random, so that a new text has a vector without meaning; or the encoder or the descriptions of
        config.knowledge are not those that `table` was made with.
    """
    if is_random(k):
        raise ValueError("this checkpoint was trained on entity vectors of a random text encoder (knowledge.init=random). It "
                         "knows no words, so the score of a new description would mean nothing. Ask for one of its entities or "
                         "train with knowledge.init=WEIGHTS of a clinical BERT")
    texts = knowledge.load(k.descriptions or None)
    encode, tokenizer, weights_hash = encoder(k, fallback)
    groups = {"entities": texts.entities, "unseen": descriptions}  # "entities" for its statistics, see standardize
    made = knowledge_table.tables(
        groups, encode, tokenizer, weights_hash=weights_hash, max_length=k.max_length, pooling=k.pooling,
        standardize=k.standardize,
    )  # fmt: skip
    if made["entities"].shape != table.shape or not np.allclose(made["entities"], table, rtol=1e-2, atol=1e-2):
        raise ValueError("a description needs the text encoder that the checkpoint's entities were encoded with, and "
                         "config.knowledge (init, size, seed, descriptions) gives others")
    return made["unseen"]
