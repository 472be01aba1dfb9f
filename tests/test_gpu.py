"""What needs a GPU: `make test-gpu`. Without one, all of it is skipped."""

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from tiny import make_small
from torch import nn
from torch.nn import functional as F
from toy import ToyBackbone, stock_backbone, toy_config

from experiments.benchmark.samples import sample
from mmdenoiserep import Cascade, calibrate, denoisers, fuse_denoisers, insert_denoisers
from mmdenoiserep.calibration import Pair, calibrate_measured
from mmdenoiserep.cli import load_config
from mmdenoiserep.stock.checkpoint import load_checkpoint_file
from mmdenoiserep.stock.model import build_model, run_backbone, tensors_in
from mmdenoiserep.training import denoising_losses, freeze_base, matched_losses
from tools import ROOT, TOOLS, environment, tool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU'),
]

DEVICE = 'cuda'
HALF = torch.float16
#: How the keys of denoisers' weights end.
OWN = '.parametrizations.weight.0.weight'
#: The toy configs ask for deterministic algorithms, which cuBLAS has only under a setting of the
#: environment; what is tested here does not depend on them.
RANDOMNESS = 'randomness.deterministic=False'


@pytest.fixture(autouse=True)
def _comparable():
    """Float32 that is float32, not TensorFloat-32, to be compared with the CPU's."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [backend.allow_tf32 for backend in backends]
    deterministic = torch.are_deterministic_algorithms_enabled()
    for backend in backends:
        backend.allow_tf32 = False
    torch.use_deterministic_algorithms(False)  # which an earlier test's Runner may have left on
    torch.manual_seed(0)
    yield
    for backend, before in zip(backends, allowed):
        backend.allow_tf32 = before
    torch.use_deterministic_algorithms(deterministic)


def assert_close(found: Any, expected: Any) -> None:
    """Compare nested features, relative to the largest of each."""
    found, expected = tensors_in(found), tensors_in(expected)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected):
        assert (a.cpu() - b.cpu()).abs().max() < 1e-3 * b.abs().max()


def assert_has_gradients(model: nn.Module) -> None:
    """In every denoiser, and nowhere else."""
    own = {id(d.weight) for d in denoisers(model).values()}
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
        else:
            assert parameter.grad is None, name
    model.zero_grad(set_to_none=True)


def stock_toy(checkpoint: Path) -> nn.Module:
    """The stock toy model on the CPU with the weights of a fused checkpoint."""
    model = MODELS.build(toy_config(Path('unused'), stock_backbone()).model)
    model.load_state_dict(load_checkpoint_file(str(checkpoint))['state_dict'], strict=True)
    return model.eval()


@pytest.mark.parametrize('mode', ['label-free', 'label-aug'])
def test_training_in_mixed_precision(mode, tmp_path):
    config = toy_config(tmp_path, epochs=4, mode=mode)
    config.randomness.deterministic = False
    config.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    runner = Runner.from_cfg(config)
    seen = set()
    runner.model.backbone.conv1.register_forward_hook(
        lambda _, inputs, output: seen.add((output.device.type, output.dtype))
    )
    runner.train()
    assert (DEVICE, HALF) in seen
    for denoiser in denoisers(runner.model).values():
        assert denoiser.weight.dtype == torch.float32
        assert denoiser.weight.isfinite().all() and denoiser.weight.any()

    # What was written for the CPU computes what the unfused model computes here.
    images = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        found = runner.model.eval().backbone(images.to(DEVICE))
        assert_close(found, stock_toy(tmp_path / 'fused.pth').backbone(images))


@torch.no_grad()
def test_calibration_and_fusion_are_those_of_the_cpu():
    here = insert_denoisers(ToyBackbone()).eval()
    there = copy.deepcopy(here).to(DEVICE)
    batches = [torch.randn(4, 3, 12, 12) for _ in range(3)]
    calibrate(here, batches, max_tokens=None)
    calibrate(there, [batch.to(DEVICE) for batch in batches], max_tokens=None)
    for name, denoiser in denoisers(there).items():
        assert denoiser.weight.device.type == DEVICE and denoiser.weight.any()
        assert_close(denoiser.weight, denoisers(here)[name].weight)
    images = torch.randn(4, 3, 12, 12)
    unfused = there(images.to(DEVICE))
    assert_close(fuse_denoisers(there)(images.to(DEVICE)), unfused)
    assert_close(unfused, fuse_denoisers(here)(images))


@torch.no_grad()
def test_tokens_are_drawn_on_the_device():
    model = insert_denoisers(ToyBackbone()).eval().to(DEVICE)
    assert calibrate(model, [torch.randn(4, 3, 12, 12, device=DEVICE)], max_tokens=5) == 4
    assert all(d.weight.isfinite().all() and d.weight.any() for d in denoisers(model).values())


def test_measured_noise():
    cascade = Cascade(noise='measured')
    model = insert_denoisers(ToyBackbone(), cascade=cascade, reach='kernel').eval().to(DEVICE)

    def pair() -> Pair:
        # On the CPU: all of them are kept, and each goes to the GPU when it is needed.
        clean = F.interpolate(torch.randn(2, 3, 4, 4), (12, 12), mode='bicubic')
        return Pair(clean, clean + 0.5 * torch.randn_like(clean))

    pairs = [pair() for _ in range(16)]
    report = calibrate_measured(model, pairs[2:], pairs[:2])
    assert report.chosen.error.total(0.5) < report.stock.total(0.5)

    freeze_base(model)
    with torch.autocast(DEVICE, dtype=HALF):
        losses = matched_losses(model, denoisers(model), pairs[0].clean, pairs[0].degraded)
    losses.total['loss_denoise'].backward()
    assert_has_gradients(model)

    with torch.no_grad():
        unfused = model(pairs[0].degraded.to(DEVICE))
        assert_close(unfused, fuse_denoisers(model).cpu()(pairs[0].degraded))


def without_cuda_operators() -> bool:
    """Whether mmcv is there, but its operators were built for the CPU alone."""
    return pytest.importorskip('mmcv.ops').get_compiling_cuda_version() == 'not available'


def test_operators_of_mmcv_are_those_of_the_cpu():
    if without_cuda_operators():
        pytest.skip('mmcv was built without CUDA')
    from mmcv.ops import RoIAlign, nms

    features = torch.randn(1, 8, 32, 32)
    corners = torch.rand(50, 2) * 60
    boxes = torch.cat([corners, corners + 8 + torch.rand(50, 2) * 50], 1)
    rois = torch.cat([torch.zeros(50, 1), boxes], 1)
    scores = torch.rand(50)
    align = RoIAlign((7, 7), spatial_scale=0.25, sampling_ratio=2)
    assert_close(align(features.to(DEVICE), rois.to(DEVICE)), align(features, rois))
    _, kept = nms(boxes.to(DEVICE), scores.to(DEVICE), 0.5)
    _, expected = nms(boxes, scores, 0.5)
    assert torch.equal(kept.cpu(), expected) and 0 < len(kept) < 50


@pytest.mark.parametrize(
    'config',
    [
        'configs/resnet50_denoiserep.py',
        'configs/segformer_mit-b0_denoiserep.py',
        'configs/mask-rcnn_swinv2-t_denoiserep.py',
        'projects/vmamba/configs/vmamba-tiny_denoiserep.py',
        'projects/reid/configs/transreid_vit-b-ics_market1501_denoiserep.py',
    ],
    ids=lambda config: Path(config).stem,
)
def test_rows(config):
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(package)
    if 'mask-rcnn' in config and without_cuda_operators():
        pytest.skip('mmcv was built without CUDA')
    size = (256, 128) if 'reid' in config else (64, 64)
    config = load_config(str(ROOT / config))
    make_small(config, size)
    model = build_model(config, size).to(DEVICE)
    for mode in ('label-free', 'label-aug'):
        model.train()
        freeze_base(model)
        # Four images: for a triplet loss two of each person.
        data = model.data_preprocessor(sample(config, size, mode == 'label-aug', 4), True)
        with torch.autocast(DEVICE, dtype=HALF):
            if mode == 'label-free':
                run = partial(run_backbone, model, data['inputs'], data['data_samples'])
                losses = denoising_losses(denoisers(model), run)
            else:
                run = partial(model, **data, mode='loss')
                losses = denoising_losses(denoisers(model), run, 0.1)
            loss, _ = model.parse_losses(losses.total)
        loss.backward()
        assert loss.isfinite(), mode
        assert_has_gradients(model)

    for denoiser in denoisers(model).values():
        nn.init.normal_(denoiser.weight, std=denoiser.weight.shape[1] ** -0.5)
    unfused = features(model, sample(config, size))
    assert_close(unfused, features(fuse_denoisers(model).cpu(), sample(config, size)))


@torch.no_grad()
def features(model: nn.Module, batch: dict) -> Any:
    model.eval()
    data = model.data_preprocessor(batch)
    return run_backbone(model, data['inputs'], data['data_samples'])


def test_the_tools(config_file, stock_config_file, tmp_path):
    options = ('--cfg-options', RANDOMNESS)
    done = tool('train', config_file, '--amp', '--work-dir', 'work', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stock = stock_toy(tmp_path / 'work' / 'fused.pth')
    torch.save(dict(state_dict=stock.state_dict()), tmp_path / 'stock.pth')
    done = tool('calibrate', stock_config_file, 'stock.pth', 'out.pth', '--fuse', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not torch.equal(
        stock_toy(tmp_path / 'out.pth').backbone.conv1.weight, stock.backbone.conv1.weight
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='there are no two GPUs')
@pytest.mark.parametrize('mode', ['label-free', 'label-aug'])
def test_two_gpus(mode, config_file, tmp_path):
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
        *(TOOLS / 'train.py', config_file, '--launcher', 'pytorch', '--work-dir', 'work'),
        *('--cfg-options', RANDOMNESS, f'custom_hooks.0.mode={mode}'),
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    last = load_checkpoint_file(str(tmp_path / 'work' / 'epoch_2.pth'))
    assert last['meta']['iter'] == 4  # 16 images in 4 x 2, twice
    trained = [v for key, v in last['state_dict'].items() if key.endswith(OWN)]
    assert len(trained) == 2 and all(v.isfinite().all() and v.any() for v in trained)
    stock_toy(tmp_path / 'work' / 'fused.pth')
