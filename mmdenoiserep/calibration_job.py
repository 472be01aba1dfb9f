"""Calibration from files to files: a stock checkpoint in, a denoised one out."""

import copy
import os
import os.path as osp
import tempfile
from typing import NamedTuple, Optional, Union

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_dist_info, init_dist
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils import ProgressBar
from torch import nn

from .calibration import calibrate
from .checkpoint import atomic_write, load_checkpoint_file, weights_of
from .config import without_sync_norms
from .conversion import denoisers, is_fused
from .fusion import FusionReport, fuse_checkpoint, load_exactly
from .version import __version__


class CalibrationReport(NamedTuple):
    """What was written without fusion."""

    checkpoint: str
    config: str
    num_denoisers: int
    num_images: int

    def __str__(self) -> str:
        return (
            f'{self.num_denoisers} denoisers calibrated on {self.num_images} images: '
            f'{self.checkpoint}; its config: {self.config}'
        )


def calibrate_checkpoint(
    config: Config,
    checkpoint: str,
    out: str,
    num_images: int = 512,
    images: Optional[str] = None,
    fuse: bool = False,
    max_tokens: Optional[int] = 256,
    seed: int = 0,
    launcher: str = 'none',
) -> Union[CalibrationReport, FusionReport, None]:
    """Calibrate the denoisers of a checkpoint and write the result, complete or not at all.

    The images are a random choice from the training set, under the pipeline of the test set
    without its annotations.

    Args:
        config (Config): A DenoiseRep config.
        checkpoint (str): A stock checkpoint or one of the config, a file or an address.
        out (str): Where the result is written, '*.pth', with its config beside it.
        num_images (int): Images to see, over all processes. Defaults to 512.
        images (str, optional): A folder of images to take instead.
        fuse (bool): Whether to write a stock checkpoint and config. Defaults to False.
        max_tokens (int, optional): See :func:`mmdenoiserep.calibration.calibrate`.
        seed (int): Chooses images and tokens. Defaults to 0.
        launcher (str): Of MMEngine's launchers. Defaults to 'none'.

    Returns:
        CalibrationReport | FusionReport | None: What was written; None on other processes than
        the first.

    Raises:
        FileNotFoundError: If the checkpoint or the folder is missing.
        ValueError: If the checkpoint does not fit, or the features are not finite.
    """
    if not out.endswith('.pth'):
        raise ValueError(f'the checkpoint to write must be named *.pth, got {out}')
    if osp.abspath(out) == osp.abspath(checkpoint):
        raise ValueError(f'{out} is the checkpoint itself; give another name')
    if num_images < 1:
        raise ValueError(f'num_images must be at least 1, got {num_images}')
    if images and not osp.isdir(images):
        raise FileNotFoundError(f'there is no folder {images}')
    if launcher != 'none':
        init_dist(launcher)
    rank, world_size = get_dist_info()
    init_default_scope(config.get('default_scope', 'mmengine'))

    model, meta = _load_model(config, checkpoint)
    loader = Runner.build_dataloader(_unlabelled_loader(config, images, seed), seed=seed)
    share = min(-(-num_images // world_size), len(loader.sampler))
    model.to(get_device())
    bar = ProgressBar(share, bar_width=30) if rank == 0 else None
    seen = calibrate(
        model,
        loader,
        share,
        max_tokens=max_tokens,
        progress=bar and (lambda count: bar.update(count)),
    )
    if rank:
        return None
    print()  # behind the bar
    state = dict(meta=meta, state_dict=model.cpu().state_dict())
    if not fuse:
        config_path = out[: -len('.pth')] + '.py'
        config.load_from = osp.abspath(out)
        with atomic_write(out) as file, atomic_write(config_path) as config_file:
            config_file.write(config.pretty_text.encode())
            torch.save(state, file)
        return CalibrationReport(out, config_path, len(denoisers(model)), seen * world_size)
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=osp.dirname(osp.abspath(out))) as folder:
        unfused = osp.join(folder, 'calibrated.pth')
        torch.save(state, unfused)
        return fuse_checkpoint(config, unfused, out)


def _load_model(config: Config, checkpoint: str):
    source = (
        CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
        if '://' in checkpoint
        else load_checkpoint_file(checkpoint)
    )
    if is_fused(source['state_dict']):
        raise ValueError(f'{checkpoint} is fused already and would be denoised twice')
    part = copy.deepcopy(without_sync_norms(config.model))
    if config.get('data_preprocessor'):
        part.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
    model: nn.Module = MODELS.build(part)
    unexpected = load_exactly(model, weights_of(source), checkpoint)
    if unexpected:
        print_log(f'not used of {checkpoint}: {", ".join(unexpected)}', 'current')
    dataset_meta = source.get('meta', {}).get('dataset_meta')
    return model, dict(dataset_meta=dataset_meta, mmdenoiserep_version=__version__)


def _unlabelled_loader(config: Config, images: Optional[str], seed: int) -> ConfigDict:
    for part in ('train_dataloader', 'test_dataloader'):
        if not config.get(part):
            raise ValueError(f'the config has no {part}, which names the images and how to load')
    loader = copy.deepcopy(config.test_dataloader)
    inner = loader.dataset
    while 'dataset' in inner:
        inner = inner.dataset
    pipeline = [s for s in inner.get('pipeline', []) if 'LoadAnnotations' not in s['type']]
    if images:
        loader.dataset = dict(type='mmpretrain.CustomDataset', data_prefix=images, with_label=False)
    else:
        loader.dataset = copy.deepcopy(config.train_dataloader.dataset)
    loader.dataset = _with_pipeline(loader.dataset, pipeline)
    loader.sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
    loader.drop_last = False
    return loader


def _with_pipeline(dataset: dict, pipeline: list) -> dict:
    """A data set under another pipeline, without wrappers that repeat or mix its images."""
    if 'datasets' in dataset:
        parts = [_with_pipeline(part, pipeline) for part in dataset['datasets']]
        return dict(dataset, datasets=parts)
    if 'dataset' in dataset:
        return _with_pipeline(dataset['dataset'], pipeline)
    return dict(dataset, pipeline=pipeline) if 'pipeline' in dataset else dataset
