"""Plain-torch models with exactly the parameter names of torchvision's ResNet and timm's VisionTransformer.

Written from the papers and the published lists of names, for machines with torch but without those two packages; where they
are installed, the tests hold these against them.
"""
import torch
from torch import nn
from torch.nn import functional as F

COUNTS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class ResidualBlock(nn.Module):
    """`sizes`: (outputs, kernel, stride) of each convolution."""

    def __init__(self, inputs: int, sizes):
        super().__init__()
        self.depth, before = len(sizes), inputs
        for i, (outputs, kernel, stride) in enumerate(sizes, start=1):
            setattr(self, f"conv{i}", conv(before, outputs, kernel, stride))
            setattr(self, f"bn{i}", nn.BatchNorm2d(outputs))
            before = outputs
        stride = max(s for _, _, s in sizes)
        self.downsample = None
        if stride > 1 or before != inputs:
            self.downsample = nn.Sequential(conv(inputs, before, 1, stride), nn.BatchNorm2d(before))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's resnet18 and resnet50 without `fc`, of any width; forward gives the mean over positions."""

    def __init__(self, depth: int, width: int = 64):
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(COUNTS[depth]):
            f, blocks = width * 2**stage, []
            for i in range(count):
                s = 2 if stage and not i else 1
                sizes = ((f, 3, s), (f, 3, 1)) if depth == 18 else ((f, 1, 1), (f, 3, s), (4 * f, 1, 1))
                blocks.append(ResidualBlock(inputs, sizes))
                inputs = sizes[-1][0]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Identity()

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, scaled: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential()
        for name, layer in (("fc1", nn.Linear(width, hidden)), ("act", nn.GELU()), ("fc2", nn.Linear(hidden, width))):
            self.mlp.add_module(name, layer)
        self.ls1, self.ls2 = (Scale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """timm's VisionTransformer without `head`, with DINOv2's layer scale if `scaled`; forward gives (B, 1 + N, C)."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, hidden: int, scaled: bool):
        super().__init__()
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, width, patch, patch))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads, hidden, scaled) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.norm(self.blocks(x))
