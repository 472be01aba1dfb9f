# FCN on street scenes. The checkpoint:
#   python tools/train.py configs/study/baselines/fcn_r18_camvid.py --cfg-options randomness.seed=0
_base_ = './_base_150_iterations.py'
model = '../baselines/fcn_r18_camvid.py'
checkpoint = 'work_dirs/fcn_r18_camvid/iter_1800.pth'
arms = {
    'closed form, κ 0.9': dict(kind='measured', options=dict(keep_clean=0.9)),
    'output-matched, κ 0.9': dict(kind='matched', options=dict(keep_clean=0.9)),
}
