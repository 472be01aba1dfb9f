"""What a study says: tables in Markdown, JSON and pictures."""

import json
import os.path as osp
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Optional, Sequence

import numpy as np

from experiments import plots
from mmdenoiserep.stock.files import atomic_write

from .bootstrap import Difference, paired_difference, resamples
from .jobs import statistics_file
from .plan import Study, setting_name

#: What validation is followed by in training, as MMEngine logs it, and what makes it percent.
CURVES = {'mIoU': 1, 'coco/bbox_mAP': 100, 'accuracy/top1': 1, 'reid/mAP': 1}
#: For each seed, by metric, the score and its bootstrap samples.
Scores = List[Dict[str, np.ndarray]]


def load_scores(
    study: Study, folders: Sequence[str], split: str, replicates: Optional[int] = None
) -> Scores:
    """The scores of jobs on a split, under the same bootstrap samples for all."""
    number = study.replicates if replicates is None else replicates
    return [_scores(study.task, statistics_file(folder, split), number) for folder in folders]


def mean_score(scores: Scores, metric: str) -> float:
    """The mean over the seeds."""
    return float(np.mean([seed[metric][0] for seed in scores]))


def best_setting(study: Study, candidates: Dict[str, Scores]) -> str:
    """The name of the setting that the study's metric prefers."""
    sign = 1 if study.task.METRICS[study.metric] else -1
    return max(candidates, key=lambda name: sign * mean_score(candidates[name], study.metric))


def compare(study: Study, arms: Dict[str, Scores], references: Sequence[str]) -> dict:
    """Means, standard deviations and paired differences of all arms, by metric.

    Args:
        study (Study): The study.
        arms (dict[str, Scores]): By name, all with the same seeds and images.
        references (Sequence[str]): The arms that the others are compared with.
    """
    out: dict = {}
    for name, scores in arms.items():
        out[name] = {}
        for metric in study.task.METRICS:
            values = [float(seed[metric][0]) for seed in scores]
            entry = dict(values=values, mean=float(np.mean(values)))
            entry['sd'] = float(np.std(values, ddof=1)) if len(values) > 1 else float('nan')
            for reference in references:
                if reference != name and reference in arms:
                    entry[f'to {reference}'] = paired_difference(
                        [seed[metric] for seed in scores],
                        [seed[metric] for seed in arms[reference]],
                    )._asdict()
            out[name][metric] = entry
    return out


def table(study: Study, compared: dict, notes: Dict[str, str], references: Sequence[str]) -> str:
    """The study's metric for each arm, in Markdown."""
    differences = ''.join(f' to {reference} |' for reference in references)
    lines = [f'| arm | setting | {study.metric} |{differences}']
    lines.append('|---' * (3 + len(references)) + '|')
    for name, metrics in compared.items():
        entry = metrics[study.metric]
        cells = [name, notes.get(name, ''), f'{entry["mean"]:.2f} ± {entry["sd"]:.2f}']
        cells += [_difference(entry.get(f'to {reference}')) for reference in references]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def other_metrics(study: Study, compared: dict, reference: str = 'baseline') -> str:
    """The other metrics of each arm, with the difference to the baseline, in Markdown."""
    names = [metric for metric in study.task.METRICS if metric != study.metric]
    lines = ['| arm | ' + ' | '.join(names) + ' |', '|---' * (1 + len(names)) + '|']
    for name, metrics in compared.items():
        cells = [name]
        for metric in names:
            entry = metrics[metric]
            digits = 4 if metric == 'cross-entropy' else 2
            change = entry.get(f'to {reference}')
            text = f'{entry["mean"]:.{digits}f}'
            cells.append(text + (f'; {_difference(change, digits)}' if change else ''))
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def settings_table(study: Study, selections: dict) -> str:
    """Validation score and change of the weights of every setting, in Markdown."""
    lines = [f'| arm | setting | {study.metric}, validation | change of W |', '|---|---|---|---|']
    for name, settings in selections.items():
        for setting, found in settings.items():
            cells = (name, setting, f'{found["score"]:.2f}', f'{100 * found["change"]:.2f} %')
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def write_report(
    study: Study, tests: Optional[dict], validations: dict, selections: dict, chosen: dict
) -> str:
    """Write ``report.md``, ``scores.json`` and the pictures; the text of the report.

    Args:
        study (Study): The study.
        tests (dict, optional): Result of :func:`compare` on the test split, where it was read.
        validations (dict): The same of arms and ablations on the validation split.
        selections (dict): For each arm, by setting, ``score`` on the validation split and
            ``change`` of the weights.
        chosen (dict): The values of each arm's grid that were chosen.
    """
    notes = {name: setting_name(values) for name, values in chosen.items() if values}
    references = ('baseline', study.control)
    parts = []
    if tests:
        parts += [
            f'## Test split, {len(study.seeds)} seeds',
            table(study, tests, notes, references),
            other_metrics(study, tests),
        ]
        draw_arms(study, tests, osp.join(study.root, 'arms.png'))
    parts += [
        f'## Validation split, seeds {study.selection_seeds}',
        table(study, validations, notes, references),
        other_metrics(study, validations),
    ]
    parts += ['Every setting, and how far it moves the weights:', settings_table(study, selections)]
    draw_baselines(study, osp.join(study.root, 'baseline.png'))
    text = '\n\n'.join(parts) + '\n'
    Path(study.root, 'report.md').write_text(text, encoding='utf-8')
    content = dict(test=tests, validation=validations, selection=selections, chosen=chosen)
    Path(study.root, 'scores.json').write_text(json.dumps(content, indent=1), encoding='utf-8')
    return text


def draw_arms(study: Study, compared: dict, path: str) -> None:
    """Differences to the baseline and to the control, with their intervals."""
    pyplot = plots.pyplot()
    references = [r for r in ('baseline', study.control) if r in compared]
    figure, axes = pyplot.subplots(
        1, len(references), figsize=(9, 0.5 * len(compared) + 1.2), squeeze=False, sharey=True
    )
    names = list(compared)
    for axis, reference in zip(axes[0], references):
        for row, name in enumerate(names):
            entry = compared[name][study.metric].get(f'to {reference}')
            if entry:
                error = plots.error_bar(*(entry[key] for key in ('mean', 'low', 'high')))
                axis.errorbar(entry['mean'], row, xerr=error, fmt='o', color='tab:blue', capsize=3)
        axis.axvline(0, color='gray', linewidth=0.8)
        axis.set_xlabel(f'{study.metric}, difference to {reference}')
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def draw_baselines(study: Study, path: str) -> None:
    """The validation curve of each baseline's training."""
    pyplot = plots.pyplot()
    figure, axis = pyplot.subplots(figsize=(6, 3.5))
    loop = study.base.train_cfg
    for seed in study.seeds:
        values = validation_curve(study.baseline_folder(seed))
        # A log that was cut short has fewer values than there were validations.
        steps = validation_steps(loop)[: len(values)]
        axis.plot(steps, values[: len(steps)], marker='.', label=f'seed {seed}')
    axis.set_xlabel('iteration' if loop.get('max_iters') else 'epoch')
    axis.set_ylabel(f'{next(iter(study.task.METRICS))}, validation')  # what MMEngine logs
    axis.legend(fontsize='small')
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def validation_steps(loop: dict) -> List[int]:
    """When MMEngine's training loop validates, by its ``train_cfg``: iterations, or epochs.

    Its log does not say: by default it counts epochs, also in loops that have none.
    """
    last = loop.get('max_iters') or loop['max_epochs']
    interval = loop.get('val_interval', 1000 if loop.get('max_iters') else 1)
    steps = range(max(loop.get('val_begin', 1), 1), last + 1)
    return [step for step in steps if step % interval == 0 or step == last]


def validation_curve(folder: str) -> List[float]:
    """The values of a baseline's validations, in order."""
    files = sorted(Path(folder).glob('*/vis_data/scalars.json'))
    lines = files[-1].read_text(encoding='utf-8').splitlines() if files else []
    rows = map(json.loads, filter(str.strip, lines))
    return [factor * row[key] for row in rows for key, factor in CURVES.items() if key in row]


def _scores(task: ModuleType, path: str, replicates: int) -> Dict[str, np.ndarray]:
    # Kept beside the statistics: COCO's precisions of hundreds of samples take a while.
    kept = Path(path).with_suffix(f'.scores-{replicates}.npz')
    if kept.is_file() and kept.stat().st_mtime_ns > Path(path).stat().st_mtime_ns:
        return _arrays(str(kept))
    arrays = _arrays(path)
    scores = task.scores(arrays, resamples(task.num_images(arrays), replicates))
    with atomic_write(str(kept)) as file:
        np.savez(file, **scores)
    return scores


def _arrays(path: str) -> Dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); delete it, and the study makes it again'
        ) from None


def _difference(entry: Optional[dict], digits: int = 2) -> str:
    if not entry:
        return ''
    d = Difference(**entry)
    clear = '**' if d.low > 0 or d.high < 0 else ''
    return f'{clear}{d.mean:+.{digits}f}{clear} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]'
