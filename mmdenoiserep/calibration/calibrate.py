"""The pass over the images that sets all denoisers of a model."""

from typing import Any, Callable, Iterable, Optional

import torch
from torch import nn

from ..network.observation import observe_inputs
from ..stock.model import as_deployed, evaluation, preprocess, run_backbone
from .closed_form import solve
from .moments import SecondMoments
from .which import denoisers_of


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    num_images: Optional[int] = None,
    max_tokens: Optional[int] = 256,
    progress: Optional[Callable[[int], None]] = None,
    training: bool = False,
) -> int:
    """Set all denoisers of a model to the closed form, from one pass over unlabelled images.

    Denoisers that are not zero act during the pass, as they do in training. If anything fails
    or the pass is interrupted, the model is as it was.

    Args:
        model (nn.Module): A model of OpenMMLab, or any module that is called with a batch.
        batches (Iterable): What a data loader gives; labels are not used. For a module without
            ``data_preprocessor``, tensors (N, ...).
        num_images (int, optional): Number of images after which to stop, on this process. Defaults
            to all.
        max_tokens (int, optional): Most tokens taken from a layer's input per image. Defaults to
            256; None takes all.
        progress (Callable, optional): Called with the number of images of each batch.
        training (bool): Whether ``batches`` come from a training pipeline, and are padded as in
            training. Defaults to False.

    Returns:
        int: Number of images seen on this process.

    Raises:
        ValueError: If the model has no denoisers, or any of measured noise, a layer's features are
            not finite, or a number is out of range.
    """
    modules = denoisers_of(model, 'gaussian')
    for name, value in dict(num_images=num_images, max_tokens=max_tokens).items():
        if value is not None and value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')
    moments = SecondMoments(modules)
    seen = 0
    with evaluation(model), observe_inputs(modules, moments.update):
        for batch in batches:
            left = None if num_images is None else num_images - seen
            inputs, data_samples = preprocess(model, batch, training, left)
            inputs = inputs if training else as_deployed(model, inputs)
            moments.max_tokens = max_tokens and max_tokens * len(inputs)
            run_backbone(model, inputs, data_samples)
            seen += len(inputs)
            if progress:
                progress(len(inputs))
            if seen == num_images:
                break
    moments.merge()
    solved = {name: solve(moments.of(name), denoiser) for name, denoiser in modules.items()}
    for name, denoiser in modules.items():
        denoiser.weight.copy_(solved[name])
    return seen
