"""The tables in the documentation are what the scripts print from the logs."""
import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLES = [('README.md', 'cifar10-if100'), ('configs/allnc/README.md', 'cifar10-if100'),
          ('configs/allnc/README.md', 'digits')]


@pytest.fixture(scope='module')
def protocols():
    spec = importlib.util.spec_from_file_location('protocols', ROOT / 'benchmarks' / 'protocols.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('page, protocol', TABLES)
def test_the_page_has_the_table_that_the_logs_give(protocols, page, protocol, tmp_path):
    copy = tmp_path / 'page.md'
    shutil.copy(ROOT / page, copy)
    protocols.insert(protocol, copy)
    assert copy.read_text() == (ROOT / page).read_text()
    assert '| AllNC |' in protocols.table(protocol)


def test_every_method_of_a_record_has_its_config(protocols):
    for protocol, (stem, _) in protocols.PROTOCOLS.items():
        for (name, _), record in protocols.results(protocol)[1].items():
            assert record['config'] == protocols.METHODS[name].format(stem)
            assert (ROOT / 'configs' / record['config']).is_file()


def test_a_file_without_marks_is_refused(protocols, tmp_path):
    (tmp_path / 'empty.md').write_text('nothing')
    with pytest.raises(SystemExit, match='has no marks'):
        protocols.insert('digits', tmp_path / 'empty.md')
