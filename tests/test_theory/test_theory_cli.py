"""python -m allnc_mm.theory: tables, files, errors; and the examples in the docstrings."""
import doctest
import importlib
import json
import pkgutil
import re
import runpy
import sys
from pathlib import Path

import pytest

import allnc_mm.theory
from allnc_mm.theory import layer_peeled, relu_ufm, save_json, seli
from allnc_mm.theory.__main__ import build_parser, main

COMMANDS = {
    'ulpm': '--counts 3*2 --dim 2 --steps 300',
    'layer-peeled': '--classes 2 2 --points 2',
    'weight-decay': '--classes 2 2 --points 2 --bias-decay .01',
    'seli': '--points 3',
    'relu': '--descent',
    'fixed-etf': '--classes 2 2 --points 2 --loss dr',
    'spherical': '--num-classes 5 --dim 2 --temperatures 1 .1 --restarts 1',
    'allnc': '--classes 2 2 --ratios 1 50 --points 2',
}
COLUMNS = {
    'model', 'K_A', 'K_B', 'n_A', 'n_B', 'knobs', 'loss', 'nc1', 'cos_AA', 'cos_AB', 'cos_BB', 'h_cos_AA', 'h_cos_AB',
    'h_cos_BB', 'w_A/w_B', 'h_A/h_B', 'threshold', 'collapsed', 'seconds'
}


@pytest.mark.parametrize('model', COMMANDS)
def test_every_model_prints_a_table_and_writes_its_files(model, tmp_path, capsys):
    files = ['--json', str(tmp_path / 'new' / 'rows.json'), '--png', str(tmp_path / 'new' / 'picture.png')]
    assert main([model, *COMMANDS[model].split(), *files]) == 0
    printed = capsys.readouterr().out
    assert model in printed and 'loss' in printed and 'rows.json' in printed
    rows = json.loads((tmp_path / 'new' / 'rows.json').read_text())
    assert all(COLUMNS <= set(row) for row in rows) and len(rows) >= 1
    picture = (tmp_path / 'new' / 'picture.png').read_bytes()
    assert picture[:4] == b'\x89PNG' and len(picture) < 200_000


def test_it_runs_as_a_module(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['theory', 'seli', '--classes', '2', '2', '--ratios', '10', '10'])
    monkeypatch.delitem(sys.modules, 'allnc_mm.theory.__main__')  # runpy warns about it
    with pytest.raises(SystemExit) as end:
        runpy.run_module('allnc_mm.theory', run_name='__main__', alter_sys=True)
    assert end.value.code == 0
    assert '0.0794' in capsys.readouterr().out  # cos_BB of (2, 2, R = 10)
    assert (tmp_path / 'work_dirs' / 'theory' / 'seli.png').exists()


@pytest.mark.parametrize('command, message', [
    ('layer-peeled --ratios 0.5 2', '1 <= LOW <= HIGH, but got 0.5 2'),
    ('layer-peeled --classes 0 2', '`num_head` to be a positive number of classes'),
    ('seli --points 0', '--points of at least 1, but got 0'),
    ('ulpm --dim 1', '`dim` of at least K - 1 = 3, but got 1'),
    ('relu --decays 0 1', '`decay_w` to be positive and finite, but got 0'),
    ('weight-decay --decays 0 1', '`decay_w` to be positive and finite, but got 0'),
    ('seli --json /dev/null/rows.json', '/dev/null'),
])
def test_impossible_settings_are_one_line(command, message, capsys):
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1


@pytest.mark.parametrize('command, said', [
    ('weight-decay --classes 3 1', 'K_B 1'),  # no angle within one class
    ('weight-decay --ratios 4 9 --points 2', 'yes'),  # vectors that are zero
    ('ulpm --steps 5', 'log10_t'),  # not yet at time 1
    ('relu --decays 10 10', '4'),  # everything vanishes
    ('seli --classes 500 500 --points 2', 'K_A 500, K_B 500'),
])
def test_pictures_of_what_has_little_to_show(command, said, tmp_path, capsys):
    files = ['--json', str(tmp_path / 'rows.json'), '--png', str(tmp_path / 'picture.png')]
    assert main([*command.split(), *files]) == 0
    assert said in capsys.readouterr().out and (tmp_path / 'picture.png').stat().st_size < 200_000


def test_a_count_that_is_none(capsys):
    with pytest.raises(SystemExit):
        main(['ulpm', '--counts', '3x4'])
    assert "expected a count such as 50, or 3*50 for three classes of 50, but got '3x4'" in capsys.readouterr().err


def test_the_page_names_commands_that_exist():
    page = (Path(__file__).parents[2] / 'docs' / 'theory.md').read_text()
    commands = re.findall(r'^python -m allnc_mm.theory (.+)$', page, re.MULTILINE)
    commands += re.findall(r'^\| `(.+?)` \|', page, re.MULTILINE)
    parsed = {build_parser().parse_args(command.split()).model for command in commands}
    assert parsed == set(COMMANDS)


def test_groups_and_json(tmp_path):
    assert [len(group) for group in seli([9, 9, 1]).groups()] == [2, 1]
    assert [len(group) for group in seli([9, 8, 7, 1]).groups()] == [2, 2]  # more than two sizes: the smaller half
    assert [len(group) for group in seli([5, 5, 5]).groups()] == [3, 0]
    assert [len(group) for group in layer_peeled(1, 2, 1.0).groups()] == [1, 2]
    save_json([seli([9, 9, 1]), relu_ufm([400, 12])], tmp_path / 'rows.json')
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert rows[0]['threshold'] is None and rows[0]['cos_BB'] is None and rows[0]['num_classes'] == 3
    assert rows[1]['curves']['num_per_class'] == [400, 12]


MODULES = [module.name for module in pkgutil.iter_modules(allnc_mm.theory.__path__, 'allnc_mm.theory.')
           if module.name.rsplit('.')[-1] not in ('__main__', 'plots', 'solution')]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, globs=dict(vars(module)))
    assert result.attempted and not result.failed


def test_a_picture_where_all_vectors_are_zero(tmp_path):
    """Weight decay so strong that nothing is learned: no ratio of lengths, but table and picture."""
    picture = tmp_path / 'zero.png'
    command = 'weight-decay --classes 2 2 --points 2 --decays 1 1'
    assert main([*command.split(), '--json', str(tmp_path / 'zero.json'), '--png', str(picture)]) == 0
    assert picture.read_bytes()[:4] == b'\x89PNG'
    rows = json.loads((tmp_path / 'zero.json').read_text())
    assert rows and all(row['w_A/w_B'] is None for row in rows)  # undefined, not infinite
