"""Ranking a gallery by distance and scoring the ranking: mAP and CMC.

Plain functions on tensors, without a registry or a runner. The protocol is the one of Market-1501
(Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015): a gallery image with
the query's identity *and* camera is left out, and a query without any match left does not count.
"""

from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor


class Labels(NamedTuple):
    """Identities and cameras of a set of images, both (N,) and int64."""

    ids: Tensor
    cameras: Tensor


class Ranking(NamedTuple):
    """How a gallery was ranked for Q queries, on the CPU.

    Attributes:
        average_precision (Tensor): AP in [0, 1], (Q,), float64; NaN where a query has no match.
        first_match (Tensor): Rank of the first match, from 1, (Q,), int64; 0 where there is none.
        top (dict[int, tuple[Tensor, Tensor]]): For the queries asked for, the indices of the
            nearest gallery images that are allowed, nearest first, and their distances.
    """

    average_precision: Tensor
    first_match: Tensor
    top: Dict[int, tuple]


def distance_blocks(query: Tensor, gallery: Tensor, block: int = 256) -> Iterator[Tensor]:
    """Distances of queries to the gallery, a block of queries at a time.

    They are half the squared Euclidean distances, less a constant of each query: the order is
    the same, and for features of length 1 it is the order of cosine similarity.

    Args:
        query (Tensor): Features, (Q, C), float.
        gallery (Tensor): Features, (G, C), of the same dtype and device.
        block (int): Queries in a block. Memory grows with ``block`` x G. Defaults to 256.

    Yields:
        Tensor: (at most ``block``, G), in the order of the queries.
    """
    half_norms = gallery.square().sum(dim=1) / 2
    for chunk in query.split(block):
        yield torch.addmm(half_norms, chunk, gallery.T, alpha=-1)


def rank_gallery(
    blocks: Iterable[Tensor],
    query: Labels,
    gallery: Labels,
    same_camera: bool = False,
    top_of: Sequence[int] = (),
    top: int = 10,
) -> Ranking:
    """Rank the gallery for every query and score the rankings.

    Equal distances rank in the order of the gallery, as a stable sort leaves them. AP is the mean
    of the precisions at the ranks of the matches, in float64.

    Args:
        blocks (Iterable[Tensor]): Distances, (B, G) each, together (Q, G).
        query (Labels): Of the Q queries.
        gallery (Labels): Of the G gallery images.
        same_camera (bool): Whether images of the query's own camera may match. Defaults to False.
        top_of (Sequence[int]): Queries whose nearest gallery images are returned as well.
        top (int): How many of them. Defaults to 10.

    Returns:
        Ranking: One entry a query.

    Raises:
        ValueError: If a distance is NaN, or there are not as many rows as queries.
    """
    precision: List[Tensor] = []
    first: List[int] = []
    nearest: Dict[int, tuple] = {}
    wanted = set(top_of)
    gallery_ids, gallery_cameras = gallery
    places: Optional[Tensor] = None
    for block in blocks:
        if places is None:
            gallery_ids, gallery_cameras = (x.to(block.device) for x in gallery)
            places = torch.arange(block.shape[1], device=block.device)
        if torch.isnan(block).any():
            raise ValueError(f'a distance of query {len(first)} or of one soon after it is NaN')
        for row in block:
            index = len(first)
            same = gallery_ids == int(query.ids[index])
            allowed = torch.ones_like(same)
            if not same_camera:
                allowed = ~(same & (gallery_cameras == int(query.cameras[index])))
            keys = sort_keys(row, places)
            ranks = ranks_of(keys[same & allowed], keys[allowed])
            hits = torch.arange(1, len(ranks) + 1, device=ranks.device, dtype=torch.float64)
            precision.append((hits / ranks).mean().cpu())  # of nothing: NaN
            first.append(int(ranks[0]) if len(ranks) else 0)
            if index in wanted:
                candidates = places[allowed]
                order = keys[allowed].topk(min(top, len(candidates)), largest=False).indices
                found = candidates[order]
                nearest[index] = (found.cpu(), row[found].cpu())
    if len(first) != len(query.ids):
        raise ValueError(f'{len(query.ids)} queries, but {len(first)} rows of distances')
    average = torch.stack(precision) if precision else torch.zeros(0, dtype=torch.float64)
    return Ranking(average, torch.tensor(first, dtype=torch.int64), nearest)


def sort_keys(distances: Tensor, places: Tensor) -> Tensor:
    """Integers that order as (distance, place) does, so that no two are equal.

    Args:
        distances (Tensor): (G,), float32, without NaN.
        places (Tensor): 0 ... G - 1, int64.

    Returns:
        Tensor: (G,), int64.
    """
    # IEEE 754: as integers, positive floats order as they do and negative ones in reverse.
    bits = distances.float().view(torch.int32).long()
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (ordered << 32) | places


def ranks_of(matches: Tensor, allowed: Tensor) -> Tensor:
    """Ranks of matches among all allowed images, from 1, ascending.

    Counts instead of sorting the gallery: each image falls between two of the few matches.

    Args:
        matches (Tensor): Keys of the matches, (M,), int64.
        allowed (Tensor): Keys of all images that count, the matches among them, (N,), int64.

    Returns:
        Tensor: (M,), int64.
    """
    matches = matches.sort().values
    before = torch.searchsorted(matches, allowed)
    return torch.bincount(before, minlength=len(matches) + 1)[: len(matches)].cumsum(0)


def cmc(first_match: Tensor, rank: int) -> float:
    """Share in [0, 1] of the queries that count with a match among the first ``rank`` images."""
    counted = first_match[first_match > 0]
    return float((counted <= rank).double().mean())
