"""Draws docs/idea.png: one layer while it is trained, and the same layer as it is deployed."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, INK = '#dbe8f6', '#fbe3c8', '#d9efdb', '#222222'


def box(axes, x, y, text, color, width=1.9, height=0.8):
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle='round,pad=0.02,rounding_size=0.12',
            facecolor=color,
            edgecolor=INK,
            linewidth=1.2,
        )
    )
    axes.text(x, y, text, ha='center', va='center', fontsize=11, color=INK)


def arrow(axes, start, end, text='', offset=0.18, **style):
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=14, color=INK, **style)
    )
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.text(x, y + offset, text, ha='center', fontsize=11, color=INK)


def main() -> None:
    figure, axes = plt.subplots(figsize=(11, 5.2), layout='constrained')
    axes.set(xlim=(0, 11), ylim=(0.2, 5.6))
    axes.axis('off')

    axes.text(0.1, 5.2, 'training: only $W_D$ learns', fontsize=13, weight='bold', color=INK)
    arrow(axes, (0.3, 4.0), (2.3, 4.0), '$x$')
    box(axes, 3.4, 4.0, '$A = I - C_1(t)\\,W_D$', ORANGE, width=2.2)
    arrow(axes, (4.5, 4.0), (5.9, 4.0), '$A\\,x$')
    box(axes, 6.9, 4.0, 'layer $W$, frozen', BLUE)
    arrow(axes, (7.85, 4.0), (10.6, 4.0), '$Y = W A x + b$   to the task loss')
    arrow(axes, (1.2, 4.0), (1.2, 2.75), linestyle='--')
    axes.text(1.3, 3.3, '+ noise $\\epsilon$ of step $t$', fontsize=10, color=INK)
    arrow(axes, (1.2, 2.6), (2.3, 2.6), '$x_t$')
    box(axes, 3.4, 2.6, '$W_D\\,x_t$', ORANGE, width=2.2)
    arrow(axes, (4.5, 2.6), (5.9, 2.6))
    axes.text(6.0, 2.52, '$\\mathrm{Loss}_p = |\\epsilon - W_D\\,x_t|$', fontsize=11, color=INK)
    axes.plot([3.4, 3.4], [3.04, 3.56], color=INK, linewidth=1.2, linestyle=':')
    axes.text(3.5, 3.22, 'the same $W_D$', fontsize=9, color=INK)

    axes.plot([0.1, 10.9], [1.9, 1.9], color='#999999', linewidth=0.8)
    axes.text(0.1, 1.45, 'deployment: the stock layer', fontsize=13, weight='bold', color=INK)
    arrow(axes, (3.0, 0.75), (5.2, 0.75), '$x$')
    box(axes, 6.4, 0.75, "$W' = W A$", GREEN, width=2.2)
    arrow(axes, (7.5, 0.75), (10.6, 0.75), "$Y = W'x + b$   same cost, same keys")

    figure.savefig(Path(__file__).with_name('idea.png'), dpi=130)


if __name__ == '__main__':
    main()
