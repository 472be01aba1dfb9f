import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope, init_default_scope

sys.path.insert(0, str(Path(__file__).parent))  # for `import toy`, also in subprocesses' configs


@pytest.fixture(autouse=True)
def _mmengine_scope():
    """Every test starts in MMEngine's own scope, whatever ran before it."""
    if DefaultScope.get_current_instance() is not None:
        init_default_scope('mmengine')
