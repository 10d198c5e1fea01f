"""The optimizer as one optax chain made from the config: schedule, decay, freezing, per-layer rates."""
import re
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from medvlp_jax import trees

# No decay on vectors, scalars and things that are normalised where they are used (MedKLIP's rule: >= 2 dimensions).
NO_DECAY = r"(bias|scale|class_token|position_embedding|prototypes|temperature|logit_scale|logit_bias)$"

SCHEDULES = ("cosine", "medklip_published")  # config.schedule.kind


def warmup_cosine(lr: float, total_steps: int, warmup_steps: int, start_lr: float = 0.0, final_lr: float = 0.0):
    """Linear start_lr -> lr over `warmup_steps`, then half a cosine to final_lr at `total_steps`.

    Raises:
      ValueError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must be in [0, total_steps={total_steps}), came {warmup_steps}")
    cosine = optax.cosine_decay_schedule(lr - final_lr, total_steps - warmup_steps)
    parts = [optax.linear_schedule(start_lr, lr, max(warmup_steps, 1)), lambda step: cosine(step) + final_lr]
    return optax.join_schedules(parts, [warmup_steps])


def medklip_published(
    lr: float, steps_per_epoch: int, epochs: int, warmup_epochs: int, start_lr: float = 0.0, final_lr: float = 0.0
):
    """The learning rate that MedKLIP's program has in force at each step, oddities included.

    Its warm-up goes by hundreds of steps, `warmup_epochs` of them, and only in the first epoch, however short. In epoch
    e >= 1 the rate is constant and the cosine is at e / `epochs`.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.int32)
        epoch = step // steps_per_epoch
        warming = jnp.clip((step - 1) // 100, 0, warmup_epochs)  # set after step 0, 100, 200, ...
        t = jnp.where(epoch == 0, warming, epoch + warmup_epochs).astype(jnp.float32)
        warm = start_lr + t * ((lr - start_lr) / max(warmup_epochs, 1))
        phase = jnp.clip((t - warmup_epochs) / epochs, 0.0, 1.0)
        cosine = final_lr + 0.5 * (lr - final_lr) * (1.0 + jnp.cos(jnp.pi * phase))
        return jnp.where(t < warmup_epochs, warm, cosine)

    return schedule


def freeze_until(rules: Sequence[tuple[str, int]]) -> optax.GradientTransformation:
    """Zeroes the gradient of parameters whose name matches a pattern until the given step (MGCA: prototypes, epoch 0)."""

    def init(params):
        trees.check_patterns_used(params, [p for p, _ in rules], "freeze_until")
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        del params

        def gate(name, g):
            until = max((n for p, n in rules if re.search(p, name)), default=0)
            return jnp.where(state.count < until, jnp.zeros_like(g), g) if until else g

        return trees.map_named(gate, updates), optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def make(
    params,
    schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.05,
    no_decay: str = NO_DECAY,
    clip_norm: float = 0.0,
    freeze: Sequence[str] = (),
    freeze_until_step: Sequence[tuple[str, int]] = (),
    rates: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """AdamW for `params` (arrays or shapes).

    Args:
      schedule: step -> learning rate.
      no_decay: names (regular expression) that weight decay leaves alone.
      clip_norm: global norm; 0 = off.
      freeze: names that are never updated (and hold no moments).
      freeze_until_step: (name, step) pairs, see `freeze_until`.
      rates: (name, factor) pairs: the first that matches scales the learning rate of that parameter.

    Raises:
      ValueError: a pattern matches no parameter.
    """
    for what, patterns in (("freeze", freeze), ("rates", [p for p, _ in rates])):
        trees.check_patterns_used(params, patterns, what)

    # Both go by name, not by position: under `freeze` they see trees without the frozen leaves.
    def decayed(tree):
        return trees.map_named(lambda name, _: not re.search(no_decay, name), tree)

    def scaled(name, update):
        return update * next((factor for pattern, factor in rates if re.search(pattern, name)), 1.0)

    chain = []
    if freeze_until_step:
        chain.append(freeze_until(freeze_until_step))
    if clip_norm:
        chain.append(optax.clip_by_global_norm(clip_norm))
    chain += [
        optax.scale_by_adam(*betas, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule),
    ]
    if rates:
        chain.append(optax.stateless(lambda updates, _: trees.map_named(scaled, updates)))
    tx = optax.chain(*chain)
    if not freeze:
        return tx
    labels = trees.match(params, [*((p, "frozen") for p in freeze), (".*", "trained")], "freeze rule")
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
