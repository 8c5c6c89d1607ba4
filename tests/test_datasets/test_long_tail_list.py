import json

import cv2
import numpy as np
import pytest

from allnc_mm.datasets import LongTailList
from allnc_mm.registry import DATASETS

LINES = ['train/a/1.JPEG 0', 'train/a/with space 2.JPEG 0', 'train/b/1.JPEG 1', 'train/c/1.JPEG 2']
INAT = dict(
    images=[dict(id=10 + i, file_name=line.rsplit(' ', 1)[0]) for i, line in enumerate(LINES)],
    annotations=[dict(id=i, image_id=10 + i, category_id=int(line[-1])) for i, line in enumerate(LINES)],
    categories=[dict(id=2, name='cat'), dict(id=0, name='ant'), dict(id=1, name='bat')])


@pytest.fixture
def tree(tmp_path):
    """Four small images and their list; returns the root."""
    for i, line in enumerate(LINES):
        path = tmp_path / 'images' / line.rsplit(' ', 1)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), 10 * i, np.uint8))
    (tmp_path / 'train.txt').write_text('\n'.join(LINES) + '\n\n')
    (tmp_path / 'train.json').write_text(json.dumps(INAT))
    return tmp_path


def build(root, ann_file='train.txt', **kwargs):
    args = dict(num_classes=3, data_root=str(root), data_prefix='images')
    return LongTailList(ann_file, **{**args, **kwargs})


def test_text_list(tree):
    dataset = build(tree, pipeline=[dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')])
    assert DATASETS.get('LongTailList') is LongTailList
    assert dataset.metainfo['num_per_class'] == [2, 1, 1]
    assert dataset.get_gt_labels().tolist() == [0, 0, 1, 2]
    assert dataset.get_data_info(1)['img_path'] == str(tree / 'images/train/a/with space 2.JPEG')
    assert dataset[3]['inputs'].shape == (3, 8, 8) and dataset[3]['data_samples'].gt_label.item() == 2


def test_inat_json(tree):
    dataset = build(tree, 'train.json', num_classes=None)
    assert dataset.metainfo['classes'] == ('ant', 'bat', 'cat')
    assert dataset.metainfo['num_per_class'] == [2, 1, 1]
    assert [dataset.get_data_info(i)['img_path'] for i in range(4)] == [
        build(tree).get_data_info(i)['img_path'] for i in range(4)
    ]
    bare = {key: INAT[key] for key in ('images', 'annotations')}
    (tree / 'bare.json').write_text(json.dumps(bare))
    assert build(tree, 'bare.json').metainfo['num_per_class'] == [2, 1, 1]
    with pytest.raises(ValueError, match='needs `num_classes` for .*bare.json'):
        build(tree, 'bare.json', num_classes=None)


def test_category_ids_with_gaps(tree):
    data = json.loads(json.dumps(INAT))
    for entry in data['categories']:
        entry['id'] = 5 + 10 * entry['id']
    for entry in data['annotations']:
        entry['category_id'] = 5 + 10 * entry['category_id']
    (tree / 'gaps.json').write_text(json.dumps(data))
    assert build(tree, 'gaps.json').get_gt_labels().tolist() == [0, 0, 1, 2]


def test_counts_come_from_the_training_list(tree):
    (tree / 'val.txt').write_text('\n'.join(LINES[2:]))
    val = build(tree, 'val.txt', train_ann_file='train.txt', test_mode=True)
    assert len(val) == 2 and val.metainfo['num_per_class'] == [2, 1, 1]
    assert 'num_per_class' not in build(tree, 'val.txt', test_mode=True).metainfo
    same = build(tree, train_ann_file=str(tree / 'train.txt'))
    assert same.metainfo['num_per_class'] == [2, 1, 1]


def test_indices_are_counted(tree):
    assert build(tree, indices=[1, 2, 3]).metainfo['num_per_class'] == [1, 1, 1]
    with pytest.raises(ValueError, match='`indices` takes: 1 of the 3 classes have no training image'):
        build(tree, indices=3)


@pytest.mark.parametrize('line, message', [
    ('train/b/1.JPEG', 'line 3: expected "PATH LABEL", but got \'train/b/1.JPEG\'; correct or remove'),
    ('', 'line 3: expected "PATH LABEL"'),
    ('train/b/1.JPEG one', "line 3: the label 'one' in .* is not an integer"),
    ('train/b/1.JPEG 1.0', "line 3: the label '1.0' in .* is not an integer"),
    ('train/b/with space.JPEG', "line 3: the label 'space.JPEG' in .* is not an integer"),
    ('train/b/1.JPEG 3', r'line 3: the label 3 is outside 0\.\.2; .*`num_classes` \(now 3\)'),
    ('train/b/1.JPEG -1', r'line 3: the label -1 is outside 0\.\.2'),
    ('train/b/1.JPEG 2', r'train.txt: 1 of the 3 classes have no training image \(first: \[1\]\); correct `num_cl'),
])
def test_malformed_lines(tree, line, message):
    (tree / 'train.txt').write_text('\n'.join([*LINES[:2], line, *LINES[3:]]))
    with pytest.raises(ValueError, match=message):
        build(tree)


def test_windows_line_ends(tree):
    (tree / 'train.txt').write_bytes('\r\n'.join(LINES).encode())
    assert build(tree).get_data_info(3)['img_path'].endswith('c/1.JPEG')


@pytest.mark.parametrize('text', ['', '\n \n'])
def test_empty_list(tree, text):
    (tree / 'train.txt').write_text(text)
    with pytest.raises(ValueError, match='train.txt holds no image'):
        build(tree)


@pytest.mark.parametrize('args, message', [
    (dict(num_classes=None), 'needs `num_classes` for .*train.txt'),
    (dict(num_classes=0), '`num_classes` to be positive, but got 0'),
    (dict(check_files='few'), "`check_files` to be one of .* but got 'few'"),
    (dict(classes=['a', 'b']), 'has 2 names, but num_classes=3'),
    (dict(ann_file='train.json', num_classes=4), 'has 3 categories, but num_classes=4'),
])
def test_setting_errors(tree, args, message):
    with pytest.raises(ValueError, match=message):
        build(tree, **args)


def test_missing_list(tree):
    with pytest.raises(FileNotFoundError, match='lost.txt.* does not exist; .* correct `ann_file` or `data_root`'):
        build(tree, 'lost.txt')
    with pytest.raises(FileNotFoundError, match='lost.txt.* correct `train_ann_file`'):
        build(tree, train_ann_file='lost.txt')


def test_missing_image(tree):
    (tree / 'images/train/c/1.JPEG').unlink()
    with pytest.raises(FileNotFoundError, match="train.txt, line 4: the image .*c/1.JPEG' does not exist.*`data_pre"):
        build(tree)
    assert len(build(tree, check_files='none')) == 4
    with pytest.raises(FileNotFoundError, match=r'train.json, annotations\[3\]: the image'):
        build(tree, 'train.json')


def test_some_and_all_files(tree):
    lines = [LINES[0]] * 100
    lines[50:52] = LINES[2:]
    (tree / 'long.txt').write_text('\n'.join(lines[:30] + ['gone.JPEG 0'] + lines[30:]))
    assert len(build(tree, 'long.txt')) == 101  # looks at lines 1, 13 or 14, 26, 38 or 39 ... 101
    with pytest.raises(FileNotFoundError, match='long.txt, line 31: '):
        build(tree, 'long.txt', check_files='all')


@pytest.mark.parametrize('change, message', [
    (lambda d: d['annotations'][1].pop('category_id'), r"annotations\[1\]: malformed entry \(KeyError: 'category_id'"),
    (lambda d: d['annotations'][2].update(image_id=99), r'annotations\[2\]: image_id 99 is not among the images'),
    (lambda d: d['annotations'][2].update(category_id=7), r'annotations\[2\]: category_id 7 is not one of the 3 cla'),
    (lambda d: d['images'][3].pop('file_name'), r"images\[3\]: malformed entry \(KeyError: 'file_name'\)"),
    (lambda d: d['images'].insert(0, 3), r'images\[0\]: malformed entry \(TypeError'),
    (lambda d: d['categories'][0].pop('name'), 'categories: malformed entry'),
    (lambda d: d.pop('images'), 'expected an object with the lists "images" and "annotations"'),
    (lambda d: d['annotations'].clear(), 'holds no image'),
])
def test_malformed_json(tree, change, message):
    data = json.loads(json.dumps(INAT))
    change(data)
    (tree / 'train.json').write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        build(tree, 'train.json')


def test_not_json(tree):
    (tree / 'train.json').write_text('{\n"images": [,]}')
    with pytest.raises(ValueError, match='train.json, line 2: not valid json'):
        build(tree, 'train.json')
