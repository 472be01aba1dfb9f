"""Published checkpoints of TransReID, TransReID-SSL, CLIP-ReID and DenoiseRep, for our models.

Everything in a file must have a place in the config's model or be of a kind that is known to be
unused; anything else is refused, and nothing is written.
"""

import os
import pickle
import re
from collections import OrderedDict
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from .backbone import ReIDViT
from .files import atomic_write
from .model import ReIDModel
from .text import BEFORE, CONTEXT, LEARNED, PROMPT, Prompts, TextEncoder, text_features

State = Dict[str, Tensor]
#: Data sets whose published classifiers have their rows in an order that names cannot tell: the
#: order of a Python set of large identities.
UNORDERED = ('DukeMTMCreID',)
CLASS_ORDERS = ('recover', 'drop')


class Mapped(NamedTuple):
    """A file's weights under our names, what was left out of it, and remarks."""

    state: State
    dropped: List[str]
    notes: List[str]


def convert_checkpoint(
    config: Config,
    path: str,
    out: str,
    pretraining: bool = False,
    class_order: Optional[str] = None,
) -> str:
    """Convert a published checkpoint for the model of a baseline config.

    Args:
        config (Config): The baseline, which knows architecture, persons and cameras.
        path (str): The published file. It is loaded as weights only.
        out (str): The file to write, with a 'state_dict' and what was dropped.
        pretraining (bool): Whether the file is one to start training from (ImageNet's, DINO's or
            CLIP's), which has weights for the backbone only. Defaults to False.
        class_order (str, optional): For DukeMTMC-reID, whose classifiers have their rows in an
            order that only their predictions tell: 'recover' it from the training images, which
            the config must find, or 'drop' the classifiers, without which a model can be tested
            and trained without labels.

    Returns:
        str: A report of several lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be loaded as weights only or does not fit the config.
    """
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    if class_order not in (None, *CLASS_ORDERS):
        raise ValueError(f'class_order must be one of {CLASS_ORDERS}, got {class_order!r}')
    if os.path.realpath(out) == os.path.realpath(path):
        raise ValueError(f'{out} is the published file itself; give another to write')
    model = MODELS.build(config.model)
    if not isinstance(getattr(model, 'backbone', None), ReIDViT):
        raise ValueError('the config has no ReIDViT; give the config of a baseline')
    state = load_weights(path)
    mapped = map_pretraining(state, model) if pretraining else map_checkpoint(state, model)
    data_set = config.train_dataloader.dataset.get('type')
    unordered = not pretraining and data_set in UNORDERED
    if unordered and class_order is None:
        raise ValueError(
            f'the classifiers of published {data_set} checkpoints have their rows in an order that '
            "cannot be told from names; give class_order 'recover' (needs the training images) or "
            "'drop' (for testing and label-free training)"
        )
    notes = list(mapped.notes)
    state = fitted(mapped.state, model, pretraining)
    if unordered and class_order == 'recover':
        notes.append(recover_class_order(model, config))
        state = OrderedDict((key, model.state_dict()[key]) for key in state)
    elif unordered:
        ours = [key for key in state if key.startswith(('head.classifiers.', 'head.text_features'))]
        state = OrderedDict((key, value) for key, value in state.items() if key not in ours)
        notes.append(f'without {", ".join(ours)}, whose order is not known')
    meta = dict(source=os.path.basename(path), dropped=mapped.dropped, notes=notes)
    with atomic_write(out) as file:
        torch.save(dict(meta=meta, state_dict=state), file)
    values = sum(value.numel() for value in state.values())
    lines = [f'{out}: {len(state)} tensors, {values / 1e6:.2f} M values, from {path}', *notes]
    if mapped.dropped:
        lines.append(f'dropped, for it is not used: {_grouped(mapped.dropped)}')
    return '\n'.join(lines)


def load_weights(path: str) -> State:
    """The tensors of a published file, without the wrappers that such files come in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds more than weights, or none.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'there is no checkpoint {path}')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().split('\n')[0][:150]
        raise ValueError(f'{path} cannot be loaded as weights only ({reason})') from error
    for wrapper in ('state_dict', 'model', 'teacher'):  # DINO's student is not wanted
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not any(torch.is_tensor(v) for v in state.values()):
        raise ValueError(f'{path} holds no weights')
    weights = OrderedDict(
        (re.sub(r'^(module\.|_orig_mod\.)+', '', key), value)
        for key, value in state.items()
        if torch.is_tensor(value)
    )
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f'{path}: {key} holds NaN or infinity')
    return weights


def map_checkpoint(state: State, model: ReIDModel) -> Mapped:
    """Give the weights of a published re-identification model our names.

    Raises:
        ValueError: If the layout is not known, or is of another model than the config's.
    """
    if 'base.cls_token' in state:
        return _map_transreid(state, model)
    if 'image_encoder.class_embedding' in state:
        return _map_clip_reid(state, model)
    if any(_is_pretraining_key(key) for key in state):
        raise ValueError(
            'the file is one to start training from, without classifiers: convert it with '
            'pretraining'
        )
    raise ValueError(
        'the layout is not known: expected the keys of TransReID (base.…) or CLIP-ReID '
        f'(image_encoder.…), got {", ".join(list(state)[:3])}, …'
    )


def map_pretraining(state: State, model: ReIDModel) -> Mapped:
    """Give the weights of a pre-trained ViT (timm, DINO) or of CLIP our names.

    Raises:
        ValueError: If the layout is not known, or is of another model than the config's.
    """
    if 'base.cls_token' in state or 'image_encoder.class_embedding' in state:
        raise ValueError(
            'the file is a trained re-identification model: convert it without pretraining'
        )
    mapped, dropped = OrderedDict(), []
    clip = 'visual.class_embedding' in state
    if clip != hasattr(model.backbone, 'projection'):
        raise ValueError(
            f'the file is {"" if clip else "not "}of CLIP, but the config is '
            f'{"not " if clip else ""}of CLIP-ReID'
        )
    for key, value in state.items():
        if clip and key.startswith('visual.'):
            found = _clip_name(key[len('visual.') :], value)
        elif clip:
            found = None
        else:
            found = _vit_name(re.sub(r'^backbone\.', '', key), value)
        if found is None:
            dropped.append(key)
        else:
            mapped[f'backbone.{found[0]}'] = found[1]
    if hasattr(model, 'text') and clip:  # CLIP-ReID's first stage
        mapped.update(_map_text(state))
        dropped = [key for key in dropped if f'text.{key}' not in mapped]
    last = f'backbone.layers.{model.backbone.num_layers - 1}.'
    if model.backbone.parts:  # JPM starts as a copy of the last layer
        for key in list(mapped):
            for source, target in ((last, 'local_layer.'), ('backbone.ln1.', 'local_norm.')):
                if key.startswith(source):
                    mapped[f'backbone.{target}{key[len(source) :]}'] = mapped[key].clone()
    return Mapped(mapped, dropped, [])


def fitted(state: State, model: nn.Module, pretraining: bool) -> State:
    """Load weights into the model, and the same weights as the model then has them.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape. Pre-training files may
            lack cameras and head, and bring position embeddings of another grid.
    """
    own = model.state_dict()
    unexpected = [key for key in state if key not in own]
    missing = [key for key in own if key not in state]
    if pretraining:
        missing = [
            key
            for key in missing
            if not key.startswith(('head.', 'prompts.cls_ctx')) and key != 'backbone.sie_embed'
        ]
    if unexpected or missing:
        raise ValueError(
            'the file does not fit the model of the config: '
            + '; '.join(
                f'{words} {_grouped(keys)}{_hint(keys)}'
                for words, keys in (('left over', unexpected), ('missing', missing))
                if keys
            )
        )
    for key, value in state.items():
        resized = pretraining and key == 'backbone.pos_embed'
        if value.shape != own[key].shape and not resized:
            raise ValueError(
                f'{key} has the shape {tuple(value.shape)} in the file and {tuple(own[key].shape)} '
                f'in the model of the config{_hint([key])}'
            )
    model.load_state_dict(state, strict=not pretraining)
    own = model.state_dict()
    return OrderedDict((key, own[key]) for key in own if key in state)


@torch.no_grad()
def recover_class_order(model: ReIDModel, config: Config) -> str:
    """Reorder the classifiers' rows so that row i is the person with the training label i.

    The row that most of a person's training images are assigned to is that person's.

    Args:
        model (ReIDModel): With the published weights; its classifiers are changed.
        config (Config): Whose training images are read, through the test pipeline.

    Returns:
        str: How sure it is, for the report.

    Raises:
        ValueError: If two persons get the same row.
    """
    loader = ConfigDict(config.test_dataloader)
    loader.dataset = ConfigDict(
        config.train_dataloader.dataset, pipeline=config.test_dataloader.dataset.pipeline
    )
    device = get_device()
    model.to(device)
    model.eval()
    votes = torch.zeros(model.head.num_classes, model.head.num_classes, dtype=torch.int64)
    for batch in Runner.build_dataloader(loader):
        data = model.data_preprocessor(batch)
        features = model.run_backbone(data['inputs'], data['data_samples'])
        rows = model.head.logits(features)[0].argmax(1).cpu()
        labels = torch.cat([sample.gt_label for sample in data['data_samples']]).cpu()
        votes.index_put_((labels, rows), torch.ones_like(rows), accumulate=True)
    model.to('cpu')
    count, order = votes.max(1)
    taken = torch.bincount(order, minlength=len(order))
    if (taken > 1).any():
        raise ValueError(
            f'the order of the classifiers cannot be recovered: {int((taken > 1).sum())} of '
            f'{len(order)} rows are the best one of several persons, so the model does not '
            "recognize these training images; use class_order 'drop'"
        )
    for classifier in model.head.classifiers:
        classifier.weight.copy_(classifier.weight[order])
    if model.head.text_features is not None:
        model.head.text_features.copy_(model.head.text_features[order])
    share = count.double() / votes.sum(1).clamp_min(1)
    return (
        f'class order recovered from {int(votes.sum())} images: at least {float(share.min()):.0%}, '
        f"on average {float(share.mean()):.1%} of a person's images agree"
    )


def _map_transreid(state: State, model: ReIDModel) -> Mapped:
    last = model.backbone.num_layers - 1
    jigsaw = 'b1.0.norm1.weight' in state
    if jigsaw != bool(model.backbone.parts):
        raise ValueError(
            f'the file is {"" if jigsaw else "not "}of a model with JPM (b1, b2), but the '
            f'config has backbone.parts={model.backbone.parts}'
        )
    mapped, dropped, notes = OrderedDict(), [], []
    for key, value in state.items():
        name = None
        if key.startswith('base.'):
            # With JPM the network ends with b1, and what it was copied from is never run.
            dead = jigsaw and key.startswith((f'base.blocks.{last}.', 'base.norm.'))
            found = None if dead else _vit_name(key[len('base.') :], value)
            name = found and f'backbone.{found[0]}'
        elif re.match(r'b[12]\.[01]\.', key):
            kind, part, rest = key.split('.', 2)
            if part == '1':
                name = f'backbone.{"ln1" if kind == "b1" else "local_norm"}.{rest}'
            else:
                layer, _ = _vit_name(f'blocks.{last}.{rest}', value)
                target = f'layers.{last}.' if kind == 'b1' else 'local_layer.'
                name = f'backbone.{layer}'.replace(f'layers.{last}.', target)
        else:
            match = re.fullmatch(r'(bottleneck|classifier)(?:_(\d))?\.(\w+)', key)
            if match:
                part = dict(bottleneck='necks', classifier='classifiers')[match.group(1)]
                name = f'head.{part}.{match.group(2) or 0}.{match.group(3)}'
            else:
                name = key  # to be reported as left over
        if name is None:
            dropped.append(key)
        else:
            mapped[name] = value
    if any('.dm.' in key for key in dropped):
        notes.append(
            "a checkpoint of DenoiseRep's authors: its weights are fused already, its denoisers "
            '(dm, time_mlp) are dropped'
        )
    return Mapped(mapped, dropped, notes)


def _map_clip_reid(state: State, model: ReIDModel) -> Mapped:
    if not hasattr(model.backbone, 'projection'):
        raise ValueError('the file is of CLIP-ReID, but the config has no backbone.projection')
    mapped, dropped, notes = OrderedDict(), [], []
    text: State = {}
    heads = dict(bottleneck='necks.0', bottleneck_proj='necks.1')
    heads.update(classifier='classifiers.0', classifier_proj='classifiers.1')
    for key, value in state.items():
        first, _, rest = key.partition('.')
        if first == 'image_encoder':
            found = _clip_name(rest, value)
            mapped.update([(key, value) if found is None else (f'backbone.{found[0]}', found[1])])
        elif key == 'cv_embed':
            mapped['backbone.sie_embed'] = value.float().unsqueeze(1)
        elif first in heads:
            mapped[f'head.{heads[first]}.{rest}'] = value
        elif first in ('text_encoder', 'prompt_learner'):
            text[key] = value
        else:
            mapped[key] = value  # to be reported as left over
    if model.head.text_features is not None:
        mapped['head.text_features'] = _text_features_of(text)
        notes.append('text features of all persons computed from prompts and text encoder')
    dropped.extend(text)
    return Mapped(mapped, dropped, notes)


def _text_features_of(state: State) -> Tensor:
    """The text features that a checkpoint's prompts and text encoder give."""
    part = {
        prefix: OrderedDict(
            (key[len(prefix) + 1 :], value.float())
            for key, value in state.items()
            if key.startswith(f'{prefix}.')
        )
        for prefix in ('prompt_learner', 'text_encoder')
    }
    try:
        projection = part['text_encoder']['text_projection']
        layers = {key.split('.')[2] for key in part['text_encoder'] if '.resblocks.' in key}
        encoder = TextEncoder(len(projection), len(layers), projection.shape[1])
        encoder.load_state_dict(part['text_encoder'])
        prompts = Prompts(len(part['prompt_learner']['cls_ctx']), len(projection))
        prompts.load_state_dict(part['prompt_learner'])
    except (KeyError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(f'text features cannot be computed from the file: {reason}') from error
    return text_features(encoder.eval(), prompts)


def _map_text(state: State) -> State:
    """CLIP's text encoder and the embedded words of the prompt, for the first stage."""
    kept = r'(transformer\.|ln_final\.|positional_embedding|text_projection).*'
    mapped = OrderedDict(
        (f'text.{k}', v.float()) for k, v in state.items() if re.fullmatch(kept, k)
    )
    words = torch.tensor([*PROMPT, *[0] * (CONTEXT - len(PROMPT))])
    if 'token_embedding.weight' not in state:
        raise ValueError("the file has no token_embedding.weight, CLIP's words")
    embedded = state['token_embedding.weight'].float()[words]
    mapped['prompts.token_prefix'] = embedded[None, :BEFORE]
    mapped['prompts.token_suffix'] = embedded[None, BEFORE + LEARNED :]
    return mapped


def _vit_name(key: str, value: Tensor) -> Optional[Tuple[str, Tensor]]:
    """Our name of a timm-like ViT's tensor; None for one that re-identification does not use."""
    if re.match(r'(fc|head|head_dist|pre_logits|dist_token)(\.|$)', key):
        return None
    # The denoisers of DenoiseRep's authors, beside the layer's weight and bias.
    if re.match(r'blocks\.\d+\.mlp\.fc[12]\.(?!(weight|bias)$)', key):
        return None
    for pattern, ours in (
        (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
        (r'^patch_embed\.conv\.', 'patch_embed.stem.'),
        (r'^norm\.', 'ln1.'),
        (r'^blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
        (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
        (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
        (r'^blocks\.', 'layers.'),
    ):
        key = re.sub(pattern, ours, key)
    return key, value


def _clip_name(key: str, value: Tensor) -> Optional[Tuple[str, Tensor]]:
    """Our name and shape of a tensor of CLIP's image encoder; None for an unknown one."""
    value = value.float()  # CLIP is given out in half precision
    if key == 'class_embedding':
        return 'cls_token', value.reshape(1, 1, -1)
    if key == 'positional_embedding':
        return 'pos_embed', value[None]
    if key == 'proj':
        return 'projection.weight', value.T.contiguous()
    for pattern, ours in (
        (r'^conv1\.', 'patch_embed.projection.'),
        (r'^ln_pre\.', 'pre_norm.'),
        (r'^ln_post\.', 'ln1.'),
        (r'^transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)$', r'layers.\1.attn.qkv.\2'),
        (r'^transformer\.resblocks\.(\d+)\.attn\.out_proj\.', r'layers.\1.attn.proj.'),
        (r'^transformer\.resblocks\.(\d+)\.ln_([12])\.', r'layers.\1.ln\2.'),
        (r'^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.', r'layers.\1.ffn.layers.0.0.'),
        (r'^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.', r'layers.\1.ffn.layers.1.'),
    ):
        renamed, count = re.subn(pattern, ours, key)
        if count:
            return renamed, value
    return None


def _is_pretraining_key(key: str) -> bool:
    return bool(re.match(r'(backbone\.)?(cls_token|blocks\.\d+\.)|visual\.', key))


def _hint(keys: List[str]) -> str:
    """What usually explains a tensor that does not fit."""
    for part, hint in (
        ('classifiers', 'persons (model.head.num_classes)'),
        ('text_features', 'persons (model.head.num_classes) or text features'),
        ('sie_embed', 'cameras (model.backbone.num_cameras)'),
        ('pos_embed', 'input size or stride (model.backbone.img_size, stride)'),
        ('.stem.', 'stem (model.backbone.stem)'),
        ('patch_embed.projection', 'stem or size (model.backbone.stem, arch)'),
        ('backbone.layers.', 'size (model.backbone.arch)'),
    ):
        if any(part in key for key in keys):
            return f': another number or kind of {hint}'
    return ''


def _grouped(keys: List[str], most: int = 4) -> str:
    """Keys, folded to where they are, and how many there are, for people."""
    counts: Dict[str, int] = {}
    for key in keys:
        parts = re.sub(r'\.\d+\.', '.N.', key).split('.')
        group = '.'.join(parts[: max(2, min(3, len(parts) - 1))])
        counts[group] = counts.get(group, 0) + 1
    shown = [f'{group} ({count})' for group, count in list(counts.items())[:most]]
    rest = len(counts) - len(shown)
    return ', '.join(shown) + (f' and {rest} more' if rest > 0 else '')
