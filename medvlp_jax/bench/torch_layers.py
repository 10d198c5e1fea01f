"""Plain torch versions of the trunks, the decoder and the heads, for `bench step` only: the usual way to write them."""
import torch
from torch import nn
from torch.nn import functional as F


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Packed projections and scaled_dot_product_attention; dropout on its weights only where `dropout` says so."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask=None, first_row=False):
        """x (B, N, C), mask (B, N) bool -> (B, N, C), head-mean weights of token 0 (B, N) without gradient if asked for."""
        q, k, v = (heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        mask = None if mask is None else mask[:, None, None]  # (B, 1, 1, N)
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = self.out(y.transpose(1, 2).flatten(2))
        if not first_row:
            return y
        with torch.no_grad():
            logits = q[:, :, :1] @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, heads, 1, N)
            logits = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
            return y, logits.softmax(-1)[:, :, 0].mean(1)


class CrossAttention(nn.Module):
    """Queries (B, Q, C) read memory (B, N, C)."""

    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x, memory):
        """-> (B, Q, C)."""
        q = heads(self.q(x), self.num_heads)
        k, v = (heads(part, self.num_heads) for part in self.kv(memory).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer layer: LayerNorm before each branch (ViT) or after it (BERT)."""

    def __init__(self, width, num_heads, mlp_dim, dropout, norm_eps, pre_norm):
        super().__init__()
        self.pre_norm, self.drop = pre_norm, nn.Dropout(dropout)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, norm_eps), nn.LayerNorm(width, norm_eps)
        self.attention = SelfAttention(width, num_heads)
        self.fc1, self.fc2 = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width)

    def forward(self, x, mask=None, last=False):
        """x (B, N, C) -> (B, N, C); with `last` also `SelfAttention`'s weights of token 0."""
        y = self.attention(self.attention_norm(x) if self.pre_norm else x, mask, last)
        y, row = y if last else (y, None)
        x = x + self.drop(y)
        x = x if self.pre_norm else self.attention_norm(x)
        y = self.fc2(F.gelu(self.fc1(self.mlp_norm(x) if self.pre_norm else x)))
        x = x + self.drop(y)
        x = x if self.pre_norm else self.mlp_norm(x)
        return (x, row) if last else x


class ViT(nn.Module):
    """Normalised images (B, 3, H, W) -> pooled (B, C), patches (B, N, C), weights (B, N) of the class token."""

    def __init__(self, image_size, patch_size, width, depth, num_heads, mlp_dim, dropout=0.0, norm_eps=1e-6):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, width))
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, mlp_dim, dropout, norm_eps, pre_norm=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, norm_eps)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)  # (B, N, C)
        x = self.drop(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed)
        for block in self.blocks[:-1]:
            x = block(x)
        x, row = self.blocks[-1](x, last=True)
        x = self.norm(x)
        return {"pooled": x[:, 0], "patches": x[:, 1:], "weights": row[:, 1:]}


class Bert(nn.Module):
    """Token ids and mask (B, M) -> tokens (B, M, C), attention (B, M) of [CLS] in the last layer."""

    def __init__(self, vocab_size, width, depth, num_heads, mlp_dim, max_positions=512, type_vocab=2, dropout=0.0,
                 norm_eps=1e-12):  # fmt: skip
        super().__init__()
        self.word, self.position = nn.Embedding(vocab_size, width), nn.Embedding(max_positions, width)
        self.token_type = nn.Embedding(type_vocab, width)
        for table in (self.word, self.position, self.token_type):
            nn.init.normal_(table.weight, std=0.02)
        self.norm, self.drop = nn.LayerNorm(width, norm_eps), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, mlp_dim, dropout, norm_eps, pre_norm=False) for _ in range(depth)
        )

    def forward(self, ids, mask):
        positions = torch.arange(ids.shape[1])
        x = self.word(ids) + self.position(positions) + self.token_type(torch.zeros_like(ids))
        x = self.drop(self.norm(x))
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x, row = self.blocks[-1](x, mask, last=True)
        return {"tokens": x, "attention": row}


class DecoderLayer(nn.Module):
    """Pre-norm: queries read each other, then memory; feed-forward with ReLU."""

    def __init__(self, width, num_heads, mlp_dim, dropout):
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = SelfAttention(width, num_heads, dropout)
        self.cross_attention = CrossAttention(width, num_heads, dropout)
        self.mlp_in, self.mlp_out, self.drop = nn.Linear(width, mlp_dim), nn.Linear(mlp_dim, width), nn.Dropout(dropout)

    def forward(self, x, memory, mask):
        x = x + self.drop(self.self_attention(self.norm_self(x), mask))
        x = x + self.drop(self.cross_attention(self.norm_cross(x), memory))
        return x + self.drop(self.mlp_out(self.drop(F.relu(self.mlp_in(self.norm_mlp(x))))))


class Decoder(nn.Module):
    """Queries (B, Q, C) that have read memory (B, N, C); mask (B, Q) of the queries that count."""

    def __init__(self, width, depth, num_heads, mlp_dim, dropout):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, memory, mask=None):
        for layer in self.layers:
            x = layer(x, memory, mask)
        return self.norm(x)


class Head(nn.Sequential):
    """Projection head on features (n, C) -> (n, D)."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs),
                         nn.BatchNorm1d(outputs, affine=False))  # fmt: skip


class Residual(nn.Module):
    """Bottleneck of a ResNet-50, stride on the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """Normalised images (B, 3, H, W) -> features of each stage; names are torchvision's."""

    def __init__(self, num_stages: int = 4, width: int = 64):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs, self.names = width, []
        for s, count in enumerate((3, 4, 6, 3)[:num_stages]):
            blocks = []
            for i in range(count):
                blocks.append(Residual(inputs, width * 2**s, 2 if s and not i else 1))
                inputs = 4 * width * 2**s
            self.names.append(f"layer{s + 1}")
            setattr(self, self.names[-1], nn.Sequential(*blocks))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x, out = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1), []
        for name in self.names:
            x = getattr(self, name)(x)
            out.append(x)
        return out
