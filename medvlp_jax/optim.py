"""The optimizer as one optax chain made from the config: schedule, decay, freezing, per-layer rates."""
import functools
import math
import operator
import re
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax

from medvlp_jax import trees
from medvlp_jax.models.heads import normalize

# No decay on vectors, scalars and things that are normalised where they are used (MedKLIP's rule: >= 2 dimensions).
NO_DECAY = r"(bias|scale|class_token|position_embedding|prototypes|temperature|logit_scale|logit_bias)$"

# Rows of these parameters keep norm 1 (MGCA's rule).
UNIT_NORM = r"prototypes$"

# Least value of parameters: the learned temperature stays at 0.01 or above (as in CLIP).
FLOORS = ((r"log_temperature$", math.log(0.01)),)

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


def thawed_at(rules: Sequence[tuple[str, int]], inner: Callable[[], optax.GradientTransformation]):
    """Run one `inner` transformation for each thaw step: its updates are zero, and its state rests, before that step.

    So Adam's moments and count begin at the thaw. A count that runs on over zero gradients makes the updates after a frozen
    epoch too long: up to 5.2 times the learning rate with the default betas.

    Args:
      rules: (name pattern, step) pairs; a parameter takes the latest step of those that match its name, 0 without any.
      inner: makes the transformation.
    """

    def label(name, _):
        return max((step for pattern, step in rules if re.search(pattern, name)), default=0)

    groups = {step: optax.conditionally_mask(inner(), functools.partial(operator.le, step)) for _, step in rules}
    return optax.partition({0: inner(), **groups}, lambda tree: trees.map_named(label, tree))


def keep_unit_norm(pattern: str) -> optax.GradientTransformationExtraArgs:
    """Change the updates of parameters whose name matches, so that each row has norm 1 after the update.

    MGCA (arXiv 2210.06044) rescales its prototypes at every forward pass; here the step does it and the forward pass stays
    pure. A row without an update is left as it is. Must be the last transformation.
    """

    def project(name, update, param):
        if not re.search(pattern, name):
            return update
        moved = normalize(normalize(param) + update)  # (C, D); loaded prototypes may have another norm
        return jnp.where((update != 0).any(-1, keepdims=True), moved - param, 0.0).astype(update.dtype)

    return optax.stateless(lambda updates, params: trees.map_named(project, updates, params))


def keep_above(floors: Sequence[tuple[str, float]]) -> optax.GradientTransformationExtraArgs:
    """Shorten the updates of parameters whose name matches a pattern, so that none falls below its floor.

    The value itself is held, not only its use: the first gradient that points up moves it up. Must come after all scaling.
    """

    def hold(name, update, param):
        floor = next((floor for pattern, floor in floors if re.search(pattern, name)), None)
        return update if floor is None else jnp.maximum(param + update, floor) - param

    return optax.stateless(lambda updates, params: trees.map_named(hold, updates, params))


def layer_rates(params, decay: float) -> list[tuple[str, float]]:
    """Return (name pattern, factor) pairs that lower the learning rate towards the input of each transformer trunk.

    Block i of n takes decay ** (n - i), counted from 0; patches, words, positions and tokens take decay ** (n + 1). The final
    norm and all heads keep the full rate, and so does a trunk without numbered blocks (a ResNet). This is the rule of
    BEiT (arXiv 2106.08254) and MAE (arXiv 2111.06377, A.2).

    Raises:
      ValueError: `decay` is not in (0, 1], or no trunk has numbered blocks.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"optim.layer_decay must be above 0 and at most 1 (off), came {decay}")
    found = [match.groups() for name in trees.flatten(params) if (match := re.search(r"(\w+_encoder)/block_(\d+)/", name))]
    if not found:
        raise ValueError(f"optim.layer_decay={decay} needs a ViT or a text encoder; no trunk has numbered blocks: set it to 1")
    rules = []
    for trunk in dict.fromkeys(trunk for trunk, _ in found):
        depth = 1 + max(int(i) for name, i in found if name == trunk)
        rules += [(rf"\b{trunk}/block_{i}/", decay ** (depth - i)) for i in range(depth)]
        rules += [(rf"\b{trunk}/norm/", 1.0), (rf"\b{trunk}/", decay ** (depth + 1))]
    return rules


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
    layer_decay: float = 1.0,
    unit_norm: str = UNIT_NORM,
    floors: Sequence[tuple[str, float]] = FLOORS,
) -> optax.GradientTransformation:
    """AdamW for `params` (arrays or shapes).

    Args:
      schedule: step -> learning rate.
      no_decay: names (regular expression) that weight decay leaves alone.
      clip_norm: global norm; 0 = off.
      freeze: names that are never updated (and hold no moments).
      freeze_until_step: (name, step) pairs: parameters that begin to learn at that step, see `thawed_at`.
      rates: (name, factor) pairs: the first that matches scales the learning rate of that parameter.
      layer_decay: learning rate of a trunk's block over that of the next one, see `layer_rates`; multiplies `rates`. 1 = off.
      unit_norm: names (regular expression) of parameters whose rows keep norm 1, see `keep_unit_norm`.
      floors: (name, least value) pairs, see `keep_above`.

    Raises:
      ValueError: a pattern matches no parameter; see `layer_rates`.
    """
    layers = layer_rates(params, layer_decay) if layer_decay != 1 else []
    pairs = (("freeze", freeze), ("rates", [p for p, _ in rates]), ("freeze_until", [p for p, _ in freeze_until_step]))
    for what, patterns in pairs:
        trees.check_patterns_used(params, patterns, what)

    # Both go by name, not by position: under `freeze` they see trees without the frozen leaves.
    def decayed(tree):
        return trees.map_named(lambda name, _: not re.search(no_decay, name), tree)

    def scaled(name, update):
        first = (next((factor for p, factor in rules if re.search(p, name)), 1.0) for rules in (rates, layers))
        return update * math.prod(first)

    def moments():
        return optax.chain(optax.scale_by_adam(*betas, eps=eps), optax.add_decayed_weights(weight_decay, mask=decayed))

    chain = []
    if clip_norm:
        if freeze_until_step:  # a gradient that is not used has no part in the norm
            chain.append(thawed_at(freeze_until_step, optax.identity))
        chain.append(optax.clip_by_global_norm(clip_norm))
    chain.append(thawed_at(freeze_until_step, moments) if freeze_until_step else moments())
    chain.append(optax.scale_by_learning_rate(schedule))
    if rates or layers:
        chain.append(optax.stateless(lambda updates, _: trees.map_named(scaled, updates)))
    tx = optax.chain(*chain, keep_above(floors), keep_unit_norm(unit_norm))
    if not freeze:
        return tx
    labels = trees.match(params, [*((p, "frozen") for p in freeze), (".*", "trained")], "freeze rule")
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
