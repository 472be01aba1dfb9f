"""How far a network's features are from what they are to be, judged at the backbone's output."""

from typing import Dict, List, NamedTuple, Sequence

import torch
import torch.nn.functional as F
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

    Attributes:
        degraded (float): Of the degraded images.
        clean (float): Of the clean ones.
        turned (float): Of the degraded images, the mean over levels and positions of
            1 − cos(f̃, f): what is wrong whatever the amplitude.
    """

    degraded: float
    clean: float
    turned: float

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
        outputs = [
            tensors_in(run_backbone(model, inputs, pair.data_samples))
            for inputs in (pair.degraded, pair.clean)
        ]
        levels = [_measure(*features) for features in zip(target, *outputs)]
        sums.append(torch.stack(levels, 1))
    total = torch.stack(sums).sum(0)
    all_reduce(total)
    spreads, errors, (turned, positions) = total.split((3, 2, 2))
    scale = (spreads[0] * spreads[1:]).sqrt().clamp_min(1e-30)
    degraded, clean = (errors / scale).mean(1).tolist()
    return OutputError(degraded, clean, float((turned / positions).mean()))


def _measure(f: Tensor, degraded: Tensor, clean: Tensor) -> Tensor:
    """Three spreads, two squared errors, 1 − cos of the degraded, and positions: sums, (7,)."""
    f, degraded, clean = f.double(), degraded.double(), clean.double()
    spreads = [spread(feature) for feature in (f, degraded, clean)]
    errors = [(feature - f).square().sum() for feature in (degraded, clean)]
    cosine = F.cosine_similarity(degraded, f, dim=1 if f.ndim == 4 else -1)
    positions = torch.full_like(spreads[0], cosine.numel())
    return torch.stack([*spreads, *errors, (1 - cosine).sum(), positions])
