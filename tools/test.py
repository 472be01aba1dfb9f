"""Test a checkpoint and print the metrics of its config."""

import argparse
import copy
import os.path as osp

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults

from mmdenoiserep.cli import (
    add_runner_arguments,
    at_least,
    build_runner,
    config_from_arguments,
    run_tool,
)
from mmdenoiserep.stock.files import check_writable

TTA_MODELS = {
    'mmdet': dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    ),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
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


def enable_visualization(config: Config, args: argparse.Namespace) -> None:
    hook = (config.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError('--show and --show-dir need default_hooks.visualization in the config')
    hook.show = args.show
    hook.wait_time = args.wait_time
    # Each package has a name of its own for the switch and for the folder.
    scope = config.get('default_scope')
    hook['enable' if scope == 'mmpretrain' else 'draw'] = True
    if args.show_dir and scope == 'mmpretrain':
        hook.out_dir = args.show_dir
    elif args.show_dir and scope == 'mmseg':
        config.visualizer.save_dir = args.show_dir
    elif args.show_dir:
        hook.test_out_dir = args.show_dir


def enable_tta(config: Config) -> None:
    tta_model = config.get('tta_model') or TTA_MODELS.get(config.get('default_scope'))
    if tta_model is None:
        raise ValueError(f'--tta needs a tta_model in the config, or a scope of {list(TTA_MODELS)}')
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise ValueError(f'--tta changes the pipeline of one data set, and {dataset.type} has none')
    pipeline = config.get('tta_pipeline')
    if pipeline is None:
        pipeline = copy.deepcopy(dataset.pipeline)
        last = copy.deepcopy(pipeline[-1])
        if 'Pack' in last.type and 'meta_keys' in last:
            last.meta_keys = (*last.meta_keys, 'flip', 'flip_direction')
        # The image as it is comes first: labels are taken from there.
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [last]])
    dataset.pipeline = pipeline
    config.model = ConfigDict(**tta_model, module=config.model)


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
        enable_visualization(config, args)
    if args.tta:
        enable_tta(config)
    runner = build_runner(config, args.allow_missing)
    if args.out:
        dump = DumpResults
        if config.get('default_scope') == 'mmdet':
            # Encodes masks, which would fill the memory as bitmaps.
            from mmdet.evaluation import DumpDetResults as dump
        runner.test_evaluator.metrics.append(dump(out_file_path=args.out))
    runner.test()


def main() -> None:
    run_tool(parse_args, run)


if __name__ == '__main__':
    main()
