"""DenoiseRep⁻, the paper's ablation: denoising steps behind the backbone, which cost latency."""

import math
from typing import List, Optional, Sequence, Tuple, Union, cast

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion import NoiseSchedule
from ..network.observation import NoisePredictor
from ..network.probe import with_example
from ..network.tokens import sample_tokens
from ..registry import MODELS
from ..stock.model import evaluation, feature_dim, tensors_in
from ..training.step import returning_more

#: Of a backbone.
Output = Union[Tensor, Tuple[Tensor, ...], List[Tensor]]


class FeatureDenoiser(NoisePredictor):
    r"""T reverse diffusion steps of a time-conditioned denoiser, on one level of features.

    A step maps x to :math:`x - C_1(t) D(x, t)`, t = T ... 1, without sampling noise, as
    :class:`mmdenoiserep.Denoiser` does with its one step. :math:`D(x, t) = W_D (x + e(t))` with
    e(t) an MLP of t's sinusoidal embedding. :math:`W_D` starts at zero: the features are then
    the stock backbone's.

    Args:
        channels (int): Channels C of the features.
        channel_dim (int): Their dimension, -3 for maps and -1 for vectors.
        num_steps (int): Number of steps T.
        schedule (NoiseSchedule): The noise schedule, of at least T steps.
        hidden (int): Hidden size of the MLP.
    """

    def __init__(
        self,
        channels: int,
        channel_dim: int,
        num_steps: int,
        schedule: NoiseSchedule,
        hidden: int,
    ) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.num_steps = num_steps
        self.schedule = schedule
        # A parameter and not a layer: an `init_cfg` of the backbone leaves it at zero.
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.time = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Denoise a feature; same shape and dtype."""
        self.show(x)
        for t in range(self.num_steps, 0, -1):
            x = x - self.schedule.c1(t) * self.predict_noise(x, t).to(x.dtype)
        return x

    def predict_noise(self, x_t: Tensor, t: int) -> Tensor:
        """W_D (x_t + e(t)) at every token or pixel."""
        time = self.time(self._embedding(t))
        if self.channel_dim == -1:
            return F.linear(x_t + time, self.weight)
        return F.conv2d(x_t + time[:, None, None], self.weight[:, :, None, None])

    def noise_loss(
        self,
        x: Tensor,
        max_tokens: Optional[int] = None,
        generator: Optional[torch.Generator] = None,
    ) -> Tensor:
        """Loss_p at one random step: see :meth:`mmdenoiserep.Denoiser.noise_loss`."""
        with torch.autocast(x.device.type, enabled=False):
            x = sample_tokens(x.detach(), self.channel_dim, max_tokens, generator).float()
            noise = torch.randn(x.shape, device=x.device, generator=generator)
            draw = torch.randint(self.num_steps, (), device=x.device, generator=generator)
            t = int(draw) + 1
            x_t = self.schedule.q_sample(x, t, noise)
            return (F.linear(x_t + self.time(self._embedding(t)), self.weight) - noise).abs().mean()

    def _embedding(self, t: int) -> Tensor:
        channels = len(self.weight)
        half = torch.arange(0, channels, 2, device=self.weight.device) / channels
        angles = t * torch.exp(-math.log(10000) * half)
        return torch.cat([angles.sin(), angles.cos()])[:channels].to(self.weight.dtype)


@MODELS.register_module()
def DenoiseRepMinus(
    module: dict,
    num_steps: int = 10,
    levels: Optional[Sequence[int]] = None,
    schedule: Optional[dict] = None,
    hidden: int = 2048,
    pretrained: Optional[str] = None,
) -> nn.Module:
    """Build a backbone from its config and put T denoising steps behind each of its levels.

    It exists to be compared with: it cannot be fused, and every step costs latency. What it
    returns is the stock backbone with one more child, ``feature_denoisers``, so stock
    checkpoints load. :class:`mmdenoiserep.DenoiseRepHook` trains it.

    Args:
        module (dict): Config of a registered backbone.
        num_steps (int): T, steps at inference. Defaults to 10.
        levels (Sequence[int], optional): Indices of the outputs to denoise. Defaults to all.
        schedule (dict, optional): Arguments of :class:`mmdenoiserep.NoiseSchedule`.
        hidden (int): Hidden size of the time embedding's MLP. Defaults to 2048.
        pretrained (str, optional): Handed to the backbone.

    Returns:
        nn.Module: The stock backbone with denoisers behind it.

    Raises:
        ValueError: If T is not in the schedule, a level does not exist, or the backbone returns
            other features in training.
    """
    if pretrained is not None:
        module = dict(module, pretrained=pretrained)
    noise = NoiseSchedule(**(schedule or {}))
    noise.c1(num_steps)  # raises where it is no step
    backbone = ROOT_MODELS.build(module)
    if returning_more(backbone):
        raise ValueError(
            f'{type(backbone).__name__} returns other features in training than in evaluation, '
            'which DenoiseRepMinus cannot tell apart'
        )
    features = _features(backbone)
    chosen = range(len(features)) if levels is None else levels
    if not all(0 <= level < len(features) for level in chosen):
        raise ValueError(f'levels must be in 0..{len(features) - 1}, got {list(chosen)}')
    backbone.feature_denoisers = nn.ModuleDict()
    for level in chosen:
        dim = feature_dim(features[level])
        backbone.feature_denoisers[str(level)] = FeatureDenoiser(
            features[level].shape[dim], dim, num_steps, noise, hidden
        )
    backbone.register_forward_hook(_denoise_levels)
    return backbone


def feature_denoisers(model: nn.Module) -> dict:
    """The feature denoisers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, FeatureDenoiser)}


def _denoise_levels(backbone: nn.Module, args: tuple, output: Output) -> Output:
    # By the hook's own argument and not by a closure: a deepcopy (EMA) denoises with its own.
    levels = cast(nn.ModuleDict, backbone.feature_denoisers)
    if isinstance(output, Tensor):
        return levels['0'](output)
    return type(output)(levels[str(i)](x) if str(i) in levels else x for i, x in enumerate(output))


@torch.no_grad()
def _features(backbone: nn.Module) -> Sequence[Tensor]:
    with evaluation(backbone):
        return tensors_in(with_example(backbone, backbone))
