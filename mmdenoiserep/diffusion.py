"""The forward diffusion process of DDPM and the constants of one denoising step."""

import math

import torch
from torch import Tensor

#: What one denoising step may move a feature to.
ESTIMATES = ('previous', 'x0')


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

    Examples:
        >>> schedule = NoiseSchedule()
        >>> round(schedule.c1(1), 6)
        0.010001
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
        self.betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
        self.alphas = 1 - self.betas
        self.alpha_bars = torch.cumprod(self.alphas, dim=0)

    def alpha(self, t: int) -> float:
        r""":math:`\alpha_t` of step ``t``, counted from 1."""
        return self.alphas[self._index(t)].item()

    def alpha_bar(self, t: int) -> float:
        r""":math:`\bar\alpha_t` of step ``t``, counted from 1."""
        return self.alpha_bars[self._index(t)].item()

    def c1(self, t: int) -> float:
        r"""Factor of the predicted noise in one denoising step.

        :math:`C_1(t) = (1 - \alpha_t) / (\sqrt{\alpha_t} \sqrt{1 - \bar\alpha_t})`, the
        coefficient that the DenoiseRep fusion formula gives to :math:`W W_D`.
        """
        alpha, alpha_bar = self.alpha(t), self.alpha_bar(t)
        return (1 - alpha) / (math.sqrt(alpha) * math.sqrt(1 - alpha_bar))

    def factor(self, t: int, estimate: str = 'previous') -> float:
        r"""Factor c of the predicted noise in :math:`A = I - c W_D`.

        Args:
            t (int): Step, counted from 1.
            estimate (str): What the layer's input is moved to. 'previous' is :math:`x_{t-1}`, with
                :math:`c = C_1(t)`. 'x0' is the clean feature that the noise prediction implies,
                with :math:`c = \sqrt{1 - \bar\alpha_t}` (DDPM equation 15); as in the former, x is
                not divided by what the forward process would have multiplied it with.

        Raises:
            ValueError: If the step is not in the schedule or the estimate is unknown.
        """
        if estimate not in ESTIMATES:
            raise ValueError(f'estimate must be one of {ESTIMATES}, got {estimate!r}')
        return self.c1(t) if estimate == 'previous' else math.sqrt(1 - self.alpha_bar(t))

    def q_sample(self, x: Tensor, t: int, noise: Tensor) -> Tensor:
        r"""Diffuse a feature to step ``t`` (DDPM equation 4).

        :math:`x_t = \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t} \epsilon`

        Args:
            x (Tensor): Feature of any shape and floating dtype.
            t (int): Step, counted from 1.
            noise (Tensor): Standard normal noise of the shape of ``x``.

        Returns:
            Tensor: The noisy feature, of the shape and dtype of ``x``.
        """
        alpha_bar = self.alpha_bar(t)
        return math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise

    def _index(self, t: int) -> int:
        if not 1 <= t <= self.num_steps:
            raise ValueError(f'step must be in 1..{self.num_steps}, got {t}')
        return t - 1

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_steps={self.num_steps}, '
            f'beta_start={self.beta_start}, beta_end={self.beta_end})'
        )
