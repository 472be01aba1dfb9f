"""The converter on files of the published layouts, made anew, and on files that do not fit."""

import runpy
from collections import OrderedDict
from pathlib import Path

import people
import published
import pytest
import small
import torch
from mmengine.config import Config, ConfigDict

from projects.reid.reid import DukeMTMCreID, convert_checkpoint
from projects.reid.reid.convert import fitted, map_checkpoint

PIPELINE = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(64, 128), backend='pillow'),
    dict(type='PackInputs', algorithm_keys=('camera', 'is_query')),
]


def config_of(model, data_set='Market1501', data_root='nowhere'):
    loader = dict(
        batch_size=8,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    train = dict(type=data_set, data_root=data_root)
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            train_dataloader=dict(loader, dataset=train),
            test_dataloader=dict(loader, dataset=dict(train, split='test', pipeline=PIPELINE)),
        )
    )


def save(state, path, **wrap):
    torch.save(wrap or state, path)
    return str(path)


@pytest.fixture
def convert(tmp_path):
    """Convert a state dict for a model; the report, the file's content and a model with it."""

    def run(state, model, **options):
        config = config_of(ConfigDict(model), **options.pop('data', {}))
        path = state if isinstance(state, str) else save(state, tmp_path / 'published.pth')
        out = tmp_path / 'converted.pth'
        try:
            report = convert_checkpoint(config, path, str(out), **options)
        except Exception:
            assert not out.exists() and not list(tmp_path.glob('.converted*'))
            raise
        content = torch.load(out, weights_only=True)
        built = small.build(ConfigDict(model))
        partly = options.get('pretraining') or options.get('class_order') == 'drop'
        built.load_state_dict(content['state_dict'], strict=not partly)
        return report, content, built

    return run


LAYOUTS = {
    'TransReID': (published.TransReID, dict(), small.transreid()),
    'TransReID with SIE and JPM': (
        published.TransReID,
        dict(tokens=51, stride=12, cameras=6, jpm=True),
        small.transreid(stride=12, num_cameras=6, parts=4),
    ),
    'TransReID-SSL with ICS': (published.TransReID, dict(ics=True), small.transreid(stem='ics')),
    'CLIP-ReID': (published.ClipReID, dict(), small.clip_reid()),
}


@pytest.mark.parametrize('name', LAYOUTS)
@torch.no_grad()
def test_published_layouts(name, convert):
    network, options, model = LAYOUTS[name]
    reference = network(small.PERSONS, **options)
    state = OrderedDict((f'module.{k}', v) for k, v in reference.state_dict().items())
    report, content, built = convert(state, model)
    reference.eval()
    images = published.images()
    # The backbone's output is compared in test_reid_models; here, that it is all in the file.
    torch.testing.assert_close(built.backbone(images), reference(images), rtol=1e-5, atol=1e-5)
    scores = built.head.logits(reference(images))
    neck, classifier = reference.bottleneck, reference.classifier
    used = reference(images)[1 if name == 'CLIP-ReID' else 0]
    torch.testing.assert_close(scores[0], classifier(neck(used)), rtol=1e-5, atol=1e-5)
    dropped = set(content['meta']['dropped'])
    if name == 'CLIP-ReID':
        assert {key.split('.')[0] for key in dropped} == {'text_encoder', 'prompt_learner'}
        expected = reference.text_features()
        torch.testing.assert_close(built.head.text_features, expected, rtol=1e-4, atol=1e-4)
    else:
        dead = {k for k in reference.state_dict() if k.startswith('base.fc.')}
        if options.get('jpm'):
            ends = ('base.blocks.2.', 'base.norm.')
            dead |= {k for k in reference.state_dict() if k.startswith(ends)}
        assert dropped == dead
        assert 'base.fc (2)' in report


def test_denoiserep_checkpoints_are_said_to_be_fused(convert):
    reference = published.TransReID(small.PERSONS)
    report, content, built = convert(
        published.denoiserep(reference.state_dict()), small.transreid()
    )
    assert 'fused already' in report
    assert len(content['meta']['dropped']) == 2 + 3 * 2 * 9
    reference.eval()
    with torch.no_grad():
        images = published.images()
        torch.testing.assert_close(built.backbone(images), reference(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('wrapper', ['plain', 'dino'])
def test_pretraining_files(wrapper, convert, tmp_path):
    base = published.TransReID(9, tokens=17).base  # 4 x 4 patches
    del base.fc
    state = base.state_dict()
    if wrapper == 'plain':
        state.update({'head.weight': torch.ones(7, 24), 'pre_logits.fc.bias': torch.ones(3)})
    else:
        student = {f'module.backbone.{k}': v * 0 for k, v in state.items()}
        state = {f'module.backbone.{k}': v for k, v in state.items()}
        state['module.head.mlp.0.weight'] = torch.ones(3, 3)
        path = tmp_path / 'dino.pth'
        state = save(None, path, teacher=state, student=student, epoch=3)
    model = small.transreid(num_cameras=2, parts=4)
    _, content, built = convert(state, model, pretraining=True)
    assert not any(key.startswith('head') or 'sie' in key for key in content['state_dict'])
    assert built.backbone.pos_embed.shape[1] == 33  # resized to 8 x 4
    for (name, ours), theirs in zip(
        built.backbone.local_layer.named_parameters(), built.backbone.layers[-1].parameters()
    ):
        assert torch.equal(ours, theirs), name
    fc1 = base.blocks[1].mlp.fc1.weight
    assert torch.equal(built.backbone.layers[1].ffn.layers[0][0].weight, fc1)


def test_clip_itself_starts_the_first_stage(convert):
    reference = published.ClipReID(9)
    state = {f'visual.{k}': v.half() for k, v in reference.image_encoder.state_dict().items()}
    state.update(reference.text_encoder.state_dict())
    state['token_embedding.weight'] = torch.randn(49408, 64)
    state['logit_scale'] = torch.tensor(4.6)
    second = small.clip_reid()
    first = dict(
        type='PromptLearner',
        backbone=second.backbone,
        num_classes=small.PERSONS,
        channels=64,
        num_layers=2,
    )
    _, content, built = convert(state, first, pretraining=True)
    assert content['meta']['dropped'] == ['token_embedding.weight', 'logit_scale']
    words = state['token_embedding.weight']
    whole = built.prompts(torch.tensor([0]))[0]
    assert torch.equal(whole[:5], words[[49406, 320, 1125, 539, 320]])
    assert torch.equal(whole[9:12], words[[2533, 269, 49407]])
    assert torch.equal(whole[12:], words[[0]].expand(65, -1))
    _, content, _ = convert(state, second, pretraining=True)
    assert all(key.startswith('backbone.') for key in content['state_dict'])


def refusals():
    """Files and configs that do not go together, and what is said."""
    plain = published.TransReID(small.PERSONS).state_dict()
    jigsaw = published.TransReID(small.PERSONS, tokens=51, stride=12, cameras=6, jpm=True)
    jigsaw = jigsaw.state_dict()
    clip = published.ClipReID(small.PERSONS).state_dict()
    cameras = published.TransReID(small.PERSONS, cameras=2).state_dict()
    nan = dict(plain, **{'base.norm.bias': torch.full((24,), float('nan'))})
    ours = small.transreid()
    return {
        'JPM in the file only': (jigsaw, small.transreid(stride=12, num_cameras=6), 'with JPM'),
        'JPM in the config only': (plain, small.transreid(parts=4), 'not of a model with JPM'),
        'other persons': (published.TransReID(7).state_dict(), ours, r'\(7, 24\).*num_classes'),
        'another grid': (
            published.TransReID(small.PERSONS, tokens=51).state_dict(),
            ours,
            r'pos_embed .*\(1, 51, 24\).*input size or stride',
        ),
        'other cameras': (cameras, small.transreid(num_cameras=3), r'\(2, 1, 24\).*num_cameras'),
        'cameras left over': (cameras, ours, 'left over backbone.sie_embed.*num_cameras'),
        'cameras missing': (plain, small.transreid(num_cameras=3), 'missing backbone.sie_embed'),
        'a stem': (plain, small.transreid(stem='ics'), 'missing .*stem'),
        'a part missing': (
            {k: v for k, v in plain.items() if 'blocks.1.' not in k},
            ours,
            r'missing backbone\.layers\.N',
        ),
        'something unknown': (dict(plain, extra=torch.ones(1)), ours, 'left over extra'),
        'CLIP-ReID for TransReID': (clip, ours, 'of CLIP-ReID, but'),
        'TransReID for CLIP-ReID': (plain, small.clip_reid(), 'does not fit'),
        'CLIP-ReID without text': (
            {k: v for k, v in clip.items() if 'cls_ctx' not in k},
            small.clip_reid(),
            'text features cannot',
        ),
        'NaN': (nan, ours, r'base\.norm\.bias holds NaN'),
        'DINO': (
            {f'module.backbone.{k[5:]}': v for k, v in plain.items() if k.startswith('base.')},
            ours,
            'convert it with pretraining',
        ),
        'another layout': ({'conv1.weight': torch.ones(1)}, ours, 'layout is not known'),
        'no weights': (dict(epoch=3), ours, 'no weights'),
    }


@pytest.mark.parametrize('name', refusals())
def test_what_does_not_fit_is_refused_in_one_line(name, convert):
    state, model, words = refusals()[name]
    with pytest.raises(ValueError, match=words) as caught:
        convert(state, model)
    assert '\n' not in str(caught.value)


def test_files_that_are_no_weights_are_refused(convert, tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / 'run'), 'w'))

    torch.save(dict(a=Code()), tmp_path / 'code.pth')
    for path, error, words in (
        ('code.pth', ValueError, 'weights only'),
        ('missing.pth', FileNotFoundError, 'no checkpoint'),
    ):
        with pytest.raises(error, match=words) as caught:
            convert(str(tmp_path / path), small.transreid())
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match='convert it without pretraining'):
        convert(published.TransReID(5).state_dict(), small.transreid(), pretraining=True)


def test_the_tool_prints_a_report_or_one_line(tmp_path, monkeypatch, capsys):
    config = tmp_path / 'config.py'
    config_of(small.transreid()).dump(config)
    source = save(published.TransReID(small.PERSONS).state_dict(), tmp_path / 'published.pth')
    tool = Path(__file__).parents[1] / 'tools' / 'convert.py'

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['convert.py', *map(str, arguments)])
        runpy.run_path(str(tool), run_name='__main__')

    run(config, source, tmp_path / 'out.pth')
    assert 'dropped, for it is not used: base.fc (2)' in capsys.readouterr().out
    for arguments, words in (
        ((config, source, tmp_path / 'no.pth', '--pretraining'), 'without pretraining'),
        ((config, tmp_path / 'none.pth', tmp_path / 'no.pth'), 'there is no checkpoint'),
        ((tmp_path / 'none.py', source, tmp_path / 'no.pth'), f'^{tmp_path / "none.py"}: '),
    ):
        with pytest.raises(SystemExit, match=words) as caught:
            run(*arguments)
        assert '\n' not in str(caught.value)
    assert not (tmp_path / 'no.pth').exists()


class TestDuke:
    """The order of the classifiers of DukeMTMC-reID is not known."""

    ids = (5, 90, 7100, 7139, 7140)
    order = torch.tensor([3, 0, 4, 2, 1])  # the row of each label

    @pytest.fixture
    def duke(self, tmp_path):
        """A model that recognizes its training images, and the same with shuffled rows."""
        root = people.write_market(
            tmp_path / 'duke', train=people.shots(self.ids, 2, 3), name='{0:04d}_c{1}_f{2:07d}.jpg'
        )
        data = dict(data_set='DukeMTMCreID', data_root=str(root))
        torch.manual_seed(0)
        reference = published.TransReID(small.PERSONS)
        reference.eval()
        model = small.build(small.transreid())
        fitted(map_checkpoint(reference.state_dict(), model).state, model, pretraining=False)
        images = DukeMTMCreID(str(root), pipeline=PIPELINE)
        batch = [images[i] for i in range(len(images))]
        data_ = model.data_preprocessor(dict(inputs=[item['inputs'] for item in batch]))
        labels = torch.tensor([int(item['data_samples'].gt_label) for item in batch])
        with torch.no_grad():  # classifiers by least squares
            features = reference.bottleneck(model.backbone(data_['inputs'])[0])
            targets = torch.eye(5)[labels]
            rows = torch.linalg.lstsq(features, targets, driver='gelsd').solution.T
            assert ((features @ rows.T).argmax(1) == labels).float().mean() > 0.9
            reference.classifier.weight[self.order] = rows
        return reference.state_dict(), rows, data

    def test_an_unknown_order_is_refused(self, duke, convert):
        with pytest.raises(ValueError, match="class_order 'recover'"):
            convert(duke[0], small.transreid(), data=duke[2])

    def test_classifiers_can_be_dropped(self, duke, convert):
        report, content, _ = convert(duke[0], small.transreid(), data=duke[2], class_order='drop')
        assert 'without head.classifiers.0.weight' in report
        assert not any('classifiers' in key for key in content['state_dict'])

    def test_the_order_is_recovered_from_the_training_images(self, duke, convert):
        report, _, built = convert(duke[0], small.transreid(), data=duke[2], class_order='recover')
        assert torch.equal(built.head.classifiers[0].weight.data, duke[1])
        assert 'recovered from 30 images' in report

    def test_a_model_that_knows_nobody_is_refused(self, duke, convert):
        state = dict(duke[0], **{'classifier.weight': torch.randn(5, 24)[:1].repeat(5, 1)})
        with pytest.raises(ValueError, match='cannot be recovered'):
            convert(state, small.transreid(), data=duke[2], class_order='recover')
