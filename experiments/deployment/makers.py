"""How each kind of arm makes a stock checkpoint out of a stock checkpoint."""

import inspect
import os.path as osp
import shutil
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdenoiserep import calibrate_checkpoint, to_denoiserep_config
from mmdenoiserep.apis import calibrate_measured_checkpoint, to_measured_config
from mmdenoiserep.calibration import NothingBetter
from mmdenoiserep.calibration.measured import check_measured
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.hooks import DenoiseRepHook
from mmdenoiserep.stock.checkpoint import load_checkpoint_file, weights_of
from mmdenoiserep.stock.config import without_sync_norms

from .batch_norm import batch_norm
from .noises import one_of

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


def check_options(kind: str, options: Options) -> None:
    """Look at the values of an arm's options, as far as it goes without its images.

    Raises:
        TypeError, ValueError: If one is of another type or out of range.
    """
    if not 0 <= options.get('keep_clean', 0) <= 1:
        raise ValueError(f'keep_clean must be in [0, 1], got {options["keep_clean"]}')
    if kind == 'measured':
        check_measured(options.get('keep_clean', 0.5), None, options.get('method', 'pairs'))
    for name in ('num_images', 'max_tokens', 'images_per_pass'):
        if options.get(name) is not None and options[name] < 1:
            raise ValueError(f'{name} must be at least 1, got {options[name]}')
    if OWN_OPTIONS.get(kind) is DenoiseRepHook:
        own = {name: value for name, value in options.items() if name != 'targets'}
        noise = ['gaussian_noise:3'] if kind == 'matched' else []  # whichever it will be
        DenoiseRepHook(**{'mode': 'label-free', 'noise': noise, **own})


def _same(config: Config, checkpoint: str, out: str, noises: List[str], options: Options) -> None:
    shutil.copyfile(checkpoint, out)


def _continued(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Options
) -> None:
    """``keep_clean``."""
    prob = 1 - options.get('keep_clean', 0.5)
    loader = config.train_dataloader
    loader.dataset = insert_behind_loading(loader.dataset, one_of(noises, prob, seed=None))
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


def _matched(config: Config, checkpoint: str, out: str, noises: List[str], options: Options) -> str:
    """``targets``, and those of the hook."""
    options = dict(options)
    config = _denoised(config, to_measured_config, options.pop('targets', None))
    hook = dict(mode='label-free', noise=noises, init='calibrated')
    config.custom_hooks[0].update({**hook, **options})
    _train_denoisers(config, checkpoint, out)
    stock, made = (weights_of(load_checkpoint_file(path), path) for path in (checkpoint, out))
    return REFUSED if all(torch.equal(stock[key], made[key]) for key in made) else ''


MAKERS: Dict[str, Callable] = {
    'stock': _same,
    'restore': _same,
    'batch-norm': batch_norm,
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
