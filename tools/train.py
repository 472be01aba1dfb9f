"""Train a model, with or without denoisers, from a config."""

import argparse

from mmdenoiserep.cli import (
    add_denoiserep_arguments,
    add_runner_arguments,
    build_runner,
    config_from_arguments,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmdet::folder/name.py')
    add_runner_arguments(parser)
    add_denoiserep_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or without a value from the latest in the work folder',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    config = config_from_arguments(args)
    if args.amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in config.get('auto_scale_lr', {}):
            raise SystemExit('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        config.auto_scale_lr.enable = True
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    build_runner(config).train()


if __name__ == '__main__':
    main()
