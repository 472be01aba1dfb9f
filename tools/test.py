"""Test a checkpoint and print the metrics of its config."""

import argparse
import os.path as osp

from mmdenoiserep.cli import (
    add_runner_arguments,
    at_least,
    config_from_arguments,
    run_tool,
    test,
)
from mmdenoiserep.cli.testing import enable_tta, enable_visualization
from mmdenoiserep.stock.files import check_writable


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    parser.add_argument('checkpoint', help='checkpoint file, or its address')
    add_runner_arguments(parser)
    parser.add_argument('--out', help='write the predictions to this file, *.pkl')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='write pictures of the predictions to this folder')
    parser.add_argument(
        '--wait-time', type=at_least(0, float), default=2, help='seconds a window stays'
    )
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error('--out must be a *.pkl file')
    return args


def run(args: argparse.Namespace) -> None:
    for path in (args.out, args.show_dir and osp.join(args.show_dir, 'picture')):
        if path:
            check_writable(path)  # now, and not after all the work
    config = config_from_arguments(args)
    for part in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if config.get(part) is None:
            raise ValueError(f'{args.config} has no {part}, which a test needs')
    config.load_from = args.checkpoint
    config.resume = False
    if args.show or args.show_dir:
        enable_visualization(config, args.show, args.show_dir, args.wait_time)
    if args.tta:
        enable_tta(config)
    test(config, args.allow_missing, args.out)


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
