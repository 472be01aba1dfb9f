"""mAP and rank-k of person re-identification as a metric of MMEngine."""

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS
from torch import Tensor

from .files import atomic_write
from .reranking import reranked_blocks
from .retrieval import Labels, Ranking, cmc, distance_blocks, rank_gallery


@dataclass(frozen=True)  # and no tuple: MMEngine makes plain tuples of those that it collects
class Image:
    """What the metric keeps of an image: feature (C,) float32, person, camera, role and file."""

    feature: np.ndarray
    id: int
    camera: int
    is_query: bool
    path: str


@METRICS.register_module()
class ReIDMetric(BaseMetric):
    """mAP, R-1, R-5 and R-10 of queries against a gallery, in percent.

    The test set holds both; its samples say ``gt_label`` (the person), ``camera`` and
    ``is_query``, and the model adds ``pred_feature``. See :mod:`.retrieval` for the protocol: no
    match in the query's own camera, queries without a match are not counted, ties rank in the
    order of the data set.

    After an evaluation the main process has, of this metric, ``queries`` (the :class:`Image` of
    each query), ``gallery`` and ``ranking`` (a :class:`.retrieval.Ranking`, with the AP of each
    query), until the next one.

    Args:
        ranks (Sequence[int]): The k of R-k. Defaults to (1, 5, 10).
        normalize (bool): Whether features are scaled to length 1. Defaults to True.
        same_camera (bool): Whether images of the query's own camera may match. Defaults to False.
        rerank (bool | dict): Whether to re-rank, with arguments of
            :func:`.reranking.reranked_blocks` where it is a dict. Defaults to False.
        block (int): Queries whose distances are held at a time. Defaults to 256.
        device (str): Where distances are computed. Defaults to 'cpu'.
        per_query (str, optional): A JSON file for the AP of each query. Defaults to none.
        collect_device (str): See :class:`mmengine.evaluator.BaseMetric`, as for ``prefix``.

    Raises:
        ValueError: If a feature is NaN, infinite or zero, a sample lacks a field, there are no
            queries or no gallery, or no query has a match.

    Examples:
        >>> test_evaluator = dict(type='ReIDMetric', rerank=dict(k1=20, k2=6, lambda_=0.3))
    """

    default_prefix = 'reid'

    def __init__(
        self,
        ranks: Sequence[int] = (1, 5, 10),
        normalize: bool = True,
        same_camera: bool = False,
        rerank: Any = False,
        block: int = 256,
        device: str = 'cpu',
        per_query: Optional[str] = None,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
    ) -> None:
        if not ranks or min(ranks) < 1 or block < 1:
            raise ValueError(f'ranks and block must be at least 1, got {ranks} and {block}')
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ranks = tuple(ranks)
        self.normalize = normalize
        self.same_camera = same_camera
        self.rerank = {} if rerank is True else rerank
        self.block = block
        self.device = device
        self.per_query = per_query
        #: Number of queries, evenly spaced, whose nearest images ``ranking.top`` is to hold.
        self.keep_top_of = 0
        self.queries: List[Image] = []
        self.gallery: List[Image] = []
        self.ranking: Optional[Ranking] = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what is needed of a batch; features become float32 rows on the CPU."""
        for sample in data_samples:
            path = str(sample.get('img_path', ''))
            for key in ('pred_feature', 'gt_label', 'camera', 'is_query'):
                if sample.get(key) is None:
                    raise ValueError(f'{path}: the sample has no {key!r}')
            # A copy: a view would drag its whole batch through the collection of results.
            feature = np.array(sample['pred_feature'].detach().float().cpu().numpy())
            if not np.isfinite(feature).all():
                raise ValueError(f'{path}: the feature holds NaN or infinity')
            if self.normalize and not feature.any():
                raise ValueError(f'{path}: the feature is zero and has no direction')
            self.results.append(
                Image(
                    feature,
                    int(sample['gt_label']),
                    int(sample['camera']),
                    bool(sample['is_query']),
                    path,
                )
            )

    def compute_metrics(self, results: List[Image]) -> Dict[str, float]:
        """mAP, R-k and the number of queries that counted, of all processes' results."""
        self.queries = [image for image in results if image.is_query]
        self.gallery = [image for image in results if not image.is_query]
        if not self.queries or not self.gallery:
            raise ValueError(
                f'{len(self.queries)} queries and {len(self.gallery)} gallery images: both must '
                "be in the test set (split='test')"
            )
        query, gallery = self._features(self.queries), self._features(self.gallery)
        if self.rerank is False or self.rerank is None:
            blocks = distance_blocks(query, gallery, self.block)
        else:
            blocks = reranked_blocks(query, gallery, block=self.block, **self.rerank)
        total, wanted = len(self.queries), min(self.keep_top_of, len(self.queries))
        self.ranking = rank_gallery(
            blocks,
            _labels(self.queries),
            _labels(self.gallery),
            self.same_camera,
            top_of=[i * total // wanted for i in range(wanted)],
        )
        average, first = self.ranking.average_precision, self.ranking.first_match
        if not (first > 0).any():
            raise ValueError(
                f'none of {len(first)} queries has a match in another camera: data of a single '
                'camera cannot be evaluated'
            )
        if self.per_query:
            self._write_per_query(self.per_query)
        metrics = {'mAP': 100 * float(average[first > 0].mean())}
        metrics.update({f'R{k}': 100 * cmc(first, k) for k in self.ranks})
        metrics['queries'] = int((first > 0).sum())
        return metrics

    def _features(self, images: List[Image]) -> Tensor:
        features = torch.from_numpy(np.stack([image.feature for image in images]))
        features = features.to(self.device)
        if self.normalize:
            features /= features.norm(dim=1, keepdim=True)
        return features

    def _write_per_query(self, path: str) -> None:
        """A JSON list with an entry a query; AP and rank are null where it does not count."""
        average, first = self.ranking.average_precision, self.ranking.first_match
        entries = [
            dict(
                img_path=image.path,
                id=image.id,
                camera=image.camera,
                average_precision=ap if rank else None,
                first_match=rank or None,
            )
            for image, ap, rank in zip(self.queries, average.tolist(), first.tolist())
        ]
        with atomic_write(path) as file:
            file.write(json.dumps(entries, indent=1).encode())


def _labels(images: List[Image]) -> Labels:
    return Labels(
        torch.tensor([image.id for image in images]),
        torch.tensor([image.camera for image in images]),
    )
