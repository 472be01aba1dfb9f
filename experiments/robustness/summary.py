"""Clean performance, mPC, rPC and recovered shares, with intervals over the images."""

from typing import Dict, List, NamedTuple, Optional

import numpy as np

from experiments.study.bootstrap import Difference, paired_difference

from .noises import CLEAN, Noise

#: By the checkpoint's name and the noise, the score of the data and of its bootstrap samples.
Scores = Dict[str, Dict[Noise, np.ndarray]]
#: Lines of the table that are no corruption.
MEAN, RELATIVE = 'mPC', 'rPC'


class Cell(NamedTuple):
    """What a line of the table says of a checkpoint, all in percent.

    Attributes:
        value (Difference): Its performance, with the limits of a 95 % interval.
        to_first (Difference, optional): What it has more than the first checkpoint.
        recovered (Difference, optional): The share of the first checkpoint's loss that it wins
            back; None for the first, without noise, and where the first loses nothing for sure.
    """

    value: Difference
    to_first: Optional[Difference] = None
    recovered: Optional[Difference] = None


def summarize(scores: Scores) -> Dict[str, Dict[str, Cell]]:
    r"""The table: for each line, for each checkpoint, what it says.

    With P the clean performance and :math:`P_{c,s}` that under corruption c at severity s,

    .. math:: \mathrm{mPC} = \frac{1}{C S} \sum_{c,s} P_{c,s}, \quad \mathrm{rPC} = \mathrm{mPC} / P

    (Michaelis et al., arXiv 1907.07484, equations 1 and 2); the recovered share is

    .. math:: (P_c - P_c^\mathrm{first}) / (P^\mathrm{first} - P_c^\mathrm{first}),

    where :math:`P_c` is the mean over the severities, and in the mean the same of mPC. Every
    quantity is taken of the data and of each bootstrap sample; limits are the samples' 2.5 and
    97.5 percentiles.

    Args:
        scores (dict): For each checkpoint, the first being what the others are compared with, the
            scores by noise, (1 + replicates,), of the same samples.

    Returns:
        dict[str, dict[str, Cell]]: Lines: 'clean', each corruption, 'mPC' and 'rPC'.
    """
    lines = {name: _lines(of_noise) for name, of_noise in scores.items()}
    first, *others = lines
    out: Dict[str, Dict[str, Cell]] = {}
    for line, reference in lines[first].items():
        out[line] = {first: Cell(interval(reference))}
        for name in others:
            own = lines[name][line]
            recovered = None
            if line not in (CLEAN.corruption, RELATIVE):
                recovered = share(own, reference, lines[first][CLEAN.corruption])
            out[line][name] = Cell(interval(own), paired_difference([own], [reference]), recovered)
    return out


def _lines(of_noise: Dict[Noise, np.ndarray]) -> Dict[str, np.ndarray]:
    groups: Dict[str, List[np.ndarray]] = {}
    for noise, score in of_noise.items():
        groups.setdefault(noise.corruption, []).append(score)
    out = {corruption: np.mean(group, 0) for corruption, group in groups.items()}
    # Not of all noises: of one corruption there may be more severities than of another.
    out[MEAN] = np.mean([out[name] for name in groups if name != CLEAN.corruption], 0)
    with np.errstate(invalid='ignore', divide='ignore'):
        out[RELATIVE] = 100 * out[MEAN] / out[CLEAN.corruption]
    return out


def interval(score: np.ndarray) -> Difference:
    """A score of the data with the limits that its samples give."""
    return paired_difference([score], [np.zeros_like(score)])


def share(own: np.ndarray, reference: np.ndarray, clean: np.ndarray) -> Optional[Difference]:
    """The share of a loss that is won back, in percent, with its interval.

    Args:
        own (ndarray): Under noise, of the checkpoint, (1 + replicates,).
        reference (ndarray): Under noise, of the first checkpoint.
        clean (ndarray): Without noise, of the first checkpoint.

    Returns:
        Difference: Or None where the loss is not above 0 with 97.5 % of the samples: a share of
        nothing says nothing.
    """
    loss = clean - reference
    if not (loss[0] > 0 and interval(loss).low > 0):
        return None
    with np.errstate(invalid='ignore', divide='ignore'):
        shares = 100 * (own - reference) / loss
    # Samples without a loss have no share; NaN is left out of the percentiles.
    return interval(np.where(loss > 0, shares, np.nan))
