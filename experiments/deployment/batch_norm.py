"""Batch norms whose statistics are taken again on degraded images."""

import copy
import itertools
import shutil
from collections import defaultdict
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from mmdenoiserep.apis.calibrate import load_stock_model
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.stock.data import unlabelled_loader
from mmdenoiserep.stock.model import preprocess

from .folded import is_folded
from .noises import one_of

#: Images of one batch.
BATCH = 16


def batch_norm(
    config: Config, checkpoint: str, out: str, noises: List[str], options: Dict[str, Any]
) -> str:
    """Write ``out``, a stock checkpoint; see :func:`.makers.make`. Option: ``num_images``."""
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
    loader.dataset = insert_behind_loading(loader.dataset, one_of(noises, 1.0))
    loader.batch_size = 1
    images = itertools.islice(Runner.build_dataloader(loader), options.get('num_images', 256))
    handle = model.register_forward_pre_hook(see_batches)
    update_bn(batches_of_one_size(preprocess(model, i) for i in images), _OnBatches(model))
    handle.remove()
    for norm, state in folded.items():
        norm.load_state_dict(state)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), out)
    return ''


class _OnBatches(nn.Module):
    """A model of OpenMMLab as a function of one argument, which is what `update_bn` runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict) -> None:
        self.model(**batch)  # in mode 'tensor'


def batches_of_one_size(images: Iterable[Tuple[Tensor, Any]]) -> Iterator[dict]:
    """Batches of :data:`BATCH` images, and at the end smaller ones, each of images of one size.

    Not every package pads images of several sizes to one.

    Args:
        images (Iterable[tuple[Tensor, Any]]): An image (1, C, H, W), and its data samples or None.
    """
    waiting: Dict[Tuple[int, ...], List[Tuple[Tensor, Any]]] = defaultdict(list)
    for image in images:
        group = waiting[tuple(image[0].shape)]
        group.append(image)
        if len(group) == BATCH:
            yield _joined(group)
            group.clear()
    yield from (_joined(group) for group in waiting.values() if group)


def _joined(group: List[Tuple[Tensor, Any]]) -> dict:
    samples = [sample for _, own in group for sample in own or []]
    return dict(inputs=torch.cat([inputs for inputs, _ in group]), data_samples=samples or None)
