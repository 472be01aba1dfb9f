"""Weight initialization of models that have denoisers."""

import os.path as osp
import types
from typing import Sequence, Type, Union, cast

from mmengine.model import BaseModule
from torch import nn

from ..conversion import without_denoisers
from ..network.state_dict import FUSED_ALREADY, is_fused
from ..stock.reader import read_checkpoint


def redirect_init_weights(model: nn.Module) -> None:
    """Make ``model.init_weights()``, when it is called, initialize the stock layers.

    Initializers write into ``layer.weight``, which is a computed W A while denoisers are in:
    what they write would be lost.
    """
    if hasattr(model, 'init_weights'):
        # A bound method, so that a deepcopy of the model initializes itself.
        vars(model)['init_weights'] = types.MethodType(_init_stock_weights, model)


def _init_stock_weights(model: nn.Module) -> None:
    _refuse_fused(getattr(model, 'init_cfg', None))
    with without_denoisers(model):
        cast(Type[BaseModule], type(model)).init_weights(model)
    # BaseModule's record of what was initialized, which it expects in every module.
    record = getattr(model, '_params_init_info', None)
    if record is not None:
        for module in model.modules():
            module._params_init_info = record


def _refuse_fused(init_cfg: Union[dict, Sequence[dict], None]) -> None:
    # `init_cfg` with a prefix strips the mark that a state dict carries, so look into the file.
    for config in [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []:
        path = config.get('checkpoint') or ''
        if osp.isfile(path):
            try:
                checkpoint = read_checkpoint(path)
            except ValueError:
                continue  # not one that we could have written, so not a fused one
            # MMEngine takes a state dict itself for a checkpoint, too.
            if isinstance(checkpoint, dict) and is_fused(checkpoint.get('state_dict', checkpoint)):
                raise RuntimeError(f'init_cfg names {path}: {FUSED_ALREADY}')
