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
from .network.layers import channel_dim_of, unknown_layer_message, weight_of
from .network.observation import NoisePredictor
from .network.state_dict import refuse_other_steps
from .network.tokens import sample_tokens
from .network.weight_cache import WeightCache

LOSSES = ('l1', 'l2', 'l1+l2')
#: What A mixes: the channels of one position, or all that one output position sees.
REACHES = ('channel', 'kernel')


class Denoiser(NoisePredictor):
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
        reach (str): 'channel' is the paper's: A acts on the C channels of a position. 'kernel'
            acts on the C·kH·kW entries that one output position of a convolution sees, behind its
            padding, and needs measured noise: W_D is then (G, CkHkW/G, CkHkW/G). Defaults to
            'channel'.

    Raises:
        ValueError: If the layer's kind is not known, the step not in the schedule or an option
            unknown.
    """

    def __init__(
        self,
        layer: nn.Module,
        step: int,
        cascade: Optional[Cascade] = None,
        loss: str = 'l1',
        reach: str = 'channel',
    ) -> None:
        super().__init__()
        for name, value, known in (('loss', loss, LOSSES), ('reach', reach, REACHES)):
            if value not in known:
                raise ValueError(f'{name} must be one of {known}, got {value!r}')
        channel_dim = channel_dim_of(layer)
        if channel_dim is None:
            raise ValueError(unknown_layer_message('layer', layer))
        self.channel_dim = channel_dim
        self.cascade = cascade or Cascade()
        self.schedule = self.cascade.schedule
        self.step = step
        self.factor = self.cascade.factor(step)
        self.loss = loss
        if reach == 'kernel' and self.cascade.noise != 'measured':
            raise ValueError("reach='kernel' goes with noise='measured'")
        groups = getattr(layer, 'groups', 1)
        weight = weight_of(layer)
        width = weight.shape[1]
        #: Whether A mixes positions, too.
        self.spatial = reach == 'kernel' and weight.shape[2:].numel() > 1
        width = weight[0].numel() if self.spatial else width
        self.weight = nn.Parameter(weight.new_zeros(groups, width, width))
        # Saved with W_D: at another step the same W_D is another denoiser.
        s = self.schedule
        numbers = torch.tensor([step, s.num_steps, s.beta_start, s.beta_end, self.factor])
        self.register_buffer('diffusion', numbers.to(weight.device, torch.float32))
        self.cache = WeightCache()
        #: Whether the layer runs with its stock weight for now: it is its own teacher.
        self.bypassed = False
        #: Rows of the weight (kernel positions counted), which W A costs more than A x, a token.
        self.rows = weight.numel() // width
        self._explicit = False

    def forward(self, weight: Tensor) -> Tensor:
        """Fuse the denoiser into a weight: W to W A.

        In evaluation, and within a training step, the result is kept and computed again only when
        W or W_D has changed, or the mode. A change through ``.data``, which PyTorch does not
        count, shows after the next ``train()`` or ``eval()``.

        For a weight (out, in/groups, ...); the result has its shape and dtype.
        """
        if (self._explicit and self.cache.pinned) or self.bypassed:  # may be left of a broken step
            return weight
        return self.cache.get((weight, self.weight), self.training, lambda: self._fuse(weight))

    def receive(self, x: Tensor) -> Tensor:
        """What the layer gets for its input x: x, or where that is cheaper than W A, A x.

        The latter only in label-free training steps, whose output nobody sees.
        """
        self.show(x)
        tokens = x.numel() // x.shape[self.channel_dim]
        label_free = self.cache.pinned and not torch.is_grad_enabled()
        cheaper = 0 < tokens < self.rows and not (self.spatial or self.bypassed)
        self._explicit = label_free and cheaper
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
            Tensor: A scalar in the dtype of W_D; 0 of an empty batch. Refuses measured noise.
        """
        if self.cascade.noise == 'measured':
            raise ValueError('measured noise is not drawn: train on pairs, by matched_losses')
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
            if self.loss == 'l2':
                return error.square().mean()
            l1 = error.abs().mean()
            return l1 if self.loss == 'l1' else l1 + error.square().mean()

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        refuse_other_steps(state_dict, prefix, self.diffusion)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        groups, width, _ = self.weight.shape
        return f'channels={groups * width}, groups={groups}, step={self.step}, loss={self.loss!r}'
