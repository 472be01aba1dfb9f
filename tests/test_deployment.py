"""The study of deployed models: what it refuses, and the tool on a data set of seconds."""

import copy
import io
import itertools
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from rich.console import Console

from tools import tool

pytest.importorskip('imagecorruptions')
pytest.importorskip('mmpretrain')
from experiments.deployment import depth, results
from experiments.deployment.arms import read_arm
from experiments.deployment.batch_norm import batches_of_one_size
from experiments.deployment.jobs import Job
from experiments.deployment.makers import make
from experiments.deployment.plan import read_study
from experiments.deployment.restore import METHODS, Restore
from experiments.deployment.run import run_deployment
from experiments.robustness.noises import CLEAN, Noise
from experiments.study.plan import read_baseline
from mmdenoiserep.apis.measured_config import OPTIMIZER
from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.model import build_model, spread
from mmdenoiserep.transforms.degrade import name_of

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / 'configs' / 'study' / 'deployment'
VIEW = ('test', CLEAN)
LR = 'optim_wrapper.optimizer.lr'
# Features by depth are of the first one: three steps of training have something to show there.
NOISES = ['contrast:2', 'gaussian_noise:3']
ARMS = {
    'stock': dict(kind='stock'),
    'tv': dict(kind='restore', transform=dict(type='mmengine.Restore', method='tv', strength=0.1)),
    'batch norm': dict(kind='batch-norm', options=dict(num_images=16)),
    'paper': dict(kind='closed-form', options=dict(num_images=8)),
    'label-free': dict(kind='label-free'),
    'closed form': dict(
        kind='measured',
        options=dict(num_images=12),
        config={'model.backbone.reach': 'channel'},
        grid=dict(keep_clean=[0.1, 0.5]),
    ),
    'mixture': dict(kind='measured', options=dict(num_images=12), noises=NOISES),
    'matched': dict(
        kind='matched',
        options=dict(init='zero', calibration_images=12, keep_clean=0.0),
        config={LR: 1e-5},
    ),
    'continued': dict(kind='continued', grid={LR: [1e-4, 1e-3]}),
}
OF_TRAINING = dict(data_prefix='train', ann_file='train.txt')
#: Made for the first noise alone.
FIRST = ('tv', 'batch norm')
STUDY = dict(
    model='model.py',
    checkpoint='stock.pth',
    noises=NOISES,
    each_noise=[name for name in ARMS if name not in FIRST],
    replicates=20,
    arms={**ARMS, 'left out': None},
    dials={'κ': dict(kind='measured', grid=dict(keep_clean=[0.2, 0.8]))},
    transfer=dict(arms=['mixture'], noises=['fog:1']),
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A study of a small ResNet on two kinds of pictures."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in dict(train=16, val=6, test=8).items():
        (tmp_path / split).mkdir()
        for i in range(count):
            image = generator.integers(0, 90, (32, 32, 3)).astype(np.uint8)
            image[8:24, 8:24, i % 2] += 150
            cv2.imwrite(str(tmp_path / split / f'{i}.png'), image)
        lines = [f'{i}.png {i % 2}\n' for i in range(count)]
        (tmp_path / f'{split}.txt').write_text(''.join(lines))
    (tmp_path / 'model.py').write_text(
        f"""
_base_ = [{str(STUDIES / 'models' / '_base_imagenet.py')!r}]
classes = ['0', '1']
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
{
            ''.join(
                f'''
{part}_dataloader = dict(batch_size=4, dataset=dict(_delete_=True, type='CustomDataset',
    data_root='', data_prefix='{part}', ann_file='{part}.txt', metainfo=dict(classes=classes),
    serialize_data=False, pipeline=pipeline))'''
                for part in ('train', 'val', 'test')
            )
        }
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=32))
data_preprocessor = dict(num_classes=2, mean=[64.0] * 3, std=[64.0] * 3)
train_cfg = dict(max_iters=3)
default_hooks = dict(checkpoint=dict(interval=3))
"""
    )
    torch.manual_seed(0)
    model = build_model(Config.fromfile('model.py'))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'stock.pth')
    (tmp_path / 'again').symlink_to(tmp_path / 'test')
    return tmp_path


def write_study(folder: Path, **changes) -> str:
    text = '\n'.join(f'{key} = {value!r}' for key, value in {**STUDY, **changes}.items())
    (folder / 'study.py').write_text(text)
    return 'study.py'


@pytest.mark.slow
def test_every_arm_is_made_compared_and_kept(folder):
    done = tool('study', write_study(folder), '--work-dir', 'out', '--workers', '2', cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads(Path('out/scores.json').read_text())
    # All arms can be compared under the first noise, and those that are made for each under both.
    both, first = (group['arms'] for group in scores['test'])
    assert [group['noises'] for group in scores['test']] == [NOISES, NOISES[:1]]
    assert set(both) == set(ARMS) - set(FIRST) and set(first) == set(ARMS)
    assert both['stock']['recovered'] is None and both['stock']['clean_change']['mean'] == 0
    # What has a checkpoint for each noise is measured under its own.
    for name, arm in first.items():
        assert set(arm['noises']) == set(NOISES[:1]), name
        if name in both:
            assert set(both[name]['noises']) == set(NOISES), name
            assert both[name]['noises'][NOISES[0]][0] == arm['noisy']['mean'], name
        made = list(Path('out', name.replace(' ', '_')).rglob('robust.pth'))
        settings = len(ARMS[name].get('grid', {'': [0]}).popitem()[1])
        one = name in ('stock', *FIRST, 'paper', 'label-free', 'mixture')
        assert len(made) == settings * (1 if one else 2), name
    assert scores['latency']['tv'] > 1 and set(scores['latency']) == {'tv'}
    assert set(scores['validation']) == {'closed form', 'continued', 'κ'}
    assert set(scores['transfer']) == {'stock', 'mixture'}
    # The first layer's input is the noisy image, whatever the network behind it.
    depth = scores['depth']
    assert set(depth) == set(ARMS) - {'tv', 'paper', 'label-free'}
    assert len({errors[0] for errors in depth.values()}) == 1 and depth['stock'][0] > 0
    assert depth['matched'][-1] != depth['stock'][-1]
    assert set(scores['chosen']) == set(ARMS)
    for name in ('continued', 'closed form'):  # what is best on clean and noisy validation images
        found = {setting: np.mean(pair) for setting, pair in scores['validation'][name].items()}
        assert found[scores['chosen'][name]] == max(found.values())
    # The weights are what the arm says: all of them, statistics alone, or those that fuse.
    before = torch.load('stock.pth')['state_dict']
    changed = {
        name: {
            k for k, v in torch.load(path)['state_dict'].items() if not torch.equal(v, before[k])
        }
        for name, path in dict(
            tv='out/tv/any/robust.pth',
            bn='out/batch_norm/contrast-2/robust.pth',
            free='out/label-free/any/robust.pth',
            matched='out/matched/contrast-2/robust.pth',
        ).items()
    }
    assert not changed['tv']
    assert all('running_' in k or 'num_batches' in k for k in changed['bn']) and changed['bn']
    assert changed['free'] and all(k.endswith('.weight') for k in changed['free'])
    assert changed['matched'] and all(k.startswith('backbone.') for k in changed['matched'])
    report = Path('out/report.md').read_text()
    assert f'## {NOISES[0]}\n' in report and '| continued |' in report and 'fog:1' in report
    assert Path('out/minutes.png').is_file() and Path('out/dial_κ.png').is_file()
    # Again: nothing is made; another setting of one arm, and only that is.
    times = {p: p.stat().st_mtime_ns for p in Path('out').rglob('robust.pth')}
    again = {**ARMS, 'batch norm': dict(kind='batch-norm', options=dict(num_images=8))}
    done = tool('study', write_study(folder, arms=again), '--work-dir', 'out', cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    renewed = {p.parts[1] for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert renewed == {'batch_norm'}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(armz={}), "unknown 'armz'"),
        (dict(noises=[]), "'noises' is missing"),
        (dict(checkpoint='other.pth'), 'other.pth does not match the config: other.pth lacks'),
        (dict(noises=['fog:7']), 'severity of fog must be 1 to 5'),
        (dict(noises=['{"type": "Blur"}']), 'by name:severity, not {"type": "Blur"}'),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', noises=['snow:1'])}),
            "arm 'a' is made for snow:1, under which stock is not measured",
        ),
        (dict(arms={'a': dict(kind='measured')}), "compared with an arm 'stock'"),
        (dict(arms={'stock': dict(kind='stock', noise=1)}), "arm 'stock': unknown 'noise'"),
        (dict(dials={'tv': STUDY['dials']['κ']}), "an arm and a dial, have one name, 'tv'"),
        (dict(dials={'k': dict(kind='measured')}), "dial 'k' needs a grid of two settings"),
        (dict(transfer=dict(arms=['x'], noises=[])), "transfer names an arm 'x'"),
        (dict(each_noise=['κ']), "each_noise names an arm 'κ', and there is none"),
        (dict(each_noise=['left out']), "names an arm 'left out', and it is None"),
        (dict(each_noise='paper'), "each_noise must be a list of names, got 'paper'"),
        (dict(transfer=dict(arms=['paper'])), r"transfer is arms and noises, got \['arms'\]"),
        (dict(transfer=dict(arms=[], noises='fog:1')), 'transfer.noises must be a list of names'),
        (dict(noises=['fog:1', 'fog:1']), 'fog:1 is twice in `noises`'),
        (dict(keep_clean=80), 'keep_clean must be 0 to 1, got 80'),
        (dict(replicates=0), 'replicates must be an integer from 1, got 0'),
        (dict(seed='x'), "seed must be an integer from 0, got 'x'"),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', grid=dict(keep_clean=[0.5, 80]))}),
            r"arm 'a': keep_clean must be in \[0, 1\], got 80",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', options=dict(keep_clean=1))}),
            "arm 'a': keep_clean must be at least 0 and less than 1, got 1",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', options=dict(method='pears'))}),
            "arm 'a': method must be one of .*, got 'pears'",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', options=dict(num_images=0))}),
            "arm 'a': num_images must be at least 1, got 0",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='matched', options=dict(init='zeros'))}),
            "arm 'a': init must be one of",
        ),
        (dict(checkpoint='more.pth'), "more.pth is not of the config: it has 'more'"),
        (dict(extra={'test_dataloader.dataset.data_prefix': 'x'}), 'test split: the image x'),
        (dict(extra={'val_dataloader.dataset.ann_file': 'x'}), 'val split: the images cannot'),
        (dict(extra={'train_dataloader.dataset.ann_file': 'x'}), 'train split: .* in model.py, by'),
        (
            dict(extra={f'test_dataloader.dataset.{k}': v for k, v in OF_TRAINING.items()}),
            '16 of 16 test images are in the train split, too',
        ),
        (
            dict(extra={'val_dataloader.dataset.data_prefix': 'again'}),
            '6 of 8 test images are in the val split',
        ),
        (
            dict(arms={**ARMS, 'label_free': ARMS['paper'], 'label free': ARMS['paper']}),
            "have one name, 'label_free'",
        ),
        (
            dict(arms={**ARMS, 'tv': dict(ARMS['tv'], grid=dict(strength=[1, 2]))}),
            "arm 'tv' of kind 'restore' has no option 'strength'; it has none",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='batch-norm', options=dict(num_image=1))}),
            "'batch-norm' has no option 'num_image'; it has num_images",
        ),
        (
            dict(arms={**ARMS, 'a': dict(kind='measured', grid=dict(targets=[['a.*'], ['a.?']]))}),
            "two settings of 'a' have one name",
        ),
        (dict(arms={**ARMS, 'stock': dict(kind='stock', noises=['fog:1'])}), 'for no noise'),
        (
            dict(dials={'κ': dict(STUDY['dials']['κ'], noises=NOISES[:1])}),
            "dial 'κ' is drawn under the first of `noises`",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes, message, folder):
    torch.save(dict(state_dict=torch.nn.Linear(2, 2).state_dict(), meta={}), 'other.pth')
    stock = torch.load('stock.pth')['state_dict']
    torch.save(dict(state_dict={**stock, 'more': torch.zeros(1)}, meta={}), 'more.pth')
    with pytest.raises(ValueError, match=message):
        read_study(load_config(write_study(folder, **changes)), 'out')


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        (dict(kind='magic'), 'kind must be one of'),
        (dict(kind='restore'), "a transform goes with kind 'restore'"),
        (dict(kind='measured', transform=dict(type='x')), "a transform goes with kind 'restore'"),
        (
            dict(kind='restore', transform=dict(type='mmengine.Restore', method='nlmeans')),
            "arm 'a': transform: .*no method 'nlmeans'",
        ),
        (dict(kind='measured', grid=dict(a=3)), 'must be a list of values'),
        (dict(kind='measured', noises=['rain']), "no corruption 'rain'"),
        (
            dict(kind='measured', noises='benchmark'),
            "noises must be a list of names, got 'benchmark'",
        ),
    ],
)
def test_an_arm_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        read_arm('a', spec)


def test_missing_checkpoints_and_strange_arms_are_said_in_a_line(folder):
    done = tool('study', write_study(folder, checkpoint='none.pth'), cwd=folder)
    assert done.returncode and done.stderr.strip().count('\n') == 0
    assert 'there is no checkpoint none.pth' in done.stderr
    with pytest.raises(ValueError, match="has no arm 'y'; it has stock"):
        read_study(load_config(write_study(folder)), 'out', only=['y'])
    study = read_study(load_config(write_study(folder)), 'out', only=['paper'])
    assert set(study.arms) == {'stock', 'paper'} and not study.dials and study.noises == NOISES


def test_denoisers_train_by_the_optimizer_of_the_tool(folder):
    """A stock one is meant for a whole network; what an arm names goes before it."""
    sgd = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.02, momentum=0.9)}
    arms = dict(ARMS, matched=dict(kind='matched'), own=dict(kind='matched', config={LR: 3e-4}))
    study = read_study(load_config(write_study(folder, arms=arms, extra=sgd)), 'out')
    found = {}
    for name in ('matched', 'own', 'continued'):
        job = study.job(study.arms[name], {}, NOISES[:1], [])
        found[name] = dict(Config.fromfile(job.config).optim_wrapper.optimizer)
    assert found['continued'] == dict(type='SGD', lr=0.02, momentum=0.9)
    assert found['matched'] == OPTIMIZER and found['own'] == dict(OPTIMIZER, lr=3e-4)


def test_noises_that_no_arm_needs_are_not_measured(folder):
    config = load_config(write_study(folder, each_noise=['closed form']))
    assert read_study(config, 'out', only=['batch norm', 'κ']).noises == NOISES[:1]
    assert read_study(config, 'out', only=['mixture']).noises == NOISES
    one = {**ARMS, 'late': dict(kind='measured', noises=NOISES[1:])}
    config = load_config(write_study(folder, each_noise=['closed form'], arms=one))
    study = read_study(config, 'out', only=['late', 'batch norm'])
    assert study.noises == NOISES
    assert study.groups() == [(NOISES[0],), (NOISES[1],)]
    config = load_config(write_study(folder, each_noise=[], dials=None))
    assert read_study(config, 'out', only=['closed form']).noises == NOISES[:1]
    config = load_config(write_study(folder, each_noise=None))
    assert read_study(config, 'out', only=['closed form']).noises == NOISES
    assert read_study(config, 'out', only=['κ']).noises == NOISES[:1]


def test_what_is_made_anew_and_fails_is_not_taken_for_what_was_there(folder, monkeypatch):
    study = read_study(load_config(write_study(folder)), 'out', only=['stock'])
    job = study.job(study.arms['stock'], {}, (), [])
    job._create()
    assert job.record()
    monkeypatch.setattr('experiments.deployment.jobs.make', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job._replace(seed=1)._create()
    assert not job.record()


def test_what_is_made_anew_is_measured_anew(folder):
    study = read_study(load_config(write_study(folder)), 'out', only=['stock'])
    job = study.job(study.arms['stock'], {}, (), [VIEW])
    job.run()
    assert not job.missing()
    Path(job.robust()).unlink()  # to save space, say
    assert not job.record() and job.missing() == [VIEW]
    job._create()
    assert job.record() and job.missing() == [VIEW]  # of the weights that were there before


@pytest.mark.parametrize('field', ['digest', 'kind', 'noises', 'options', 'transform', 'seed'])
def test_results_are_of_all_that_was_asked_for(field, folder):
    study = read_study(load_config(write_study(folder)), 'out', only=['stock'])
    job = study.job(study.arms['stock'], {}, (), [])
    assert job._replace(folder='elsewhere').fingerprint() == job.fingerprint()
    assert job._replace(**{field: 'other'}).fingerprint() != job.fingerprint()


@pytest.mark.parametrize('what', ['__version__', 'noise_version'])
def test_results_are_of_the_releases_that_made_them(what, folder, monkeypatch):
    study = read_study(load_config(write_study(folder)), 'out', only=['stock'])
    job = study.job(study.arms['stock'], {}, (), [])
    before = job.fingerprint()
    monkeypatch.setattr(f'experiments.deployment.jobs.{what}', lambda: 'other')
    assert job.fingerprint() != before


def test_an_arms_figures_are_means_against_stock_under_the_same_noise(folder, monkeypatch):
    study = read_study(
        load_config(write_study(folder, each_noise=None)), 'out', only=['closed form', 'mixture']
    )
    arm = study.arms['closed form']
    jobs = {
        'stock': [study.job(study.arms['stock'], {}, (), [])],
        'closed form': [study.job(arm, {}, (noise,), []) for noise in NOISES],
        'mixture': [study.job(study.arms['mixture'], {}, NOISES, [])],
    }
    contrast, gaussian, fog = (Noise(*name_of(noise)) for noise in (*NOISES, 'fog:1'))
    points = {
        'stock': {CLEAN: 80, contrast: 60, gaussian: 40, fog: 70},
        'contrast-2': {CLEAN: 78, contrast: 70},
        'gaussian_noise-3': {CLEAN: 76, gaussian: 50},
        'mixture': {CLEAN: 79, contrast: 64, gaussian: 48, fog: 65},
    }

    def score(study, job, view, replicates):
        (own,) = (points[name] for name in points if name in Path(job.folder).parts)
        return np.full(1 + replicates, float(own[view[1]]))

    monkeypatch.setattr(results, 'score', score)
    monkeypatch.setattr(Job, 'record', lambda job: dict(minutes=len(job.noises), note=''))
    found = results.tested(study, jobs, NOISES)
    assert {name: arm.clean.mean for name, arm in found.items()} == {
        'stock': 80,
        'closed form': 77,
        'mixture': 79,
    }
    own = found['closed form']
    assert own.clean_change.mean == -3 and own.noisy.mean == 60 and own.minutes == 1
    assert own.recovered.mean == pytest.approx(100 * 10 / 30)  # 50 → 60 of 80
    shares = {noise: won.mean for noise, (_, won) in own.noises.items()}
    assert shares == pytest.approx({NOISES[0]: 50, NOISES[1]: 25})
    assert found['mixture'].recovered.mean == pytest.approx(100 * 6 / 30)
    assert found['stock'].recovered is None and found['stock'].noisy.mean == 50
    further = results.transferred(study, {k: jobs[k] for k in ('stock', 'mixture')}, [fog])
    assert further['stock'][str(fog)][0] == 70 and further['mixture'][str(fog)][0] == 65
    assert further['mixture'][str(fog)][1].mean == -50


def test_validation_alone_leaves_the_test_images_unread(folder, monkeypatch):
    opened = []
    monkeypatch.setattr('experiments.deployment.run.work', lambda *args: opened.extend(args[3]))
    monkeypatch.setattr('experiments.deployment.run.validated', lambda *args: (1.0, 1.0))
    config = load_config(write_study(folder))
    run_deployment(config, 'out', None, 1, False, Console(file=io.StringIO()))
    assert opened and {view[0] for job in opened for view in job.views} == {'val'}
    assert 'κ' in json.loads(Path('out/scores.json').read_text())['validation']


def test_all_noises_of_the_benchmark_by_one_word(folder):
    study = read_study(load_config(write_study(folder, noises='benchmark')), 'out', only=['paper'])
    assert len(study.noises) == 15 and {'snow:3', 'zoom_blur:3'} < set(study.noises)


@pytest.mark.parametrize('method', METHODS)
def test_denoisers_of_images_take_noise_out(method):
    clean = np.full((64, 64, 3), 120, np.uint8)
    clean[16:48, 16:48] = 200
    noisy = clean + np.random.default_rng(0).normal(0, 12, clean.shape)
    noisy = noisy.clip(0, 255).astype(np.uint8)
    strength = 0.1 if method == 'tv' else 15.0
    out = Restore(method, strength)(dict(img=noisy))['img']
    assert out.dtype == np.uint8
    errors = [np.square(image.astype(float) - clean).mean() for image in (noisy, out)]
    assert errors[1] < 0.5 * errors[0]
    with pytest.raises(ValueError, match="no method 'magic'"):
        Restore('magic')


@pytest.mark.parametrize('path', sorted(STUDIES.glob('[!_]*.py')), ids=lambda p: p.stem)
def test_the_studies_of_the_documentation_are_sound(path, tmp_path, monkeypatch):
    config = load_config(str(path))
    if config.model.split('/')[-1].startswith(('yolox', 'rtmdet', 'atss')):
        pytest.importorskip('mmdet')
    if 'fcn' in config.model:
        pytest.importorskip('mmseg')
    model = build_model(read_baseline(config.model, path.parent))
    monkeypatch.setattr('experiments.deployment.plan.check_splits', lambda *_, **__: None)
    config.checkpoint = str(tmp_path / 'stock.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), config.checkpoint)
    study = read_study(config, str(tmp_path))
    assert study.arms.keys() >= {
        'stock',
        'closed form',
        'output-matched, κ 0.8',
        'continued, labels',
    }
    # All corruptions in closed form, everything else for the first: one command in two hours.
    (every, first) = study.groups()
    assert len(every) == 15 and first == ('gaussian_noise:3',)
    arm = study.arms['closed form']._replace(config={'model.backbone.reach': 'channel'})
    job = study.job(arm, {}, ['fog:1'], [])
    assert Config.fromfile(job.config).denoisers == {'model.backbone.reach': 'channel'}
    # What is of the stock backbone stays there for an arm without denoisers.
    arm = study.arms['continued, labels']._replace(config={'model.backbone.norm_eval': True})
    job = study.job(arm, {}, ['fog:1'], [])
    assert Config.fromfile(job.config).model.backbone.norm_eval


def test_the_commands_of_the_documentation_name_arms_that_there_are():
    page = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8').replace('\\\n', ' ')
    commands = [shlex.split(line) for line in page.splitlines() if 'tools/study.py' in line[:30]]
    assert len(commands) > 8
    for command in commands:
        config = load_config(str(ROOT / command[2]))
        known = {name for key in ('arms', 'dials') for name, arm in config[key].items() if arm}
        words = command[command.index('--arms') + 1 :] if '--arms' in command else []
        named = list(itertools.takewhile(lambda word: not word.startswith('--'), words))
        assert set(named) <= known, command


def test_published_weights_go_by_their_order_and_what_does_not_fit_is_named():
    pytest.importorskip('mmpretrain')
    from experiments.deployment.convert import converted
    from experiments.deployment.osnet import OSNet

    model = OSNet().eval()
    assert sum(p.numel() for p in model.parameters()) == 201_864  # the paper's 0.2 million
    assert model(torch.zeros(2, 3, 64, 32))[0].shape == (2, 512)
    published = {f'module.p{i}': t for i, t in enumerate(model.state_dict().values())}
    published['module.classifier.weight'] = torch.zeros(4, 512)
    out = converted(published, model, drop=['classifier'])
    assert list(out) == list(model.state_dict())
    with pytest.raises(ValueError, match='the file has 566 tensors, the model 565'):
        converted(published, model)
    published['module.p0'] = torch.zeros(16, 3, 3, 3)
    with pytest.raises(ValueError, match=r'the file has p0 of shape \(16, 3, 3, 3\)'):
        converted(published, model, drop=['classifier'])


def test_batch_norms_see_batches_where_the_model_keeps_them_in_evaluation(folder, monkeypatch):
    config = Config.fromfile('model.py')
    config.randomness = dict(seed=0)
    model = build_model(config)
    norms = [name for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    weights = model.state_dict()
    for name in norms[1:]:  # the first is folded
        weights[f'{name}.running_mean'] += 1
    torch.save(dict(state_dict=weights, meta={}), 'stock.pth')
    own = type(model).train

    def train(self, mode=True):
        own(self, mode)
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return self

    monkeypatch.setattr(type(model), 'train', train)
    assert make('batch-norm', config, 'stock.pth', 'out.pth', ['fog:1'], {}) == ''
    after = torch.load('out.pth')['state_dict']
    changed = [
        n for n in norms if not after[f'{n}.running_mean'].equal(weights[f'{n}.running_mean'])
    ]
    assert changed == norms[1:] and after[f'{norms[1]}.running_mean'].any()
    assert after[f'{norms[0]}.running_var'].equal(weights[f'{norms[0]}.running_var'])


def test_images_of_one_size_make_a_batch():
    sizes = [4, 6] * 17 + [8]
    images = ((torch.full((1, 3, 4, size), float(i)), [i]) for i, size in enumerate(sizes))
    batches = list(batches_of_one_size(images))
    assert [len(batch['inputs']) for batch in batches] == [16, 16, 1, 1, 1]
    for batch in batches:
        assert batch['inputs'][:, 0, 0, 0].tolist() == batch['data_samples']
    assert next(batches_of_one_size([(torch.ones(1, 2), None)]))['data_samples'] is None


def test_features_of_images_that_differ_in_size_are_compared_by_depth(monkeypatch):
    torch.manual_seed(0)
    stock = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    robust = copy.deepcopy(stock)
    torch.nn.init.zeros_(robust[0].weight)
    clean = [torch.randn(2, 3, 8, 8), torch.randn(1, 3, 10, 6)]
    noisy = [x + 0.5 for x in clean]
    sides = iter([clean, noisy])
    monkeypatch.setattr(depth, '_batches', lambda job, view: next(sides))
    jobs = {
        'stock': [SimpleNamespace(model=lambda: stock)],
        'robust': [SimpleNamespace(model=lambda: robust)],
    }
    found = depth.errors_by_depth(SimpleNamespace(noises=['fog:1']), jobs)
    square = sum(0.25 * x.numel() for x in clean)
    first = square / sum(spread(x).item() for x in clean)
    assert found['stock'][0] == found['robust'][0] == pytest.approx(first)
    bias = robust[0].bias.relu().detach()[:, None, None]
    inputs = [stock[:2](x).detach() for x in clean]
    last = sum((x - bias).square().sum().item() for x in inputs)
    assert found['robust'][1] == pytest.approx(last / sum(spread(x).item() for x in inputs))


def test_batch_norms_that_are_folded_are_left_alone(folder):
    config = Config.fromfile('model.py')
    torch.save(dict(state_dict=build_model(config).state_dict(), meta={}), 'folded.pth')
    note = make('batch-norm', config, 'folded.pth', 'out.pth', ['fog:1'], {})
    assert 'not folded' in note
    assert Path('out.pth').read_bytes() == Path('folded.pth').read_bytes()
