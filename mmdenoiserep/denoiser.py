r"""The denoiser of one embedding layer, as a parametrization of the layer's weight.

In training, and in the paper's figure::

    x ──┬───────────────────(−)── A x ──▶ W ──▶ W A x + b
        └──▶ W_D ──▶ · c ────┘
             ▲
             Loss_p: x_t = √ᾱ_t x + √(1−ᾱ_t) ε,  W_D x_t ≈ ε

In this file, and when deployed: one layer with the weight W A, A = I − c W_D, and its own bias b.
"""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .diffusion import Cascade
from .network.layers import channel_dim_of, unknown_layer_message
from .network.observation import Observed
from .network.tokens import sample_tokens
from .network.weight_cache import WeightCache

LOSSES = ('l1', 'l2', 'l1+l2')


class Denoiser(Observed, nn.Module):
    r"""Linear, bias-free noise predictor :math:`D(x_t) = W_D x_t` of one layer.

    One denoising step maps the layer's input x to :math:`A x` with
    :math:`A = I - c W_D`, with c = :math:`C_1(t)` by default. As a parametrization
    (:mod:`torch.nn.utils.parametrize`) the module maps the layer's weight W to :math:`W A`, so the
    layer always runs fused.

    :math:`W_D` starts at zero: the layer is then the stock layer bit for bit. It is stored in
    :attr:`weight` with shape (G, C/G, C/G), one block for each of G groups of input channels.

    Args:
        layer (nn.Module): The Linear, Conv2d or registered layer
            (:func:`mmdenoiserep.register_layer`) whose input is denoised. Not changed.
        step (int): The layer's fixed diffusion step t, counted from 1.
        cascade (Cascade, optional): Schedule, estimate and noise. Defaults to the published one.
        loss (str): Penalty of the noise prediction: 'l1', 'l2' or 'l1+l2'. Defaults to 'l1'.

    Raises:
        ValueError: If the layer's kind is not known, the step not in the schedule or the loss
            unknown.
    """

    def __init__(
        self, layer: nn.Module, step: int, cascade: Optional[Cascade] = None, loss: str = 'l1'
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f'loss must be one of {LOSSES}, got {loss!r}')
        channel_dim = channel_dim_of(layer)
        if channel_dim is None:
            raise ValueError(unknown_layer_message('layer', layer))
        self.cascade = cascade or Cascade()
        self.schedule = self.cascade.schedule
        self.step = step
        self.factor = self.cascade.factor(step)
        self.loss = loss
        self.channel_dim = channel_dim
        groups = getattr(layer, 'groups', 1)
        width = layer.weight.shape[1]
        self.weight = nn.Parameter(layer.weight.new_zeros(groups, width, width))
        # Saved with W_D: at another step the same W_D is another denoiser.
        schedule = self.schedule
        numbers = [step, schedule.num_steps, schedule.beta_start, schedule.beta_end, self.factor]
        self.register_buffer(
            'diffusion', torch.tensor(numbers, dtype=torch.float32, device=layer.weight.device)
        )
        self.cache = WeightCache()
        #: Rows of the weight, kernel positions counted: what W A costs more than A x does a token.
        self.rows = layer.weight.numel() // width
        self._explicit = False

    def forward(self, weight: Tensor) -> Tensor:
        """Fuse the denoiser into a weight: W to W A.

        In evaluation, and within a training step, the result is kept and computed again only when
        W or W_D has changed, or the mode. A change through ``.data``, which PyTorch does not
        count, shows after the next ``train()`` or ``eval()``.

        Args:
            weight (Tensor): The layer's weight, (out, in/groups) or (out, in/groups, kH, kW).

        Returns:
            Tensor: The fused weight, of the same shape and dtype.
        """
        if self._explicit:
            return weight
        return self.cache.get((weight, self.weight), self.training, lambda: self._fuse(weight))

    def receive(self, x: Tensor) -> Tensor:
        """What the layer gets for its input x: x, or where that is cheaper than W A, A x.

        The latter only in label-free training steps, whose output nobody sees.
        """
        self.show(x)
        tokens = x.numel() // x.shape[self.channel_dim]
        label_free = self.cache.pinned and not torch.is_grad_enabled()
        self._explicit = label_free and 0 < tokens < self.rows
        if not self._explicit:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return self.denoise(x.to(self.weight.dtype)).to(x.dtype)

    def release(self) -> None:
        """The layer has run."""
        self._explicit = False

    def train(self, mode: bool = True) -> 'Denoiser':
        """Switch the mode and forget the fused weight."""
        self.cache.forget()
        return super().train(mode)

    def _fuse(self, weight: Tensor) -> Tensor:
        groups, width, _ = self.weight.shape
        # Half precision would lose what small steps do: c W_D is of the order of 1e-3.
        with torch.autocast(weight.device.type, enabled=False):
            blocks = weight.reshape(groups, weight.shape[0] // groups, width, -1)
            change = torch.einsum('gock,gcd->godk', blocks, self.weight)
            return weight - self.factor * change.reshape(weight.shape)

    def predict_noise(self, x_t: Tensor) -> Tensor:
        """W_D x_t at every token or pixel; (..., C), or (..., C, H, W) for layers on maps."""
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
            Tensor: A scalar in the dtype of W_D; 0 of an empty batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = sample_tokens(x.detach(), self.channel_dim, max_tokens, generator)
            x = x.to(self.weight.dtype)
            if not len(x):
                return self.weight.sum() * 0
            if self.cascade.noise_scale == 'rms':  # features in units of their noise
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
        # Raised rather than collected: MMEngine would only warn, and W_D would act at a step
        # that it was not trained for.
        saved = state_dict.get(f'{prefix}diffusion')
        if saved is not None and not self._is_own(saved):
            layer = prefix.split('.parametrizations.')[0]
            raise RuntimeError(
                f'the denoiser of {layer!r} was trained with [step, num_steps, beta_start, '
                f'beta_end, factor] = {saved.tolist()}, but the config gives '
                f'{self.diffusion.tolist()}; '
                "use the targets, the steps and the schedule of the checkpoint's own config"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _is_own(self, saved: Tensor) -> bool:
        """Whether a saved ``diffusion`` is this denoiser's: steps exactly, the rest as stored."""
        if saved.shape != self.diffusion.shape or not saved.is_floating_point():
            return False
        own = self.diffusion.to(saved)
        rtol = 1e-5 if saved.dtype in (torch.float32, torch.float64) else 1e-2  # 16 bits round
        return torch.equal(saved[:2], own[:2]) and torch.allclose(saved, own, rtol=rtol)

    def extra_repr(self) -> str:
        groups, width, _ = self.weight.shape
        return f'channels={groups * width}, groups={groups}, step={self.step}, loss={self.loss!r}'
