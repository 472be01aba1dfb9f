"""Fuse the denoisers of a checkpoint into a stock checkpoint, with its stock config beside it."""

import argparse

from mmdenoiserep.apis import fuse_checkpoint
from mmdenoiserep.cli import load_config


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
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        print(fuse_checkpoint(load_config(args.config), args.checkpoint, args.out, args.check))
    except (OSError, ValueError) as error:
        raise SystemExit(f'fuse_ckpt: {error}') from None


if __name__ == '__main__':
    main()
