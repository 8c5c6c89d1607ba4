import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from allnc_mm.fileio import whole_file
from allnc_mm.theory import plots, solution
from allnc_mm.visualization import figures
from allnc_mm.visualization.class_stats import ClassStats, draw_stats, save_stats

STATS = ClassStats('a.py', 'images', ['a', 'b', 'c'], [5, 2, 1], dict(many=[0], medium=[1], few=[2]), 'thirds')


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        Path(part).write_text('half')
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.pth']


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / 'new' / 'a.pth'
    with whole_file(path) as one, whole_file(path) as two:
        Path(one).write_text('one')
        Path(two).write_text('two')
        assert not path.exists()
    assert path.read_text() == 'one' and os.listdir(path.parent) == ['a.pth']


@pytest.mark.parametrize('write', [
    lambda path: save_stats(STATS, path),
    lambda path: draw_stats(STATS, path),
    lambda path: figures.save_png(Figure(), path),
    lambda path: plots.save(Figure(), path),
    lambda path: solution.save_json([], path),
], ids=['save_stats', 'draw_stats', 'save_png', 'plots', 'solution'])
def test_a_writer_killed_before_its_end_leaves_the_old_file(tmp_path, monkeypatch, write):
    def kill(*_):
        raise KeyboardInterrupt

    path = tmp_path / 'a.out'
    path.write_text('old')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'replace', kill)
        write(str(path))
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.out']
    write(str(path))
    assert path.read_bytes() != b'old' and os.listdir(tmp_path) == ['a.out']
