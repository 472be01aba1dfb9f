"""The command-line tools on the toy model."""

import argparse
import pickle
import re

import pytest
from mmengine.config import Config

from mmdenoiserep.cli import (
    add_denoiserep_arguments,
    add_runner_arguments,
    config_from_arguments,
    load_config,
    set_resume,
)
from mmdenoiserep.cli.testing import enable_tta
from mmdenoiserep.stock.reader import read_checkpoint
from tools import tool


def test_train_resume_test_and_the_default_work_folder(config_file, tmp_path):
    work_dir = tmp_path / 'work_dirs' / 'toy_denoiserep'
    done = tool('train', config_file, '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {'epoch_1.pth', 'fused.pth', 'fused.py'} <= {p.name for p in work_dir.iterdir()}

    done = tool('train', config_file, '--resume', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (work_dir / 'epoch_2.pth').exists()

    out = tmp_path / 'predictions.pkl'
    done = tool('test', config_file, work_dir / 'epoch_2.pth', '--out', out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pickle.loads(out.read_bytes())) == 16


def test_a_stock_config_trains_with_a_flag(stock_config_file, tmp_path):
    flags = ['--denoiserep', '--targets', 'conv.', '--mode', 'label-free']
    options = ['load_from=None', 'custom_hooks.0.log_interval=1', 'train_cfg.max_epochs=1']
    done = tool('train', stock_config_file, *flags, '--cfg-options', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    work_dir = tmp_path / 'work_dirs' / 'toy_denoiserep'
    assert {'epoch_1.pth', 'fused.pth', 'toy_denoiserep.py'} <= {p.name for p in work_dir.iterdir()}

    written = load_config(str(work_dir / 'toy_denoiserep.py'))
    kinds = [hook.type.split('.')[-1] for hook in written.custom_hooks]
    assert kinds == ['DenoiseRepHook', 'ResumableSeedHook', 'EMAHook']
    assert written.custom_hooks[0].mode == 'label-free'
    assert written.model.backbone.targets == ['conv.']
    # What it wrote serves as any DenoiseRep config does, and what it fused as a stock one.
    fused = tmp_path / 'fused.pth'
    done = tool('fuse_ckpt', written.filename, work_dir / 'epoch_1.pth', fused, cwd=tmp_path)
    assert done.returncode == 0 and '2 denoisers' in done.stdout, done.stderr
    done = tool('test', stock_config_file, fused, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_flags_for_stock_configs_are_refused_elsewhere(
    config_file, stock_config_file, tmp_path, tool_here
):
    for path, flags, message in (
        (config_file, ['--denoiserep'], 'has denoisers already'),
        (config_file, ['--mode', 'label-free'], '--noise and --keep-clean go with --denoiserep'),
        (stock_config_file, ['--denoiserep'], 'denoisers need a trained model'),
        ('mmnone::a.py', ['--denoiserep'], 'no package mmnone of OpenMMLab'),
        ('none.py', ['--denoiserep'], 'there is no config none.py'),
    ):
        done = tool_here('train', path, *flags)
        assert done.code == 1 and message in done.last
        assert not (tmp_path / 'work_dirs').exists()


def test_the_zoo_names_the_checkpoint_of_a_stock_config():
    pytest.importorskip('mmdet')
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_runner_arguments(parser)
    add_denoiserep_arguments(parser)
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    config = config_from_arguments(parser.parse_args([name, '--denoiserep']))
    assert re.fullmatch(r'https://.*/retinanet_r50_fpn_1x_coco_\w+-\w+\.pth', config.load_from)
    assert config.work_dir == 'work_dirs/retinanet_r50_fpn_1x_coco_denoiserep'
    options = ['--denoiserep', '--cfg-options', 'load_from=my.pth']
    assert config_from_arguments(parser.parse_args([name, *options])).load_from == 'my.pth'
    # These load what their training begins with.
    name = 'mmdet::glip/glip_atss_swin-t_b_fpn_dyhead_16xb2_ms-2x_funtune_coco.py'
    assert 'glip_tiny_b_mmdet' in load_config(name).load_from
    config = config_from_arguments(parser.parse_args([name, '--denoiserep']))
    assert 'glip_atss_swin-t_b_fpn_dyhead_16xb2_ms-2x_funtune_coco' in config.load_from
    for name in (
        'mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py',
        'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person.py',
    ):
        with pytest.raises(ValueError, match='denoisers need a trained model'):
            config_from_arguments(parser.parse_args([name, '--denoiserep']))


def test_a_training_that_has_not_begun_is_not_resumed(stock_config_file, tmp_path):
    config = load_config(str(stock_config_file))
    config.merge_from_dict(
        dict(work_dir=str(tmp_path / 'work'), load_from='stock.pth', resume=True)
    )
    set_resume(config, 'auto')
    assert config.load_from == 'stock.pth' and not config.get('resume')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text('epoch_1.pth')
    set_resume(config, 'auto')
    assert config.load_from is None and config.resume
    set_resume(config, 'other.pth')
    assert config.load_from == 'other.pth' and config.resume


def test_flags_of_measured_noise_need_a_noise(stock_config_file, tmp_path, tool_here):
    checkpoint = str(stock_config_file)  # is not looked at
    for name, args in (
        ('calibrate', [checkpoint, 'out.pth', '--images', str(tmp_path), '--keep-clean', '0.8']),
        ('train', ['--denoiserep', '--keep-clean', '0.8']),
        ('train', ['--keep-clean', '0']),
    ):
        done = tool_here(name, stock_config_file, *args)
        assert done.code == 1
        assert re.search('--keep-clean go(es)? with .*noise', done.last)


def test_measured_noise_is_trained_with_an_optimizer_of_its_own():
    """A stock one is meant for a whole network, and diverges."""
    pytest.importorskip('mmdet')
    pytest.importorskip('imagecorruptions')
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_runner_arguments(parser)
    add_denoiserep_arguments(parser)

    def config(*options):
        flags = ['--denoiserep', '--noise', 'gaussian_noise:3', '--cfg-options', 'load_from=a.pth']
        name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        return config_from_arguments(parser.parse_args([name, *flags, *options]))

    adamw = dict(type='AdamW', lr=1e-4, weight_decay=0.0)
    warm_up = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50)
    cosine = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
    assert config().optim_wrapper == dict(type='OptimWrapper', optimizer=adamw)
    assert config().param_scheduler == [warm_up, dict(cosine, T_max=12)]
    shorter = config('train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.001')
    assert shorter.optim_wrapper.optimizer == dict(adamw, lr=1e-3)
    assert shorter.param_scheduler == [warm_up, dict(cosine, T_max=2)]
    own = config('train_cfg.max_epochs=2', 'param_scheduler.1.eta_min=1e-5')
    assert own.param_scheduler == [warm_up, dict(cosine, T_max=12, eta_min=1e-5)]


def test_without_a_gpu_training_is_in_float32(stock_config_file, monkeypatch):
    monkeypatch.setattr('mmdenoiserep.cli.configs.get_device', lambda: 'cpu')
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_runner_arguments(parser)
    options = ['optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic']
    args = parser.parse_args([str(stock_config_file), '--cfg-options', *options])
    optimizer = dict(type='Adam', lr=0.01)
    expected = dict(type='OptimWrapper', optimizer=optimizer)
    assert config_from_arguments(args).optim_wrapper == expected


def test_a_missing_checkpoint_is_named_before_anything_is_built(config_file, tool_here):
    for name, args in (
        ('train', ['--cfg-options', 'load_from=none.pth']),
        ('train', ['--resume', 'none.pth']),
        ('test', ['none.pth']),
    ):
        done = tool_here(name, config_file, *args)
        assert done.code == 1
        assert 'there is no checkpoint none.pth' in done.last


def test_flags_that_the_config_cannot_serve(config_file, tool_here):
    done = tool_here('train', config_file, '--auto-scale-lr')
    assert done.code == 1 and 'base_batch_size' in done.last
    done = tool_here('test', config_file, 'none.pth', '--show-dir', 'pictures')
    assert done.code == 1 and 'default_hooks.visualization' in done.last
    done = tool_here('test', config_file, 'none.pth', '--out', 'out.json')
    assert done.code == 2 and '--out' in done.last


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmpretrain'])
def test_bases_of_every_package_resolve(package, tmp_path):
    pytest.importorskip(package)
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{package}::_base_/default_runtime.py'\n")
    assert load_config(str(path)).default_scope == package


def test_a_resumed_training_goes_on_with_its_logs(config_file, tmp_path):
    """The logged values are rebuilt from plain numbers, whatever else the checkpoint holds."""
    options = ['--work-dir', 'work', '--cfg-options', 'custom_hooks.0.fuse=False']
    done = tool('train', config_file, *options, 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = tool('train', config_file, '--resume', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    histories = [
        read_checkpoint(str(tmp_path / 'work' / f'epoch_{epoch}.pth'))['message_hub']
        for epoch in (1, 2)
    ]
    first, second = (hub['log_scalars']['train/loss'].data[0] for hub in histories)
    assert len(first) == 4 and len(second) == 8
    assert (second[:4] == first).all()
    assert histories[1]['runtime_info']['epoch'] == 1


def test_labels_are_of_the_image_that_is_not_flipped():
    """MMSegmentation's model for test-time augmentation takes them from the first version."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    loader = dict(dataset=dict(pipeline=pipeline))
    config = Config(dict(default_scope='mmseg', model=dict(type='X'), test_dataloader=loader))
    enable_tta(config)
    flips, _ = config.test_dataloader.dataset.pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0, 1]


def test_augmentation_at_test_time_goes_where_the_pipeline_is():
    inner = dict(type='A', pipeline=[dict(type='Load'), dict(type='PackInputs')])
    model = dict(type='B')

    def config_of(dataset: dict) -> Config:
        return Config(dict(default_scope='mmpretrain', model=model, test_dataloader=dataset))

    config = config_of(dict(dataset=dict(type='RepeatDataset', times=1, dataset=inner)))
    enable_tta(config)
    wrapped = config.test_dataloader.dataset
    assert 'pipeline' not in wrapped and wrapped.dataset.pipeline[-1].type == 'TestTimeAug'
    assert config.model.type == 'AverageClsScoreTTA' and config.model.module == model
    with pytest.raises(ValueError, match='of one data set, and ConcatDataset has none'):
        enable_tta(config_of(dict(dataset=dict(type='ConcatDataset', datasets=[inner, inner]))))
