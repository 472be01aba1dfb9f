"""k-reciprocal re-ranking, without the matrix of all distances."""

from typing import Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor


def reranked_blocks(
    query: Tensor,
    gallery: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    block: int = 256,
) -> Iterator[Tensor]:
    r"""Distances after k-reciprocal encoding, a block of queries at a time.

    Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017:
    each image, of queries and gallery alike, becomes a sparse vector over its expanded
    k-reciprocal neighbours with the weights :math:`e^{-d}`, averaged over its k2 nearest
    neighbours; the distance is :math:`\lambda d + (1 - \lambda) d_J` with the Jaccard distance of
    the vectors. As in the authors' code, d is the squared Euclidean distance over the largest
    one of the image, each image is its own first neighbour, and vectors sum to 1.

    Memory grows with ``block`` x (Q + G) and with the non-zeros, never with (Q + G)².

    Args:
        query (Tensor): Features, (Q, C), float.
        gallery (Tensor): Features, (G, C), of the same dtype and device.
        k1 (int): Neighbours that can be reciprocal. Defaults to 20.
        k2 (int): Neighbours averaged over, at most k1 + 1. Defaults to 6.
        lambda_ (float): Weight of the original distance, in [0, 1]. Defaults to 0.3.
        block (int): Images in a block. Defaults to 256.

    Yields:
        Tensor: (at most ``block``, G), float32, on the CPU, in the order of the queries.

    Raises:
        ValueError: If a parameter is out of range.
    """
    if not (1 <= k2 <= k1 + 1 and 0 <= lambda_ <= 1):
        raise ValueError(
            f're-ranking needs 1 <= k2 <= k1 + 1 and lambda_ in [0, 1], got k1={k1}, k2={k2}, '
            f'lambda_={lambda_}'
        )
    images = torch.cat([query, gallery])
    neighbours, furthest = _neighbours(images, min(k1 + 1, len(images)), block)
    rows = [_encode(i, images, neighbours, furthest, k1) for i in range(len(images))]
    rows = [_average([rows[j] for j in neighbours[i, :k2]]) for i in range(len(images))]

    # By column: which images have a weight at neighbour j, and what weight.
    holders = np.repeat(np.arange(len(rows)), [len(places) for places, _ in rows])
    columns = np.concatenate([places for places, _ in rows])
    weights = np.concatenate([values for _, values in rows])
    order = np.argsort(columns, kind='stable')
    starts = np.searchsorted(columns[order], np.arange(len(images) + 1))
    holders, weights = holders[order], weights[order]

    for start in range(0, len(query), block):
        chunk = query[start : start + block]
        original = _squared_distances(chunk, gallery)
        original /= furthest[start : start + len(chunk), None]
        out = np.empty(original.shape, dtype=np.float32)
        for i in range(len(chunk)):
            places, values = rows[start + i]
            spans = [slice(starts[j], starts[j + 1]) for j in places]
            smaller = [np.minimum(weights[s], v) for s, v in zip(spans, values)]
            overlap = np.bincount(
                np.concatenate([holders[s] for s in spans]),
                np.concatenate(smaller),
                minlength=len(images),
            )[len(query) :]
            out[i] = 1 - overlap / (2 - overlap)
        yield lambda_ * original.cpu().float() + (1 - lambda_) * torch.from_numpy(out)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_min_(0)


def _neighbours(images: Tensor, count: int, block: int) -> Tuple[np.ndarray, Tensor]:
    """The nearest images of each, itself first, and the largest squared distance of each."""
    found: List[np.ndarray] = []
    furthest: List[Tensor] = []
    for start in range(0, len(images), block):
        distances = _squared_distances(images[start : start + block], images)
        furthest.append(distances.amax(1).clamp_min(torch.finfo(distances.dtype).tiny))
        own = torch.arange(len(distances), device=distances.device)
        distances[own, start + own] = -1  # rounding must not put a copy in front
        found.append(distances.topk(count, largest=False).indices.cpu().numpy())
    return np.concatenate(found), torch.cat(furthest)


def _reciprocal(i: int, neighbours: np.ndarray, k: int) -> np.ndarray:
    """The k nearest images of image i that have it among their own k nearest."""
    forward = neighbours[i, : k + 1]
    return forward[(neighbours[forward, : k + 1] == i).any(1)]


def _encode(
    i: int, images: Tensor, neighbours: np.ndarray, furthest: Tensor, k1: int
) -> Tuple[np.ndarray, np.ndarray]:
    reciprocal = _reciprocal(i, neighbours, k1)
    half = int(np.around(k1 / 2))
    parts = [reciprocal]
    for j in reciprocal:
        candidates = _reciprocal(j, neighbours, half)
        if len(np.intersect1d(candidates, reciprocal)) > 2 / 3 * len(candidates):
            parts.append(candidates)
    places = np.unique(np.concatenate(parts))
    distances = _squared_distances(images[i : i + 1], images[torch.from_numpy(places)])[0]
    weights = torch.exp(-distances / furthest[i]).double().cpu().numpy()
    return places, weights / weights.sum()


def _average(rows: List[Tuple[np.ndarray, np.ndarray]]) -> Tuple[np.ndarray, np.ndarray]:
    places, inverse = np.unique(np.concatenate([p for p, _ in rows]), return_inverse=True)
    return places, np.bincount(inverse.ravel(), np.concatenate([w for _, w in rows])) / len(rows)
