"""A checkpoint as an object to ask about images: findings, where they are, embeddings.

    model = medvlp_jax.load("runs/medklip-quickstart")
    scores = model.zero_shot(["a.png", "b.dcm"], ["effusion", "pneumothorax"])  # (2, 2)
    heat = model.ground("a.png", "effusion")  # (H, W), pixels of a.png

Images go the way they go in `evaluate` (input/transforms.eval_image, the method's predict functions), so scores are equal.
"""
import concurrent.futures
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax import knowledge, loading
from medvlp_jax.input import images as given
from medvlp_jax.input import transforms
from medvlp_jax.reports import sections, vocab
from medvlp_jax.tasks import common, scores, zeroshot

THREADS = 4  # that read images
CHUNK = 16  # images of one call of the network


class Prepared(NamedTuple):
    """An image as the model sees it: pixels (S, S, 1) uint8; the geometry from its own pixels; its own (H, W)."""

    pixels: np.ndarray
    geometry: transforms.Geometry
    shape: tuple[int, int]


def load(path, *, step: str | int = "last", batch_size: int = CHUNK, overrides: Mapping | None = None) -> "Model":
    """The model of a run directory (run.json, checkpoints/), or of an imported published checkpoint.

    Args:
      path: run directory; or directory, file or hf:<id> with the weights of a whole published model
        (`python -m medvlp_jax.weights import`).
      step: checkpoint of a run: "last", "best" or a number.
      batch_size: images of one call of the network; more are done in turn, fewer are filled up, so that it compiles once.
      overrides: {dotted key of the config: value}, such as {"knowledge.init": "weights/clinicalbert"}, which a published
        MedKLIP needs: its entity queries are made by that text encoder.

    Raises:
      FileNotFoundError: neither a run nor weights there; says what would fit.
      ValueError: an unknown key in `overrides`, a checkpoint that does not fit its config, a method without use here.
    """
    return from_config(loading.config_of(path, overrides or {}), path, step, batch_size)


def from_config(config, path, step: str | int = "last", batch_size: int = CHUNK) -> "Model":
    """As `load`, with the config in hand."""
    return Model(*loading.open_model(config, path, str(step)), batch_size)


class Model:
    """A checkpoint to ask about images. Make one with `medvlp_jax.load`.

    Wherever images are asked for, one or a list (or iterator) of them may be given, each a path, encoded bytes, an array
    (H, W[, 1|3|4]) of 8, 16 bits or floats, a PIL image, or what `prepare` gave. DICOM needs the `dicom` extra.

    Attributes:
      config, step: of the checkpoint. findings: names of the K entities, in the order of the table. predicts: what the
      method can predict (method.PREDICT_NAMES).
    """

    def __init__(self, exp, variables, step: int, batch_size: int = CHUNK):
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, came {batch_size}")
        self.config, self.step = exp.config, step
        self.findings = vocab.ENTITIES
        self.predicts = tuple(sorted(exp.method.predict))
        self._exp, self._variables = exp, variables
        self._rows = -(-batch_size // jax.device_count()) * jax.device_count()
        self._described = {}  # {description: its query vector}

    def prepare(self, image) -> Prepared:
        """Reads one image and brings it to the size of the network; do it once to ask several questions.

        Raises:
          FileNotFoundError, IsADirectoryError: no file there. TypeError, ValueError: nothing that is an image
          (decode.ImageError for a file: truncated, unreadable, ...).
        """
        if isinstance(image, Prepared):
            return image
        o = self._exp.options
        frame = o.eval_frame or o.image_size
        pixels, shape = transforms.load(given.field(image), frame)
        return Prepared(*transforms.eval_pixels(pixels, shape, size=o.image_size, frame=frame, how=o.eval_fit), shape)

    def zero_shot(self, images, findings=None, by: str = "auto") -> np.ndarray:
        """Scores (N, F) float32 of findings, in their order; N = 1 for a single image.

        Args:
          findings: names of entities or of data sets' labels for them ("pneumonia", "Pleural_Thickening"); or a mapping
            {name: text} where findings that no entity fits have a text: a description (by entity) or the phrase that is
            put into the prompts ("there is {}."). None: all of `findings`, in their order.
          by: "entity": P(present), 0..1, of MedKLIP's queries or MLIP's knowledge scores, the figure `evaluate` calls
            auc/<finding>. "prompts": difference of the similarities to prompts that affirm and that deny it, -2..2
            (auc_prompts/<finding>). "auto": the first that the method has.

        Raises:
          ValueError: unknown finding, with the nearest names; a `by` that the method does not have; an image as `prepare`
          raises, named by its place in the list.
        """
        by = self.way(by)
        findings = self._chosen(findings, by)
        if by == "entity":
            return self._stacked(outputs["score_findings"] for _, outputs in self.answers(images, findings))
        context = common.Context(self._exp.put, self._exp.tokenizer)
        shapes = {"image": np.zeros(self._rows), "input_ids": np.zeros((self._rows, self._exp.options.max_tokens))}
        text_fn = common.need(self._exp.method.predict, "embed_text")
        phrases = [text or name for name, text in findings.items()]
        directions = zeroshot.prompt_directions(text_fn, self._variables, [shapes], phrases, context)  # (F, D)
        return self.embed_image(images) @ directions.T

    def ground(self, images, finding):
        """Heat map (H, W) float32 of a finding in the pixels of the image; for a list of images, a list of maps.

        The network's coarse map repeated by nearest neighbour, not smoothed; 0 where an image is cut off before the network
        sees it. finding: a name, or {name: description}.

        Raises:
          ValueError: the method has no heat maps; as `zero_shot`.
        """
        if isinstance(finding, str):
            finding = [finding]
        findings = self._chosen(finding, "entity")
        if len(findings) != 1:
            raise ValueError(f"ground takes one finding at a time, came {len(findings)}")
        found = [self.to_pixels(outputs["ground"][0], image) for image, outputs in self.answers(images, findings, ("ground",))]
        return found[0] if _single(images) else found

    def answers(self, images, findings, names=("score_findings",)) -> Iterator[tuple[Prepared, dict]]:
        """For each image in turn: (it, {"score_findings": (F,), "ground": (F, h, w)}), those that `names` says.

        A finding with a description is asked apart from all others, so that no score depends on what else is asked.
        """
        findings = self._chosen(findings, "entity")
        self._check_can(*names)
        fn = common.need(self._exp.method.predict, *names)
        own = {name: text for name, text in findings.items() if text}
        known = [common.entity_row(name) for name in findings if name not in own]
        extra = [self._with_query(vector) for vector in self._queries(list(own.values()))]
        order = np.argsort([*(i for i, n in enumerate(findings) if n not in own),
                            *(i for i, n in enumerate(findings) if n in own)])  # fmt: skip
        for chunk, batch in self._batches(images):
            parts = [self._run(fn, self._variables, batch, known)] if known else []
            parts += [self._run(fn, variables, batch, [-1]) for variables in extra]
            joined = {name: np.concatenate([part[name] for part in parts], 1)[:, order] for name in names}
            for i, image in enumerate(chunk):
                yield image, {name: joined[name][i] for name in names}

    def to_pixels(self, heat: np.ndarray, image: Prepared) -> np.ndarray:
        """A map (h, w) over what the network saw -> (H, W) over the image."""
        size, (sx, sy, tx, ty) = self._exp.options.image_size, image.geometry
        inside, cells = [], []
        for n, grid, scale, shift in zip(image.shape, heat.shape, (sy, sx), (ty, tx), strict=True):
            at = (np.arange(n) + 0.5) * scale + shift  # of each row or column's centre, in the network's pixels
            inside.append((at >= 0) & (at < size))
            cells.append(np.clip(at * grid // size, 0, grid - 1).astype(int))
        out = heat[np.ix_(*cells)] * np.outer(*inside)
        return out.astype(np.float32)  # (H, W)

    def peak(self, heat: np.ndarray, image: Prepared) -> tuple[float, float] | None:
        """(x, y), pixels of the image, of the middle of the one cell (h, w) with the maximum; None where several share it."""
        at, geometry = scores.peak(heat), image.geometry
        if at < 0:
            return None
        cell = self._exp.options.image_size / np.asarray(heat.shape)
        y, x = (np.asarray(divmod(at, heat.shape[1])) + 0.5) * cell
        return float((x - geometry.tx) / geometry.sx), float((y - geometry.ty) / geometry.sy)

    def embed_image(self, images) -> np.ndarray:
        """Unit embeddings (N, D) of images.

        Raises:
          ValueError: as `prepare`, the image named by its place in the list.
        """
        self._check_can("embed_image")
        fn = common.need(self._exp.method.predict, "embed_image")
        return np.concatenate([self._run(fn, self._variables, batch)["embed_image"] for _, batch in self._batches(images)])

    def embed_text(self, texts) -> np.ndarray:
        """Unit embeddings (N, D) of reports or sentences; of a report, the sections of config.data.sections.

        Raises:
          ValueError: the method has no text encoder; an empty text.
        """
        self._check_can("embed_text")
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("expected one or more texts, each a str that is not empty")
        wanted = self.config.data.sections
        texts = [sections.report_text(sections.report_text(text, wanted)) for text in texts]
        fn, parts, length = common.need(self._exp.method.predict, "embed_text"), [], self._exp.options.max_tokens
        for at in range(0, len(texts), self._rows):
            rows = texts[at : at + self._rows]
            tokens = self._exp.tokenizer.encode_batch(rows + rows[-1:] * (self._rows - len(rows)), length)
            parts.append(self._run(fn, self._variables, {**tokens, **self._filled(len(rows))})["embed_text"])
        return np.concatenate(parts)

    def _filled(self, rows: int) -> dict[str, np.ndarray]:
        return {"valid": (np.arange(self._rows) < rows).astype(np.float32)}

    def _batches(self, images) -> Iterator[tuple[list[Prepared], dict]]:
        """Batches of one size, the last filled up with black; images are read as they are needed."""
        some = iter([images] if _single(images) else images)
        size, count = self._exp.options.image_size, 0
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            while rows := list(itertools.islice(some, self._rows)):
                chunk = list(pool.map(self._named, rows, range(count, count + len(rows))))
                pixels = np.zeros((self._rows, size, size, 1), np.uint8)
                pixels[: len(chunk)] = [image.pixels for image in chunk]
                count += len(chunk)
                yield chunk, {"image": pixels, **self._filled(len(chunk))}
        if not count:
            raise ValueError("no image is given")

    def _named(self, image, index: int) -> Prepared:
        """`prepare`, whose errors say which image of the list it was."""
        try:
            return self.prepare(image)
        except (ValueError, TypeError, OSError) as error:
            which = f"image {index}" + (f" ({image})" if isinstance(image, str | Path) else "")
            raise ValueError(f"{which}: {error}") from error

    def _run(self, fn, variables, batch, rows=None) -> dict[str, np.ndarray]:
        """Outputs of one batch without its padding, of the entities `rows` only if given."""
        outputs, _ = common.collect(fn, variables, [batch], put=self._exp.put)
        return outputs if rows is None else {name: value[:, rows] for name, value in outputs.items()}

    @staticmethod
    def _stacked(rows) -> np.ndarray:
        return np.stack(list(rows)).astype(np.float32)

    def _check_can(self, *names) -> None:
        for name in names:
            if name not in self.predicts:
                what = {"ground": "cannot ground findings", "embed_text": "has no text embedding"}.get(name, f"has no {name}")
                raise ValueError(f"method {self.config.method!r} {what}; it predicts: {', '.join(self.predicts)}")

    def way(self, by: str) -> str:
        """"entity" or "prompts"."""
        if by not in ("auto", "entity", "prompts"):
            raise ValueError(f"unknown by={by!r}; known: auto, entity, prompts")
        if by == "auto":
            by = "entity" if "score_findings" in self.predicts else "prompts"
        self._check_can(*(("score_findings",) if by == "entity" else ("embed_image", "embed_text")))
        return by

    def _chosen(self, findings, by: str) -> dict[str, str]:
        """{name: its own text, or ""} of what the user asked for."""
        if findings is None:
            return dict.fromkeys(self.findings, "")
        if isinstance(findings, str):
            raise ValueError(f"expected a list of findings, came the text {findings!r}")
        findings = findings if isinstance(findings, Mapping) else list(findings)
        chosen = {k: v or "" for k, v in findings.items()} if isinstance(findings, Mapping) else dict.fromkeys(findings, "")
        if not chosen or len(chosen) != len(findings):
            raise ValueError(f"expected findings, each once, came {list(findings)}")
        for name, text in chosen.items():
            if not text and common.entity_row(name) is None:
                own = "description" if by == "entity" else "phrase"
                raise ValueError(f"unknown finding {name!r}{vocab.label_hint(name)}. Known: {', '.join(self.findings)}; "
                                 f"any other needs a {own} of its own: {{{name!r}: '...'}}")
        return chosen

    def _queries(self, texts: list[str]) -> list[np.ndarray]:
        """Query vectors (T,) of descriptions; each is encoded once."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._described]:
            table = np.asarray(self._variables["knowledge"]["entities"])
            vectors = knowledge.queries(self.config.knowledge, self._exp.tokenizer, new, table)
            self._described.update(zip(new, vectors, strict=True))
        return [self._described[text] for text in texts]

    def _with_query(self, vector: np.ndarray):
        """The variables with one more row in the entity table."""
        table = self._variables["knowledge"]["entities"]
        more = jnp.concatenate([table, jnp.asarray(vector, table.dtype)[None]])  # (K + 1, T)
        return {**self._variables, "knowledge": {**self._variables["knowledge"], "entities": more}}


def _single(images) -> bool:
    """Whether one image is given, and not several."""
    return isinstance(images, Prepared) or hasattr(images, "shape") or not hasattr(images, "__iter__") or isinstance(
        images, str | bytes | bytearray | memoryview)  # fmt: skip
