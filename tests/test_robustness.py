"""The robustness benchmark: its figures by hand, and the tool on a model that is a threshold."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import CheckpointLoader
from rich.console import Console
from torch import nn

from experiments import coco
from experiments.robustness import (
    classification,
    detection,
    measure,
    noises,
    plan,
    reidentification,
    run,
    segmentation,
)
from experiments.robustness.noises import CLEAN, Noise
from experiments.robustness.plan import read_checkpoints
from experiments.robustness.progress import Meter
from experiments.robustness.report import on_console, table
from experiments.robustness.summary import Cell, share, summarize
from experiments.study import segmentation as study_segmentation
from experiments.study.bootstrap import Difference, resamples

pytest.importorskip('imagecorruptions')
from experiments.robustness.cache import CachedDegrade
from mmdenoiserep.transforms.degrade import BENCHMARK, HOLDOUT, Degrade, seeded
from mmdenoiserep.transforms.one_noise import OneNoise

TASKS = dict(mmpretrain=classification, mmdet=detection, mmseg=segmentation, reid=reidentification)


# Images


@pytest.mark.parametrize('corruption', [*BENCHMARK, *HOLDOUT])
def test_a_kept_image_is_what_corrupting_it_again_gives(corruption, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)

    def item(name: str = 'val/1.jpg', dtype=np.uint8) -> dict:
        np.random.seed(int.from_bytes(os.urandom(4), 'little'))  # whatever happened before
        return dict(img=image.astype(dtype), img_path=name)

    expected = Degrade(corruption, 3)(item())['img']
    transform = CachedDegrade(corruption, 3, folder=str(tmp_path))
    assert (transform(item())['img'] == expected).all() and expected.dtype == np.uint8
    (file,) = tmp_path.rglob('*.png')
    before = file.stat().st_mtime_ns
    again = transform(item())['img']
    assert (again == expected).all() and file.stat().st_mtime_ns == before
    # It is the file that is read; and floating images are corrupted as integers are.
    cv2.imwrite(str(file), 255 - expected)
    read = transform(item(dtype=np.float32))['img']
    assert read.dtype == np.float32 and (read == 255 - expected).all()
    # Another image, path or severity has a file of its own.
    image = 255 - image
    transform(item())
    transform(item('train/1.jpg'))
    CachedDegrade(corruption, 4, folder=str(tmp_path))(item())
    assert len(list(tmp_path.rglob('*.png'))) == 4


@pytest.mark.parametrize('shape', [(40, 48), (40, 48, 1)])
def test_images_of_one_channel_are_read_as_they_were_made(shape, tmp_path):
    image = np.random.default_rng(0).uniform(-20, 300, shape).astype(np.float32)
    transform = CachedDegrade('brightness', 1, folder=str(tmp_path))
    made, read, plain = (
        t(dict(img=image.copy(), img_path='a.png'))['img']
        for t in (transform, transform, Degrade('brightness', 1))
    )
    assert made.shape == read.shape == shape and made.dtype == read.dtype == np.float32
    assert np.array_equal(made, read) and np.array_equal(made, plain)


def test_the_seed_of_an_image_is_the_same_in_every_process():
    """Python's own hash of a text is not."""
    with seeded('0 fog 3 val/1.png') as seed:
        assert seed == 3335249699


# Figures


def boxes_at_random(generator, images: int):
    """Objects and detections of a data set of COCO's format, hard cases among them."""
    objects, found = [], []
    for image in range(images):
        # Many are equal across images; within one their order would be an accident.
        scores = iter(generator.permutation(20) / 20)
        for _ in range(image % 5):
            x, y, w, h = generator.integers(1, 50, 4).tolist()
            category = int(generator.integers(1, 5))  # 5 has no objects
            crowd = int(generator.random() < 0.2)
            objects.append(dict(image_id=image, bbox=[x, y, w, h], category_id=category))
            objects[-1].update(area=w * h, iscrowd=crowd, id=len(objects))
            for _ in range(generator.integers(1, 4)):
                box = (np.array([x, y, w, h]) + generator.integers(-3, 4, 4)).clip(1).tolist()
                score = float(next(scores))
                category = category if generator.random() < 0.8 else 5
                found.append(dict(image_id=image, bbox=box, score=score, category_id=category))
    return objects, found


def evaluated(objects: list, found: list, images: list):
    """COCOeval over images, each as often as it is listed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def repeated(entries: list) -> list:
        out = []
        for place, image in enumerate(images):
            out += [dict(e, image_id=place) for e in entries if e['image_id'] == image]
        return [dict(e, id=i + 1) for i, e in enumerate(out)]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dict(
            images=[dict(id=i) for i in range(len(images))],
            annotations=repeated(objects),
            categories=[dict(id=i, name=str(i)) for i in range(1, 6)],
        )
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(repeated(found)), 'bbox')
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize('cells', [coco.MOST_CELLS, 1])
def test_ap_of_samples_is_that_of_pycocotools(cells, monkeypatch):
    pytest.importorskip('pycocotools')
    monkeypatch.setattr(coco, 'MOST_CELLS', cells)
    objects, found = boxes_at_random(np.random.default_rng(0), 12)
    whole = evaluated(objects, found, list(range(12)))
    arrays = coco.flatten(whole.evalImgs, 5, 12)
    assert arrays['ignored'].any() and not arrays['objects'][4].any()
    counts = np.concatenate([resamples(12, 6), np.eye(12, dtype=int)[1:5]])
    for row, score in zip(counts, detection.score(arrays, counts)):
        precision = evaluated(objects, found, np.repeat(np.arange(12), row).tolist()).eval[
            'precision'
        ]
        known = precision[precision > -1]
        expected = 100 * known.mean() if known.size else np.nan
        assert score == pytest.approx(expected, rel=1e-12, nan_ok=True)
    alone = detection.of_images(arrays)
    np.testing.assert_allclose(alone, detection.score(arrays, np.eye(12, dtype=int)), rtol=1e-12)


def test_boundaries_are_scored_as_the_study_scores_them():
    generator = np.random.default_rng(0)
    arrays = {name: generator.uniform(1, 9, (5, 3)) for name in segmentation.NAMES}
    zeros = dict(pixels=np.ones(5), correct=np.ones(5), cross_entropy=np.ones(5))
    counts = resamples(5, 4)
    expected = study_segmentation.scores({**arrays, **zeros, 'gap': np.ones((5, 15))}, counts)
    (name,) = segmentation.FURTHER
    np.testing.assert_allclose(segmentation.FURTHER[name](arrays, counts), expected[name])
    np.testing.assert_allclose(segmentation.score(arrays, counts), expected['mIoU'])


def test_the_figures_by_hand():
    def samples(value: float) -> np.ndarray:
        return np.full(11, value)

    blur, snow = ([Noise(name, s) for s in (1, 5)] for name in ('defocus_blur', 'snow'))
    stock = dict(zip([CLEAN, *blur, *snow], map(samples, (80.0, 60.0, 20.0, 80.0, 90.0))))
    robust = dict(zip([CLEAN, *blur, *snow], map(samples, (78.0, 70.0, 30.0, 80.0, 90.0))))
    lines = summarize(dict(stock=stock, robust=robust))
    assert list(lines) == ['clean', 'defocus_blur', 'snow', 'mPC', 'rPC']
    values = {line: (c['stock'].value.mean, c['robust'].value.mean) for line, c in lines.items()}
    assert values['clean'] == (80, 78) and values['defocus_blur'] == (40, 50)
    assert values['mPC'] == (62.5, 67.5)
    assert values['rPC'] == pytest.approx((78.125, 100 * 67.5 / 78))
    recovered = {line: cells['robust'].recovered for line, cells in lines.items()}
    assert recovered['defocus_blur'] == pytest.approx((25, 25, 25))
    assert recovered['mPC'] == pytest.approx([100 * 5 / 17.5] * 3)
    assert recovered['snow'] is recovered['clean'] is recovered['rPC'] is None  # nothing was lost
    assert lines['clean']['robust'].to_first == pytest.approx((-2, -2, -2))
    assert lines['clean']['stock'].to_first is None


def test_shares_are_paired_sample_by_sample():
    loss = np.concatenate([[20.0], np.random.default_rng(0).uniform(10, 30, 1000)])
    found = share(own=50 + loss / 2, reference=np.full(1001, 50.0), clean=50 + loss)
    assert found == pytest.approx((50, 50, 50))  # half of it in every sample
    # A loss that the interval does not tell from 0 has no share.
    loss[1:101] *= -1
    assert share(50 + loss / 2, np.full(1001, 50.0), 50 + loss) is None


def test_the_line_moves_in_a_file():
    stream = io.StringIO()
    meter = Meter(6, pause=0, stream=stream)
    for title in ('snow:1, stock', 'snow:1, robust'):
        meter.start(title)
        meter.advance(3)
    first, second = stream.getvalue().splitlines()
    assert first.startswith('3 of 6 images') and 'snow:1, stock' in first and 'left' in first
    assert second.startswith('6 of 6 images')
    silent = io.StringIO()
    Meter(1, pause=60, stream=silent).close()
    assert not silent.getvalue()


# The tool


@MODELS.register_module(force=True)
class Threshold(BaseModel):
    """What is brighter than its one weight is the object: a model whose figures can be said."""

    def __init__(self, scope: str, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.scope = scope
        self.backbone = nn.Module()
        self.backbone.weight = nn.Parameter(torch.tensor(110.0))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        bright = inputs.mean(1) > self.backbone.weight
        for map_, sample in zip(bright, data_samples):
            if self.scope == 'reid':
                left, right = (half.any().float() for half in map_.chunk(2, dim=-1))
                sample.set_field(torch.stack([left, right, torch.tensor(1e-3)]), 'pred_feature')
            elif self.scope == 'mmpretrain':
                here = map_.any().float()
                sample.set_pred_score(torch.stack([1 - here, here]))
            elif self.scope == 'mmseg':
                from mmengine.structures import PixelData

                sample.seg_logits = PixelData(data=torch.stack([~map_, map_]).float())
                sample.pred_sem_seg = PixelData(data=map_[None].long())
            else:
                from mmengine.structures import InstanceData

                y, x = torch.nonzero(map_, as_tuple=True)
                boxes = torch.zeros(0, 4)
                if len(x):
                    edges = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                    boxes = torch.stack(edges)[None].float()
                sample.pred_instances = InstanceData(
                    bboxes=boxes,
                    scores=torch.ones(len(boxes)),
                    labels=torch.zeros(len(boxes)).long(),
                )
        return data_samples


def write_data(folder: Path) -> None:
    """Dark images, six of ten with a bright box, in the formats of the three packages."""
    for name in ('img', 'ann'):
        (folder / name).mkdir(parents=True)
    lines, images, annotations = [], [], []
    for i in range(10):
        image = np.full((40, 48, 3), 60, np.uint8)
        image_id = (3 * i + 5) % 10  # not in the order of the files
        if i < 6:
            x, y = 4 + 2 * i, 5 + i
            image[y : y + 10, x : x + 12] = 160
            box = dict(id=i + 1, image_id=image_id, bbox=[x, y, 12, 10], category_id=1)
            annotations.append(dict(box, area=120, iscrowd=0))
        cv2.imwrite(str(folder / 'img' / f'{i}.png'), image)
        cv2.imwrite(str(folder / 'ann' / f'{i}.png'), (image[..., 0] == 160).astype(np.uint8))
        lines.append(f'{i}.png {int(i < 6)}')
        images.append(dict(id=image_id, file_name=f'{i}.png', height=40, width=48))
    (folder / 'labels.txt').write_text('\n'.join(lines))
    categories = [dict(id=1, name='box')]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'coco.json').write_text(json.dumps(coco))


def test_annotations_are_the_evaluators_or_the_data_sets(tmp_path) -> None:
    dataset = dict(data_root='data', ann_file='own.json')
    config = Config(
        dict(test_evaluator=dict(ann_file='a.json'), test_dataloader=dict(dataset=dataset))
    )
    assert coco.annotation_file(config) == 'a.json'
    config.test_evaluator.ann_file = None
    assert coco.annotation_file(config) == 'data/own.json'
    del config.test_dataloader.dataset['ann_file']
    with pytest.raises(ValueError, match=r'test_evaluator\.ann_file=PATH'):
        coco.annotation_file(config)
    voc = tmp_path / 'test.txt'  # MMDetection's configs of VOC name a list of images
    voc.touch()
    config.test_dataloader.dataset.ann_file = str(voc)
    with pytest.raises(ValueError, match=r'test\.txt is no JSON file'):
        coco.check(config)
    # Annotations of another kind, and figures that are not COCO's:
    for kind in ('CocoPanopticMetric', 'mmdet.LVISMetric'):
        other = dict(type=kind, ann_file='other.json')
        config.test_evaluator = [other, dict(type='CocoMetric', ann_file='a.json')]
        assert coco.annotation_file(config) == 'a.json'
        config.test_evaluator = other
        with pytest.raises(ValueError, match=f'{kind.split(".")[-1]} does not measure COCO'):
            coco.annotation_file(config)


def test_what_older_releases_put_beside_the_weights_is_no_other_model(tmp_path):
    model = nn.Conv2d(1, 1, 1)
    old = dict(model.state_dict(), ema_backbone_stem=torch.ones(1))
    old['data_preprocessor.mean'] = torch.zeros(3, 1, 1)
    torch.save(dict(state_dict=old), tmp_path / 'old.pth')
    (checkpoint,) = read_checkpoints([str(tmp_path / 'old.pth')], model)
    assert checkpoint.name == 'old'
    torch.save(dict(state_dict=dict(old, head=torch.ones(1))), tmp_path / 'old.pth')
    with pytest.raises(ValueError, match="it has 'head'"):
        read_checkpoints([str(tmp_path / 'old.pth')], model)


PARTS = dict(
    mmpretrain=dict(
        preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
        dataset=dict(
            type='CustomDataset',
            data_prefix='img',
            ann_file='labels.txt',
            metainfo=dict(classes=['none', 'box']),
        ),
        pack=[dict(type='PackInputs')],
    ),
    mmdet=dict(
        preprocessor=dict(type='mmdet.DetDataPreprocessor'),
        dataset=dict(
            type='CocoDataset',
            data_prefix=dict(img='img/'),
            ann_file='coco.json',
            metainfo=dict(classes=('box',)),
        ),
        pack=[dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape'))],
    ),
    mmseg=dict(
        preprocessor=dict(type='mmseg.SegDataPreProcessor', size=(40, 48)),
        dataset=dict(
            type='BaseSegDataset',
            img_suffix='.png',
            data_prefix=dict(img_path='img', seg_map_path='ann'),
            metainfo=dict(classes=('none', 'box'), palette=[[0, 0, 0], [255, 0, 0]]),
        ),
        pack=[dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
    reid=dict(
        preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
        dataset=dict(type='Market1501Halves', split='test'),
        pack=[dict(type='PackInputs', algorithm_keys=('camera', 'is_query'))],
    ),
)


def write_persons(folder: Path) -> None:
    """Two persons to find, one with a bright box on the left and one on the right."""
    (folder / 'bounding_box_train').mkdir(parents=True)
    for person, camera, shot in itertools.product((1, 2, 3, 4), (1, 2), (0, 1)):
        image = np.full((40, 48, 3), 60, np.uint8)
        x = 4 if person == 2 else 30
        image[8:24, x : x + 12] = 160
        name = f'{person:04d}_c{camera}s1_{shot:06d}_00.png'
        cv2.imwrite(str(folder / 'bounding_box_train' / name), image)


def write_case(folder: Path, scope: str) -> Path:
    """A config, its data, and checkpoints that are right without noise and with brightness."""
    package = 'mmpretrain' if scope == 'reid' else scope
    pytest.importorskip(package)
    (write_persons if scope == 'reid' else write_data)(folder / 'data')
    parts = PARTS[scope]
    pipeline = [dict(type='LoadImageFromFile'), *parts['pack']]
    root = str(folder / 'data')
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),  # which the tool does not follow
        # Serializing ends in a garbage collection, which takes a moment with all packages loaded.
        dataset=dict(
            parts['dataset'],
            data_root=root,
            test_mode=True,
            serialize_data=False,
            pipeline=pipeline,
        ),
    )
    model = dict(type='mmengine.Threshold', scope=scope, data_preprocessor=parts['preprocessor'])
    settings = dict(default_scope=package, model=model, test_dataloader=loader)
    evaluators = dict(mmdet=dict(ann_file=f'{root}/coco.json'), reid=dict(type='ReIDMetric'))
    settings['test_evaluator'] = evaluators.get(scope, {})
    if scope == 'reid':
        settings['custom_imports'] = dict(imports=['projects.reid.reid'])
    path = folder / 'threshold.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in settings.items()))
    for name, weight in (('stock', 110.0), ('robust', 220.0)):
        state = {'backbone.weight': torch.tensor(weight)}
        torch.save(dict(state_dict=state), folder / f'{name}.pth')
    return path


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    """The tool, in this process: importing the packages takes longer than all that it does."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path.copy())
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())

    def call(*arguments) -> str:
        command = ['test_robustness.py', *map(str, arguments)]
        monkeypatch.setattr(sys, 'argv', command)
        with warnings.catch_warnings():
            run.main()
        return capsys.readouterr().out

    yield call
    logger.setLevel(level)


@pytest.fixture
def message(tool, capsys):
    """What the tool says to what it refuses."""

    def call(*arguments) -> str:
        with pytest.raises(SystemExit):
            tool(*arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('test_robustness: ')
        return line

    return call


#: Clean and bright: of the stock model and of the other. All images look as if they had the object
#: when they are bright, and none does to the other model without. Persons who look alike rank in
#: the order of the gallery: for two queries of four the match is first, for the others third.
EXPECTED = dict(
    mmpretrain=(100, 60, 40, 100),
    mmdet=(100, 0, 0, 100),
    mmseg=(100, 2, 49, 100),
    reid=(100, 66.7, 66.7, 100),
)
IMAGES = dict(dict.fromkeys(EXPECTED, 10), reid=8)


@pytest.mark.parametrize('count', [2, 6])
def test_no_figure_is_cut_off_on_the_console(count):
    names = ['a_stock_model', *(f'robust{i}' for i in range(1, count))]
    plan = SimpleNamespace(
        task=SimpleNamespace(METRIC='box AP'),
        dataset=range(10),
        checkpoints=[SimpleNamespace(name=name) for name in names],
        noises=[CLEAN, Noise('gaussian_noise', 3)],
    )
    value, gain, share = Difference(30.04, 29, 31), Difference(20.04, -19, 21), Difference(5, 4, 6)
    cells = {name: Cell(value, gain, share) for name in names}
    header, rows = table(plan, {'gaussian_noise': cells})
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(on_console(plan, header, rows))
    shown = console.export_text()
    assert '…' not in shown
    for text, times in ((names[-1], 1), ('+20.0', count - 1), ('5 % [4, 6]', count - 1)):
        assert shown.count(text) == times + (count == 2 and text == names[-1])  # and its difference


@pytest.mark.parametrize('scope', PARTS)
def test_the_tool_measures_reports_and_goes_on(scope, tmp_path, tool, monkeypatch):
    config = write_case(tmp_path, scope)
    options = ('--corruptions', 'brightness', '--severities', 5, 5, '--work-dir', 'out')
    options += ('--replicates', 50, '--pictures', 1)
    shown = tool(config, 'stock.pth', 'robust.pth', *options)
    scores = json.loads(Path('out', 'scores.json').read_text())
    found = [
        scores['noises'][name][noise]
        for name in ('stock', 'robust')
        for noise in ('clean', 'brightness:5')
    ]
    assert found == pytest.approx(EXPECTED[scope], abs=1.5)
    cell = scores['lines']['brightness']['robust']
    if scope != 'reid':  # four queries: the loss may be chance
        assert cell['recovered']['mean'] == pytest.approx(100)
    assert cell['to_first']['mean'] == pytest.approx(found[3] - found[1])
    assert scores['lines']['rPC']['stock']['value']['mean'] == pytest.approx(found[1])
    assert scores['images'] == IMAGES[scope] and scores['metric'] == TASKS[scope].METRIC
    assert 'brightness' in shown and 'rPC' in shown and 'at most 0.00 GiB' in shown
    report = Path('out', 'report.md').read_text()
    assert '| brightness | ' in report
    assert ('100 % [100, 100]' in report) == (scope != 'reid')
    assert Path('out', 'robustness.png').stat().st_size > 1000
    assert len(list(Path('out', 'pictures').glob('recovery-*.png'))) == 1
    assert len(list(Path('out', 'corrupted').rglob('*.png'))) == IMAGES[scope]
    kept = {path: path.stat().st_mtime_ns for path in Path('out', 'statistics').rglob('*.npz')}
    assert len(kept) == 2 * 4
    for path in kept:
        np.load(path, allow_pickle=False)['fingerprint']

    # Again: nothing is measured. The same figures without the cache.
    monkeypatch.setattr(TASKS[scope], 'collect', lambda *_: pytest.fail('measured again'))
    tool(config, 'stock.pth', 'robust.pth', *options)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert json.loads(Path('out', 'scores.json').read_text()) == scores
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    tool(config, 'stock.pth', 'robust.pth', *options[:5], '--work-dir', 'new', '--no-cache')
    assert json.loads(Path('new', 'scores.json').read_text())['noises'] == scores['noises']
    assert not Path('new', 'corrupted').exists()


def test_what_is_stale_or_damaged_is_measured_again(tmp_path, tool, monkeypatch):
    config = write_case(tmp_path, 'mmpretrain')
    options = ('--corruptions', 'fog', '--severities', 1, '--work-dir', 'out', '--replicates', 5)
    measured = []
    load = measure.load_exactly
    monkeypatch.setattr(measure, 'load_exactly', lambda *a: measured.append(a[2]) or load(*a))
    monkeypatch.setattr(run, 'write_report', lambda *_: None)

    def new() -> list:
        measured.clear()
        tool(config, 'stock.pth', 'robust.pth', *options)
        return list(measured)

    assert new() == ['stock.pth', 'robust.pth'] * 2
    assert new() == []
    torch.save(dict(state_dict={'backbone.weight': torch.tensor(99.0)}), 'robust.pth')
    assert new() == ['robust.pth'] * 2
    # Under a longer name, since another has its own; and beside a damaged file.
    Path('b').mkdir()
    shutil.copy('stock.pth', 'b/robust.pth')
    tool(config, 'stock.pth', 'robust.pth', 'b/robust.pth', *options)
    assert new() == []
    digest = hashlib.sha256(Path('stock.pth').read_bytes()).hexdigest()
    (file,) = Path('out', 'statistics').glob(f'{digest[:16]}-*/fog-1.npz')
    file.write_bytes(file.read_bytes()[:-30])
    assert new() == ['stock.pth']
    before = config.read_text()
    config.write_text(before.replace("'batch_size': 4", "'batch_size': 5"))
    assert len(new()) == 4
    config.write_text(before)  # whose statistics are still there
    assert new() == []
    labels = Path('data', 'labels.txt')
    labels.write_text(labels.read_text().replace('0.png 1', '0.png 0'))
    assert len(new()) == 4
    image = next(Path('data').rglob('*.png'))
    image.write_bytes(image.read_bytes() + b'0')
    assert len(new()) == 4


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, message, monkeypatch):
    config = write_case(tmp_path, 'mmpretrain')
    monkeypatch.setattr(measure, 'measure', lambda *_: pytest.fail('went to work'))
    monkeypatch.setattr(run, 'measure', lambda *_: pytest.fail('went to work'))
    assert "no corruption 'rain'" in message(config, 'stock.pth', '--corruptions', 'rain')
    assert 'must be 1 to 5, got 6' in message(config, 'stock.pth', '--severities', 6)
    assert 'no checkpoint nil.pth' in message(config, 'stock.pth', 'nil.pth')
    assert 'named twice' in message(config, 'stock.pth', tmp_path / 'stock.pth')
    assert 'there is no config nil.py' in message('nil.py', 'stock.pth')

    key = 'backbone.parametrizations.weight.original'
    torch.save(dict(state_dict={key: torch.ones(())}), 'denoiserep.pth')
    assert 'tools/fuse_ckpt.py CONFIG' in message(config, 'stock.pth', 'denoiserep.pth')
    torch.save(dict(state_dict={'backbone.weight': torch.ones(()), 'x': torch.ones(1)}), 'more.pth')
    assert "it has 'x'" in message(config, 'more.pth')

    def refused(option: str) -> str:
        return message(config, 'stock.pth', '--cfg-options', option)

    assert 'has no test_dataloader' in refused('test_dataloader=None')
    assert "default_scope is 'mmengine'" in refused('default_scope=mmengine')
    assert 'dataset.data_root=PATH' in refused('test_dataloader.dataset.data_root=nil')
    assert 'dataset.data_root=PATH' in refused('test_dataloader.dataset.indices=0')
    assert 'three channels' in refused('test_dataloader.dataset.pipeline.0.color_type=grayscale')
    assert 'LoadImage' in refused('test_dataloader.dataset.pipeline.0.type=Resize')
    denoiserep = 'model.backbone.type=mmdenoiserep.DenoiseRepBackbone'
    assert 'give the stock config' in refused(denoiserep)

    usage = measure.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(measure.shutil, 'disk_usage', lambda _: usage._replace(free=10**4))
    assert '--no-cache' in message(config, 'stock.pth')
    cv2.imwrite(str(tmp_path / 'data' / 'img' / '3.png'), np.zeros((40, 20, 3), np.uint8))
    assert '3.png is 20x40' in message(config, 'stock.pth')
    (tmp_path / 'data' / 'img' / '3.png').unlink()
    assert '3.png is missing' in message(config, 'stock.pth')
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'imagecorruptions', None)
        assert 'pip install imagecorruptions' in message(config, 'stock.pth')


@TRANSFORMS.register_module()
class Glare:
    """A stand-in for a degradation of somebody's own, which draws."""

    def __init__(self, added: int, border: int = 0) -> None:
        self.added, self.border = added, border

    def __call__(self, results: dict) -> dict:
        added = self.added + np.random.randint(8)
        results['img'] = np.pad(results['img'] + np.uint8(added), 3 * [(0, self.border)])[..., :3]
        return results


def test_a_transform_degrades_an_image_always_alike():
    glare, images = dict(type='mmengine.Glare', added=0), {}

    def degraded(noise: OneNoise, name: str) -> int:
        np.random.rand()  # of a flip, say
        image = np.zeros((1, 1, 3), np.uint8)
        return noise(dict(img=image, img_path=name))['img'].flat[0]

    for seed in (0, 1, None):
        noise = OneNoise([glare], seed)
        first, again = ([degraded(noise, f'{i}.png') for i in range(8)] for _ in range(2))
        assert (first == again) == (seed is not None)
        images[seed] = first
    assert images[0] != images[1]

    class Draws:  # from a generator of its own, as albumentations does
        def set_random_seed(self, seed: int) -> None:
            self.random = np.random.default_rng(seed)

        def __call__(self, results: dict) -> dict:
            return dict(results, img=results['img'] + np.uint8(self.random.integers(200)))

    noise = OneNoise([], 0)
    noise.transforms = [Draws()]
    first, again = ([degraded(noise, f'{i}.png') for i in range(4)] for _ in range(2))
    assert first == again and len(set(first)) > 1


def test_a_noise_by_the_type_of_ours_is_the_one_that_is_named():
    def read(**options) -> Noise:
        noise = json.dumps(dict(type='mmdenoiserep.Degrade', corruption='fog', **options))
        args = SimpleNamespace(corruptions=None, severities=None, noise=[noise], degraded=None)
        (read,) = noises.read_noises(args)
        return read

    assert read() == Noise('fog', 3) and read(severity=2) == Noise('fog', 2)
    other = read(seed=5)
    assert other.corruption == 'Degrade' and json.loads(other.transform)['seed'] == 5
    with pytest.raises(ValueError, match='must be 1 to 5, got 7'):
        read(severity=7)


def test_noises_of_ones_own(tmp_path, tool, message, monkeypatch):
    """A transform, and files, as tools/calibrate.py takes them."""
    config = write_case(tmp_path, 'mmpretrain')
    Path('worse').mkdir()
    for path in Path('data', 'img').iterdir():
        cv2.imwrite(f'worse/{path.stem}.bmp', cv2.imread(str(path)) + 80)
    glare = dict(type='mmengine.Glare', added=70)
    given = ('--noise', json.dumps(glare), json.dumps(dict(glare, added=0)), 'brightness:5')
    options = ('--degraded', 'worse', '--replicates', 5, '--work-dir', 'out')
    shown = tool(config, 'stock.pth', 'robust.pth', *given, *options, '--pictures', 1)
    scores = json.loads(Path('out', 'scores.json').read_text())
    names = ('clean', 'Glare', 'Glare 2', 'brightness:5', 'LoadDegraded')
    for name, stock, robust in zip(names, (100, 60, 100, 60, 60), (40, 100, 40, 100, 100)):
        assert name.split(':')[0] in shown
        assert scores['noises']['stock'][name] == stock, name
        assert scores['noises']['robust'][name] == robust, name
    assert scores['lines']['mPC']['stock']['value']['mean'] == 70
    assert scores['transforms']['Glare'] == glare and scores['severities'] == [5]
    assert 'Glare 2 is `{"type"' in Path('out', 'report.md').read_text()
    assert len(list(Path('out', 'pictures').iterdir())) == 2

    # Only what depends on a file is measured again when it changes.
    load, measured = measure.load_exactly, []
    monkeypatch.setattr(measure, 'load_exactly', lambda *a: measured.append(a[2]) or load(*a))
    tool(config, 'stock.pth', *given, *options)
    assert not measured
    cv2.imwrite('worse/0.bmp', np.full((40, 48, 3), 9, np.uint8))
    tool(config, 'stock.pth', *given, *options)
    assert measured == ['stock.pth']
    monkeypatch.setattr(run, 'measure', lambda *_: pytest.fail('went to work'))
    assert '--severities go with' in message(config, 'stock.pth', *options, '--severities', 1)
    wide = json.dumps(dict(glare, border=2))
    assert '50x42 of an image of 48x40' in message(config, 'stock.pth', '--noise', wide)
    assert 'Haze' in message(config, 'stock.pth', '--noise', '{"type": "Haze"}')
    assert 'no folder nil' in message(config, 'stock.pth', '--degraded', 'nil')
    Path('worse', '3.bmp').unlink()
    assert '3.png has no partner' in message(config, 'stock.pth', *options)


def test_images_come_in_one_order(tmp_path):
    config = plan.read_config(str(write_case(tmp_path, 'mmpretrain')), None)
    assert config.test_dataloader.sampler == dict(type='DefaultSampler', shuffle=False)


def test_checkpoints_are_told_apart_by_their_names():
    files = [Path(p) for p in ('/a/stock.pth', '/b/x/best.pth', '/b/y/best.pth', '/c/best.pt')]
    names = [plan.name_in(files, file) for file in files]
    assert names == ['stock', 'x/best', 'y/best', 'best.pt']
