"""What a test can be asked for besides its metrics: pictures, and augmentation."""

import copy
from typing import Optional

from mmengine.config import Config, ConfigDict

from ..stock.config import package_of

TTA_MODELS = {
    'mmdet': dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    ),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def enable_visualization(config: Config, show: bool, folder: Optional[str], seconds: float) -> None:
    """Show predictions in a window, or draw them into a folder, by the package's own hook.

    Args:
        config (Config): Changed.
        show (bool): Whether a window shows them.
        folder (str, optional): Where pictures are written.
        seconds (float): How long a window stays.

    Raises:
        ValueError: If the config has no such hook.
    """
    hook = (config.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ValueError('--show and --show-dir need default_hooks.visualization in the config')
    hook.show = show
    hook.wait_time = seconds
    # Each package has a name of its own for the switch and for the folder.
    package = package_of(config)
    hook['enable' if package == 'mmpretrain' else 'draw'] = True
    if folder and package == 'mmpretrain':
        hook.out_dir = folder
    elif folder and package == 'mmseg':
        config.visualizer.save_dir = folder
    elif folder:
        hook.test_out_dir = folder


def enable_tta(config: Config) -> None:
    """Augment at test time: by the config's ``tta_model`` and ``tta_pipeline``, or by flips.

    Args:
        config (Config): Changed.

    Raises:
        ValueError: If it is of another package and has no ``tta_model``, or its test set has no
            pipeline of its own.
    """
    tta_model = config.get('tta_model') or TTA_MODELS.get(config.get('default_scope') or '')
    if tta_model is None:
        raise ValueError(f'--tta needs a tta_model in the config, or one of {list(TTA_MODELS)}')
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise ValueError(f'--tta changes the pipeline of one data set, and {dataset.type} has none')
    pipeline = config.get('tta_pipeline')
    if pipeline is None:
        pipeline = copy.deepcopy(dataset.pipeline)
        last = copy.deepcopy(pipeline[-1])
        if 'Pack' in last.type and 'meta_keys' in last:
            last.meta_keys = (*last.meta_keys, 'flip', 'flip_direction')
        # The image as it is comes first: labels are taken from there.
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [last]])
    dataset.pipeline = pipeline
    config.model = ConfigDict(**tta_model, module=config.model)
