"""How far a network's features are from what they are to be, judged at the backbone's output."""

from typing import Dict, List, NamedTuple, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..network.bypass import stock_weights
from ..stock.model import run_backbone, spread, tensors_in
from .pairs import Pair


class OutputError(NamedTuple):
    """Relative squared error of the backbone's output to the stock network's on the clean image.

    The mean over the levels of ‖f̃ − f‖² / (‖f̃ − mean f̃‖ ‖f − mean f‖). Relative to both: an error
    relative to f alone is less where f̃ is shrunk, whatever is left of it.
    """

    degraded: float
    clean: float

    def total(self, keep_clean: float) -> float:
        """Both, with the share κ of the clean images."""
        return (1 - keep_clean) * self.degraded + keep_clean * self.clean


@torch.no_grad()
def output_error(
    model: nn.Module, modules: Dict[str, Denoiser], pairs: Sequence[Pair]
) -> OutputError:
    """Measure a model with denoisers on pairs.

    Args:
        model (nn.Module): In evaluation.
        modules (dict[str, Denoiser]): Its denoisers.
        pairs (Sequence[Pair]): Held back from what they were solved on.
    """
    sums: List[Tensor] = []
    for pair in pairs:
        with stock_weights(modules):
            target = tensors_in(run_backbone(model, pair.clean, pair.data_samples))
        rows = [torch.stack([spread(f.double()) for f in target])]
        for inputs in (pair.degraded, pair.clean):
            output = tensors_in(run_backbone(model, inputs, pair.data_samples))
            rows.append(
                torch.stack([(a - b).double().square().sum() for a, b in zip(output, target)])
            )
            rows.append(torch.stack([spread(f.double()) for f in output]))
        sums.append(torch.stack(rows))
    total = torch.stack(sums).sum(0)  # (spread, error, spread, error, spread) x levels
    all_reduce(total)
    scale = (total[0] * total[2::2]).sqrt().clamp_min(1e-30)
    degraded, clean = (total[1::2] / scale).mean(1).tolist()
    return OutputError(degraded, clean)
