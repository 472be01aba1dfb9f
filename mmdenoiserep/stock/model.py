"""The only two places that build a model from a config, or run its backbone on a batch."""

import copy
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from .config import without_sync_norms


def build_model(config: Config, size: Optional[Sequence[int]] = None) -> nn.Module:
    """The model of a config with its preprocessor, as the Runner would build it, on the CPU.

    Nothing is downloaded: the model's ``init_weights`` is not called.

    Args:
        config (Config): Not changed.
        size (Sequence[int], optional): (H, W) that the preprocessor pads to, where it pads.

    Raises:
        ValueError: If the config has no model.
    """
    if not config.get('model'):
        raise ValueError(f'{config.filename or "the config"} has no model')
    # Copied: building pops keys.
    part = without_sync_norms(copy.deepcopy(config.model))
    if config.get('data_preprocessor'):
        part.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
    preprocessor = part.get('data_preprocessor') or {}
    if size is not None and preprocessor.get('size'):
        preprocessor['size'] = tuple(size)
    init_default_scope(config.get('default_scope') or 'mmengine')
    return MODELS.build(part)


def preprocess(
    model: nn.Module, batch: Any, training: bool = False, limit: Optional[int] = None
) -> Tuple[Tensor, Any]:
    """The inputs and data samples of a batch, at most ``limit`` images.

    Args:
        model (nn.Module): A model with a ``data_preprocessor``, or a plain one, whose batches are
            its inputs.
        batch (Any): What a data loader gives.
        training (bool): Whether to pad as in training. Defaults to False.
        limit (int, optional): Most images to keep. Defaults to all.

    Returns:
        tuple[Tensor, Any]: Inputs (N, ...), and the data samples or None.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        inputs, data_samples = (batch[0] if isinstance(batch, (list, tuple)) else batch), None
    else:
        data = preprocessor(batch, training)
        inputs, data_samples = data['inputs'], data.get('data_samples')
    if limit is not None:
        inputs = inputs[:limit]
        data_samples = None if data_samples is None else data_samples[:limit]
    return inputs, data_samples


def as_deployed(model: nn.Module, images: Tensor) -> Tensor:
    """Images (N, C, H, W) of the size at which the deployed network sees them.

    Of MMSegmentation's models that slide a window over an image, the one in the middle.
    """
    test_cfg = getattr(model, 'test_cfg', None)
    if isinstance(test_cfg, dict) and str(test_cfg.get('mode')).startswith('slide'):
        for dim, length in zip((-2, -1), test_cfg['crop_size']):
            length = min(length, images.shape[dim])
            images = images.narrow(dim, (images.shape[dim] - length) // 2, length)
    return images


def run_backbone(model: nn.Module, inputs: Tensor, data_samples: Any = None) -> Any:
    """Run what makes a model's features, without neck and head.

    A model whose backbone needs more than the images (cameras, say) has a method
    ``run_backbone(inputs, data_samples)`` that hands it over.

    Args:
        model (nn.Module): A model with ``run_backbone`` or ``backbone``, else the network itself.
        inputs (Tensor): Preprocessed images, (N, ...), on any device.
        data_samples (Any): Those of the images, or None.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None:
        inputs = inputs.to(parameter.device)
    own = getattr(model, 'run_backbone', None)
    if own is not None:
        return own(inputs, data_samples)
    return backbone_of(model)(backbone_inputs(model, inputs))


def backbone_inputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the backbone itself is given of preprocessed images.

    MMDetection's BaseReID flattens (identities, images of each, C, H, W) in its forward.
    """
    if inputs.ndim == 5 and not any(isinstance(m, nn.Conv3d) for m in backbone_of(model).modules()):
        return inputs.flatten(0, 1)
    return inputs


def unwrap(model: nn.Module) -> nn.Module:
    """A model without what distributed training puts around it."""
    return model.get_submodule('module') if is_model_wrapper(model) else model


def backbone_of(model: nn.Module) -> nn.Module:
    """The part of a model that makes its features."""
    return getattr(model, 'backbone', model)


def tensors_in(output: Any) -> list:
    """All tensors of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if output is None or isinstance(output, (int, float, str, bool)):
        return []
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in tensors_in(value)]


def feature_dim(feature: Tensor) -> int:
    """The dimension of the channels in a backbone's output, (N, C), (N, L, C) or (N, C, H, W)."""
    return -3 if feature.ndim == 4 else -1


def spread(feature: Tensor) -> Tensor:
    """‖f − mean f‖² of a backbone's output, the mean for each channel; ‖f‖² of a single vector."""
    channels = feature.movedim(feature_dim(feature), 0).flatten(1)
    if channels.shape[1] == 1:
        return channels.square().sum()
    return (channels - channels.mean(1, keepdim=True)).square().sum()


def relative(error: Tensor, spread_a: Tensor, spread_b: Tensor) -> Tensor:
    """A squared error relative to the amplitudes of both features, by their :func:`spread`."""
    return error / (spread_a.clamp_min(1e-12).sqrt() * spread_b.clamp_min(1e-12).sqrt())


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode while the context is open; then each module as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
