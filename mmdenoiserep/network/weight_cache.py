"""A computed weight, kept until a tensor that it was made from has changed."""

from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook


class WeightCache:
    """Computes a weight once in evaluation, and once in a training step (:meth:`pinned`).

    By PyTorch's version counters and the steps of its optimizers, the fused ones of which do not
    count. A change through ``.data`` touches neither: whoever makes one calls :meth:`forget`. A
    copy starts empty.
    """

    def __init__(self) -> None:
        self._pins = 0
        self._kept: Optional[Tuple[tuple, Tensor]] = None

    def get(
        self, sources: Sequence[Tensor], training: bool, compute: Callable[[], Tensor]
    ) -> Tensor:
        """The weight, computed if it is not kept.

        Args:
            sources (Sequence[Tensor]): What it is made from.
            training (bool): Whether the module is in training mode, where the weight is kept only
                within a step.
            compute (Callable): Makes it.
        """
        needs_grad = torch.is_grad_enabled() and any(s.requires_grad for s in sources)
        # Tensors made in inference mode have no version counter.
        countable = not any(s.is_inference() for s in sources)
        if not countable or (not self._pins and (needs_grad or training)):
            return compute()
        key = (needs_grad, torch.is_inference_mode_enabled(), _steps, *map(_state, sources))
        kept = self._kept  # another thread may forget it, or keep another
        if kept is None or kept[0] != key:
            kept = self._kept = (key, compute())
        return kept[1]

    @property
    def pinned(self) -> bool:
        """Whether a training step is under way."""
        return self._pins > 0

    def forget(self) -> None:
        """Drop what is kept."""
        self._kept = None

    def __deepcopy__(self, memo: dict) -> 'WeightCache':
        return WeightCache()

    def __reduce__(self) -> tuple:
        return WeightCache, ()


@contextmanager
def one_weight_per_step(caches: Iterable[WeightCache]) -> Iterator[None]:
    """Compute each weight once while the context is open: the forward pass of a training step."""
    caches = list(caches)
    for cache in caches:
        cache._pins += 1
    try:
        yield
    finally:
        for cache in caches:
            cache._pins -= 1
            cache.forget()  # its graph is the step's


#: Steps that optimizers have made in this process.
_steps = 0


def _count_step(*args: Any) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


def _state(tensor: Tensor) -> tuple:
    return tensor._version, tensor.data_ptr(), tensor.dtype, tensor.device
