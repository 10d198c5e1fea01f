"""What MLIP adds to two towers: divergence encoders, knowledge and its gate, and one fusion module."""
import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.methods.towers import Prototypes, TwoTowers
from medvlp_jax.models.divergence import DivergenceEncoder
from medvlp_jax.models.fusion import FusionDecoder
from medvlp_jax.models.heads import normalize


class MLIP(TwoTowers):
    """Both towers, the divergence encoders, the projected knowledge and the fusion module.

    Fields:
      fusion_*, dropout: the decoder block shared by matching and swapping.
    """

    fusion_width: int = 256
    fusion_depth: int = 2
    fusion_heads: int = 4
    fusion_mlp_dim: int = 1024
    fusion_init_std: float = 0.02
    dropout: float = 0.1

    def setup(self):
        super().setup()
        self.category = Prototypes(self.num_prototypes)
        self.image_divergence = DivergenceEncoder(self.embed_dim, dtype=self.dtype)
        self.text_divergence = DivergenceEncoder(self.embed_dim, dtype=self.dtype)
        self.entity_projection = nn.Dense(self.embed_dim, dtype=self.dtype)
        self.gate = nn.Dense(1, dtype=self.dtype)
        self.fusion_text = nn.Dense(self.fusion_width, dtype=self.dtype)
        self.fusion_image = nn.Dense(self.fusion_width, dtype=self.dtype)
        self.fusion = FusionDecoder(
            self.fusion_width, self.fusion_depth, self.fusion_heads, self.fusion_mlp_dim, self.dropout,
            self.fusion_init_std, self.remat, self.dtype,
        )  # fmt: skip
        self.matching_head = nn.Dense(2, dtype=self.dtype)
        self.swapping_head = nn.Dense(2, dtype=self.dtype)
        self.knowledge_score = ScaleBias()
        self.learned_temperature = Temperature()

    def entities(self, table: jax.Array) -> jax.Array:
        """Frozen entity table (K, T) -> unit e_k (K, D)."""
        return normalize(self.entity_projection(table))

    def fuse(self, text: dict, mask: jax.Array, image: dict, train: bool) -> jax.Array:
        """Text tokens that have read the image's patches: (B, M, fusion_width)."""
        queries, memory = self.fusion_text(text["tokens"]), self.fusion_image(image["patches"])
        return self.fusion(queries, memory, query_mask=mask.astype(bool), train=train)[0]


class ScaleBias(nn.Module):
    """s = scale * cosine + bias, both learned (spec: knowledge -> patch score)."""

    @nn.compact
    def __call__(self, cosine: jax.Array) -> jax.Array:
        """Any shape, kept."""
        scale = self.param("logit_scale", nn.initializers.constant(10.0), ())
        # Reading patches by similarity makes the cosine about 0.5 from the start, of absent entities, too.
        return cosine * scale + self.param("logit_bias", nn.initializers.constant(-5.0), ())


class Temperature(nn.Module):
    """Learned temperature of the global contrast, never below 0.01 (as in CLIP)."""

    @nn.compact
    def __call__(self, start: float) -> jax.Array:
        """Scalar."""
        log = self.param("log_temperature", nn.initializers.constant(jnp.log(start)), ())
        return jnp.maximum(jnp.exp(log), 0.01)
