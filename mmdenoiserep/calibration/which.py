"""Which denoisers are calibrated: those of one noise."""

from typing import Dict

from mmengine.config import Config
from torch import nn

from ..conversion import denoisers
from ..denoiser import Denoiser
from ..stock.config import denoised_parts


def denoisers_of(model: nn.Module, noise: str) -> Dict[str, Denoiser]:
    """The denoisers of a network, where all are of one noise: 'gaussian' or 'measured'.

    Raises:
        ValueError: If there are none, or any is of the other noise: what is solved for one is
            wrong for the other.
    """
    found = denoisers(model)
    if not found:
        raise ValueError(f'{type(model).__name__} has no denoisers to calibrate')
    for name, denoiser in found.items():
        check_noise(denoiser.cascade.noise, noise, f'the denoiser of {name!r}')
    return found


def check_noise_of(config: Config, wanted: str) -> None:
    """Refuse a config with denoisers of another noise; see :func:`check_noise`."""
    for part in denoised_parts(config):
        check_noise(part.get('noise', 'gaussian'), wanted, f"the config's {part['type']}")


def check_noise(found: str, wanted: str, whose: str) -> None:
    """Refuse denoisers of another noise.

    Raises:
        ValueError: If the two differ; it says what to do.
    """
    if found != wanted:
        remedy = {
            'gaussian': 'give the degradations: --noise of the tools, calibrate_measured in Python',
            'measured': 'give no degradations, or a config of measured noise (noise="measured")',
        }
        raise ValueError(f'{whose} is of {found} noise, not of {wanted}; {remedy[wanted]}')
