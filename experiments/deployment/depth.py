"""Where in the network noise is taken out: the error of features by depth."""

from typing import Dict, List

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdenoiserep.network.layers import is_denoisable
from mmdenoiserep.stock.model import backbone_of, preprocess, run_backbone, spread

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
    model = stock.model()
    clean, noisy = (_images(stock, model, view) for view in views_of('val', study.noises[:1]))
    reference = _inputs(model, clean)
    out = {}
    for name, own in jobs.items():
        inputs = _inputs(own[0].model(), noisy)
        out[name] = [
            ((inputs[layer] - x).square().sum() / spread(x).clamp_min(1e-12)).item()
            for layer, x in reference.items()
        ]
    return out


def _images(job: Job, model: nn.Module, view: View) -> List[tuple]:
    config = job.view_config(view)
    batches, count = [], 0
    for batch in Runner.build_dataloader(config.test_dataloader):
        batches.append(preprocess(model, batch))
        count += len(batches[-1][0])
        if count >= IMAGES:
            break
    return batches


def _inputs(model: nn.Module, batches: List[tuple]) -> Dict[str, Tensor]:
    """The input of each Linear and Conv2d of the backbone, by name, over all images."""
    found: Dict[str, List[Tensor]] = {}
    backbone = backbone_of(model)
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: found.setdefault(name, []).append(args[0].cpu())
        )
        for name, module in backbone.named_modules()
        if is_denoisable(module)
    ]
    for inputs, samples in batches:
        run_backbone(model, inputs, samples)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}
