"""How many images' activations fit into memory while forward passes pause side by side."""

import torch
from torch import nn

from ..stock.model import backbone_of, run_backbone, tensors_in
from .pairs import Pair

#: Bytes that activations may take.
BUDGET = 4 * 2**30
#: Forward passes of a batch: the teacher's, and the students' of degraded and clean images.
PASSES = 3


@torch.no_grad()
def images_at_once(model: nn.Module, pair: Pair, budget: int = BUDGET) -> int:
    """Images whose paused forward passes take about ``budget`` bytes, at least a batch.

    Each pass is taken to hold the input and the output of the largest layer, which stand for what
    is alive in a residual block, and the backbone's output.

    Args:
        model (nn.Module): In evaluation.
        pair (Pair): A batch, of the largest size.
        budget (int): In bytes. Defaults to 4 GiB.
    """
    largest = 0

    def look(_, args, output) -> None:
        nonlocal largest
        largest = max(largest, _bytes(list(args)) + _bytes(output))

    leaves = [m for m in backbone_of(model).modules() if not any(m.children())]
    handles = [module.register_forward_hook(look) for module in leaves]
    samples = None if pair.data_samples is None else pair.data_samples[:1]
    try:
        kept = _bytes(run_backbone(model, pair.clean[:1], samples))
    finally:
        for handle in handles:
            handle.remove()
    return max(len(pair.clean), budget // max(PASSES * (largest + kept), 1))


def _bytes(values) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_in(values))
