"""The published classifiers on paper: names and shapes of their tensors, and their size."""

from typing import Dict, NamedTuple, Tuple

import torch
from torch import Tensor


class Published(NamedTuple):
    """Channels, blocks and scan's channels of the stages; figures with a head of 1000 classes."""

    dims: Tuple[int, ...]
    depths: Tuple[int, ...]
    inner: Tuple[int, ...]
    parameters: int
    tensors: int


D96, D128 = (96, 192, 384, 768), (128, 256, 512, 1024)
I192, I256 = (192, 384, 768, 1536), (256, 512, 1024, 2048)
PUBLISHED = {
    'tiny': Published(D96, (2, 2, 8, 2), D96, 30_249_064, 276),
    'tiny-s2l5': Published(D96, (2, 2, 5, 2), I192, 30_705_832, 222),
    'small': Published(D96, (2, 2, 15, 2), I192, 50_147_752, 402),
    'base': Published(D128, (2, 2, 15, 2), I256, 88_557_800, 402),
    'small-s1l20': Published(D96, (2, 2, 20, 2), D96, 49_012_840, 492),
    'base-s1l20': Published(D128, (2, 2, 20, 2), D128, 86_614_504, 492),
}


def shapes(name: str) -> Dict[str, Tuple[int, ...]]:
    """Of every tensor in the file of a published classifier."""
    dims, depths, inner, _, _ = PUBLISHED[name]
    d = dims[0]
    found = {
        'patch_embed.0.weight': (d // 2, 3, 3, 3),
        'patch_embed.0.bias': (d // 2,),
        'patch_embed.2.weight': (d // 2,),
        'patch_embed.2.bias': (d // 2,),
        'patch_embed.5.weight': (d, d // 2, 3, 3),
        'patch_embed.5.bias': (d,),
        'patch_embed.7.weight': (d,),
        'patch_embed.7.bias': (d,),
        'classifier.norm.weight': (8 * d,),
        'classifier.norm.bias': (8 * d,),
        'classifier.head.weight': (1000, 8 * d),
        'classifier.head.bias': (1000,),
    }
    for i, (c, depth, D) in enumerate(zip(dims, depths, inner)):
        rank = c // 16
        block = {
            'norm.weight': (c,),
            'norm.bias': (c,),
            'norm2.weight': (c,),
            'norm2.bias': (c,),
            'op.x_proj_weight': (4, rank + 2, D),
            'op.dt_projs_weight': (4, D, rank),
            'op.dt_projs_bias': (4, D),
            'op.A_logs': (4 * D, 1),
            'op.Ds': (4 * D,),
            'op.out_norm.weight': (D,),
            'op.out_norm.bias': (D,),
            'op.in_proj.weight': (D, c),
            'op.conv2d.weight': (D, 1, 3, 3),
            'op.out_proj.weight': (c, D),
            'mlp.fc1.weight': (4 * c, c),
            'mlp.fc1.bias': (4 * c,),
            'mlp.fc2.weight': (c, 4 * c),
            'mlp.fc2.bias': (c,),
        }
        for j in range(depth):
            found.update({f'layers.{i}.blocks.{j}.{key}': shape for key, shape in block.items()})
        if i < 3:
            found[f'layers.{i}.downsample.1.weight'] = (2 * c, c, 3, 3)
            for key in ('1.bias', '3.weight', '3.bias'):
                found[f'layers.{i}.downsample.{key}'] = (2 * c,)
    return found


def state_dict(name: str) -> Dict[str, Tensor]:
    """A state dict of that layout, at random and of a size that keeps features finite."""
    state = {}
    for key, shape in shapes(name).items():
        state[key] = 0.02 * torch.randn(shape)
        if 'norm' in key or key.startswith(('patch_embed.2', 'patch_embed.7')):
            state[key] += key.endswith('weight')
    return state
