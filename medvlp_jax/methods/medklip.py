"""MedKLIP (arXiv 2301.02228): entity queries read the image; existence and location losses."""
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.losses import supervised
from medvlp_jax.method import Method
from medvlp_jax.models import trunks
from medvlp_jax.models.attention import wide
from medvlp_jax.models.fusion import FusionDecoder
from medvlp_jax.models.microbatch import in_slices
from medvlp_jax.reports import vocab


class MedKLIP(nn.Module):
    """Image trunk, two linear layers to patch tokens, entity queries, fusion decoder, existence and location heads.

    Fields:
      image_encoder: trunk; `patch_stage` of a ResNet gives the patches (the paper: stage 3).
      width: of queries, patch tokens and decoder (paper: 256).
      dropout: in the decoder and before the heads (reference: 0.1).
      init_std: of every linear weight but the location head's (reference: 0.02, for width 256).
      microbatches: see `models.microbatch`.
    """

    image_encoder: nn.Module
    patch_stage: int = 3
    width: int = 256
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int = 1024
    dropout: float = 0.1
    init_std: float = 0.02
    microbatches: int = 1
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, entities: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Normalised image (B, H, W, 3), or {"tokens"} as `read` gave before, and entity table (K, T) -> outputs by name.

        Returns:
          existence (B, K, 2): logits of absent, present; location (B, K, T): to be compared with the position table;
          attention (B, depth, K, N): each layer's map of each entity; patches (B, N, width); image (B, width): their mean.
        """
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.normal(self.init_std), dtype=self.dtype)

        tokens = (image if isinstance(image, dict) else self.read(image, train))["tokens"]  # (B, N, C)
        hidden = nn.relu(dense(tokens.shape[-1], name="patch_hidden")(tokens))
        patches = dense(self.width, name="patch_projection")(hidden)  # (B, N, width)
        queries = dense(self.width, name="query_projection")(entities)  # (K, width)
        queries = jnp.broadcast_to(queries[None], (tokens.shape[0], *queries.shape))  # (B, K, width)
        decoder = FusionDecoder(
            self.width, self.depth, self.num_heads, self.mlp_dim, self.dropout, self.init_std, self.remat, self.dtype,
            name="decoder",
        )  # fmt: skip
        x, out = decoder(queries, patches, train=train)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        existence = dense(2, name="existence_head")(x)
        # Its dot products with the position table have no temperature: a larger start than 0.02 swamps the first steps.
        start = nn.initializers.normal(0.02)
        location = nn.Dense(entities.shape[-1], kernel_init=start, dtype=self.dtype, name="location_head")(x)
        result = wide(self.dtype)
        return {
            "existence": existence.astype(result),  # (B, K, 2)
            "location": location.astype(result),  # (B, K, T)
            "attention": out["attention"],  # (B, depth, K, N)
            "patches": patches.astype(result),
            "image": patches.mean(1).astype(result),
        }


    def read(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Normalised image (B, H, W, 3) -> {"tokens": (B, N, C)} of the trunk."""

        def encode(module, image):
            return trunks.patch_tokens(module.image_encoder(image, train)[1], module.patch_stage)

        return {"tokens": in_slices(encode, self, image, self.microbatches if train else 1)}


def losses(out: dict, table: jax.Array, batch: dict, weights: dict, keep: jax.Array) -> tuple[jax.Array, dict]:
    """Weighted sum of the existence and location losses, and each term.

    Args:
      table: position table (A, T).
      batch: labels (B, K), positions (B, K, 8).
      weights: {"existence", "location"}; 0 leaves the term (and its cost) out.
      keep: (K,) bool; entities that are false are masked in both losses (held out for zero-shot tests).
    """
    labels = jnp.where(keep[None], batch["labels"], jnp.int8(-1))  # (B, K)
    terms = {}
    if weights["existence"]:
        terms["existence"] = supervised.existence_loss(out["existence"], labels)
    if weights["location"]:
        candidates = table[batch["positions"]]  # (B, K, 8, T)
        logits = jnp.einsum("bkt,bkpt->bkp", out["location"], candidates)  # (B, K, 8)
        terms["location"] = supervised.location_loss(logits, labels)
    return sum(weights[name] * value for name, value in terms.items()), terms


def make(config) -> Method:
    """MedKLIP as a `Method`, from config.model, .losses, .exclude_entities and .normalisation."""
    fields = config.model.to_dict()
    image = fields.pop("image")
    image.pop("init")
    dtype = jnp.dtype(config.dtype)
    encoder = trunks.image_encoder(**image, dtype=dtype, remat=fields["remat"])
    model = MedKLIP(encoder, dtype=dtype, **fields)
    mean_std = config.normalisation.mean, config.normalisation.std
    weights = config.losses.to_dict()
    excluded = [vocab.entity_index(name) for name in config.exclude_entities]
    keep = jnp.ones(len(vocab.ENTITIES), bool).at[jnp.array(excluded, jnp.int32)].set(False)

    def apply(variables, batch, **kwargs):
        image = trunks.read_before(batch) or trunks.normalise(batch["image"], *mean_std)
        model_variables = {k: v for k, v in variables.items() if k != "knowledge"}
        return model.apply(model_variables, image, variables["knowledge"]["entities"], **kwargs)

    def init(rng, batch):
        image = trunks.normalise(batch["image"][:2], *mean_std)
        return {**model.init({"params": rng}, image, batch["knowledge"]["entities"]), "knowledge": batch["knowledge"]}

    def loss(params, state, batch, rng):
        variables = {"params": params, **state}
        out, new = apply(variables, batch, train=True, rngs={"dropout": rng}, mutable=["batch_stats"])
        total, terms = losses(out, state["knowledge"]["positions"], batch, weights, keep)
        return total, ({**state, **new}, terms)

    def score_findings(variables, batch):
        return nn.softmax(apply(variables, batch)["existence"])[..., 1]  # (B, K)

    def ground(variables, batch):
        maps = apply(variables, batch)["attention"].mean(1)  # (B, K, N)
        h, w = trunks.patch_grid(model.image_encoder, model.patch_stage, batch["image"].shape)
        return maps.reshape(*maps.shape[:2], h, w)  # (B, K, h, w)

    def embed_image(variables, batch):
        x = apply(variables, batch)["image"]
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # (B, width)

    def embed_patches(variables, batch):
        return apply(variables, batch)["patches"]  # (B, N, width)

    def trunk_outputs(variables, batch):
        return model.apply({"params": variables["params"]}, trunks.normalise(batch["image"], *mean_std), method=MedKLIP.read)

    predict = {f.__name__: f for f in (score_findings, ground, embed_image, embed_patches, trunk_outputs)}
    return Method(init, loss, predict)
