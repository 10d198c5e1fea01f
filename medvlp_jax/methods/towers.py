"""Two trunks with projection heads, and a `Method` made of them: what MLIP, MGCA and a global-contrast baseline share."""
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.losses import local
from medvlp_jax.method import Method
from medvlp_jax.models import trunks
from medvlp_jax.models.heads import ProjectionHead, normalize
from medvlp_jax.models.microbatch import in_slices


class TwoTowers(nn.Module):
    """Image and text trunk with their global and local heads; subclasses add their own parts in `setup`.

    Submodules come into being when they are first used in `init`: a loss of weight 0 leaves no parameters behind.

    Fields:
      patch_stage: stage of a ResNet trunk that gives the local features.
      embed_dim: D of every shared embedding; hidden: width of the projection MLPs.
      num_prototypes: C, for the `Prototypes` of a subclass.
      microbatches: see `models.microbatch`.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    patch_stage: int = 3
    embed_dim: int = 128
    hidden: int = 2048
    num_prototypes: int = 500
    microbatches: int = 1
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        def head():
            return ProjectionHead(self.hidden, self.embed_dim, dtype=self.dtype)

        self.image_head, self.text_head = head(), head()
        self.patch_head, self.token_head = head(), head()

    def image_trunk(self, image: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Normalised image (B, H, W, 3) -> pooled (B, C), patches (B, N, C'), weights (B, N) of sum 1, None for a ResNet.

        image: may be these outputs, computed before.
        """
        if isinstance(image, dict):
            return {"weights": None, **image}

        def encode(module, image):
            pooled, out = module.image_encoder(image, train)
            weights = None
            if "attention" in out:
                weights = local.percentile_clip(out["attention"], jnp.ones(out["attention"].shape, bool))
            return {"pooled": pooled, "patches": trunks.patch_tokens(out, module.patch_stage), "weights": weights}

        return in_slices(encode, self, image, self.microbatches if train else 1)

    def text_trunk(self, ids: jax.Array, mask: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Token ids and mask (B, M) -> tokens (B, M, C), attention (B, M) of [CLS] in the last layer."""

        def encode(module, inputs):
            tokens, out = module.text_encoder(*inputs, train, module.position_ids(inputs[0]))
            return {"tokens": tokens, "attention": out["attention"]}

        return in_slices(encode, self, (ids, mask), self.microbatches if train else 1)

    def position_ids(self, ids: jax.Array) -> jax.Array | None:
        """(B, M) positions of the tokens; None counts from 0."""
        del ids

    def image_embedding(self, trunk: dict, train: bool) -> jax.Array:
        """v (B, D), unit."""
        return normalize(self.image_head(trunk["pooled"], train=train))

    def text_embedding(self, trunk: dict, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """t (B, D), unit, from [CLS]. mask (B,): rows that count in the batch's statistics, None all."""
        return normalize(self.text_head(trunk["tokens"][:, 0], mask, train))

    def patch_embeddings(self, trunk: dict, train: bool) -> jax.Array:
        """p_n (B, N, D), unit."""
        return normalize(self.patch_head(trunk["patches"], train=train))


def _unit_rows(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """Initial prototypes (C, D): uniform on the unit sphere."""
    return normalize(jax.random.normal(key, shape, dtype))


class Prototypes(nn.Module):
    """C unit category prototypes; scores are cosines.

    They start with norm 1 and the optimizer keeps it (optim.keep_unit_norm), so that a step turns a prototype by what the
    learning rate says. Loaded ones may have another norm, so they are normalised here too.

    straight_through: the gradient is that of the normalised prototypes, radial part included (as MGCA's program).
    """

    count: int
    straight_through: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, D) -> (B, C)."""
        stored = self.param("prototypes", _unit_rows, (self.count, x.shape[-1])).astype(x.dtype)
        unit = normalize(stored)  # (C, D)
        if self.straight_through:
            unit = stored + jax.lax.stop_gradient(unit - stored)
        return x @ unit.T


def build(cls: type[TwoTowers], config, **fields) -> TwoTowers:
    """`cls` from config.model and .dtype; `fields` are those that config.model does not have."""
    fields = {**config.model.to_dict(), **fields}
    image, text = fields.pop("image"), fields.pop("text")
    image.pop("init"), text.pop("init")
    text["attention_kernel"] = kernel = fields.pop("attention_kernel")
    if image["name"] == "vit":
        image["attention_kernel"] = kernel
    shared = {"dtype": jnp.dtype(config.dtype), "remat": fields["remat"]}
    encoders = trunks.image_encoder(**image, **shared), trunks.text_encoder(**text, **shared)
    return cls(*encoders, dtype=shared["dtype"], **fields)


def normalised(batch: dict, config) -> jax.Array | dict[str, jax.Array]:
    """The batch's images (B, H, W, 3) as the trunk takes them, or what it gave for them before."""
    return trunks.images(batch, config.normalisation.mean, config.normalisation.std)


def evaluated(model: nn.Module, fn: Callable, variables: dict):
    """fn(bound module) with these variables, which are not changed."""
    return nn.apply(fn, model)({k: v for k, v in variables.items() if k != "knowledge"})


def make_method(model: TwoTowers, objective: Callable, config) -> Method:
    """A `Method` of (bound module, batch, table, rng) -> loss, terms; it predicts the three kinds of embeddings."""

    def init(rng, batch):
        knowledge = batch["knowledge"]
        batch = {**batch, "image": normalised(batch, config)}
        make_all = nn.init(lambda m: objective(m, batch, knowledge["entities"], rng), model)
        return {**make_all({"params": rng, "dropout": rng}), "knowledge": knowledge}

    def loss(params, state, batch, rng):
        dropout, draws = jax.random.split(rng)
        batch = {**batch, "image": normalised(batch, config)}
        fn = functools.partial(objective, batch=batch, table=state["knowledge"]["entities"], rng=draws)
        variables = {"params": params, "batch_stats": state["batch_stats"]}
        (total, terms), new = nn.apply(fn, model, mutable=["batch_stats"])(variables, rngs={"dropout": dropout})
        return total, ({**state, **new}, terms)

    def embed_image(variables, batch):
        image = normalised(batch, config)
        return evaluated(model, lambda m: m.image_embedding(m.image_trunk(image, False), False), variables)

    def embed_text(variables, batch):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return evaluated(model, lambda m: m.text_embedding(m.text_trunk(ids, mask, False), False), variables)

    def embed_patches(variables, batch):
        image = normalised(batch, config)
        return evaluated(model, lambda m: m.patch_embeddings(m.image_trunk(image, False), False), variables)

    def trunk_outputs(variables, batch):
        found = evaluated(model, lambda m: m.image_trunk(normalised(batch, config), False), variables)
        return {name: x for name, x in found.items() if x is not None}

    return Method(init, loss, {f.__name__: f for f in (embed_image, embed_text, embed_patches)}, trunk_outputs)


def without_patches(predict: dict[str, Callable]) -> dict[str, Callable]:
    """Predictions of a model that no loss gives a head for patches."""
    return {name: fn for name, fn in predict.items() if name != "embed_patches"}
