"""Stock configs made DenoiseRep configs and back."""

import pytest
import toy  # noqa: F401  (registers the toy model)
from mmengine.config import Config

from mmdenoiserep import to_denoiserep_config, to_stock_config
from mmdenoiserep.stock.config import HOOKS as OUR_HOOKS
from tools import ROOT

HOOKS = [dict(type='mmdenoiserep.DenoiseRepHook', mode='label-free')]


def stock(**kwargs) -> Config:
    return Config(dict(model=dict(type='ToyModel', backbone=dict(type='ToyBackbone')), **kwargs))


def test_there_and_back():
    config = stock(custom_hooks=[dict(type='EMAHook')])
    wrapped = to_denoiserep_config(config, HOOKS, targets=['conv.*'])
    assert wrapped.model.backbone == dict(
        type='mmdenoiserep.DenoiseRepBackbone', module=dict(type='ToyBackbone'), targets=['conv.*']
    )
    assert wrapped.custom_hooks == [*HOOKS, dict(type='EMAHook')]
    back = to_stock_config(wrapped)
    assert back.model == config.model and back.custom_hooks == config.custom_hooks
    assert config.to_dict() == stock(custom_hooks=[dict(type='EMAHook')]).to_dict()


def test_the_file_name_says_what_the_config_is(tmp_path):
    path = tmp_path / 'toy.py'
    stock().dump(path)
    wrapped = to_denoiserep_config(Config.fromfile(path), HOOKS)
    assert wrapped.filename == str(tmp_path / 'toy_denoiserep.py')


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(type='mmdenoiserep.DenoiseRepBackbone', module=dict()), 'denoisers already'),
        (dict(type='SoftTeacher', detector=dict()), r'no model\.backbone .* a SoftTeacher'),
    ],
)
def test_a_config_that_cannot_be_wrapped_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        to_denoiserep_config(Config(dict(model=model)), HOOKS)


@pytest.mark.parametrize('several', [False, True])
def test_a_fused_config_evaluates_without_mmdenoiserep(several):
    config = to_denoiserep_config(stock(), HOOKS)
    metric = dict(type='mmdenoiserep.BoundaryIoU', iou_metrics=['mIoU'], dilation_ratio=0.01)
    config.val_evaluator = config.test_evaluator = [metric] if several else metric
    for part in ('val_evaluator', 'test_evaluator'):
        evaluator = to_stock_config(config)[part]
        evaluator = evaluator[0] if several else evaluator
        assert evaluator == dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])


def test_the_flag_and_the_base_config_bring_the_same_hooks():
    base = Config.fromfile(ROOT / 'configs' / '_base_' / 'denoiserep.py')
    assert [dict(hook) for hook in base.custom_hooks] == list(OUR_HOOKS)
