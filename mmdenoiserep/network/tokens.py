"""The tokens of a layer's input: the vectors over its channels, one for each position."""

from typing import Optional

import torch
from torch import Tensor


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
    channels = x.shape[channel_dim]
    total = x.numel() // channels
    if max_tokens is None or total <= max_tokens:
        return x.movedim(channel_dim, -1).reshape(-1, channels)
    index = torch.randint(total, (max_tokens,), generator=generator, device=x.device)
    if channel_dim == -1:
        return x.reshape(-1, channels)[index]
    # Gathered where they are: no copy of the whole map in another memory order.
    height, width = x.shape[-2:]
    maps = x.reshape(-1, *x.shape[-3:])
    return maps[index // (height * width), :, index // width % height, index % width]
