"""What a layer's denoiser is solved from: moments of its input in the student, and of its gain."""

import copy
from typing import List, Tuple

import torch
from mmengine.dist import all_reduce, is_distributed
from torch import Tensor

#: Tokens that are multiplied at a time, in float32, before they are added in float64.
BLOCK = 4096
#: Most that a standard deviation is raised by; ridge of the constant that stands for a bias.
LARGEST, CONSTANT = 3.0, 1e-3


class PairMoments:
    r"""E[z̃ z̃ᵀ] and E[g z̃ᵀ], summed over any number of tokens; without pairs E[z zᵀ] for the latter.

    z̃ is the layer's input in the student, z that in the teacher, and g what a linear map of z̃ is
    to add: z − z̃, or for a layer that writes to a residual stream what its output is to gain.

    Args:
        groups (int): Groups G of the layer.
        width (int): Entries of z in a group.
        rows (int): Entries of g in a group.
        device (torch.device): Where the sums are.
        means (bool): Whether first moments are summed, too, for :meth:`with_variance`; g is z − z̃
            then. Defaults to False: for depthwise layers they take as long as the second ones.
    """

    def __init__(
        self, groups: int, width: int, rows: int, device: torch.device, means: bool = False
    ) -> None:
        self.gram = torch.zeros(groups, width, width, dtype=torch.float64, device=device)
        self.cross = torch.zeros(groups, rows, width, dtype=torch.float64, device=device)
        self.weight = torch.zeros((), dtype=torch.float64, device=device)
        self.means = means
        #: Sums of z̃, z and z².
        self.sums = torch.zeros(3, groups, width, dtype=torch.float64, device=device)
        self._waiting: List[Tuple[Tensor, Tensor, float]] = []

    def add(self, z: Tensor, gain: Tensor, weight: float) -> None:
        """Add tokens z̃ (K, G·width) and their gains (K, G·rows), float32."""
        self._waiting.append((z, gain, weight))
        if sum(len(tokens) for tokens, _, _ in self._waiting) >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Multiply the tokens that wait: a product for each image would mostly add up matrices."""
        groups = len(self.gram)
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        tokens, gains = (torch.cat(parts) for parts in list(zip(*waiting))[:2])
        weights = torch.cat([torch.full((len(z), 1), w).to(z) for z, _, w in waiting])
        for part in zip(tokens.split(BLOCK), gains.split(BLOCK), weights.split(BLOCK)):
            a, b, weighted = (
                x.reshape(len(x), groups, -1).transpose(0, 1)
                for x in (part[0], part[1], part[2] * part[0])
            )
            self.gram += weighted.transpose(1, 2) @ a
            self.cross += b.transpose(1, 2) @ weighted
            if self.means:
                self.sums[0] += weighted.sum(1)
                self.sums[1] += (part[2] * (a + b)).sum(1)
                self.sums[2] += (part[2] * (a + b).square()).sum(1)
        self.weight += weights.double().sum()

    def add_unpaired(self, z: Tensor, z_student: Tensor) -> None:
        """Add tokens of the teacher and of the student that show different images."""
        groups, _, width = self.cross.shape
        for total, tokens in ((self.cross, z), (self.gram, z_student)):
            for block in tokens.split(BLOCK):
                block = block.reshape(-1, groups, width).transpose(0, 1)
                total += block.transpose(1, 2) @ block * (len(z) / len(tokens))
        self.weight += len(z)

    def merged(self) -> 'PairMoments':
        """What all processes of a distributed run have seen; without one, the object itself."""
        self.flush()
        if not is_distributed():
            return self
        out = copy.deepcopy(self)
        for total in (out.gram, out.cross, out.sums, out.weight):
            all_reduce(total)
        return out

    def regress(self, ridge: float) -> Tensor:
        r"""argmin over S of E‖g − S z̃‖² + ρ‖S‖², ρ = ridge · mean of E[z̃ z̃ᵀ]'s diagonal.

        With g = z − z̃: A* = I + S = (E[z z̃ᵀ] + ρI)(E[z̃ z̃ᵀ] + ρI)⁻¹.

        Returns:
            Tensor: S, (G, rows, width), float64.
        """
        # Step by step: for wide kernels each of these matrices takes hundreds of megabytes.
        factor = torch.linalg.cholesky(_with_ridge(self.gram / self.weight, ridge))
        solution = torch.cholesky_solve(self.cross.transpose(1, 2), factor)
        return solution.transpose(1, 2).div_(self.weight)

    def with_variance(self, change: Tensor) -> Tensor:
        r"""A − I with which each entry of A z̃ varies as much as that of z: least squares shrink it.

        :math:`A' = D A + (\mu - D A \tilde\mu) v^T`, D the ratio of the standard deviations of z
        and A z̃ (1 to 3), μ and μ̃ the means of z and z̃, and :math:`v^T \tilde z \approx 1` the
        constant that there is no bias for.

        Args:
            change (Tensor): A − I, (G, width, width), float64.
        """
        moment = self.gram / self.weight
        mean_student, mean, power = (self.sums / self.weight).unsqueeze(-1)  # (G, width, 1)
        A = change + torch.eye(change.shape[-1]).to(change)
        predicted = A @ mean_student
        spread = (A @ moment * A).sum(-1, keepdim=True) - predicted.square()
        ratio = (power - mean.square()) / spread.clamp_min(1e-12)
        ratio = ratio.clamp(1, LARGEST**2).sqrt()
        factor = torch.linalg.cholesky(_with_ridge(moment, CONSTANT))
        constant = torch.cholesky_solve(mean_student, factor)
        offset = mean - ratio * predicted
        return ratio * A + offset @ constant.transpose(1, 2) - (A - change)

    def transport(self, ridge: float) -> Tensor:
        r"""A − I of the optimal transport map between the two Gaussians: no pairs are needed.

        :math:`A = \tilde M^{-1/2} (\tilde M^{1/2} M \tilde M^{1/2})^{1/2} \tilde M^{-1/2}`.

        Returns:
            Tensor: (G, width, width), float64.
        """
        student = _with_ridge(self.gram / self.weight, ridge)
        teacher = _with_ridge(self.cross / self.weight, ridge)
        root, inverse = _power(student, 0.5), _power(student, -0.5)
        transport = inverse @ _power(root @ teacher @ root, 0.5) @ inverse
        return transport - torch.eye(transport.shape[-1]).to(transport)


def _with_ridge(moment: Tensor, ridge: float) -> Tensor:
    """In place."""
    diagonal = moment.diagonal(dim1=-2, dim2=-1)
    if not torch.isfinite(moment).all():
        raise ValueError('the features hold NaN or infinity')
    diagonal.add_((ridge * diagonal.mean(-1, keepdim=True)).clamp_min(1e-12))
    return moment


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-300).pow(exponent).unsqueeze(-2)) @ vectors.transpose(
        -2, -1
    )
