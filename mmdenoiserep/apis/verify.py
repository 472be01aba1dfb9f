"""That a fused model computes what its unfused form computes."""

from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple

import torch
from torch import Tensor, nn

from ..conversion import without_denoisers
from ..denoiser import Denoiser
from ..network.probe import with_example
from ..stock.model import backbone_of, run_backbone, tensors_in

#: Largest difference allowed between the fused and the explicitly denoised features, relative
#: to the largest feature: float32 through a deep network.
TOLERANCE = 1e-3


class Features(NamedTuple):
    """Random images, and what explicit denoising makes of them."""

    inputs: Tensor
    expected: List[Tensor]


@contextmanager
def explicit_denoising(model: nn.Module) -> Iterator[None]:
    """Run a network's untouched layers behind explicit denoising steps of their inputs.

    The unfused form of the method, :math:`W (A x) + b`: the reference that fusion is checked
    against.
    """
    with without_denoisers(model) as inserted:
        handles = [
            model.get_submodule(name).register_forward_pre_hook(_denoise_input(denoiser))
            for name, denoiser in inserted.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def explicit_features(model: nn.Module) -> Features:
    """The features of a model's backbone on two random images, under explicit denoising."""
    generator = torch.Generator().manual_seed(0)

    def run(example: Tensor) -> Features:
        inputs = torch.randn(2, *example.shape[1:], generator=generator)
        with torch.no_grad(), explicit_denoising(model):
            return Features(inputs, tensors_in(run_backbone(model, inputs)))

    return with_example(backbone_of(model), run)


def difference_to(features: Features, stock: nn.Module) -> float:
    """The largest difference of a stock model's features, relative to the largest feature.

    Raises:
        ValueError: If it is beyond ``TOLERANCE``, or not a number.
    """
    with torch.no_grad():
        found = tensors_in(run_backbone(stock, features.inputs))
    worst = max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item()
        for a, b in zip(found, features.expected)
    )
    if not worst <= TOLERANCE:
        raise ValueError(
            f'fused and explicitly denoised features differ by {worst:.1e} of the largest '
            f'feature, more than {TOLERANCE:.0e}; nothing was written'
        )
    return worst


def _denoise_input(denoiser: Denoiser) -> Any:
    return lambda layer, args: (denoiser.denoise(args[0]), *args[1:])
