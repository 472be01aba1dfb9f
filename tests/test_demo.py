"""The demo's data: seeded, complete, and in COCO's layout."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('pycocotools')
sys.path.insert(0, str(Path(__file__).parent.parent / 'demo'))

from make_shapes import CLASSES, draw_image, make_shapes
from pycocotools.coco import COCO


def content(folder: Path) -> dict:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        make_shapes(tmp_path / name, num_train=3, num_val=2, seed=seed)
    a, b, c = (content(tmp_path / name) for name in 'abc')
    assert a == b and a != c
    assert a[Path('train/000001.png')] != a[Path('val/000001.png')]


def test_data_with_the_same_settings_is_kept_and_other_data_replaced(tmp_path):
    out = tmp_path / 'data'
    make_shapes(out, num_train=2, num_val=1)
    written = (out / 'settings.json').stat().st_mtime_ns
    make_shapes(out, num_train=2, num_val=1)
    assert (out / 'settings.json').stat().st_mtime_ns == written
    make_shapes(out, num_train=1, num_val=1)
    assert len(list((out / 'train').iterdir())) == 1
    assert list(tmp_path.iterdir()) == [out]
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'a.jpg').touch()
    with pytest.raises(SystemExit, match='photos holds something else'):
        make_shapes(tmp_path / 'photos')
    assert (tmp_path / 'photos' / 'a.jpg').exists()


def test_annotations_are_boxes_and_masks_of_what_is_visible(tmp_path):
    make_shapes(tmp_path / 'data', num_train=8, num_val=1)
    coco = COCO(tmp_path / 'data' / 'annotations' / 'instances_train.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    overlap = np.zeros((128, 128), int)
    for annotation in coco.imgToAnns[1]:
        mask = coco.annToMask(annotation)
        overlap += mask
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert (x, y) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert annotation['area'] == mask.sum()
    assert overlap.max() == 1
    labels = {a['category_id'] for a in coco.anns.values()}
    assert labels == {1, 2, 3}


def test_an_image_is_drawn_in_full_range():
    image, objects = draw_image(np.random.default_rng(0), 128)
    assert image.dtype == np.uint8 and image.shape == (128, 128, 3) and image.std() > 20
    assert all(mask.dtype == bool and mask.any() for _, mask in objects)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, 'dumps', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / 'data', num_train=1, num_val=1)
    assert not list(tmp_path.iterdir())
