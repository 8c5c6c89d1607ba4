"""CIFAR-10 and CIFAR-100 made long-tailed, and the base of data sets that are cut from images in memory."""
from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.fileio import exists, get, join_path
from mmpretrain.datasets import CIFAR10, CIFAR100, BaseDataset
from mmpretrain.datasets.base_dataset import expanduser

from ..functional.longtail import exponential_profile, long_tail_indices, step_profile
from ..registry import DATASETS
from .reproducible import ReproducibleAugmentation

__all__ = ['InMemoryLongTail', 'CIFAR10LT', 'CIFAR100LT']

_PROFILES = {'exp': exponential_profile, 'step': step_profile}


class InMemoryLongTail(ReproducibleAugmentation, BaseDataset):
    """Long-tailed part of a balanced data set whose images fit in memory.

    The training split takes n_k images of each class by the protocol of LDAM-DRW
    (:func:`allnc_mm.functional.long_tail_indices`); the validation split takes the ``val_per_class`` images that follow
    them in the shuffled order of the class, so it is balanced and never meets the training split; the test split is
    whole. The images are one uint8 array; a sample is ``img`` (H, W, 3) in RGB order, ``img_shape``, ``ori_shape``,
    ``gt_label`` and ``sample_idx``, so a pipeline needs no transform that reads a file. mmpretrain's CIFAR10 gives RGB,
    too: keep ``to_rgb=False`` in the data preprocessor.

    The metainfo has ``num_per_class`` and ``imb_factor`` of the *training* split, whatever the split is.

    Args:
        data_root (str): Folder of the data. Defaults to ''.
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.
        imb_factor (float): n_max / n_min; 1 is balanced. Defaults to 100.
        profile (str): 'exp' or 'step'. Defaults to 'exp'.
        n_max (int, optional): Training images of the largest class. Defaults to :attr:`default_n_max`.
        seed (int): Seed that chooses the images; 0 is that of the literature. Defaults to 0.
        val_per_class (int): Validation images of each class. Defaults to 0.
        metainfo (dict, optional): More meta information. Defaults to None.
        **kwargs: ``pipeline``, ``indices`` (not for training), ``serialize_data``, ... of mmpretrain's
            :class:`BaseDataset`. ``test_mode`` defaults to True but for the training split.

    Raises:
        ValueError: on a setting out of range, or where a class has too few images.
    """

    default_n_max: int
    whole_batch = False  # set by DeviceAugmentationHook: hand out raw batches
    _splits = ('train', 'val', 'test')

    def __init__(self,
                 data_root: str = '',
                 split: str = 'train',
                 imb_factor: float = 100,
                 profile: str = 'exp',
                 n_max: int | None = None,
                 seed: int = 0,
                 val_per_class: int = 0,
                 metainfo: dict | None = None,
                 **kwargs) -> None:
        if split not in self._splits:
            raise ValueError(f'Expected `split` to be one of {self._splits}, but got {split!r}.')
        if profile not in _PROFILES:
            raise ValueError(f'Expected `profile` to be one of {tuple(_PROFILES)}, but got {profile!r}.')
        if val_per_class < 0 or (split == 'val' and val_per_class == 0):
            raise ValueError(f'Expected `val_per_class` to be {"positive" if split == "val" else "0 or more"} for '
                             f'split={split!r}, but got {val_per_class}.')
        if split == 'train' and kwargs.get('indices') is not None:
            raise ValueError('`indices` would leave `num_per_class` wrong for the training split; make the set smaller '
                             'with `n_max` or `imb_factor`.')
        self.split, self.profile, self.seed, self.val_per_class = split, profile, seed, val_per_class
        self.imb_factor = imb_factor
        self.n_max = self.default_n_max if n_max is None else n_max
        self.num_per_class = self._profile(imb_factor)
        metainfo = {**(metainfo or {}), 'num_per_class': self.num_per_class, 'imb_factor': imb_factor}
        kwargs.setdefault('test_mode', split != 'train')
        super().__init__(ann_file='', metainfo=metainfo, data_root=expanduser(data_root), data_prefix={}, **kwargs)

    def _profile(self, imb_factor: float) -> list[int]:
        return _PROFILES[self.profile](self.n_max, imb_factor, len(self.METAINFO['classes']))

    @abstractmethod
    def _read(self, train: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read the training pool or the test set.

        Args:
            train (bool): Which of the two.

        Returns:
            tuple: images (M, H, W, 3) uint8 RGB; index (M,), the place of each in the official order; labels (N,) of
            all N official images, N >= M.
        """

    def load_data_list(self) -> list[dict]:
        """Read the images, choose those of the split and keep only them in memory."""
        images, index, labels = self._read(self.split != 'test')
        chosen = np.arange(len(labels)) if self.split == 'test' else self._choose(labels)
        rows = np.full(len(labels), -1)
        rows[index] = np.arange(len(index))
        if (rows[chosen] < 0).any():
            raise ValueError(self._missing(labels, rows, chosen))
        self._images = np.ascontiguousarray(images[rows[chosen]])
        return [dict(gt_label=int(label), row=row) for row, label in enumerate(labels[chosen])]

    def _choose(self, labels: np.ndarray) -> np.ndarray:
        """Positions of the split in the official order, by class."""
        train = np.asarray(self.num_per_class)
        available = np.bincount(labels, minlength=len(train))
        need = train + self.val_per_class
        short = np.flatnonzero(need > available)
        if len(short):
            k = int(short[0])
            left = available[k] - train[k]
            name = f'Class {k} ({self.METAINFO["classes"][k]!r}) of {type(self).__name__}'
            if train[k] > available[k]:
                raise ValueError(f'{name} has {available[k]} training images, but n_max={self.n_max} with '
                                 f'imb_factor={self.imb_factor} asks for {train[k]}; lower `n_max`.')
            raise ValueError(
                f'{name} has {available[k]} images, of which the training split takes {train[k]}: {left} '
                f'are left, but val_per_class={self.val_per_class}. Lower `val_per_class`, or set `n_max` to at most '
                f'{available.min() - self.val_per_class} in the training, validation and test data sets alike.')
        if self.split == 'train':
            return long_tail_indices(labels, train, self.seed)
        parts = np.split(long_tail_indices(labels, need, self.seed), np.cumsum(need)[:-1])
        return np.concatenate([part[n:] for n, part in zip(train, parts)])

    def _missing(self, labels: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> str:
        """Say which images a partial pack lacks and which settings it does serve."""
        lacking = chosen[rows[chosen] < 0]
        total = np.bincount(labels)

        def served(seed):
            """Imbalance factors that the images at hand can serve with this seed."""
            order = np.split(long_tail_indices(labels, total, seed), np.cumsum(total)[:-1])
            held = [int(np.argmin(np.append(rows[part], -1) >= 0)) for part in order]
            extra = self.val_per_class if self.split == 'val' else 0
            fits = []
            for imb_factor in (1, 2, 5, 10, 20, 50, 100, 200, 500):
                try:
                    counts = self._profile(imb_factor)
                except ValueError:  # leaves a class empty
                    continue
                if all(n + extra <= have for n, have in zip(counts, held)):
                    fits.append(imb_factor)
            return fits

        hints = [f'imb_factor {", ".join(map(str, fits))} with seed={seed}'
                 for seed in sorted({0, self.seed}) if (fits := served(seed))]
        return (f'{type(self).__name__} in {self.data_root!r} holds {int((rows >= 0).sum())} of the {len(labels)} '
                f'official training images, and {len(lacking)} of the {len(chosen)} of split={self.split!r}, '
                f'imb_factor={self.imb_factor}, profile={self.profile!r}, n_max={self.n_max}, seed={self.seed}, '
                f'val_per_class={self.val_per_class} are not among them (first: official image {lacking[0]}, class '
                f'{labels[lacking[0]]}). With this profile, n_max and val_per_class it serves '
                f'{" and ".join(hints) or "no usual imb_factor"}; for others lower `n_max` or use the official files.')

    def get_data_info(self, idx: int) -> dict:
        """Annotation and image of a sample; the image is a copy, which a transform may write to."""
        info = super().get_data_info(idx)
        image = self._images[info.pop('row')].copy()
        info.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return info

    def __getitems__(self, indices: Sequence[int]) -> list | dict:
        """A batch: samples through the pipeline, or with ``whole_batch`` a dict of the raw ones.

        The dict has ``inputs`` (N, C, H, W) uint8, ``labels`` (N,) int64 and ``seed``, an int from (seed, epoch,
        indices) by which the batch is to be augmented.
        """
        if not self.whole_batch:
            return super().__getitems__(indices)
        if not hasattr(self, '_rows'):
            infos = [BaseDataset.get_data_info(self, i) for i in range(len(self))]
            self._rows = np.array([info['row'] for info in infos])
            self._labels = torch.tensor([info['gt_label'] for info in infos])
        images = torch.from_numpy(self._images[self._rows[indices]])
        return dict(inputs=images.permute(0, 3, 1, 2), labels=self._labels[indices], seed=self.batch_seed(indices))

    def get_gt_labels(self) -> np.ndarray:
        """Labels of all samples, without touching the images."""
        return np.array([BaseDataset.get_data_info(self, i)['gt_label'] for i in range(len(self))])

    def extra_repr(self) -> list[str]:
        """Lines for ``repr``."""
        return [f'Root of data: \t{self.data_root}', f'Split: \t{self.split}',
                f'Training images per class: \t{self.num_per_class[0]} .. {self.num_per_class[-1]} ({self.profile})']


class _CIFARLT(InMemoryLongTail):
    """What both CIFARs share: reading either form of the files."""

    official: type[CIFAR10]

    def _read(self, train):
        if exists(join_path(self.data_root, self.base_folder)):
            return self._read_official(self.train_list if train else self.test_list)
        if exists(join_path(self.data_root, 'train.npz')) or exists(join_path(self.data_root, 'test.npz')):
            return self._read_pack(train)
        raise FileNotFoundError(
            f'{type(self).__name__} finds no data in data_root={self.data_root!r}: neither the folder '
            f'{self.base_folder!r} '
            "with the official python files nor the packed form 'train.npz' and 'test.npz'. Unpack "
            f'{self.official.url} there, or correct `data_root`; nothing is downloaded by itself.')

    def _read_official(self, files: Sequence[Sequence[str]]):
        images, labels = [], []
        for name, md5 in files:
            path = join_path(self.data_root, self.base_folder, name)
            if not exists(path):
                raise FileNotFoundError(f'{path} is missing; unpack {self.official.url} in {self.data_root!r} anew.')
            data = get(path)
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if digest != md5:  # a pickle is code: nothing but the official file is opened
                raise ValueError(f'{path} is not the official file (md5 {digest} instead of {md5}) and is not opened, '
                                 f'because it is a pickle; unpack {self.official.url} in {self.data_root!r} anew.')
            entry = pickle.loads(data, encoding='latin1')
            images.append(entry['data'])
            labels.extend(entry['labels'] if 'labels' in entry else entry['fine_labels'])
        array = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return array, np.arange(len(labels)), np.asarray(labels, dtype=np.int64)

    def _read_pack(self, train: bool):
        path = join_path(self.data_root, 'train.npz' if train else 'test.npz')
        if not exists(path):
            raise FileNotFoundError(f'{path} is missing, which split={self.split!r} of {type(self).__name__} needs; '
                                    'unpack the data again.')
        try:
            with np.load(io.BytesIO(get(path)), allow_pickle=False) as pack:
                images, labels, index = (pack[key] for key in ('images', 'labels', 'index'))
                full = pack['full_labels'] if train else labels
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f'{path} is not a packed CIFAR file: {error}. It needs the arrays images, labels, index'
                             f'{" and full_labels" if train else ""}; unpack the data again.') from error
        num_classes = len(self.METAINFO['classes'])
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise ValueError(f'{path}: expected `images` as uint8 ({len(labels)}, 32, 32, 3), one for each of '
                             f'`labels`, but got {images.dtype} {images.shape}; unpack the data again.')
        if full.min() < 0 or full.max() != num_classes - 1:
            raise ValueError(f'{path}: the labels run from {full.min()} to {full.max()}, but {type(self).__name__} has '
                             f'the classes 0..{num_classes - 1}; is `data_root` that of the other CIFAR?')
        if index.shape != labels.shape or index.min() < 0 or index.max() >= len(full) or (full[index] != labels).any():
            raise ValueError(f'{path}: `labels` do not agree with the official ones at `index`; unpack the data anew.')
        return images, index, full


@DATASETS.register_module()
class CIFAR10LT(_CIFARLT):
    """Long-tailed `CIFAR-10 <https://www.cs.toronto.edu/~kriz/cifar.html>`_, protocol of LDAM-DRW
    (`Cao et al. 2019 <https://arxiv.org/abs/1906.07413>`_).

    ``data_root`` holds either the official folder ``cifar-10-batches-py`` (each file's md5 is checked before it is
    opened) or ``train.npz`` and ``test.npz`` with the arrays ``images`` (M, 32, 32, 3) uint8 RGB, ``labels`` (M,),
    ``index`` (M,) (place in the official order) and, for training, ``full_labels`` (50000,). The packed training file
    may hold a part of the images: the choice is made over ``full_labels``, so it is the same for both forms.

    Args:
        n_max (int, optional): Defaults to 5000, all images of a class.
        **kwargs: The others are those of :class:`InMemoryLongTail`.

    Example:
        >>> CIFAR10LT('data/cifar10', imb_factor=100).metainfo['num_per_class']  # doctest: +SKIP
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """

    official = CIFAR10
    METAINFO = CIFAR10.METAINFO
    base_folder = CIFAR10.base_folder
    train_list = CIFAR10.train_list
    test_list = CIFAR10.test_list
    default_n_max = 5000


@DATASETS.register_module()
class CIFAR100LT(_CIFARLT):
    """Long-tailed `CIFAR-100 <https://www.cs.toronto.edu/~kriz/cifar.html>`_ with its 100 fine classes.

    As :class:`CIFAR10LT`, from the official folder ``cifar-100-python`` or the packed form.

    Args:
        n_max (int, optional): Defaults to 500, all images of a class.
        **kwargs: The others are those of :class:`InMemoryLongTail`.
    """

    official = CIFAR100
    METAINFO = CIFAR100.METAINFO
    base_folder = CIFAR100.base_folder
    train_list = CIFAR100.train_list
    test_list = CIFAR100.test_list
    default_n_max = 500
