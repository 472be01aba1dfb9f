"""The backbone VMamba, registered with MMEngine."""

from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import VSSBlock, channels_first, downsample, patch_embed


class Arch(NamedTuple):
    """An architecture: channels of the first stage, blocks of each stage, and of the scan."""

    embed_dims: int
    depths: Tuple[int, int, int, int]
    ssm_ratio: int
    d_state: int = 1


#: The published second version's models; in brackets their names there.
ARCHS = {
    'tiny': Arch(96, (2, 2, 8, 2), 1),  # T[s1l8]
    'tiny-s2l5': Arch(96, (2, 2, 5, 2), 2),  # T[s2l5]
    'small': Arch(96, (2, 2, 15, 2), 2),  # S[s2l15]
    'base': Arch(128, (2, 2, 15, 2), 2),  # B[s2l15]
    'small-s1l20': Arch(96, (2, 2, 20, 2), 1),  # S[s1l20]
    'base-s1l20': Arch(128, (2, 2, 20, 2), 1),  # B[s1l20]
}


@MODELS.register_module()
class VMamba(BaseModule):
    """VMamba: a hierarchical backbone of 2D selective scans.

    `VMamba: Visual State Space Model <https://arxiv.org/abs/2401.10166>`_, in its second version
    (``forward_type`` v05_noz). Module names and shapes are those of the published checkpoints.
    Takes images of any size; a stage halves it, rounding up.

    Args:
        arch (str | dict): A key of :data:`ARCHS`, or the fields of :class:`Arch`. Defaults to
            'tiny'.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int]): Stages whose features are returned, each behind a LayerNorm
            of its own, ``outnorm{i}``; -1 is the last. Defaults to (3,).
        drop_path_rate (float): Stochastic depth of the last block, growing from 0. Defaults to 0.
        frozen_stages (int): Number of stages that do not train, and with them the stem; 0
            freezes the stem alone, -1 nothing. Defaults to -1.
        with_cp (bool): Whether training keeps the inputs of blocks only and computes the rest
            again. Defaults to False.
        init_cfg (dict, optional): See :class:`mmengine.model.BaseModule`.

    Raises:
        ValueError: If the architecture or a stage does not exist.

    Examples:
        >>> VMamba('tiny')(torch.zeros(1, 3, 224, 224))[0].shape
        torch.Size([1, 768, 7, 7])
    """

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (3,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        if isinstance(arch, str):
            if arch not in ARCHS:
                raise ValueError(f'arch must be one of {list(ARCHS)} or a dict, got {arch!r}')
            self.arch = ARCHS[arch]
        else:
            self.arch = Arch(**arch)
        stages = len(self.arch.depths)
        if not out_indices or not all(-stages <= i < stages for i in out_indices):
            raise ValueError(f'out_indices must be in -{stages}..{stages - 1}, got {out_indices}')
        if not -1 <= frozen_stages <= stages:
            raise ValueError(f'frozen_stages must be in -1..{stages}, got {frozen_stages}')
        self.out_indices = sorted({i % stages for i in out_indices})
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        dims = [self.arch.embed_dims * 2**i for i in range(stages)]
        rates = torch.linspace(0, drop_path_rate, sum(self.arch.depths), device='cpu').split(
            list(self.arch.depths)
        )
        self.patch_embed = patch_embed(in_channels, dims[0])
        self.layers = nn.ModuleList()
        for i, dim in enumerate(dims):
            blocks = [
                VSSBlock(dim, self.arch.ssm_ratio, self.arch.d_state, rate)
                for rate in rates[i].tolist()
            ]
            layer = nn.Module()
            layer.blocks = nn.Sequential(*blocks)
            layer.downsample = downsample(dim) if i < stages - 1 else nn.Identity()
            self.layers.append(layer)
        for i in self.out_indices:
            self.add_module(f'outnorm{i}', nn.LayerNorm(dims[i]))
        self.to_channels_first = channels_first()
        self.apply(_init_linear)
        self._freeze()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images, (B, C, H, W).

        Returns:
            tuple[Tensor, ...]: Of stage i (B, embed_dims * 2**i, H', W') with
            H' = ceil(H / 2**(i + 2)), in the stages' order.
        """
        # From here on a view with the channels first costs nothing.
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        outs = []
        last = self.out_indices[-1]
        for i, layer in enumerate(self.layers[: last + 1]):
            for block in layer.blocks:
                # As OpenMMLab's backbones do: blocks behind nothing that trains need no checkpoint.
                if self.with_cp and x.requires_grad:
                    x = checkpoint(block, x, use_reentrant=True)
                else:
                    x = block(x)
            if i in self.out_indices:
                norm = getattr(self, f'outnorm{i}')
                outs.append(self.to_channels_first(norm(x)).contiguous())
            if i < last:
                x = layer.downsample(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'VMamba':
        """Switch the mode; frozen stages stay in evaluation."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, *self.layers[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
