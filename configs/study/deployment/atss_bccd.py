# ATSS on blood cells. The checkpoint:
#   python tools/train.py configs/study/baselines/atss_r18_bccd.py --cfg-options randomness.seed=0
_base_ = './_base_150_iterations.py'
model = '../baselines/atss_r18_bccd.py'
checkpoint = 'work_dirs/atss_r18_bccd/iter_400.pth'
dials = dict(
    targets=dict(kind='measured', grid=dict(targets=[['conv1'], ['conv1', 'layer1.*'], ['.*']]))
)
