"""Paired bootstrap over seeds and test images."""

from typing import List, NamedTuple

import numpy as np


class Difference(NamedTuple):
    """Mean difference over the seeds, and the limits of its 95 % interval."""

    mean: float
    low: float
    high: float


def resamples(num_images: int, replicates: int, seed: int = 0) -> np.ndarray:
    """How often each image counts: first the data themselves, then bootstrap samples.

    Returns:
        ndarray: (1 + replicates, num_images), int64. The first row is 1.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num_images, np.full(num_images, 1 / num_images), replicates)
    return np.concatenate([np.ones((1, num_images), np.int64), drawn])


def paired_difference(
    arm: List[np.ndarray], reference: List[np.ndarray], seed: int = 0
) -> Difference:
    """The difference of two arms that share their seeds and their test images.

    Each replicate draws seeds with replacement, on top of the images that it has drawn: the same
    for both arms and all seeds. Replicates whose images leave the score undefined (NaN: AP of
    small objects, of which there are none) are left out.

    Args:
        arm (list[ndarray]): For each seed the score of the data and of its bootstrap samples, from
            :func:`resamples`, (1 + replicates,).
        reference (list[ndarray]): The same of what it is compared with.
        seed (int): Draws the seeds. Defaults to 0.

    Raises:
        ValueError: If the numbers of seeds differ.
    """
    if len(arm) != len(reference):
        raise ValueError(f'{len(arm)} and {len(reference)} seeds cannot be paired')
    differences = np.stack(arm) - np.stack(reference)  # (seeds, 1 + replicates)
    replicates = differences.shape[1] - 1
    # A stream of its own: independent of the images that `resamples` draws.
    drawn = np.random.default_rng([seed, 1]).integers(len(arm), size=(len(arm), replicates))
    means = np.take_along_axis(differences[:, 1:], drawn, axis=0).mean(0)
    defined = means[~np.isnan(means)]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (np.nan, np.nan)
    return Difference(float(differences[:, 0].mean()), float(low), float(high))
