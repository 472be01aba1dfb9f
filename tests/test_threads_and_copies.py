"""The Python interface under odd circumstances: threads, copies, dtypes, devices, checkpointing."""

import copy
import threading

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy import ToyBackbone, stock_backbone, toy_config

from mmdenoiserep import NoiseSchedule, denoisers, fuse_denoisers, insert_denoisers
from mmdenoiserep.apis.fit import check_backbone, check_fit
from mmdenoiserep.training import denoising_losses, record_noise_losses


@pytest.fixture
def model():
    torch.manual_seed(0)
    return insert_denoisers(ToyBackbone()).eval()


IMAGE = torch.ones(1, 3, 12, 12)


def test_threads_record_their_own_losses(model):
    found = denoisers(model)
    recorded = {}

    def work(thread: int) -> None:
        for step in range(20):
            with record_noise_losses(found, seed=thread) as losses:
                model(IMAGE * thread)
            recorded[thread, step] = losses

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded) == 80
    assert all(losses.keys() == found.keys() for losses in recorded.values())
    for (thread, _), losses in recorded.items():
        for name, loss in losses.items():
            assert torch.equal(loss, recorded[thread, 0][name])


def test_nested_recordings_both_record(model):
    found = denoisers(model)
    with record_noise_losses(found, seed=0) as outer:
        with record_noise_losses(found, seed=0) as inner:
            model(IMAGE)
        model(IMAGE)
    assert outer.keys() == inner.keys() == found.keys()


def test_a_copy_made_while_recording_does_not_record(model):
    found = denoisers(model)
    with record_noise_losses(found, seed=0) as losses:
        twin = copy.deepcopy(model)
        twin(IMAGE)
    assert not losses
    with record_noise_losses(denoisers(twin)) as losses:
        twin(IMAGE)
    assert losses.keys() == found.keys()


def test_an_empty_batch_has_no_loss(model):
    losses = denoising_losses(denoisers(model), lambda: model(IMAGE[:0]))
    assert losses.total['loss_denoise'].item() == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_models_of_any_dtype_are_probed(dtype):
    stock = ToyBackbone().to(dtype)
    model = insert_denoisers(stock)
    assert {d.weight.dtype for d in denoisers(model).values()} == {dtype}
    assert stock.stem.weight.dtype is dtype


def test_old_weight_norms_do_not_hinder_the_others():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            with pytest.warns(Warning, match='weight_norm'):
                self.normed = nn.utils.weight_norm(nn.Conv2d(4, 4, 3))
            self.last = nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.normed(self.stem(x)))

    assert list(denoisers(insert_denoisers(Model()))) == ['last']


def test_schedules_and_models_on_the_meta_device():
    with torch.device('meta'):
        assert NoiseSchedule().c1(1) == pytest.approx(0.010001, rel=1e-4)
        model = insert_denoisers(ToyBackbone())
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize('made_in', ['model', 'denoisers'])
def test_models_made_under_inference_mode(made_in):
    with torch.inference_mode(made_in == 'model'):
        model = ToyBackbone()
    with torch.inference_mode():
        insert_denoisers(model).eval()
        expected = model(IMAGE)
    with torch.no_grad():
        assert torch.equal(model(IMAGE), expected)
        fuse_denoisers(model)
        assert torch.equal(model(IMAGE), expected)


@MODELS.register_module(force=True)
class CheckpointedBackbone(ToyBackbone):
    """Checkpoints a part of it whatever its input needs, as RepLKNet does."""

    def __init__(self, reentrant: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(
            lambda y: torch.relu(self.bn(self.conv1(self.stem(y)))), x, use_reentrant=self.reentrant
        )
        return self.conv2(self.dropout(x))


def test_checkpointing_that_loses_a_part_of_the_gradient_is_refused(tmp_path):
    backbone = dict(
        type='mmdenoiserep.DenoiseRepBackbone', module=dict(type='CheckpointedBackbone')
    )
    with pytest.raises(ValueError, match='loses gradients of the denoisers'):
        Runner.from_cfg(toy_config(tmp_path / 'a', backbone, epochs=1)).train()
    Runner.from_cfg(toy_config(tmp_path / 'b', backbone, epochs=1, mode='label-free')).train()


def test_checkpointing_by_the_runner_is_refused_before_any_work(tmp_path):
    config = toy_config(tmp_path / 'a', epochs=1)
    config.activation_checkpointing = ['backbone']
    with pytest.raises(ValueError, match='activation_checkpointing=None'):
        Runner.from_cfg(config).train()
    config.activation_checkpointing, config.efficient_conv_bn_eval = None, ['backbone']
    config.experiment_name = 'efficient'
    with pytest.raises(ValueError, match='efficient_conv_bn_eval=None'):
        Runner.from_cfg(config).train()
    config = toy_config(tmp_path / 'b', epochs=1, mode='label-free')
    config.activation_checkpointing = ['backbone']
    Runner.from_cfg(config).train()


def test_a_random_backbone_is_refused_in_python_too(tmp_path):
    stock = MODELS.build(toy_config(tmp_path / 'x', stock_backbone()).model).state_dict()
    torch.save(dict(state_dict={k: v for k, v in stock.items() if 'conv' not in k}), tmp_path / 'a')
    torch.save(dict(state_dict={k: v for k, v in stock.items() if 'head' not in k}), tmp_path / 'b')
    config = toy_config(tmp_path / 'train', epochs=1)
    config.load_from = str(tmp_path / 'a')
    with pytest.raises(ValueError, match=r"lacks 'backbone.conv2.* of the backbone"):
        Runner.from_cfg(config).train()
    config = toy_config(tmp_path / 'again', epochs=1)
    config.load_from = str(tmp_path / 'b')  # a new head is usual
    Runner.from_cfg(config).train()


def test_denoisers_behind_the_backbone_are_in_no_stock_checkpoint(tmp_path):
    minus = dict(type='mmdenoiserep.DenoiseRepMinus', module=stock_backbone(), num_steps=2)
    config = toy_config(tmp_path, minus, epochs=1)
    model = MODELS.build(config.model)
    state = model.state_dict()
    stock = {k: v for k, v in state.items() if 'feature_denoisers' not in k}
    for weights in (stock, state):
        check_fit(model, dict(state_dict=weights), 'some.pth')
        check_backbone(model, dict(state_dict=weights))
    part = {k: v for k, v in state.items() if not k.endswith('denoisers.0.weight')}
    with pytest.raises(ValueError, match=r"lacks 'backbone.feature_denoisers.0.weight'"):
        check_fit(model, dict(state_dict=part), 'some.pth')
