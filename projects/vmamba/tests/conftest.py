import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # the package, and what tests share


@pytest.fixture(autouse=True)
def _fresh():
    """Every test starts in MMEngine's own scope and from one seed."""
    if DefaultScope.get_current_instance() is not None:
        init_default_scope('mmengine')
    torch.manual_seed(0)
