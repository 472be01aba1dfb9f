"""What the command-line tools share: OpenMMLab's usual flags and what they do to a config."""

from .arguments import (
    add_denoiserep_arguments,
    add_runner_arguments,
    add_tool_arguments,
    at_least,
    usable_device,
)
from .configs import (
    config_from_arguments,
    load_config,
    load_denoiserep_config,
    load_measured_config,
)
from .entry import run_tool
from .runner import build_runner, check_loop, set_resume, test, train

__all__ = [
    'add_denoiserep_arguments',
    'add_runner_arguments',
    'add_tool_arguments',
    'at_least',
    'build_runner',
    'check_loop',
    'config_from_arguments',
    'load_config',
    'load_denoiserep_config',
    'load_measured_config',
    'run_tool',
    'set_resume',
    'test',
    'train',
    'usable_device',
]
