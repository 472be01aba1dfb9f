"""From a stock config to a DenoiseRep config and back."""

import ast
import copy
import os.path as osp
import re
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject

BACKBONE = 'DenoiseRepBackbone'
#: The attribute of a config that was made of another: the file of that.
SOURCE = '_source'
#: The end of a config's name.
NAME = re.compile(r'(\.(py|json|ya?ml))?$')
#: What every DenoiseRep config shares; `configs/_base_/denoiserep.py` says the same.
HOOKS = (
    dict(type='mmdenoiserep.DenoiseRepHook', mode='label-aug', lambda_=0.1),
    dict(type='mmdenoiserep.ResumableSeedHook'),
)
#: Types of ours by the stock type that does the same without us, with the options that it lacks
#: (None) or calls otherwise, and those that it needs.
STOCK_TYPES: Dict[str, Tuple[str, dict, dict]] = {
    'BoundaryIoU': ('mmseg.IoUMetric', {'dilation_ratio': None}, {}),
    'ImageFolder': ('mmpretrain.CustomDataset', {'folder': 'data_prefix'}, {'with_label': False}),
}


def with_named_types(config: Config) -> Config:
    """A config whose types are names: those of new-style (lazy import) configs are objects.

    Names are what can be compared, changed and written to a file; MMEngine imports them when it
    builds what they name.

    Args:
        config (Config): Of any style. Not changed.
    """
    parts = {
        key: value
        for key, value in dict.items(config._cfg_dict)
        if key not in getattr(config, '_imported_names', ())
    }
    return Config(_with_names(parts), config.text, config.filename, config.env_variables)


def text_of(config: Config) -> str:
    """A config as the text of a file.

    Raises:
        ValueError: If it holds something that has no text.
    """
    try:
        return with_named_types(config).pretty_text
    except SyntaxError as error:
        lines = str(error).splitlines()
        found = [line.strip() for line in lines if re.search(r'<\w.*>', line)]
        raise ValueError(
            'the config holds an object that cannot be written to a file'
            + (f': {found[0][:100]}' if found else '')
        ) from None


def is_denoiserep_config(config: Config) -> bool:
    """Whether a part of a config's model is wrapped already."""
    return bool(denoised_parts(config))


def denoised_parts(config: Config) -> List[dict]:
    """The configs of the parts of a model that have denoisers."""
    return [node for node in _dicts(config.get('model')) if type_name(node) == BACKBONE]


def to_denoiserep_config(
    config: Config,
    hooks: Optional[Sequence[dict]] = None,
    targets: Optional[Sequence[str]] = None,
) -> Config:
    """A stock config with its backbone wrapped: what three statements in a file do.

    Args:
        config (Config): The stock config. Not changed.
        hooks (Sequence[dict], optional): The hooks that train the denoisers, put before its own.
            Defaults to ``HOOKS``.
        targets (Sequence[str], optional): See :func:`mmdenoiserep.insert_denoisers`.

    Returns:
        Config: The DenoiseRep config, named ``<name>_denoiserep.py``.

    Raises:
        ValueError: If the config has denoisers already, or no ``model.backbone`` to wrap.
    """
    model = config.get('model')
    if not isinstance(model, dict):
        raise ValueError('the config has no model')
    if is_denoiserep_config(config):
        raise ValueError('the config has denoisers already')
    if not isinstance(model.get('backbone'), dict):
        raise ValueError(
            f'the config has no model.backbone to put denoisers into (its model is a '
            f'{model.get("type")}); wrap the part of the model that makes the features in a config '
            f"file: dict(type='mmdenoiserep.{BACKBONE}', module=<that part>)"
        )
    config = with_named_types(copy.deepcopy(config))
    wrapped = dict(type=f'mmdenoiserep.{BACKBONE}', module=config.model.backbone)
    if targets:
        wrapped['targets'] = list(targets)
    config.model.backbone = ConfigDict(wrapped)
    # First, so that they are `custom_hooks.0` here as in every other DenoiseRep config.
    hooks = [ConfigDict(hook) for hook in (HOOKS if hooks is None else hooks)]
    config.custom_hooks = [*hooks, *(config.get('custom_hooks') or [])]
    name = config.filename and NAME.sub('_denoiserep.py', str(config.filename), count=1)
    out = Config(config._cfg_dict, config.text, name, config.env_variables)
    vars(out)[SOURCE] = config.filename
    return out


def source_of(config: Config) -> Optional[str]:
    """The file that a config was read from, whatever :func:`to_denoiserep_config` calls it."""
    return vars(config).get(SOURCE, config.filename)


def to_stock_config(config: Config) -> Config:
    """The stock config inside a DenoiseRep config: nothing in it needs mmdenoiserep.

    Its backbone is unwrapped, its hooks are removed and its metric is MMSegmentation's again.

    Raises:
        ValueError: If the config has no DenoiseRepBackbone, or something of ours that no stock
            type replaces.
    """
    config = with_named_types(copy.deepcopy(config))
    if not is_denoiserep_config(config):
        raise ValueError(
            f"the config has no model part of type 'mmdenoiserep.{BACKBONE}'; give the "
            'DenoiseRep config that the checkpoint was trained with'
        )
    config.model = _unwrap(config.model)
    config.custom_hooks = [h for h in config.get('custom_hooks') or [] if not _is_ours(h)]
    imports = config.get('custom_imports')
    if imports:
        names = [n for n in listed(imports['imports']) if n.split('.')[0] != 'mmdenoiserep']
        imports['imports'] = names
        if not names:
            config.pop('custom_imports')
    config.load_from = None
    config.resume = False
    for node in _dicts(config._cfg_dict):
        stock, renamed, added = STOCK_TYPES.get(type_name(node), (None, {}, {}))
        if stock is not None and _is_ours(node):
            node['type'] = stock
            for key, other in renamed.items():
                value = node.pop(key, None)
                if other is not None:
                    node[other] = value
            node.update(added)
        if _is_ours(node):
            raise ValueError(
                f'the config uses {node["type"]}, which only mmdenoiserep has, so no stock config '
                'can be written; take it out of the config that is to be deployed'
            )
    return config


def bases_of(path: str) -> List[str]:
    """The local files that a config file is based on, and those that they are based on."""
    out: List[str] = []
    if osp.isfile(path):
        with suppress(Exception):  # a file that is no config is refused elsewhere
            bases = [b for b in listed(Config._get_base_files(path)) if '::' not in b]
            for base in (*bases, *_imported(path)):
                base = osp.join(osp.dirname(path), base)
                out += [base, *bases_of(base)]
    return out


def _imported(path: str) -> List[str]:
    """The files beside a new-style config that it imports in ``with read_base():``."""
    if not path.endswith('.py'):
        return []
    with open(path, encoding='utf-8') as file:
        blocks = [node for node in ast.parse(file.read()).body if isinstance(node, ast.With)]
    found = (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom))
    return [
        osp.join(*['..'] * (node.level - 1), *(node.module or '').split('.')) + '.py'
        for node in found
        if node.level
    ]


def package_of(config: Config) -> Optional[str]:
    """The package of OpenMMLab that a config is of: its scope, or where its model is from."""
    kind = str((config.get('model') or {}).get('type', ''))
    return config.get('default_scope') or (kind.split('.')[0] if '.' in kind else None)


def without_sync_norms(node: Any) -> Any:
    """A config or part of one with plain batch norms in place of synchronized ones.

    In one process they are the same, with the same keys. mmcv's cannot be built outside of a
    process group, and PyTorch's cannot train on a CPU.
    """
    if isinstance(node, Config):
        return Config(
            without_sync_norms(node._cfg_dict), node.text, node.filename, node.env_variables
        )
    if isinstance(node, dict):
        changed = ConfigDict({key: without_sync_norms(value) for key, value in node.items()})
        if changed.get('type') in ('SyncBN', 'MMSyncBN'):
            changed.type = 'BN'
        return changed
    if isinstance(node, (list, tuple)):
        return type(node)(without_sync_norms(value) for value in node)
    return node


def _with_names(node: Any, key: Any = None) -> Any:
    if isinstance(node, dict):
        # `dict.items`, since ConfigDict's own would build what is lazy.
        return ConfigDict({k: _with_names(v, k) for k, v in dict.items(node)})
    if isinstance(node, (list, tuple)):
        return type(node)(_with_names(value) for value in node)
    if isinstance(node, (LazyObject, LazyAttr)):
        return f'{node.module}.{node}' if key == 'type' else node
    if key == 'type' and callable(node) and hasattr(node, '__qualname__'):
        return f'{node.__module__}.{node.__qualname__}'
    return node


def _unwrap(node: Any) -> Any:
    if isinstance(node, dict):
        if type_name(node) == BACKBONE:
            return _unwrap(node['module'])
        return ConfigDict({key: _unwrap(value) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(_unwrap(value) for value in node)
    return node


def _dicts(node: Any) -> Iterator[dict]:
    """All dicts of a config or part of one, the outer first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)


def listed(value: Any) -> List[Any]:
    """What a config may hold alone, in a list or not at all, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def type_name(node: dict) -> str:
    """The name of a type without its scope; new-style configs hold the class itself."""
    kind = node.get('type')
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')


def _is_ours(node: dict) -> bool:
    kind = node.get('type')
    if not isinstance(kind, str):
        return getattr(kind, '__module__', '').split('.')[0] == 'mmdenoiserep'
    return kind.startswith('mmdenoiserep.') or kind in (
        'DenoiseRepHook',
        'ResumableSeedHook',
        'BoundaryIoU',
    )
