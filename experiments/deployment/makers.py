"""How each kind of arm makes a stock checkpoint out of a stock checkpoint."""

import copy
import os.path as osp
import shutil
from typing import Any, Callable, Dict, List

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.optim.swa_utils import update_bn

from mmdenoiserep import calibrate_checkpoint, to_denoiserep_config
from mmdenoiserep.apis import calibrate_measured_checkpoint, to_measured_config
from mmdenoiserep.apis.calibrate import load_stock_model
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.stock.config import without_sync_norms
from mmdenoiserep.stock.data import unlabelled_loader
from mmdenoiserep.stock.model import preprocess
from mmdenoiserep.transforms import noise_transform

Options = Dict[str, Any]
#: What a maker says of a checkpoint where it left the stock one as it is.
REFUSED = 'nothing better than stock was found'


def make(
    kind: str, config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> str:
    """Write ``out``, a stock checkpoint; what there is to say of it.

    Args:
        kind (str): See :data:`.arms.LABELS`.
        config (Config): Stock, with ``work_dir`` and ``randomness``. Changed.
        checkpoint (str): Stock.
        out (str): Where to write, ``*.pth``.
        noises (list[str]): The degradations that it is to stand.
        options (dict): Of the kind.
    """
    return MAKERS[kind](config, checkpoint, out, noises, options) or ''


def _same(config: Config, checkpoint: str, out: str, noises: List[str], options: Options) -> None:
    shutil.copyfile(checkpoint, out)


def _batch_norm(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> str:
    """``num_images``."""
    model, meta = load_stock_model(config, checkpoint)
    if not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        shutil.copyfile(checkpoint, out)
        return 'no batch norms'
    model.to(get_device())
    loader = unlabelled_loader(config, config.randomness.seed)
    loader.dataset = insert_behind_loading(loader.dataset, _one_of(noises, 1.0))
    loader.batch_size = 16
    left = options.get('num_images', 256) // loader.batch_size
    init_default_scope(config.default_scope)
    batches = []
    for batch in Runner.build_dataloader(loader):
        batches.append(preprocess(model, batch)[0])
        if len(batches) >= left:
            break
    with torch.no_grad():
        update_bn(batches, model)  # runs the model on its inputs, in mode 'tensor'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), out)
    return ''


def _continued(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """``keep_clean``."""
    prob = 1 - options.get('keep_clean', 0.5)
    loader = config.train_dataloader
    loader.dataset = insert_behind_loading(loader.dataset, _one_of(noises, prob, seed=None))
    config.load_from = checkpoint
    _train(config)
    shutil.copyfile(_last_checkpoint(config), out)


def _closed_form(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """``num_images``."""
    config = to_denoiserep_config(config)
    options = dict(options, seed=config.randomness.seed)
    calibrate_checkpoint(config, checkpoint, out, fuse=True, force=True, **options)


def _label_free(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """Those of the hook."""
    changes, config = _changes(config), to_denoiserep_config(config)
    config.custom_hooks[0].update(mode='label-free', **options)
    _train_denoisers(config, changes, checkpoint, out)


def _measured(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> str:
    """``targets``, and those of :func:`mmdenoiserep.apis.calibrate_measured_checkpoint`."""
    options = dict(options, seed=config.randomness.seed)
    changes, config = _changes(config), to_measured_config(config, options.pop('targets', None))
    config.merge_from_dict(changes)
    try:
        report = calibrate_measured_checkpoint(
            config, checkpoint, out, noise=noises, fuse=True, force=True, **options
        )
    except ValueError as error:
        if 'better than the stock' not in str(error):
            raise
        print(error)
        shutil.copyfile(checkpoint, out)
        return REFUSED
    print(report)  # into the job's log
    return ''


def _matched(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """``targets``, and those of the hook."""
    options = dict(options)
    changes, config = _changes(config), to_measured_config(config, options.pop('targets', None))
    hook = config.custom_hooks[0]
    hook.update(mode='label-free', noise=noises, init='calibrated')
    hook.update(options)
    _train_denoisers(config, changes, checkpoint, out)


MAKERS: Dict[str, Callable] = {
    'stock': _same,
    'restore': _same,
    'batch-norm': _batch_norm,
    'continued': _continued,
    'closed-form': _closed_form,
    'label-free': _label_free,
    'measured': _measured,
    'matched': _matched,
}


def _changes(config: Config) -> dict:
    """Settings of denoisers (``model.backbone.reach``), which a stock config has no place for."""
    return config.pop('denoisers', None) or {}


def _train_denoisers(config: Config, changes: dict, checkpoint: str, out: str) -> None:
    config.merge_from_dict(changes)
    config.load_from = checkpoint
    _train(config)
    shutil.copyfile(osp.join(config.work_dir, 'fused.pth'), out)


def _train(config: Config) -> None:
    # An arm is measured once, at its end.
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.experiment_name = config.work_dir.replace(osp.sep, '_')
    Runner.from_cfg(without_sync_norms(config)).train()


def _last_checkpoint(config: Config) -> str:
    with open(osp.join(config.work_dir, 'last_checkpoint'), encoding='utf-8') as file:
        return file.read().strip()


def _one_of(noises: List[str], prob: float, **options: Any) -> dict:
    """A transform that degrades an image by one of some noises, or with 1 - prob not at all."""
    steps = [[dict(noise_transform(noise), **options)] for noise in noises]
    choice = dict(type='mmcv.RandomChoice', transforms=copy.deepcopy(steps))
    return dict(type='mmcv.RandomApply', transforms=[choice], prob=prob)
