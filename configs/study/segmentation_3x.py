# Does a baseline that is trained three times as long change the picture? Two seeds, for
# `--validation-only`: the test split was read for the shorter one.
_base_ = ['./segmentation.py']

baseline = 'baselines/fcn_r18_camvid_3x.py'
seeds = [0, 1]
ablations = dict(_delete_=True)
