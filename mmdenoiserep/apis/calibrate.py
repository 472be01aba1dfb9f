"""Calibration from files to files: a stock checkpoint in, a denoised one out."""

import os.path as osp
from typing import NamedTuple, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_dist_info, init_dist
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from torch import nn

from ..calibration import calibrate
from ..calibration.which import check_noise_of
from ..conversion import denoisers
from ..network.state_dict import is_fused
from ..stock.checkpoint import load_checkpoint_from, load_exactly, weights_of
from ..stock.config import source_of, text_of, to_stock_config
from ..stock.data import unlabelled_loader
from ..stock.model import build_model
from .fuse import FusionReport, check_out, fuse_model, write_with_config


class CalibrationReport(NamedTuple):
    """What was written without fusion.

    Attributes:
        checkpoint (str): With denoisers.
        config (str): Of DenoiseRep, for that.
        num_denoisers (int): How many it has.
        num_images (int): How many were seen, over all processes.
    """

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
    force: bool = False,
) -> Union[CalibrationReport, FusionReport, None]:
    """Calibrate the denoisers of a checkpoint and write the result, complete or not at all.

    The images are a random choice from the training set, under the pipeline of the test set
    without its annotations.

    Args:
        config (Config): A DenoiseRep config.
        checkpoint (str): A stock checkpoint or one of the config, a file or an address.
        out (str): Where the result is written, ``*.pth``, with its config beside it.
        num_images (int): Images to see, over all processes. Defaults to 512.
        images (str, optional): A folder of images to take instead.
        fuse (bool): Whether to write a stock checkpoint and config. Defaults to False.
        max_tokens (int, optional): See :func:`mmdenoiserep.calibrate`.
        seed (int): Chooses images and tokens. Defaults to 0.
        launcher (str): Of MMEngine's launchers. Defaults to 'none'.
        force (bool): Whether to replace files that are there. Defaults to False.

    Returns:
        CalibrationReport | FusionReport | None: What was written; None on other processes than
        the first.

    Raises:
        FileExistsError: If a file to write exists.
        FileNotFoundError: If the checkpoint or the folder is missing.
        ValueError: If the checkpoint does not fit, the denoisers are of measured noise, or the
            features are not finite.
    """
    check_out(out, checkpoint, source_of(config), force)
    if num_images < 1:
        raise ValueError(f'num_images must be at least 1, got {num_images}')
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f'max_tokens must be at least 1, got {max_tokens}')
    if images and not osp.isdir(images):
        raise FileNotFoundError(f'there is no folder {images}')
    check_noise_of(config, 'gaussian')
    text_of(to_stock_config(config) if fuse else config)  # refuses before anything is loaded
    if launcher != 'none':
        init_dist(launcher)
    rank, world_size = get_dist_info()
    model, dataset_meta = load_stock_model(config, checkpoint)
    loader = Runner.build_dataloader(unlabelled_loader(config, seed, images), seed=seed)
    share = min(-(-num_images // world_size), len(loader.sampler))
    if not share:
        raise ValueError('there is no image to calibrate on; look at the data set of the config')
    model.to(calibration_device())
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
    model.cpu().eval()
    if fuse:
        return fuse_model(config, model, out, dataset_meta, force=force)
    return write_unfused(config, model, out, dataset_meta, seen * world_size, force)


def write_unfused(
    config: Config,
    model: nn.Module,
    out: str,
    dataset_meta: Optional[dict],
    num_images: int,
    force: bool = False,
) -> CalibrationReport:
    """Write a DenoiseRep checkpoint and its config, to train further from."""
    config.load_from = osp.abspath(out)
    config.resume = False
    for key in ('work_dir', 'experiment_name'):  # of who trained the stock model
        config.pop(key, None)
    config_path = write_with_config(out, config, model.state_dict(), dataset_meta, force)
    return CalibrationReport(out, config_path, len(denoisers(model)), num_images)


def calibration_device() -> str:
    """Where calibration runs: the Runner's device, or the CPU where that has no float64 (MPS)."""
    device = get_device()
    return 'cpu' if device == 'mps' else device


def load_stock_model(config: Config, checkpoint: str) -> Tuple[nn.Module, Optional[dict]]:
    """The model with the checkpoint's weights, and what that says of its data set."""
    source = load_checkpoint_from(checkpoint)
    if is_fused(source['state_dict']):
        raise ValueError(f'{checkpoint} is fused already and would be denoised twice')
    model = build_model(config)
    unexpected = load_exactly(model, weights_of(source, checkpoint), checkpoint)
    if unexpected:
        print_log(f'not used of {checkpoint}: {", ".join(unexpected)}', 'current')
    return model, source['meta'].get('dataset_meta')
