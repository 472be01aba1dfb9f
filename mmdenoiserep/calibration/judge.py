"""How far a network's features are from what they are to be, judged at the backbone's output."""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..network.bypass import stock_weights
from ..stock.model import feature_dim, relative, run_backbone, spread, tensors_in
from .pairs import Pair


class OutputError(NamedTuple):
    """Relative squared error of the backbone's output to the stock network's on the clean image.

    The mean over the levels of ‖f̃ − f‖² / (‖f̃ − mean f̃‖ ‖f − mean f‖). Relative to both: an error
    relative to f alone is less where f̃ is shrunk, whatever is left of it. A mean is that of a
    batch, so errors compare where batches are as large.

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
        """Both, with the share κ of the clean images; infinite where features are not finite."""
        total = (1 - keep_clean) * self.degraded + keep_clean * self.clean
        return total if math.isfinite(total) else math.inf

    def __str__(self) -> str:
        return f'output error {self.degraded:.3f} degraded, {self.clean:.3f} clean'


def check_keep_clean(keep_clean: float) -> None:
    """Refuse a share of clean images that is none, or with which no degraded image counts: the
    stock network is without error on the others."""
    if not isinstance(keep_clean, (int, float)) or not 0 <= keep_clean < 1:
        raise ValueError(f'keep_clean must be at least 0 and less than 1, got {keep_clean!r}')


#: The levels of the stock network's output for the clean images of a pair.
Target = List[Tensor]


def stock_outputs(
    model: nn.Module, modules: Dict[str, Denoiser], pairs: Sequence[Pair], memory: int = 2**30
) -> List[Optional[Target]]:
    """What :func:`output_error` compares with: a solution is judged a dozen times.

    Args:
        model (nn.Module): In evaluation.
        modules (dict[str, Denoiser]): Its denoisers.
        pairs (Sequence[Pair]): As there.
        memory (int): Bytes that they may take; pairs for which there is no room have None.
            Defaults to 1 GiB.
    """
    targets: List[Optional[Target]] = [None] * len(pairs)
    for i, pair in enumerate(pairs):
        target = _stock_output(model, modules, pair)
        memory -= sum(level.numel() * level.element_size() for level in target)
        if memory < 0:
            break
        targets[i] = target
    return targets


@torch.no_grad()
def output_error(
    model: nn.Module,
    modules: Dict[str, Denoiser],
    pairs: Sequence[Pair],
    targets: Optional[Sequence[Optional[Target]]] = None,
) -> OutputError:
    """Measure a model with denoisers on pairs.

    Args:
        model (nn.Module): In evaluation.
        modules (dict[str, Denoiser]): Its denoisers.
        pairs (Sequence[Pair]): Held back from what they were solved on.
        targets (Sequence, optional): By :func:`stock_outputs`. By default they are made anew.
    """
    sums: List[Tensor] = []
    for pair, target in zip(pairs, targets or [None] * len(pairs)):
        if target is None:
            target = _stock_output(model, modules, pair)
        outputs = [
            tensors_in(run_backbone(model, inputs, pair.data_samples))
            for inputs in (pair.degraded, pair.clean)
        ]
        levels = [_measure(*features) for features in zip(target, *outputs)]
        sums.append(torch.stack(levels, 1))
    total = torch.stack(sums).sum(0)
    all_reduce(total)
    spreads, errors, (turned, positions) = total.split((3, 2, 2))
    degraded, clean = relative(errors, spreads[1:], spreads[0]).mean(1).tolist()
    return OutputError(degraded, clean, float((turned / positions).mean()))


@torch.no_grad()
def _stock_output(model: nn.Module, modules: Dict[str, Denoiser], pair: Pair) -> Target:
    with stock_weights(modules):
        return tensors_in(run_backbone(model, pair.clean, pair.data_samples))


def _measure(f: Tensor, degraded: Tensor, clean: Tensor) -> Tensor:
    """Three spreads, two squared errors, 1 − cos of the degraded, and positions: sums, (7,)."""
    f, degraded, clean = f.double(), degraded.double(), clean.double()
    spreads = [spread(feature) for feature in (f, degraded, clean)]
    errors = [(feature - f).square().sum() for feature in (degraded, clean)]
    cosine = F.cosine_similarity(degraded, f, dim=feature_dim(f))
    positions = torch.full_like(spreads[0], cosine.numel())
    return torch.stack([*spreads, *errors, (1 - cosine).sum(), positions])
