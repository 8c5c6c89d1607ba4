from __future__ import annotations

import json

import numpy as np
from mmengine.fileio import exists, get_file_backend, get_text, join_path
from mmengine.utils import is_abs
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.base_dataset import expanduser

from ..registry import DATASETS
from .reproducible import ReproducibleAugmentation

_CHECKS = ('some', 'all', 'none')


@DATASETS.register_module()
class LongTailList(ReproducibleAugmentation, BaseDataset):
    """Images named by an official long-tailed list: ImageNet-LT, Places-LT, iNaturalist 2018.

    Two formats of ``ann_file`` are read. Text, one image a line, as in
    `OLTR <https://github.com/zhmiao/OpenLongTailRecognition-OLTR>`_ (the path may hold spaces)::

        train/n01440764/n01440764_190.JPEG 0

    and, where the name ends in ``.json``, that of the `iNaturalist competition
    <https://github.com/visipedia/inat_comp>`_: ``{"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "category_id"}], "categories": [{"id", "name"}]}``. Its categories are numbered in the order of their ids, which in
    iNaturalist 2018 changes nothing.

    The metainfo has ``num_per_class`` of the *training* set: counted in ``train_ann_file``, or, without it, in
    ``ann_file`` unless ``test_mode=True``. Give ``train_ann_file`` in the validation and test data sets.

    Args:
        ann_file (str): The list; relative to ``data_root``.
        num_classes (int, optional): Number of classes K; required unless the list is json with categories.
        data_root (str): Root of lists and images. Defaults to ''.
        data_prefix (str | dict): Folder before the paths of the list; relative to ``data_root``. Defaults to ''.
        train_ann_file (str, optional): List of the training set, for the counts. Defaults to None.
        check_files (str): Which images must exist at the start: 'some' (nine, spread evenly from the first to the
            last), 'all' or 'none'. Defaults to 'some'.
        **kwargs: ``pipeline``, ``classes``, ``test_mode``, ... of mmpretrain's :class:`BaseDataset`.

    Raises:
        FileNotFoundError: where a list or an image is missing.
        ValueError: on a line or entry that is malformed, a label out of range, an empty list, or a class without
            training images. The message names file, line and remedy.
    """

    def __init__(self,
                 ann_file: str,
                 num_classes: int | None = None,
                 data_root: str = '',
                 data_prefix: str | dict = '',
                 train_ann_file: str | None = None,
                 check_files: str = 'some',
                 **kwargs) -> None:
        if check_files not in _CHECKS:
            raise ValueError(f'Expected `check_files` to be one of {_CHECKS}, but got {check_files!r}.')
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'Expected `num_classes` to be positive, but got {num_classes}.')
        self.num_classes = num_classes
        self.train_ann_file = train_ann_file
        self.check_files = check_files
        super().__init__(ann_file, data_root=expanduser(data_root), data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the list; count the training set."""
        paths, labels, places = self._read(self.ann_file, 'ann_file')
        if self.train_ann_file is not None:
            train_file = expanduser(self.train_ann_file)
            if self.data_root and not is_abs(train_file):
                train_file = join_path(self.data_root, train_file)
            same = train_file == self.ann_file
            self._count(labels if same else self._read(train_file, 'train_ann_file')[1], train_file)
        elif not self.test_mode:
            self._count(labels, self.ann_file)
        classes = self._metainfo.get('classes')
        if classes is not None and len(classes) != self.num_classes:
            raise ValueError(f'`classes` of {self.ann_file} has {len(classes)} names, but num_classes='
                             f'{self.num_classes}; make them agree.')
        prefix = self.img_prefix
        if prefix:
            join = get_file_backend(prefix, enable_singleton=True).join_path
            paths = [join(prefix, path) for path in paths]
        self._check_images(paths, places)
        return [dict(img_path=path, gt_label=label) for path, label in zip(paths, labels)]

    def full_init(self) -> None:
        """Load the list; where ``indices`` took a part of a training list, count that part."""
        loaded = self._fully_initialized
        super().full_init()
        if not loaded and self._indices is not None and self.train_ann_file is None and not self.test_mode:
            self._count(self.get_gt_labels().tolist(), f'the part of {self.ann_file} that `indices` takes')

    def _count(self, labels: list[int], name: str) -> None:
        counts = np.bincount(labels, minlength=self.num_classes)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            raise ValueError(
                f'{name}: {len(empty)} of the {self.num_classes} classes have no training image (first: '
                f'{empty[:5].tolist()}); correct `num_classes` or the list. If this is not the training list, set '
                '`train_ann_file` to the one that is.')
        self._metainfo['num_per_class'] = counts.tolist()

    def _check_images(self, paths: list[str], places: list[str]) -> None:
        if self.check_files == 'none':
            return
        count = len(paths) if self.check_files == 'all' else min(len(paths), 9)
        for i in np.linspace(0, len(paths) - 1, count).round().astype(int):
            if not exists(paths[i]):
                raise FileNotFoundError(
                    f'{places[i]}: the image {paths[i]!r} does not exist. Correct `data_root` (now {self.data_root!r}) '
                    f'or `data_prefix` (now {self.img_prefix!r}); check_files={self.check_files!r} looked for it, '
                    "check_files='none' does not look.")

    def _read(self, path: str, setting: str) -> tuple[list[str], list[int], list[str]]:
        """Read a list.

        Args:
            path (str): Resolved path of the list.
            setting (str): Name of the argument that gave it, for messages.

        Returns:
            tuple: paths of the images, labels, and the place of each in the list.
        """
        if not path or not exists(path):
            raise FileNotFoundError(f'The list {path!r} does not exist; put the official list there, or correct '
                                    f'`{setting}` or `data_root` (now {self.data_root!r}).')
        text = get_text(path)
        paths, labels, places = (self._parse_json if path.endswith('.json') else self._parse_text)(path, text)
        if not paths:
            raise ValueError(f'{path} holds no image; put the official list there, or correct `{setting}`.')
        return paths, labels, places

    def _parse_text(self, path, text):
        if self.num_classes is None:
            raise ValueError(f'LongTailList needs `num_classes` for {path}: a text list does not say it (ImageNet-LT '
                             '1000, Places-LT 365, iNaturalist 2018 8142).')
        paths, labels, places = [], [], []
        lines = text.rstrip().split('\n') if text.strip() else []
        for number, line in enumerate(lines, 1):
            parts = line.rsplit(None, 1)
            place = f'{path}, line {number}'
            if len(parts) != 2:
                raise ValueError(f'{place}: expected "PATH LABEL", but got {line!r}; correct or remove the line.')
            if not parts[1].removeprefix('-').isdecimal():
                raise ValueError(f'{place}: the label {parts[1]!r} in {line!r} is not an integer; correct or remove '
                                 'the line.')
            label = int(parts[1])
            if not 0 <= label < self.num_classes:
                raise ValueError(f'{place}: the label {label} is outside 0..{self.num_classes - 1}; correct the line '
                                 f'or `num_classes` (now {self.num_classes}).')
            paths.append(parts[0].strip())
            labels.append(label)
            places.append(place)
        return paths, labels, places

    def _parse_json(self, path, text):
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {error.lineno}: not valid json ({error.msg}); download the list again.'
                             ) from error
        tables = ('images', 'annotations')
        if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in tables):
            raise ValueError(f'{path}: expected an object with the lists "images" and "annotations", as in '
                             'iNaturalist; download the list again, or give a text list another ending than .json.')
        if 'categories' in data:
            to_label = self._read_categories(path, data['categories'])
        elif self.num_classes is not None:
            to_label = {k: k for k in range(self.num_classes)}
        else:
            raise ValueError(f'LongTailList needs `num_classes` for {path}, which has no "categories".')
        place = f'{path}, images'
        try:
            files = {}
            for i, image in enumerate(data['images']):
                place = f'{path}, images[{i}]'
                files[image['id']] = str(image['file_name'])
            paths, labels, places = [], [], []
            for i, annotation in enumerate(data['annotations']):
                place = f'{path}, annotations[{i}]'
                image, category = annotation['image_id'], annotation['category_id']
                if image not in files:
                    raise ValueError(f'{place}: image_id {image!r} is not among the images; correct or remove it.')
                if category not in to_label:
                    raise ValueError(f'{place}: category_id {category!r} is not one of the {len(to_label)} classes; '
                                     'correct the entry or `num_classes`.')
                paths.append(files[image])
                labels.append(to_label[category])
                places.append(place)
        except (KeyError, TypeError) as error:
            raise ValueError(f'{place}: malformed entry ({type(error).__name__}: {error}); expected id and file_name '
                             'in images, image_id and category_id in annotations.') from error
        return paths, labels, places

    def _read_categories(self, path, categories) -> dict[int, int]:
        try:
            categories = sorted(categories, key=lambda category: category['id'])
            to_label = {category['id']: label for label, category in enumerate(categories)}
            names = tuple(str(category['name']) for category in categories)
        except (KeyError, TypeError) as error:
            raise ValueError(f'{path}, categories: malformed entry ({type(error).__name__}: {error}); expected id '
                             'and name.') from error
        if self.num_classes is None:
            self.num_classes = len(names)
        if len(names) != self.num_classes:
            raise ValueError(f'{path} has {len(names)} categories, but num_classes={self.num_classes}; correct the '
                             'latter.')
        self._metainfo.setdefault('classes', names)
        return to_label
