"""How fast Loss_p falls to the optimum of linear denoisers: by training, and in closed form."""

import itertools
import math
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from ..calibration import SecondMoments
from ..conversion import denoisers, record_noise_losses
from ..denoiser import Denoiser, observe_inputs, one_weight_per_step


class Course(NamedTuple):
    """Loss_p after the steps of a training, and the seconds that they took."""

    steps: List[int]
    seconds: List[float]
    losses: List[float]

    def reach(self, loss: float) -> Optional[int]:
        """The index of the first entry that is no more than ``loss``; None if none is."""
        return next((i for i, value in enumerate(self.losses) if value <= loss), None)


def expected_loss(denoiser: Denoiser, moment: Tensor) -> float:
    r"""The loss 'l2' of a denoiser in expectation over the noise: nothing is sampled.

    :math:`1 - (2 \sqrt{1 - \bar\alpha_t} \, tr W_D - tr(W_D S W_D^T)) / C` with
    :math:`S = \bar\alpha_t M + (1 - \bar\alpha_t) I`.

    Args:
        denoiser (Denoiser): With noise of unit scale.
        moment (Tensor): M = E[x xᵀ] of the layer's input, (G, C/G, C/G), float64.
    """
    weight = denoiser.weight.detach().to(moment)
    alpha_bar = denoiser.schedule.alpha_bar(denoiser.step)
    noisy = alpha_bar * moment + (1 - alpha_bar) * torch.eye(moment.shape[-1]).to(moment)
    gain = 2 * (1 - alpha_bar) ** 0.5 * weight.diagonal(dim1=-2, dim2=-1).sum()
    cost = (weight @ noisy * weight).sum()
    return 1 - ((gain - cost) / weight.shape[:2].numel()).item()


@torch.no_grad()
def moments_of(model: nn.Module, inputs: Sequence[Tensor]) -> Dict[str, Tensor]:
    """E[x xᵀ] of all denoised layers over all tokens of all images."""
    moments = SecondMoments(denoisers(model))
    with observe_inputs(denoisers(model), moments.update):
        for images in inputs:
            model.backbone(images)
    return {name: moments.of(name) for name in denoisers(model)}


def loss_p(model: nn.Module, moments: Dict[str, Tensor]) -> float:
    """The mean of the layers' expected losses."""
    found = denoisers(model)
    return sum(expected_loss(found[n], m) for n, m in moments.items()) / len(moments)


def train(
    model: nn.Module,
    inputs: Sequence[Tensor],
    moments: Dict[str, Tensor],
    max_tokens: Optional[int],
    lr: float,
    max_seconds: float = math.inf,
    max_steps: float = math.inf,
    every: int = 10,
) -> Course:
    """Label-free training with Adam from W_D = 0, as :class:`DenoiseRepHook` does it.

    Args:
        model (nn.Module): With denoisers of loss 'l2'; they are reset, then trained.
        inputs (Sequence[Tensor]): Batches, taken in turn.
        moments (dict[str, Tensor]): Of :func:`moments_of`: what Loss_p is measured with.
        max_tokens (int, optional): Of the noise loss.
        lr (float): Learning rate.
        max_seconds (float): When to stop. Measuring does not count. Defaults to never.
        max_steps (float): The same by number of steps. Defaults to never.
        every (int): Steps from one measurement to the next. Defaults to 10.
    """
    found = denoisers(model)
    for denoiser in found.values():
        nn.init.zeros_(denoiser.weight)
    optimizer = torch.optim.Adam([d.weight for d in found.values()], lr)
    course, seconds = Course([0], [0.0], [loss_p(model, moments)]), 0.0
    batches: Iterator[Tensor] = itertools.cycle(inputs)
    for step in itertools.count(1):
        begin = time.perf_counter()
        recording = record_noise_losses(found, max_tokens, step)
        with torch.no_grad(), one_weight_per_step(found), recording as losses:
            model.backbone(next(batches))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds += time.perf_counter() - begin
        done = seconds >= max_seconds or step >= max_steps
        if step % every == 0 or done:
            course.steps.append(step)
            course.seconds.append(seconds)
            course.losses.append(loss_p(model, moments))
        if done:
            return course
