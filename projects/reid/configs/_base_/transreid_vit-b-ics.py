# TransReID: patches that overlap (stride 12), camera embeddings (SIE) and part features (JPM).
# "ics" is the name that DenoiseRep's tables give it; there is no ICS stem in it.
_base_ = './transreid_vit-b.py'

model = dict(
    backbone=dict(stride=12, parts=4),
    head=dict(
        in_channels=[768, 768, 768, 768, 768],
        id_weights=[0.5, 0.125, 0.125, 0.125, 0.125],
        triplet_weights=[0.5, 0.125, 0.125, 0.125, 0.125],
        test_weights=[1.0, 0.25, 0.25, 0.25, 0.25],
    ),
)
