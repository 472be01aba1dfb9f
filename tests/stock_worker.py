"""Loads checkpoints into stock configs, in a process that never sees mmdenoiserep.

Reads one job a line, as JSON: the stock config, the checkpoint, the file with the batch and
where predictions go. Answers each with a line of JSON.
"""

import copy
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from tiny import make_small, predict

# For the `custom_imports` of configs in projects/, behind this script's own folder.
sys.path.insert(1, str(Path(__file__).parent.parent))

# As tools/*.py do, for the maintained line's mmseg.
try:
    metadata.version(config_utils.MODULE2PACKAGE['mmseg'])
except metadata.PackageNotFoundError:
    config_utils.MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'


def work(job: dict) -> dict:
    """Load a checkpoint strictly and predict."""
    base = job['config']
    config = get_config(base) if '::' in base else Config.fromfile(base)
    init_default_scope(config.default_scope)
    make_small(config, tuple(job['size']))
    model = MODELS.build(copy.deepcopy(config.model))
    state = torch.load(job['checkpoint'], map_location='cpu', weights_only=True)['state_dict']
    if job['strict']:
        model.load_state_dict(state, strict=True)
    else:
        # The model drops keys of its own from whatever it loads.
        own = model.load_state_dict(model.state_dict(), strict=False)
        assert model.load_state_dict(state, strict=False) == own and not own.unexpected_keys
    batch = torch.load(job['batch'], weights_only=False)
    torch.save(predict(model, batch), job['predictions'])
    return dict(parameters=sum(p.numel() for p in model.parameters()))


if __name__ == '__main__':
    # mmcv's SyncBN is built in a process group or not at all.
    rendezvous = f'file://{tempfile.mkdtemp()}/rendezvous'
    torch.distributed.init_process_group('gloo', init_method=rendezvous, rank=0, world_size=1)
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    for line in sys.stdin:
        answer = work(json.loads(line))
        assert not any(name.startswith('mmdenoiserep') for name in sys.modules)
        print(json.dumps(answer), file=out, flush=True)
