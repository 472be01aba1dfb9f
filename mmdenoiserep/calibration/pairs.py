"""Denoisers in closed form from pairs: features of degraded images, and of the clean ones."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..conversion import denoisers
from ..network.streams import Stream
from ..network.tokens import draw, output_size, take_patches, take_tokens
from ..stock.model import run_backbone
from .lockstep import Job, run_in_lockstep

#: Tokens that are multiplied in float32 before they are added in float64.
BLOCK = 4096


class Pair(NamedTuple):
    """A batch of preprocessed clean images (N, C, H, W), and their degraded versions."""

    clean: Tensor
    degraded: Tensor
    data_samples: Any = None


class PairMoments:
    """What a layer's solution takes: E[z̃ z̃ᵀ] and E[r z̃ᵀ], summed over any number of tokens.

    z̃ is the layer's input in the student, (G, width); r what its output should gain, or its input.
    """

    def __init__(self, groups: int, width: int, rows: int, device: torch.device) -> None:
        kwargs = dict(dtype=torch.float64, device=device)
        self.gram = torch.zeros(groups, width, width, **kwargs)
        self.cross = torch.zeros(groups, rows, width, **kwargs)
        self.weight = torch.zeros((), **kwargs)

    def add(self, z: Tensor, gain: Tensor, weight: float) -> None:
        """Add tokens z (K, G·width) and gains (K, G·rows), float32."""
        groups, rows, width = self.cross.shape
        for a, b in zip(z.split(BLOCK), gain.split(BLOCK)):
            a = a.reshape(-1, groups, width).transpose(0, 1)
            b = b.reshape(-1, groups, rows).transpose(0, 1)
            self.gram += weight * (a.transpose(1, 2) @ a)
            self.cross += weight * (b.transpose(1, 2) @ a)
        self.weight += weight * len(z)

    def merge(self) -> None:
        """Add up what the processes of a distributed run have seen."""
        for total in (self.gram, self.cross, self.weight):
            all_reduce(total)

    def solve(self, ridge: float) -> Tensor:
        """argmin E‖r − S z̃‖² + ρ‖S‖², with ρ = ridge times the mean of the diagonal.

        Returns:
            Tensor: S, (G, rows, width), float64.
        """
        gram = self.gram / self.weight
        rho = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        gram.diagonal(dim1=-2, dim2=-1).add_(rho.clamp_min(1e-30)[:, None])
        factor = torch.linalg.cholesky(gram)
        return torch.cholesky_solve((self.cross / self.weight).transpose(1, 2), factor).transpose(
            1, 2
        )


class PairCalibration:
    """One pass that solves the denoisers of a model, layer after layer.

    Args:
        model (nn.Module): With denoisers of measured noise.
        streams (dict[str, Stream]): Layers whose target is the residual stream.
        keep_clean (float): κ, the share of clean pairs.
        ridge (float): Of layers that are solved by their own input.
        stream_ridge (float): Of those that write to a stream.
        max_tokens (int): Tokens per image and layer.
    """

    def __init__(
        self,
        model: nn.Module,
        streams: Dict[str, Stream],
        keep_clean: float = 0.5,
        ridge: float = 0.1,
        stream_ridge: float = 3.0,
        max_tokens: Optional[int] = 256,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.modules = denoisers(model)
        self.layers = {name: model.get_submodule(name) for name in self.modules}
        self.streams = streams
        self.keep_clean = keep_clean
        self.ridge = ridge
        self.stream_ridge = stream_ridge
        self.max_tokens = max_tokens
        self.seed = seed
        self.log: Dict[str, float] = {}

    @torch.no_grad()
    def run(self, pairs: Sequence[Pair]) -> None:
        """Solve all denoisers from pairs."""
        jobs, self.roles = [], []
        for i, pair in enumerate(pairs):
            jobs.append(self._job(pair.clean, pair, bypass=True))
            students = []
            if self.keep_clean < 1:
                students.append((len(jobs), 1 - self.keep_clean))
                jobs.append(self._job(pair.degraded, pair, bypass=False))
            if self.keep_clean > 0:
                students.append((len(jobs), self.keep_clean))
                jobs.append(self._job(pair.clean, pair, bypass=False))
            self.roles.append((len(jobs) - len(students) - 1, students, len(pair.clean)))
        self.seen: Dict[Tuple[int, str], Tensor] = {}
        self.generator = torch.Generator().manual_seed(self.seed)
        handles = self._watch_streams()
        try:
            run_in_lockstep(self.modules, jobs, self._at_layer)
        finally:
            for handle in handles:
                handle.remove()

    def _job(self, inputs: Tensor, pair: Pair, bypass: bool) -> Job:
        def run() -> None:
            with torch.no_grad():
                run_backbone(self.model, inputs, pair.data_samples)

        return Job(run, bypass)

    def _watch_streams(self) -> list:
        import threading

        handles = []
        for name, stream in self.streams.items():
            module = self.model.get_submodule(stream.module)

            def keep(_, args, output=None, name=name, side=stream.side):
                value = args[0] if side == 'input' else output
                self.seen[threading.get_ident(), name] = value

            register = (
                module.register_forward_pre_hook
                if stream.side == 'input'
                else module.register_forward_hook
            )
            handles.append(register(keep))
        return handles

    def _at_layer(self, name: str, inputs: List[Tensor], idents: List[int]) -> None:
        denoiser, layer = self.modules[name], self.layers[name]
        stream = self.streams.get(name)
        original = layer.parametrizations.weight.original
        groups, width, _ = denoiser.weight.shape
        flat = original.reshape(groups, -1, width)
        rows = flat.shape[1] if stream else width
        moments = PairMoments(groups, width, rows, original.device)
        for teacher, students, count in self.roles:
            x = inputs[teacher]
            spatial = isinstance(layer, nn.Conv2d) and (denoiser.spatial or stream is not None)
            total = (
                output_size(x, layer).numel()
                if spatial
                else x.numel() // x.shape[denoiser.channel_dim]
            )
            index = draw(total, self.max_tokens and self.max_tokens * count, self.generator)

            def take(value):
                if denoiser.spatial:
                    return take_patches(value, layer, index)
                return take_tokens(value, denoiser.channel_dim, index)

            z = take(x).float()
            for student, weight in students:
                z_student = take(inputs[student]).float()
                gain = z - z_student
                if stream is not None:
                    s, s_student = (
                        take_tokens(self.seen[idents[j], name], denoiser.channel_dim, index)
                        for j in (teacher, student)
                    )
                    scale = stream.scale.to(s)
                    gain = (
                        torch.einsum('kgc,goc->kgo', gain.reshape(-1, groups, width), flat).reshape(
                            len(gain), -1
                        )
                        + (s - s_student) / scale
                    )
                moments.add(z_student, gain, weight)
        moments.merge()
        solution = moments.solve(self.stream_ridge if stream else self.ridge)
        if stream is not None:
            wanted = solution
            solution = torch.linalg.pinv(flat.double(), rtol=1e-4) @ wanted
            self.log[name] = ((flat.double() @ solution - wanted).norm() / wanted.norm()).item()
        denoiser.weight.copy_(-solution)
