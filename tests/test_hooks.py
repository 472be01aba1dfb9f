"""Training with the hook, in MMEngine's Runner on a toy model."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from processes import run_in_two_processes
from toy import denoiserep_backbone, stock_backbone, toy_config

from mmdenoiserep import DenoiseRepHook, denoisers
from mmdenoiserep.stock.checkpoint import load_checkpoint_file
from tools import environment

OWN = '.parametrizations.weight.0.weight'


def train(config: Config) -> Runner:
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def state_after(config: Config) -> dict:
    """A copy of the state dict when training begins, and one when it has ended."""
    runner = Runner.from_cfg(config)
    begin = {}
    load_or_resume = runner.load_or_resume

    def spy():
        load_or_resume()
        begin.update({k: v.clone() for k, v in runner.model.state_dict().items()})

    runner.load_or_resume = spy
    runner.train()
    return begin, runner.model.state_dict()


@pytest.mark.parametrize('mode', ['label-aug', 'label-free'])
@pytest.mark.parametrize('frozen', [False, True])
def test_only_denoisers_change(tmp_path, mode, frozen):
    config = toy_config(tmp_path, denoiserep_backbone(frozen=frozen), mode=mode)
    begin, end = state_after(config)
    changed = {key for key in begin if not torch.equal(begin[key], end[key])}
    assert changed == {f'backbone.conv1{OWN}', f'backbone.conv2{OWN}'}


def step_once(tmp_path, **hook):
    """A runner of one epoch without optimizer steps, and what its last iteration saw."""
    config = toy_config(tmp_path, epochs=1, fuse=False, **hook)
    runner = Runner.from_cfg(config)
    seen = {}

    class Spy(OptimWrapper):
        def update_params(self, loss, **kwargs):
            loss.backward()
            seen['total'] = loss.detach()
            seen['grads'] = {
                n: p.grad.clone() for n, p in runner.model.named_parameters() if p.grad is not None
            }
            self.optimizer.zero_grad()

    runner.optim_wrapper = Spy(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    return runner, seen


@pytest.mark.parametrize('mode', ['label-aug', 'label-free'])
def test_only_denoisers_have_gradients(tmp_path, mode):
    runner, seen = step_once(tmp_path, mode=mode)
    runner.train()
    assert set(seen['grads']) == {f'backbone.conv1{OWN}', f'backbone.conv2{OWN}'}
    assert all(g.abs().sum() > 0 for g in seen['grads'].values())


def test_label_free_runs_no_head_and_needs_no_labels(tmp_path):
    runner, seen = step_once(tmp_path, mode='label-free')

    def forbidden(*_):
        raise AssertionError('neck or head was called')

    runner.model.neck.register_forward_pre_hook(forbidden)
    runner.model.head.register_forward_pre_hook(forbidden)
    graphs = []
    runner.model.backbone.register_forward_hook(lambda m, a, out: graphs.append(out.requires_grad))
    getitem = type(runner.train_loop.dataloader.dataset).__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(runner.train_loop.dataloader.dataset),
            '__getitem__',
            lambda self, i: dict(inputs=getitem(self, i)['inputs']),
        )
        runner.train()
    assert 'total' in seen and not any(graphs)


def losses_of(tmp_path, **hook) -> dict:
    runner, _ = step_once(tmp_path, **hook)
    logged = {}
    parse = runner.model.parse_losses

    def spy(losses):
        logged.update(losses)
        return parse(losses)

    runner.model.parse_losses = spy
    runner.train()
    return logged


def test_losses_are_weighted_by_lambda(tmp_path):
    none = losses_of(tmp_path, lambda_=0.0)
    some = losses_of(tmp_path, lambda_=0.25)
    free = losses_of(tmp_path, mode='label-free')
    assert set(none) == {'loss_cls', 'acc'}
    assert set(some) == {'loss_cls', 'acc', 'loss_denoise'}
    assert torch.allclose(some['loss_cls'], 0.75 * none['loss_cls'])
    assert some['acc'] == 0.5
    assert set(free) == {'loss_denoise'}
    # W_D = 0 predicts no noise: each of the two layers' losses is E|N(0, 1)| = 0.798.
    assert free['loss_denoise'].item() == pytest.approx(2 * 0.798, rel=0.05)
    assert some['loss_denoise'].item() == pytest.approx(0.25 * 2 * 0.798, rel=0.05)


def test_lambda_zero_is_the_task_loss_alone(tmp_path):
    runner, seen = step_once(tmp_path, lambda_=0.0)
    reference = Runner.from_cfg(toy_config(tmp_path, epochs=1, lambda_=0.0))
    reference.model.load_state_dict(runner.model.state_dict())
    runner._has_loaded = True
    batches = []
    step = runner.model.train_step
    runner.model.init_weights = lambda: None
    runner.model.train_step = lambda data, optim_wrapper: (
        batches.append(data),
        step(data, optim_wrapper),
    )[1]
    runner.train()
    model = reference.model.train()
    model.backbone.eval()
    model.neck.eval()
    data = model.data_preprocessor(batches[-1])
    loss = model(**data, mode='loss')['loss_cls']
    assert torch.equal(loss.detach(), seen['total'])
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in seen['grads']:
            assert torch.allclose(parameter.grad, seen['grads'][name])


def test_training_begins_at_the_baseline(tmp_path):
    """With W_D = 0 the task loss is that of the frozen stock model in eval mode."""
    runner, _ = step_once(tmp_path)
    x = torch.randn(2, 3, 12, 12)
    stock = Runner.from_cfg(toy_config(tmp_path, stock_backbone())).model
    stock.load_state_dict(
        {
            k.replace('parametrizations.weight.original', 'weight'): v
            for k, v in runner.model.state_dict().items()
            if 'weight.0.' not in k
        }
    )
    stock.eval()
    runner.model.eval()
    assert torch.equal(runner.model(x), stock(x))


@pytest.mark.parametrize('whole_model', [False, True])
def test_weights_are_initialized_in_the_stock_way(tmp_path, whole_model):
    """Initializers write into `layer.weight`, which is computed while denoisers are in."""
    init = dict(type='Constant', layer='Conv2d', val=0.125)
    config = toy_config(tmp_path, epochs=1)
    (config.model if whole_model else config.model.backbone.module).init_cfg = init
    begin, _ = state_after(config)
    original = begin['backbone.conv1.parametrizations.weight.original']
    assert torch.equal(original, torch.full_like(original, 0.125))


def test_testing_needs_no_training_data(tmp_path):
    config = toy_config(tmp_path, mode='alternating')
    config.train_dataloader.dataset = dict(type='ToyData', no_such_argument=1)
    assert 'positive' in Runner.from_cfg(config).test()


def test_alternating_trains_denoisers_and_base_in_turn(tmp_path):
    config = toy_config(tmp_path, epochs=4, mode='alternating', period=1)
    config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    train(config)
    states = [
        load_checkpoint_file(str(tmp_path / f'epoch_{epoch}.pth'))['state_dict']
        for epoch in (1, 2, 3, 4)
    ]
    denoiser, base = f'backbone.conv1{OWN}', 'head.weight'
    same = [
        (torch.equal(a[denoiser], b[denoiser]), torch.equal(a[base], b[base]))
        for a, b in zip(states, states[1:])
    ]
    # The second and the fourth epoch train the base, the third the denoisers.
    assert same == [(True, False), (False, True), (True, False)]
    moved = (
        states[1]['backbone.bn.num_batches_tracked'] - states[0]['backbone.bn.num_batches_tracked']
    )
    assert moved == 4  # in its phase the base's norm layers train as in the stock model


def test_noise_losses_reach_the_visualization_backends(tmp_path):
    runner = train(toy_config(tmp_path))
    lines = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text().splitlines()
    logged = {key for line in lines for key in json.loads(line)}
    assert {'noise_loss/backbone.conv1', 'noise_loss/backbone.conv2', 'noise_loss'} <= logged
    assert 'loss_denoise' in logged


def test_gradient_accumulation(tmp_path, monkeypatch):
    config = toy_config(tmp_path, epochs=1)
    config.optim_wrapper.accumulative_counts = 2
    steps = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, 'step', lambda self, *args: steps.append(1) or step(self, *args)
    )
    begin, end = state_after(config)
    assert not torch.equal(begin[f'backbone.conv1{OWN}'], end[f'backbone.conv1{OWN}'])
    assert len(steps) == 2  # of four iterations


@pytest.mark.parametrize('mode', ['label-aug', 'label-free'])
def test_mixed_precision(tmp_path, mode):
    """MMEngine's AmpOptimWrapper wants a GPU; autocast on the CPU is the same for the denoisers."""
    runner, seen = step_once(tmp_path, mode=mode)
    context = runner.optim_wrapper.optim_context

    @contextlib.contextmanager
    def autocast(model):
        with context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield

    runner.optim_wrapper.optim_context = autocast
    runner.train()
    assert seen['total'].isfinite()
    assert {g.dtype for g in seen['grads'].values()} == {torch.float32}
    assert len(seen['grads']) == 2


def test_ema_averages_denoisers_and_is_what_gets_fused(tmp_path):
    config = toy_config(tmp_path)
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    runner = train(config)
    saved = load_checkpoint_file(str(tmp_path / 'epoch_2.pth'))
    key = f'backbone.conv1{OWN}'
    averaged = saved['state_dict'][key]
    assert not torch.equal(averaged, saved['ema_state_dict']['module.' + key])
    assert not torch.equal(averaged, runner.model.state_dict()[key])
    base = 'backbone.conv1.parametrizations.weight.original'
    assert torch.equal(saved['state_dict'][base], runner.model.state_dict()[base])
    fused = load_checkpoint_file(str(tmp_path / 'fused.pth'))['state_dict']['backbone.conv1.weight']
    denoiser = denoisers(runner.model)['backbone.conv1']
    expected = saved['state_dict'][base] - denoiser.factor * torch.einsum(
        'ockl,cd->odkl', saved['state_dict'][base], averaged[0]
    )
    assert torch.allclose(fused, expected, atol=1e-6)


def test_the_fused_checkpoint_and_its_config_need_no_mmdenoiserep(tmp_path):
    runner = train(toy_config(tmp_path))
    x = torch.randn(2, 3, 12, 12)
    runner.model.eval()
    torch.save((x, runner.model(x).detach()), tmp_path / 'expected.pth')
    code = f"""
import sys, torch, toy
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
config = Config.fromfile({str(tmp_path / 'fused.py')!r})
init_default_scope('mmengine')
model = MODELS.build(config.model)
model.eval()
model.load_state_dict(torch.load({str(tmp_path / 'fused.pth')!r})['state_dict'], strict=True)
x, expected = torch.load({str(tmp_path / 'expected.pth')!r})
assert torch.equal(model(x), expected)
assert not any(name.startswith('mmdenoiserep') for name in sys.modules)
"""
    subprocess.run([sys.executable, '-c', code], check=True, env=environment())


def test_a_fused_checkpoint_is_refused_by_a_denoiserep_config(tmp_path):
    train(toy_config(tmp_path))
    config = toy_config(tmp_path / 'again')
    config.load_from = str(tmp_path / 'fused.pth')
    with pytest.raises(RuntimeError, match='fused already'):
        train(config)


def test_a_stock_checkpoint_is_loaded_and_said_to_be_untrained(tmp_path, caplog):
    stock = toy_config(tmp_path, stock_backbone(), epochs=1)
    stock.custom_hooks = []
    trained = train(stock).model.state_dict()
    config = toy_config(tmp_path / 'test')
    config.load_from = str(tmp_path / 'epoch_1.pth')
    config.test_dataloader = dict(
        batch_size=4, dataset=dict(type='ToyData'), sampler=dict(type='DefaultSampler')
    )
    config.test_evaluator = []
    config.test_cfg = dict()
    runner = Runner.from_cfg(config)
    warnings = []
    runner.logger.warning = warnings.append
    runner.load_or_resume()
    runner.call_hook('before_test')
    assert any('denoisers are untrained' in line for line in warnings)
    original = runner.model.state_dict()['backbone.conv1.parametrizations.weight.original']
    assert torch.equal(original, trained['backbone.conv1.weight'])


def test_a_model_without_denoisers_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match='DenoiseRepBackbone'):
        train(toy_config(tmp_path, stock_backbone()))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(mode='labelled'), "'labelled'"),
        (dict(lambda_=1.0), "mode='label-free'"),
        (dict(lambda_=-0.1), 'lambda_'),
        (dict(period=0), 'period'),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DenoiseRepHook(**kwargs)


SCRIPT = """
import os, signal, sys, toy
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.runner import Runner
class Kill(Hook):
    priority = 'LOWEST'
    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == 10:  # in the third of four epochs
            os.kill(os.getpid(), signal.SIGKILL)
runner = Runner.from_cfg(toy.toy_config(Path(sys.argv[1]), epochs=4, **eval(sys.argv[2])))
runner.register_hook(Kill())
runner.train()
"""


@pytest.mark.parametrize(
    'hook', [dict(), dict(mode='label-free'), dict(mode='alternating', period=1)]
)
def test_killed_and_resumed_ends_with_the_same_bytes(tmp_path, hook):
    command = [sys.executable, '-c', SCRIPT, str(tmp_path / 'killed'), repr(hook)]
    assert subprocess.run(command, env=environment()).returncode == -signal.SIGKILL
    assert not (tmp_path / 'killed' / 'fused.pth').exists()
    second = tmp_path / 'killed' / 'epoch_2.pth'
    written = second.stat().st_mtime_ns
    for name in ('through', 'killed'):
        config = toy_config(tmp_path / name, epochs=4, **hook)
        config.resume, config.experiment_name = name == 'killed', str(tmp_path / name)
        Runner.from_cfg(config).train()
    assert second.stat().st_mtime_ns == written  # it went on from there
    fused = [(tmp_path / name / 'fused.pth').read_bytes() for name in ('through', 'killed')]
    assert fused[0] == fused[1]
    ends = [
        load_checkpoint_file(str(tmp_path / name / 'epoch_4.pth'))['state_dict']
        for name in ('through', 'killed')
    ]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def _train_distributed(rank, folder, hook):
    config = toy_config(folder, **hook)
    # MMEngine's launcher starts processes on GPUs only; it takes a group that is there already.
    config.launcher = 'pytorch'
    config.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    model = train(config).model
    assert type(model).__name__ == 'MMDistributedDataParallel'
    torch.save(model.module.state_dict(), folder / f'rank{rank}.pth')


@pytest.mark.parametrize(
    'hook', [dict(), dict(mode='label-free'), dict(mode='alternating', period=1)]
)
def test_two_processes_end_with_the_same_weights(tmp_path, hook, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    run_in_two_processes(_train_distributed, tmp_path, hook)
    ranks = [torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1)]
    denoiser = f'backbone.conv1{OWN}'
    assert ranks[0][denoiser].abs().sum() > 0
    assert (
        all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0] if 'bn.' not in key)
        or hook.get('mode') == 'alternating'
    )
    assert torch.equal(ranks[0][denoiser], ranks[1][denoiser])
    assert torch.equal(ranks[0]['head.weight'], ranks[1]['head.weight'])
    assert (tmp_path / 'fused.pth').exists()
