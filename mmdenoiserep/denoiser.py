"""The denoiser of one embedding layer, as a parametrization of the layer's weight."""

from contextlib import contextmanager
from functools import partial
from typing import Callable, Dict, Iterator, Optional, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .diffusion import NoiseSchedule
from .tokens import sample_tokens

LOSSES = ('l1', 'l2', 'l1+l2')
NOISE_SCALES = ('unit', 'rms')
#: What every key of a denoiser contains in a state dict, and no stock key does.
DENOISER_KEY = '.parametrizations.weight.0.'
Layer = Union[nn.Linear, nn.Conv2d]


class Denoiser(nn.Module):
    r"""Linear, bias-free noise predictor :math:`D(x_t) = W_D x_t` of one layer.

    One denoising step maps the layer's input x to :math:`A x` with
    :math:`A = I - c W_D`, with c = :math:`C_1(t)` by default. As a parametrization
    (:mod:`torch.nn.utils.parametrize`) the module maps the layer's weight W to :math:`W A`, so the
    layer always runs fused.

    :math:`W_D` starts at zero: the layer is then the stock layer bit for bit. It is stored in
    :attr:`weight` with shape (G, C/G, C/G), one block for each of G groups of input channels.

    Args:
        layer (nn.Linear | nn.Conv2d): The layer whose input is denoised. Not changed.
        step (int): The layer's fixed diffusion step t, counted from 1.
        schedule (NoiseSchedule, optional): Defaults to DDPM's.
        loss (str): Penalty of the noise prediction: 'l1', 'l2' or 'l1+l2'. Defaults to 'l1'.
        estimate (str): What the step moves x to: 'previous' or 'x0'; see
            :meth:`NoiseSchedule.factor`. Defaults to 'previous'.
        noise_scale (str): Standard deviation of the noise that :math:`W_D` learns to predict:
            'unit' is 1; 'rms' is the root mean square of the layer's features, so that a step
            means the same signal-to-noise ratio in every layer. Defaults to 'unit'.

    Raises:
        ValueError: If the step is not in the schedule or an option is unknown.
    """

    def __init__(
        self,
        layer: Layer,
        step: int,
        schedule: Optional[NoiseSchedule] = None,
        loss: str = 'l1',
        estimate: str = 'previous',
        noise_scale: str = 'unit',
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f'loss must be one of {LOSSES}, got {loss!r}')
        if noise_scale not in NOISE_SCALES:
            raise ValueError(f'noise_scale must be one of {NOISE_SCALES}, got {noise_scale!r}')
        self.schedule = schedule or NoiseSchedule()
        self.step = step
        self.factor = self.schedule.factor(step, estimate)
        self.loss = loss
        self.noise_scale = noise_scale
        # A negative index serves batched and unbatched inputs alike.
        self.channel_dim = -3 if isinstance(layer, nn.Conv2d) else -1
        groups = getattr(layer, 'groups', 1)
        width = layer.weight.shape[1]
        self.weight = nn.Parameter(layer.weight.new_zeros(groups, width, width))
        # Saved with W_D: at another step the same W_D is another denoiser.
        self.register_buffer(
            'diffusion',
            torch.tensor(
                [
                    step,
                    self.schedule.num_steps,
                    self.schedule.beta_start,
                    self.schedule.beta_end,
                    self.factor,
                ],
                dtype=torch.float32,
                device=layer.weight.device,
            ),
        )
        #: Called with the layer's input at each of its calls; see :func:`observe_inputs`.
        self.observer: Optional[Callable[[Tensor], None]] = None
        self._keep_fused = False
        self._fused: Optional[tuple] = None

    def forward(self, weight: Tensor) -> Tensor:
        """Fuse the denoiser into a weight: W to W A.

        In evaluation, and within a training step (:func:`one_weight_per_step`), the result is
        kept and computed again only when W or W_D has changed, or the mode. A change through
        ``.data``, which PyTorch does not count, shows after the next ``train()`` or ``eval()``.

        Args:
            weight (Tensor): The layer's weight, (out, in/groups) or (out, in/groups, kH, kW).

        Returns:
            Tensor: The fused weight, of the same shape and dtype.
        """
        needs_grad = torch.is_grad_enabled() and (weight.requires_grad or self.weight.requires_grad)
        if not self._keep_fused and (needs_grad or self.training):
            return self._fuse(weight)
        key = (needs_grad, torch.is_inference_mode_enabled(), *_state(weight), *_state(self.weight))
        if self._fused is None or self._fused[0] != key:
            self._fused = (key, self._fuse(weight))
        return self._fused[1]

    def train(self, mode: bool = True) -> 'Denoiser':
        """Switch the mode and forget the fused weight."""
        self.forget()
        return super().train(mode)

    def forget(self) -> None:
        """Drop the fused weight that was kept."""
        self._fused = None

    def _fuse(self, weight: Tensor) -> Tensor:
        groups, width, _ = self.weight.shape
        # Half precision would lose what small steps do: c W_D is of the order of 1e-3.
        with torch.autocast(weight.device.type, enabled=False):
            blocks = weight.reshape(groups, weight.shape[0] // groups, width, -1)
            change = torch.einsum('gock,gcd->godk', blocks, self.weight)
            return weight - self.factor * change.reshape(weight.shape)

    def predict_noise(self, x_t: Tensor) -> Tensor:
        """W_D x_t at every token or pixel; (..., C) for Linear, (..., C, H, W) for Conv2d."""
        if self.channel_dim == -1:
            return F.linear(x_t, self.weight[0])
        groups, width, _ = self.weight.shape
        blocks = x_t.reshape(*x_t.shape[:-3], groups, width, -1)
        return torch.matmul(self.weight, blocks).reshape(x_t.shape)

    def denoise(self, x: Tensor) -> Tensor:
        """One explicit denoising step A x of the layer's input: what fusion must reproduce."""
        return x - self.factor * self.predict_noise(x)

    def noise_loss(
        self,
        x: Tensor,
        max_tokens: Optional[int] = None,
        generator: Optional[torch.Generator] = None,
    ) -> Tensor:
        r"""The layer's term of Loss_p: :math:`|\epsilon - D(x_t)|`, averaged over elements.

        Args:
            x (Tensor): The layer's input. Detached: the loss trains W_D only.
            max_tokens (int, optional): Most tokens on which the loss is estimated, without bias.
                Defaults to all.
            generator (torch.Generator, optional): Draws tokens and noise.

        Returns:
            Tensor: A scalar in the dtype of W_D.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = sample_tokens(x.detach(), self.channel_dim, max_tokens, generator)
            x = x.to(self.weight.dtype)
            if self.noise_scale == 'rms':  # features in units of their noise
                x = x / x.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny)
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            groups, width, _ = self.weight.shape
            x_t = self.schedule.q_sample(x, self.step, noise).reshape(-1, groups, width)
            # Faster than einsum by a third, where W_D is wide.
            predicted = torch.matmul(self.weight, x_t.permute(1, 2, 0)).permute(2, 0, 1)
            error = predicted.reshape(noise.shape) - noise
            loss = error.new_zeros(())
            if 'l1' in self.loss:
                loss = loss + error.abs().mean()
            if 'l2' in self.loss:
                loss = loss + error.square().mean()
            return loss

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if f'{prefix}weight' not in state_dict and not any(DENOISER_KEY in k for k in state_dict):
            return  # a stock checkpoint: all of it is there, and W_D stays as it is
        # Raised rather than collected: MMEngine would only warn, and W_D would act at a step
        # that it was not trained for.
        saved = state_dict.get(f'{prefix}diffusion')
        if saved is not None and not (
            saved.shape == self.diffusion.shape
            and torch.allclose(saved.to(self.diffusion), self.diffusion, rtol=1e-2)
        ):
            layer = prefix.split('.parametrizations.')[0]
            raise RuntimeError(
                f'the denoiser of {layer!r} was trained with [step, num_steps, beta_start, '
                f'beta_end, factor] = {saved.tolist()}, but the config gives '
                f'{self.diffusion.tolist()}; '
                "use the targets, the steps and the schedule of the checkpoint's own config"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        groups, width, _ = self.weight.shape
        return f'channels={groups * width}, groups={groups}, step={self.step}, loss={self.loss!r}'


@contextmanager
def observe_inputs(
    found: Dict[str, Denoiser], observer: Callable[[str, Denoiser, Tensor], None]
) -> Iterator[None]:
    """Show the inputs of all denoised layers to a function while the context is open.

    Args:
        found (dict[str, Denoiser]): The result of :func:`mmdenoiserep.denoisers`.
        observer (Callable): Called as ``observer(name, denoiser, x)`` before a layer runs.
    """
    for name, denoiser in found.items():
        denoiser.observer = partial(observer, name, denoiser)
    try:
        yield
    finally:
        for denoiser in found.values():
            denoiser.observer = None


@contextmanager
def one_weight_per_step(found: Dict[str, Denoiser]) -> Iterator[None]:
    """Compute each W A once while the context is open: the forward pass of a training step."""
    for denoiser in found.values():
        denoiser._keep_fused = True
    try:
        yield
    finally:
        for denoiser in found.values():
            denoiser._keep_fused = False
            denoiser.forget()  # its graph is the step's


def _state(tensor: Tensor) -> tuple:
    return tensor._version, tensor.data_ptr(), tensor.dtype, tensor.device
