"""Convert a published VMamba classifier to a checkpoint of MMPretrain's ImageClassifier.

    python -m projects.vmamba.vmamba.converter vssm1_tiny_0230s_ckpt_epoch_264.pth vmamba-tiny.pth

Names change and nothing else: every tensor is written as it was read.
"""

import argparse
import os
import pickle
import re
import sys
import tempfile
from typing import Dict, List, Tuple

import torch
from torch import Tensor

from .vmamba import ARCHS, VMamba

#: Names that the published code renames as it loads; files of its first version have them.
LEGACY = re.compile(r'(patch_embed\.(proj|norm)|norm|head)\.|.*\.(ln_1|self_attention)\.')
#: The classifier's norm acts before pooling, so it is the backbone's output norm.
RENAMED = {'classifier.norm.': 'backbone.outnorm3.', 'classifier.head.': 'head.fc.'}


class ConversionError(ValueError):
    """What does not fit, in one line."""


def convert(published: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], str, int]:
    """Rename the tensors of a published state dict.

    Args:
        published (dict[str, Tensor]): The 'model' of a published file, of the second version.

    Returns:
        tuple: The state dict of an ImageClassifier with VMamba, the name of its architecture and
        the number of classes.

    Raises:
        ConversionError: If a tensor is missing, left over or of another shape than that of the
            architecture, or if there is no such architecture.
    """
    for key, value in published.items():
        if not isinstance(value, Tensor):
            raise ConversionError(f'{key!r} is no tensor but a {type(value).__name__}')
    legacy = [key for key in published if LEGACY.match(key)]
    if legacy:
        raise ConversionError(f"{legacy[0]!r} is a name of VMamba's first version: not supported")
    arch = _recognize(published)
    classes = _shape(published, 'classifier.head.weight')[0]
    expected = published_shapes(arch, classes)
    missing = [key for key in expected if key not in published]
    left = [key for key in published if key not in expected]
    if missing or left:
        raise ConversionError(
            f'not a published VMamba {arch!r}: missing {_few(missing)}, unexpected {_few(left)}'
        )
    for key, shape in expected.items():
        if published[key].shape != shape:
            raise ConversionError(
                f'{key!r} is {(*published[key].shape,)}, but {shape} in VMamba {arch!r}'
            )
    return {_rename(key): value for key, value in published.items()}, arch, classes


def published_shapes(arch: str, classes: int = 1000) -> Dict[str, Tuple[int, ...]]:
    """Names and shapes of all tensors of a published classifier."""
    with torch.device('meta'):
        backbone = VMamba(arch, out_indices=(3,))
    shapes = {
        key.replace('outnorm3.', 'classifier.norm.'): (*value.shape,)
        for key, value in backbone.state_dict().items()
    }
    channels = shapes['classifier.norm.weight'][0]
    shapes['classifier.head.weight'] = (classes, channels)
    shapes['classifier.head.bias'] = (classes,)
    return shapes


def convert_file(source: str, target: str) -> List[str]:
    """Convert a file. The target appears complete or not at all.

    Args:
        source (str): A published file.
        target (str): The checkpoint to write.

    Returns:
        list[str]: What to tell the user.

    Raises:
        ConversionError: If the source cannot be read or does not fit, or is the target.
    """
    if os.path.realpath(source) == os.path.realpath(target):
        raise ConversionError(f'{target} would overwrite what it is made from')
    content = _load(source)
    if 'model' not in content:
        kind = "an MMEngine checkpoint already: load it as it is, it has a 'state_dict' and"
        kind = kind if 'state_dict' in content else 'not a published file: it has'
        raise ConversionError(f"{source} is {kind} no 'model'")
    if not isinstance(content['model'], dict):
        raise ConversionError(f"the 'model' in {source} is no state dict")
    state, arch, classes = convert(content['model'])
    dropped = sorted(str(key) for key in content if key != 'model')
    meta = dict(source=os.path.basename(source), arch=arch, num_classes=classes)
    _save(dict(state_dict=state, meta=meta), target)
    return [
        f'{target}: {len(state)} tensors of VMamba(arch={arch!r}), {classes} classes',
        f'dropped from the file: {", ".join(dropped) or "nothing"}',
    ]


def _load(source: str) -> dict:
    try:
        content = torch.load(source, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f'{source} is no checkpoint, or holds more than tensors, which would run code to load; '
            "where you trust it, save its 'model' alone as {'model': ...}"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise ConversionError(f'{source} cannot be read: {str(error).splitlines()[0]}') from error
    if not isinstance(content, dict):
        raise ConversionError(f'{source} holds no dict but a {type(content).__name__}')
    return content


def _save(checkpoint: dict, target: str) -> None:
    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, suffix='.partial')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(checkpoint, file)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)  # mkstemp's files are for their owner alone
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def _recognize(published: Dict[str, Tensor]) -> str:
    in_proj = _shape(published, 'layers.0.blocks.0.op.in_proj.weight')
    if len(in_proj) != 2:
        raise ConversionError(f"'layers.0.blocks.0.op.in_proj.weight' is {in_proj}, not (D, C)")
    blocks = (re.match(r'layers\.(\d+)\.blocks\.(\d+)\.norm\.weight$', key) for key in published)
    stages = [int(found.group(1)) for found in blocks if found]
    depths = tuple(stages.count(i) for i in sorted(set(stages)))
    inner, dim = in_proj
    for name, arch in ARCHS.items():
        if (arch.embed_dims, arch.depths, arch.embed_dims * arch.ssm_ratio) == (dim, depths, inner):
            return name
    raise ConversionError(
        f'no VMamba known here has {dim} channels, {inner} in the scan, and blocks {depths}'
    )


def _shape(published: Dict[str, Tensor], key: str) -> Tuple[int, ...]:
    if key not in published:
        raise ConversionError(f'not a published VMamba classifier: {key!r} is missing')
    shape = (*published[key].shape,)
    if not shape:
        raise ConversionError(f'{key!r} is a single number')
    return shape


def _rename(key: str) -> str:
    for old, new in RENAMED.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return f'backbone.{key}'


def _few(keys: List[str]) -> str:
    more = f' and {len(keys) - 3} more' if len(keys) > 3 else ''
    return (', '.join(map(repr, keys[:3])) or 'nothing') + more


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('source', help="a file of VMamba's releases")
    parser.add_argument('target', help='the checkpoint to write')
    args = parser.parse_args()
    try:
        print(*convert_file(args.source, args.target), sep='\n')
    except ConversionError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
