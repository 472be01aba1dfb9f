"""The vectors that a denoiser acts on: a layer's input over its channels, at each position.

Or, with the reach of a kernel, all entries that one output position of a convolution sees.
"""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import padding_of


def sample_tokens(
    x: Tensor,
    channel_dim: int,
    max_tokens: Optional[int] = None,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    """Take tokens of a feature, all or a uniform random sample.

    The sample is drawn with replacement, so the mean over it is an unbiased estimate of the mean
    over all tokens, and the work behind it is bounded whatever the size of the feature.

    Args:
        x (Tensor): Feature, (..., C) or (..., C, H, W).
        channel_dim (int): Dimension of C, -1 or -3.
        max_tokens (int, optional): Most tokens to take. Defaults to all.
        generator (torch.Generator, optional): Draws the sample, on the device of ``x``.

    Returns:
        Tensor: Tokens, (K, C), of the dtype of ``x``.
    """
    total = x.numel() // max(x.shape[channel_dim], 1)
    return take_tokens(x, channel_dim, draw(total, max_tokens, generator, x.device))


def draw(
    total: int,
    count: Optional[int],
    generator: Optional[torch.Generator] = None,
    device: Optional[torch.device] = None,
) -> Optional[Tensor]:
    """Indices of a random sample, int64 of shape (count,); None where all are to be taken."""
    if count is None or total <= count:
        return None
    return torch.randint(total, (count,), generator=generator, device=device)


def take_tokens(x: Tensor, channel_dim: int, index: Optional[Tensor] = None) -> Tensor:
    """The tokens at given positions, counted through the batch; all without ``index``.

    Returns:
        Tensor: (K, C).
    """
    channels = x.shape[channel_dim]
    if index is None:
        return x.movedim(channel_dim, -1).reshape(-1, channels)
    if channel_dim == -1:
        return x.reshape(-1, channels)[index]
    # Gathered where they are: no copy of the whole map in another memory order.
    height, width = x.shape[-2:]
    maps = x.reshape(-1, *x.shape[-3:])
    return maps[index // (height * width), :, index // width % height, index % width]


def pad_as(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The input of a convolution, (N, C, H, W), behind the padding that it does itself."""
    mode = 'constant' if conv.padding_mode == 'zeros' else conv.padding_mode
    return F.pad(x, padding_of(conv, *x.shape[-2:]), mode=mode)


def output_size(x: Tensor, conv: nn.Conv2d) -> torch.Size:
    """(N, H', W') of a convolution's output for an input (N, C, H, W)."""
    padding = padding_of(conv, *x.shape[-2:])
    sides = (x.shape[-2] + padding[2] + padding[3], x.shape[-1] + padding[0] + padding[1])
    return torch.Size(
        (
            x.shape[0],
            *(
                (side - dilation * (kernel - 1) - 1) // stride + 1
                for side, dilation, kernel, stride in zip(
                    sides, conv.dilation, conv.kernel_size, conv.stride
                )
            ),
        )
    )


def take_patches(x: Tensor, conv: nn.Conv2d, index: Optional[Tensor] = None) -> Tensor:
    """What output positions of a convolution see, counted through the batch; all without ``index``.

    Args:
        x (Tensor): Input of the convolution, (N, C, H, W).
        conv (nn.Conv2d): Gives kernel, stride, dilation and padding.
        index (Tensor, optional): Output positions, int64 of shape (K,).

    Returns:
        Tensor: (K, C·kH·kW), in the order of a flattened kernel.
    """
    size = output_size(x, conv)
    x = pad_as(x, conv)
    if index is None:
        patches = F.unfold(x, conv.kernel_size, conv.dilation, stride=conv.stride)
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])
    image, row, column = index // (size[1] * size[2]), index // size[2] % size[1], index % size[2]
    rows, columns = (
        start[:, None] * stride + dilation * torch.arange(kernel, device=x.device)
        for start, stride, dilation, kernel in zip(
            (row, column), conv.stride, conv.dilation, conv.kernel_size
        )
    )
    # (K, kH, kW, C): the channels' dimension moves behind the indexed ones.
    patches = x[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return patches.permute(0, 3, 1, 2).reshape(len(index), -1)
