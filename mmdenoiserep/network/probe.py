"""The order in which data passes a network's layers, observed in one forward pass."""

import copy
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, TypeVar, Union

import torch
from torch import Tensor, nn

Result = TypeVar('Result')


class Call(NamedTuple):
    """The first call of a layer: its place in the forward pass and whether it saw the input."""

    position: int
    takes_model_input: bool


def probe_calls(
    model: nn.Module, names: List[str], example: Optional[Tensor] = None
) -> Dict[str, Call]:
    """Find which of a model's layers are called, and in which order.

    Runs a copy of the model in eval mode: buffers that a forward pass changes stay as they are.

    Args:
        model (nn.Module): The network, called as ``model(example)``.
        names (list[str]): Names of the layers to watch.
        example (Tensor, optional): Input of the model. By default a black image is tried in
            several sizes (or a zero vector where the first layer is Linear).

    Returns:
        dict[str, Call]: The layers that were called, in the order of their first calls.

    Raises:
        ValueError: If the model accepts no input that was tried.
    """
    model = scratch_copy(model)
    device = next(model.parameters()).device
    inputs = [example] if example is not None else default_examples(model)
    failure = None
    for x in inputs:
        x = x.to(device, torch.float32 if x.is_floating_point() else None)
        calls: Dict[str, Call] = {}
        handles = [
            model.get_submodule(name).register_forward_pre_hook(
                _recorder(calls, name, x), with_kwargs=True
            )
            for name in names
        ]
        try:
            with torch.no_grad():
                model(x)
            return calls
        except Exception as error:  # whatever a model raises on a size that it cannot take
            failure = error
        finally:
            for handle in handles:
                handle.remove()
    raise ValueError(
        f'{type(model).__name__} could not be run to find the order of its layers '
        f'(last error: {failure}); give an input that it accepts as `example` '
        '(`example_shape` in a config)'
    ) from failure


def scratch_copy(model: nn.Module) -> nn.Module:
    """A copy to try things on, in evaluation mode and single precision."""
    # Old weight norms keep a computed weight, which cannot be copied with its graph.
    computed = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor)]
    model = copy.deepcopy(model, {id(t): t.detach().clone() for t in computed})
    model.float()  # whatever it is trained in: not every operator has a half on a CPU
    model.eval()  # not chained: some backbones return None
    return model


def with_example(model: nn.Module, run: Callable[[Tensor], Result]) -> Result:
    """The result of a function on the first default example that does not make it fail.

    Raises:
        ValueError: If all do.
    """
    failure = None
    for example in default_examples(model):
        try:
            return run(example)
        except Exception as error:  # whatever a model raises on a size that it cannot take
            failure = error
    raise ValueError(
        f'{type(model).__name__} takes none of the inputs tried (last error: {failure})'
    ) from failure


def default_examples(model: nn.Module) -> Iterator[Tensor]:
    """Zero inputs that a network may accept, the smallest first."""
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    channels = [3]
    if isinstance(first, nn.Linear):
        yield torch.zeros(1, first.in_features)
    elif first is not None:
        # The first layer by module order need not be the one that takes the image.
        channels = list(dict.fromkeys((first.in_channels, 3)))
    # 64 suits most; position embeddings of fixed size want their training resolution.
    sizes: List[Union[int, Tuple[int, ...]]] = [64, 224, 256, 384, 448, 512]
    fixed = getattr(model, 'img_size', None)
    if fixed is not None:
        sizes.insert(1, fixed if isinstance(fixed, int) else tuple(fixed))
    for size in sizes:
        height, width = (size, size) if isinstance(size, int) else size
        for count in channels:
            yield torch.zeros(1, count, height, width)


def first_input(args: tuple, kwargs: dict) -> Any:
    """What a module is called with first, by position or by keyword; None if with nothing."""
    return next(iter((*args, *kwargs.values())), None)


def _recorder(calls: Dict[str, Call], name: str, example: Tensor):
    def hook(module, args, kwargs):
        x = first_input(args, kwargs)
        same = x.shape == example.shape and x.data_ptr() == example.data_ptr()
        calls.setdefault(name, Call(len(calls), same))

    return hook
