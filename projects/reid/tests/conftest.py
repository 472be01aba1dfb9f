import os
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope, init_default_scope

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
# For the processes that tests start.
os.environ['PYTHONPATH'] = os.pathsep.join(
    [str(ROOT), str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]
)


@pytest.fixture(autouse=True)
def _mmpretrain_scope():
    """Every test starts in the scope of the configs, and leaves MMEngine's behind."""
    init_default_scope('mmpretrain')
    yield
    if DefaultScope.get_current_instance() is not None:
        init_default_scope('mmengine')
