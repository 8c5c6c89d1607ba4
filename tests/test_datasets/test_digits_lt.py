import numpy as np
import pytest
from sklearn.datasets import load_digits

from allnc_mm.datasets import DigitsLT


def pixels(dataset):
    return {dataset.get_data_info(i)['img'].tobytes() for i in range(len(dataset))}


def test_splits():
    args = dict(val_per_class=20)
    train, val, test = (DigitsLT(split, **args) for split in ('train', 'val', 'test'))
    assert train.metainfo['num_per_class'] == np.bincount(train.get_gt_labels()).tolist()
    assert train.metainfo['num_per_class'] == test.metainfo['num_per_class'] == [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
    assert np.bincount(val.get_gt_labels()).tolist() == [20] * 10
    assert np.bincount(test.get_gt_labels()).tolist() == [50] * 10
    sets = [pixels(d) for d in (train, val, test)]
    assert [len(s) for s in sets] == [276, 200, 500]  # no two digits are the same, so nothing is in two splits:
    assert len(set.union(*sets)) == 976


def test_test_set_does_not_depend_on_the_training_settings():
    assert pixels(DigitsLT('test')) == pixels(DigitsLT('test', imb_factor=10, seed=5, n_max=50))
    assert pixels(DigitsLT()) != pixels(DigitsLT(seed=5))


def test_images():
    digits = load_digits()
    dataset = DigitsLT('test', size=8)
    image = dataset.get_data_info(0)['img']
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert (image == image[..., :1]).all()
    original = np.round(digits.images * 255 / 16)  # at size 8 nothing is resampled
    match = (original == image[..., 0]).all(axis=(1, 2))
    assert digits.target[match].tolist() == [dataset.get_data_info(0)['gt_label']]
    assert DigitsLT('test').get_data_info(0)['img'].shape == (16, 16, 3)
    assert DigitsLT('test').get_data_info(0)['img_shape'] == (16, 16)


def test_errors():
    with pytest.raises(ValueError, match='`size` to be at least 8, .* but got 4'):
        DigitsLT(size=4)
    with pytest.raises(ValueError, match='of DigitsLT has 128 images, .* 28 are left, but val_per_class=30'):
        DigitsLT(val_per_class=30)
    with pytest.raises(ValueError, match='lower `n_max`'):
        DigitsLT(n_max=200)
