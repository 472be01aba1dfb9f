"""Looking at the inputs of layers while they run."""

from contextlib import contextmanager
from functools import partial
from threading import Lock, get_ident
from typing import Callable, Iterator, Mapping, Optional, Tuple, TypeVar

import torch
from torch import Tensor, nn


class Observed(nn.Module):
    """Module whose input others may look at.

    Each observer belongs to the thread that opened its context: threads that share a model do not
    see each other's features. A copy has no observers.
    """

    #: (thread, function) of each context that is open.
    observers: Tuple[tuple, ...] = ()

    def show(self, x: Tensor) -> None:
        """Show an input to the observers of this thread."""
        for thread, observer in self.observers:
            if get_ident() == thread:
                observer(x)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != 'observers'}


class NoisePredictor(Observed):
    """What trains by its input: a denoiser of whatever kind."""

    weight: nn.Parameter

    def noise_loss(
        self,
        x: Tensor,
        max_tokens: Optional[int] = None,
        generator: Optional[torch.Generator] = None,
    ) -> Tensor:
        """The module's term of Loss_p for an input, a scalar."""
        raise NotImplementedError


AnyObserved = TypeVar('AnyObserved', bound=Observed)


@contextmanager
def observe_inputs(
    modules: Mapping[str, AnyObserved],
    observer: Callable[[str, AnyObserved, Tensor], None],
) -> Iterator[None]:
    """Show the inputs of all denoised layers to a function while the context is open.

    Args:
        modules (dict[str, Observed]): The result of :func:`mmdenoiserep.denoisers`.
        observer (Callable): Called as ``observer(name, denoiser, x)`` before a layer runs.
    """
    thread = get_ident()
    entries = {name: (thread, partial(observer, name, module)) for name, module in modules.items()}
    for name, module in modules.items():
        with _LOCK:
            module.observers = (*module.observers, entries[name])
    try:
        yield
    finally:
        for name, module in modules.items():
            with _LOCK:
                module.observers = tuple(e for e in module.observers if e is not entries[name])


_LOCK = Lock()
