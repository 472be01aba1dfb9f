"""Train a model, with or without denoisers, from a config."""

import argparse

from mmengine.device import get_device

from mmdenoiserep.cli import (
    add_denoiserep_arguments,
    add_runner_arguments,
    config_from_arguments,
    run_tool,
    set_resume,
    train,
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


def run(args: argparse.Namespace) -> None:
    if args.amp and get_device() == 'cpu':
        raise ValueError('--amp needs a GPU, and there is none; leave it out to train in float32')
    config = config_from_arguments(args)
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not config.get(part):
            raise ValueError(f'{args.config} has no {part}, which training needs')
    if args.amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (config.get('auto_scale_lr') or {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        config.auto_scale_lr.enable = True
    if args.resume is not None:
        set_resume(config, args.resume)
    train(config, args.allow_missing)


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
