import hashlib
import pickle

import numpy as np
import pytest

import allnc_mm  # noqa: F401
from allnc_mm.datasets import CIFAR10LT, CIFAR100LT
from allnc_mm.functional.longtail import exponential_profile, long_tail_indices
from allnc_mm.registry import DATASETS

PIPELINE = [
    dict(type='mmpretrain.RandomCrop', crop_size=32, padding=4),
    dict(type='mmpretrain.RandomFlip', prob=0.5),
    dict(type='mmpretrain.PackInputs')
]


class Mini10(CIFAR10LT):
    """CIFAR10LT whose official files have 40 training and 2 test images a class."""
    default_n_max = 40


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Files in the official python form; returns root, training images (N, 32, 32, 3) and labels."""
    rng = np.random.RandomState(0)
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    labels = rng.permutation(np.repeat(np.arange(10), 40))
    images = rng.randint(0, 256, (400, 32, 32, 3), dtype=np.uint8)

    def write(name, rows, labels):
        data = pickle.dumps({'data': rows.transpose(0, 3, 1, 2).reshape(len(rows), -1), 'labels': labels.tolist()})
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    files = [write(f'data_batch_{i + 1}', images[80 * i:80 * (i + 1)], labels[80 * i:80 * (i + 1)]) for i in range(5)]
    monkeypatch.setattr(Mini10, 'train_list', files)
    monkeypatch.setattr(Mini10, 'test_list', [write('test_batch', images[:20], np.arange(20) % 10)])
    return tmp_path, images, labels


@pytest.fixture
def pack(tmp_path):
    """The packed form with every official image; returns a function that writes a part of it."""
    rng = np.random.RandomState(0)
    labels = rng.permutation(np.repeat(np.arange(10), 40))
    images = rng.randint(0, 256, (400, 32, 32, 3), dtype=np.uint8)

    def write(held=slice(None), **replace):
        arrays = dict(images=images[held], labels=labels[held], index=np.arange(400)[held], full_labels=labels)
        arrays.update(replace)
        np.savez(tmp_path / 'train.npz', **{k: v for k, v in arrays.items() if v is not None})
        return str(tmp_path)

    write.images, write.labels = images, labels
    return write


def test_official_files(official):
    root, images, labels = official
    dataset = Mini10(str(root), imb_factor=10)
    counts = exponential_profile(40, 10, 10)
    chosen = long_tail_indices(labels, counts)
    assert dataset.metainfo['num_per_class'] == counts and dataset.metainfo['imb_factor'] == 10
    assert dataset.metainfo['classes'][0] == 'airplane'
    assert len(dataset) == sum(counts)
    for i in (0, 57, len(dataset) - 1):
        info = dataset.get_data_info(i)
        np.testing.assert_array_equal(info['img'], images[chosen[i]])  # HWC, RGB as in the file
        assert info['img'].dtype == np.uint8 and info['img_shape'] == info['ori_shape'] == (32, 32)
        assert info['gt_label'] == labels[chosen[i]] and info['sample_idx'] == i
    np.testing.assert_array_equal(dataset.get_gt_labels(), labels[chosen])


def test_same_channel_order_as_mmpretrain(official, monkeypatch):
    from mmpretrain.datasets import CIFAR10
    root, images, _ = official
    monkeypatch.setattr(CIFAR10, 'train_list', Mini10.train_list)
    monkeypatch.setattr(CIFAR10, 'test_list', Mini10.test_list)
    theirs = CIFAR10(str(root), split='test', download=False)
    ours = Mini10(str(root), split='test', imb_factor=10)
    assert len(theirs) == len(ours) == 20
    np.testing.assert_array_equal(theirs.get_data_info(5)['img'], ours.get_data_info(5)['img'])


def test_both_forms_choose_the_same_images(official, pack):
    root, _, labels = official
    plain = Mini10(str(root), imb_factor=10, seed=4)
    counts = exponential_profile(40, 10, 10)
    index = np.random.RandomState(1).permutation(long_tail_indices(labels, counts, seed=4))
    (root / 'cifar-10-batches-py').rename(root / 'away')
    packed = Mini10(pack(index), imb_factor=10, seed=4)
    assert len(plain) == len(packed)
    for i in range(len(plain)):
        np.testing.assert_array_equal(plain.get_data_info(i)['img'], packed.get_data_info(i)['img'])


def test_validation_split(pack):
    root = pack()
    args = dict(imb_factor=10, n_max=30, val_per_class=10)
    train, val = Mini10(root, **args), Mini10(root, split='val', **args)
    assert np.bincount(val.get_gt_labels()).tolist() == [10] * 10
    assert val.metainfo['num_per_class'] == train.metainfo['num_per_class'] == exponential_profile(30, 10, 10)
    assert not train.test_mode and val.test_mode
    pixels = [{d.get_data_info(i)['img'].tobytes() for i in range(len(d))} for d in (train, val)]
    assert not pixels[0] & pixels[1] and len(pixels[1]) == 100
    order = long_tail_indices(pack.labels, [40] * 10)
    first = train.metainfo['num_per_class'][0]
    np.testing.assert_array_equal(val.get_data_info(0)['img'], pack.images[order[first]])


def test_step_and_balanced(pack):
    root = pack()
    assert Mini10(root, profile='step', imb_factor=10).metainfo['num_per_class'] == [40] * 5 + [4] * 5
    assert len(Mini10(root, imb_factor=1)) == 400


def test_pipeline_and_copies(pack):
    from mmpretrain.structures import DataSample
    dataset = Mini10(pack(), imb_factor=10, pipeline=PIPELINE)
    item = dataset[7]
    assert item['inputs'].shape == (3, 32, 32) and isinstance(item['data_samples'], DataSample)
    assert item['data_samples'].gt_label.tolist() == [0]
    before = dataset.get_data_info(7)['img']
    dataset.get_data_info(7)['img'][:] = 0
    np.testing.assert_array_equal(dataset.get_data_info(7)['img'], before)
    part = dataset.get_subset([9, 3])
    np.testing.assert_array_equal(part.get_data_info(1)['img'], dataset.get_data_info(3)['img'])
    assert 'Split: \ttrain' in repr(dataset)


def test_registered():
    assert DATASETS.get('CIFAR10LT') is CIFAR10LT and DATASETS.get('CIFAR100LT') is CIFAR100LT


@pytest.mark.parametrize('args, message', [
    (dict(split='trian'), "`split` to be one of .* but got 'trian'"),
    (dict(profile='linear'), "`profile` to be one of .* but got 'linear'"),
    (dict(imb_factor=0), '`imb_factor`'),
    (dict(n_max=2), 'leaves class . without images'),
    (dict(split='val'), "`val_per_class` to be positive for split='val', but got 0"),
    (dict(val_per_class=-1), '`val_per_class` to be 0 or more'),
    (dict(indices=5), '`indices` would leave `num_per_class` wrong'),
    (dict(n_max=41), r"Class 0 \('airplane'\) .* has 40 training images, but n_max=41 .* lower `n_max`"),
    (dict(split='val', val_per_class=5), '0 are left, but val_per_class=5. Lower `val_per_class`, or set `n_max` to at '
                                         'most 35'),
])
def test_setting_errors(pack, args, message):
    with pytest.raises(ValueError, match=message):
        Mini10(pack(), **{'imb_factor': 10, **args})


def test_missing_files(tmp_path, official):
    with pytest.raises(FileNotFoundError, match="no data in data_root='.*nowhere'.*cifar-10-batches-py.*train.npz"):
        CIFAR10LT(str(tmp_path / 'nowhere'))
    root = official[0]
    (root / 'cifar-10-batches-py' / 'data_batch_3').unlink()
    with pytest.raises(FileNotFoundError, match='data_batch_3 is missing; unpack http'):
        Mini10(str(root), imb_factor=10)


def test_missing_half_of_the_pack(pack):
    root = pack()
    with pytest.raises(FileNotFoundError, match="test.npz is missing, which split='test'"):
        Mini10(root, split='test', imb_factor=10)


def test_a_changed_pickle_is_not_opened(official):
    root = official[0]

    class Bomb:

        def __reduce__(self):
            return (root / 'boom').touch, ()

    (root / 'cifar-10-batches-py' / 'data_batch_2').write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match='data_batch_2 is not the official file .md5 .* is not opened'):
        Mini10(str(root), imb_factor=10)
    assert not (root / 'boom').exists()


def test_partial_pack(pack):
    held = long_tail_indices(pack.labels, exponential_profile(40, 10, 10))
    root = pack(held)
    assert len(Mini10(root, imb_factor=20)) < len(Mini10(root, imb_factor=10)) == len(held)
    with pytest.raises(ValueError, match='of the 400 .* imb_factor=5, .* serves imb_factor 10, 20 with seed=0'):
        Mini10(root, imb_factor=5)
    with pytest.raises(ValueError, match='seed=3, .* serves imb_factor 10, 20 with seed=0'):
        Mini10(root, imb_factor=10, seed=3)
    with pytest.raises(ValueError, match="split='val'"):
        Mini10(root, split='val', imb_factor=10, n_max=30, val_per_class=10)


@pytest.mark.parametrize('replace, message', [
    (dict(full_labels=None), 'train.npz is not a packed CIFAR file: .*full_labels'),
    (dict(images=np.zeros((400, 3, 32, 32), np.uint8)), r'expected `images` as uint8 \(400, 32, 32, 3\)'),
    (dict(images=np.zeros((400, 32, 32, 3), np.float32)), 'but got float32'),
    (dict(full_labels=np.arange(400) % 100), 'labels run from 0 to 99, .* of the other CIFAR'),
    (dict(index=np.arange(400)[::-1]), '`labels` do not agree'),
    (dict(index=np.arange(400) + 1), '`labels` do not agree'),
    (dict(labels=np.array([{}] * 400, dtype=object)), 'Object arrays cannot be loaded'),
])
def test_malformed_pack(pack, replace, message):
    with pytest.raises(ValueError, match=message):
        Mini10(pack(**replace), imb_factor=10)


def test_not_an_archive(tmp_path):
    (tmp_path / 'train.npz').write_bytes(b'not found')
    with pytest.raises(ValueError, match='train.npz is not a packed CIFAR file'):
        CIFAR10LT(str(tmp_path))


@pytest.mark.data
def test_real_cifar10(cifar_root):
    root = str(cifar_root / 'cifar10')
    for ratio, total in {50: 13996, 100: 12406, 200: 11203}.items():
        assert len(CIFAR10LT(root, imb_factor=ratio, lazy_init=False)) == total
    test = CIFAR10LT(root, split='test')
    assert np.bincount(test.get_gt_labels()).tolist() == [1000] * 10
    assert test.metainfo['num_per_class'] == exponential_profile(5000, 100, 10)
    assert len(CIFAR10LT(root, n_max=500, imb_factor=1)) == 5000
    mini = dict(n_max=500, imb_factor=100, val_per_class=50)
    assert len(CIFAR10LT(root, **mini)) == 1236 and len(CIFAR10LT(root, split='val', **mini)) == 500
    with pytest.raises(ValueError, match='15136 of the 50000 .* serves imb_factor 50, 100, 200, 500 with seed=0'):
        CIFAR10LT(root, imb_factor=10)


@pytest.mark.data
def test_real_cifar100(cifar_root):
    root = str(cifar_root / 'cifar100')
    train = CIFAR100LT(root, imb_factor=100)
    assert len(train) == 10847 and len(CIFAR100LT(root, imb_factor=200)) == 9502
    assert train.metainfo['num_per_class'] == np.bincount(train.get_gt_labels()).tolist()
    with pytest.raises(ValueError, match='is `data_root` that of the other CIFAR'):
        CIFAR10LT(root)
