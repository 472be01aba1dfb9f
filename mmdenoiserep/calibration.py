"""The best linear denoisers in closed form: one pass over unlabelled images, no training."""

import math
from typing import Callable, Dict, Iterable, Optional

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from .conversion import denoisers
from .denoiser import Denoiser, observe_inputs
from .tokens import sample_tokens

#: Tokens that are multiplied in float32 before they are added in float64.
BLOCK = 1024


def closed_form(second_moment: Tensor, alpha_bar: float) -> Tensor:
    r"""The linear noise predictor with the least squared error, in closed form.

    :math:`W_D^* = \sqrt{1 - \bar\alpha_t} \, (\bar\alpha_t M + (1 - \bar\alpha_t) I)^{-1}` with
    :math:`M = E[x x^T]`: what training with the loss 'l2' converges to.

    Args:
        second_moment (Tensor): M, symmetric, (..., C, C), float64.
        alpha_bar (float): :math:`\bar\alpha_t` of the layer's step, in (0, 1).

    Returns:
        Tensor: W_D, (..., C, C), float64.
    """
    identity = torch.eye(
        second_moment.shape[-1], dtype=second_moment.dtype, device=second_moment.device
    )
    # Positive definite by its second term, whatever the rank of M.
    noisy = alpha_bar * second_moment + (1 - alpha_bar) * identity
    return math.sqrt(1 - alpha_bar) * torch.cholesky_inverse(torch.linalg.cholesky(noisy))


class SecondMoments:
    """E[x xᵀ] of the inputs of denoised layers, summed up over any number of images.

    Memory is one (G, C/G, C/G) matrix of float64 for each layer, however many images are seen.

    Args:
        found (dict[str, Denoiser]): The result of :func:`mmdenoiserep.denoisers`.
        max_tokens (int, optional): Most tokens to take from a layer's input at a call, without
            bias. Defaults to all.
        seed (int): Seed of the generator that draws them. Defaults to 0.
    """

    def __init__(
        self, found: Dict[str, Denoiser], max_tokens: Optional[int] = None, seed: int = 0
    ) -> None:
        self.found = found
        self.max_tokens = max_tokens
        self.seed = seed
        self._generators: Dict[torch.device, torch.Generator] = {}
        self._sums = {
            name: torch.zeros_like(denoiser.weight, dtype=torch.float64, requires_grad=False)
            for name, denoiser in found.items()
        }
        self._counts = {name: 0 for name in found}

    @torch.no_grad()
    def update(self, name: str, denoiser: Denoiser, x: Tensor) -> None:
        """Add the tokens of a layer's input."""
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        tokens = sample_tokens(x, denoiser.channel_dim, self.max_tokens, self._generators[x.device])
        groups, width, _ = denoiser.weight.shape
        with torch.autocast(x.device.type, enabled=False):
            for block in tokens.float().split(BLOCK):
                grouped = block.reshape(-1, groups, width).transpose(0, 1)
                self._sums[name] += grouped.transpose(1, 2) @ grouped
        self._counts[name] += len(tokens)

    def merge(self) -> None:
        """Add up what the processes of a distributed run have seen."""
        for name, total in self._sums.items():
            count = total.new_tensor(float(self._counts[name]))
            all_reduce(total)
            all_reduce(count)
            self._counts[name] = int(count)

    def of(self, name: str) -> Tensor:
        """E[x xᵀ] of a layer, (G, C/G, C/G), float64.

        Raises:
            ValueError: If the layer has seen nothing, or NaN or infinity.
        """
        if not self._counts[name]:
            raise ValueError(f'layer {name!r} was not called: it has no features to calibrate on')
        moment = self._sums[name] / self._counts[name]
        if not torch.isfinite(moment).all():
            raise ValueError(f'the features of layer {name!r} hold NaN or infinity')
        return moment


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[dict],
    num_images: int,
    max_tokens: Optional[int] = 256,
    progress: Optional[Callable[[int], None]] = None,
    training: bool = False,
) -> int:
    """Set all denoisers of a model to the closed form, from one pass over unlabelled images.

    Denoisers that are not zero act during the pass, as they do in training. If anything fails
    or the pass is interrupted, the model is as it was.

    Args:
        model (nn.Module): A model with a ``backbone``, a ``data_preprocessor`` and denoisers.
        batches (Iterable[dict]): What a data loader gives; labels are not used.
        num_images (int): Number of images after which to stop, on this process.
        max_tokens (int, optional): Most tokens taken from a layer's input per image. Defaults to
            256; None takes all.
        progress (Callable, optional): Called with the number of images of each batch.
        training (bool): Whether ``batches`` come from a training pipeline, and are padded as in
            training. Defaults to False.

    Returns:
        int: Number of images seen on this process.

    Raises:
        ValueError: If the model has no denoisers or a layer's features are not finite.
    """
    found = denoisers(model)
    if not found:
        raise ValueError(f'{type(model).__name__} has no denoisers to calibrate')
    moments = SecondMoments(found)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    seen = 0
    try:
        with observe_inputs(found, moments.update):
            for batch in batches:
                inputs = model.data_preprocessor(batch, training)['inputs']
                inputs = inputs[: num_images - seen]
                moments.max_tokens = max_tokens and max_tokens * len(inputs)
                model.backbone(inputs)
                seen += len(inputs)
                if progress:
                    progress(len(inputs))
                if seen >= num_images:
                    break
    finally:
        for module, mode in modes.items():
            module.training = mode
    moments.merge()
    solved = {name: _solve(moments.of(name), denoiser) for name, denoiser in found.items()}
    for name, denoiser in found.items():
        denoiser.weight.copy_(solved[name])
    return seen


def _solve(moment: Tensor, denoiser: Denoiser) -> Tensor:
    if denoiser.noise_scale == 'rms':
        mean_square = moment.diagonal(dim1=-2, dim2=-1).mean()
        moment = moment / mean_square.clamp_min(torch.finfo(torch.float32).tiny)
    return closed_form(moment, denoiser.schedule.alpha_bar(denoiser.step))
