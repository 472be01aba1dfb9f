"""MMPretrain's Vision Transformer with what re-identification adds to it.

Cameras (SIE), overlapping patches, part features (JPM), the ICS stem and CLIP's outputs. Each is
an option; without any, :class:`ReIDViT` is MMPretrain's network with its state dict keys.
"""

import copy
import math
from typing import Any, Optional, Sequence, Tuple, Union

import torch
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ReIDViT(VisionTransformer):
    r"""The Vision Transformers of TransReID, TransReID-SSL and CLIP-ReID.

    - He et al., "TransReID: Transformer-based Object Re-Identification", ICCV 2021: patches that
      overlap (``stride`` 12), side information embeddings (SIE) of the camera, added to all tokens
      as :math:`\lambda\,e_{camera}`, and the jigsaw patch module (JPM): patch tokens before the
      last layer are shifted, shuffled and cut into ``parts`` groups, each of which passes one
      more layer together with the class token.
    - Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification",
      2021: a convolutional stem with instance and batch norms (``stem='ics'``).
    - Li et al., "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without
      Concrete Text Labels", AAAI 2023: CLIP's image encoder, its camera embedding added to the
      class token, and three outputs.

    Args:
        arch (str | dict): See :class:`mmpretrain.models.VisionTransformer`. Defaults to 'base'.
        img_size (int | tuple[int, int]): Height and width. Defaults to (256, 128).
        stride (int): Stride of the patches, which are 16 x 16. Defaults to 16.
        num_cameras (int): Cameras with an embedding; 0 for none. Defaults to 0.
        camera_scale (float): :math:`\lambda`. Defaults to 3.0.
        camera_tokens (str): Tokens that the embedding is added to, 'all' or 'cls'. Defaults to
            'all'.
        stem (str, optional): 'ics' for the convolutional stem. Defaults to none.
        parts (int): JPM's local features; 0 for none. Defaults to 0.
        projection (int, optional): Channels of CLIP's projection. Defaults to none.
        interpolate_mode (str): How position embeddings are resized. Defaults to 'bilinear'.
        **kwargs: Arguments of :class:`mmpretrain.models.VisionTransformer`.

    Raises:
        ValueError: If an option is unknown, or two do not go together.
    """

    def __init__(
        self,
        arch: Union[str, dict] = 'base',
        img_size: Union[int, Tuple[int, int]] = (256, 128),
        stride: int = 16,
        num_cameras: int = 0,
        camera_scale: float = 3.0,
        camera_tokens: str = 'all',
        stem: Optional[str] = None,
        parts: int = 0,
        projection: Optional[int] = None,
        interpolate_mode: str = 'bilinear',
        **kwargs: Any,
    ) -> None:
        if camera_tokens not in ('all', 'cls'):
            raise ValueError(f"camera_tokens must be 'all' or 'cls', got {camera_tokens!r}")
        if stem not in (None, 'ics'):
            raise ValueError(f"stem must be None or 'ics', got {stem!r}")
        if stem and stride != 16:
            raise ValueError('the ICS stem has a stride of 16')
        if parts and projection:
            raise ValueError('parts (TransReID) and projection (CLIP-ReID) are of two models')
        super().__init__(
            arch=arch,
            img_size=img_size,
            interpolate_mode=interpolate_mode,
            # mmcv pads at the corner by default: 22 x 11 patches in place of 21 x 10.
            patch_cfg=dict(stride=stride, padding=0),
            **kwargs,
        )
        self.num_cameras = num_cameras
        self.camera_scale = camera_scale
        self.camera_tokens = camera_tokens
        self.parts = parts
        if stem:
            self.patch_embed = ICSPatchEmbed(self.embed_dims, self.patch_resolution)
        if num_cameras:
            self.sie_embed = nn.Parameter(torch.zeros(num_cameras, 1, self.embed_dims))
            trunc_normal_(self.sie_embed, std=0.02)
        if parts:
            self.local_layer = copy.deepcopy(self.layers[-1])
            self.local_norm = copy.deepcopy(self.ln1)
        if projection:
            self.projection = nn.Linear(self.embed_dims, projection, bias=False)

    def forward(self, x: Tensor, cameras: Optional[Tensor] = None) -> Tuple[Tensor, ...]:
        """Features of images.

        Args:
            x (Tensor): Images, (N, 3, H, W).
            cameras (Tensor, optional): Their cameras from 0, (N,), int64. Without them, or in a
                model without ``num_cameras``, no camera's embedding is added.

        Returns:
            tuple[Tensor]: Class tokens, (N, C) each: the one behind the final norm; with
            ``parts`` then the local ones; with ``projection`` in its place three: before the last
            layer, behind the final norm, and that one projected.
        """
        x, resolution = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resize_pos_embed(
            self.pos_embed, self.patch_resolution, resolution, self.interpolate_mode
        )
        if cameras is not None and self.num_cameras:
            embedding = self.camera_scale * self.sie_embed[cameras]
            if self.camera_tokens == 'all':
                x = x + embedding
            else:
                x = torch.cat([x[:, :1] + embedding, x[:, 1:]], dim=1)
        x = self.pre_norm(self.drop_after_pos(x))
        for layer in self.layers[:-1]:
            x = layer(x)
        # The last layer runs before JPM's: this is the order in which layers are denoised.
        out = self.ln1(self.layers[-1](x))[:, 0]
        if self.parts:
            return (out, *self._local_features(x))
        if hasattr(self, 'projection'):
            return x[:, 0], out, self.projection(out)
        return (out,)

    def _local_features(self, x: Tensor) -> Sequence[Tensor]:
        patches = shuffle_patches(x[:, 1:])
        length = (x.shape[1] - 1) // self.parts  # of what is left over, nothing is used
        parts = [patches[:, i * length : (i + 1) * length] for i in range(self.parts)]
        return [
            self.local_norm(self.local_layer(torch.cat([x[:, :1], part], dim=1)))[:, 0]
            for part in parts
        ]

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        """Resize a checkpoint's position embeddings, of square images or ones twice as high."""
        name = f'{prefix}pos_embed'
        if name not in state_dict or state_dict[name].shape == self.pos_embed.shape:
            return
        state_dict[name] = resize_pos_embed(
            state_dict[name],
            source_grid(state_dict[name].shape[1] - 1),
            self.patch_resolution,
            self.interpolate_mode,
        )

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """The layer-wise depth of a parameter; see :class:`VisionTransformer`."""
        if param_name == f'{prefix}sie_embed':
            return 0, self.num_layers + 2
        return super().get_layer_depth(param_name, prefix)


class ICSPatchEmbed(nn.Module):
    """The stem of TransReID-SSL: three convolutions with half instance norm, then patches.

    Args:
        embed_dims (int): Channels of the tokens.
        resolution (tuple[int, int]): Rows and columns of patches, for position embeddings.
        width (int): Channels of the convolutions. Defaults to 64.
    """

    def __init__(self, embed_dims: int, resolution: Tuple[int, int], width: int = 64) -> None:
        super().__init__()
        self.init_out_size = resolution
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            IBN(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            IBN(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.projection = nn.Conv2d(width, embed_dims, 8, stride=8)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        """Tokens (N, L, C) of images and the rows and columns of patches."""
        x = self.projection(self.stem(x))
        return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])


class IBN(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the other.

    Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV
    2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], dim=1)


def shuffle_patches(patches: Tensor, shift: int = 4, groups: int = 2) -> Tensor:
    """JPM's order of patches: rolled, then dealt from the two halves in turn.

    TransReID's "shift by 5" counts the class token: the first patch is the fifth. Where the
    number is odd, the last patch but one is repeated at the end.

    Args:
        patches (Tensor): (N, L, C).
        shift (int): Patches moved from the front to the end. Defaults to 4.
        groups (int): Groups dealt from. Defaults to 2.

    Returns:
        Tensor: (N, L or L + 1, C).
    """
    patches = patches.roll(-shift, dims=1)
    if patches.shape[1] % groups:
        patches = torch.cat([patches, patches[:, -2:-1]], dim=1)
    return patches.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def source_grid(patches: int) -> Tuple[int, int]:
    """Rows and columns of a square grid, or of one with twice as many rows as columns.

    Raises:
        ValueError: If there are as many patches in neither.
    """
    side, half = math.isqrt(patches), math.isqrt(patches // 2)
    if side * side == patches:
        return side, side
    if 2 * half * half == patches:
        return 2 * half, half
    raise ValueError(
        f'{patches} position embeddings are of a grid that is neither square nor twice as high as '
        'wide, and cannot be resized'
    )
