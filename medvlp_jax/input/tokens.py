"""Reports -> word pieces: fixed-length ids, masks and word numbers, and the text swapping of MLIP, on token ids.

The tokenizer of a text encoder is read by transformers; what is kept is its Rust backend, which worker processes can unpickle
without importing transformers.
"""
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as Backend

from medvlp_jax.reports import sections

SHIPPED_VOCAB = Path(sections.__file__).parent / "knowledge" / "vocab.txt"
CACHED_PIECES = 20_000_000  # of texts seen, kept by all workers of a process: 0.3 GB with the texts, enough for 200,000 reports
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Pieces(NamedTuple):
    """A text as word pieces, without special tokens and not cut: ids, word numbers and sentence numbers, int32 (n,).

    A sentence number is -1 outside of any sentence.
    """

    ids: np.ndarray
    words: np.ndarray
    sentences: np.ndarray


class Tokenizer:
    """WordPiece tokenizer with the arrays of a batch as output. Make one with `load`."""

    def __init__(self, backend: Backend):
        own = backend.get_vocab(with_added_tokens=False)  # transformers adds what a wrong file lacks, in silence
        missing = [t for t in SPECIAL if t not in own]
        if missing:
            raise ValueError(f"the vocabulary lacks the special token(s) {', '.join(missing)}; "
                             "expected a BERT vocabulary (vocab.txt) with all of " + ", ".join(SPECIAL))
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.pad, self.unk, self.cls, self.sep, self.mask = (backend.token_to_id(t) for t in SPECIAL)
        self.remember(1.0)

    def __getstate__(self):
        return {**self.__dict__, "_seen": {}, "_room": CACHED_PIECES}

    def remember(self, share: float) -> None:
        """Forgets all texts, and keeps from now on this share of CACHED_PIECES."""
        self._seen, self._room = {}, int(share * CACHED_PIECES)

    @property
    def vocab_size(self) -> int:
        """Number of word pieces; the text encoder's embedding has at least as many rows."""
        return self.backend.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the ids: vocabulary, normalisation and word splitting."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def pieces(self, text: str) -> Pieces:
        """The whole text in pieces. Words are what BERT's pre-tokenizer splits at white space and punctuation; sentences are
        those of `sections.sentences`, and -1 is what belongs to none, such as the numbers of a list.

        What a text gave is kept: every epoch asks again, and splitting takes longer than reading the image.
        """
        found = self._seen.get(text)
        if found is None:
            found = self._split(text)
            if self._room > 0:
                self._seen[text] = found
                self._room -= found.shape[1]
        return Pieces(*found.astype(np.int32))

    def _split(self, text: str) -> np.ndarray:
        """The three arrays of `pieces`, (3, n); of 16 bits where the ids fit."""
        encoded = self.backend.encode(text, add_special_tokens=False)
        spans = np.array(sections.sentences(text), np.int64).reshape(-1, 2)
        starts = np.array([start for start, _ in encoded.offsets], np.int64)
        numbers = np.searchsorted(spans[:, 0], starts, side="right") - 1  # the last sentence that begins before a piece
        inside = numbers >= 0
        inside[inside] = starts[inside] < spans[numbers[inside], 1]
        numbers = np.where(inside, numbers, -1)
        small = max(self.vocab_size, len(starts)) <= np.iinfo(np.int16).max
        return np.array([encoded.ids, encoded.word_ids, numbers], np.int16 if small else np.int32)  # (3, n)

    def encode(self, text: str, max_tokens: int = 112) -> dict[str, np.ndarray]:
        """Text -> {"input_ids", "attention_mask", "word_ids"}, int32 (max_tokens,): [CLS] pieces [SEP] [PAD]...

        `max_tokens` counts [CLS] and [SEP]; a longer text is cut at its end. `word_ids` is the number of the word a piece
        belongs to, -1 for special tokens and padding. An empty text gives [CLS] [SEP].
        """
        if max_tokens < 3:
            raise ValueError(f"max_tokens must leave room for [CLS], one piece and [SEP], got {max_tokens}")
        pieces = self.pieces(text)
        ids, mask, words = self._frame(pieces.ids, pieces.words, max_tokens)
        return {"input_ids": ids, "attention_mask": mask, "word_ids": words}

    def encode_pieces(self, pieces: Pieces, max_tokens: int = 112) -> dict[str, np.ndarray]:
        """As `encode` of the text that gave `pieces`, with "sentence_ids" in addition, -1 outside of any sentence."""
        ids, mask, words = self._frame(pieces.ids, pieces.words, max_tokens)
        sentences = self._frame(pieces.ids, pieces.sentences, max_tokens)[2]
        return {"input_ids": ids, "attention_mask": mask, "word_ids": words, "sentence_ids": sentences}

    def encode_batch(self, texts, max_tokens: int = 112) -> dict[str, np.ndarray]:
        """Texts -> the arrays of `encode` stacked, int32 (n, max_tokens)."""
        rows = [self.encode(text, max_tokens) for text in texts]
        return {k: np.stack([row[k] for row in rows]) for k in ("input_ids", "attention_mask", "word_ids")}

    def _frame(self, pieces, values, max_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces and a value for each -> ids, mask, values, int32 (max_tokens,); the value is -1 outside of the pieces."""
        n = min(len(pieces), max_tokens - 2)
        ids, out = np.full(max_tokens, self.pad, np.int32), np.full(max_tokens, -1, np.int32)
        mask = np.zeros(max_tokens, np.int32)
        ids[0], ids[n + 1] = self.cls, self.sep
        ids[1 : n + 1], out[1 : n + 1] = pieces[:n], values[:n]
        mask[: n + 2] = 1
        return ids, mask, out

    def swap_sentence(self, rng: np.random.Generator, text: str | Pieces, other: str,
                      max_tokens: int = 112) -> dict[str, np.ndarray]:
        """Exchanges one sentence of `text` (a str or its Pieces) with one of `other`: MLIP's text swapping.

        The sentence that leaves is drawn among those that begin inside `max_tokens`, so that the one that comes in is always
        seen; the one that comes in, among those of `other` that differ from it. Works on ids: the own tokens keep the ids
        they have in the unswapped text.

        Returns:
          {"swapped_ids", "swapped_mask": int32 (max_tokens,), "swapped_labels": int8 (max_tokens,)}; a label is 1 for a token
          that came from `other`, 0 for an own one, -1 for special tokens and padding. Where nothing can be exchanged (an empty
          text, no differing sentence), the text itself with labels 0.
        """
        own = text if isinstance(text, Pieces) else self.pieces(text)
        ids, labels = own.ids, np.zeros(len(own.ids), np.int8)
        visible = np.flatnonzero(np.bincount(own.sentences[: max_tokens - 2] + 1)[1:])
        if len(visible):
            members = np.flatnonzero(own.sentences == visible[rng.integers(len(visible))])
            start, stop = members[0], members[-1] + 1
            for new in self._sentences_in_random_order(rng, self.pieces(other)):
                if len(new) and not np.array_equal(new, own.ids[start:stop]):
                    ids = np.concatenate([own.ids[:start], new, own.ids[stop:]])
                    labels = np.concatenate([labels[:start], np.ones(len(new), np.int8), labels[stop:]])
                    break
        ids, mask, labels = self._frame(ids, labels, max_tokens)
        return {"swapped_ids": ids, "swapped_mask": mask, "swapped_labels": labels.astype(np.int8)}

    def _sentences_in_random_order(self, rng, pieces: Pieces):
        for i in rng.permutation(pieces.sentences.max(initial=-1) + 1):
            yield pieces.ids[pieces.sentences == i]

    def decode(self, ids) -> str:
        """Ids (n,) -> text: pieces joined to words, special tokens and padding left out."""
        words = []
        for token in self.tokens(ids):
            if token in SPECIAL and token != "[UNK]":
                continue
            if token.startswith("##") and words:
                words[-1] += token[2:]
            else:
                words.append(token)
        return " ".join(words)

    def tokens(self, ids) -> list[str]:
        """Ids (n,) -> the n piece strings."""
        return [self.backend.id_to_token(int(i)) for i in np.asarray(ids).reshape(-1)]


def check_fits(tokenizer: Tokenizer, vocab_size: int, where: str) -> None:
    """Whether a text encoder with `vocab_size` embeddings is the one this tokenizer belongs to.

    Embeddings may be padded to a round number, so a few hundred more than pieces are fine.

    Raises:
      ValueError: too few embeddings, or far too many; names both sizes.
    """
    if not tokenizer.vocab_size <= vocab_size < tokenizer.vocab_size + 1024:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size:,} word pieces, but {where} has {vocab_size:,} embeddings; "
                         "expected the tokenizer files (vocab.txt or tokenizer.json) that lie beside those weights")


def load(path: str | Path | None = None, lowercase: bool = True) -> Tokenizer:
    """The tokenizer of a text encoder.

    path: a folder with tokenizer.json or vocab.txt (as Hugging Face stores them), a vocab.txt file, or None for the small
      vocabulary that ships with the package. `lowercase` matters only where no tokenizer configuration says it.

    Raises:
      FileNotFoundError: nothing usable there; says which file to put there.
      ValueError: the vocabulary has no special tokens, so it is none of a BERT.
    """
    path = SHIPPED_VOCAB if path is None else Path(path).expanduser()
    configured = [path / name for name in ("tokenizer.json", "tokenizer_config.json") if (path / name).is_file()]
    vocab = path / "vocab.txt" if path.is_dir() else path
    if not configured and not vocab.is_file():
        raise FileNotFoundError(f"no tokenizer in {path}: expected vocab.txt or tokenizer.json of the text encoder")
    from transformers import BertTokenizerFast  # seconds to import, and workers never need it

    if configured:
        fast = BertTokenizerFast.from_pretrained(str(path), local_files_only=True)
    else:
        # `vocab=`, not `vocab_file=`: the latter is ignored and gives a vocabulary of five words.
        fast = BertTokenizerFast(vocab=str(vocab), do_lower_case=lowercase)
    return Tokenizer(Backend.from_str(fast.backend_tokenizer.to_str()))
