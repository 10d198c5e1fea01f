"""What the columns of a manifest row hold: labels, boxes, masks, grades."""
import json

from medvlp_jax.reports import vocab

_BOXES = '[{"label": "Effusion", "x": 1, "y": 2, "w": 30, "h": 40}]'


def entity_name(label: str) -> str:
    """The entity a box or mask shows, or the label itself where none is sure to be there ("Left Lung", "Nodule/Mass")."""
    return next((m.entity for m in vocab.meanings(label)[:1] if m.relation in (vocab.SAME, vocab.NARROWER)), label)


def source_name(row: dict) -> str:
    """Data set that a row's labels belong to; "" where the manifest does not say."""
    return str(row.get("source") or "")


def label_names(row: dict, column: str = "labels") -> list[str]:
    """The labels a row lists (in `column`: labels, absent or uncertain), in order, without repeats.

    Raises:
      ValueError: neither a text nor a list.
    """
    labels = row.get(column) or ()
    if not isinstance(labels, str | list | tuple):
        raise ValueError(f"column {column!r} is not as expected ({type(labels).__name__}); expected e.g. Mass;Edema")
    parts = labels.split(";") if isinstance(labels, str) else [str(part) for part in labels]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def parse_json(row: dict, column: str, default):
    """A column that holds JSON, as text or decoded already; `default` (a list or dict) where it is empty.

    Raises:
      ValueError: not JSON of the type of `default`, a box without label, x, y, w, h, or a mention outside the vocabulary.
    """
    value = row.get(column) or default
    try:
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, type(default)):
            raise ValueError(f"expected a {type(default).__name__}, got a {type(value).__name__}")
        if column == "boxes":
            for box in value:
                [float(box[k]) for k in "xywh"], str(box["label"])
                if not isinstance(box.get("phrase") or "", str):
                    raise ValueError(f"phrase {box['phrase']!r} is no text")
        if column == "severity":
            [int(grade) for grade in value.values()]
        if column == "annotations":
            [label_names(value, kind) for kind in ("labels", "absent", "uncertain")]
        if column == "mentions":
            for entity, position, exists in value:
                if vocab.entity_index(entity) < 0 or vocab.position_index(position) < 0 or exists not in (0, 1, 2):
                    raise ValueError(f"{exists!r} is not 0, 1 or 2")
    except (ValueError, TypeError, KeyError, OverflowError) as e:
        examples = {"mentions": '[["effusion", "left_pleural", 1]]', "severity": '{"edema": 2}',
                    "annotations": '{"labels": ["Mass"]}'}  # fmt: skip
        like = examples.get(column, _BOXES)
        raise ValueError(f"column {column!r} is not as expected ({type(e).__name__}: {e}); expected e.g. {like}") from None
    return value


def mask_paths(row: dict) -> dict[str, list[str]]:
    """{name: paths}: column `mask` is "lung"; names of `masks` become entities where one fits, several may share one."""
    out = {"lung": [str(row["mask"])]} if row.get("mask") else {}
    for label, path in parse_json(row, "masks", {}).items():
        out.setdefault(entity_name(label), []).extend(map(str, path if isinstance(path, list) else [path]))
    return out
