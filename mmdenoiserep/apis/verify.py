"""That a fused model computes what its unfused form computes."""

from contextlib import contextmanager
from functools import partial
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, cast

import torch
from torch import Tensor, nn

from ..conversion import without_denoisers
from ..denoiser import Denoiser
from ..network.probe import with_example
from ..network.tokens import output_size, take_patches
from ..stock.model import backbone_of, run_backbone, tensors_in

#: Largest difference allowed between the fused and the explicitly denoised features, relative
#: to the largest feature: float32 through a deep network.
TOLERANCE = 1e-3


class Features(NamedTuple):
    """Random images with what the backbone needs of them, and what explicit denoising makes."""

    inputs: Tensor
    data_samples: Any
    expected: List[Tensor]


@contextmanager
def explicit_denoising(model: nn.Module) -> Iterator[None]:
    """Run a network's untouched layers behind explicit denoising steps of their inputs.

    The unfused form of the method, :math:`W (A x) + b`: the reference that fusion is checked
    against.

    Args:
        model (nn.Module): With denoisers.
    """
    with without_denoisers(model) as inserted:
        layers = {name: model.get_submodule(name) for name in inserted}
        for name, denoiser in inserted.items():
            layers[name].forward = partial(explicit_forward, layers[name], denoiser)
        try:
            yield
        finally:
            for layer in layers.values():
                del layer.forward


def explicit_forward(layer: nn.Module, denoiser: Denoiser, *args: Any, **kwargs: Any) -> Tensor:
    """A stock layer behind its denoiser: A x, or with the reach of a kernel A on what each output
    position sees (unfold, A, flattened kernel)."""
    x, *others = (*args, *kwargs.values())
    if not denoiser.spatial:
        return type(layer).forward(layer, denoiser.denoise(x), *others)
    conv = cast(nn.Conv2d, layer)
    groups, width, _ = denoiser.weight.shape
    batched = x if x.ndim == 4 else x[None]
    patches = take_patches(batched, conv).reshape(-1, groups, width)
    change = torch.einsum('kgc,gdc->kgd', patches, denoiser.weight)
    weight = conv.weight.reshape(groups, -1, width)
    y = torch.einsum('kgc,goc->kgo', patches - denoiser.factor * change, weight)
    size = output_size(batched, conv)
    y = y.reshape(*size, -1).permute(0, 3, 1, 2)
    y = y if conv.bias is None else y + conv.bias[:, None, None]
    return y if x.ndim == 4 else y[0]


def explicit_features(model: nn.Module, shape: Optional[Sequence[int]] = None) -> Features:
    """The features of a model's backbone on two random images, under explicit denoising.

    A model whose backbone needs more than the images has a method ``example_samples(count)``.

    Args:
        model (nn.Module): With denoisers.
        shape (Sequence[int], optional): Of an input that it takes, (N, C, H, W). By default several
            are tried.
    """
    generator = torch.Generator().manual_seed(0)
    samples = getattr(model, 'example_samples', lambda count: None)(2)

    def run(example: Tensor) -> Features:
        inputs = torch.randn(2, *example.shape[1:], generator=generator)
        with torch.no_grad(), explicit_denoising(model):
            return Features(inputs, samples, tensors_in(run_backbone(model, inputs, samples)))

    if shape is not None:
        return run(torch.zeros(*shape))
    return with_example(backbone_of(model), run)


def difference_to(features: Features, stock: nn.Module) -> float:
    """The largest difference of a stock model's features, relative to the largest feature.

    Raises:
        ValueError: If it is beyond ``TOLERANCE``, or not a number.
    """
    with torch.no_grad():
        found = tensors_in(run_backbone(stock, features.inputs, features.data_samples))
    differences = [
        (a - b).abs().max() / b.abs().max().clamp_min(1e-12)
        for a, b in zip(found, features.expected)
    ]
    worst = torch.stack(differences).max().item()  # NaN if one is
    if not worst <= TOLERANCE:
        raise ValueError(
            f'fused and explicitly denoised features differ by {worst:.1e} of the largest '
            f'feature, more than {TOLERANCE:.0e}; nothing was written'
        )
    return worst
