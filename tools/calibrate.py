"""Denoise a stock checkpoint without training: one pass over unlabelled images.

    python tools/calibrate.py CONFIG CHECKPOINT OUT.pth --fuse

CONFIG is a stock config or a DenoiseRep config. With --fuse OUT is a stock checkpoint, else one of
the DenoiseRep config that is written beside it, to train further from.
"""

import argparse

from mmengine.config import DictAction

from mmdenoiserep.apis import calibrate_checkpoint
from mmdenoiserep.cli import load_denoiserep_config


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
        '--targets', nargs='+', metavar='REGEX', help='the layers to denoise, for a stock config'
    )
    parser.add_argument(
        '--max-tokens', type=int, default=256, help='tokens per image and layer (default: 256)'
    )
    parser.add_argument('--seed', type=int, default=0, help='chooses the images (default: 0)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
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
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f'calibrate: {error}') from None
    if report:
        print(report)


if __name__ == '__main__':
    main()
