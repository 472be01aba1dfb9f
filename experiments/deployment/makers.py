"""How each kind of arm makes a stock checkpoint out of a stock checkpoint."""

import copy
import inspect
import itertools
import os.path as osp
import shutil
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from mmdenoiserep import calibrate_checkpoint, to_denoiserep_config
from mmdenoiserep.apis import calibrate_measured_checkpoint, to_measured_config
from mmdenoiserep.apis.calibrate import load_stock_model
from mmdenoiserep.calibration import NothingBetter
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.hooks import DenoiseRepHook
from mmdenoiserep.stock.config import without_sync_norms
from mmdenoiserep.stock.data import unlabelled_loader
from mmdenoiserep.stock.model import preprocess
from mmdenoiserep.transforms import noise_transform

from .folded import is_folded

Options = Dict[str, Any]
#: What a maker says of a checkpoint where it left the stock one as it is.
REFUSED = 'nothing better than stock was found'
#: The options of what is made here, by kind.
OPTIONS: Dict[str, List[str]] = {
    'stock': [],
    'restore': [],
    'batch-norm': ['num_images'],
    'continued': ['keep_clean'],
}
#: What takes the options of the other kinds.
OWN_OPTIONS: Dict[str, Callable] = {
    'closed-form': calibrate_checkpoint,
    'label-free': DenoiseRepHook,
    'measured': calibrate_measured_checkpoint,
    'matched': DenoiseRepHook,
}


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


def options_of(kind: str) -> List[str]:
    """The names of the options that a kind of arm has."""
    if kind in OPTIONS:
        return OPTIONS[kind]
    given = {'config', 'checkpoint', 'out', 'noise', 'mode', 'seed', 'fuse', 'force', 'launcher'}
    names = [name for name in inspect.signature(OWN_OPTIONS[kind]).parameters if name not in given]
    return names + ['targets'] * (kind in ('measured', 'matched'))


def _same(config: Config, checkpoint: str, out: str, noises: List[str], options: Options) -> None:
    shutil.copyfile(checkpoint, out)


def _batch_norm(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> str:
    """``num_images``."""
    model, meta = load_stock_model(config, checkpoint)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    folded = {norm: copy.deepcopy(norm.state_dict()) for norm in norms if is_folded(norm)}
    if len(folded) == len(norms):
        shutil.copyfile(checkpoint, out)
        return 'no batch norms that are not folded into convolutions'

    def see_batches(*_: Any) -> None:
        # Where the model keeps them in evaluation as it trains (`norm_eval`), too.
        for norm in norms:
            norm.train(norm not in folded)

    model.to(get_device())
    loader = unlabelled_loader(config, config.randomness.seed)
    loader.dataset = insert_behind_loading(loader.dataset, _one_of(noises, 1.0))
    loader.batch_size = 16
    left = options.get('num_images', 256) // loader.batch_size
    init_default_scope(config.default_scope)
    batches = itertools.islice(Runner.build_dataloader(loader), max(left, 1))
    handle = model.register_forward_pre_hook(see_batches)
    # Runs the model on its inputs, in mode 'tensor'.
    update_bn((preprocess(model, batch)[0] for batch in batches), model)
    handle.remove()
    for norm, state in folded.items():
        norm.load_state_dict(state)
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
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmengine.KeepFoldedNorms')]
    shutil.copyfile(_train(config), out)


def _closed_form(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """``num_images``."""
    config = _denoised(config, to_denoiserep_config)
    options = dict(options, seed=config.randomness.seed)
    calibrate_checkpoint(config, checkpoint, out, fuse=True, force=True, **options)


def _label_free(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """Those of the hook."""
    config = _denoised(config, to_denoiserep_config)
    config.custom_hooks[0].update(mode='label-free', **options)
    _train_denoisers(config, checkpoint, out)


def _measured(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> str:
    """``targets``, and those of :func:`mmdenoiserep.apis.calibrate_measured_checkpoint`."""
    options = dict(options, seed=config.randomness.seed)
    config = _denoised(config, to_measured_config, options.pop('targets', None))
    try:
        report = calibrate_measured_checkpoint(
            config, checkpoint, out, noise=noises, fuse=True, force=True, **options
        )
    except NothingBetter as error:
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
    config = _denoised(config, to_measured_config, options.pop('targets', None))
    hook = dict(mode='label-free', noise=noises, init='calibrated')
    config.custom_hooks[0].update({**hook, **options})
    _train_denoisers(config, checkpoint, out)


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


def _denoised(
    config: Config, make_config: Callable[..., Config], targets: Optional[List[str]] = None
) -> Config:
    """A config with denoisers, and with the settings of theirs (``model.backbone.reach``) that a
    stock config has no place for."""
    changes = config.pop('denoisers', None) or {}
    config = make_config(config, targets=targets)
    config.merge_from_dict(changes)
    return config


def _train_denoisers(config: Config, checkpoint: str, out: str) -> None:
    config.load_from = checkpoint
    _train(config)
    shutil.copyfile(osp.join(config.work_dir, 'fused.pth'), out)


def _train(config: Config) -> str:
    """Train; the last checkpoint."""
    # An arm is measured once, at its end.
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.experiment_name = config.work_dir.replace(osp.sep, '_')
    runner = Runner.from_cfg(without_sync_norms(config))
    runner.train()
    return runner.message_hub.get_info('last_ckpt')


def _one_of(noises: List[str], prob: float, **options: Any) -> dict:
    """A transform that degrades an image by one of some noises, or with 1 - prob not at all."""
    steps = [[dict(noise_transform(noise), **options)] for noise in noises]
    choice = dict(type='mmcv.RandomChoice', transforms=steps)
    return dict(type='mmcv.RandomApply', transforms=[choice], prob=prob)
