"""mAP and R-k of person re-identification; a query is what the bootstrap draws."""

from experiments.reid import check, collect, num_images, scores

__all__ = ['METRICS', 'check', 'collect', 'num_images', 'scores']

#: Whether more is better.
METRICS = {'mAP': True, 'R1': True, 'R5': True, 'R10': True}
