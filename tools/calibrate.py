"""Denoise a stock checkpoint without training: one pass over unlabelled images.

    python tools/calibrate.py CONFIG CHECKPOINT OUT.pth --fuse

    python tools/calibrate.py CONFIG CHECKPOINT OUT.pth --noise gaussian_noise:3 --fuse

CONFIG is a stock config or a DenoiseRep config. With --fuse OUT is a stock checkpoint, else one of
the DenoiseRep config that is written beside it, to train further from. With --noise (or --clean and
--degraded) it is robust to degradations that are measured on the images.
"""

import argparse

from mmdenoiserep.calibration import METHODS
from mmdenoiserep.cli import add_tool_arguments, at_least, run_tool
from mmdenoiserep.cli.arguments import (
    OPTIONS_HELP,
    ConfigOptions,
    add_launcher_arguments,
    add_noise_arguments,
    regular_expression,
    seed,
)
from mmdenoiserep.cli.calibration import calibrate


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='checkpoint file, or its address')
    parser.add_argument('out', help='the checkpoint to write, *.pth')
    parser.add_argument(
        '--num-images', type=int, help='default: 512, and 256 of measured noise, which costs more'
    )
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument(
        '--images', metavar='FOLDER', help='take images from a folder, not from the training set'
    )
    folder.add_argument('--clean', metavar='FOLDER', help='the same, of measured noise')
    group = parser.add_argument_group('measured noise: from a stock to a robust stock checkpoint')
    add_noise_arguments(group)
    group.add_argument(
        '--degraded',
        metavar='FOLDER',
        help='degraded versions of the images in --clean, under the same names, instead of --noise',
    )
    group.add_argument(
        '--method',
        choices=METHODS,
        help='pairs (default); transport solves from second moments alone, as if the images were '
        'no pairs',
    )
    group.add_argument(
        '--images-per-pass',
        type=at_least(1),
        help='images whose activations are in memory at once (default: what fits into 4 GiB)',
    )
    parser.add_argument('--fuse', action='store_true', help='write a stock checkpoint')
    parser.add_argument(
        '--targets',
        nargs='+',
        type=regular_expression,
        metavar='REGEX',
        help='the layers to denoise, for a stock config',
    )
    parser.add_argument(
        '--max-tokens', type=int, default=256, help='tokens per image and layer (default: 256)'
    )
    parser.add_argument('--seed', type=seed, default=0, help='chooses the images (default: 0)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    parser.add_argument('--force', action='store_true', help='replace OUT and its config')
    add_launcher_arguments(parser)
    add_tool_arguments(parser)
    return parser.parse_args()


def main() -> None:
    run_tool(parse_args, calibrate)


if __name__ == '__main__':
    main()
