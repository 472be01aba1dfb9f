"""What an image denoiser in front of a network costs at inference."""

import copy
import time
from itertools import islice

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from experiments.robustness.noises import CLEAN

from .jobs import Job

#: Images of which the time is taken.
TIMED = 20


@torch.no_grad()
def latency_ratio(job: Job, plain: Config) -> float:
    """(network + denoiser) / network, on the first test images, one at a time.

    Args:
        job (Job): Of an arm with a transform.
        plain (Config): The same test set without it.
    """
    model = job.model()
    loader = copy.deepcopy(plain.test_dataloader)
    loader.update(batch_size=1, num_workers=0, persistent_workers=False)
    network = 0.0
    for i, batch in enumerate(islice(Runner.build_dataloader(loader), TIMED + 1)):
        begin = time.perf_counter()
        model.test_step(batch)
        network += (time.perf_counter() - begin) * (i > 0)  # the first warms up
    both = [
        _loading(DATASETS.build(config.test_dataloader.dataset))
        for config in (job.view_config(('test', CLEAN)), plain)
    ]
    return 1 + max(0.0, both[0] - both[1]) / network


def _loading(dataset) -> float:
    dataset[0]
    begin = time.perf_counter()
    for i in range(1, min(TIMED + 1, len(dataset))):
        dataset[i]
    return time.perf_counter() - begin
