"""The published networks, written down anew from their papers, under the keys of their files.

They are what architecture and converter are compared with; small sizes serve.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        n, length, dim = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, length, dim))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class HalfNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.IN, self.BN = nn.InstanceNorm2d(32, affine=True), nn.BatchNorm2d(32)

    def forward(self, x):
        return torch.cat([self.IN(x[:, :32]), self.BN(x[:, 32:])], 1)


class PatchEmbed(nn.Module):
    def __init__(self, dim, stride, ics):
        super().__init__()
        if ics:
            self.conv = nn.Sequential(
                nn.Conv2d(3, 64, 7, 2, 3, bias=False),
                HalfNorm(),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1, 1, bias=False),
                HalfNorm(),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3, 1, 1, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(),
            )
            self.proj = nn.Conv2d(64, dim, 8, 8)
        else:
            self.conv = nn.Identity()
            self.proj = nn.Conv2d(3, dim, 16, stride)

    def forward(self, x):
        return self.proj(self.conv(x)).flatten(2).transpose(1, 2)


class Base(nn.Module):
    def __init__(self, dim, depth, heads, tokens, stride, cameras, ics):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, dim))
        if cameras:
            self.sie_embed = nn.Parameter(torch.randn(cameras, 1, dim))
        self.patch_embed = PatchEmbed(dim, stride, ics)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc = nn.Linear(dim, 1000)  # in the files, and in no computation

    def tokens(self, x, cameras):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return x if cameras is None else x + 3.0 * self.sie_embed[cameras]


class TransReID(nn.Module):
    """TransReID and TransReID-SSL; with ``jpm`` it ends in b1 and b2."""

    def __init__(
        self,
        persons,
        dim=24,
        depth=3,
        heads=3,
        tokens=33,
        stride=16,
        cameras=0,
        jpm=False,
        ics=False,
    ):
        super().__init__()
        self.jpm = jpm
        self.base = Base(dim, depth, heads, tokens, stride, cameras, ics)
        if jpm:
            for name in ('b1', 'b2'):
                branch = nn.Sequential(Block(dim, heads), nn.LayerNorm(dim, eps=1e-6))
                setattr(self, name, branch)
        for ending in ['', '_1', '_2', '_3', '_4'][: 5 if jpm else 1]:
            setattr(self, f'bottleneck{ending}', nn.BatchNorm1d(dim))
            setattr(self, f'classifier{ending}', nn.Linear(dim, persons, bias=False))
        randomize(self)

    def forward(self, x, cameras=None):
        x = self.base.tokens(x, cameras)
        if not self.jpm:
            for block in self.base.blocks:
                x = block(x)
            return (self.base.norm(x)[:, 0],)
        for block in self.base.blocks[:-1]:
            x = block(x)
        count = x.shape[1] - 1
        # The first patch is the fifth; then the halves in turn.
        order = [(i + 4) % count for i in range(count)]
        if count % 2:
            order.append(order[-2])
        half = len(order) // 2
        order = [order[i] for pair in zip(range(half), range(half, 2 * half)) for i in pair]
        patches, cls = x[:, 1:][:, order], x[:, :1]
        length = count // 4
        parts = [patches[:, i * length : (i + 1) * length] for i in range(4)]
        local = [self.b2(torch.cat([cls, part], 1))[:, 0] for part in parts]
        return (self.b1(x)[:, 0], *local)

    def test_feature(self, x, cameras=None):
        first, *local = self(x, cameras)
        return torch.cat([first, *(f / 4 for f in local)], 1)


class ClipBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict(dict(c_fc=nn.Linear(dim, 4 * dim), c_proj=nn.Linear(4 * dim, dim)))

    def forward(self, x, mask=None):  # (L, N, C)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.mlp['c_fc'](self.ln_2(x))
        return x + self.mlp['c_proj'](y * torch.sigmoid(1.702 * y))


class Transformer(nn.Module):
    def __init__(self, dim, depth, heads):
        super().__init__()
        self.resblocks = nn.ModuleList(ClipBlock(dim, heads) for _ in range(depth))


class ImageEncoder(nn.Module):
    def __init__(self, dim, depth, heads, tokens, stride, out):
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 16, stride, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn(tokens, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = Transformer(dim, depth, heads)
        self.proj = nn.Parameter(torch.randn(dim, out))

    def forward(self, x, camera_term=None):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(len(x), 1, -1)
        if camera_term is not None:
            cls = cls + camera_term[:, None]
        x = self.ln_pre(torch.cat([cls, x], 1) + self.positional_embedding).transpose(0, 1)
        for block in self.transformer.resblocks[:-1]:
            x = block(x)
        last = self.ln_post(self.transformer.resblocks[-1](x))
        return x[0], last[0], (last @ self.proj)[0]


class TextTower(nn.Module):
    def __init__(self, dim, depth, out):
        super().__init__()
        self.transformer = Transformer(dim, depth, dim // 64)
        self.positional_embedding = nn.Parameter(torch.randn(77, dim))
        self.ln_final = nn.LayerNorm(dim)
        self.text_projection = nn.Parameter(torch.randn(dim, out))

    def forward(self, prompts, end=11):
        x = (prompts + self.positional_embedding).transpose(0, 1)
        mask = torch.full((77, 77), float('-inf')).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x.transpose(0, 1))[:, end] @ self.text_projection


class PromptLearner(nn.Module):
    def __init__(self, persons, dim):
        super().__init__()
        self.cls_ctx = nn.Parameter(torch.randn(persons, 4, dim))
        self.register_buffer('token_prefix', torch.randn(1, 5, dim))
        self.register_buffer('token_suffix', torch.randn(1, 68, dim))

    def forward(self, labels):
        n = len(labels)
        around = (self.token_prefix.expand(n, -1, -1), self.token_suffix.expand(n, -1, -1))
        return torch.cat([around[0], self.cls_ctx[labels], around[1]], 1)


class ClipReID(nn.Module):
    def __init__(
        self,
        persons,
        dim=24,
        depth=3,
        heads=3,
        tokens=33,
        stride=16,
        cameras=2,
        out=16,
        text=(64, 2),
    ):
        super().__init__()
        self.image_encoder = ImageEncoder(dim, depth, heads, tokens, stride, out)
        self.cv_embed = nn.Parameter(torch.randn(cameras, dim))
        self.bottleneck, self.bottleneck_proj = nn.BatchNorm1d(dim), nn.BatchNorm1d(out)
        self.classifier = nn.Linear(dim, persons, bias=False)
        self.classifier_proj = nn.Linear(out, persons, bias=False)
        self.text_encoder = TextTower(*text, out)
        self.prompt_learner = PromptLearner(persons, text[0])
        randomize(self)

    def forward(self, x, cameras=None):
        term = None if cameras is None else 1.0 * self.cv_embed[cameras]
        return self.image_encoder(x, term)

    def test_feature(self, x, cameras=None):
        return torch.cat(self(x, cameras)[1:], 1)

    def text_features(self):
        persons = torch.arange(len(self.prompt_learner.cls_ctx))
        return self.text_encoder(self.prompt_learner(persons))


def denoiserep(state: dict) -> dict:
    """What DenoiseRep's authors save: the SSL keys and their denoisers' beside each fc."""
    out = dict(state)
    for key, value in state.items():
        if '.mlp.fc' in key and key.endswith('.weight'):
            layer, channels = key[: -len('weight')], value.shape[1]
            out[f'{layer}dm.weight'] = torch.randn(channels, channels)
            out[f'{layer}dm.bias'] = torch.randn(channels)
            for i in (1, 3):
                out[f'{layer}time_mlp.{i}.weight'] = torch.randn(channels, channels)
                out[f'{layer}time_mlp.{i}.bias'] = torch.randn(channels)
            for name in ('betas', 'alphas_cumprod', 'posterior_variance'):
                out[f'{layer}{name}'] = torch.rand(1000)
    return out


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Weights of a trained network's size; norms that do something."""
    for name, value in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            value.fill_(7)
        elif name.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif value.ndim > 1 and 'embed' not in name and 'token' not in name:
            value.normal_(std=value[0].numel() ** -0.5)
        elif name.endswith('weight'):
            value.uniform_(0.5, 1.5)
        else:
            value.normal_(std=0.3)


def images(n: int = 3, size=(128, 64), seed: int = 0) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed))
