"""What measured noise asks of a config: denoisers of that noise, an optimizer and a schedule."""

from typing import List, Optional, Sequence

from mmengine.config import Config

from ..stock.config import to_denoiserep_config

#: What output-matched training steps with.
OPTIMIZER = dict(type='AdamW', lr=1e-4, weight_decay=0.0)
#: Iterations in which its learning rate rises.
WARM_UP = 50


def to_measured_config(config: Config, targets: Optional[Sequence[str]] = None) -> Config:
    """A stock config with denoisers of measured noise in its backbone.

    Raises:
        ValueError: See :func:`mmdenoiserep.to_denoiserep_config`.
    """
    config = to_denoiserep_config(config, targets=targets)
    config.model.backbone.update(noise='measured', reach='kernel')
    return config


def set_optimizer(config: Config) -> None:
    """Let a config train denoisers of measured noise as the studies did: AdamW, 1e-4, no decay.

    A stock optimizer is meant for a whole network and diverges. Precision, accumulation and
    clipping stay as they are.
    """
    wrapper = config.get('optim_wrapper') or dict(type='OptimWrapper')
    kept = {k: v for k, v in wrapper.items() if k not in ('paramwise_cfg', 'constructor')}
    config.optim_wrapper = dict(kept, optimizer=dict(OPTIMIZER))
    set_schedule(config)


def set_schedule(config: Config) -> None:
    """Let the learning rate follow :func:`schedule_of`, where that is known."""
    schedule = schedule_of(config)
    if schedule:
        config.param_scheduler = schedule


def schedule_of(config: Config) -> Optional[List[dict]]:
    """Of the learning rate: it rises for 50 iterations and falls to 0 along a cosine, to the end of
    the config's training. None where that has no length.

    Adam's first steps are of the full rate for each weight, whatever its gradient, and take the
    closed form, from which training starts, out of its minimum.
    """
    loop = config.get('train_cfg') or {}
    length = loop.get('max_epochs') or loop.get('max_iters')
    if not length:
        return None
    schedule = dict(type='CosineAnnealingLR', T_max=length, by_epoch=bool(loop.get('max_epochs')))
    if schedule['by_epoch']:
        schedule['convert_to_iter_based'] = True
    warm_up = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=WARM_UP)
    return [warm_up, schedule]
