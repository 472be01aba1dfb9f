"""The closed form, its moments, and the way from a stock checkpoint to a denoised one."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from processes import run_in_two_processes
from torch import nn
from toy import ToyBackbone, toy_config

from mmdenoiserep import (
    Cascade,
    DenoiseRepHook,
    NoiseSchedule,
    calibrate,
    denoisers,
    fuse_denoisers,
    insert_denoisers,
)
from mmdenoiserep.calibration import SecondMoments, closed_form, solve
from mmdenoiserep.cli import load_config
from mmdenoiserep.training import observe_inputs
from tools import tool


def inputs_of(model, images):
    """The inputs of the denoised layers, as the layers see them."""
    seen = {}
    with observe_inputs(denoisers(model), lambda name, _, x: seen.setdefault(name, x)):
        model(images)
    return seen


@torch.no_grad()
def test_closed_form_is_the_least_squares_solution():
    torch.manual_seed(0)
    x = torch.randn(2, 500, 3, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.0])
    moment, alpha_bar = x.transpose(1, 2) @ x / 500, 0.9
    weight = closed_form(moment, alpha_bar)
    identity = torch.eye(3, dtype=torch.float64)
    noisy = alpha_bar * moment + (1 - alpha_bar) * identity
    # E[eps x_t^T] = W_D E[x_t x_t^T]
    assert torch.allclose(weight @ noisy, (1 - alpha_bar) ** 0.5 * identity.expand(2, 3, 3))


@pytest.mark.parametrize('scale', [1.0, 3.0, 10.0])
@torch.no_grad()
def test_the_bound_holds_on_fewer_tokens_than_channels(scale):
    """Rank-deficient moments are normal; their rounding must not reach 1 - abar."""
    torch.manual_seed(0)
    model = insert_denoisers(nn.Sequential(nn.Linear(512, 4)), ['0'])
    moments = SecondMoments(denoisers(model))
    features = scale * torch.relu(torch.randn(256, 512))
    moments.update('0', denoisers(model)['0'], features)
    weight = solve(moments.of('0'), denoisers(model)['0'])[0]
    bound = (1 - NoiseSchedule().alpha_bar(1)) ** -0.5
    largest = torch.linalg.eigvalsh(weight)[-1].item()
    assert largest == pytest.approx(bound, rel=1e-4)  # in the directions that hold no feature


def test_features_that_are_too_large_are_refused_in_one_line():
    moment = 1e16 * torch.ones(1, 3, 3, dtype=torch.float64)
    moment[0, 0, 0] = -1e16
    with pytest.raises(ValueError, match='too large beside the noise') as error:
        closed_form(moment, 0.9)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('shape', [(4, 3, 12, 12), (1, 3, 30, 20)])
@torch.no_grad()
def test_moments_are_those_of_all_tokens(shape, monkeypatch):
    monkeypatch.setattr('mmdenoiserep.calibration.moments.BLOCK', 7)
    torch.manual_seed(0)
    model = insert_denoisers(ToyBackbone()).eval()
    moments, images = SecondMoments(denoisers(model)), torch.randn(shape)
    with observe_inputs(denoisers(model), moments.update):
        model(images[:2])
        model(images[2:]) if len(images) > 2 else None
    for name, x in inputs_of(model, images).items():
        tokens = x.movedim(1, -1).reshape(-1, 8).double()
        groups = model.get_submodule(name).groups
        expected = torch.stack([t.T @ t / len(t) for t in tokens.chunk(groups, 1)])
        assert torch.allclose(moments.of(name), expected, rtol=1e-5)


@torch.no_grad()
def test_sampled_moments_are_unbiased():
    torch.manual_seed(0)
    model = insert_denoisers(ToyBackbone()).eval()
    images = torch.randn(2, 3, 16, 16)
    whole, sampled = (SecondMoments(denoisers(model), m) for m in (None, 10))
    for moments, passes in ((whole, 1), (sampled, 600)):
        with observe_inputs(denoisers(model), moments.update):
            for _ in range(passes):
                model(images)
    for name in denoisers(model):
        error = sampled.of(name) - whole.of(name)
        assert error.norm() < 0.05 * whole.of(name).norm()


def model_and_batches():
    torch.manual_seed(0)
    toy = toy_config(Path('unused'))
    model = MODELS.build(toy.model)
    loader = dict(toy.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
    return model, Runner.build_dataloader(loader)


def test_calibrate_sets_the_denoisers_and_nothing_else():
    model, batches = model_and_batches()
    model.train()
    stock = copy.deepcopy(fuse_denoisers(copy.deepcopy(model)).state_dict())
    assert calibrate(model, batches, num_images=10, max_tokens=None) == 10
    assert model.training and model.backbone.training

    images = torch.stack([batches.dataset[i]['inputs'] for i in range(10)])
    other = MODELS.build(toy_config(Path('unused')).model)
    other.load_state_dict(stock, strict=True)
    backbone = other.eval().backbone
    for name, x in inputs_of(backbone, images).items():
        tokens = x.detach().movedim(1, -1).reshape(-1, 8).double()
        groups = backbone.get_submodule(name).groups
        moment = torch.stack([t.T @ t / len(t) for t in tokens.chunk(groups, 1)])
        denoiser = denoisers(model.backbone)[name]
        expected = closed_form(moment, denoiser.schedule.alpha_bar(denoiser.step))
        assert torch.allclose(denoiser.weight.double(), expected, rtol=1e-3, atol=1e-3)
    for denoiser in denoisers(model).values():
        nn.init.zeros_(denoiser.weight)
    assert all(torch.equal(v, stock[k]) for k, v in fuse_denoisers(model).state_dict().items())


def test_calibration_in_units_of_the_features():
    """With noise_scale='rms' the scale of a layer's features does not matter."""
    moment = torch.eye(3, dtype=torch.float64)[None] * torch.tensor([4.0, 1.0, 0.5])
    solved = []
    for scale in (1.0, 100.0):
        model = insert_denoisers(
            nn.Sequential(nn.Linear(3, 3)), ['0'], cascade=Cascade(noise_scale='rms')
        )
        solved.append(solve(scale * moment, denoisers(model)['0']))
    assert torch.allclose(solved[0], solved[1])
    alpha_bar = NoiseSchedule().alpha_bar(1)
    assert torch.allclose(solved[0], closed_form(moment / (5.5 / 3), alpha_bar))


@pytest.mark.parametrize('failure', [KeyboardInterrupt, ValueError])
def test_an_interrupted_calibration_changes_nothing(failure):
    model, batches = model_and_batches()
    state = copy.deepcopy(model.state_dict())

    def interrupted():
        for i, batch in enumerate(batches):
            if i == 2:
                if failure is KeyboardInterrupt:
                    raise failure
                batch['inputs'][0, 0, 0, 0] = float('nan')
            yield batch

    with pytest.raises(failure):
        calibrate(model, interrupted(), num_images=16)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(d.observers == () for d in denoisers(model).values()) and model.training


def _worker(rank, folder, batches):
    model, _ = model_and_batches()
    # Unequal shares: the mean is over all tokens, not over the processes' means.
    calibrate(model, batches[:1] if rank else batches[1:], num_images=16)
    torch.save(model.state_dict(), folder / f'{rank}.pth')


def test_processes_are_merged(tmp_path):
    model, batches = model_and_batches()
    batches = list(batches)
    run_in_two_processes(_worker, tmp_path, batches)
    calibrate(model, batches, num_images=16)
    for rank in range(2):
        for key, value in torch.load(tmp_path / f'{rank}.pth').items():
            assert torch.allclose(value, model.state_dict()[key], rtol=1e-4, atol=1e-5)


@pytest.fixture
def stock(stock_config_file, tmp_path):
    """A stock checkpoint, and its model."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(str(stock_config_file)).model)
    meta = dict(dataset_meta=dict(classes=['a', 'b']))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'stock.pth')
    return tmp_path / 'stock.pth', model


def test_a_stock_checkpoint_in_a_denoised_one_out(stock, stock_config_file, tmp_path):
    path, model = stock
    out = tmp_path / 'out' / 'denoised.pth'
    for target in (out, tmp_path / 'again.pth'):
        done = tool('calibrate', stock_config_file, path, target, '--fuse', cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert '16/16' in done.stdout and 'ETA' in done.stdout
    assert out.read_bytes() != path.read_bytes()
    checkpoint, again = torch.load(out), torch.load(tmp_path / 'again.pth')
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert checkpoint['meta']['dataset_meta'] == dict(classes=['a', 'b'])
    changed = {
        key
        for key, value in torch.load(path)['state_dict'].items()
        if not torch.equal(value, checkpoint['state_dict'][key])
    }
    assert changed == {'backbone.conv1.weight', 'backbone.conv2.weight'}
    for key, value in again['state_dict'].items():
        assert torch.equal(value, checkpoint['state_dict'][key])
    assert sorted(p.name for p in out.parent.iterdir()) == ['denoised.pth', 'denoised.py']


def test_without_fuse_the_result_trains_further(stock, stock_config_file, tmp_path):
    path, _ = stock
    out = tmp_path / 'calibrated.pth'
    done = tool('calibrate', stock_config_file, path, out, '--targets', 'conv1', cwd=tmp_path)
    assert done.returncode == 0 and '1 denoisers calibrated on 16 images' in done.stdout
    done = tool('train', tmp_path / 'calibrated.py', cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_refused_and_nothing_is_written(
    stock, stock_config_file, config_file, tmp_path, tool_here
):
    path, _ = stock
    stocks = stock_config_file
    for name, change in (
        ('lacking.pth', lambda state: state.pop('backbone.conv1.weight')),
        (
            'narrow.pth',
            lambda state: state.update({'backbone.conv1.weight': torch.zeros(4, 8, 3, 3)}),
        ),
        ('broken.pth', lambda state: state['backbone.conv1.weight'].fill_(torch.nan)),
    ):
        changed = copy.deepcopy(torch.load(path))
        change(changed['state_dict'])
        torch.save(changed, tmp_path / name)
    before = set(tmp_path.iterdir())
    for arguments, message in (
        ([stocks, path, 'out'], 'must be named *.pth'),
        ([stocks, path, path], 'is the checkpoint itself'),
        ([stocks, 'none.pth', 'out.pth'], 'there is no checkpoint none.pth'),
        ([stocks, path, 'out.pth', '--images', 'none'], 'there is no folder none'),
        ([stocks, path, 'out.pth', '--num-images', '0'], 'at least 1'),
        ([stocks, path, 'out.pth', '--clean', str(tmp_path)], '--clean goes with measured noise'),
        ([config_file, path, 'out.pth', '--targets', 'conv1'], 'has denoisers already'),
        (
            [config_file, path, 'out.pth', '--cfg-options', 'model.backbone.noise=measured'],
            'of measured noise, not of gaussian; give the degradations: --noise',
        ),
        (
            [config_file, path, 'out.pth', '--noise', 'fog:3'],
            'of gaussian noise, not of measured; give no degradations',
        ),
        ([stocks, 'lacking.pth', 'out.pth'], "lacks 'backbone.conv1"),
        ([stocks, 'narrow.pth', 'out.pth'], 'size mismatch for backbone.conv1'),
        (
            [stocks, 'broken.pth', 'out.pth'],
            "NaN or infinity in 'backbone.conv1.weight'",
        ),
    ):
        done = tool_here('calibrate', *arguments)
        assert done.code == 1 and message in done.last, done.lines
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_the_hook_starts_from_the_closed_form(loop, tmp_path):
    runs = []
    for i, init in enumerate(('zero', 'calibrated', 'calibrated')):
        toy = toy_config(tmp_path / str(i), epochs=1, init=init, calibration_images=8)
        toy.optim_wrapper.optimizer.lr = 0.0
        if loop == 'iterations':  # whose sampler never ends
            toy.train_cfg = dict(by_epoch=False, max_iters=6)
            toy.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
        if i == 2:  # trained denoisers stay
            toy.load_from = str(tmp_path / 'trained.pth')
        runner = Runner.from_cfg(toy)
        if i == 0:
            state = runner.model.state_dict()
            trained = {k: v + 1 if k.endswith('0.weight') else v for k, v in state.items()}
            torch.save(dict(state_dict=trained), tmp_path / 'trained.pth')
        runner.train()
        runs.append([d.weight.detach() for d in denoisers(runner.model).values()])
    zero, calibrated, kept = runs
    assert not any(weight.any() for weight in zero)
    assert all(weight.any() for weight in calibrated)
    assert all((weight == 1).all() for weight in kept)


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match=r"init must be one of .*'random'"):
        DenoiseRepHook(init='random')
