"""The noises that a run is to measure: named corruptions at severities, transforms, files."""

import argparse
import json
from typing import List, NamedTuple, Sequence, Set, Tuple, Union

from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS

from mmdenoiserep.datasets.pairs import insert_behind_loading
from mmdenoiserep.transforms.degrade import (
    BENCHMARK,
    DEGRADE,
    HOLDOUT,
    Degrade,
    each_noise,
    noise_transform,
)

from .images import first_shape, stamp

GROUPS = dict(benchmark=BENCHMARK, holdout=HOLDOUT, all=(*BENCHMARK, *HOLDOUT))
SEED = 0


class Noise(NamedTuple):
    """A corruption at a severity, or a transform of the user's; see :data:`CLEAN`.

    Attributes:
        corruption (str): Its name, or one made of the transform's type.
        severity (int): 1 to 5; 0 for a transform and for no noise.
        transform (str): The transform's config as JSON; '' for a corruption that is named.
    """

    corruption: str
    severity: int
    transform: str = ''

    def __str__(self) -> str:
        return f'{self.corruption}:{self.severity}' if self.severity else self.corruption


CLEAN = Noise('clean', 0)


def read_noises(args: argparse.Namespace) -> List[Noise]:
    """What the command line names, each once: corruptions at all severities, then the others.

    Raises:
        ValueError: If a corruption or a severity is unknown.
        ImportError: If `imagecorruptions` is missing.
    """
    others = each_noise(args.noise)
    if args.degraded:
        others.append(dict(type='mmdenoiserep.LoadDegraded', folder=args.degraded))
    if args.severities and others and not args.corruptions:
        raise ValueError('--severities go with --corruptions; --noise has its own, as fog:2')
    corruptions = read_corruptions(args.corruptions or ([] if others else ['benchmark']))
    severities = sorted(set(args.severities or range(1, 6)))
    out = [Noise(c, s) for c in corruptions for s in severities]
    for noise in out:
        Degrade(*noise[:2])  # refuses
    for other in others:
        out.append(_of(other, {noise.corruption for noise in out}))
    return list(dict.fromkeys(out))


def read_corruptions(names: Sequence[str]) -> List[str]:
    """The corruptions that are named, by themselves or as a group, each once.

    Raises:
        ValueError: If one is unknown.
    """
    out: List[str] = []
    for name in names:
        if name not in GROUPS and name not in GROUPS['all']:
            raise ValueError(
                f'there is no corruption {name!r}; there are the groups {", ".join(GROUPS)}, '
                f'and {", ".join(GROUPS["all"])}'
            )
        out += GROUPS.get(name, (name,))
    return list(dict.fromkeys(out))


def _of(noise: Union[str, dict], taken: Set[str]) -> Noise:
    """A noise as :func:`mmdenoiserep.transforms.noise_transform` takes it."""
    transform = noise_transform(noise)
    options = {key: value for key, value in transform.items() if key != 'type'}
    if transform['type'] == DEGRADE and options.keys() <= {'corruption', 'severity'}:
        named = Degrade(**options)  # refuses
        return Noise(named.corruption, named.severity)
    title = str(transform['type']).split('.')[-1]
    number = 1 + sum(name == title or name.startswith(f'{title} ') for name in taken)
    return Noise(title if number == 1 else f'{title} {number}', 0, json.dumps(transform))


def with_noise(dataset: dict, noise: Noise, cache: str) -> dict:
    """The config of a data set with a noise behind the transform that loads images.

    Args:
        dataset (dict): Not changed.
        noise (Noise): None at all with ``CLEAN``.
        cache (str): Folder of the images that named corruptions give, or '' for none.
    """
    if noise == CLEAN:
        return dataset
    if noise.transform:
        transforms = [json.loads(noise.transform)]
        transform = dict(type='mmdenoiserep.OneNoise', transforms=transforms, seed=SEED)
    else:
        transform = dict(
            type='mmengine.CachedDegrade',
            corruption=noise.corruption,
            severity=noise.severity,
            seed=SEED,
            folder=cache,
        )
    return insert_behind_loading(dataset, transform)


def check_transform(dataset: dict, noise: Noise, paths: Sequence[str]) -> List[Tuple[int, int]]:
    """See that a transform can be run on a data set's images, before all of them are.

    Args:
        dataset (dict): Config of the clean images.
        noise (Noise): A transform.
        paths (Sequence[str]): The images' files.

    Returns:
        list[tuple[int, int]]: What tells the files that it reads from others under their names.

    Raises:
        ValueError: If it gives an image another size.
        FileNotFoundError: If an image has no degraded version where they are files.
    """
    built = ROOT_TRANSFORMS.build(json.loads(noise.transform))
    parts = (built, *getattr(built, 'transforms', ()))  # of a Compose, say
    partners = [part.partner for part in parts if hasattr(part, 'partner')]
    stamps = [stamp(partner(path)) for partner in partners for path in paths]
    clean, noisy = (first_shape(with_noise(dataset, kind, '')) for kind in (CLEAN, noise))
    if clean != noisy:
        raise ValueError(
            f'{noise} makes {noisy[1]}x{noisy[0]} of an image of {clean[1]}x{clean[0]}: a noise '
            'leaves the size as it is, since labels stay where they are'
        )
    return stamps
