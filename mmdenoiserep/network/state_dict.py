"""State dicts of networks with denoisers: stock ones load, fused ones are refused."""

import torch
from torch import Tensor, nn

#: What every key of a denoiser contains in a state dict, and no stock key does.
DENOISER_KEY = '.parametrizations.weight.0.'
#: Entry in a state dict's metadata that marks a layer whose weight is already fused.
FUSED_MARK = 'denoiserep_fused'
FUSED_ALREADY = (
    'the checkpoint is fused already and would be denoised twice; load it into the stock config '
    'that was written beside it, or train from the stock checkpoint'
)


def is_fused(state_dict: dict) -> bool:
    """Whether a state dict comes from a fused checkpoint."""
    metadata = getattr(state_dict, '_metadata', None)
    entries = metadata.values() if isinstance(metadata, dict) else ()
    return any(isinstance(entry, dict) and entry.get(FUSED_MARK) for entry in entries)


def mark_fused(state_dict: dict, layer: str) -> None:
    """Note in a state dict that the weight of a layer is fused."""
    vars(state_dict)['_metadata'][layer][FUSED_MARK] = True


def load_stock_weight(
    layer: nn.Module, state_dict: dict, prefix: str, local_metadata: dict, *_: object
) -> None:
    """Hook before a layer with a denoiser loads: take a stock layer's ``weight`` for its own.

    The denoiser then stays as it is, so its keys are not missing.

    Raises:
        RuntimeError: If the weight is fused already, or there twice.
    """
    if local_metadata.get(FUSED_MARK):
        raise RuntimeError(f'layer {prefix[:-1]!r}: {FUSED_ALREADY}')
    stock, inner = f'{prefix}weight', f'{prefix}parametrizations.weight.'
    if stock not in state_dict:
        return
    if f'{inner}original' in state_dict:
        raise RuntimeError(
            f'layer {prefix[:-1]!r} has both a stock and a parametrized weight in the state dict; '
            'it was put together from two checkpoints'
        )
    state_dict[f'{inner}original'] = state_dict.pop(stock)
    for key, value in layer.get_submodule('parametrizations.weight.0').state_dict().items():
        state_dict.setdefault(f'{inner}0.{key}', value)


def refuse_other_steps(state_dict: dict, prefix: str, own: Tensor) -> None:
    """Refuse a denoiser that was trained at another step than the one it is loaded into.

    Raised rather than collected: MMEngine would only warn, and W_D would act at a step that it was
    not trained for.

    Args:
        state_dict (dict): What is loaded.
        prefix (str): Of the denoiser's keys in it.
        own (Tensor): The denoiser's ``diffusion``: step, number of steps, betas and factor.

    Raises:
        RuntimeError: If the two differ: steps exactly, the rest within the precision of the file.
    """
    saved = state_dict.get(f'{prefix}diffusion')
    if saved is None:
        return
    if saved.shape == own.shape and saved.is_floating_point():
        cast = own.to(saved)
        rtol = 1e-5 if saved.dtype in (torch.float32, torch.float64) else 1e-2  # 16 bits round
        if torch.equal(saved[:2], cast[:2]) and torch.allclose(saved, cast, rtol=rtol):
            return
    raise RuntimeError(
        f'the denoiser of {prefix.split(".parametrizations.")[0]!r} was trained with [step, '
        f'num_steps, beta_start, beta_end, factor] = {saved.tolist()}, but the config gives '
        f'{own.tolist()}; use the targets, the steps and the schedule of the config that the '
        'checkpoint comes from'
    )
