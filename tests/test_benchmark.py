"""The benchmark's harness, and the tool on the smallest row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import ToyBackbone, ToyModel

from experiments.benchmark.dense import DenseFormulation
from experiments.benchmark.timing import Step, alternate
from experiments.convergence import expected_loss, loss_p, moments_of, train
from mmdenoiserep import Cascade, denoisers, insert_denoisers
from mmdenoiserep.calibration import closed_form
from mmdenoiserep.training import observe_inputs

ROOT = Path(__file__).parent.parent


def test_steps_alternate_and_warm_up_rounds_do_not_count():
    calls = []
    steps = {
        name: Step(lambda argument, name=name: calls.append((name, argument)), lambda: 7)
        for name in 'abc'
    }
    timings = alternate(steps, rounds=3, warmup=1)
    assert [name for name, _ in calls] == list('abccbaabccba')
    assert {argument for _, argument in calls} == {7}
    for timing in timings.values():
        assert len(timing.samples) == 3 and sorted(timing.samples)[1] == timing.median


def test_the_dense_formulation_predicts_at_every_token_of_every_layer():
    model = insert_denoisers(ToyBackbone()).eval()
    found = denoisers(model)
    dense = DenseFormulation(found, hidden=5)
    with torch.no_grad(), observe_inputs(found, dense.observe):
        model(torch.randn(2, 3, 12, 12))
    dense.loss().backward()
    assert all(p.grad.any() for p in dense.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_the_tool_measures_everything(tmp_path):
    pytest.importorskip('mmseg')
    command = [
        *(sys.executable, 'tools/benchmark.py', 'configs/segformer_mit-b0_denoiserep.py'),
        *('--size', '64', '64', '--rounds', '2', '--num-images', '2', '--device', 'cpu'),
        *('--memory-samples', '2'),
        *('--json', tmp_path / 'out.json', '--plot', tmp_path / 'out.png'),
    ]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads((tmp_path / 'out.json').read_text())
    assert out['size'] == [64, 64] and out['threads'] >= 1
    records = out['records']
    assert {'baseline', 'DenoiseRep⁻', 'label-aug step', 'calibration'} <= records.keys()
    assert all(len(record['samples']) == 2 for record in records.values())
    baseline, fused = records['baseline'], records['DenoiseRep, fused']
    for key in ('flops', 'parameters'):
        assert baseline[key] == fused[key] < records['DenoiseRep⁻'][key]
    assert baseline['parameters'] < records['DenoiseRep, unfused']['parameters']
    for name in ('baseline', 'stock step'):
        peaks = records[name]['peak_memory_samples']
        assert len(peaks) == 2 and min(peaks) > 2**20
        assert min(peaks) <= records[name]['peak_memory'] <= max(peaks)
    assert (tmp_path / 'out.png').stat().st_size > 1000


@torch.no_grad()
def test_the_expected_loss_is_the_mean_over_the_noise():
    torch.manual_seed(0)
    model = ToyModel(dict(type='ToyBackbone')).eval()
    insert_denoisers(model.backbone, loss='l2', cascade=Cascade(last_step=300, spacing=100))
    images = torch.randn(8, 3, 40, 40)
    moments = moments_of(model, [(images, None)])
    inputs = {}
    with observe_inputs(denoisers(model), lambda name, _, x: inputs.update({name: x})):
        model.backbone(images)
    for name, denoiser in denoisers(model).items():
        torch.nn.init.normal_(denoiser.weight, std=0.3)
        sampled = torch.stack([denoiser.noise_loss(inputs[name]) for _ in range(20)]).mean()
        assert expected_loss(denoiser, moments[name]) == pytest.approx(sampled.item(), rel=5e-3)


def test_training_goes_down_to_the_closed_form():
    torch.manual_seed(0)
    model = ToyModel(dict(type='ToyBackbone')).eval()
    insert_denoisers(model.backbone, loss='l2', cascade=Cascade(last_step=300, spacing=100))
    inputs = [(torch.randn(8, 3, 40, 40), None)]
    moments = moments_of(model, inputs)
    for name, denoiser in denoisers(model).items():
        best = closed_form(moments[name], denoiser.schedule.alpha_bar(denoiser.step))
        denoiser.weight.data.copy_(best)
    optimum, course = loss_p(model, moments), train(model, inputs, moments, 64, 0.01, max_steps=300)
    assert course.losses[0] == 1 and course.losses[-1] >= optimum
    assert course.losses[-1] - optimum < 0.2 * (1 - optimum)
    assert course.reach(1.0) == 0 and course.reach(optimum - 1) is None
