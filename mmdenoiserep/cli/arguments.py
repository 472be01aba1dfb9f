"""Flags of the tools. What can be seen to be wrong without a config is refused here (exit 2)."""

import argparse
import re
from typing import Callable, Union

import torch
from mmengine.config import DictAction

from ..hooks.denoiserep_hook import MODES
from ..transforms import each_noise, noise_transform

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
OPTIONS_HELP = (
    'override settings of the config, as key=value; nested keys as a.b.0.c=value, '
    'lists as key="[a,b]" or key=a,b, tuples as key="[(a,b),(c,d)]"'
)


class ConfigOptions(DictAction):
    """MMEngine's action for ``--cfg-options``, which refuses what is no key=value."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string}: {value!r} is not of the form key=value')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(f'{option_string}: {error}')


def add_tool_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every tool has: see :func:`.entry.run_tool`."""
    parser.add_argument('--debug', action='store_true', help='show where an error comes from')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints with all that they hold: code in them is run',
    )


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing have in common."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and results')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    add_launcher_arguments(parser)
    parser.add_argument(
        '--allow-missing',
        action='store_true',
        help='go on with a checkpoint that lacks weights of the model: of a new head, say',
    )
    add_tool_arguments(parser)


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of distributed launchers."""
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torch.distributed.launch passes it with a hyphen, older releases with an underscore.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_denoiserep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that make a DenoiseRep config of a stock one."""
    group = parser.add_argument_group('training of denoisers with a stock config')
    group.add_argument(
        '--denoiserep',
        action='store_true',
        help='put denoisers into the backbone of a stock config, given by its path or as '
        'mmdet::folder/name.py, and start from its checkpoint in the model zoo',
    )
    group.add_argument(
        '--targets',
        nargs='+',
        type=regular_expression,
        metavar='REGEX',
        help='the layers to denoise, by patterns that match their names in full',
    )
    group.add_argument('--mode', choices=MODES, help='how denoisers train (default: label-aug)')
    add_noise_arguments(group)


def add_noise_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the flags that say which noise is measured."""
    add_noise_argument(
        parser,
        'degradations to become robust to, as gaussian_noise:3 jpeg_compression:3, '
        'benchmark:3 for all 15 of Michaelis et al., or the config of a transform as JSON',
    )
    parser.add_argument(
        '--keep-clean',
        type=share,
        metavar='SHARE',
        help='share of clean images in what is matched, from 0 to below 1 (default: 0.5)',
    )


def add_noise_argument(parser: argparse._ActionsContainer, words: str) -> None:
    """Add the flag that names noises; ``words`` are its help."""
    parser.add_argument(
        '--noise', nargs='+', type=noise, default=(), metavar='NAME:SEVERITY', help=words
    )


def noise(text: str) -> str:
    """A noise of :func:`mmdenoiserep.transforms.noise_transform`."""
    try:
        for one in each_noise([text]):
            noise_transform(one)
    except (ValueError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def share(text: str) -> float:
    """A number in [0, 1): with 1 no degraded image would count."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 0 and less than 1, got {text}')
    return value


def seed(text: str) -> int:
    """What NumPy takes to seed its generators."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f'must be an integer from 0 to 2**32 - 1, got {text}')
    return int(text)


def at_least(minimum: float, kind: type = int) -> Callable[[str], Union[int, float]]:
    """A type of argument: a number that is not below ``minimum``."""

    def parse(text: str) -> Union[int, float]:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is no {kind.__name__}') from None
        if not value >= minimum or value == float('inf'):
            raise argparse.ArgumentTypeError(f'must be at least {minimum:g}, got {text}')
        return value

    return parse


def usable_device(text: str) -> str:
    """A type of argument: a device that is there."""
    try:
        torch.empty(0, device=text)
    except Exception as error:  # of many types, by device
        words = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f'{text!r} cannot be used: {words}') from None
    return text


def regular_expression(text: str) -> str:
    """A type of argument: a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no regular expression: {error}') from None
    return text
