"""mmdenoiserep's children of MMEngine's registries."""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='mmdenoiserep', locations=['mmdenoiserep.models']
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmdenoiserep', locations=['mmdenoiserep.hooks']
)
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmdenoiserep', locations=['mmdenoiserep.metrics']
)
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmdenoiserep', locations=['mmdenoiserep.datasets']
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmdenoiserep',
    locations=['mmdenoiserep.transforms'],
)
