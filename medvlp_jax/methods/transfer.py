"""Transfer of an image trunk: a head on it, learnt from labels, masks, boxes or grades (MGCA's and MedKLIP's protocols).

One `Method` for linear classification (trunk frozen), fine-tuning, segmentation, detection and severity grading. The trunk
is frozen if config.optim.freeze has a pattern for it: then it also keeps its BatchNorm statistics and drops nothing.
"""
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.losses import detection, ordinal, supervised
from medvlp_jax.method import Method
from medvlp_jax.models import detector, trunks
from medvlp_jax.models.resunet import UNetDecoder
from medvlp_jax.models.setr import SetrDecoder

POOLINGS = ("trunk", "mean", "max", "mean_max")
MASK_LOSSES = {"bce_dice": supervised.bce_dice_loss, "focal_dice": supervised.focal_dice_loss}
DETECTIONS = 100  # boxes given out for an image
SUPPRESS = 0.5  # IoU above which of two boxes of a class the better one stays


def pooled(x: jax.Array, out: dict, pooling: str, stage: int) -> jax.Array:
    """Features (B, D) of an image: what the trunk gives ("trunk": class token, mean of the last stage), or mean, maximum or
    both of its patches ("mean", "max", "mean_max"), of a ResNet those of `stage`.

    Raises:
      ValueError: unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown model.head.pooling {pooling!r}; known: {', '.join(POOLINGS)}")
    if pooling == "trunk":
        return x
    patches = trunks.patch_tokens(out, stage)  # (B, N, D)
    # By index: the gradient of jnp.max looks for values equal to the maximum, and a compiler that computes patches twice may
    # leave it none (0 / 0).
    highest = jnp.argmax(jax.lax.stop_gradient(patches), axis=1, keepdims=True)  # (B, 1, D)
    maximum = jnp.take_along_axis(patches, highest, axis=1)[:, 0]
    parts = {"mean": (patches.mean(1),), "max": (maximum,), "mean_max": (patches.mean(1), maximum)}
    return jnp.concatenate(parts[pooling], axis=-1)


class Transfer(nn.Module):
    """`image_encoder` and a head of one of the kinds of `KINDS`.

    Fields:
      classes: C, findings or masks.
      frozen: the trunk is a constant.
      pooling, stage: of classification and grading, see `pooled`. dropout: of the pooled features.
      grades: G, of grading. width: of SETR's decoder or the detector; min_width: see `UNetDecoder`.
      anchors: (w, h) in shares of the image, for each feature map of the detector, coarse to fine.
    """

    image_encoder: nn.Module
    kind: str
    classes: int
    frozen: bool = False
    pooling: str = "trunk"
    stage: int = 4
    dropout: float = 0.0
    grades: int = 4
    width: int = 256
    min_width: int = 16
    anchors: tuple = ()
    dtype: Any = jnp.float32

    def setup(self):
        if self.kind == "segment" and hasattr(self.image_encoder, "patch_size"):
            self.head = SetrDecoder(self.classes, self.width, self.dtype)
        elif self.kind == "segment":
            self.head = UNetDecoder(self.classes, self.min_width, self.dtype)
        elif self.kind == "detect":
            self.head = detector.YoloHead(self.classes, tuple(map(len, self.anchors)), self.width, self.dtype)
        else:
            self.head = nn.Dense(self.classes if self.kind == "classify" else 1)
        self.drop = nn.Dropout(self.dropout)
        if self.kind == "grade":
            self.steps = self.param("threshold_bias", nn.initializers.zeros, (self.grades - 1,), jnp.float32)

    def encode(self, image: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        """The trunk's features and intermediates, constants if it is frozen."""
        found = self.image_encoder(image, train and not self.frozen)
        return jax.lax.stop_gradient(found) if self.frozen else found

    def features(self, image: jax.Array) -> jax.Array:
        """(B, D) pooled features."""
        return pooled(*self.encode(image, False), self.pooling, self.stage).astype(jnp.float32)

    def __call__(self, image: jax.Array, train: bool = False):
        """Normalised image (B, H, W, 3) -> logits (B, C), score (B,) and thresholds (G-1,), logits (B, H, W, C), or the
        detector's outputs (B, N, 5 + C) and its `Cells`."""
        x, out = self.encode(image, train)
        if self.kind == "segment":
            if "patch_tokens" in out:
                return self.head(self.grid(image, out), image.shape[1:3], train)
            return self.head(image, out, train)[0]
        if self.kind == "detect":
            maps = self.maps(image, out)
            return self.head(maps, train), detector.cells([m.shape[1:3] for m in maps], self.anchors)
        x = pooled(x, out, self.pooling, self.stage).astype(jnp.float32)
        x = self.head(self.drop(x, deterministic=not train))
        if self.kind == "classify":
            return x
        steps = jnp.concatenate([self.steps[:1], nn.softplus(self.steps[1:])])
        return x[:, 0], jnp.cumsum(steps)  # rising

    def grid(self, image: jax.Array, out: dict) -> jax.Array:
        """A ViT's patches as a map (B, h, w, D)."""
        patches = out["patch_tokens"]
        size = trunks.patch_grid(self.image_encoder, 0, image.shape)
        return patches.reshape(patches.shape[0], *size, patches.shape[-1])

    def maps(self, image: jax.Array, out: dict) -> list[jax.Array]:
        """Feature maps for the detector, coarse to fine, as many as there are groups of anchors.

        Raises:
          ValueError: the trunk has fewer.
        """
        stages = sorted((name for name in out if name.startswith("stage")), reverse=True)
        found = [out[name] for name in stages] or [self.grid(image, out)]
        if not 0 < len(self.anchors) <= len(found):
            raise ValueError(f"model.head.anchors has {len(self.anchors)} groups; this trunk has {len(found)} feature maps")
        return found[: len(self.anchors)]


def classify_loss(logits, batch, _):
    """Cross-entropy over the labels that are known."""
    return supervised.sigmoid_loss(logits, batch["finding_labels"]), {}


def grade_loss(out, batch, _):
    """Cumulative links over the known grades."""
    return ordinal.cumulative_link_loss(*out, batch["grade"]), {}


def segment_loss(logits, batch, name):
    """Mean over classes of the loss of their planes, among the images where the plane is known."""
    masks = batch["masks"]  # (B, H, W, C)
    known = (masks[:, 0, 0] >= 0).astype(jnp.float32)  # (B, C)
    each = jax.vmap(lambda x, t, v: MASK_LOSSES[name](x, t, valid=v), in_axes=(-1, -1, -1))(logits, masks == 1, known)  # (C,)
    return each.mean(), {}


def detect_loss(out, batch, _):
    """YOLOv3's loss; images of which not every box is known weigh nothing."""
    raw, cells = out
    size, boxes, known = batch["image"].shape[1], batch["boxes"], batch["boxes_known"] > 0
    classes = jnp.where(known[:, None], boxes[..., 0], -1.0).astype(jnp.int32)  # (B, M)
    boxes = boxes[..., 1:] / size
    paired = detector.pair(boxes, classes, cells)
    overlap = detector.iou(jax.lax.stop_gradient(detector.decode(raw, cells)), boxes)  # (B, N, M)
    near = (jnp.where(classes[:, None] >= 0, overlap, 0.0) > 0.5).any(-1)
    return detection.yolo_loss(raw, ignored=(near & ~paired["owned"]) | ~known[:, None], **paired)


def classify(logits, _):
    """(B, C) probability of each target."""
    return nn.sigmoid(logits)


def grade(out, _):
    """(B, G) probability of each grade."""
    below = nn.sigmoid(out[1][None] - out[0][:, None])  # (B, G-1) P(y <= k)
    edges = [jnp.zeros_like(below[:, :1]), below, jnp.ones_like(below[:, :1])]
    return jnp.diff(jnp.concatenate(edges, axis=-1), axis=-1)


def segment(logits, _):
    """(B, H, W, C) probability of each target's mask."""
    return nn.sigmoid(logits)


def detect(out, batch):
    """(B, P, 6) boxes by falling score: class, score, x, y, w, h in pixels; score 0 where there is none."""
    raw, cells = out
    scores = nn.sigmoid(raw[..., 4:5]) * nn.sigmoid(raw[..., 5:])  # (B, N, C)
    suppress = functools.partial(detector.nms, threshold=SUPPRESS, limit=DETECTIONS)
    box, score, category = jax.vmap(suppress)(detector.decode(raw, cells) * batch["image"].shape[1], scores)
    return jnp.concatenate([category[..., None].astype(score.dtype), score[..., None], box], axis=-1)


# kind -> (loss, prediction)
KINDS: dict[str, tuple[Callable, Callable]] = {
    "classify": (classify_loss, classify),
    "grade": (grade_loss, grade),
    "segment": (segment_loss, segment),
    "detect": (detect_loss, detect),
}


def make(config) -> Method:
    """A head on a trunk as a `Method`, from config.model, .data.examples.targets, .optim.freeze and .normalisation.

    Raises:
      ValueError: unknown kind or loss, with the known ones.
    """
    fields = config.model.to_dict()
    image, head = fields.pop("image"), fields.pop("head")
    image.pop("init")
    kind, mask_loss = head["kind"], head.pop("loss", "bce_dice")
    if kind not in KINDS or mask_loss not in MASK_LOSSES:
        raise ValueError(f"model.head.kind={kind!r} with loss {mask_loss!r}; known kinds: {', '.join(KINDS)}; known losses of "
                         f"segment: {', '.join(MASK_LOSSES)}")
    dtype = jnp.dtype(config.dtype)
    encoder = trunks.image_encoder(**image, dtype=dtype, remat=fields.pop("remat"))
    frozen = any(re.search(pattern, "image_encoder/") for pattern in config.optim.freeze)
    model = Transfer(encoder, classes=len(config.data.examples.targets), frozen=frozen, dtype=dtype, **head, **fields)
    mean_std = config.normalisation.mean, config.normalisation.std
    loss_fn, prediction = KINDS[kind]

    def images(batch):
        return trunks.normalise(batch["image"], *mean_std)

    def init(rng, batch):
        return model.init({"params": rng}, images(batch)[:2])

    def loss(params, state, batch, rng):
        variables = {"params": params, **state}
        out, new = model.apply(variables, images(batch), True, rngs={"dropout": rng}, mutable=["batch_stats"])
        value, terms = loss_fn(out, batch, mask_loss)
        return value, ({**state, **new}, terms)

    def predict(variables, batch):
        return prediction(model.apply(variables, images(batch)), batch)

    def embed_trunk(variables, batch):
        return model.apply(variables, images(batch), method=Transfer.features)  # (B, D)

    names = {kind: predict} | ({"embed_trunk": embed_trunk} if kind in ("classify", "grade") else {})
    return Method(init, loss, names)
