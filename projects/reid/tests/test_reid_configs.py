"""Every config parses, and rows of one model differ in data set, persons and cameras only."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'
MODELS = (
    'transreid_vit-b',
    'transreid_vit-b-ics',
    'transreid-ssl_vit-s',
    'transreid-ssl_vit-b-ics',
    'clip-reid_vit-b',
)
# Persons in the training set and cameras.
SETS = dict(market1501=(751, 6), msmt17=(1041, 15), dukemtmc=(702, 8), cuhk03=(767, 2))
BASELINES = [
    f'{model}_{data_set}'
    for model in MODELS
    for data_set in SETS
    if (model, data_set) != ('clip-reid_vit-b', 'cuhk03')
]


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def test_the_folder_holds_the_rows():
    assert len(BASELINES) == 19
    small = [n for n in BASELINES if n.startswith('transreid-ssl_vit-s')]
    expected = {
        *BASELINES,
        *(f'{name}_denoiserep' for name in BASELINES),
        *(f'{n}_{e}' for n in small for e in ('denoiserep_label-free', 'denoiserep_merged')),
        *(f'{name}_denoiserep-minus' for name in small),
        *(f'{name}_stage1' for name in BASELINES if name.startswith('clip')),
    }
    assert {path.stem for path in CONFIGS.glob('*.py')} == expected


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_config_parses_and_is_short(path):
    assert len(path.read_text().splitlines()) <= (9 if path.stem.endswith('_denoiserep') else 11)
    config = Config.fromfile(path)
    assert config.custom_imports.imports == ['projects.reid.reid']
    assert config.default_scope == 'mmpretrain'
    data_set = next(key for key in SETS if f'_{key}' in path.stem)
    persons, cameras = SETS[data_set]
    if 'stage1' in path.stem:
        assert config.model.num_classes == persons
        second = Config.fromfile(str(path).replace('_stage1', '')).model.data_preprocessor
        assert second.pop('erase_prob') == 0.5  # features are computed once, of whole images
        assert config.model.data_preprocessor == second
        return
    wrapped = config.model.backbone.get('module', config.model.backbone)
    assert ('denoiserep' in path.stem) == (wrapped is not config.model.backbone)
    assert config.model.head.num_classes == persons
    with_cameras = path.stem.startswith(('transreid_vit-b-ics', 'clip'))
    assert wrapped.get('num_cameras', 0) == (cameras if with_cameras else 0)
    # The pipelines are of the backbone's size; (w, h) here, (h, w) there.
    height, width = wrapped.img_size
    for loader in (config.val_dataloader, config.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (width, height)
        assert loader.dataset.split == 'test'
    datasets = config.train_dataloader.dataset.get('datasets', [config.train_dataloader.dataset])
    for dataset in datasets:
        assert dataset.pipeline[1].scale == (width, height)
        assert dataset.pipeline[3].crop_size == (height, width)
        assert dataset.get('split', 'train') == 'train'
    if 'denoiserep' in path.stem:
        optimizer = config.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.9, 1e-4)
        assert config.train_dataloader.batch_size == 128
        hook = config.custom_hooks[0]
        unlabelled = path.stem.endswith(('label-free', 'merged'))
        assert hook.mode == ('label-free' if unlabelled else 'label-aug')
        assert unlabelled or hook.lambda_ == 0.1
        assert bool(config.train_dataloader.batch_sampler) != unlabelled
    if path.stem.endswith('merged'):
        assert sorted(d.type for d in datasets) == [
            'CUHK03NP',
            'DukeMTMCreID',
            'MSMT17',
            'Market1501',
        ]


@pytest.mark.parametrize('ending', ['', '_denoiserep'])
@pytest.mark.parametrize('model', MODELS)
def test_siblings_differ_in_data_set_persons_and_cameras(model, ending):
    names = [n for n in BASELINES if n.rsplit('_', 1)[0] == model]
    seen = []
    for name in names:
        config = load(name + ending)
        assert config.train_dataloader.dataset.type == config.test_dataloader.dataset.type
        for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
            for key in ('type', 'data_root', 'version', 'boxes'):
                loader.dataset.pop(key, None)
        backbone = config.model.backbone
        backbone.get('module', backbone).pop('num_cameras', None)
        config.model.head.pop('num_classes')
        config.pop('load_from')
        seen.append(config._cfg_dict.to_dict())
    assert all(each == seen[0] for each in seen)


def test_the_metafile_lists_the_rows():
    metafile = yaml.safe_load((CONFIGS.parent / 'metafile.yml').read_text())
    listed = [model['Config'] for model in metafile['Models']]
    rows = [n + ending for n in BASELINES for ending in ('', '_denoiserep')]
    assert sorted(listed) == sorted(f'projects/reid/configs/{name}.py' for name in rows)
    collections = {collection['Name'] for collection in metafile['Collections']}
    assert {model['In Collection'] for model in metafile['Models']} == collections
