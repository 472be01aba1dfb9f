"""Person re-identification for OpenMMLab: importing it adds its registrations to MMPretrain's."""

from .backbone import ReIDViT
from .convert import convert_checkpoint
from .datasets import CUHK03NP, MSMT17, DukeMTMCreID, Market1501, Market1501Halves
from .head import BNNeckHead
from .losses import BatchHardTripletLoss
from .metric import ReIDMetric
from .model import ReIDModel
from .preprocessor import ReIDDataPreprocessor
from .sampler import IdentityBatchSampler
from .text import PromptLearner, TextFeatureHook
from .visualization import RankedListHook

__all__ = [
    'CUHK03NP',
    'MSMT17',
    'BNNeckHead',
    'BatchHardTripletLoss',
    'DukeMTMCreID',
    'IdentityBatchSampler',
    'Market1501',
    'Market1501Halves',
    'PromptLearner',
    'RankedListHook',
    'ReIDDataPreprocessor',
    'ReIDMetric',
    'ReIDModel',
    'ReIDViT',
    'TextFeatureHook',
    'convert_checkpoint',
]
