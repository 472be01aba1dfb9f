"""Test a checkpoint and print the metrics of its config."""

import argparse
import copy

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults

from mmdenoiserep.cli import add_runner_arguments, build_runner, config_from_arguments

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
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays')
    parser.add_argument('--tta', action='store_true', help='augment at test time')
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error('--out must be a *.pkl file')
    return args


def enable_visualization(config: Config, args: argparse.Namespace) -> None:
    hook = config.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SystemExit('--show and --show-dir need default_hooks.visualization in the config')
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
    pipeline = config.get('tta_pipeline')
    if pipeline is None:
        dataset = config.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        pipeline = copy.deepcopy(dataset.pipeline)
        last = copy.deepcopy(pipeline[-1])
        if 'Pack' in last.type and 'meta_keys' in last:
            last.meta_keys = (*last.meta_keys, 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [last]])
    config.test_dataloader.dataset.pipeline = pipeline
    tta_model = config.get('tta_model') or TTA_MODELS[config.default_scope]
    config.model = ConfigDict(**tta_model, module=config.model)


def main() -> None:
    args = parse_args()
    config = config_from_arguments(args)
    config.load_from = args.checkpoint
    if args.show or args.show_dir:
        enable_visualization(config, args)
    if args.tta:
        enable_tta(config)
    runner = build_runner(config)
    if args.out:
        dump = DumpResults
        if config.get('default_scope') == 'mmdet':
            # Encodes masks, which would fill the memory as bitmaps.
            from mmdet.evaluation import DumpDetResults as dump
        runner.test_evaluator.metrics.append(dump(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    main()
