"""The tables in the documentation are what the scripts print from the logs."""
import shutil
from pathlib import Path

import ablation
import camvid
import markdown_tables
import protocols
import pytest
import softmax_code
from mmengine.config import Config
from mmengine.registry import DefaultScope

from allnc_mm.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
TABLES = [('README.md', 'cifar10-if100'), ('README.md', 'softmax-code'), ('configs/allnc/README.md', 'cifar10-if100'),
          ('configs/allnc/README.md', 'cifar10-if50'), ('configs/allnc/README.md', 'digits'),
          ('docs/gnc.md', 'softmax-growth'), ('configs/seg/README.md', 'camvid')]
SCRIPTS = {**softmax_code.TABLES, 'camvid': lambda: camvid.table(camvid.RESULTS)}


@pytest.mark.parametrize('page, mark', TABLES)
def test_the_page_has_the_table_that_the_logs_give(page, mark, tmp_path):
    copy = tmp_path / 'page.md'
    shutil.copy(ROOT / page, copy)
    text = SCRIPTS[mark]() if mark in SCRIPTS else protocols.table(mark)
    assert text.count('\n|') > 4
    markdown_tables.insert(copy, mark, text)
    assert copy.read_text() == (ROOT / page).read_text()


def test_the_own_columns_are_those_of_the_logs():
    pages = sorted((ROOT / 'configs').glob('*/README.md'))
    assert sum('<!-- own' in page.read_text() for page in pages) > 5
    for page in pages:
        assert protocols.with_own_columns(page.read_text()) == page.read_text(), page
    page = (ROOT / 'configs' / 'la' / 'README.md').read_text()
    row = next(line for line in page.splitlines() if 'la/resnet20_digits-lt ' in line)
    assert ' ± ' in row.split('|')[2]


def test_every_method_of_a_record_has_its_config():
    for protocol, (stem, _) in protocols.PROTOCOLS.items():
        for (name, _), record in protocols.results(protocol)[1].items():
            assert record['config'] == protocols.METHODS[name].format(stem)
            assert (ROOT / 'configs' / record['config']).is_file()


def test_a_file_without_marks_is_refused(tmp_path):
    (tmp_path / 'empty.md').write_text('nothing')
    with pytest.raises(SystemExit, match='has no marks'):
        markdown_tables.insert(tmp_path / 'empty.md', 'digits', '')


@pytest.mark.parametrize('name', ablation.SWITCHES)
def test_each_switch_of_the_ablation_gives_another_model_or_schedule(name):
    default = Config.fromfile(ablation.default_config())
    cfg = Config.fromfile(ablation.default_config())
    cfg.merge_from_dict(ablation.SWITCHES[name])
    assert cfg.to_dict() != default.to_dict()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        MODELS.build(cfg.model)


def test_the_table_of_the_ablation_pairs_seeds(monkeypatch):
    def record(name, seed, overall):
        accuracies = dict(overall=overall, few=2 * overall)
        return dict(name=name, seed=seed, test=dict.fromkeys(ablation.GEOMETRY, 0.5),
                    tuned=dict(running=dict(val=accuracies, val_tau0=accuracies)))

    switch = next(iter(ablation.SWITCHES))
    runs = [record(ablation.DEFAULT, 0, 50), record(ablation.DEFAULT, 1, 60), record(switch, 1, 63)]
    monkeypatch.setattr(ablation, 'records', lambda: ({}, {(r['name'], r['seed']): r for r in runs}))
    lines = ablation.table().splitlines()
    assert lines[-2].startswith('| default | 2 | 55.0 | 110.0 | 55.0 | 0.500 |')
    assert lines[-1].startswith(f'| {switch} | 1 | +3.0 | +6.0 | 63.0 | 0.500 |')
