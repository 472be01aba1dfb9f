"""Training on measured noise: the student's output is to be the teacher's on the clean image."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..network.bypass import stock_weights
from ..network.weight_cache import one_weight_per_step
from ..stock.model import relative, run_backbone, spread, tensors_in
from .step import scaled


class MatchedLosses(NamedTuple):
    """The losses of a step.

    Attributes:
        total (dict): What MMEngine's ``parse_losses`` takes: ``loss_denoise``, and in label-aug the
            task's own losses on the degraded images, scaled by 1 - λ.
        errors (dict[str, Tensor]): ``degraded`` and ``clean``: the relative squared errors of the
            output, detached scalars.
    """

    total: Dict[str, Any]
    errors: Dict[str, Tensor]


def matched_losses(
    model: nn.Module,
    modules: Dict[str, Denoiser],
    clean: Tensor,
    degraded: Tensor,
    data_samples: Any = None,
    keep_clean: float = 0.5,
    lambda_: float = 1.0,
    task: Optional[Callable[[], dict]] = None,
) -> MatchedLosses:
    r"""Loss of a step in which the backbone's output is matched; label-free with λ = 1.

    Teacher: the stock weights on the clean image. Student: W A on the degraded and, with the share
    κ, on the clean image. The loss is the relative squared error of the output,
    :math:`(1-\kappa) e(\tilde f, f) + \kappa e(\tilde f_{clean}, f)`, with a gradient through W A
    into W_D. No second copy of the network: the parametrization holds both weights.

    Args:
        model (nn.Module): Prepared by :func:`mmdenoiserep.training.freeze_base`.
        modules (dict[str, Denoiser]): Its denoisers, of measured noise.
        clean (Tensor): Preprocessed images, (N, C, H, W).
        degraded (Tensor): The same images, degraded.
        data_samples (Any): Of the images, for backbones that need them.
        keep_clean (float): κ in [0, 1]. Defaults to 0.5.
        lambda_ (float): λ in (0, 1]. Defaults to 1.
        task (Callable, optional): With λ < 1, the task's losses on the degraded images.
    """
    with stock_weights(modules), torch.no_grad():
        target = tensors_in(run_backbone(model, clean, data_samples))
    errors: Dict[str, Tensor] = {}
    loss: Any = 0.0
    with one_weight_per_step([module.cache for module in modules.values()]):
        sides = dict(degraded=(degraded, 1 - keep_clean), clean=(clean, keep_clean))
        for name, (inputs, weight) in sides.items():
            if weight > 0:
                output = tensors_in(run_backbone(model, inputs, data_samples))
                error = relative_error(output, target)
                errors[name] = error.detach()
                loss = loss + weight * error
        total = {} if task is None else scaled(task(), 1 - lambda_)
    total['loss_denoise'] = lambda_ * loss
    return MatchedLosses(total, errors)


def relative_error(output: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """The mean over levels of ‖f̃ − f‖² / (‖f̃ − mean f̃‖ ‖f − mean f‖), a scalar in float32.

    Training minimizes what it is judged by, :class:`mmdenoiserep.calibration.judge.OutputError`:
    relative to f alone, an output that is in doubt is best shrunk.
    """
    errors = []
    for a, b in zip(output, target):
        a, b = a.float(), b.float()
        errors.append(relative((a - b).square().sum(), spread(a), spread(b)))
    return torch.stack(errors).mean()


def cut_mix(clean: Tensor, degraded: Tensor, seed: int) -> Tuple[Tensor, Tensor]:
    """CutMix of pairs: a box of each image is what its neighbour in the batch has there, the same
    box on both sides of a pair, so that the noise is as it was.

    Yun et al., "CutMix", ICCV 2019, with a share of the area that is uniform in [0, 1]. There are
    no labels to be mixed: whatever an image shows, the teacher says what its features are (Beyer et
    al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022).

    Args:
        clean (Tensor): Images, (N, C, H, W); one alone stays as it is.
        degraded (Tensor): The same images, degraded.
        seed (int): Of the boxes.

    Returns:
        tuple[Tensor, Tensor]: Both, mixed.
    """
    height, width = clean.shape[-2:]
    random = torch.rand(len(clean), 3, generator=torch.Generator().manual_seed(seed))
    mixed = clean.clone(), degraded.clone()
    for i, (area, y, x) in enumerate(random.tolist()):
        h, w = round(area**0.5 * height), round(area**0.5 * width)
        top, left = round(y * (height - h)), round(x * (width - w))
        box = (..., slice(top, top + h), slice(left, left + w))
        for out, source in zip(mixed, (clean, degraded)):
            out[i][box] = source[i - 1][box]
    return mixed
