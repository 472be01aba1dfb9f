"""Data sets in their official layouts, the P x K sampler and the pipelines."""

import os
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import people
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import Dataset

from projects.reid.reid import (
    CUHK03NP,
    MSMT17,
    DukeMTMCreID,
    IdentityBatchSampler,
    Market1501,
    Market1501Halves,
    ReIDDataPreprocessor,
)
from projects.reid.reid.preprocessor import erase

ROOT = Path(__file__).parents[3]
MARKET = Path(os.environ.get('MARKET1501', ROOT.parent / 'shared' / 'data' / 'market1501'))
needs_market = pytest.mark.skipif(
    not (MARKET / 'bounding_box_train').is_dir(), reason=f'no Market-1501 in {MARKET}'
)


def items(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def fields(dataset, *keys):
    return [tuple(item[key] for key in keys) for item in items(dataset)]


def test_market_leaves_out_junk_and_keeps_distractors(tmp_path):
    people.write_market(
        tmp_path / 'Market-1501-v15.09.15',
        train=people.shots((2, 7, 11), 6, 1),
        query=[(1, 1, 0), (3, 6, 0)],
        gallery=[(-1, 2, 0), (0, 3, 0), (1, 2, 0), (3, 1, 0)],
    )
    train = Market1501(str(tmp_path))
    assert train.metainfo['ids'] == (2, 7, 11)
    assert fields(train, 'gt_label', 'camera') == [(i, c) for i in range(3) for c in range(6)]
    test = Market1501(str(tmp_path / 'Market-1501-v15.09.15'), 'test')
    assert fields(test, 'gt_label', 'camera', 'is_query') == [
        (1, 0, True),
        (3, 5, True),
        (0, 2, False),
        (1, 1, False),
        (3, 0, False),
    ]
    assert Path(items(test)[0]['img_path']).name == '0001_c1s1_000000_00.jpg'


def test_duke_keeps_persons_without_a_query(tmp_path):
    people.write_market(
        tmp_path,
        train=[(7139, 8, 0), (5, 2, 0)],
        query=[(9, 1, 0)],
        gallery=[(9, 2, 0), (4000, 3, 0)],
        name='{0:04d}_c{1}_f{2:07d}.jpg',
    )
    assert fields(DukeMTMCreID(str(tmp_path)), 'gt_label', 'camera') == [(0, 1), (1, 7)]
    assert fields(DukeMTMCreID(str(tmp_path), 'test'), 'gt_label') == [(9,), (9,), (4000,)]


def test_cuhk03_tells_boxes_apart(tmp_path):
    for boxes, number in (('labeled', 2), ('detected', 1)):
        people.write_market(
            tmp_path / 'cuhk03-np' / boxes,
            train=people.shots((1, 2), 2, number),
            query=[(3, 1, 0)],
            gallery=[(3, 2, 0)],
            name='{0:04d}_c{1}_{2}.png',
        )
    for root in (tmp_path, tmp_path / 'cuhk03-np'):
        assert len(CUHK03NP(str(root))) == 8
        assert len(CUHK03NP(str(root), boxes='detected')) == 4
    assert {c for (c,) in fields(CUHK03NP(str(tmp_path)), 'camera')} == {0, 1}
    with pytest.raises(FileNotFoundError, match='no detected'):
        CUHK03NP(str(tmp_path / 'cuhk03-np' / 'labeled'), boxes='detected')


def test_msmt17_tells_its_versions_apart(tmp_path):
    train, val = people.shots((0, 1), 15, 1), [(2, 15, 0)]
    for version in ('V1', 'V2'):
        people.write_msmt17(
            tmp_path / f'MSMT17_{version}',
            version,
            train=train,
            val=val,
            query=[(0, 4, 1)],
            gallery=[(0, 5, 1), (1, 6, 1)],
        )
    for version, folder in (('V1', 'train'), ('V2', 'mask_train_v2')):
        dataset = MSMT17(str(tmp_path), version=version)
        assert len(dataset) == 31 and version in dataset.metainfo['source']
        assert all(Path(item['img_path']).parts[-3] == folder for item in items(dataset))
        assert items(dataset)[-1]['camera'] == 14
    assert len(MSMT17(str(tmp_path), val_in_train=False)) == 30
    assert fields(MSMT17(str(tmp_path), 'test'), 'gt_label', 'camera', 'is_query') == [
        (0, 3, True),
        (0, 4, False),
        (1, 5, False),
    ]
    with pytest.raises(FileNotFoundError, match=r'no train; expected .*MSMT17 V1'):
        MSMT17(str(tmp_path / 'MSMT17_V2'), version='V1')


def test_halves_of_market_share_no_person(tmp_path):
    people.write_market(tmp_path, train=people.shots((2, 7, 11, 30), 3, 2))
    train = Market1501Halves(str(tmp_path))
    assert train.metainfo['ids'] == (2, 11) and len(train) == 12
    test = Market1501Halves(str(tmp_path), 'test')
    expected = [(id_, camera, True) for id_ in (7, 30) for camera in range(3)]
    expected += [(id_, camera, False) for id_, camera, _ in expected]
    assert fields(test, 'gt_label', 'camera', 'is_query') == expected
    names = {Path(item['img_path']).name for item in items(test) if item['is_query']}
    assert all('_000000_' in name for name in names)
    # The last of the training half, held back to choose settings on.
    assert Market1501Halves(str(tmp_path), val_persons=1).metainfo['ids'] == (2,)
    held_back = Market1501Halves(str(tmp_path), 'val', val_persons=1)
    assert {id_ for (id_,) in fields(held_back, 'gt_label')} == {11} and len(held_back) == 6
    assert fields(Market1501Halves(str(tmp_path), 'test', val_persons=1), 'gt_label') == fields(
        test, 'gt_label'
    )


@needs_market
def test_the_real_market_training_set():
    dataset = Market1501(str(MARKET))
    assert len(dataset) == 12936
    assert Counter(label for (label,) in fields(dataset, 'gt_label')).keys() == set(range(751))
    assert {camera for (camera,) in fields(dataset, 'camera')} == set(range(6))
    halves = [Market1501Halves(str(MARKET), split) for split in ('train', 'test')]
    assert sum(map(len, halves)) == 12936
    assert [len(set(fields(half, 'gt_label'))) for half in halves] == [376, 375]


def test_bad_data_is_named_in_one_line(tmp_path):
    def refused(error, words, make):
        with pytest.raises(error, match=words) as caught:
            make()
        assert '\n' not in str(caught.value)

    market = str(people.write_market(tmp_path / 'm', train=[(1, 1, 0)], query=[(1, 1, 0)]))
    refused(FileNotFoundError, 'no bounding_box_train; expected', lambda: Market1501('/nowhere'))
    refused(ValueError, 'gallery part has no images', lambda: Market1501(market, 'test'))
    refused(ValueError, "'train' or 'test'", lambda: Market1501(market, 'val'))
    for number in (-1, 1):
        refused(
            ValueError,
            'val_persons must be at least 0 and below 1',
            lambda number=number: Market1501Halves(market, val_persons=number),
        )
    (tmp_path / 'm' / 'query' / 'somebody.jpg').touch()
    refused(ValueError, r'somebody\.jpg', lambda: Market1501(market, 'test'))
    (tmp_path / 'm' / 'bounding_box_train' / '0004_c7s1_000000_00.jpg').touch()
    refused(ValueError, r'0004_c7s1_000000_00\.jpg: camera 7', lambda: Market1501(market))

    root = people.write_msmt17(tmp_path / 's', 'V1', train=[(0, 1, 0)], val=[(0, 2, 0)])
    refused(FileNotFoundError, 'no test;', lambda: MSMT17(str(root), 'test'))
    (root / 'test').mkdir()
    refused(FileNotFoundError, r'no list_query\.txt', lambda: MSMT17(str(root), 'test'))
    (root / 'list_val.txt').write_text('0000/0000_000_01_a.jpg\n')
    refused(ValueError, r'list_val\.txt, line 1', lambda: MSMT17(str(root)))
    (root / 'list_val.txt').write_text('0000/0000_000_01_a.jpg 0\n')
    refused(FileNotFoundError, 'listed but not there', lambda: MSMT17(str(root)))
    refused(ValueError, 'V1', lambda: MSMT17(str(root), version='V3'))


class Labelled(Dataset):
    """A data set of labels only."""

    def __init__(self, counts):
        self.labels = [label for label, count in enumerate(counts) for _ in range(count)]

    def __len__(self):
        return len(self.labels)

    def get_data_info(self, index):
        return dict(gt_label=self.labels[index])

    def __getitem__(self, index):
        return index


def batches(counts, batch_size, epoch=0, seed=3, rank=0, world_size=1, k=4):
    sampler = DefaultSampler(Labelled(counts), shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    with mock.patch('projects.reid.reid.sampler.get_dist_info', return_value=(rank, world_size)):
        batch_sampler = IdentityBatchSampler(sampler, batch_size, k)
    found = list(batch_sampler)
    assert len(batch_sampler) == len(found)
    return found


COUNTS = [4, 9, 1, 3, 16, 5, 8, 30]


@pytest.mark.parametrize('epoch', range(3))
def test_batches_hold_p_persons_with_k_images(epoch):
    found = batches(COUNTS, 12, epoch)
    labels = Labelled(COUNTS).labels
    for batch in found:
        assert sorted(Counter(labels[i] for i in batch).values()) == [4, 4, 4]
    used = Counter(i for batch in found for i in batch)
    for label, count in enumerate(COUNTS):
        own = [n for i, n in used.items() if labels[i] == label]
        assert sum(own) <= max(4, count // 4 * 4)
        assert count < 4 or not own or max(own) == 1  # without replacement where there are enough
    # The epoch ends when fewer than P persons have a group left, and not before.
    left = [
        max(4, c // 4 * 4) - sum(n for i, n in used.items() if labels[i] == label)
        for label, c in enumerate(COUNTS)
    ]
    assert sum(n > 0 for n in left) < 3


def test_an_epoch_is_a_matter_of_seed_and_number():
    assert batches(COUNTS, 12, 1) == batches(COUNTS, 12, 1)
    assert batches(COUNTS, 12, 1) != batches(COUNTS, 12, 2)
    assert batches(COUNTS, 12, 1, seed=4) != batches(COUNTS, 12, 1)


def test_processes_share_the_plan_of_one():
    whole = batches(COUNTS, 16)
    halves = [batches(COUNTS, 8, rank=rank, world_size=2) for rank in range(2)]
    assert len(whole) == len(halves[0]) == len(halves[1]) > 0
    assert [a + b for a, b in zip(*halves)] == whole


def test_impossible_batches_are_refused():
    for batch_size, k, words in ((10, 4, 'batch of 10'), (4, 4, '2 or more'), (40, 4, '8 persons')):
        with pytest.raises(ValueError, match=words):
            batches(COUNTS, batch_size, k=k)


def test_mmengine_builds_the_sampler_and_moves_its_epoch():
    loader = Runner.build_dataloader(
        dict(
            dataset=Labelled(COUNTS),
            batch_size=12,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='IdentityBatchSampler', num_instances=4),
            collate_fn=dict(type='pseudo_collate'),
        ),
        seed=3,
    )
    loader.batch_sampler.sampler.set_epoch(2)  # as DistSamplerSeedHook does, also on resuming
    assert list(loader) == batches(COUNTS, 12, 2)


def test_erasing_fills_one_box_with_noise_after_normalization():
    torch.manual_seed(0)
    shares, values = [], []
    for _ in range(200):
        image = torch.full((3, 64, 32), 9.0)
        erase(image)
        box = (image != 9).all(0)
        rows, columns = box.any(1).nonzero().ravel(), box.any(0).nonzero().ravel()
        assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        shares.append(float(box.float().mean()))
        values.append(image[:, box].ravel())
    assert min(shares) > 0.015 and max(shares) < 0.36
    noise = torch.cat(values)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and noise.abs().max() > 3

    preprocessor = ReIDDataPreprocessor(erase_prob=0.5, mean=[127.5] * 3, std=[127.5] * 3)
    data = dict(inputs=[torch.zeros(3, 64, 32, dtype=torch.uint8)] * 400)
    assert (preprocessor(data)['inputs'] == -1).all()
    erased = (preprocessor(data, training=True)['inputs'] != -1).flatten(1).any(1)
    assert 160 < int(erased.sum()) < 240
    preprocessor.keep_pairs()
    assert (preprocessor(data, training=True)['inputs'] == -1).all()


def test_images_are_resized_by_pillow(tmp_path):
    config = Config.fromfile(ROOT / 'projects/reid/configs/_base_/pipeline_256x128.py')
    people.write_market(tmp_path, train=[(1, 1, 0)], query=[(1, 1, 0)], gallery=[(1, 2, 0)])
    dataset = DATASETS.build(
        dict(
            type='Market1501', data_root=str(tmp_path), split='test', pipeline=config.test_pipeline
        )
    )
    item = dataset[0]
    with Image.open(item['data_samples'].img_path) as image:
        expected = np.asarray(image.resize((128, 256), Image.BILINEAR))
    np.testing.assert_array_equal(item['inputs'].flip(0).permute(1, 2, 0).numpy(), expected)
    assert (item['data_samples'].camera, item['data_samples'].is_query) == (0, True)
    train = DATASETS.build(
        dict(type='Market1501', data_root=str(tmp_path), pipeline=config.train_pipeline)
    )
    corners = [train[0]['inputs'][:, ::255, ::127].sum(0).eq(0) for _ in range(20)]
    assert train[0]['inputs'].shape == (3, 256, 128)
    assert torch.stack(corners).any()  # black borders of the padding
