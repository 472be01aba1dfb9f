"""From a stock checkpoint to a robust stock checkpoint: calibration on measured noise."""

import os.path as osp
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.dist import get_dist_info, init_dist
from mmengine.logging import print_log

from ..calibration import MeasuredReport, calibrate_measured
from ..calibration.measured import check_measured
from ..calibration.search import RIDGES
from ..calibration.which import check_noise_of
from ..stock.config import (
    is_denoiserep_config,
    listed,
    source_of,
    text_of,
    to_stock_config,
)
from ..stock.data import unlabelled_loader
from .calibrate import CalibrationReport, calibration_device, load_stock_model, write_unfused
from .fuse import FusionReport, check_out, fuse_model
from .measured_config import set_optimizer, to_measured_config
from .pairs import Noise, Pairs


class RobustReport(NamedTuple):
    """What was found, and what was written.

    Attributes:
        measured (MeasuredReport): See there.
        written (FusionReport | CalibrationReport): With ``fuse``, or without.
    """

    measured: MeasuredReport
    written: Union[FusionReport, CalibrationReport]

    def __str__(self) -> str:
        return f'{self.measured}\n{self.written}'


def calibrate_measured_checkpoint(
    config: Config,
    checkpoint: str,
    out: str,
    noise: Sequence[Noise] = (),
    degraded: Optional[str] = None,
    keep_clean: float = 0.5,
    num_images: int = 256,
    images: Optional[str] = None,
    fuse: bool = False,
    max_tokens: Optional[int] = 256,
    images_per_pass: Optional[int] = None,
    method: str = 'pairs',
    seed: int = 0,
    launcher: str = 'none',
    force: bool = False,
    ridges: Sequence[Tuple[float, float]] = RIDGES,
) -> Optional[RobustReport]:
    """Make a checkpoint robust to degradations that are measured on unlabelled images.

    Args:
        config (Config): A stock config, or a DenoiseRep config of measured noise.
        checkpoint (str): A stock checkpoint.
        out (str): Where the result is written, ``*.pth``, with its config beside it.
        noise (Sequence[str | dict]): Degradations: 'gaussian_noise:3', 'benchmark:3' for all 15 of
            Michaelis et al., or configs of transforms.
        degraded (str, optional): A folder of degraded images instead, under the names of those in
            ``images``.
        keep_clean (float): κ, the share of the clean images. Defaults to 0.5.
        num_images (int): Images, over all processes. Defaults to 256.
        images (str, optional): A folder of clean images instead of the training set.
        fuse (bool): Whether to write a stock checkpoint and config. Defaults to False.
        max_tokens (int, optional): Tokens per image and layer. Defaults to 256; None takes all.
        images_per_pass (int, optional): Images whose activations are in memory at once. Defaults
            to as many as fit into 4 GiB.
        method (str): 'pairs', or 'transport', which needs no pairs.
        seed (int): Chooses images and tokens. Defaults to 0.
        launcher (str): Of MMEngine's launchers. Defaults to 'none'.
        force (bool): Whether to replace files that are there. Defaults to False.
        ridges (Sequence[tuple[float, float]]): Candidates: of layers that are solved by their own
            input, and of those that write to a stream.

    Returns:
        RobustReport | None: What was found and written; None on other processes than the first.

    Raises:
        FileExistsError: If a file to write exists.
        FileNotFoundError: If a file or folder is missing.
        ValueError: If the checkpoint does not fit, a number is out of range, pairs do not match, or
            nothing that was tried is better than the stock network on images that were held back.
            Nothing is written then.
    """
    noise = listed(noise)
    check_out(out, checkpoint, source_of(config), force)
    if num_images < 1:
        raise ValueError(f'num_images must be at least 1, got {num_images}')
    check_measured(keep_clean, max_tokens, method)
    for folder in (images, degraded):
        if folder and not osp.isdir(folder):
            raise FileNotFoundError(f'there is no folder {folder}')
    if degraded and not images:
        raise ValueError('a folder of degraded images needs one of clean images (--clean)')
    config = config if is_denoiserep_config(config) else to_measured_config(config)
    check_noise_of(config, 'measured')
    text_of(to_stock_config(config) if fuse else config)  # refuses before anything is loaded
    if launcher != 'none':
        init_dist(launcher)
    rank, world_size = get_dist_info()
    model, dataset_meta = load_stock_model(config, checkpoint)
    model.to(calibration_device()).eval()
    share = -(-num_images // world_size)
    pairs = Pairs(config, noise, share, degraded, images, seed)
    to_solve_on, held_back = pairs.to_solve_on(model), pairs.held_back(model)
    report = calibrate_measured(
        model,
        to_solve_on,
        held_back,
        keep_clean,
        ridges,
        max_tokens=max_tokens,
        images_per_pass=images_per_pass,
        method=method,
        seed=seed,
        progress=lambda text: print_log(text, 'current'),
    )
    if rank:
        return None
    model.cpu()
    if fuse:
        return RobustReport(report, fuse_model(config, model, out, dataset_meta, force=force))
    hook = dict(noise=list(noise), keep_clean=keep_clean)
    if degraded and images:
        hook.update(_train_on_pairs(config, images, degraded, seed))
    for own in _hooks_of(config, 'DenoiseRepHook'):  # to train further on the same
        if not own.get('noise'):  # its optimizer is still the stock one, and labels were not used
            set_optimizer(config)
            own['mode'] = 'label-free'
        own.update(hook)
    count = world_size * sum(len(pair.clean) for pair in [*to_solve_on, *held_back])
    return RobustReport(report, write_unfused(config, model, out, dataset_meta, count, force))


def _train_on_pairs(config: Config, images: str, degraded: str, seed: int) -> dict:
    """Let a config train on two folders of pairs, without labels; what its hook needs for that."""
    loader = unlabelled_loader(config, seed, osp.abspath(images))
    own = (config.get('train_dataloader') or {}).get('batch_size')
    if own and config.get('default_scope') != 'mmseg':  # which does not pad images to one size
        loader.batch_size = own
    config.train_dataloader = loader
    for switch in _hooks_of(config, 'YOLOXModeSwitchHook', 'PipelineSwitchHook'):
        config.custom_hooks.remove(switch)  # of the training set's pipeline
    load = dict(type='mmdenoiserep.LoadDegraded', folder=osp.abspath(degraded))
    return dict(noise=[load], mode='label-free')  # there are no labels


def _hooks_of(config: Config, *types: str) -> List[dict]:
    """The custom hooks of some types, whatever their scope."""
    hooks = config.get('custom_hooks') or []
    return [hook for hook in hooks if str(hook.get('type')).endswith(types)]
