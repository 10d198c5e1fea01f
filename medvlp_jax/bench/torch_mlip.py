"""MLIP's model and losses in plain torch, for `bench step` only: the same terms as `methods.mlip`, term by term."""
import math

import torch
from torch import nn
from torch.nn import functional as F

from medvlp_jax.bench import torch_layers as layers


def masked_mean(values, mask):
    """Mean of the values that count, 0 without any."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def two_way(logits, labels):
    """Cross-entropy of (..., 2) over the labels that are 0 or 1."""
    labels = labels.long()
    return F.cross_entropy(logits.flatten(0, -2), labels.masked_fill((labels != 0) & (labels != 1), -100).flatten())


def info_nce(a, b, temperature):
    """Both directions, averaged."""
    logits, right = a @ b.T / temperature, torch.arange(len(a))
    return 0.5 * (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right))


@torch.no_grad()
def clipped(weights, mask):
    """(B, T) weights between their 10th and 90th percentile among the mask, rows of sum 1."""
    q = torch.tensor([0.1, 0.9])
    low, high = torch.nanquantile(weights.masked_fill(~mask, torch.nan), q, dim=1, keepdim=True).nan_to_num()
    weights = weights.clamp(low, high) * mask
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)


def words_of(tokens, word_ids, attention):
    """Sums of word pieces: words (B, W, C), their attention (B, W) and mask (B, W)."""
    index = word_ids.long().masked_fill(word_ids < 0, word_ids.shape[1])  # the last slot takes what is no word
    slots = tokens.new_zeros(len(tokens), index.shape[1] + 1, tokens.shape[-1])
    words = slots.scatter_add(1, index[..., None].expand_as(tokens), tokens)[:, :-1]
    total = attention.new_zeros(slots.shape[:2]).scatter_add(1, index, attention)[:, :-1]
    mask = torch.zeros(slots.shape[:2], dtype=torch.bool).scatter(1, index, True)[:, :-1]
    return words, total, mask


def diagonal(rows, attended, weights, mask, temperature):
    """(B,) weighted cross-entropies of rows (B, T, D) against what they read, both directions."""
    logits = (rows @ attended.transpose(1, 2) / temperature).masked_fill(~(mask[:, :, None] & mask[:, None]), -1e30)
    positive = logits.diagonal(dim1=1, dim2=2)
    ce = 0.5 * (logits.logsumexp(2) + logits.logsumexp(1)) - positive
    return (ce.masked_fill(~mask, 0.0) * weights).sum(1)


def alignment(words, patches, word_weights, patch_weights, mask, temperature):
    """Words read patches and patches words; each has to know what it read itself."""
    words = words * mask[..., None]
    similarity = words @ patches.transpose(1, 2) / temperature  # (B, W, N)
    by_words = F.normalize(similarity.softmax(-1) @ patches, dim=-1)
    by_patches = F.normalize(similarity.masked_fill(~mask[..., None], -1e30).transpose(1, 2).softmax(-1) @ words, dim=-1)
    everything = torch.ones(patches.shape[:2], dtype=torch.bool)
    both = diagonal(words, by_words, word_weights, mask, temperature)
    both = both + diagonal(patches, by_patches, patch_weights, everything, temperature)
    return masked_mean(both, mask.any(1))


@torch.no_grad()
def sinkhorn(scores, valid, epsilon, iterations):
    """Balanced codes (B, C)."""
    logits = (scores / epsilon).masked_fill(~valid[:, None], 0.0)
    row, outside = logits.new_zeros(len(logits)), ~valid[:, None]
    for _ in range(iterations):
        column = -(logits + row[:, None]).masked_fill(outside, -1e30).logsumexp(0)
        row = -(logits + column).logsumexp(1)
    return (logits + column).softmax(1)


class Divergence(nn.Module):
    """Gaussian around an embedding (B, D) -> a view of it, mu, log sigma^2 - log sigma0^2."""

    def __init__(self, dim: int):
        super().__init__()
        self.hidden_layer, self.mu, self.offset = (nn.Linear(dim, dim) for _ in range(3))
        for layer in (self.mu, self.offset):
            nn.init.normal_(layer.weight, std=1e-3)
        self.sigma0 = 0.3 / math.sqrt(dim)

    def forward(self, z, eps):
        h = F.relu(self.hidden_layer(z))
        mu, offset = self.mu(h), self.offset(h)
        return F.normalize(z + mu + self.sigma0 * torch.exp(0.5 * offset) * eps, dim=-1), mu, offset

    def kl(self, mu, offset, valid):
        """KL to the prior, mean over the rows that count."""
        kl = 0.5 * (offset.exp() + mu * mu / self.sigma0**2 - 1 - offset).sum(1)
        return masked_mean(kl, valid)


class MLIP(nn.Module):
    """Both towers and everything between them. fields: of the config's model; objective, losses: of the config."""

    def __init__(self, image, text, fields, objective, losses, table_width):
        super().__init__()
        self.o, self.weights, f = objective, losses, fields
        self.image_encoder, self.text_encoder = layers.ViT(**image), layers.Bert(**text)
        widths = {"image": image["width"], "patch": image["width"], "text": text["width"], "token": text["width"]}
        self.heads = nn.ModuleDict({k: layers.Head(w, f["hidden"], f["embed_dim"]) for k, w in widths.items()})
        self.prototypes = nn.Parameter(torch.randn(f["num_prototypes"], f["embed_dim"]))
        self.image_divergence, self.text_divergence = (Divergence(f["embed_dim"]) for _ in range(2))
        self.entity_projection, self.gate = nn.Linear(table_width, f["embed_dim"]), nn.Linear(2 * f["embed_dim"], 1)
        width = f["fusion_width"]
        self.fusion_text, self.fusion_image = nn.Linear(text["width"], width), nn.Linear(image["width"], width)
        self.fusion = layers.Decoder(width, f["fusion_depth"], f["fusion_heads"], f["fusion_mlp_dim"], f["dropout"])
        self.matching_head, self.swapping_head = nn.Linear(width, 2), nn.Linear(width, 2)
        self.scale, self.bias = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-5.0))

    def fuse(self, tokens, mask, patches):
        """(B, M, fusion width)."""
        return self.fusion(self.fusion_text(tokens), self.fusion_image(patches), mask)

    def forward(self, batch, table, noise=None):
        """Weighted sum of the terms of a batch of tensors; noise: (B, D) twice, of the divergence encoders."""
        o, labels, valid = self.o, batch["labels"], batch["has_report"] > 0
        present = (labels == 1) & valid[:, None]  # (B, K)
        mask = batch["attention_mask"] > 0
        image, text = self.image_encoder(batch["image"]), self.text_encoder(batch["input_ids"], mask)
        patches, tokens = image["patches"], text["tokens"]
        v = F.normalize(self.heads["image"](image["pooled"]), dim=-1)
        t = F.normalize(self.heads["text"](tokens[:, 0]), dim=-1)  # (B, D)
        terms = {}

        noise = (torch.randn_like(v), torch.randn_like(t)) if noise is None else noise
        v2, *dv = self.image_divergence(v, noise[0])
        t2, *dt = self.text_divergence(t, noise[1])
        pairs = [(a[valid], b[valid]) for a, b in ((v, t), (v2, t), (v, t2), (v2, t2))]
        terms["global_contrast"] = sum(info_nce(a, b, o["temperature"]) for a, b in pairs) / 4
        everyone = torch.ones_like(valid)
        terms["kl"] = 0.5 * (self.image_divergence.kl(*dv, everyone) + self.text_divergence.kl(*dt, valid))

        entities = F.normalize(self.entity_projection(table), dim=-1)  # (K, D)
        p = F.normalize(self.heads["patch"](patches.flatten(0, 1)).view(*patches.shape[:2], -1), dim=-1)  # (B, N, D)
        words, attention, word_mask = words_of(tokens, batch["word_ids"], text["attention"])
        projected = words.new_zeros(*words.shape[:2], p.shape[-1])
        projected[word_mask] = F.normalize(self.heads["token"](words[word_mask]), dim=-1)
        words = projected
        similarity = (words @ entities.T / o["local_temperature"]).masked_fill(~present[:, None], -1e30)
        context = (similarity.softmax(-1) * present[:, None]) @ entities  # (B, W, D)
        gate = torch.sigmoid(self.gate(torch.cat([words, context], -1)))
        words = torch.where(present.any(1)[:, None, None], F.normalize(words + gate * context, dim=-1), words)
        weights = clipped(attention, word_mask), clipped(image["weights"], torch.ones(p.shape[:2], dtype=torch.bool))
        terms["alignment"] = alignment(words, p, *weights, word_mask, o["local_temperature"])

        maps = (entities @ p.transpose(1, 2) / o["local_temperature"]).softmax(-1)  # (B, K, N)
        cosine = (F.normalize(maps @ p, dim=-1) * entities).sum(-1)
        logits, known = self.scale * cosine + self.bias, (labels == 0) | (labels == 1)
        bce = F.binary_cross_entropy_with_logits(logits, (labels == 1).float(), reduction="none")
        terms["knowledge_patch"] = masked_mean(bce, known)

        terms["category"] = self.category(v, t, entities, present, valid)
        terms["matching"] = self.matching(v, t, batch["input_ids"], tokens, mask, patches, valid)
        swapped_mask = batch["swapped_mask"] > 0
        swapped = self.text_encoder(batch["swapped_ids"], swapped_mask)["tokens"]
        terms["swapping"] = two_way(self.swapping_head(self.fuse(swapped, swapped_mask, patches)), batch["swapped_labels"])
        return sum(self.weights[name] * value for name, value in terms.items()), terms

    def category(self, v, t, entities, present, valid):
        """Swapped prediction of prototype codes, and the knowledge's codes for both."""
        o, unit = self.o, F.normalize(self.prototypes, dim=-1)
        guided = present.any(1)
        knowledge = F.normalize(present.float() @ entities, dim=-1)
        scores, masks = [x @ unit.T for x in (v, t, knowledge)], (valid, valid, guided)
        codes = [sinkhorn(s, m, o["sinkhorn_epsilon"], o["sinkhorn_iterations"]) for s, m in zip(scores, masks, strict=True)]
        image, text = ((s / o["prototype_temperature"]).log_softmax(1) for s in scores[:2])

        def both(of_image, of_text, mask):
            return 0.5 * (masked_mean(-(of_image * text).sum(1), mask) + masked_mean(-(of_text * image).sum(1), mask))

        return both(codes[0], codes[1], valid) + both(codes[2], codes[2], guided)

    def matching(self, v, t, ids, tokens, mask, patches, valid):
        """True pairs against hard negatives, drawn among groups of neighbours."""
        group = self.o["matching_group"]
        v, t, i, ok = (x.detach().unflatten(0, (-1, group)) for x in (v, t, ids, valid))
        allowed = (i[:, :, None] != i[:, None]).any(-1) & ok[:, :, None] & ok[:, None]
        logits = (v @ t.transpose(1, 2) / self.o["temperature"]).masked_fill(~allowed, -1e9)
        first = torch.arange(0, len(valid), group)[:, None]

        def draw(logits):
            return (torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(-1, group) + first).flatten()

        text, image = draw(logits), draw(logits.transpose(1, 2))
        total = 0.0
        for this, that, other, counts, label in (
            (tokens, mask, patches, valid, 1),
            (tokens[text], mask[text], patches, allowed.any(2).flatten(), 0),
            (tokens, mask, patches[image], allowed.any(1).flatten(), 0),
        ):
            logits = self.matching_head(self.fuse(this, that, other)[:, 0])
            total = total + masked_mean(F.cross_entropy(logits, torch.full((len(valid),), label), reduction="none"), counts)
        return total / 3
