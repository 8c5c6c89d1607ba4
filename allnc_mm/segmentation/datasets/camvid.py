from __future__ import annotations

import os.path as osp
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmengine.fileio import isdir, list_dir_or_file
from mmseg.datasets import BaseSegDataset

from ...datasets.reproducible import ReproducibleAugmentation
from ...registry import DATASETS
from .pixel_counts import pixel_counts

SPLITS = ('train', 'val', 'test')
VOID = 11


@DATASETS.register_module()
class CamVid(ReproducibleAugmentation, BaseSegDataset):
    """CamVid, street scenes from a car: 11 classes at 480 x 360, in the form of the SegNet tutorial.

    `Semantic object classes in video <https://doi.org/10.1016/j.patrec.2008.04.005>`_ (Brostow et al. 2009). The split
    of `SegNet <https://arxiv.org/abs/1511.00561>`_ has 367 training, 101 validation and 233 test frames; 33 % of the
    labelled training pixels are road and 0.3 % bicyclist. ``tools/dataset_converters/camvid.py`` downloads it::

        data/camvid/{train,val,test}/*.png  {train,val,test}annot/*.png

    A label file holds the class 0..10 of every pixel, or 11 for void, which becomes 255 (ignored). The metainfo of
    every split has ``num_per_class``, the labelled pixels of the *training* split, where its labels are at hand.

    Args:
        data_root (str): Folder of the data. Defaults to 'data/camvid'.
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.
        memory_size (Sequence[int], optional): Width and height at which all frames are kept in memory, for small
            studies. A sample then starts with ``img`` and ``gt_seg_map``, so leave ``LoadImageFromFile`` and
            ``LoadAnnotations`` out of the pipeline. By default, frames stay on disk.
        **kwargs: ``pipeline``, ``metainfo`` (``classes`` for fewer of them), ``indices``, ... of mmseg's
            :class:`BaseSegDataset`. ``test_mode`` defaults to True but for the training split.

    Raises:
        FileNotFoundError: if a folder, or the label file of a frame, is missing.
        ValueError: on an unknown split or a ``memory_size`` that is none.
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian',
                 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
                 [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self,
                 data_root: str = 'data/camvid',
                 split: str = 'train',
                 memory_size: Sequence[int] | None = None,
                 **kwargs) -> None:
        if split not in SPLITS:
            raise ValueError(f'Expected `split` of CamVid to be one of {SPLITS}, but got {split!r}.')
        if memory_size is not None and (len(memory_size) != 2 or min(memory_size) < 1):
            raise ValueError('Expected `memory_size` of CamVid to be (width, height) in pixels, such as (240, 180), '
                             f'but got {memory_size!r}.')
        self.split = split
        self.memory_size = memory_size
        kwargs.setdefault('test_mode', split != 'train')
        super().__init__(data_root=osp.expanduser(data_root), img_suffix='.png', seg_map_suffix='.png',
                         data_prefix=dict(img_path=split, seg_map_path=f'{split}annot'), **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence | None = None) -> dict:
        """From the values in the label files to classes: void is ignored, and so are classes left out."""
        chosen = super().get_label_map(new_classes) or {k: k for k in range(VOID)}
        return {**chosen, VOID: 255}

    def full_init(self) -> None:
        """Read the lists, and count the labelled pixels of the training split."""
        if self._fully_initialized:
            return
        super().full_init()
        try:
            train = self if self.split == 'train' else type(self)(
                self.data_root, metainfo=dict(classes=self._metainfo['classes']), backend_args=self.backend_args)
            pixel_counts(train)
        except FileNotFoundError:
            if self.split == 'train':
                raise
            return  # a test on another machine: only metrics that group classes miss the counts, and they say so
        self._metainfo['num_per_class'] = train.metainfo['num_per_class']

    def load_data_list(self) -> list[dict]:
        """Pair the frames with their label files and, with ``memory_size``, read them."""
        folders = [self.data_prefix['img_path'], self.data_prefix['seg_map_path']]
        found = []
        for folder in folders:
            if not isdir(folder, backend_args=self.backend_args):
                raise FileNotFoundError(
                    f'CamVid finds no folder {folder}: correct data_root={self.data_root!r}, or fetch the data with '
                    f'python tools/dataset_converters/camvid.py {self.data_root}.')
            found.append(set(list_dir_or_file(folder, list_dir=False, suffix='.png', backend_args=self.backend_args)))
        frames, labels = found
        missing = sorted(frames - labels)
        if missing or not frames:
            what = f'{folders[1]} lacks the labels of {len(missing)} of {len(frames)} frames (first: {missing[0]})' \
                if missing else f'{folders[0]} holds no .png frame'
            raise FileNotFoundError(f'CamVid: {what}; fetch the data again with python '
                                    f'tools/dataset_converters/camvid.py {self.data_root}.')
        data_list = super().load_data_list()
        if self.memory_size is not None:
            self._frames = [self._read(info) for info in data_list]
            for row, info in enumerate(data_list):
                info['row'] = row
        return data_list

    def _read(self, info: dict) -> tuple[np.ndarray, np.ndarray]:
        """A frame (BGR, as mmcv loads it) and its classes at ``memory_size``."""
        image = mmcv.imread(info['img_path'])
        values = mmcv.imread(info['seg_map_path'], flag='unchanged', backend='pillow')
        if values.ndim != 2 or values.shape != image.shape[:2]:
            raise ValueError(f'{info["seg_map_path"]} has shape {values.shape}, but must hold one class for each pixel '
                             f'of a frame of {image.shape[0]} x {image.shape[1]}.')
        table = np.arange(256, dtype=np.uint8)
        table[list(self.label_map)] = list(self.label_map.values())
        size = tuple(self.memory_size)
        return (cv2.resize(image, size, interpolation=cv2.INTER_AREA),
                cv2.resize(table[values], size, interpolation=cv2.INTER_NEAREST_EXACT))

    def get_data_info(self, idx: int) -> dict:
        """Paths of a sample, or copies of what is in memory, which a transform may write to."""
        info = super().get_data_info(idx)
        if self.memory_size is not None:
            image, classes = self._frames[info.pop('row')]
            info.update(img=image.copy(), img_shape=image.shape[:2], ori_shape=image.shape[:2],
                        gt_seg_map=classes.copy(), seg_fields=['gt_seg_map'])
        return info
