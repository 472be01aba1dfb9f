"""A parametrization of a layer's weight that comes and goes without a trace.

On :mod:`torch.nn.utils.parametrize`. Stock state dicts go on loading while it is in.
"""

from typing import Any, Optional, Protocol, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .state_dict import load_stock_weight

PREFIX = 'parametrizations.weight.'


def attach(layer: nn.Module, parametrization: nn.Module) -> None:
    """Compute a layer's weight by a parametrization, and show the layer's inputs to it.

    Args:
        layer (nn.Module): A layer with a ``weight``.
        parametrization (nn.Module): Maps the weight to one of the same shape. Before the layer runs
            its ``receive`` is called with the layer's input and returns what the layer gets;
            ``release`` is called behind.
    """
    parametrize.register_parametrization(layer, 'weight', parametrization, unsafe=True)
    layer.register_forward_pre_hook(_receive, with_kwargs=True)
    layer.register_forward_hook(_release, always_call=True)
    layer._register_load_state_dict_pre_hook(load_stock_weight, with_module=True)


def detach(layer: nn.Module, keep: bool = False) -> None:
    """Make a layer stock again, with its own weight or (``keep``) with the computed one."""
    # A deepcopy shares the class that PyTorch made for the parametrized layer, and removing the
    # parametrization deletes ``weight`` from it: without a class of its own, copies would break.
    cls = type(layer)
    own = {k: v for k, v in vars(cls).items() if k not in ('__dict__', '__weakref__')}
    layer.__class__ = type(cls.__name__, cls.__bases__, own)
    parametrize.remove_parametrizations(layer, 'weight', leave_parametrized=keep)
    if 'bias' in layer._parameters:  # the weight came back behind it; stock layers have it first
        layer._parameters['bias'] = layer._parameters.pop('bias')
    # By identity and not by handle: handles do not survive a deepcopy (EMA).
    for key in [k for k, f in layer._forward_pre_hooks.items() if f is _receive]:
        del layer._forward_pre_hooks[key]
        layer._forward_pre_hooks_with_kwargs.pop(key, None)
    for key in [k for k, f in layer._forward_hooks.items() if f is _release]:
        del layer._forward_hooks[key]
        layer._forward_hooks_always_called.pop(key, None)
    hooks = layer._load_state_dict_pre_hooks
    for key in [k for k, f in hooks.items() if getattr(f, 'hook', f) is load_stock_weight]:
        del hooks[key]


def parametrization_of(layer: nn.Module) -> Optional[nn.Module]:
    """The first parametrization of a layer's weight, or None."""
    if not parametrize.is_parametrized(layer, 'weight'):
        return None
    parametrizations: Any = layer.parametrizations
    return parametrizations.weight[0]


class _Companion(Protocol):
    """What :func:`attach` asks of a parametrization."""

    def receive(self, x: Tensor) -> Tensor: ...

    def release(self) -> None: ...


def _companion(layer: nn.Module) -> _Companion:
    return cast(_Companion, parametrization_of(layer))


def _receive(layer: nn.Module, args: tuple, kwargs: dict) -> tuple:
    if args:
        return (_companion(layer).receive(args[0]), *args[1:]), kwargs
    return args, dict(kwargs, input=_companion(layer).receive(kwargs['input']))


def _release(layer: nn.Module, args: tuple, output: object) -> None:
    _companion(layer).release()
