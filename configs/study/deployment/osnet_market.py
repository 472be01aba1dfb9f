# OSNet x0.25 on persons. The checkpoint: torchreid's, by experiments/deployment/convert.py
_base_ = './_base_arms.py'
model = 'models/osnet_market.py'
checkpoint = 'data/weights/osnet_x0_25.pth'
# Labels, here identities, train by the triplet loss alone: the classifier is of other persons.
arms = {
    'continued, labels': dict(
        config={
            'model.head.triplet_weights': (1,),
            'train_dataloader.batch_sampler': dict(type='IdentityBatchSampler', num_instances=4),
        }
    )
}
