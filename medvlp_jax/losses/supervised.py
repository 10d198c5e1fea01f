"""Losses with labels: existence and location of findings, matching, text swapping, segmentation.

Label -1 (and 2, uncertain) is never a class: such entries weigh nothing, and the mean is over those that count.
Whatever has nothing to count is exactly 0 (the published MedKLIP program gives NaN for a batch without positives).
"""
import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import counting, keep, masked_mean, same_shape, to_float


def _two_way(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean 2-way cross-entropy of logits (..., 2), labels (...) 0/1, over the entries of the boolean mask (...)."""
    same_shape("logits", logits, labels.shape + (2,))
    log_p = jax.nn.log_softmax(keep(logits, mask), axis=-1)  # (..., 2)
    return masked_mean(-jnp.where(labels == 1, log_p[..., 1], log_p[..., 0]), mask)


def existence_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """2-way cross-entropy of logits (B, K, 2) = (absent, present) over the labels (B, K) that are 0 or 1 (MedKLIP)."""
    return _two_way(logits, labels, (labels == 0) | (labels == 1))


def location_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Location contrast of MedKLIP: logits (B, K, P) of the candidate positions, of which number 0 is the true one.

    Cross-entropy, mean over the entries with existence label (B, K) equal to 1.
    """
    same_shape("logits", logits, labels.shape + logits.shape[-1:])
    mask = labels == 1
    log_p = jax.nn.log_softmax(keep(logits, mask), axis=-1)  # (B, K, P)
    return masked_mean(-log_p[..., 0], mask)


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits (B, K) over the labels (B, K) that are 0 or 1 (MLIP, knowledge -> patch)."""
    same_shape("labels", labels, logits.shape)
    mask = (labels == 0) | (labels == 1)
    return masked_mean(_bce(jnp.where(mask, to_float(logits), 0.0), labels == 1), mask)


def matching_loss(logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Image-text matching: logits (B, 2), labels (B,) 1 = belong together, 0 = do not; valid (B,) pairs that count."""
    return _two_way(logits, labels, counting(valid, labels.shape) & ((labels == 0) | (labels == 1)))


def token_swap_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Text swapping: logits (B, M, 2), labels (B, M) 1 = from another report, 0 = own, -1 = special or padding."""
    return _two_way(logits, labels, (labels == 0) | (labels == 1))


def _bce(logits: jax.Array, positive: jax.Array) -> jax.Array:
    """-log p of the true side, elementwise, without overflow."""
    return jax.nn.softplus(jnp.where(positive, -logits, logits))


def _pixels(logits, targets, valid):
    """-> logits (float), targets (bool), mask (bool), all (B, ...); valid (B,) is spread over the pixels."""
    same_shape("targets", targets, logits.shape)
    mask = counting(valid, logits.shape[:1]).reshape((-1,) + (1,) * (logits.ndim - 1))
    mask = jnp.broadcast_to(mask, logits.shape)
    return jnp.where(mask, to_float(logits), 0.0), targets.astype(bool) & mask, mask


def binary_cross_entropy(logits: jax.Array, targets: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Mean over all pixels of logits (B, ...) against 0/1 targets of the same shape; valid (B,) images that count."""
    logits, targets, mask = _pixels(logits, targets, valid)
    return masked_mean(_bce(logits, targets), mask)


def focal_loss(
    logits: jax.Array, targets: jax.Array, gamma: float = 2.0, valid: jax.Array | None = None
) -> jax.Array:
    """(1 - p_true)^gamma * cross-entropy, mean over all pixels (Lin et al. 2017, without the class weight)."""
    logits, targets, mask = _pixels(logits, targets, valid)
    bce = _bce(logits, targets)
    log_wrong = jax.nn.log_sigmoid(jnp.where(targets, -logits, logits))  # log(1 - p_true)
    return masked_mean(jnp.exp(gamma * log_wrong) * bce, mask)


def soft_dice(
    logits: jax.Array, targets: jax.Array, smooth: float = 1.0, valid: jax.Array | None = None
) -> jax.Array:
    """Soft Dice coefficient, not a loss: (2 sum p t + smooth) / (sum p + sum t + smooth) over the whole batch."""
    logits, targets, mask = _pixels(logits, targets, valid)
    p = jnp.where(mask, jax.nn.sigmoid(logits), 0.0)
    t = targets.astype(p.dtype)
    return (2.0 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)


def bce_dice_loss(logits: jax.Array, targets: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """MedKLIP's segmentation loss: cross-entropy + (1 - soft Dice of the batch)."""
    return binary_cross_entropy(logits, targets, valid) + 1.0 - soft_dice(logits, targets, valid=valid)


def focal_dice_loss(
    logits: jax.Array, targets: jax.Array, alpha: float = 10.0, gamma: float = 2.0, valid: jax.Array | None = None
) -> jax.Array:
    """MGCA's segmentation loss: alpha * focal - log(soft Dice of the batch)."""
    return alpha * focal_loss(logits, targets, gamma, valid) - jnp.log(soft_dice(logits, targets, valid=valid))
