"""Expected calibration error from confidences and hits."""

import numpy as np

BINS = 15


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence in [0, 1], of ``BINS`` equally wide ones."""
    return np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1)


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017) under weightings of the samples.

    Args:
        confidence (ndarray): Of the predicted class, (samples,).
        correct (ndarray): Whether it is right, (samples,).
        counts (ndarray): How often each sample counts, (replicates, samples).

    Returns:
        ndarray: In [0, 1], (replicates,).
    """
    gap = np.zeros((len(confidence), BINS))
    gap[np.arange(len(confidence)), bins_of(confidence)] = correct - confidence
    return np.abs(counts @ gap).sum(1) / counts.sum(1)
