"""Market-1501, DukeMTMC-reID, CUHK03-NP and MSMT17, in the layouts in which they are given out."""

import os
import re
from typing import Dict, List, Optional, Sequence, Tuple

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

IMAGES = ('.jpg', '.jpeg', '.png')
#: An image: its path, person and camera, both as the data set counts them.
Entry = Tuple[str, int, int]


class ReIDDataset(BaseDataset):
    """Images of persons with identities and cameras: what the data sets share.

    An item has ``img_path``, ``gt_label`` (in the training set 0, 1, ... in the order of the
    identities, else the identity itself), ``camera`` (from 0) and ``is_query``. The test set is
    the queries, then the gallery, each in the order of their names (MSMT17: of its lists).
    ``metainfo`` holds ``ids``, the identity behind each training label, ``num_cameras`` and
    ``source``, what was read.

    Args:
        data_root (str): Folder of the data set, or one above it.
        split (str): One of ``splits``. Defaults to 'train'.
        **kwargs: Arguments of :class:`mmpretrain.datasets.BaseDataset`.

    Raises:
        FileNotFoundError: If a folder, a list or an image named in a list is missing.
        ValueError: If the split is unknown, a name cannot be read, a camera is out of range, or a
            part has no images.
    """

    num_cameras: int
    splits: Sequence[str] = ('train', 'test')
    #: Names that the data set's folder may have below ``data_root``.
    folders: Sequence[str] = ()

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        if split not in self.splits:
            raise ValueError(f'split must be {" or ".join(map(repr, self.splits))}, got {split!r}')
        self.split = split
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> List[dict]:
        """All items of the split, identities of the training set as labels."""
        root = self._root()
        parts = ('train',) if self.split == 'train' else ('query', 'gallery')
        entries: Dict[str, List[Entry]] = {part: self.entries(root, part) for part in parts}
        for part, found in entries.items():
            if not found:
                raise ValueError(f'{root}: the {part} part has no images; expected {self.layout()}')
            for path, _, camera in found:
                if not 1 <= camera <= self.num_cameras:
                    raise ValueError(
                        f'{path}: camera {camera}, but {type(self).__name__} has cameras '
                        f'1 to {self.num_cameras}'
                    )
        ids = sorted({id_ for _, id_, _ in entries['train']}) if self.split == 'train' else None
        labels = {id_: label for label, id_ in enumerate(ids or ())}
        self._metainfo.update(
            ids=tuple(ids or ()), num_cameras=self.num_cameras, source=self.source(root)
        )
        counts = ', '.join(
            f'{len(found)} images of {len({id_ for _, id_, _ in found})} persons in {part}'
            for part, found in entries.items()
        )
        print_log(f'{self.source(root)}: {counts}', 'current')
        return [
            dict(
                img_path=path,
                gt_label=id_ if ids is None else labels[id_],
                camera=camera - 1,
                is_query=part == 'query',
            )
            for part, found in entries.items()
            for path, id_, camera in found
        ]

    def entries(self, root: str, part: str) -> List[Entry]:
        """The images of 'train', 'query' or 'gallery'."""
        raise NotImplementedError

    def layout(self) -> str:
        """The expected files, for messages."""
        raise NotImplementedError

    def source(self, root: str) -> str:
        """What is read, for logs and ``metainfo``."""
        return f'{type(self).__name__} from {root}'

    def required(self) -> Sequence[str]:
        """What must be below the data set's folder."""
        raise NotImplementedError

    def _root(self) -> str:
        candidates = [self.data_root, *(os.path.join(self.data_root, f) for f in self.folders)]
        for root in candidates:
            if any(os.path.exists(os.path.join(root, name)) for name in self.required()):
                break
        else:
            root = self.data_root
        missing = [n for n in self.required() if not os.path.exists(os.path.join(root, n))]
        if missing:
            raise FileNotFoundError(f'{root} has no {missing[0]}; expected {self.layout()}')
        return root


class MarketLike(ReIDDataset):
    """Three folders of images whose names begin with ``<identity>_c<camera>``."""

    parts = dict(train='bounding_box_train', query='query', gallery='bounding_box_test')

    def entries(self, root: str, part: str) -> List[Entry]:
        folder = os.path.join(root, self.parts[part])
        found = []
        for name in sorted(os.listdir(folder)):
            if not name.lower().endswith(IMAGES):
                continue  # Market-1501 holds a Thumbs.db in each folder
            match = re.match(r'(-?\d+)_c(\d+)', name)
            if match is None:
                raise ValueError(
                    f'{os.path.join(folder, name)}: the name does not begin with '
                    '<identity>_c<camera>, as in 0002_c1s1_000451_03.jpg'
                )
            id_, camera = int(match.group(1)), int(match.group(2))
            if self.is_used(id_, part):
                found.append((os.path.join(folder, name), id_, camera))
        return found

    def is_used(self, id_: int, part: str) -> bool:
        """Whether images of an identity belong to a part."""
        return True

    def layout(self) -> str:
        return ', '.join(f'{folder}/' for folder in dict.fromkeys(self.parts.values()))

    def required(self) -> Sequence[str]:
        if self.split == 'train':
            return (self.parts['train'],)
        return self.parts['query'], self.parts['gallery']


@DATASETS.register_module()
class Market1501(MarketLike):
    """Market-1501: 751 persons to train on, 750 to find among 15,913 images; 6 cameras.

    Identity -1 is junk (a detection that is no good) and left out; identity 0 are distractors,
    which stay in the gallery. Zheng et al., "Scalable Person Re-identification: A Benchmark",
    ICCV 2015. See :class:`ReIDDataset` for the arguments.
    """

    num_cameras = 6
    folders = ('Market-1501-v15.09.15', 'market1501')

    def is_used(self, id_: int, part: str) -> bool:
        return id_ > 0 or (id_ == 0 and part == 'gallery')


@DATASETS.register_module()
class Market1501Halves(Market1501):
    """A benchmark out of Market-1501's training set alone: half of its persons are the test set.

    Of the persons in the order of their identities, every other one is trained on. The first
    image of each other person in each camera is a query, the rest is the gallery. Figures on it
    are not comparable with those on Market-1501's own test set.

    Args:
        data_root (str): See :class:`ReIDDataset`.
        split (str): 'train', 'test', or 'val' where persons are held back. Defaults to 'train'.
        val_persons (int): The last persons of the training half, which are found in 'val' and not
            trained on. Defaults to 0.
        **kwargs: See :class:`ReIDDataset`.
    """

    parts = dict.fromkeys(('train', 'query', 'gallery'), 'bounding_box_train')
    splits = ('train', 'val', 'test')

    def __init__(
        self, data_root: str, split: str = 'train', val_persons: int = 0, **kwargs
    ) -> None:
        self.val_persons = val_persons
        super().__init__(data_root, split, **kwargs)

    def entries(self, root: str, part: str) -> List[Entry]:
        found = super().entries(root, part)
        ids = sorted({id_ for _, id_, _ in found})
        kept = len(ids[::2]) - self.val_persons
        if not 0 < kept <= len(ids[::2]):
            raise ValueError(
                f'val_persons must be at least 0 and below {len(ids[::2])}, the persons of the '
                f'training half, got {self.val_persons}'
            )
        persons = dict(train=ids[::2][:kept], val=ids[::2][kept:], test=ids[1::2])
        half = set(persons[self.split])
        found = [entry for entry in found if entry[1] in half]
        if part == 'train':
            return found
        first = {}
        for path, id_, camera in found:
            first.setdefault((id_, camera), path)
        queries = set(first.values())
        return [entry for entry in found if (entry[0] in queries) == (part == 'query')]

    def is_used(self, id_: int, part: str) -> bool:
        return id_ > 0


@DATASETS.register_module()
class DukeMTMCreID(MarketLike):
    """DukeMTMC-reID: 702 persons to train on, 702 to find among 1,110 persons; 8 cameras.

    The 408 distractors are persons of the gallery without a query. The data set was withdrawn by
    its authors in 2019 and is not offered for download. Ristani et al., ECCV workshops 2016;
    Zheng et al., ICCV 2017. See :class:`ReIDDataset` for the arguments.
    """

    num_cameras = 8
    folders = ('DukeMTMC-reID', 'dukemtmcreid')


@DATASETS.register_module()
class CUHK03NP(MarketLike):
    """CUHK03 in the new protocol: 767 persons to train on, 700 to find; 2 cameras.

    Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.

    Args:
        data_root (str): Folder ``cuhk03-np`` or one above it.
        split (str): 'train' or 'test'. Defaults to 'train'.
        boxes (str): 'labeled', drawn by hand, or 'detected'. Defaults to 'labeled'.
        **kwargs: See :class:`ReIDDataset`.
    """

    num_cameras = 2

    def __init__(
        self, data_root: str, split: str = 'train', boxes: str = 'labeled', **kwargs
    ) -> None:
        if boxes not in ('labeled', 'detected'):
            raise ValueError(f"boxes must be 'labeled' or 'detected', got {boxes!r}")
        self.boxes = boxes
        self.folders = (boxes, f'cuhk03-np/{boxes}')
        super().__init__(data_root, split, **kwargs)

    def _root(self) -> str:
        root = super()._root()
        # Below the data set's folder the two sets of boxes differ by their folder's name only.
        if os.path.basename(os.path.abspath(root)) != self.boxes:
            raise FileNotFoundError(f'{root} has no {self.boxes}; expected {self.layout()}')
        return root

    def layout(self) -> str:
        return ', '.join(f'{self.boxes}/{folder}/' for folder in self.parts.values())

    def source(self, root: str) -> str:
        return f'CUHK03-NP ({self.boxes}) from {root}'


@DATASETS.register_module()
class MSMT17(ReIDDataset):
    """MSMT17: 1,041 persons to train on, 3,060 to find among 82,161 images; 15 cameras.

    Version 2 is version 1 with faces masked, in other folders; published results are on version
    1. The lists beside the folders say which image is whose. Wei et al., "Person Transfer GAN to
    Bridge Domain Gap for Person Re-Identification", CVPR 2018.

    Args:
        data_root (str): Folder ``MSMT17_V1`` or ``MSMT17_V2``, or one above it.
        split (str): 'train' or 'test'. Defaults to 'train'.
        version (str): 'V1' or 'V2'. Defaults to 'V1'.
        val_in_train (bool): Whether the validation images are trained on too, as TransReID and
            those after it do. Defaults to True.
        **kwargs: See :class:`ReIDDataset`.
    """

    num_cameras = 15
    versions = dict(V1=('train', 'test'), V2=('mask_train_v2', 'mask_test_v2'))

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        version: str = 'V1',
        val_in_train: bool = True,
        **kwargs,
    ) -> None:
        if version not in self.versions:
            raise ValueError(f"version must be 'V1' or 'V2', got {version!r}")
        self.version = version
        self.val_in_train = val_in_train
        self.folders = (f'MSMT17_{version}',)
        super().__init__(data_root, split, **kwargs)

    def entries(self, root: str, part: str) -> List[Entry]:
        lists = dict(train=('train', 'val') if self.val_in_train else ('train',))
        folder = os.path.join(root, self.versions[self.version][part != 'train'])
        found: List[Entry] = []
        for name in lists.get(part, (part,)):
            list_file = os.path.join(root, f'list_{name}.txt')
            with open(list_file) as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        entry = self._parse(line, folder)
                        if entry is None:
                            raise ValueError(
                                f'{list_file}, line {number}: expected an image and its person, as '
                                "in '0000/0000_000_01_0303morning_0015_0.jpg 0', got "
                                f'{line.strip()!r}'
                            )
                        found.append(entry)
        missing = next((path for path, *_ in found if not os.path.isfile(path)), None)
        if missing:
            raise FileNotFoundError(f'{missing} is listed but not there')
        return found

    @staticmethod
    def _parse(line: str, folder: str) -> Optional[Entry]:
        match = re.fullmatch(r'(\S+\.\w+)\s+(\d+)', line.strip())
        fields = os.path.basename(match.group(1)).split('_') if match else []
        if len(fields) < 3 or not fields[2].isdigit():
            return None
        return os.path.join(folder, match.group(1)), int(match.group(2)), int(fields[2])

    def required(self) -> Sequence[str]:
        train, test = self.versions[self.version]
        if self.split == 'test':
            return test, 'list_query.txt', 'list_gallery.txt'
        return (train, 'list_train.txt', *(['list_val.txt'] if self.val_in_train else []))

    def layout(self) -> str:
        train, test = self.versions[self.version]
        return (
            f'{train}/, {test}/ and list_train.txt, list_val.txt, list_query.txt, '
            f'list_gallery.txt beside them (MSMT17 {self.version})'
        )

    def source(self, root: str) -> str:
        return f'MSMT17 {self.version} from {root}'
