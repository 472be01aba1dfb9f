"""Boundary IoU against its definition, written out pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from processes import run_in_two_processes

pytest.importorskip('mmseg')

from mmdenoiserep.metrics import BoundaryIoU, boundary_areas

VOID = 255
CLASSES = ['a', 'b', 'c']


def boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a mask from which one outside of it, or outside of the image, is near."""
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = [
                not (0 <= v < height and 0 <= u < width and mask[v, u])
                for v in range(y - distance, y + distance + 1)
                for u in range(x - distance, x + distance + 1)
            ]
            out[y, x] = mask[y, x] and any(near)
    return out


def brute_force(prediction, truth, num_classes, distance):
    """Intersections and unions of the boundary regions, one class at a time."""
    valid = truth != VOID
    areas = []
    for k in range(num_classes):
        g = boundary((truth == k) & valid, distance)
        p = boundary((prediction == k) & valid, distance)
        areas.append(((g & p).sum(), (g | p).sum()))
    return np.array(areas).T


@st.composite
def maps(draw):
    """A true map with ignored pixels and a prediction that is partly right; some large regions."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cell = draw(st.integers(1, 8))
    coarse = rng.choice([0, 1, 2, 3, VOID], (height // cell + 1, width // cell + 1))
    truth = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    flip = rng.random(truth.shape) < draw(st.sampled_from([0.0, 0.05, 0.5]))
    prediction = np.where(flip | (truth == VOID), rng.integers(0, 4, truth.shape), truth)
    return prediction, truth, draw(st.integers(1, 4))


@given(maps())
@settings(max_examples=150, deadline=None)
def test_areas_are_those_of_the_definition(case):
    prediction, truth, distance = case
    intersect, union, predicted, true = boundary_areas(
        torch.from_numpy(prediction), torch.from_numpy(truth), 4, VOID, distance
    )
    expected = brute_force(prediction, truth, 4, distance)
    assert np.array_equal(np.stack([intersect, union]), expected)
    assert torch.equal(union, predicted + true - intersect)


def test_more_classes_than_a_byte_holds():
    truth = torch.randint(0, 300, (20, 20))
    truth[:3] = 1000
    intersect, union, *_ = boundary_areas(truth, truth, 300, 1000, 1)
    expected = torch.bincount(truth[3:].flatten(), minlength=300)  # noise is all boundary
    assert torch.equal(intersect, expected) and torch.equal(union, expected)


def sample(prediction, truth):
    return dict(
        pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]),
        gt_sem_seg=dict(data=torch.as_tensor(truth)[None]),
    )


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 3, (count, 4, 5)).repeat(20, 1).repeat(20, 2)  # 80 x 100
    truths[:, :7, :9] = VOID
    predictions = np.where(rng.random(truths.shape) < 0.02, 0, np.roll(truths, 2, axis=2) % 3)
    return [sample(p, t) for p, t in zip(predictions, truths)]


def evaluate(samples, **kwargs):
    evaluator = Evaluator(METRICS.build(dict(type='mmdenoiserep.BoundaryIoU', **kwargs)))
    evaluator.dataset_meta = dict(classes=CLASSES)
    for one in samples:
        evaluator.process([one])
    return evaluator.evaluate(len(samples))


def test_reports_what_iou_metric_reports_and_boundary_iou():
    samples = images(3)
    result = evaluate(samples)
    stock = Evaluator(dict(type='mmseg.IoUMetric'))
    stock.dataset_meta = dict(classes=CLASSES)
    for one in samples:
        stock.process([one])
    assert {k: v for k, v in result.items() if k != 'B-IoU'} == stock.evaluate(3)

    distance = round(0.02 * math.hypot(80, 100))
    assert distance == 3
    areas = sum(
        brute_force(
            one['pred_sem_seg']['data'][0].numpy(), one['gt_sem_seg']['data'][0].numpy(), 3, 3
        )
        for one in samples
    )
    assert result['B-IoU'] == pytest.approx(100 * np.mean(areas[0] / areas[1]), abs=0.006)
    assert 0 < result['B-IoU'] < result['mIoU']
    assert evaluate(samples, dilation_ratio=0.5)['B-IoU'] == pytest.approx(result['mIoU'], abs=0.02)


def test_a_prediction_that_is_wrong_only_where_ignored_scores_100():
    truth = np.zeros((40, 40), int)
    truth[10:30, 10:30] = 1
    truth[:, 20:25] = VOID
    result = evaluate([sample(np.where(truth == VOID, 2, truth), truth)])
    assert result['aAcc'] == result['mIoU'] == result['B-IoU'] == 100


def test_absent_classes_are_left_out_or_counted_as_configured():
    truth = np.zeros((10, 10), int)
    assert evaluate([sample(truth, truth)])['B-IoU'] == 100
    assert evaluate([sample(truth, truth)], nan_to_num=0)['B-IoU'] == pytest.approx(33.33)


def test_the_ratio_must_be_positive():
    with pytest.raises(ValueError, match='dilation_ratio must be positive'):
        BoundaryIoU(dilation_ratio=0)


def _worker(rank, folder):
    # As a distributed sampler deals them out; the last is a copy that fills the second process.
    samples = images(5)
    metric = BoundaryIoU()
    metric.dataset_meta = dict(classes=CLASSES)
    for one in (samples + samples[:1])[rank::2]:
        metric.process({}, [one])
    torch.save(metric.evaluate(5), folder / f'{rank}.pth')


def test_processes_are_merged(tmp_path):
    run_in_two_processes(_worker, tmp_path)
    expected = evaluate(images(5))
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pth', weights_only=False) == expected


@pytest.mark.parametrize(
    ('meta', 'sample', 'message'),
    [
        (None, {}, r'test_dataloader\.dataset\.metainfo\.classes'),
        (dict(classes=CLASSES), dict(pred_sem_seg=dict(sem_seg=1)), 'has no pred_sem_seg.data'),
        (dict(classes=CLASSES), dict(pred_sem_seg=dict(data=1)), 'has no gt_sem_seg.data'),
    ],
)
def test_data_of_another_package_are_refused(meta, sample, message):
    metric = BoundaryIoU(iou_metrics=['mIoU'])
    metric.dataset_meta = meta
    with pytest.raises(ValueError, match=message):
        metric.process({}, [sample])
