"""What users get wrong, tool by tool: refused in one line, with nothing run, written or left."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from crafted import run_tool, saved, torchscript, training_checkpoint
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.visualization import Visualizer
from torch import nn
from toy import stock_backbone, toy_config

from mmdenoiserep import denoisers, to_stock_config

#: Schemes of MMEngine's own, which the tools replace in this process.
SCHEMES = dict(CheckpointLoader._schemes)


@pytest.fixture(autouse=True)
def _schemes():
    yield
    CheckpointLoader._schemes = SCHEMES.copy()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def write_config(path: Path, config: Config) -> Path:
    config = Config(dict(config._cfg_dict, custom_imports=dict(imports=['toy'])))
    for key in ('work_dir', 'experiment_name'):
        config.pop(key, None)
    config.dump(path)
    return path


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Good and bad files in a folder that no test changes."""
    folder = tmp_path_factory.mktemp('world')
    config = toy_config(folder / 'unused', epochs=1)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight, std=0.1)
    stock_config = to_stock_config(config)
    stock = MODELS.build(stock_config.model)

    def save(name: str, state: dict, **more) -> None:
        torch.save(dict(meta={}, state_dict=state, **more), folder / name)

    write_config(folder / 'dr.py', config)
    write_config(folder / 'stock.py', stock_config)
    write_config(folder / 'dr_stock.py', toy_config(folder / 'unused', stock_backbone()))
    save('dr.pth', model.state_dict())
    save('stock.pth', stock.state_dict())
    state = stock.state_dict()
    save('other.pth', {f'encoder.{i}.weight': torch.zeros(2) for i in range(3)})
    save('headless.pth', {k: v for k, v in state.items() if not k.startswith('head')})
    save('wide.pth', {**state, 'head.weight': torch.zeros(5, 8), 'head.bias': torch.zeros(5)})
    save('stemless.pth', {k: v for k, v in state.items() if 'stem' not in k})
    torch.save(state, folder / 'bare.pth')
    torch.save(dict(model=state), folder / 'nested.pth')

    own = model.state_dict()
    denoiser = 'backbone.conv1.parametrizations.weight.0.weight'
    weight = own['backbone.stem.weight']
    odd = {
        'integer': {'backbone.stem.weight': weight.long()},
        'boolean': {'backbone.stem.weight': weight.bool()},
        'complex': {'backbone.stem.weight': weight.to(torch.complex64)},
        'double_key': {'module.backbone.stem.weight': weight},
        'stock_beside': {'backbone.conv1.weight': torch.zeros(8, 8, 3, 3)},
        'not_text': {7: weight},
        'a_dict': {'backbone.stem.weight': dict(a=1)},
        'text_diffusion': {denoiser.replace('0.weight', '0.diffusion'): 'x'},
        'infinite': {'head.bias': torch.tensor([1.0, float('inf')])},
        'sparse': {'head.weight': torch.zeros(2, 8).to_sparse()},
        'meta': {'head.weight': torch.zeros(2, 8, device='meta')},
        'quantized': {
            'head.weight': torch.quantize_per_tensor(torch.ones(2, 8), 0.1, 0, torch.qint8)
        },
    }
    if hasattr(torch, 'uint16'):  # before, torch.save could not write it
        odd['float8'] = {'head.weight': own['head.weight'].to(torch.float8_e4m3fn)}
    for name, change in odd.items():
        save(f'{name}.pth', {**own, **change})
    save(
        'undenoised.pth',
        {k: v for k, v in own.items() if 'conv1.parametrizations.weight.0' not in k},
    )
    torch.save(dict(meta=[1], state_dict=own), folder / 'odd_meta.pth')
    torch.save(dict(meta={}, state_dict=[1]), folder / 'odd_state.pth')
    marker = folder / 'marker'
    save('evil.pth', {**own, 'x': Evil(marker)})
    torchscript(folder / 'script.pth', marker)
    data = saved(dict(state_dict=own))
    (folder / 'cut.pth').write_bytes(data[:-200])
    (folder / 'empty.pth').write_bytes(b'')
    (folder / 'page.pth').write_text('<html>404</html>')
    training_checkpoint(folder / 'training.pth')

    (folder / 'folder').mkdir()
    for name, text in {
        'empty.py': '',
        'syntax.py': 'model = dict(\n',
        'syntax_base.py': "_base_ = './syntax.py'\n",
        'base.py': "_base_ = './none.py'\n",
        'raises.py': 'model = 1 / 0\n',
        'no_model.py': 'train_cfg = dict()\n',
        'odd_model.py': 'model = 3\n',
        'config.txt': 'model = dict()\n',
        'unknown.py': "model = dict(type='NoSuchModel')\n",
        'no_import.py': "custom_imports = dict(imports=['no_such_module'])\n",
    }.items():
        (folder / name).write_text(text)
    (folder / 'latin.py').write_bytes('name = "ä"'.encode('latin1'))
    return SimpleNamespace(folder=folder, marker=marker)


@pytest.fixture
def tool(world, tmp_path, monkeypatch, capsys):
    """Runs a tool in an empty folder; names of files of the world may be given bare."""
    monkeypatch.chdir(tmp_path)
    for variable in ('RANK', 'WORLD_SIZE', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'LOCAL_RANK'):
        monkeypatch.delenv(variable, raising=False)

    def run(name: str, *args: str):
        named = [str(world.folder / a) if (world.folder / a).exists() else a for a in args]
        for shared in (MMLogger, MessageHub, Visualizer):  # MMEngine's, by name and second
            shared._instance_dict.clear()
        options = [
            f'{key}={world.folder / value}' if sep and (world.folder / value).is_file() else a
            for a in named
            for key, sep, value in [a.partition('=')]
        ]
        return run_tool(name, *options, capsys=capsys, monkeypatch=monkeypatch)

    return run


def refused(done, name: str, message: str, code: int = 1) -> None:
    assert done.code == code, done.lines
    assert message in done.last, done.last
    if code == 1:
        assert done.last.startswith(f'{name}: ')
        assert not any('Traceback' in line for line in done.lines)


CONFIGS = {
    'folder': 'is a folder',
    'none.py': 'there is no config none.py',
    'empty.py': 'is empty',
    'latin.py': 'is no text in UTF-8 (byte 8)',
    'config.txt': 'is no config: it is none of .py, .json',
    'syntax.py': "syntax.py, line 1: '(' was never closed",
    'syntax_base.py': "'(' was never closed",
    'base.py': 'none.py, which is not there',
    'raises.py': 'cannot be read as a config: ZeroDivisionError: division by zero',
    'no_import.py': "No module named 'no_such_module' (custom_imports)",
    'mmnone::a/b.py': 'no package mmnone of OpenMMLab is installed',
}
#: How each tool takes a config, and a checkpoint.
TOOLS = {
    'train': lambda config, checkpoint: [config, '--cfg-options', f'load_from={checkpoint}'],
    'test': lambda config, checkpoint: [config, checkpoint],
    'fuse_ckpt': lambda config, checkpoint: [config, checkpoint, 'out.pth'],
    'calibrate': lambda config, checkpoint: [config, checkpoint, 'out.pth'],
    'convergence': lambda config, checkpoint: [config, checkpoint],
}


@pytest.mark.parametrize('config', CONFIGS)
def test_configs(config, tool, tmp_path):
    message = CONFIGS[config]
    for name, arguments in TOOLS.items():
        done = tool(name, *arguments(config, 'dr.pth'))
        if 'was never closed' in message:  # Python 3.8 and 3.9 have other words
            message = message.split("'(")[0]
        refused(done, name, message)
    assert not list(tmp_path.iterdir())


def test_configs_of_packages(tool, tmp_path):
    pytest.importorskip('mmdet')
    for config, message in (
        ('mmdet::', 'names no config; give it as mmdet::folder/name.py'),
        ('mmdet::retinanet', 'names no config'),
        ('mmdet::retinanet/none.py', 'there is no config mmdet::retinanet/none.py'),
        ('mmdet::a::b/c.py', 'names no config'),
    ):
        refused(tool('train', config), 'train', message)
    assert not list(tmp_path.iterdir())


def test_configs_without_a_model(tool, tmp_path):
    for config in ('no_model.py', 'odd_model.py'):
        refused(tool('train', config), 'train', 'has no model')
        refused(tool('test', config, 'dr.pth'), 'test', 'has no model')
        for name in ('calibrate', 'convergence'):
            done = tool(name, *TOOLS[name](config, 'dr.pth'))
            refused(done, name, 'no model')
    refused(tool('train', 'unknown.py'), 'train', 'unknown.py has no train_dataloader')
    refused(tool('fuse_ckpt', 'stock.py', 'dr.pth', 'out.pth'), 'fuse_ckpt', 'no model part of')
    assert not list(tmp_path.iterdir())


CHECKPOINTS = {
    'evil.pth': 'pathlib',
    'script.pth': 'it is a TorchScript archive',
    'cut.pth': 'it is cut off or damaged',
    'empty.pth': 'it is empty',
    'page.pth': 'it is a web page',
    'odd_state.pth': "'state_dict'",
    'double_key.pth': "has 'backbone.stem.weight' twice",
    'not_text.pth': 'the key 7, which is no text',
    'a_dict.pth': "'backbone.stem.weight' in the state dict is a dict",
    'text_diffusion.pth': "0.diffusion' in the state dict is a str",
    'stock_beside.pth': 'both a stock and a parametrized weight',
    'sparse.pth': 'a sparse tensor',
    'meta.pth': 'a meta tensor',
    'quantized.pth': 'a quantized tensor',
    'float8.pth': 'a float8_e4m3fn tensor',
    'training.pth': '',
}


@pytest.mark.parametrize('checkpoint', CHECKPOINTS)
def test_checkpoints(checkpoint, tool, world, tmp_path):
    if not (world.folder / checkpoint).exists():
        pytest.skip('this release of PyTorch cannot write it')
    for name, arguments in TOOLS.items():
        done = tool(name, *arguments('dr.py', checkpoint))
        refused(done, name, CHECKPOINTS[checkpoint])
        assert checkpoint in done.last or 'layer' in done.last, done.last
    assert not world.marker.exists()
    assert not list(tmp_path.glob('out*'))


@pytest.mark.parametrize('name', ['fuse_ckpt', 'calibrate', 'convergence'])
def test_weights_of_another_kind(name, tool):
    for checkpoint, message in (
        ('integer.pth', "'backbone.stem.weight' is of torch.int64"),
        ('boolean.pth', 'torch.bool'),
        ('complex.pth', 'torch.complex64'),
        ('infinite.pth', "NaN or infinity in 'head.bias'"),
        ('odd_meta.pth', "its 'meta' is no dict"),
        ('undenoised.pth', "lacks 'backbone.conv1.parametrizations.weight.0."),
    ):
        done = tool(name, *TOOLS[name]('dr.py', checkpoint))
        refused(done, name, message)


def test_every_entrance_reads_data_only(tool, world, tmp_path):
    """Six ways by which code in a checkpoint was run."""
    evil = world.folder / 'evil.pth'
    for name, args in (
        ('test', ['dr.py', 'evil.pth']),
        ('train', ['dr.py', '--cfg-options', f'load_from={evil}']),
        ('train', ['dr.py', '--resume', 'evil.pth']),
        ('train', ['stock.py', '--denoiserep', '--cfg-options', f'load_from={evil}']),
        (
            'train',
            [
                *('dr.py', '--cfg-options', 'model.backbone.module.init_cfg.type=Pretrained'),
                f'model.backbone.module.init_cfg.checkpoint={evil}',
            ],
        ),
        ('convergence', ['dr.py', 'evil.pth']),
        ('calibrate', ['stock.py', 'evil.pth', 'out.pth']),
        ('fuse_ckpt', ['dr.py', 'evil.pth', 'out.pth']),
    ):
        done = tool(name, *args)
        refused(done, name, 'none of what weights are made of')
        assert not world.marker.exists(), args


def test_what_is_downloaded_is_data_too(tool, world, monkeypatch):
    def download(address, path, *_, **__):
        assert address == 'https://example.org/evil.pth'
        Path(path).write_bytes((world.folder / 'evil.pth').read_bytes())

    monkeypatch.setattr('torch.hub.download_url_to_file', download)
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(Path.cwd() / 'hub'))
    for name, arguments in TOOLS.items():
        if name != 'fuse_ckpt':
            done = tool(name, *arguments('dr.py', 'https://example.org/evil.pth'))
            refused(done, name, 'none of what weights are made of')
    assert not world.marker.exists()

    def unreachable(*_, **__):
        raise OSError('<urlopen error no route>')

    monkeypatch.setattr('torch.hub.download_url_to_file', unreachable)
    done = tool('test', 'dr.py', 'https://example.org/good.pth')
    refused(done, 'test', 'https://example.org/good.pth cannot be downloaded')
    refused(tool('test', 'dr.py', 'pavi://a'), 'test', 'pavi:// are not served')
    refused(tool('test', 'dr.py', 'open-mmlab://none'), 'test', 'knows no such model')


def test_who_trusts_a_checkpoint_says_so(tool, world, tmp_path):
    class Harmless:
        def __reduce__(self) -> tuple:
            return (Path, ('a',))

    state = torch.load(world.folder / 'dr.pth')['state_dict']
    torch.save(dict(meta=dict(x=Harmless()), state_dict=state), tmp_path / 'a.pth')
    refused(tool('fuse_ckpt', 'dr.py', 'a.pth', 'out.pth'), 'fuse_ckpt', 'Path')
    done = tool('fuse_ckpt', 'dr.py', 'a.pth', 'out.pth', '--trust-checkpoint')
    assert done.code == 0, done.lines
    # And the next does not.
    refused(tool('fuse_ckpt', 'dr.py', 'a.pth', 'o2.pth'), 'fuse_ckpt', 'Path')


def test_a_config_in_a_checkpoint_is_not_run(tool, world, tmp_path):
    """MMEngine's resume takes `meta['config']` for Python."""
    assert tool('train', 'dr.py', '--work-dir', 'work').code == 0
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    marker = tmp_path / 'ran'
    checkpoint['meta']['config'] = f'open({str(marker)!r}, "w")\n'
    torch.save(checkpoint, tmp_path / 'code.pth')
    options = ['--cfg-options', 'train_cfg.max_epochs=2', '--work-dir', 'work2']
    done = tool('train', 'dr.py', '--resume', 'code.pth', *options)
    assert done.code == 0, done.lines
    assert not marker.exists() and (tmp_path / 'work2' / 'epoch_2.pth').exists()


def test_a_wrong_checkpoint_is_not_used(tool, tmp_path):
    for config, checkpoint, message in (
        ('stock.py', 'other.pth', "does not fit the model of the config: it lacks 'backbone.conv2"),
        ('stock.py', 'headless.pth', "it lacks 'head.weight' and 1 more keys"),
        ('stock.py', 'wide.pth', "it has in another shape 'head.weight' and 1 more keys"),
        ('stock.py', 'dr.pth', 'is a DenoiseRep checkpoint, and the config is a stock config'),
        ('stock.py', 'nested.pth', "it has no 'state_dict'"),
        ('dr.py', 'other.pth', "lacks 'backbone.conv2"),
        ('dr.py', 'headless.pth', "lacks 'head.weight'"),
        ('dr.py', 'undenoised.pth', "lacks 'backbone.conv1.parametrizations.weight.0."),
    ):
        for name in ('test', 'train'):
            if name == 'train' and config == 'stock.py':
                continue
            done = tool(name, *TOOLS[name](config, checkpoint))
            refused(done, name, message)
            assert checkpoint in done.last
    # Denoisers on a random backbone are refused however much may be missing.
    done = tool('train', *TOOLS['train']('dr.py', 'stemless.pth'), '--allow-missing')
    refused(done, 'train', "lacks 'backbone.stem.weight' and 1 more keys of the backbone")
    assert not list(tmp_path.rglob('*.pth'))


def test_who_means_it_may_go_on(tool):
    for config, checkpoint in (
        ('stock.py', 'headless.pth'),
        ('stock.py', 'wide.pth'),
        ('dr.py', 'headless.pth'),
    ):
        assert tool('test', config, checkpoint, '--allow-missing').code == 0
    for config, checkpoint in (
        ('stock.py', 'stock.pth'),
        ('stock.py', 'bare.pth'),
        ('dr.py', 'stock.pth'),
        ('dr.py', 'dr.pth'),
    ):
        done = tool('test', config, checkpoint)
        assert done.code == 0, done.lines


def test_a_fused_checkpoint_is_refused_by_both_tools(tool, tmp_path):
    assert tool('fuse_ckpt', 'dr.py', 'dr.pth', 'fused.pth').code == 0
    assert tool('test', 'stock.py', 'fused.pth').code == 0
    for name in ('test', 'train'):
        done = tool(name, *TOOLS[name]('dr.py', str(tmp_path / 'fused.pth')))
        refused(done, name, 'is fused already')


def test_resuming_needs_a_state(tool, tmp_path):
    for checkpoint in ('dr.pth', 'bare.pth'):
        done = tool('train', 'dr.py', '--resume', checkpoint)
        refused(done, 'train', 'holds no state of a training to resume')
    refused(tool('train', 'dr.py', '--resume', 'none.pth'), 'train', 'there is no checkpoint')


OPTIONS = {
    'model.backbone.targets=nothing': "target 'nothing' matches no layer",
    'model.backbone.targets=[': 'regular expression',
    'model.backbone.loss=l3': "loss must be one of ('l1', 'l2', 'l1+l2'), got 'l3'",
    'model.backbone.colour=red': "has no option 'colour'",
    'model.backbone.schedule.num_steps=1': 'begins at step 2 of a schedule of 1',
    'model.backbone.module.type=Nothing': 'Nothing is not in the',
    'custom_hooks.0.mode=labelled': "got 'labelled'",
    'custom_hooks.0.colour=red': "'colour'",
    'custom_hooks.0.lambda_=2': 'lambda_ must be in [0, 1), got 2',
    'custom_hooks.7.mode=label-free': '--cfg-options do not fit the config',
    'model.backbone.a.b.c=1': "'a'",
    'train_dataloader.dataset.length=0': 'there is no image in the data set of train_dataloader',
    'optim_wrapper.optimizer.type=None': '',
    'activation_checkpointing=backbone': 'activation_checkpointing=None',
    'work_dir=/proc/nowhere/a': '/proc',
}


@pytest.mark.parametrize('option', OPTIONS)
def test_options_of_training(option, tool, tmp_path):
    done = tool('train', 'dr.py', '--cfg-options', option)
    refused(done, 'train', OPTIONS[option])
    assert not done.last.startswith('train: class')
    assert not list(tmp_path.iterdir())  # no work folder of a training that never was


@pytest.mark.parametrize(
    ('name', 'args', 'message'),
    [
        ('train', ['stock.py', '--denoiserep', '--targets', '['], 'is no regular expression'),
        ('train', ['stock.py', '--mode', 'none'], 'invalid choice'),
        ('train', ['stock.py', '--cfg-options', 'a'], "'a' is not of the form key=value"),
        ('train', ['stock.py', '--cfg-options', 'a=[1,2'], 'Imbalanced'),
        (
            'calibrate',
            ['stock.py', 'stock.pth', 'o.pth', '--targets', '('],
            'no regular expression',
        ),
        ('test', ['stock.py', 'stock.pth', '--wait-time', '-1'], 'must be at least 0'),
        ('benchmark', ['dr.py', '--rounds', '0'], 'must be at least 1'),
        ('benchmark', ['dr.py', '--batch-size', '-2'], 'must be at least 1'),
        ('benchmark', ['dr.py', '--num-images', '0'], 'must be at least 1'),
        ('benchmark', ['dr.py', '--size', '0', '64'], 'must be at least 64'),
        ('benchmark', ['dr.py', '--memory-samples', '-1'], 'must be at least 0'),
        ('benchmark', ['dr.py', '--device', 'toaster'], "'toaster' cannot be used"),
        ('benchmark', ['dr.py', '--plot', 'a.doc'], '--plot must be'),
        ('convergence', ['dr.py', 'dr.pth', '--max-tokens', '0'], 'must be at least 1'),
        ('convergence', ['dr.py', 'dr.pth', '--num-images', '-1'], 'must be at least 1'),
        ('convergence', ['dr.py', 'dr.pth', '--limit', '-1'], 'must be at least 0.001'),
        ('convergence', ['dr.py', 'dr.pth', '--lr', 'nan'], 'must be at least'),
        ('study', ['study.py', '--workers', '0'], 'must be at least 1'),
    ],
)
def test_usage(name, args, message, tool, tmp_path):
    refused(tool(name, *args), name, message, code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'args', 'message'),
    [
        ('train', ['dr.py', '--amp'], '--amp needs a GPU'),
        ('train', ['dr.py', '--auto-scale-lr'], 'base_batch_size'),
        ('train', ['dr.py', '--launcher', 'pytorch'], 'RANK is not set: start with torchrun'),
        ('test', ['dr.py', 'dr.pth', '--launcher', 'slurm'], 'SLURM_PROCID is not set'),
        ('calibrate', ['dr.py', 'dr.pth', 'o.pth', '--launcher', 'mpi'], 'RANK is not set'),
        ('train', ['dr.py', '--work-dir', 'a_file/b'], 'a_file is no folder'),
        ('test', ['dr.py', 'dr.pth', '--out', 'a_file/b.pkl'], 'a_file is no folder'),
        ('test', ['dr.py', 'dr.pth', '--show-dir', 'a_file/b'], 'a_file is no folder'),
        ('test', ['dr.py', 'dr.pth', '--tta'], '--tta needs a tta_model'),
        ('test', ['dr.py', 'dr.pth', '--show-dir', 'b'], 'default_hooks.visualization'),
        (
            'test',
            ['dr.py', 'dr.pth', '--cfg-options', 'test_dataloader.dataset.length=0'],
            'there is no image in the data set of test_dataloader',
        ),
        ('fuse_ckpt', ['dr.py', 'dr.pth', 'a_file/b.pth'], 'a_file is no folder'),
        ('calibrate', ['dr.py', 'dr.pth', 'a_file/b.pth'], 'a_file is no folder'),
        ('calibrate', ['dr.py', 'dr.pth', 'o.pth', '--max-tokens', '-1'], 'max_tokens must be'),
        ('calibrate', ['dr.py', 'dr.pth', 'o.pth', '--images', 'none'], 'there is no folder none'),
        ('calibrate', ['dr.py', 'dr.pth', 'o.pth', '--images', 'folder'], 'has no `pipeline`'),
        ('calibrate', ['dr.py', 'dr.pth', 'o'], 'must be named *.pth'),
        ('benchmark', ['dr.py', '--json', 'a_file/b.json'], 'a_file is no folder'),
        ('benchmark', ['dr.py', '--memory-samples', '0'], 'there are no samples for default_scope'),
        ('study', ['none.py'], 'there is no config none.py'),
    ],
)
def test_found_out_before_any_work(name, args, message, tool, tmp_path, monkeypatch):
    for module in ('mmdenoiserep.cli.configs', 'mmengine.device'):
        monkeypatch.setattr(f'{module}.get_device', lambda: 'cpu')
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    (tmp_path / 'a_file').write_text('')
    refused(tool(name, *args), name, message)
    assert not list(tmp_path.rglob('*.pth'))


def test_outputs_that_are_there_stay(tool, world, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_bytes((world.folder / 'dr.py').read_bytes())
    checkpoint = tmp_path / 'some.pth'
    checkpoint.write_bytes((world.folder / 'dr.pth').read_bytes())
    (tmp_path / 'notes.py').write_text('# mine')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name in ('fuse_ckpt', 'calibrate'):
        for out, message in (
            ('mine.pth', 'mine.py is the config itself'),
            ('some.pth', 'some.pth is the checkpoint itself'),
            ('notes.pth', 'notes.py exists already; --force'),
        ):
            done = tool(name, 'mine.py', 'some.pth', out)
            refused(done, name, message)
        done = tool(name, 'mine.py', 'some.pth', 'mine.pth', '--force')
        refused(done, name, 'mine.py is the config itself')
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert tool('fuse_ckpt', 'mine.py', 'some.pth', 'notes.pth', '--force').code == 0
    assert Config.fromfile('notes.py').model.backbone.type == 'ToyBackbone'


def test_debug_shows_where(tool):
    with pytest.raises(FileNotFoundError, match=r'there is no config none\.py'):
        tool('train', 'none.py', '--debug')


def test_results_of_a_study_are_not_unpickled(tmp_path):
    import numpy as np

    from experiments.study.report import _arrays

    marker = tmp_path / 'marker'
    evil = np.empty(1, dtype=object)
    evil[0] = Evil(marker)
    np.savez(tmp_path / 'val.npz', matches=evil)
    with pytest.raises(ValueError, match=r'val.npz cannot be read .*; delete it'):
        _arrays(str(tmp_path / 'val.npz'))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()
