"""What of a study config of a deployed model is refused, before anything is made."""

from typing import Any, Dict, List, Mapping, Sequence

from experiments.study.plan import check_integer, setting_name
from mmdenoiserep.transforms.degrade import name_of

from .arms import Arm, read_names
from .makers import check_options, options_of


def read_transfer(path: str, value: Any) -> Dict[str, List[str]]:
    """What is tested under further noises.

    Raises:
        ValueError: If it is not lists of arms and of noises.
    """
    value = dict(value or dict(arms=[], noises=[]))
    if set(value) != {'arms', 'noises'}:
        raise ValueError(f'{path}: transfer is arms and noises, got {sorted(value)}')
    return {key: read_names(path, f'transfer.{key}', part) for key, part in value.items()}


def check_numbers(path: str, spec: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: If they cannot be what they are for.
    """
    keep_clean = spec['keep_clean']
    if not isinstance(keep_clean, (int, float)) or not 0 <= keep_clean <= 1:
        raise ValueError(f'{path}: keep_clean must be 0 to 1, got {keep_clean!r}')
    check_integer(path, 'replicates', spec['replicates'], 1)
    check_integer(path, 'seed', spec['seed'], 0)


def check_arms(path: str, arms: Dict[str, Arm], dials: Dict[str, Arm]) -> None:
    """
    Raises:
        ValueError: If there is no stock, an arm has options that its kind does not know or take,
            two settings or two arms share a name or a folder, or a dial has nothing to draw.
    """
    stock = arms.get('stock')
    if stock is None or stock.kind != 'stock' or stock.noises:
        raise ValueError(
            f"{path}: the others are compared with an arm 'stock' of kind 'stock', for no noise"
        )
    folders = [name.replace(' ', '_') for name in (*arms, *dials)]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f'{path}: two arms, or an arm and a dial, have one name, {folder!r}')
    for arm in (*arms.values(), *dials.values()):
        known = options_of(arm.kind)
        for option in (*arm.options, *(key for key in arm.grid if '.' not in key)):
            if option not in known:
                raise ValueError(
                    f'{path}: arm {arm.name!r} of kind {arm.kind!r} has no option {option!r}; '
                    f'it has {", ".join(sorted(known)) or "none"}'
                )
        for values in arm.candidates():
            try:
                check_options(arm.kind, arm.split(values)[0])
            except (TypeError, ValueError) as error:
                raise ValueError(f'{path}: arm {arm.name!r}: {error}') from error
        settings = [setting_name(values) for values in arm.candidates()]
        if len(set(settings)) < len(settings):
            raise ValueError(f'{path}: two settings of {arm.name!r} have one name: {settings}')
    for name, dial in dials.items():
        if len(dial.candidates()) < 2:
            raise ValueError(f'{path}: dial {name!r} needs a grid of two settings or more to draw')
        if dial.noises:
            raise ValueError(f'{path}: dial {name!r} is drawn under the first of `noises`')


def check_noises(
    path: str, noises: Sequence[str], further: Sequence[str], arms: Dict[str, Arm]
) -> None:
    """
    Raises:
        ValueError: If a noise is no name with a severity, comes twice, or is an arm's alone.
    """
    for noise in [*noises, *further]:
        if not name_of(noise)[1]:  # which refuses unknown names
            raise ValueError(f'{path}: a study measures noises by name:severity, not {noise}')
    for noise in noises:
        if list(noises).count(noise) > 1:
            raise ValueError(f'{path}: {noise} is twice in `noises`')
    for arm in arms.values():
        if len(arm.noises) == 1 and arm.noises[0] not in noises:
            raise ValueError(
                f'{path}: arm {arm.name!r} is made for {arm.noises[0]}, under which stock is not '
                'measured: add it to `noises`'
            )
