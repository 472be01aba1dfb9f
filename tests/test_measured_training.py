"""Measured noise from files: pairs, calibration as a job, training with the hook."""

import argparse
import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from toy import ToyModel, stock_backbone, toy_config

from mmdenoiserep import calibrate_measured_checkpoint, denoisers
from mmdenoiserep.apis import to_measured_config
from mmdenoiserep.apis.pairs import Pairs
from mmdenoiserep.calibration import NothingBetter
from mmdenoiserep.calibration.judge import OutputError
from mmdenoiserep.cli import add_runner_arguments, config_from_arguments
from mmdenoiserep.cli.arguments import noise as cli_noise
from mmdenoiserep.datasets import PairDataset, collate_pairs
from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.hooks import DenoiseRepHook, measured_training
from mmdenoiserep.hooks.measured_training import MeasuredTraining
from mmdenoiserep.training.matched import cut_mix, relative_error
from mmdenoiserep.transforms import Degrade, LoadDegraded, each_noise, noise_transform
from mmdenoiserep.transforms.degrade import BENCHMARK
from mmdenoiserep.transforms.one_noise import OneNoise

pytest.importorskip('imagecorruptions')
pytest.importorskip('mmcv')

NOISE = 'gaussian_noise:3'


@TRANSFORMS.register_module()
class ToyPack:
    """An image as the toy model takes it, flipped at random."""

    def __call__(self, results: dict) -> dict:
        image = results['img'].astype(np.float32) / 64 - 2
        if np.random.rand() < 0.5:
            image = image[:, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return dict(inputs=image, data_samples=torch.tensor(int(image.mean() > 0)))


PIPELINE = [dict(type='mmcv.LoadImageFromFile'), dict(type='ToyPack')]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Smooth images, which noise differs from."""
    folder = tmp_path / 'images'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        coarse = rng.integers(40, 216, (5, 5, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (36, 36), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def config_of(tmp_path, folder, **hook) -> Config:
    config = toy_config(tmp_path, stock_backbone(), **hook)
    config.custom_hooks = []
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset = dataset
        loader.collate_fn = dict(type='pseudo_collate')
    config.model.type = 'PairToyModel'
    return config


def degrade_all(folder: Path, out: Path) -> Path:
    """The images of a folder with noise, in another."""
    out.mkdir()
    for path in folder.iterdir():
        results = dict(img=cv2.imread(str(path)), img_path=str(path))
        cv2.imwrite(str(out / path.name), Degrade('gaussian_noise', 3)(results)['img'])
    return out


class Stack(BaseDataPreprocessor):
    """Stacks the images of a batch, and its labels; adds noise of its own to each in training."""

    noise = 1e-3

    def keep_pairs(self) -> None:
        self.noise = 0.0

    def forward(self, data: dict, training: bool = False) -> dict:
        stacked = {key: torch.stack(list(value)) for key, value in self.cast_data(data).items()}
        stacked['inputs'] += training * self.noise * torch.randn_like(stacked['inputs'])
        return stacked


@MODELS.register_module()
class PairToyModel(ToyModel):
    """The toy model on batches that are lists."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.data_preprocessor = Stack()


def stock_checkpoint(config, tmp_path) -> str:
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'stock.pth')
    return str(tmp_path / 'stock.pth')


def test_noise_is_named_and_refused_by_name():
    assert noise_transform('jpeg_compression') == dict(
        type='mmdenoiserep.Degrade', corruption='jpeg_compression', severity=3
    )
    assert noise_transform('{"type": "Blur", "k": 3}') == dict(type='Blur', k=3)
    for wrong, message in (
        ('gausian_noise:3', "no corruption 'gausian_noise'; there are gaussian_noise"),
        ('fog:6', 'severity of fog must be 1 to 5, got 6'),
        ('fog:x', 'name:severity'),
        ('{"k": 3}', 'has no type'),
        ('{', 'no JSON'),
    ):
        with pytest.raises(ValueError, match=message):
            noise_transform(wrong)


def test_a_benchmark_is_all_its_noises(folder):
    every = each_noise(['benchmark:2', dict(type='Blur'), 'fog'])
    assert every == [*(f'{name}:2' for name in BENCHMARK), dict(type='Blur'), 'fog']
    assert each_noise('benchmark') == list(BENCHMARK)
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    pairs = PairDataset(dataset, noise=['benchmark:2'])
    assert [step['corruption'] for step in pairs.noise['transforms']] == list(BENCHMARK)
    hook = dict(mode='label-free', noise=['benchmark:2'])
    assert DenoiseRepHook(**hook).noise == ['benchmark:2']
    assert cli_noise('benchmark:2') == 'benchmark:2'
    with pytest.raises(argparse.ArgumentTypeError, match='severity of gaussian_noise'):
        cli_noise('benchmark:6')
    with pytest.raises(ValueError, match="no corruption 'benchmarks'"):
        PairDataset(dataset, noise=['benchmarks:2'])


def test_the_same_image_meets_the_same_noise_and_leaves_the_generators():
    image = np.full((40, 40, 3), 128, np.uint8)

    def degrade(path: str, seed=0) -> np.ndarray:
        results = dict(img=image.copy(), img_path=path)
        return Degrade('gaussian_noise', 3, seed)(results)['img']

    np.random.seed(7)
    first = degrade('a/b/c.png')
    state = np.random.get_state()[1].copy()
    assert np.array_equal(first, degrade('elsewhere/b/c.png')) and first.std() > 5
    assert np.array_equal(np.random.get_state()[1], state)
    assert not np.array_equal(first, degrade('a/b/d.png'))
    assert not np.array_equal(first, degrade('a/b/c.png', seed=1))
    fresh = degrade('a/b/c.png', seed=None)
    np.random.rand()
    assert not np.array_equal(fresh, degrade('a/b/c.png', seed=None))


@TRANSFORMS.register_module()
class Darker:
    """A degradation that draws numbers, as many as it likes."""

    def __call__(self, results: dict) -> dict:
        for _ in range(np.random.randint(1, 5)):
            results['img'] = (results['img'] * np.random.uniform(0.8, 0.95)).astype(np.uint8)
        return results


@pytest.mark.parametrize('fresh', [False, True])
@pytest.mark.parametrize('noise', [[NOISE, 'contrast:1'], [dict(type='Darker')]])
def test_a_pair_shares_its_augmentation(folder, noise, fresh):
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    pairs = PairDataset(dataset, noise, fresh=fresh)
    for i in range(16):
        clean, degraded = (item['inputs'] for item in pairs[i])
        similar = torch.corrcoef(torch.stack([clean.flatten(), degraded.flatten()]))[0, 1]
        flipped = torch.corrcoef(torch.stack([clean.flip(2).flatten(), degraded.flatten()]))[0, 1]
        assert similar > 0.6 > flipped
        assert not torch.equal(clean, degraded)
    batch = collate_pairs([pairs[0], pairs[1]])
    assert len(batch['inputs']) == 4


class Roll:
    """Draws from a generator of its own, as albumentations does."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def set_random_seed(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.roll(image, self.generator.integers(36), 1)


@TRANSFORMS.register_module()
class LikeAlbu:
    """What OpenMMLab's packages put around albumentations."""

    def __init__(self) -> None:
        self.aug = Roll()

    def __call__(self, results: dict) -> dict:
        return dict(results, img=self.aug(results['img']))


def test_a_pair_shares_what_has_generators_of_its_own(folder):
    inside = dict(type='mmcv.RandomChoice', transforms=[[dict(type='LikeAlbu')]])
    pipeline = [PIPELINE[0], dict(type='LikeAlbu'), inside, PIPELINE[1]]
    inner = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=pipeline)
    pairs = PairDataset(dict(type='ConcatDataset', datasets=[inner]), ['brightness:1'])
    for i in range(4):
        clean, degraded = (item['inputs'].flatten() for item in pairs[i])
        assert torch.corrcoef(torch.stack([clean, degraded]))[0, 1] > 0.95


def test_noise_is_new_in_each_image_and_each_time(folder):
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    fixed = dict(type='mmdenoiserep.Degrade', corruption='gaussian_noise', severity=3, seed=0)

    def draw(noise, path: str) -> np.ndarray:
        transform = TRANSFORMS.build(PairDataset(dataset, noise, fresh=True).noise)
        np.random.seed(0)  # nothing is drawn between the images of a mosaic
        return transform(dict(img=np.full((36, 36, 3), 128, np.uint8), img_path=path))['img']

    assert not np.array_equal(draw(NOISE, 'a/0.png'), draw(NOISE, 'a/1.png'))
    transform = TRANSFORMS.build(PairDataset(dataset, fixed, fresh=True).noise)
    image = np.full((36, 36, 3), 128, np.uint8)
    first = transform(dict(img=image, img_path='0.png'))['img']
    np.random.rand()
    again = transform(dict(img=image, img_path='0.png'))['img']
    assert np.array_equal(first, again)  # a seed that is given stays


def test_noise_goes_behind_the_loading_inside_a_broadcaster():
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize')]
    outer = dict(type='TransformBroadcaster', transforms=steps)
    dataset = insert_behind_loading(dict(pipeline=[outer, dict(type='Pack')]), dict(type='Noise'))
    inner = dataset['pipeline'][0]['transforms']
    assert [step['type'] for step in inner] == ['LoadImageFromFile', 'Noise', 'Resize']


def test_images_meet_noises_in_turn(folder):
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    both = PairDataset(dataset, ['brightness:5', 'contrast:5'])
    for i in range(4):
        alone = PairDataset(dataset, [('brightness:5', 'contrast:5')[i % 2]])
        images = []
        for pairs in (both, alone):
            np.random.seed(i)
            images.append(pairs[i][1]['inputs'])
        assert torch.equal(*images)


def test_noise_that_gives_an_image_up_is_refused(folder):
    """Or the data set would take another image for the degraded one alone."""
    noise = OneNoise([dict(type='PairDrop')])
    with pytest.raises(ValueError, match=r'PairDrop.* gives up the image a\.png; noise degrades'):
        noise(dict(img=np.zeros((8, 8, 3), np.uint8), img_path='a.png'))


@TRANSFORMS.register_module()
class PairDrop:
    def __call__(self, results: dict) -> None:
        return None


@pytest.mark.parametrize('wrapped', [False, True])
def test_hooks_that_change_a_pipeline_change_that_of_both_images(folder, wrapped):
    from mmcv.transforms import Compose

    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    if wrapped:
        dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    pairs = copy.deepcopy(PairDataset(dataset, ['brightness:5']))
    if wrapped:  # what samplers ask of it
        assert pairs.cumulative_sizes == [16, 32] and len(pairs.datasets) == 2
    assert not hasattr(pairs, 'CLASSES')
    crop = dict(type='mmcv.CenterCrop', crop_size=20)
    pairs.pipeline = Compose([PIPELINE[0], crop, PIPELINE[1]])  # as PipelineSwitchHook does
    clean, degraded = (item['inputs'] for item in pairs[0])
    assert clean.shape == degraded.shape == (3, 20, 20)
    assert degraded.mean() > clean.mean() + 0.5
    assert pairs.pipeline is (pairs.clean.datasets[1] if wrapped else pairs.clean).pipeline
    with pytest.raises(ValueError, match='loads no image'):
        pairs.pipeline = Compose([PIPELINE[1]])
    skipped = []
    for side in (pairs.clean, pairs.degraded):
        side.update_skip_type_keys = skipped.append
    pairs.update_skip_type_keys(('Mosaic',))  # as YOLOXModeSwitchHook does
    assert skipped == [('Mosaic',)] * 2


def test_pairs_that_do_not_match_are_refused(folder, tmp_path):
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    other = tmp_path / 'degraded'
    other.mkdir()
    with pytest.raises(ValueError, match='either noise or a folder'):
        PairDataset(dataset)
    with pytest.raises(FileNotFoundError, match='there is no folder none'):
        PairDataset(dataset, degraded='none')
    with pytest.raises(FileNotFoundError, match=r'0\.png has no partner'):
        PairDataset(dataset, degraded=str(other))[0]
    cv2.imwrite(str(other / '0.jpg'), np.zeros((36, 40, 3), np.uint8))
    with pytest.raises(ValueError, match='must show the same pixels'):
        PairDataset(dataset, degraded=str(other))[0]
    cv2.imwrite(str(other / '0.jpg'), np.zeros((36, 36, 3), np.uint8))
    assert PairDataset(dataset, degraded=str(other))[0][1]['inputs'].std() == 0
    with pytest.raises(ValueError, match=r'no pipeline .* LoadImage'):
        PairDataset(dict(dataset, pipeline=[dict(type='ToyPack')]), [NOISE])


@pytest.mark.parametrize('degraded', [False, True])
def test_a_stock_checkpoint_in_a_robust_one_out(folder, tmp_path, degraded):
    config = config_of(tmp_path, folder)
    stock = stock_checkpoint(config, tmp_path)
    options = dict(noise=[NOISE])
    if degraded:
        other = degrade_all(folder, tmp_path / 'degraded')
        options = dict(images=str(folder), degraded=str(other))
    out = tmp_path / 'robust.pth'
    report = calibrate_measured_checkpoint(config, stock, str(out), fuse=True, **options)
    measured = report.measured
    assert measured.chosen.error.total(0.5) < measured.stock.total(0.5)
    before, after = (torch.load(p, weights_only=True)['state_dict'] for p in (stock, out))
    model = MODELS.build(config.model)
    model.load_state_dict(after, strict=True)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f'backbone.{name}.weight' for name in ('stem', 'conv1', 'conv2')}
    assert 'mmdenoiserep' not in Path(report.written.config).read_text()


@pytest.mark.parametrize('degraded', [False, True])
def test_what_is_not_fused_trains_further(folder, tmp_path, degraded):
    config = config_of(tmp_path, folder)
    stock = stock_checkpoint(config, tmp_path)
    out = tmp_path / 'robust.pth'
    options, noise = dict(noise=[NOISE]), NOISE
    if degraded:  # the training set is of other images, and has labels
        other = degrade_all(folder, tmp_path / 'degraded')
        options = dict(images=str(folder), degraded=str(other))
        noise = dict(type='mmdenoiserep.LoadDegraded', folder=str(other))
        config.train_dataloader.dataset = dict(type='ToyData')
        config.train_dataloader.batch_size = 3  # the test loader's is another
        config.custom_hooks = [dict(type='YOLOXModeSwitchHook')]  # of that set's pipeline
    report = calibrate_measured_checkpoint(  # as tools/calibrate.py does
        to_measured_config(config), stock, str(out), keep_clean=0.25, num_images=16, **options
    )
    config = Config.fromfile(report.written.config)
    assert config.train_dataloader.batch_size == (3 if degraded else 4)
    assert config.optim_wrapper.optimizer.type == 'AdamW'
    assert config.custom_hooks[0].mode == 'label-free'  # as it was solved
    assert config.param_scheduler[0].type == 'LinearLR'
    # Trained for less, as on the command line: the schedule follows, which ends there.
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_runner_arguments(parser)
    arguments = parser.parse_args(
        [str(report.written.config), '--cfg-options', 'train_cfg.max_epochs=1']
    )
    schedule = config_from_arguments(arguments).param_scheduler
    assert config.param_scheduler[1].T_max > 1 and schedule[1].T_max == 1
    assert config.get('work_dir') is None  # or what the stock training left would be replaced
    config.work_dir = str(tmp_path / 'further')
    config.train_cfg = dict(by_epoch=True, max_epochs=1)
    runner = Runner.from_cfg(config)
    runner.train()
    hook = next(h for h in runner.hooks if hasattr(h, 'keep_clean'))
    assert (hook.noise, hook.keep_clean) == ([noise], 0.25)
    assert hook._measured.best[0] < report.measured.stock.total(0.25)


@pytest.mark.parametrize('mode', ['label-free', 'label-aug'])
@pytest.mark.parametrize('init', ['zero', 'calibrated'])
def test_training_matches_the_output(folder, tmp_path, mode, init):
    config = config_of(tmp_path, folder)
    stock = stock_checkpoint(config, tmp_path)
    config = to_measured_config(config)
    config.custom_hooks[0].update(
        mode=mode, noise=[NOISE], init=init, calibration_images=16, log_interval=2
    )
    config.load_from = stock
    config.train_cfg = dict(by_epoch=True, max_epochs=3)
    if init == 'calibrated':  # there is little to gain from there
        config.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.0)
    runner = Runner.from_cfg(config)
    hook = next(h for h in runner.hooks if hasattr(h, 'keep_clean'))
    runner.train()
    errors, clean = (
        runner.message_hub.get_scalar(f'train/output_error_{side}').data[0]
        for side in ('degraded', 'clean')
    )
    totals = (errors + clean) / 2
    if (init, mode) == ('calibrated', 'label-aug'):  # trains for the task as well
        assert len(set(totals)) > 1
    else:
        assert min(totals) < (0.9 if init == 'zero' else 1) * totals[0]
    model = runner.model
    best = torch.load(tmp_path / 'best.pth', weights_only=False)['state_dict']
    before = torch.load(stock)['state_dict']
    # What is fused is the best, not what training ended with.
    fused = torch.load(tmp_path / 'fused.pth')['state_dict']
    modules = dict(model.named_modules())
    assert fused.keys() == before.keys()
    for name, weight in fused.items():
        owner = name.rsplit('.', 1)[0]
        if name.endswith('.weight') and owner in denoisers(model):
            assert torch.allclose(weight, modules[owner].weight, atol=1e-6), name
            assert not torch.equal(weight, before[name]), name
        else:
            assert torch.equal(weight, before[name]) or mode == 'label-aug', name
    for name, denoiser in denoisers(model).items():
        assert torch.equal(best[f'{name}.parametrizations.weight.0.weight'], denoiser.weight)
        original = best[f'{name}.parametrizations.weight.original']
        assert torch.equal(original, before[f'{name}.weight'])
    assert torch.equal(best['head.weight'], before['head.weight'])
    assert hook._measured.best[0] <= min(totals) + 1e-6
    assert runner.model.data_preprocessor.noise == 0  # or pairs would be parted


def test_nothing_is_written_where_nothing_is_better(folder, tmp_path):
    """Than the stock network: with images that are not degraded at all."""
    config = config_of(tmp_path, folder)
    stock = stock_checkpoint(config, tmp_path)
    shutil.copytree(folder, tmp_path / 'same')
    out = tmp_path / 'out' / 'robust.pth'
    out.parent.mkdir()
    with pytest.raises(NothingBetter):
        calibrate_measured_checkpoint(
            config, stock, str(out), degraded=str(tmp_path / 'same'), images=str(folder), fuse=True
        )
    assert not list(out.parent.iterdir())


def test_mixed_images_stay_pairs():
    clean = torch.arange(6.0)[:, None, None, None].expand(6, 3, 20, 30)
    noise = 100 * (clean + 1)  # each image's own
    mixed, degraded = cut_mix(clean, clean + noise, seed=0)
    assert torch.equal(degraded - mixed, 100 * (mixed + 1))
    shares = []
    for i, image in enumerate(mixed):
        from_neighbour = image == (i - 1) % 6
        assert (from_neighbour | (image == i)).all()
        # A box, the same in all channels.
        rows, columns = (from_neighbour[0].any(dim) for dim in (1, 0))
        assert torch.equal(from_neighbour, (rows[:, None] & columns).expand(3, 20, 30))
        shares.append(from_neighbour.float().mean())
    assert max(shares) - min(shares) > 0.3
    assert torch.equal(cut_mix(clean, clean, 0)[1], mixed)
    assert not torch.equal(cut_mix(clean, clean, 1)[0], mixed)
    assert torch.equal(cut_mix(clean[:1], clean[:1], 0)[0], clean[:1])


@pytest.mark.parametrize(
    'mode, mix, mixes',
    [('label-free', True, True), ('label-free', False, False), ('label-aug', True, False)],
)
def test_images_are_mixed_where_labels_have_no_part(
    folder, tmp_path, monkeypatch, mode, mix, mixes
):
    seeds = []

    def remember(clean, degraded, seed):
        seeds.append(seed)
        return cut_mix(clean, degraded, seed)

    monkeypatch.setattr(measured_training, 'cut_mix', remember)
    runner = training(tmp_path, folder, 1, hook=dict(mode=mode, cut_mix=mix))
    runner.train()
    assert len(set(seeds)) == len(seeds) == (runner.iter if mixes else 0)


def training(tmp_path, folder, epochs: int, **changes) -> Runner:
    config = config_of(tmp_path, folder)
    stock = stock_checkpoint(config, tmp_path)
    config = to_measured_config(config)
    config.custom_hooks[0].update(
        mode='label-free', noise=[NOISE], init='calibrated', calibration_images=16, fuse=False
    )
    config.custom_hooks[0].update(changes.pop('hook', {}))
    config.custom_hooks += changes.pop('hooks', [])
    config.load_from = stock
    config.train_cfg = dict(by_epoch=True, max_epochs=epochs)
    config.update(changes)
    return Runner.from_cfg(config)


def test_training_starts_from_a_closed_form_that_is_worse_than_stock(folder, tmp_path, monkeypatch):
    """And has to beat the stock weights, not that."""

    def refused(model, *args, **kwargs):
        solution = {n: torch.eye(d.weight.shape[1])[None] for n, d in denoisers(model).items()}
        raise NothingBetter('nothing is better than stock', dict([solution.popitem()]))

    monkeypatch.setattr('mmdenoiserep.hooks.measured_training.calibrate_measured', refused)
    runner = training(tmp_path, folder, 1)
    start = {}

    class Watch(Hook):
        priority = 'VERY_LOW'

        def before_train(self, runner):
            found = denoisers(runner.model).items()
            start.update({n: d.weight.clone() for n, d in found if d.weight.any()})

    runner.register_hook(Watch())
    runner.train()
    (weight,) = start.values()
    assert torch.equal(weight[0], torch.eye(weight.shape[1]))
    assert not any(denoiser.weight.any() for denoiser in denoisers(runner.model).values())
    (log,) = tmp_path.rglob('*.log')
    assert 'nothing was better than the stock network' in log.read_text()


def test_augmentation_that_is_switched_on_later_is_switched_off_again(folder, tmp_path):
    """MMPretrain's SwitchRecipeHook: what mixes images of a batch would part pairs."""
    runner = training(tmp_path, folder, 1)
    preprocessor = runner.model.data_preprocessor

    class Switch(Hook):
        priority = 'NORMAL'

        def before_train_epoch(self, runner):
            preprocessor.batch_augments = SimpleNamespace(augments=['Mixup'])
            preprocessor.noise = 1.0

    runner.register_hook(Switch())
    runner.train()
    assert preprocessor.batch_augments is None and preprocessor.noise == 0


def test_what_was_judged_is_saved_beside_an_average(folder, tmp_path):
    """EMAHook gives a checkpoint the average, which no one has judged."""
    runner = training(tmp_path, folder, 2, hooks=[dict(type='EMAHook', momentum=0.5)])
    runner.train()
    hook = next(h for h in runner.hooks if hasattr(h, 'keep_clean'))
    best = torch.load(tmp_path / 'best.pth', weights_only=True)['state_dict']
    assert any(weight.any() for weight in hook._measured.best[1].values())
    for name, weight in hook._measured.best[1].items():
        assert torch.equal(best[f'{name}.parametrizations.weight.0.weight'], weight)


@pytest.mark.parametrize('least, chosen', [(0.7, 0.7), (0.995, 1.0), (0.3, 0.5)])
def test_what_was_trained_is_taken_at_its_best_strength(
    folder, tmp_path, monkeypatch, least, chosen
):
    runner = training(tmp_path, folder, 1)
    hook = next(h for h in runner.hooks if hasattr(h, 'keep_clean'))
    restore_best, trained = MeasuredTraining.restore_best, []

    def restore(self, runner):
        trained.append(self.best[1])
        names = list(self.best[1])

        def measure(model):
            name = max(names, key=lambda n: self.best[1][n].abs().max())
            weight = denoisers(model)[name].weight.detach().abs().max()
            strength = float(weight / trained[0][name].abs().max())
            return OutputError(0.1 + (strength - least) ** 2, 0.0, 0.0)

        self._measure = measure
        return restore_best(self, runner)

    monkeypatch.setattr(MeasuredTraining, 'restore_best', restore)
    runner.train()
    best = torch.load(tmp_path / 'best.pth', weights_only=True)['state_dict']
    for name, denoiser in denoisers(runner.model).items():
        assert torch.allclose(denoiser.weight, chosen * trained[0][name])
        assert torch.equal(best[f'{name}.parametrizations.weight.0.weight'], denoiser.weight)
    assert hook._measured.best[0] == pytest.approx(0.05 + (chosen - least) ** 2 / 2)


def test_a_run_that_is_taken_up_again_goes_on_from_full_strength(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_training, 'STRENGTHS', (0.5,))
    training(tmp_path, folder, 1).train()
    path = tmp_path / 'best.pth'
    best = torch.load(path, weights_only=True)
    assert best['meta']['strength'] == 0.5
    again = training(tmp_path, folder, 1, resume=True, load_from=None, experiment_name='again')
    again.train()
    after = torch.load(path, weights_only=True)['state_dict']
    assert any(d.weight.any() for d in denoisers(again.model).values())
    for key, value in best['state_dict'].items():
        assert torch.equal(after[key], value), key


def test_denoisers_that_were_there_have_to_beat_the_stock_network(folder, tmp_path):
    still = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    hook = dict(fuse=True)
    runner = training(tmp_path, folder, 1, load_from=None, optim_wrapper=still, hook=hook)
    for denoiser in denoisers(runner.model).values():
        torch.nn.init.ones_(denoiser.weight)  # of another noise, say
    runner.train()
    # Nor is what they became what is fused.
    fused = torch.load(tmp_path / 'fused.pth')['state_dict']
    for name, module in runner.model.named_modules():
        if hasattr(module, 'parametrizations'):
            assert torch.equal(fused[f'{name}.weight'], module.parametrizations.weight.original)
    assert not any(denoiser.weight.any() for denoiser in denoisers(runner.model).values())
    (log,) = tmp_path.rglob('*.log')
    assert 'nothing was better than the stock network' in log.read_text()


def test_images_without_labels_are_not_augmented_with_them():
    """MMDetection's BatchSyncRandomResize and BatchFixedSizePad change boxes and masks as well."""
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(batch_augments=['resize']))
    labelled = SimpleNamespace(gt_instances=InstanceData(bboxes=torch.zeros(0, 4)))
    for samples in ([labelled], [SimpleNamespace(gt_label=1)]):
        measured_training.without_labels(model, dict(data_samples=samples))
        assert model.data_preprocessor.batch_augments == ['resize']
    samples = [SimpleNamespace(gt_instances=InstanceData())]
    measured_training.without_labels(model, dict(data_samples=samples))
    assert model.data_preprocessor.batch_augments is None


def test_the_best_so_far_outlives_a_run(folder, tmp_path):
    training(tmp_path, folder, 1).train()
    path = tmp_path / 'best.pth'
    best = torch.load(path, weights_only=True)
    # Had the run gone astray, and been killed behind its last checkpoint:
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    for key, value in state['state_dict'].items():
        if key.endswith('weight.0.weight'):
            value.fill_(10)
    torch.save(state, tmp_path / 'epoch_1.pth')
    training(tmp_path, folder, 2, resume=True, load_from=None, experiment_name='resumed').train()
    again = torch.load(path, weights_only=True)['state_dict']
    for key, value in best['state_dict'].items():
        assert torch.equal(again[key], value)


def test_a_missing_partner_is_seen_before_any_work(folder, tmp_path, monkeypatch):
    other = tmp_path / 'degraded'
    shutil.copytree(folder, other)
    (other / '7.png').unlink()

    def work(*args, **kwargs):
        raise AssertionError('images are loaded already')

    monkeypatch.setattr('mmdenoiserep.apis.pairs._pair', work)
    runner = training(tmp_path, folder, 1)
    hook = next(h for h in runner.hooks if hasattr(h, 'keep_clean'))
    hook.noise = [dict(type='mmdenoiserep.LoadDegraded', folder=str(other))]
    with pytest.raises(FileNotFoundError, match=r'7\.png has no partner.*leave the image out'):
        runner.train()


def test_held_back_images_are_judged_by_and_not_trained_on(folder, tmp_path, monkeypatch):
    seen, loaded = set(), []
    get, load = PairDataset.__getitem__, Pairs._load

    def remember(dataset, index):
        seen.add(dataset.path(index))
        return get(dataset, index)

    def count(pairs, batches, model):
        loaded.append(load(pairs, batches, model))
        seen.clear()
        return loaded[-1]

    monkeypatch.setattr(PairDataset, '__getitem__', remember)
    monkeypatch.setattr(Pairs, '_load', count)
    runner = training(tmp_path, folder, 2)
    held_back = Pairs(runner.cfg, [NOISE], 16, seed=runner.seed).held_back_images()
    runner.train()
    assert len(held_back) == 4 and not seen & set(held_back)
    assert len(seen) == 12 and len(runner.train_loop.dataloader.dataset) == 16
    assert [sum(len(pair.clean) for pair in pairs) for pairs in loaded] == [4, 12]
    # Where nothing is solved, the others are not loaded.
    loaded.clear()
    training(tmp_path, folder, 3, resume=True, load_from=None, experiment_name='resumed').train()
    assert [sum(len(pair.clean) for pair in pairs) for pairs in loaded] == [4]


def test_images_that_are_left_out_are_others(folder):
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(folder), pipeline=PIPELINE)
    names = sorted(str(path) for path in folder.iterdir())
    pairs = PairDataset(dataset, [NOISE], leave_out=names[3:5])
    paths = [pairs.path(i) for i in range(len(pairs))]
    assert len(paths) == 16 and set(paths) == {*names[:3], *names[5:]}
    pairs.clean.get_cat_ids = lambda index: [index]  # MMDetection's data sets have it
    assert all(
        pairs.path(i) == pairs.clean.get_data_info(*pairs.get_cat_ids(i))['img_path']
        for i in range(16)
    )
    with pytest.raises(ValueError, match='all images are held back'):
        PairDataset(dataset, [NOISE], leave_out=names)


def test_two_images_of_one_name_are_no_pairs(folder, tmp_path):
    clean = tmp_path / 'clean'
    for part in ('a', 'b'):
        shutil.copytree(folder, clean / part)
    dataset = dict(type='mmdenoiserep.ImageFolder', folder=str(clean), pipeline=PIPELINE)
    with pytest.raises(ValueError, match=r'a.0\.png and .*b.0\.png have one degraded version'):
        PairDataset(dataset, degraded=str(folder)).check_partners()


@pytest.mark.parametrize('shape', [(40, 48), (40, 48, 1), (40, 48, 3)])
@pytest.mark.parametrize('kind', [np.uint8, np.float32])
def test_noise_keeps_the_kind_of_an_image(shape, kind, tmp_path):
    image = np.full(shape, 100, kind)
    noisy = Degrade('gaussian_noise', 3)(dict(img=image, img_path='a.png'))['img']
    assert noisy.shape == shape and noisy.dtype == kind and 40 < noisy.std() < 80
    cv2.imwrite(str(tmp_path / 'a.png'), noisy)
    again = LoadDegraded(str(tmp_path))(dict(img=image, img_path='clean/a.png'))['img']
    assert again.shape == shape and again.dtype == kind and np.array_equal(again, noisy)


def test_images_of_16_bits_keep_them(tmp_path):
    image = np.arange(0, 64000, 1000, np.uint16).reshape(8, 8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    load = LoadDegraded(str(tmp_path))
    again = load(dict(img=np.zeros_like(image), img_path='clean/a.png'))['img']
    assert again.dtype == np.uint16 and np.array_equal(again, image)
    loaded = dict(img=np.zeros((8, 8), np.float32), img_path='clean/a.png')  # by to_float32
    assert np.array_equal(load(loaded)['img'], image.astype(np.float32))
    cv2.imwrite(str(tmp_path / 'a.png'), image.astype(np.uint8))
    with pytest.raises(ValueError, match=r'is loaded as uint16 .* as uint8 .* must be alike'):
        load(dict(img=image, img_path='clean/a.png'))


def test_an_image_too_small_to_degrade_is_named():
    with pytest.raises(ValueError, match=r'icon.png is 40x31, and .* at least 32x32: leave it out'):
        Degrade('fog', 3)(dict(img=np.zeros((31, 40, 3), np.uint8), img_path='icon.png'))


@pytest.mark.parametrize('suffix', ['.PNG', '.tiff', '.jpeg'])
def test_a_partner_may_have_any_suffix_of_an_image(suffix, tmp_path):
    (tmp_path / f'a{suffix}').touch()
    assert LoadDegraded(str(tmp_path)).partner('clean/a.jpg') == str(tmp_path / f'a{suffix}')
    with pytest.raises(FileNotFoundError, match=r'clean/b.jpg has no partner'):
        LoadDegraded(str(tmp_path)).partner('clean/b.jpg')


def test_the_error_of_a_single_vector_is_relative_to_it():
    feature = torch.randn(8, 16)
    output = [feature + 0.1 * torch.randn(8, 16)]
    for some in (slice(0, 1), slice(0, 8)):
        assert 0 < relative_error([output[0][some]], [feature[some]]) < 0.1


@pytest.mark.parametrize('seeds', [[5, 5], [5, 6]])
def test_all_processes_draw_the_images_of_the_first(seeds, monkeypatch):
    runner = argparse.Namespace(seed=seeds[1])

    def broadcast(box: list) -> None:
        box[0] = seeds[0]

    monkeypatch.setattr(measured_training, 'broadcast_object_list', broadcast)
    assert measured_training.shared_seed(runner) == 5


def test_what_cannot_train_can_be_tested(folder, tmp_path):
    config = to_measured_config(config_of(tmp_path, folder))  # of a hook that names no noise
    config.test_dataloader.dataset.pipeline.insert(1, noise_transform(NOISE))
    assert 'positive' in Runner.from_cfg(config).test()


def test_an_output_that_is_shrunk_is_no_better():
    """Relative to the stock output alone, half of noise would be nearer than noise."""
    torch.manual_seed(0)
    stock, noise = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    errors = [relative_error([scale * noise], [stock]).item() for scale in (1, 0.5)]
    assert errors[1] > errors[0]


def test_noise_and_denoisers_have_to_fit(folder, tmp_path):
    config = config_of(tmp_path, folder)
    measured = to_measured_config(config)
    with pytest.raises(ValueError, match=r'say which, DenoiseRepHook\(noise='):
        Runner.from_cfg(measured).train()
    measured.model.backbone.pop('noise')
    measured.model.backbone.pop('reach')
    measured.custom_hooks[0].noise = NOISE
    measured.experiment_name = 'other'
    with pytest.raises(ValueError, match="give the backbone noise='measured'"):
        Runner.from_cfg(measured).train()
