"""MedKLIP's model and losses in plain torch, for `bench step` only: the same as `methods.medklip`."""
import torch
from torch import nn
from torch.nn import functional as F

from medvlp_jax.bench import torch_layers as layers
from medvlp_jax.bench.torch_mlip import masked_mean, two_way


class MedKLIP(nn.Module):
    """Entity queries read a ResNet-50's patches. image: num_stages and width; fields, losses: of the config."""

    def __init__(self, image, fields, losses, table_width):
        super().__init__()
        f, self.weights, self.stage = fields, losses, fields["patch_stage"]
        self.image_encoder = layers.ResNet50(**image)
        channels = 4 * image["width"] * 2 ** (self.stage - 1)
        self.patch_hidden, self.patch_projection = nn.Linear(channels, channels), nn.Linear(channels, f["width"])
        self.query_projection = nn.Linear(table_width, f["width"])
        self.decoder = layers.Decoder(f["width"], f["depth"], f["num_heads"], f["mlp_dim"], f["dropout"])
        self.drop = nn.Dropout(f["dropout"])
        self.existence_head, self.location_head = nn.Linear(f["width"], 2), nn.Linear(f["width"], table_width)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=f["init_std"])

    def forward(self, batch, entities, positions):
        """Weighted sum of the losses of a batch of tensors and each term, from the two tables (K, T), (A, T)."""
        x = self.image_encoder(batch["image"])[self.stage - 1].flatten(2).transpose(1, 2)  # (B, N, C)
        patches = self.patch_projection(F.relu(self.patch_hidden(x)))
        queries = self.query_projection(entities).expand(len(x), -1, -1)
        x, labels = self.drop(self.decoder(queries, patches)), batch["labels"]
        terms = {"existence": two_way(self.existence_head(x), labels)}
        candidates = positions[batch["positions"].long()]  # (B, K, 8, T)
        logits = torch.einsum("bkt,bkpt->bkp", self.location_head(x), candidates)
        terms["location"] = masked_mean(-logits.log_softmax(-1)[..., 0], labels == 1)
        return sum(self.weights[name] * value for name, value in terms.items()), terms
