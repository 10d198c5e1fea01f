"""MLIP, reconstructed (CVPR 2024, arXiv 2402.02045; no program was published: FIDELITY.md says what is our reading).

Three levels of contrast (global with a divergence encoder, local token-knowledge-patch, knowledge-guided category) and
two proxy tasks (image-text matching with hard negatives, text swapping) on one fusion module.
"""
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.losses import contrastive, local, prototype, supervised
from medvlp_jax.method import Method
from medvlp_jax.methods import towers
from medvlp_jax.methods.mlip_module import MLIP
from medvlp_jax.models import layout, trunks
from medvlp_jax.models.heads import normalize


def objective(m: MLIP, batch: dict, table: jax.Array, rng: jax.Array, weights: dict, o) -> tuple[jax.Array, dict]:
    """Weighted sum of all terms on a global batch, and each term (specification of MLIP, "Total and recipe").

    Args:
      m: the bound module, in training mode.
      batch: as `input.pipeline` makes it, with normalised images. A row of has_report 0 takes part with image and labels only:
        its text is no pair, no negative, has no words and is in no statistics.
      table: frozen entity embeddings (K, T).
      weights: config.losses; o: config.objective.
    """
    on = {name for name, weight in weights.items() if weight}
    keys = dict(zip(("image", "text", "negatives"), jax.random.split(rng, 3), strict=True))
    valid = batch["has_report"]  # (B,)
    present = batch["labels"] == 1  # (B, K)
    mask = batch["attention_mask"]
    image = m.image_trunk(batch["image"], True)
    text = m.text_trunk(batch["input_ids"], mask, True)
    terms = {}
    v = t = None
    if on & {"global_contrast", "category", "matching", "kl"}:
        v, t = m.image_embedding(image, True), m.text_embedding(text, True, valid)  # (B, D)
    if on & {"global_contrast", "kl"}:
        reports = contrastive.report_keys(batch["input_ids"])  # (B, 2)
        terms.update(_global(m, v, t, valid, reports, keys, on, o))
    entities = m.entities(table) if on & {"alignment", "knowledge_patch", "category"} else None  # (K, D)
    if on & {"alignment", "knowledge_patch"}:
        patches = m.patch_embeddings(image, True)  # (B, N, D)
    if "alignment" in on:
        word_ids = jnp.where(valid[:, None] > 0, batch["word_ids"], -1)  # (B, M)
        words, attention, word_mask = local.aggregate_words(text["tokens"], word_ids, text["attention"])
        words = normalize(m.token_head(words, word_mask, train=True))  # (B, W, D)
        if o.knowledge_gate:
            context, _ = local.entity_context(words, entities, present, o.local_temperature)
            gate = nn.sigmoid(m.gate(jnp.concatenate([words, context], -1)))[..., 0]  # (B, W)
            words = local.knowledge_gate(words, context, gate, present)
        word_weights = local.percentile_clip(attention, word_mask)
        terms["alignment"] = local.token_patch_alignment(
            words, patches, word_weights, image["weights"], word_mask, o.local_temperature
        )
    if "knowledge_patch" in on:
        cosine, _ = local.knowledge_patch(entities, patches, o.local_temperature)
        terms["knowledge_patch"] = supervised.sigmoid_loss(m.knowledge_score(cosine), batch["labels"])
    if "category" in on:
        knowledge, has_knowledge = prototype.report_knowledge(entities, present)
        guidance = (m.category(knowledge), has_knowledge) if o.category_guidance else (None, None)
        terms["category"], _ = prototype.category_loss(
            m.category(v), m.category(t), *guidance, temperature=o.prototype_temperature,
            epsilon=o.sinkhorn_epsilon, iterations=o.sinkhorn_iterations, valid=valid, knowledge_weight=o.guidance_weight,
        )  # fmt: skip
    if "matching" in on:
        terms["matching"] = _matching(m, v, t, image, text, batch, keys["negatives"], o)
    if "swapping" in on:
        swapped = m.text_trunk(batch["swapped_ids"], batch["swapped_mask"], True)
        logits = m.swapping_head(m.fuse(swapped, batch["swapped_mask"], image, True))  # (B, M, 2)
        labels = jnp.where(valid[:, None] > 0, batch["swapped_labels"], jnp.int8(-1))
        terms["swapping"] = supervised.token_swap_loss(logits, labels)
    return sum(weights[name] * value for name, value in terms.items()), terms


def _temperature(m, o):
    """Temperature of the global contrast, fixed or learned."""
    return m.learned_temperature(o.temperature) if o.learn_temperature else o.temperature


def _global(m, v, t, valid, reports, keys, on, o):
    """InfoNCE of the embeddings and of their divergent views, averaged, and the KL term of both encoders."""
    temperature = _temperature(m, o)
    info_nce = contrastive.chosen(o.contrast_chunk, o.equal_reports)
    if not o.divergence:
        return {"global_contrast": info_nce(v, t, temperature, valid, reports)}
    v2, dv = m.image_divergence(v, jax.random.normal(keys["image"], v.shape))
    t2, dt = m.text_divergence(t, jax.random.normal(keys["text"], t.shape))
    terms = {}
    if "global_contrast" in on:
        pairs = ((v, t), (v2, t), (v, t2), (v2, t2))
        terms["global_contrast"] = sum(info_nce(a, b, temperature, valid, reports) for a, b in pairs) / len(pairs)
    if "kl" in on:
        sigma0 = m.divergence_noise / math.sqrt(m.embed_dim)
        kl_text = contrastive.kl_divergence(dt["mu"], dt["log_var"], sigma0, valid)
        terms["kl"] = 0.5 * (contrastive.kl_divergence(dv["mu"], dv["log_var"], sigma0) + kl_text)
    return terms


def _matching(m, v, t, image, text, batch, rng, o):
    """2-way loss on the fused [CLS] of true pairs and of hard negatives: another text for each image, and vice versa."""
    mask, valid = batch["attention_mask"], batch["has_report"] > 0

    def logits(text, mask, image):
        return m.matching_head(m.fuse(text, mask, image, True)[:, 0])  # (B, 2)

    group = matching_group(len(v), o.matching_group)
    reports = contrastive.report_keys(batch["input_ids"])  # (B, 2)
    other_text, other_image, found = hard_negatives(v, t, reports, valid, rng, _temperature(m, o), group)
    text2, mask2 = take_rows((text, mask), other_text)
    image2 = take_rows(image, other_image)
    true = supervised.matching_loss(logits(text, mask, image), jnp.ones(len(v), jnp.int32), valid)
    zeros = jnp.zeros(len(v), jnp.int32)
    false = supervised.matching_loss(logits(text2, mask2, image), zeros, found[0])
    false2 = supervised.matching_loss(logits(text, mask, image2), zeros, found[1])
    return (true + false + false2) / 3


def matching_group(batch: int, group: int) -> int:
    """How many consecutive rows look for hard negatives among each other: config.objective.matching_group.

    0 stands for the rows of a device. No group may straddle two devices, for then patches and tokens would be gathered, which
    are a hundred times larger than the embeddings.

    Raises:
      ValueError: the group does not divide the rows of a device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[axis] for axis in layout.BATCH if axis in mesh.axis_names)
    rows = max(batch // devices, 1)
    if group and rows % group:
        raise ValueError(f"objective.matching_group={group} does not divide the {rows} rows of a device (a batch of {batch} on "
                         f"{devices}); expected a divisor of {rows}, or 0 for all of them")
    return group or rows


def hard_negatives(v, t, reports, valid, rng, temperature, group: int):
    """Draws, for each image, another report and, for each report, another image, likelier the more alike they are.

    Rows look only at the `group` consecutive rows they are among (see `matching_group`). Equal reports are no negatives of
    each other.

    Args:
      v, t (B, D) unit; reports (B, G) keys that are equal for equal reports; valid (B,) bool.

    Returns:
      text_of_image, image_of_text: (B / group, group) int32 indices within the group;
      found: (B,) bool twice, false where a group has no usable negative.
    """
    v, t, reports, valid = (x.reshape(-1, group, *x.shape[1:]) for x in (v, t, reports, valid))
    similarity = jnp.einsum("gid,gjd->gij", v, t) / temperature  # (G, g, g) image i, text j
    allowed = (reports[:, :, None] != reports[:, None]).any(-1) & valid[:, :, None] & valid[:, None]
    logits = jax.lax.stop_gradient(jnp.where(allowed, similarity, -1e9))
    key_text, key_image = jax.random.split(rng)
    text_of_image = jax.random.categorical(key_text, logits)  # (G, g)
    image_of_text = jax.random.categorical(key_image, logits.swapaxes(1, 2))
    return text_of_image, image_of_text, (allowed.any(2).reshape(-1), allowed.any(1).reshape(-1))


def take_rows(tree, index: jax.Array):
    """Rows of (B, ...) arrays by their index (G, g) within consecutive groups."""
    pick = jax.vmap(lambda rows, i: rows[i])
    return jax.tree.map(lambda x: pick(x.reshape(*index.shape, *x.shape[1:]), index).reshape(x.shape), tree)


def make(config) -> Method:
    """MLIP as a `Method`, from config.model, .losses, .objective and .normalisation.

    `score_findings` and `ground` exist only if the knowledge_patch term has a weight: nothing else trains them.
    """
    weights, o = config.losses.to_dict(), config.objective
    model = towers.build(MLIP, config)
    method = towers.make_method(model, functools.partial(objective, weights=weights, o=o), config)

    def read(variables, batch):
        image = towers.normalised(batch, config)

        def fn(m):
            entities = m.entities(variables["knowledge"]["entities"])
            patches = m.patch_embeddings(m.image_trunk(image, False), False)
            cosine, maps = local.knowledge_patch(entities, patches, o.local_temperature)
            return m.knowledge_score(cosine), maps

        return towers.evaluated(model, fn, variables)

    def score_findings(variables, batch):
        return nn.sigmoid(read(variables, batch)[0])  # (B, K)

    def ground(variables, batch):
        maps = read(variables, batch)[1]  # (B, K, N)
        h, w = trunks.patch_grid(model.image_encoder, model.patch_stage, batch["image"].shape)
        return maps.reshape(*maps.shape[:2], h, w)  # (B, K, h, w)

    predict = method.predict
    if weights["knowledge_patch"]:
        predict = {**predict, "score_findings": score_findings, "ground": ground}
    elif not weights["alignment"]:
        predict = towers.without_patches(predict)
    return method._replace(predict=predict)
