"""What a study of a deployed model says: tables in Markdown, JSON and pictures."""

import json
import os.path as osp
from typing import Any, Dict, List, Optional, Tuple

from experiments import plots
from experiments.study.bootstrap import Difference
from mmdenoiserep.stock.files import atomic_write

from .arms import LABELS
from .plan import Study
from .results import ArmResult

Group = Tuple[str, ...]
Choices = Dict[str, Dict[str, Tuple[float, float]]]


def write_report(
    study: Study,
    results: Dict[Group, Dict[str, ArmResult]],
    choices: Choices,
    chosen: Dict[str, str],
    transfers: dict,
    latencies: Dict[str, float],
    depth: Dict[str, List[float]],
) -> str:
    """Write ``report.md``, ``scores.json`` and the pictures; the text of the report."""
    parts = [f'# {study.task.METRIC}: ways to a robust checkpoint']
    if results:
        parts += [
            f'Test images; in brackets 95 % intervals of {study.replicates} bootstrap samples of '
            'the images, in pairs with stock. Noisy is the mean over the noises.'
        ]
        for group, arms in results.items():
            parts += [f'## {", ".join(group)}', arm_table(study, arms, chosen, latencies)]
            if group[1:]:
                parts += [noise_table(arms)]
        if study.transfer['noises']:
            made_for = f'made for {study.noises[0]} or noises of its own'
            parts += [
                f"## Each arm's first checkpoint, {made_for}, under others",
                transfer_table(transfers),
            ]
        # The most arms, and of those the most noises.
        group, arms = max(results.items(), key=lambda item: len(item[1]))
        draw_minutes(study, group, arms, osp.join(study.root, 'minutes.png'))
        draw_depth(study, depth, osp.join(study.root, 'depth.png'))
    if choices:
        parts += ['## Validation images, every setting', choice_table(choices)]
        dials = {name: choices[name] for name in study.dials if name in choices}
        for name, settings in dials.items():
            draw_dial(study, name, settings, osp.join(study.root, f'dial_{name}.png'))
    text = '\n\n'.join(parts) + '\n'
    content = dict(
        test=[dict(noises=group, arms=_plain(arms)) for group, arms in results.items()],
        validation=choices,
        chosen=chosen,
        transfer=_plain(transfers),
        latency=latencies,
        depth=depth,
    )
    for name, body in (('report.md', text), ('scores.json', json.dumps(content, indent=1))):
        with atomic_write(osp.join(study.root, name)) as file:
            file.write(body.encode())
    return text


def arm_table(
    study: Study,
    results: Dict[str, ArmResult],
    chosen: Dict[str, str],
    latencies: Dict[str, float],
) -> str:
    """Each arm: what it brings, and what it takes."""
    columns = ('clean', 'to stock', 'noisy', 'recovered', 'labels', 'minutes', 'latency', 'setting')
    further = list(results['stock'].further)
    rows = []
    for name, result in results.items():
        arm = study.arms[name]
        setting = '' if chosen[name] == 'as-configured' else chosen[name]
        rows.append(
            [
                name,
                f'{result.clean.mean:.1f}',
                _spell(result.clean_change, '+', 1),
                f'{result.noisy.mean:.1f}',
                _share(result.recovered),
                *('{:.1f} / {:.1f}'.format(*result.further[metric]) for metric in further),
                'yes' if LABELS[arm.kind] else 'no',
                '' if arm.kind in ('stock', 'restore') else f'{result.minutes:.1f}',
                f'× {latencies.get(name, 1.0):.2f}',
                '; '.join(filter(None, (setting, result.note))),
            ]
        )
    columns = (*columns[:4], *(f'{metric}, clean / noisy' for metric in further), *columns[4:])
    return _table(['', *columns], rows)


def noise_table(results: Dict[str, ArmResult]) -> str:
    """Each arm under each noise."""
    names = list(results['stock'].noises)
    rows = []
    for name, result in results.items():
        cells = [result.noises.get(noise) for noise in names]
        rows.append([name, *(_cell(cell) for cell in cells)])
    return _table(['', *names], rows)


def transfer_table(transfers: dict) -> str:
    """Under noises that were not measured."""
    arms = list(transfers)
    rows = [
        [noise, *(_cell(transfers[arm][noise]) for arm in arms)] for noise in transfers['stock']
    ]
    return _table(['', *arms], rows)


def choice_table(choices: Choices) -> str:
    """Every setting on the validation images."""
    rows = [
        [name, setting, f'{clean:.1f}', f'{noisy:.1f}']
        for name, settings in choices.items()
        for setting, (clean, noisy) in settings.items()
    ]
    return _table(['', 'setting', 'clean', 'noisy'], rows)


def draw_minutes(study: Study, group: Group, results: Dict[str, ArmResult], path: str) -> None:
    """Recovered share against the minutes that it takes."""
    pyplot = plots.pyplot()
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    axis.set_prop_cycle(color=pyplot.get_cmap('tab20').colors)
    for name, result in results.items():
        if result.recovered is None:
            continue
        share = result.recovered
        error = plots.error_bar(*share)
        marker = 's' if LABELS[study.arms[name].kind] else 'o'
        minutes = max(result.minutes, 0.01)
        axis.errorbar(minutes, share.mean, yerr=error, fmt=marker, capsize=3, label=name)
    axis.set_xscale('log')
    axis.axhline(0, color='gray', linewidth=0.8)
    axis.set_xlabel('minutes to make the checkpoint (squares: with labels)')
    axis.set_ylabel(f'recovered share of {study.task.METRIC}, %')
    axis.set_title(group[0] if len(group) == 1 else f'mean of {len(group)} noises')
    axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_depth(study: Study, depth: Dict[str, List[float]], path: str) -> None:
    """The error of each layer's input, through the network."""
    pyplot = plots.pyplot()
    figure, axis = pyplot.subplots(figsize=(8, 4))
    for name, errors in depth.items():
        axis.plot(errors, marker='.', label=name, color='black' if name == 'stock' else None)
    axis.set_xlabel('layer, in the order of the data')
    axis.set_ylabel(f'relative error of its input under {study.noises[0]}')
    axis.set_yscale('log')
    axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_dial(study: Study, name: str, settings: Dict[str, Tuple[float, float]], path: str) -> None:
    """Clean and noisy score by a setting, on the validation images."""
    pyplot = plots.pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 3.5))
    places = range(len(settings))
    for i, label in enumerate(('clean', study.noises[0])):
        axis.plot(places, [pair[i] for pair in settings.values()], marker='o', label=label)
    axis.set_xticks(places, [setting.split('=')[-1] for setting in settings])
    axis.set_xlabel(name)
    axis.set_ylabel(f'{study.task.METRIC}, validation')
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _table(header: List[str], rows: List[List[str]]) -> str:
    lines = ['| ' + ' | '.join(header) + ' |', '|---' + '|---:' * (len(header) - 1) + '|']
    return '\n'.join([*lines, *('| ' + ' | '.join(row) + ' |' for row in rows)])


def _spell(value: Difference, sign: str = '', digits: int = 1) -> str:
    form = f'{sign}.{digits}f'
    return f'{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]'


def _share(value: Optional[Difference]) -> str:
    return '' if value is None else f'{value.mean:.0f} % [{value.low:.0f}, {value.high:.0f}]'


def _cell(cell: Optional[tuple]) -> str:
    if cell is None:
        return ''
    score, won = cell
    return f'{score:.1f}' + ('' if won is None else f' ({won.mean:.0f} %)')


def _plain(value: Any) -> Any:
    """For JSON, with the names of fields."""
    if hasattr(value, '_asdict'):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
