"""CLIP-ReID's text side: prompts with learned words, the text encoder, and the first stage.

Li et al., "CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without
Concrete Text Labels", AAAI 2023. In the first stage both encoders of CLIP are frozen and each
person learns four words of "A photo of a X X X X person."; the second stage trains the image
encoder against the persons' text features, which no longer change and become a buffer.
"""

from typing import Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.model.wrappers import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.models.utils import QuickGELU
from mmpretrain.registry import HOOKS, MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

#: CLIP's byte-pair codes of "A photo of a X X X X person.", between start and end.
PROMPT = (49406, 320, 1125, 539, 320, 343, 343, 343, 343, 2533, 269, 49407)
#: Tokens of the prompt before the learned ones, and how many are learned.
BEFORE, LEARNED = 5, 4
CONTEXT = 77


class Prompts(nn.Module):
    """Embedded prompts with learned words for each person.

    Parameter and buffers have the names of the published checkpoints.

    Args:
        num_classes (int): Persons.
        channels (int): Channels of CLIP's words. Defaults to 512.
    """

    def __init__(self, num_classes: int, channels: int = 512) -> None:
        super().__init__()
        self.cls_ctx = nn.Parameter(torch.randn(num_classes, LEARNED, channels) * 0.02)
        self.register_buffer('token_prefix', torch.zeros(1, BEFORE, channels))
        rest = CONTEXT - BEFORE - LEARNED
        self.register_buffer('token_suffix', torch.zeros(1, rest, channels))

    def forward(self, labels: Tensor) -> Tensor:
        """Prompts of persons (N,): (N, 77, C)."""
        learned = self.cls_ctx[labels]
        before, after = (
            x.expand(len(labels), -1, -1) for x in (self.token_prefix, self.token_suffix)
        )
        return torch.cat([before, learned, after], dim=1)


class TextEncoder(nn.Module):
    """CLIP's text transformer on embedded prompts, with the keys of its state dict.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021.

    Args:
        channels (int): Width; a head has 64 channels. Defaults to 512.
        num_layers (int): Defaults to 12.
        out_channels (int): Channels of text features. Defaults to 512.
    """

    def __init__(self, channels: int = 512, num_layers: int = 12, out_channels: int = 512) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, channels) * 0.01)
        self.transformer = nn.ModuleDict(
            dict(resblocks=nn.ModuleList(_TextLayer(channels) for _ in range(num_layers)))
        )
        self.ln_final = nn.LayerNorm(channels)
        self.text_projection = nn.Parameter(torch.randn(channels, out_channels) * channels**-0.5)

    def forward(self, prompts: Tensor) -> Tensor:
        """Features (N, D) of prompts (N, 77, C), read at their end token."""
        # The mask is causal: what stands behind the end token cannot change it.
        x = prompts[:, : len(PROMPT)] + self.positional_embedding[: len(PROMPT)]
        for layer in self.transformer['resblocks']:
            x = layer(x)
        return self.ln_final(x)[:, -1] @ self.text_projection


class _TextLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, max(1, channels // 64), batch_first=True)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            dict(c_fc=nn.Linear(channels, 4 * channels), c_proj=nn.Linear(4 * channels, channels))
        )
        self.ln_2 = nn.LayerNorm(channels)
        self.activation = QuickGELU()

    def forward(self, x: Tensor) -> Tensor:
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=future)[0]
        return x + self.mlp['c_proj'](self.activation(self.mlp['c_fc'](self.ln_2(x))))


@torch.no_grad()
def text_features(encoder: TextEncoder, prompts: Prompts, batch_size: int = 64) -> Tensor:
    """Text features of all persons, (persons, D), float32."""
    persons = torch.arange(len(prompts.cls_ctx), device=prompts.cls_ctx.device)
    return torch.cat([encoder(prompts(chunk)) for chunk in persons.split(batch_size)]).float()


def supervised_contrastive_loss(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    r"""Each row of ``a`` against all of ``b``, of which those of its label are right.

    :math:`-\frac1N \sum_i \frac1{|P_i|} \sum_{p \in P_i} \log \mathrm{softmax}(a_i b^T)_p`
    (Khosla et al., NeurIPS 2020), at temperature 1.

    Args:
        a (Tensor): (N, D).
        b (Tensor): (N, D).
        labels (Tensor): Of the rows of both, (N,), int64.
    """
    positive = (labels[:, None] == labels[None]).float()
    log_probability = (a @ b.T).log_softmax(1)
    return -((log_probability * positive).sum(1) / positive.sum(1)).mean()


@MODELS.register_module()
class PromptLearner(BaseModel):
    """CLIP-ReID's first stage: the words of each person, nothing else, are learned.

    Image features do not change in it: each image's is computed once and kept, so the pipeline
    must not augment.

    Args:
        backbone (dict): A :class:`ReIDViT` with ``projection``; frozen, and run without cameras.
        num_classes (int): Persons in the training set.
        channels (int): Width of the text encoder. Defaults to 512.
        num_layers (int): Layers of the text encoder. Defaults to 12.
        data_preprocessor (dict, optional): As of the second stage, without erasing.
        init_cfg (dict, optional): See :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        channels: int = 512,
        num_layers: int = 12,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.prompts = Prompts(num_classes, channels)
        self.text = TextEncoder(channels, num_layers, self.backbone.projection.out_features)
        for module in (self.backbone, self.text):
            module.requires_grad_(False)
        self._image_features: Dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> 'PromptLearner':
        """Train the words; both encoders stay in eval mode."""
        super().train(mode)
        self.backbone.eval()
        self.text.eval()
        return self

    def forward(
        self, inputs: Tensor, data_samples: List[DataSample], mode: str = 'loss'
    ) -> Dict[str, Tensor]:
        """``loss_image_to_text`` and ``loss_text_to_image``."""
        if mode != 'loss':
            raise RuntimeError(
                'the first stage has nothing to test; train the second one from its checkpoint'
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        images = self._features_of(inputs, [sample.img_path for sample in data_samples])
        texts = self.text(self.prompts(labels))
        return dict(
            loss_image_to_text=supervised_contrastive_loss(images, texts, labels),
            loss_text_to_image=supervised_contrastive_loss(texts, images, labels),
        )

    @torch.no_grad()
    def _features_of(self, inputs: Tensor, paths: List[str]) -> Tensor:
        new = [i for i, path in enumerate(paths) if path not in self._image_features]
        if new:
            features = self.backbone(inputs[new])[-1].float()
            self._image_features.update((paths[i], f) for i, f in zip(new, features.clone()))
        return torch.stack([self._image_features[path] for path in paths])


@HOOKS.register_module()
class TextFeatureHook(Hook):
    """Puts the text features into checkpoints of the first stage, where the second expects them."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add ``head.text_features``, (persons, D)."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        features = text_features(model.text, model.prompts).cpu()
        checkpoint['state_dict']['head.text_features'] = features
