"""Fuse the denoisers of a checkpoint into a stock checkpoint, with its stock config beside it."""

import argparse

from mmdenoiserep.apis import fuse_checkpoint
from mmdenoiserep.cli import add_tool_arguments, load_config, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the DenoiseRep config that the checkpoint comes from')
    parser.add_argument('checkpoint', help='the DenoiseRep checkpoint')
    parser.add_argument('out', help='the stock checkpoint to write, *.pth')
    parser.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='do not compare the result with explicit denoising before it is written',
    )
    parser.add_argument(
        '--strength',
        type=float,
        default=1.0,
        help='share of the denoising that is fused, 0 to 1: less keeps clean images better',
    )
    parser.add_argument('--force', action='store_true', help='replace OUT and its config')
    add_tool_arguments(parser)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    config = load_config(args.config)
    options = (args.check, args.force, args.strength)
    print(fuse_checkpoint(config, args.checkpoint, args.out, *options))


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
