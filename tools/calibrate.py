"""Denoise a stock checkpoint without training: one pass over unlabelled images.

    python tools/calibrate.py CONFIG CHECKPOINT OUT.pth --fuse

CONFIG is a stock config or a DenoiseRep config. With --fuse OUT is a stock checkpoint, else one of
the DenoiseRep config that is written beside it, to train further from.
"""

import argparse

from mmdenoiserep.apis import calibrate_checkpoint
from mmdenoiserep.apis.fuse import check_out
from mmdenoiserep.cli import add_tool_arguments, load_denoiserep_config, run_tool
from mmdenoiserep.cli.arguments import (
    OPTIONS_HELP,
    ConfigOptions,
    add_launcher_arguments,
    regular_expression,
)
from mmdenoiserep.cli.configs import check_launcher


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='checkpoint file, or its address')
    parser.add_argument('out', help='the checkpoint to write, *.pth')
    parser.add_argument('--num-images', type=int, default=512, help='default: 512')
    parser.add_argument(
        '--images', metavar='FOLDER', help='take images from a folder, not from the training set'
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
    parser.add_argument('--seed', type=int, default=0, help='chooses the images (default: 0)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help=OPTIONS_HELP)
    parser.add_argument('--force', action='store_true', help='replace OUT and its config')
    add_launcher_arguments(parser)
    add_tool_arguments(parser)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    check_launcher(args.launcher)
    check_out(args.out, args.checkpoint, args.config, args.force)
    report = calibrate_checkpoint(
        load_denoiserep_config(args.config, args.targets, args.cfg_options),
        args.checkpoint,
        args.out,
        num_images=args.num_images,
        images=args.images,
        fuse=args.fuse,
        max_tokens=args.max_tokens,
        seed=args.seed,
        launcher=args.launcher,
        force=args.force,
    )
    if report:
        print(report)


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
