"""A network as its own teacher: its stock weights for a while, without a second copy."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator


@contextmanager
def stock_weights(modules: Dict[str, Any]) -> Iterator[None]:
    """Run the layers of denoisers with their stock weights while the context is open.

    Args:
        modules (dict[str, Denoiser]): The result of :func:`mmdenoiserep.denoisers`.
    """
    for module in modules.values():
        module.bypassed = True
    try:
        yield
    finally:
        for module in modules.values():
            module.bypassed = False
