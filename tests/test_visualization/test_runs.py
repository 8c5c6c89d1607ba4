import json

import pytest

import allnc_mm  # noqa: F401
from allnc_mm.visualization.runs import choose_classes, read_curves, story_classes


def write_log(folder, lines):
    (folder / 'vis_data').mkdir(parents=True)
    (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(lines))


def test_curves_of_a_resumed_run(tmp_path):
    """What the second start did again replaces the first; iterations and epochs are counted apart."""
    assert read_curves(str(tmp_path)) == []
    write_log(tmp_path / '20260101_000000', [
        *(json.dumps(dict(step=i, iter=i, epoch=i // 10, loss=i)) for i in (10, 20, 30)),
        *(json.dumps({'step': i, 'accuracy/top1': i}) for i in (1, 2, 3)), '{"step": 40, "it'])
    write_log(tmp_path / '20260102_000000', [
        *(json.dumps(dict(step=i, iter=i, epoch=i // 10, loss=-i)) for i in (30, 40)), '[]', '{"loss": 1}',
        json.dumps({'step': 3, 'accuracy/top1': -3})])
    curves = read_curves(str(tmp_path))
    assert [entry['loss'] for entry in curves if 'iter' in entry] == [10, 20, -30, -40]
    assert [entry['accuracy/top1'] for entry in curves if 'iter' not in entry] == [1, 2, -3]


def test_classes():
    assert story_classes([5, 100, 0, 7, 20]) == [1, 3, 0]
    assert story_classes([5, 100]) == [1, 0]
    names = ['cat', '2', 'dog']
    assert choose_classes(['dog', '0'], names, 3) == [2, 0]
    assert choose_classes(['2', '0'], names, 3) == [1, 0]  # a name before a number
    with pytest.raises(ValueError, match="there is no class 'cow'; give names or numbers from 0 to 2, such as cat, 2"):
        choose_classes(['cow', 'cat'], names, 3)
    with pytest.raises(ValueError, match="no class '3'; give names or numbers from 0 to 2"):
        choose_classes(['3', '1'], [], 3)
    for wanted in (['1'], ['1', 'cat', '1']):
        with pytest.raises(ValueError, match='at least two different classes'):
            choose_classes(wanted, names, 3)
