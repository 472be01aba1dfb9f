"""Activation checkpointing where the base is frozen."""

import warnings
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def no_lost_gradients() -> Iterator[None]:
    """Refuse a forward pass whose checkpointed parts would pass no gradient to their denoisers.

    Reentrant checkpointing drops the graph of a part whose inputs need no gradient, as those of a
    frozen base do until the first denoiser, and PyTorch only warns of it. For one step, not for
    all: filters of warnings are the whole process's.

    Raises:
        ValueError: If it is so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*None of the inputs have requires_grad', UserWarning)
        try:
            yield
        except UserWarning as warning:
            raise ValueError(
                'activation checkpointing loses gradients of the denoisers, since the base is '
                'frozen: switch it off (with_cp=False, activation_checkpointing=None), or train '
                'label-free without noise'
            ) from warning
