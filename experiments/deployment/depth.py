"""Where in the network noise is taken out: the error of features by depth."""

from collections import defaultdict
from typing import Any, Dict, List

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdenoiserep.network.layers import is_denoisable
from mmdenoiserep.stock.model import as_deployed, backbone_of, preprocess, run_backbone, spread

from .jobs import Job, View
from .plan import Study, views_of

#: Validation images that are looked at.
IMAGES = 32


@torch.no_grad()
def errors_by_depth(study: Study, jobs: Dict[str, List[Job]]) -> Dict[str, List[float]]:
    """For each arm, the relative error of each layer's input, in the order of the data.

    ‖x̃ − x‖² / ‖x − mean x‖², x in the stock network on clean images, x̃ in the arm's network on
    those under the study's first noise, over validation images.
    """
    (stock,) = jobs['stock']
    models = {name: own[0].model() for name, own in jobs.items()}
    loads = [_batches(stock, view) for view in views_of('val', study.noises[:1])]
    squares: Dict[str, Dict[str, float]] = {name: defaultdict(float) for name in jobs}
    spreads: Dict[str, float] = defaultdict(float)
    seen = 0
    # A batch at a time through all networks: images differ in size, and features are large.
    for batches in zip(*loads):
        clean, noisy = (preprocess(models['stock'], batch) for batch in batches)
        reference = _inputs(models['stock'], *clean)
        for layer, calls in reference.items():
            spreads[layer] += sum(spread(x).item() for x in calls)
        for name, model in models.items():
            inputs = _inputs(model, *noisy)
            for layer, calls in reference.items():
                differences = (x - y for x, y in zip(calls, inputs[layer]))
                squares[name][layer] += sum(d.square().sum().item() for d in differences)
        seen += len(clean[0])
        if seen >= IMAGES:
            break
    return {
        name: [own[layer] / max(spreads[layer], 1e-12) for layer in spreads]
        for name, own in squares.items()
    }


def _batches(job: Job, view: View) -> Any:
    return Runner.build_dataloader(job.view_config(view).test_dataloader)


def _inputs(model: nn.Module, images: Tensor, samples: Any) -> Dict[str, List[Tensor]]:
    """The inputs of each Linear and Conv2d of the backbone, by name, one a call."""
    found: Dict[str, List[Tensor]] = defaultdict(list)
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: found[name].append(args[0].cpu())
        )
        for name, module in backbone_of(model).named_modules()
        if is_denoisable(module)
    ]
    run_backbone(model, as_deployed(model, images), samples)
    for handle in handles:
        handle.remove()
    return found
