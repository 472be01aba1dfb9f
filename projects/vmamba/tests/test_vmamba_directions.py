"""What the four directions are: by definition, and by what they make of a turned image."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from projects.vmamba.vmamba import VMamba
from projects.vmamba.vmamba.layers import SS2D

#: For each direction the one that it becomes.
TRANSPOSED, TURNED = [1, 0, 3, 2], [2, 3, 0, 1]


def random_op(dim=8, ratio=2, d_state=3) -> SS2D:
    op = SS2D(dim, ratio, d_state).double()
    for parameter in op.parameters():
        nn.init.normal_(parameter, std=0.5)
    return op


def permute_directions(module: nn.Module, order: list, turn) -> None:
    """Give every scan the parameters of another direction, and turn all kernels."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = turn(part.weight.data).contiguous()
        if isinstance(part, SS2D):
            for name in ('x_proj_weight', 'dt_projs_weight', 'dt_projs_bias', 'A_logs', 'Ds'):
                parameter = getattr(part, name)
                by_direction = parameter.data.unflatten(0, (4, -1))
                parameter.data = by_direction[order].flatten(0, 1)


def test_four_loops_over_the_pixels():
    op, x = random_op(), torch.randn(2, 3, 5, 8).double()
    batch, height, width, _ = x.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    z = F.conv2d(op.in_proj(x).permute(0, 3, 1, 2), op.conv2d.weight, padding=1, groups=16)
    z = F.silu(z).permute(0, 2, 3, 1)
    y = torch.zeros_like(z)
    for k, pixels in enumerate((rows, columns, rows[::-1], columns[::-1])):
        A = -op.A_logs[16 * k : 16 * (k + 1)].exp()
        D = op.Ds[16 * k : 16 * (k + 1)]
        for b in range(batch):
            h = torch.zeros(16, 3).double()
            for i, j in pixels:
                u = z[b, i, j]
                r, B, C = (op.x_proj_weight[k] @ u).split([1, 3, 3])
                step = F.softplus(op.dt_projs_weight[k] @ r + op.dt_projs_bias[k])
                h = (step[:, None] * A).exp() * h + torch.outer(step * u, B)
                y[b, i, j] += h @ C + D * u
    expected = op.out_proj(op.out_norm(y))
    torch.testing.assert_close(op(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ('order', 'turn_image', 'turn_kernel'),
    [
        (TRANSPOSED, lambda x: x.transpose(1, 2), lambda w: w.transpose(2, 3)),
        (TURNED, lambda x: x.flip(1, 2), lambda w: w.flip(2, 3)),
    ],
    ids=['transposed', 'turned by 180 degrees'],
)
def test_a_turned_image(order, turn_image, turn_kernel):
    op, x = random_op(), torch.randn(2, 9, 13, 8).double()
    expected = turn_image(op(x))
    unlike = op(turn_image(x))
    permute_directions(op, order, turn_kernel)
    torch.testing.assert_close(op(turn_image(x)), expected, rtol=0, atol=1e-14)
    assert (unlike - expected).abs().max() > 0.1


def test_a_transposed_image_through_the_backbone():
    arch = dict(embed_dims=16, depths=(1, 2, 1, 1), ssm_ratio=2, d_state=2)
    model = VMamba(arch, out_indices=(0, 1, 2, 3)).double().eval()
    for parameter in model.parameters():  # directions that differ
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(1, 3, 70, 45).double()
    expected = model(x)
    permute_directions(model, TRANSPOSED, lambda w: w.transpose(2, 3))
    for found, reference in zip(model(x.transpose(2, 3)), expected):
        torch.testing.assert_close(found.transpose(2, 3), reference, rtol=0, atol=1e-12)
