"""The table of segmentation is what the script prints from the log."""
import json
import shutil
from pathlib import Path

import camvid
import markdown_tables
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'configs' / 'seg' / 'README.md'


def record(name, seed, miou):
    test = {column: 10.0 * seed for column in camvid.COLUMNS}
    return dict(name=name, seed=seed, config='c.py', minutes=1.5, classes=['rare', 'frequent'],
                num_per_class=[25, 75], test=dict(test, mIoU=miou, IoU=[miou, 2 * miou]), val=dict(test, mIoU=miou + 1))


def test_the_page_has_the_table_that_the_log_gives(tmp_path):
    copy = tmp_path / 'page.md'
    shutil.copy(PAGE, copy)
    markdown_tables.insert(copy, 'camvid', camvid.table(camvid.RESULTS))
    assert copy.read_text() == PAGE.read_text()


def test_every_method_has_its_config_and_every_record_is_of_it():
    for suffix in camvid.METHODS.values():
        assert (ROOT / 'configs' / 'seg' / f'{camvid.STEM}{suffix}.py').is_file()
    for (name, _), found in camvid.finished(camvid.RESULTS).items():
        assert found['config'] == f'configs/seg/{camvid.STEM}{camvid.METHODS[name]}.py'
        assert found['options'] == []  # trials stay out of the table


def test_table(tmp_path):
    path = tmp_path / 'log.jsonl'
    rows = [record('AllNC', 1, 30), record('CE', 1, 20), record('CE', 2, 24)]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    lines = camvid.table(path).splitlines()
    first = next(line for line in lines if line.startswith('| CE'))
    assert first.startswith('| CE | 2 | 22.0 ± 2.8 | 15.0 ± 7.1 |')
    assert '| 23.0 ± 2.8 | 15.0 ± 7.1 | 1.5 |' in first
    assert lines.index(first) < next(i for i, line in enumerate(lines) if line.startswith('| AllNC | 1 | 30.0 |'))
    assert '| method | frequent 75.0 % | rare 25.0 % |' in lines  # in the order of the shares
    assert '| CE | 44.0 | 22.0 |' in lines


def test_trials_stay_out_of_the_results(monkeypatch):
    monkeypatch.setattr('sys.argv', ['camvid.py', 'run', '--cfg-options', 'a=1'])
    with pytest.raises(SystemExit, match='give --results FILE'):
        camvid.main()


def test_frames_with_the_rarest_classes_are_chosen():
    #        rare  less  much
    counts = np.array([[0, 0, 90], [5, 2, 80], [9, 0, 80], [0, 14, 80], [0, 6, 80]])
    names = ['A_0', 'A_1', 'B_0', 'B_1', 'C_0']
    assert camvid.choose(counts, names, 1) == [2]
    assert camvid.choose(counts, names, 2) == [2, 4]  # not B_1, which is of the sequence of B_0
    assert camvid.choose(counts, names, 5) and len(set(camvid.choose(counts, names, 5))) == 5


def test_pictures(tiny_camvid, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'camvid.png'
    monkeypatch.setattr('sys.argv', ['camvid.py', 'pictures', '--data-root', str(tiny_camvid), '--work-dirs',
                                     str(tmp_path), '--out', str(out)])
    with pytest.raises(SystemExit, match='predictions.npz is missing; train it with'):
        camvid.main()
    for name in ('CE', 'AllNC'):
        (tmp_path / f'{name}_seed0').mkdir()
        np.savez_compressed(tmp_path / f'{name}_seed0' / 'predictions.npz', test=np.full((4, 180, 240), 3, np.uint8))
    camvid.main()
    assert 'frames Seq' in capsys.readouterr().out and out.stat().st_size < 200_000
    with Image.open(out) as picture:
        colours = set(picture.convert('RGB').getdata())
    assert (128, 64, 128) in colours and (0, 128, 192) in colours  # the predicted road, bicyclists of the truth
