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
from medvlp_jax.models.batch_norm import BatchNorm
from medvlp_jax.models.fusion import FusionDecoder
from medvlp_jax.models.microbatch import in_slices
from medvlp_jax.reports import vocab


class MedKLIP(nn.Module):
    """Image trunk, two linear layers to patch tokens, entity queries, fusion decoder, existence and location heads.

    Fields:
      image_encoder: trunk; `patch_stage` of a ResNet gives the patches (the paper: stage 3).
      global_blocks: of a ViT; the decoder also reads class token and mean patch of the residual stream after each of these
        blocks, as DINOv2's linear probes read several (arXiv 2304.07193, B.3). Ours, for a trunk that is frozen.
      token_norm: BatchNorm without scale on what the trunk gives, as linear probes of frozen ViTs have it (arXiv 2111.06377,
        A.1): channels of very different size are equal to the first layer then.
      token_dropout: share of the channels of each token that training drops, before the first layer.
      width: of queries, patch tokens and decoder (paper: 256).
      dropout: in the decoder and before the heads (reference: 0.1).
      init_std: of every linear weight but the location head's (reference: 0.02, for width 256).
      microbatches: see `models.microbatch`.
    """

    image_encoder: nn.Module
    patch_stage: int = 3
    global_blocks: tuple[int, ...] = ()
    token_norm: bool = False
    token_dropout: float = 0.0
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
        """Normalised image (B, H, W, 3), or what `read` gave for it before, and entity table (K, T) -> outputs by name.

        Returns:
          existence (B, K, 2): logits of absent, present; location (B, K, T): to be compared with the position table;
          attention (B, depth, K, N): each layer's map of each entity; patches (B, N, width); image (B, width): their mean.
          With global_blocks attention sums to less than 1: the rest is theirs.
        """
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.normal(self.init_std), dtype=self.dtype)

        tokens, wholes = self.memory(image if isinstance(image, dict) else self.read(image, train), train)  # (B, G + N, C), G
        hidden = nn.relu(dense(tokens.shape[-1], name="patch_hidden")(tokens))
        memory = dense(self.width, name="patch_projection")(hidden)  # (B, G + N, width)
        patches = memory[:, wholes:]  # (B, N, width)
        queries = dense(self.width, name="query_projection")(entities)  # (K, width)
        queries = jnp.broadcast_to(queries[None], (tokens.shape[0], *queries.shape))  # (B, K, width)
        decoder = FusionDecoder(
            self.width, self.depth, self.num_heads, self.mlp_dim, self.dropout, self.init_std, self.remat, self.dtype,
            name="decoder",
        )  # fmt: skip
        x, out = decoder(queries, memory, train=train)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        existence = dense(2, name="existence_head")(x)
        # Its dot products with the position table have no temperature: a larger start than 0.02 swamps the first steps.
        start = nn.initializers.normal(0.02)
        location = nn.Dense(entities.shape[-1], kernel_init=start, dtype=self.dtype, name="location_head")(x)
        result = wide(self.dtype)
        return {
            "existence": existence.astype(result),  # (B, K, 2)
            "location": location.astype(result),  # (B, K, T)
            "attention": out["attention"][..., wholes:],  # (B, depth, K, N)
            "patches": patches.astype(result),
            "image": patches.mean(1).astype(result),
        }

    def read(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Normalised image (B, H, W, 3) -> tokens (B, N, C) of the trunk; with global_blocks wholes (B, G, C).

        Raises:
          ValueError: global_blocks names a block that the trunk does not have.
        """

        def encode(module, image):
            _, out = module.image_encoder(image, train)
            if missing := [i for i in module.global_blocks if f"block_{i}" not in out]:
                raise ValueError(f"model.global_blocks names {missing}; this trunk has "
                                 f"{', '.join(k for k in out if k.startswith('block_')) or 'no blocks, being no ViT'}")
            streams = [out[f"block_{i}"] for i in module.global_blocks]  # each (B, 1 + N, C)
            wholes = [x for stream in streams for x in (stream[:, 0], stream[:, 1:].mean(1))]
            read = {"tokens": trunks.patch_tokens(out, module.patch_stage)}
            return read | {"wholes": jnp.stack(wholes, axis=1)} if wholes else read

        return in_slices(encode, self, image, self.microbatches if train else 1)

    def memory(self, read: dict[str, jax.Array], train: bool) -> tuple[jax.Array, int]:
        """What `read` gives -> tokens for the decoder (B, G + N, C), and G, how many of them are of the whole image."""
        tokens, wholes = read["tokens"], read.get("wholes")
        if self.token_norm:
            tokens = BatchNorm(affine=False, name="token_norm")(tokens, train=train)
        if wholes is not None:
            if self.token_norm:  # each has statistics of its own
                flat = wholes.reshape(wholes.shape[0], -1)  # (B, G C)
                wholes = BatchNorm(affine=False, name="global_norm")(flat, train=train).reshape(wholes.shape)
            tokens = jnp.concatenate([wholes.astype(tokens.dtype), tokens], axis=1)  # (B, G + N, C)
        count = 0 if wholes is None else wholes.shape[1]
        return nn.Dropout(self.token_dropout)(tokens, deterministic=not train), count


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
        # All A positions, then the candidates: gathering their vectors first would take (B, K, 8, T).
        similarity = jnp.einsum("bkt,at->bka", out["location"], table)  # (B, K, A)
        logits = jnp.take_along_axis(similarity, batch["positions"], axis=-1)  # (B, K, 8)
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
        image = trunks.images(batch, *mean_std)
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

    predict = {f.__name__: f for f in (score_findings, ground, embed_image, embed_patches)}
    return Method(init, loss, predict, trunk_outputs)
