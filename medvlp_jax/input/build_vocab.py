"""Makes the small WordPiece vocabulary that ships with the package, from our own texts only.

    python -m medvlp_jax.input.build_vocab [--out=FILE] [--size=2000] [--reports=3000]

Texts: the knowledge descriptions, reports of the phantom, and the words of the report filter. All printable ASCII characters
are in it, alone and as continuation, so that any English report falls into known pieces. The same texts give the same file.
Quickstart checkpoints depend on it: rebuild it only together with them.
"""
import argparse
import collections
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, trainers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from medvlp_jax.input.tokens import SHIPPED_VOCAB, SPECIAL

CHARACTERS = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + list("°±µ×–—‘’“”•…")
# Weight of each kind of text: a word of the filter should be one piece although it is listed once.
WEIGHTS = {"descriptions": 20, "filter": 10, "reports": 1}


def strings(value) -> Iterator[str]:
    """Every string in nested containers of constants, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(list(value.items()))
    elif isinstance(value, Iterable):
        for item in value:
            yield from strings(item)


def corpus(reports: int) -> dict[str, list[str]]:
    """{kind of WEIGHTS: texts}: descriptions and positions, the filter's words, `reports` texts of the phantom."""
    from medvlp_jax.input.phantom import PhantomSource
    from medvlp_jax.reports import aliases, anatomy, cues, knowledge, lexicon, vocab

    texts = knowledge.load()
    phantom = PhantomSource("train", size=reports)
    tables = (lexicon.ENTITIES, anatomy.GROUPS, anatomy.SIDES, cues.CUES, aliases.SAME, vocab.ENTITIES, vocab.POSITIONS)
    filter_words = sorted({word for text in strings(tables) for word in re.findall(r"[A-Za-z]{2,}", text)})
    return {
        "descriptions": [*texts.entities, *texts.positions],
        "filter": filter_words,
        "reports": [phantom.text(i) for i in range(reports)],
    }


def build(texts: dict[str, list[str]], size: int) -> list[str]:
    """Texts by kind -> at most `size` pieces: special tokens, characters, and the most useful longer pieces."""
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    counts = collections.Counter()
    for kind, some in texts.items():
        for text in some:
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
                counts[word] += WEIGHTS[kind]
    base = [*SPECIAL, *CHARACTERS, *("##" + c for c in CHARACTERS)]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = BertPreTokenizer()
    # All characters are given as special tokens, which fixes their numbers: ties between merges are broken by number, and
    # would otherwise fall differently each time.
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=base, show_progress=False, min_frequency=2)
    trained.train_from_iterator((" ".join([word] * n) for word, n in sorted(counts.items())), trainer)
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])  # by number: most useful first
    return (base + [piece for piece, _ in learned if piece not in set(base)])[:size]


def main(argv=None) -> None:
    """Entry of `python -m medvlp_jax.input.build_vocab`."""
    parser = argparse.ArgumentParser(description="Build the shipped WordPiece vocabulary from the project's own texts.")
    parser.add_argument("--out", type=Path, default=SHIPPED_VOCAB)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--reports", type=int, default=3000)
    args = parser.parse_args(argv)
    pieces = build(corpus(args.reports), args.size)
    args.out.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    print(f"wrote {len(pieces)} pieces to {args.out}")


if __name__ == "__main__":
    main()
