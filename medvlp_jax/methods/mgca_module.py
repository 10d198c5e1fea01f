"""The network of MGCA: two towers, and optionally learned attention between words and patches."""
import jax
import jax.numpy as jnp

from medvlp_jax.methods.towers import Prototypes, TwoTowers
from medvlp_jax.models import resize
from medvlp_jax.models.fusion import MultiHeadAttention
from medvlp_jax.models.resnet import ResNet

RESNET_SIZE = 299  # px; what the published program brings images to for a ResNet


class MGCA(TwoTowers):
    """Both towers of the paper's baseline.

    Fields:
      as_published: what the program's network does against its own intention: every word piece has position 0, so that the
        text encoder is blind to word order; a ResNet reads images blown up to 299 px; prototypes' gradient as if they were
        stored normalised.
      learned_attention: words read patches, and patches words, by learned single-head attention instead of the softmax of
        their similarities (the program's use_local_atten, off there too).
    """

    as_published: bool = False
    learned_attention: bool = False

    def setup(self):
        super().setup()
        self.category = Prototypes(self.num_prototypes, straight_through=self.as_published)
        self.word_attention = MultiHeadAttention(1, dtype=self.dtype)
        self.patch_attention = MultiHeadAttention(1, dtype=self.dtype)

    def image_trunk(self, image: jax.Array, train: bool) -> dict[str, jax.Array]:
        """As `TwoTowers.image_trunk`."""
        if self.as_published and isinstance(self.image_encoder, ResNet):
            image = resize.bilinear(image, RESNET_SIZE, RESNET_SIZE)
        return super().image_trunk(image, train)

    def position_ids(self, ids: jax.Array) -> jax.Array | None:
        """All zero as published, else None (counted)."""
        return jnp.zeros_like(ids) if self.as_published else None

    def read(self, words: jax.Array, patches: jax.Array, word_mask: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """What words (B, W, D) read from patches (B, N, D) and patches from words, by learned attention; None without."""
        if not self.learned_attention:
            return None
        return self.word_attention(words, patches)[0], self.patch_attention(patches, words, word_mask)[0]
