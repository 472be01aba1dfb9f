"""Where real images are, and the full-size model that is tried on them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / 'shared' / 'data'
COCO = DATA / 'coco128'
CAMVID = DATA / 'camvid'
CONFIG = 'configs/mask-rcnn_swinv2-t_denoiserep.py'
BASELINE = 'configs/baselines/mask-rcnn_swinv2-t_fpn_1x_coco.py'

needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason=f'no images in {COCO}')
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no images in {CAMVID}')
