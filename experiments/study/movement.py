"""How far an arm has moved the backbone's weights."""

from typing import Sequence

import numpy as np

from mmdenoiserep.stock.checkpoint import load_checkpoint_file, weights_of

from .jobs import Job, read_record


def weight_change(jobs: Sequence[Job]) -> float:
    """The mean over jobs of :func:`change_of_checkpoint`, each to the baseline of its seed."""
    pairs = [(job.folder, job.parent) for job in jobs]
    files = [[read_record(folder)['checkpoint'] for folder in pair] for pair in pairs]
    return float(np.mean([change_of_checkpoint(*pair) for pair in files]))


def change_of_checkpoint(path: str, reference: str) -> float:
    """The median of |W' - W| / |W| (Frobenius) over the layers of the backbone that have changed.

    0 where none has: DenoiseRep⁻ leaves the backbone alone.
    """
    after, before = (weights_of(load_checkpoint_file(p)) for p in (path, reference))
    changes = [
        ((after[key] - weight).norm() / weight.norm()).item()
        for key, weight in before.items()
        if key.startswith('backbone.') and key.endswith('.weight') and weight.dim() > 1
    ]
    return float(np.median([c for c in changes if c > 0] or [0.0]))
