"""The accuracy study: its statistics, its rules, and the tool on a data set of seconds."""

import contextlib
import copy
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from experiments import coco, splits, tasks
from experiments.study import classification, detection, reidentification, segmentation
from experiments.study.arms import arm_config, read_arm
from experiments.study.bootstrap import paired_difference, resamples
from experiments.study.movement import change_of_checkpoint
from experiments.study.plan import read_study, setting_name
from experiments.study.pool import visible_gpus
from experiments.study.reliability import calibration_error
from experiments.study.report import (
    best_setting,
    compare,
    table,
    validation_curve,
    validation_steps,
)
from mmdenoiserep.cli import load_config
from tools import environment

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / 'configs' / 'study'


def test_the_first_sample_is_the_data_and_the_others_are_as_many_images():
    counts = resamples(7, 50)
    assert counts.shape == (51, 7) and (counts[0] == 1).all() and (counts.sum(1) == 7).all()
    assert len({tuple(row) for row in counts}) > 40
    assert (counts == resamples(7, 50)).all()  # all arms see the same samples


def test_pairing_cancels_what_arms_share():
    generator = np.random.default_rng(0)
    shared = [generator.normal(size=201) * 10 for _ in range(4)]
    found = paired_difference([s + 0.5 for s in shared], shared)
    assert found == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match='4 and 3 seeds'):
        paired_difference(shared, shared[:3])


def test_the_interval_has_the_width_of_both_sources_of_chance():
    """Against the normal approximation: var = var(seeds) / S + var(images)."""
    generator = np.random.default_rng(1)
    of_seeds, of_images = generator.normal(size=40), 0.3 * generator.normal(size=4000)
    of_seeds -= of_seeds.mean()
    arm = [np.concatenate([[2 + a], 2 + a + of_images]) for a in of_seeds]
    found = paired_difference(arm, [np.zeros(4001)] * 40)
    error = (of_seeds.var() / 40 + 0.09) ** 0.5
    assert found.mean == pytest.approx(2)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_samples_that_leave_a_score_undefined_are_left_out():
    arm = np.array([1.0, 2.0, np.nan, 2.0])
    found = paired_difference([arm, arm], [np.where(np.isnan(arm), arm, 1.0)] * 2)
    assert found == pytest.approx((0.0, 1.0, 1.0))


def test_calibration_error_by_hand():
    confidence = np.array([0.94, 0.97, 0.5, 1.0])
    correct = np.array([1.0, 1.0, 1.0, 0.0])
    counts = np.array([[1, 1, 1, 1], [2, 0, 0, 0]])
    # The last bin of 15 begins at 0.933 and holds 1; 0.5 has a bin of its own.
    expected = (abs(2 - 0.94 - 0.97 - 1.0) + 0.5) / 4, 0.06
    assert calibration_error(confidence, correct, counts) == pytest.approx(expected)


def test_classification_scores_by_hand():
    arrays = dict(
        correct=np.array([True, False, True]),
        cross_entropy=np.array([0.1, 2.0, 0.3]),
        confidence=np.array([0.9, 0.6, 0.7]),
        knn=np.array([True, True, False]),
    )
    found = classification.scores(arrays, np.array([[1, 1, 1], [0, 3, 0]]))
    assert found['accuracy'] == pytest.approx([200 / 3, 0])
    assert found['cross-entropy'] == pytest.approx([0.8, 2.0])
    assert found['kNN'] == pytest.approx([200 / 3, 100])
    assert found['ECE'][1] == pytest.approx(60)
    assert found.keys() == classification.METRICS.keys()


def test_scores_of_persons_are_of_the_queries_alone():
    arrays = dict(
        average_precision=np.array([1.0, 0.5, np.nan, np.nan, 0.1]),
        first_match=np.array([1, 2, 0, 0, 7]),  # two queries without a match, or of the gallery
    )
    counts = np.array([[1, 1, 1, 1, 1], [0, 3, 5, 5, 1]])
    found = reidentification.scores(arrays, counts)
    assert found['mAP'] == pytest.approx([100 * 1.6 / 3, 100 * 1.6 / 4])
    assert found['R1'] == pytest.approx([100 / 3, 0])
    assert found['R5'] == pytest.approx([200 / 3, 75])
    assert found['R10'] == pytest.approx([100, 100])
    assert reidentification.num_images(arrays) == 5


def test_segmentation_scores_are_those_of_the_metric():
    torch = pytest.importorskip('torch')
    pytest.importorskip('mmseg')
    from mmdenoiserep.metrics import BoundaryIoU

    metric = BoundaryIoU(iou_metrics=['mIoU'], ignore_index=9)
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    generator = torch.Generator().manual_seed(0)
    areas = [
        metric.intersect_and_union(
            *(torch.randint(3, (40, 40), generator=generator) // (1 + i % 2) for _ in range(2)),
            3,
            9,
        )
        for i in range(4)
    ]
    arrays = {
        name: np.stack([a[i].numpy() for a in areas]).astype(float)
        for name, i in (('intersect', 0), ('union', 1), ('boundary_intersect', 4))
    }
    arrays['boundary_union'] = np.stack([a[5].numpy() for a in areas]).astype(float)
    arrays['pixels'] = np.full(4, 1600.0)
    arrays['correct'] = arrays['intersect'].sum(1)
    arrays['cross_entropy'] = np.arange(4) * 1600.0
    arrays['gap'] = np.zeros((4, 15))
    arrays['gap'][:, 3] = 160
    found = segmentation.scores(arrays, np.array([[1, 1, 1, 1], [2, 0, 1, 0]]))
    for row, chosen in enumerate(([0, 1, 2, 3], [0, 0, 2])):
        expected = metric.compute_metrics([areas[i] for i in chosen])
        for name in ('mIoU', 'B-IoU', 'aAcc'):
            assert found[name][row] == pytest.approx(expected[name], abs=0.006)  # it rounds
    assert found['cross-entropy'] == pytest.approx([1.5, 2 / 3])
    assert found['ECE'] == pytest.approx([10, 10])


def coco_evaluation(images, boxes, detections):
    """COCO's evaluation of boxes and detections, both as (image, class, x, y, w, h[, score])."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=i) for i in images],
        categories=[dict(id=c) for c in (1, 2)],
        annotations=[
            dict(id=n, image_id=i, category_id=c, bbox=b, area=b[2] * b[3], iscrowd=0)
            for n, (i, c, *b) in enumerate(boxes, 1)
        ],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        rows = [[i, *b, s, c] for i, c, *b, s in detections]
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows, float)), 'bbox')
        evaluation.params.maxDets = [1, 10, 100]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_a_model_of_one_channel_has_two_classes(monkeypatch):
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    maps = dict(
        seg_logits=torch.tensor([[[0.2, 0.35], [0.4, 0.9]]]),  # behind a sigmoid
        pred_sem_seg=torch.tensor([[[0, 1], [1, 1]]]),  # by a threshold of 0.3
        gt_sem_seg=torch.tensor([[[0, 0], [1, 9]]]),
    )
    sample = SegDataSample()
    sample.set_data({name: PixelData(data=data) for name, data in maps.items()})
    monkeypatch.setattr(segmentation.Runner, 'build_dataloader', lambda loader: [None])
    model = SimpleNamespace(test_step=lambda batch: [sample])
    evaluators = [dict(type='IoUMetric', ignore_index=9), dict(dilation_ratio=0.4)]
    config = Config(dict(test_dataloader={}, test_evaluator=evaluators))
    arrays = segmentation.collect(model, config)
    assert arrays['intersect'].tolist() == [[1, 1]] and arrays['union'].tolist() == [[2, 2]]
    assert arrays['correct'] == 2 and arrays['pixels'] == 3
    assert arrays['cross_entropy'] == pytest.approx(-np.log([0.8, 0.65, 0.4]).sum())
    assert segmentation._metric(config).dilation_ratio == 0.4


def test_arms_are_measured_as_the_baseline_is(tmp_path, monkeypatch):
    """A stock config, which fusion writes, cannot hold what our metrics take."""
    from experiments.study import jobs

    for name, ratio in (('arm', 0.01), ('fused', 0.02)):
        part = f'dict(dilation_ratio={ratio})'
        (tmp_path / f'{name}.py').write_text(f'val_evaluator = {part}\ntest_evaluator = {part}\n')
    job = jobs.Job(str(tmp_path), str(tmp_path / 'arm.py'), 'denoiserep', 0, splits=('test',))
    done = dict(fingerprint=job.fingerprint(), config=str(tmp_path / 'fused.py'))
    done['checkpoint'] = str(tmp_path / 'fused.pth')
    jobs.write_json(str(tmp_path / 'done.json'), done)
    assert 'train' in job.missing()  # again, if its checkpoint was deleted
    Path(done['checkpoint']).touch()
    seen = []
    monkeypatch.setattr(jobs, 'evaluate', lambda config, *_: seen.append(config) or {})
    job.run()
    assert [config.test_evaluator.dilation_ratio for config in seen] == [0.01]


def test_detection_scores_are_those_of_coco_on_repeated_images():
    generator = np.random.default_rng(0)
    boxes, detections = [], []
    for image in range(6):
        for label in (1, 2):
            for size in (20, 60, 120):
                box = [*generator.uniform(0, 200, 2), size, size]
                boxes.append([image, label, *box])
                shifted = [box[0] + generator.normal() * size / 8, box[1], size, size]
                detections.append([image, label, *shifted, generator.uniform()])
    evaluation = coco_evaluation(range(6), boxes, detections)
    counts = np.array([[1] * 6, [3, 0, 1, 0, 2, 0]])
    matches = np.array(evaluation.evalImgs, dtype=object).reshape(2, 4, 6)
    arrays = {
        f'{area}/{name}': array
        for i, area in enumerate(coco.AREAS)
        for name, array in coco.flatten(matches[:, i].ravel().tolist(), 2, 6).items()
    }
    assert all(array.dtype != object for array in arrays.values())  # nothing is pickled
    found = detection.scores(arrays, counts)
    for row, chosen in enumerate((list(range(6)), [0, 0, 0, 2, 4, 4])):
        stats = coco_evaluation(
            range(len(chosen)),
            [[n, *box[1:]] for n, i in enumerate(chosen) for box in boxes if box[0] == i],
            [[n, *box[1:]] for n, i in enumerate(chosen) for box in detections if box[0] == i],
        ).stats
        for name, i in (('AP', 0), ('AP50', 1), ('APs', 3), ('APm', 4), ('APl', 5)):
            assert found[name][row] == pytest.approx(100 * stats[i], abs=1e-6), name


ARM = dict(kind='continued', grid={'optim_wrapper.optimizer.lr': [1e-4, 1e-3]})
EXTRA = {
    'train_cfg.max_iters': 6,
    'param_scheduler': None,
    'default_hooks.checkpoint.interval': 6,
}
STUDY = dict(
    baseline='baseline.py',
    seeds=[0, 1],
    selection_seeds=[0],
    replicates=50,
    extra=EXTRA,
    arms={
        'continued': ARM,
        'label-free': dict(kind='denoiserep', options={'custom_hooks.0.mode': 'label-free'}),
        'closed-form': dict(kind='closed-form', options={'calibration.num_images': 64}),
        'merged': dict(
            kind='denoiserep',
            options={'custom_hooks.0.mode': 'label-free'},
            unlabelled=[dict(split='val')],
        ),
        'minus': dict(kind='minus'),
    },
    ablations={'stretched': dict(kind='closed-form', options={'model.backbone.spacing': 2})},
)


def option(kind: str, key: str, value: object) -> dict:
    return dict(kind=kind, options={key: value})


def write_study(folder: Path, **changes) -> Path:
    pytest.importorskip('mmpretrain')
    (folder / 'baseline.py').write_text(
        f'_base_ = [{str(STUDIES / "baselines" / "vit_digits.py")!r}]\n'
        'train_cfg = dict(max_iters=20, val_interval=10)\n'
        'default_hooks = dict(checkpoint=dict(interval=20))\n'
    )
    study = {**copy.deepcopy(STUDY), **changes}
    path = folder / 'study.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in study.items()))
    return path


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(armz={}), "unknown 'armz'"),
        (dict(seeds=[]), "'seeds' is missing"),
        (dict(seeds=[1, 1]), 'seeds must differ'),
        (dict(selection_seeds=[5]), 'seeds must differ'),
        (dict(metric='mIoU'), "metric must be one of .*'mIoU'"),
        (dict(control='minus'), "the control 'minus' must be an arm of kind 'continued'"),
        (dict(arms={'continued': ARM, 'x': dict(kind='magic')}), "arm 'x': kind must be one of"),
        (dict(arms={'continued': dict(ARM, gird={})}), "arm 'continued': unknown 'gird'"),
        (dict(arms={'continued': dict(ARM, grid={'a.b': 3})}), 'must be a list of values'),
        (dict(arms={'continued': ARM, 'baseline': ARM}), 'like the baseline'),
        (dict(extra={**EXTRA, 'train_cfg.max_epochs': 2}), 'counts by max_iters: leave out max_ep'),
        (dict(replicates=-1), 'replicates must be an integer from 1, got -1'),
        (
            dict(arms={'continued': ARM, 'x': option('closed-form', 'calibration.num_image', 1)}),
            "arm 'x': got an unexpected keyword argument 'num_image'",
        ),
        (
            dict(arms={'continued': ARM, 'x': option('denoiserep', 'custom_hooks.0.lambda_', 2)}),
            r"arm 'x': .*lambda_ must be in \[0, 1\), got 2",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_study(load_config(str(write_study(tmp_path, **changes))), str(tmp_path))


@pytest.mark.parametrize(
    'options',
    [
        {'train_cfg.max_iters': 12},
        {'optim_wrapper.accumulative_counts': 8},
        {'train_dataloader.batch_size': 128},
        {'train_dataloader.dataset.split': 'val'},
        {'param_scheduler': [dict(type='ConstantLR', factor=0.5, by_epoch=False)]},
    ],
)
@pytest.mark.parametrize('place', ['arms', 'ablations', 'grid'])
def test_arms_of_another_budget_are_refused(options, place, tmp_path):
    arm = dict(kind='denoiserep', options=options)
    if place == 'grid':  # in its second value, where the control has but one
        (key, value), *_ = options.items()
        usual = {'train_dataloader.batch_size': 64, 'train_dataloader.dataset.split': 'train'}
        usual['optim_wrapper.accumulative_counts'] = 1
        arm = dict(kind='denoiserep', grid={key: [{**EXTRA, **usual}[key], value]})
    parts = {'arms': {**STUDY['arms']}, 'ablations': {**STUDY['ablations']}}
    parts['arms' if place == 'grid' else place]['greedy'] = arm
    with pytest.raises(ValueError, match=r"arm 'greedy' and the control .* differ in their budget"):
        read_study(load_config(str(write_study(tmp_path, **parts))), str(tmp_path))


def test_test_images_that_chose_the_settings_are_refused(tmp_path):
    path = write_study(tmp_path)
    with (tmp_path / 'baseline.py').open('a') as file:
        file.write('test_dataloader = dict(dataset=dict(split="val"))\n')
    with pytest.raises(ValueError, match='validation and test are the same images'):
        read_study(load_config(str(path)), str(tmp_path))


def test_images_are_there_and_those_to_test_on_apart_before_anything_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(splits, 'check_task', lambda *_: None)
    base = Config(dict(default_scope='mmengine'))
    for split in ('train', 'val', 'test'):
        (tmp_path / split).mkdir()
        (tmp_path / split / 'a.png').touch()
        dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(tmp_path / split), pipeline=[])
        base[f'{split}_dataloader'] = dict(batch_size=1, num_workers=0, dataset=dataset)
        base[f'{split}_dataloader'].sampler = dict(type='DefaultSampler', shuffle=False)

    def look() -> None:
        splits.check_splits('model.py', base, {}, corrupted=False)

    look()
    (tmp_path / 'train' / 'b.png').symlink_to(tmp_path / 'test' / 'a.png')
    with pytest.raises(ValueError, match=r'1 of 1 test images are in the train split'):
        look()
    base.val_dataloader.dataset.folder = 'nowhere'
    with pytest.raises(ValueError, match=r'val split: .* in model\.py, by val_dataloader'):
        look()


def test_a_baseline_that_starts_from_a_checkpoint_is_refused(tmp_path):
    path = write_study(tmp_path)
    with (tmp_path / 'baseline.py').open('a') as file:
        file.write('load_from = "coco.pth"\n')
    with pytest.raises(ValueError, match=r"load_from='coco\.pth', and a baseline is trained from"):
        read_study(load_config(str(path)), str(tmp_path))


def test_all_see_the_images_in_one_order():
    loader = dict(sampler=dict(type='DefaultSampler', shuffle=True), drop_last=True)
    config = tasks.tested_on(Config(dict(test_dataloader={}, val_dataloader=loader)), 'val')
    assert not config.test_dataloader.sampler.shuffle and not config.test_dataloader.drop_last


def test_unlabelled_images_come_on_top_of_the_training_set(tmp_path):
    study = read_study(load_config(str(write_study(tmp_path))), str(tmp_path))
    config = arm_config(study.base, study.arms['merged'], study.extra, {})
    parts = config.train_dataloader.dataset.datasets
    assert [part.split for part in parts] == ['train', 'val']
    assert study.base.train_dataloader.dataset.split == 'train'


def test_all_combinations_of_a_grid_are_candidates():
    arm = read_arm('a', dict(kind='minus', grid={'x.lr': [1, 2], 'y.z': ['u', 'v']}))
    names = [setting_name(values) for values in arm.candidates()]
    assert names == ['lr=1,z=u', 'lr=1,z=v', 'lr=2,z=u', 'lr=2,z=v']


@pytest.mark.parametrize(
    'name', ['vit_digits', 'resnet_digits', 'detection', 'segmentation', 'reidentification']
)
def test_the_studies_of_the_documentation_are_sound(name, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, 'check', lambda config: None)
    package = dict(detection='mmdet', segmentation='mmseg').get(name, 'mmpretrain')
    pytest.importorskip(package)
    study = read_study(load_config(str(STUDIES / f'{name}.py')), str(tmp_path))
    assert len(study.seeds) >= (3 if name == 'reidentification' else 5)
    assert study.arms.keys() >= {'continued', 'label-free', 'closed form', 'label-aug'}


def test_what_a_study_says_of_scores_by_hand():
    """More of one metric is better, less of the other; the samples are an image's absence."""
    task = SimpleNamespace(METRICS={'accuracy': True, 'loss': False})
    study = SimpleNamespace(task=task, metric='accuracy')

    def scores(accuracy: float, spread: float) -> list:
        loss = np.array([1.0, 1.0]) / accuracy
        return [dict(accuracy=accuracy + np.array([0, -1, 1]) * spread, loss=loss)] * 2

    arms = {'baseline': scores(50, 0), 'better': scores(60, 2), 'as good': scores(51, 3)}
    assert best_setting(study, arms) == 'better'
    assert best_setting(SimpleNamespace(task=task, metric='loss'), arms) == 'better'
    compared = compare(study, arms, ['baseline', 'better'])
    rows = table(study, compared, {'better': 'lr=1'}, ['baseline', 'better']).splitlines()
    cells = [[cell.strip() for cell in row.split('|')[1:-1]] for row in rows]
    assert cells[0] == ['arm', 'setting', 'accuracy', 'to baseline', 'to better']
    assert cells[2] == ['baseline', '', '50.00 ± 0.00', '', '**-10.00** [-11.90, -8.10]']
    assert cells[3] == ['better', 'lr=1', '60.00 ± 0.00', '**+10.00** [+8.10, +11.90]', '']
    assert cells[4][3] == '+1.00 [-1.85, +3.85]'
    assert compared['better']['loss']['to baseline']['mean'] == pytest.approx(1 / 60 - 1 / 50)


def test_failed_jobs_are_all_named_with_their_logs(tmp_path, monkeypatch):
    """By what they said this time, and not in an earlier run."""
    from experiments.study import pool

    class Process:
        exitcode = 1

        def __init__(self, args, **_):
            self.log = Path(args[3])

        def start(self):
            if self.log.parent.name == 'a':
                with self.log.open('a') as file:
                    file.write('Traceback\nValueError: no images\n')

        def join(self):
            pass

    context = SimpleNamespace(Process=Process, set_forkserver_preload=lambda _: None)
    monkeypatch.setattr(pool, 'get_context', lambda _: context)
    jobs = [SimpleNamespace(folder=str(tmp_path / n), missing=lambda: True) for n in 'abc']
    for job in jobs[:2]:
        Path(job.folder).mkdir()
        Path(job.folder, 'log.txt').write_text('earlier words\n')
    with pytest.raises(RuntimeError) as raised:
        pool.run_jobs(jobs, 1, print)
    message = str(raised.value)
    assert message.startswith('3 jobs failed: ') and 'earlier' not in message
    assert f'{tmp_path}/a failed: ValueError: no images (see {tmp_path}/a/log.txt)' in message
    assert f'{tmp_path}/b failed: no output' in message and f'{tmp_path}/c/log.txt' in message


def test_the_curve_of_a_baseline_goes_by_training_iterations(tmp_path):
    rows = [
        dict(lr=0.1, loss=2.0, step=8),
        {'accuracy/top1': 30.0, 'step': 0},
        dict(lr=0.1, loss=0.5, step=100),
        {'accuracy/top1': 60.0, 'step': 0},
    ]
    file = tmp_path / '20260101' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, rows)))
    assert validation_curve(str(tmp_path)) == [30.0, 60.0]
    assert validation_curve(str(tmp_path / 'none')) == []
    assert validation_steps(dict(max_iters=120, val_interval=50)) == [50, 100, 120]
    assert validation_steps(dict(max_iters=2000)) == [1000, 2000]
    assert validation_steps(dict(max_epochs=4, val_begin=3)) == [3, 4]


def run_tool(path: Path, out: Path, *flags: str, fails: bool = False) -> str:
    command = [sys.executable, 'tools/study.py', str(path), '--work-dir', str(out), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


STUDY_OF_ENDLESS_JOBS = """
import os
import time
from pathlib import Path
from experiments.study.jobs import Job
from experiments.study.pool import run_jobs


class Endless(Job):
    def missing(self):
        for beat in range(1200 if __name__ == '__mp_main__' else 0):  # in the worker
            Path(self.folder, 'process').write_text(str(os.getpid()))
            Path(self.folder, 'beat').write_text(str(self.seed))
            time.sleep(0.1)
        return ('train',)


if __name__ == '__main__':
    run_jobs([Endless({folder!r}, '', 'baseline', seed) for seed in range(3)], 1, print)
"""


STUDY_OF_A_TRUSTING_JOB = """
from pathlib import Path
from experiments.study.jobs import Job
from experiments.study.pool import run_jobs
from mmdenoiserep.stock.reader import trust_checkpoints, trusted


class Trusting(Job):
    def missing(self):
        return () if Path(self.folder, 'trusts').is_file() else ('train',)

    def run(self):
        Path(self.folder, 'trusts').write_text(str(trusted()))


if __name__ == '__main__':
    trust_checkpoints(True)
    run_jobs([Trusting({folder!r}, '', 'baseline', 0)], 1, print)
"""


def test_jobs_trust_checkpoints_where_their_study_does(tmp_path):
    script = tmp_path / 'study.py'
    script.write_text(STUDY_OF_A_TRUSTING_JOB.replace('{folder!r}', repr(str(tmp_path))))
    subprocess.run([sys.executable, str(script)], env=environment(), check=True)
    assert Path(tmp_path, 'trusts').read_text() == 'True'


def test_no_job_outlives_a_study_that_is_killed(tmp_path):
    script, beat = tmp_path / 'study.py', tmp_path / 'beat'
    script.write_text(STUDY_OF_ENDLESS_JOBS.replace('{folder!r}', repr(str(tmp_path))))
    study = subprocess.Popen([sys.executable, str(script)], env=environment())
    until(beat.is_file)
    process = int((tmp_path / 'process').read_text())
    study.kill()
    study.wait()
    until(lambda: not runs(process))


def test_no_job_begins_in_a_study_that_is_interrupted(tmp_path):
    script, beat = tmp_path / 'study.py', tmp_path / 'beat'
    script.write_text(STUDY_OF_ENDLESS_JOBS.replace('{folder!r}', repr(str(tmp_path))))
    study = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment(),
        start_new_session=True,
        # Tests in the background ignore it, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until(beat.is_file)
        os.killpg(study.pid, signal.SIGINT)  # what a terminal does
        assert study.wait(100) and beat.read_text() == '0'
    finally:
        study.kill()


def test_jobs_use_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,GPU-5')
    assert visible_gpus() == ['2', 'GPU-5']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    assert visible_gpus() == ['0', '1']
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert visible_gpus() == []


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition, seconds=100):
    """Poll, for no longer than the job above lasts."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_change_of_the_weights_by_hand(tmp_path):
    stock = {'backbone.a.weight': torch.eye(2), 'backbone.b.weight': torch.ones(2, 3)}
    stock.update({'backbone.bn.weight': torch.ones(2), 'head.weight': torch.ones(2, 2)})
    moved = {key: weight + 1 for key, weight in stock.items()}
    torch.save(dict(state_dict=stock), tmp_path / 'stock.pth')
    for kept, expected in (([], (2**0.5 + 1) / 2), (['backbone.a.weight'], 1.0), (stock, 0.0)):
        arm = {**moved, **{key: stock[key] for key in kept}}
        torch.save(dict(state_dict=arm), tmp_path / 'arm.pth')
        found = change_of_checkpoint(str(tmp_path / 'arm.pth'), str(tmp_path / 'stock.pth'))
        assert found == pytest.approx(expected)


@pytest.mark.slow
def test_the_tool_trains_chooses_tests_and_goes_on(tmp_path):
    pytest.importorskip('sklearn')
    path, out = write_study(tmp_path), tmp_path / 'out'
    run_tool(path, out, '--workers', '2', '--validation-only')
    assert not list(out.rglob('test.npz'))
    # The baseline and every setting on the selection's seed, the baseline on the other too.
    assert len(list(out.rglob('val.npz'))) == 2 + 2 + 5

    before = {file: file.stat().st_mtime_ns for file in out.rglob('done.json')}
    run_tool(path, out, '--workers', '2')
    assert before.items() <= {f: f.stat().st_mtime_ns for f in out.rglob('done.json')}.items()
    assert len(list(out.rglob('test.npz'))) == 2 * 6
    results = json.loads((out / 'scores.json').read_text())
    assert set(results['test']) == {'baseline', *STUDY['arms']}
    assert set(results['validation']) == {*results['test'], 'stretched'}
    minus = results['test']['minus']['accuracy']
    assert len(minus['values']) == 2 and {'to baseline', 'to continued'} <= minus.keys()
    best = max(results['selection']['continued'].items(), key=lambda item: item[1]['score'])[0]
    assert setting_name(results['chosen']['continued']) == best
    for name, settings in results['selection'].items():  # DenoiseRep⁻ adds to the backbone
        assert all((found['change'] > 0) == (name != 'minus') for found in settings.values()), name
    # What is measured is the fused checkpoint in the stock config.
    done = json.loads((out / 'closed-form' / 'as-configured' / 'seed_0' / 'done.json').read_text())
    assert Path(done['checkpoint']).name == 'fused.pth'
    assert 'DenoiseRep' not in Path(done['config']).read_text()
    report = (out / 'report.md').read_text()
    assert 'Test split, 2 seeds' in report and '| continued | lr=0.0001 |' in report
    assert (out / 'arms.png').stat().st_size > 1000 < (out / 'baseline.png').stat().st_size

    # Another setting makes its own arm stale and no other.
    path = write_study(tmp_path, ablations={'stretched': dict(kind='closed-form')})
    changed = run_tool(path, out, '--workers', '2')
    stale = {f for f, time in before.items() if f.stat().st_mtime_ns != time}
    assert {f.relative_to(out).parts[0] for f in stale} == {'stretched'}, changed

    # A job that fails says so and leaves nothing that counts.
    wrong = {'continued': ARM, 'x': dict(kind='closed-form', options={'calibration.num_images': 0})}
    message = run_tool(write_study(tmp_path, arms=wrong), out, fails=True)
    assert 'study: ' in message and 'num_images must be at least 1' in message
    assert not list((out / 'x').rglob('done.json'))
