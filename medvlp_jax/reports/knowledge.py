"""The knowledge base: a text for every entity and position, which a user may replace (e.g. by UMLS definitions)."""
import hashlib
import json
from importlib import resources
from os import PathLike
from typing import NamedTuple

from medvlp_jax.reports import vocab


class Knowledge(NamedTuple):
    """Texts in the order of vocab.ENTITIES (K = 75) and vocab.POSITIONS (A = 51).

    digest: hex SHA-256 of the texts in that order; it names what is cached of them.
    """

    entities: tuple[str, ...]
    positions: tuple[str, ...]
    digest: str


def _texts(content, key: str, names: tuple[str, ...], origin: str) -> tuple[str, ...]:
    table = content.get(key) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise ValueError(f"{origin}: expected a JSON object with {key!r}: {{name: text}}, got "
                         f"{sorted(content) if isinstance(content, dict) else type(content).__name__}")
    missing = [name for name in names if name not in table]
    unknown = [name + vocab.hint(name, missing or names) for name in table if name not in names]
    empty = [name for name in names if name in table and not (isinstance(table[name], str) and table[name].strip())]
    problems = [f"{what}: {', '.join(some)}" for what, some in
                (("missing", missing), ("unknown", unknown), ("not a text", empty)) if some]
    if problems:
        raise ValueError(f"{origin}: {key!r} should have one text for each of {len(names)} names; "
                         + "; ".join(problems))
    return tuple(table[name] for name in names)


def load(path: str | PathLike | None = None) -> Knowledge:
    """The packaged texts, or those of a JSON file {"entities": {name: text}, "positions": {name: text}}.

    Raises:
      ValueError: not such a file, or names are missing, unknown or without a text (all are named).
    """
    if path is None:
        source = resources.files("medvlp_jax.reports").joinpath("knowledge/descriptions.json")
        origin, raw = "packaged descriptions", source.read_text("utf-8")
    else:
        origin = str(path)
        with open(path, encoding="utf-8") as f:
            raw = f.read()
    try:
        content = json.loads(raw)
    except json.JSONDecodeError as e:
        raise ValueError(f"{origin}: not a JSON file ({e})") from e
    entities = _texts(content, "entities", vocab.ENTITIES, origin)
    positions = _texts(content, "positions", vocab.POSITIONS, origin)
    digest = hashlib.sha256(json.dumps([entities, positions], ensure_ascii=False).encode()).hexdigest()
    return Knowledge(entities, positions, digest)
