import os
from pathlib import Path

import pytest

from allnc_mm.fileio import whole_file


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
