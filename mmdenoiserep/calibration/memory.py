"""How many images fit into memory while forward passes pause side by side."""

import torch
from torch import nn

from ..conversion import denoisers
from ..stock.model import backbone_of, run_backbone, tensors_in
from .pairs import Pair

#: Bytes that activations may take, with the sums that are kept where passes are several.
BUDGET = 4 * 2**30
#: Forward passes of a batch: the teacher's, and the students' of degraded and clean images.
PASSES = 3


@torch.no_grad()
def images_at_once(model: nn.Module, pair: Pair, count: int, budget: int = BUDGET) -> int:
    """Images in a pass that takes about ``budget`` bytes, at least a batch.

    Each pass is taken to hold the input and the output of the largest layer, which stand for what
    is alive in a residual block, and the backbone's output.

    Args:
        model (nn.Module): In evaluation.
        pair (Pair): A batch, of the largest size.
        count (int): Images in all.
        budget (int): In bytes. Defaults to 4 GiB.
    """
    largest = 0

    def look(_, args, output) -> None:
        nonlocal largest
        largest = max(largest, _bytes(list(args)) + _bytes(output))

    # A denoised layer has its parametrization as a child, which sees weights.
    leaves = [
        module
        for name, module in backbone_of(model).named_modules()
        if 'parametrizations' not in name.split('.')
        and {child for child, _ in module.named_children()} <= {'parametrizations'}
    ]
    handles = [module.register_forward_hook(look) for module in leaves]
    samples = None if pair.data_samples is None else pair.data_samples[:1]
    try:
        kept = _bytes(run_backbone(model, pair.clean[:1], samples))
    finally:
        for handle in handles:
            handle.remove()
    alive = max(PASSES * (largest + kept), 1)
    if count * alive <= budget:
        return count
    # E[z̃ z̃ᵀ] and at most as much for the gain, in float64.
    sums = sum(16 * denoiser.weight.numel() for denoiser in denoisers(model).values())
    return max(len(pair.clean), (budget - sums) // alive)


def _bytes(values) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_in(values))
