"""The forward diffusion process of DDPM, and the cascade of denoising steps through a network.

The first of three files that hold the method; then `denoiser.py` and `conversion.py`.
"""

import math
from dataclasses import dataclass, field
from typing import List

import torch
from torch import Tensor

#: What one denoising step may move a feature to.
ESTIMATES = ('previous', 'x0')
#: Where the noise comes from: the diffusion, or pairs of a clean and a degraded image.
NOISES = ('gaussian', 'measured')
#: What Gaussian noise is measured in.
NOISE_SCALES = ('unit', 'rms')


class NoiseSchedule:
    r"""Linear noise schedule of DDPM (Ho et al. 2020, section 4).

    With :math:`\alpha_t = 1 - \beta_t` and :math:`\bar\alpha_t = \prod_{s \le t} \alpha_s`.
    Steps are counted from 1, as in the papers; everything is computed in float64.

    Args:
        num_steps (int): Number of diffusion steps T. Defaults to 1000.
        beta_start (float): :math:`\beta_1`. Defaults to 1e-4.
        beta_end (float): :math:`\beta_T`. Defaults to 0.02.

    Raises:
        ValueError: If ``num_steps`` < 1 or not 0 < ``beta_start`` <= ``beta_end`` < 1.
    """

    def __init__(
        self, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> None:
        if num_steps < 1:
            raise ValueError(f'num_steps must be at least 1, got {num_steps}')
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f'betas must satisfy 0 < beta_start <= beta_end < 1, got {beta_start}, {beta_end}'
            )
        self.num_steps = num_steps
        self.beta_start = beta_start
        self.beta_end = beta_end
        self.betas = torch.linspace(  # on the CPU also where the default is 'meta'
            beta_start, beta_end, num_steps, dtype=torch.float64, device='cpu'
        )
        self.alphas = 1 - self.betas
        self.alpha_bars = torch.cumprod(self.alphas, dim=0)

    def alpha(self, t: int) -> float:
        r""":math:`\alpha_t` of step ``t``, counted from 1."""
        return self.alphas[self._index(t)].item()

    def alpha_bar(self, t: int) -> float:
        r""":math:`\bar\alpha_t` of step ``t``, counted from 1."""
        return self.alpha_bars[self._index(t)].item()

    def c1(self, t: int) -> float:
        r""":math:`C_1(t) = (1 - \alpha_t) / (\sqrt{\alpha_t} \sqrt{1 - \bar\alpha_t})`: the
        factor of the predicted noise in one step, of :math:`W W_D` in the fusion formula."""
        alpha, alpha_bar = self.alpha(t), self.alpha_bar(t)
        return (1 - alpha) / (math.sqrt(alpha) * math.sqrt(1 - alpha_bar))

    def q_sample(self, x: Tensor, t: int, noise: Tensor) -> Tensor:
        r"""Diffuse a feature to step ``t`` (DDPM equation 4).

        :math:`x_t = \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t} \epsilon`

        For a feature ``x`` of any shape and standard normal noise of that shape.
        """
        alpha_bar = self.alpha_bar(t)
        return math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise

    def _index(self, t: int) -> int:
        if not 1 <= t <= self.num_steps:
            raise ValueError(f'step must be in 1..{self.num_steps}, got {t}')
        return t - 1


@dataclass(frozen=True)
class Cascade:
    r"""The denoising steps that the layers of a network take: one reverse diffusion.

    Args:
        schedule (NoiseSchedule): Defaults to DDPM's, T = 1000. A dict of its arguments will do.
        estimate (str): What a step moves a layer's input to. 'previous' is :math:`x_{t-1}`, with
            :math:`c = C_1(t)` in :math:`A = I - c W_D`, as published. 'x0' is the clean feature
            that the noise prediction implies, with :math:`c = \sqrt{1 - \bar\alpha_t}` (DDPM
            equation 15); as in the former, x is not divided by what the forward process would
            have multiplied it with. Defaults to 'previous'.
        noise_scale (str): Standard deviation of the noise that is learned to be predicted: 'unit'
            is 1; 'rms' is the root mean square of the layer's features, so that a step means the
            same signal-to-noise ratio in every layer. Defaults to 'unit'.
        noise (str): 'gaussian' is the paper's. 'measured' is the difference of a layer's inputs for
            a degraded and for the clean image; one step removes all of it: :math:`A = I - W_D`, at
            any t. The steps are then N, N-1, ..., 1 whatever the rest says. Defaults to 'gaussian'.
        last_step (int): Step of the layer that data passes last. Defaults to 1.
        spacing (int): Steps from a layer back to the one before it; with 0 all layers take
            ``last_step``. Defaults to 1: N layers take N, N-1, ..., 1.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    estimate: str = 'previous'
    noise_scale: str = 'unit'
    noise: str = 'gaussian'
    last_step: int = 1
    spacing: int = 1

    def __post_init__(self) -> None:
        if self.schedule is None or isinstance(self.schedule, dict):
            object.__setattr__(self, 'schedule', NoiseSchedule(**(self.schedule or {})))
        known = dict(estimate=ESTIMATES, noise_scale=NOISE_SCALES, noise=NOISES)
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f'{name} must be one of {values}, got {getattr(self, name)!r}')
        if self.last_step < 1 or self.spacing < 0:
            raise ValueError(
                f'last_step is 1 or more, spacing 0 or more: got {self.last_step}, {self.spacing}'
            )

    def steps(self, num_layers: int) -> List[int]:
        """The steps of the layers, in the order in which data passes them.

        Raises:
            ValueError: If the schedule has fewer.
        """
        if self.noise == 'measured':
            return list(range(num_layers, 0, -1))  # of no schedule: the order
        steps = [self.last_step + self.spacing * i for i in reversed(range(num_layers))]
        if steps[0] > self.schedule.num_steps:
            raise ValueError(
                f'the cascade of {num_layers} layers begins at step {steps[0]} of a schedule of '
                f'{self.schedule.num_steps}; narrow `targets`, lower `spacing` or raise `num_steps`'
            )
        return steps

    def factor(self, t: int) -> float:
        """Factor c of the predicted noise in :math:`A = I - c W_D` at step ``t``.

        Raises:
            ValueError: If the step is not in the schedule.
        """
        if self.noise == 'measured':
            return 1.0
        if self.estimate == 'previous':
            return self.schedule.c1(t)
        return math.sqrt(1 - self.schedule.alpha_bar(t))
