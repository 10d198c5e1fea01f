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
      divergence_hidden, divergence_noise: see `models.divergence`.
      score_scale, score_bias: start of the learned scale and bias of the knowledge -> patch score.
      fusion_*, dropout: the decoder block shared by matching and swapping.
    """

    divergence_hidden: int = 512
    divergence_noise: float = 0.3
    score_scale: float = 10.0
    score_bias: float = -5.0

    fusion_width: int = 256
    fusion_depth: int = 2
    fusion_heads: int = 4
    fusion_mlp_dim: int = 1024
    fusion_init_std: float = 0.02
    dropout: float = 0.1

    def setup(self):
        super().setup()
        self.category = Prototypes(self.num_prototypes)
        divergence = self.divergence_hidden, self.divergence_noise
        self.image_divergence = DivergenceEncoder(*divergence, dtype=self.dtype)
        self.text_divergence = DivergenceEncoder(*divergence, dtype=self.dtype)
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
        self.knowledge_score = ScaleBias(self.score_scale, self.score_bias)
        self.learned_temperature = Temperature()

    def entities(self, table: jax.Array) -> jax.Array:
        """Frozen entity table (K, T) -> unit e_k (K, D)."""
        return normalize(self.entity_projection(table))

    def fuse(self, text: dict, mask: jax.Array, image: dict, train: bool) -> jax.Array:
        """Text tokens that have read the image's patches: (B, M, fusion_width)."""
        queries, memory = self.fusion_text(text["tokens"]), self.fusion_image(image["patches"])
        return self.fusion(queries, memory, query_mask=mask.astype(bool), train=train)[0]


class ScaleBias(nn.Module):
    """s = scale * cosine + bias, both learned from these starts (spec: knowledge -> patch score)."""

    scale: float
    bias: float

    @nn.compact
    def __call__(self, cosine: jax.Array) -> jax.Array:
        """Any shape, kept."""
        scale = self.param("logit_scale", nn.initializers.constant(self.scale), ())
        return cosine * scale + self.param("logit_bias", nn.initializers.constant(self.bias), ())


class Temperature(nn.Module):
    """Learned temperature of the global contrast.

    The optimizer holds it at or above 0.01 (optim.FLOORS), as CLIP does. A maximum here would have no gradient below the
    floor, and a temperature that reached it could not come back up.
    """

    @nn.compact
    def __call__(self, start: float) -> jax.Array:
        """Scalar."""
        return jnp.exp(self.param("log_temperature", nn.initializers.constant(jnp.log(start)), ()))
