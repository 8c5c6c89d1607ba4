"""The tool on checkpoints of the tiny digits config, compared with measures taken by hand."""
import importlib.util
import json
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

import allnc_mm  # noqa: F401
from allnc_mm.functional.collapse import ClassStatistics, nc1
from allnc_mm.visualization import runs as runs_module
from allnc_mm.visualization.runs import build_model, evaluate_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'tests' / 'data' / 'tiny_digits.py'


def load_tool():
    spec = importlib.util.spec_from_file_location('collapse_report', ROOT / 'tools/analysis_tools/collapse_report.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Two models as they are initialised, with statistics of their normalisation layers: there is nothing to train."""
    root, paths = tmp_path_factory.mktemp('work_dirs'), []
    for seed, name in enumerate(('ce', 'allnc')):
        torch.manual_seed(seed)
        model = build_model(Config.fromfile(CONFIG))
        model.init_weights()
        torch.nn.init.normal_(model.head.fc.weight)
        (root / name / '2026' / 'vis_data').mkdir(parents=True)
        (root / name / '2026' / 'vis_data' / 'scalars.json').write_text(
            '\n'.join(json.dumps(dict(step=i, iter=i, epoch=i, loss=1 / i)) for i in (1, 2, 3)))
        paths.append(root / name / 'epoch_1.pth')
        torch.save(dict(state_dict=model.state_dict()), paths[-1])
    return paths


def by_hand(checkpoint, split):
    """Features, labels, and classifier of a checkpoint, without what is tested."""
    cfg = Config.fromfile(CONFIG)
    model = build_model(cfg)
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    model.eval()
    from allnc_mm.registry import DATASETS
    settings = dict(cfg.train_dataloader.dataset if split == 'train' else cfg.test_dataloader.dataset)
    dataset = DATASETS.build(dict(settings, pipeline=[dict(type='PackInputs')]))
    batch = model.data_preprocessor(pseudo_collate([dataset[i] for i in range(len(dataset))]), False)
    with torch.no_grad():
        features = model.extract_feat(batch['inputs'])[-1].double()
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    return features, labels, model.head.fc.weight.detach().double(), model.head.fc.bias.detach().double()


def test_measures_are_those_of_the_clean_images(checkpoints, monkeypatch):
    x, y, weight, bias = by_hand(checkpoints[0], 'train')
    run = evaluate_checkpoint(str(CONFIG), str(checkpoints[0]), classes=['9', '1'])
    assert run.label == 'ce' and run.num_per_class.tolist() == y.bincount().tolist()
    stats = ClassStatistics(10, x.size(1))
    stats.update(x, y)
    assert run.measures['nc1'] == pytest.approx(nc1(stats), rel=1e-4)
    means = stats.class_means()
    nearest = torch.cdist(x, means).argmin(1)
    agreement = ((x @ weight.T + bias).argmax(1) == nearest).double().mean()
    assert run.measures['nc4_agreement'] == pytest.approx(float(agreement), abs=.02)  # ties of float32
    np.testing.assert_allclose(run.vectors['means'], means.numpy(), atol=1e-4)

    test, labels, _, _ = by_hand(checkpoints[0], 'test')
    hits = torch.cdist(test, means).argmin(1) == labels
    assert run.measures['ncc_accuracy_test'] == pytest.approx(float(hits.double().mean()), abs=.01)
    predicted = (test @ weight.T + bias).argmax(1)
    assert run.metrics['overall'] == pytest.approx(100 * float((predicted == labels).double().mean()), abs=.5)
    assert run.bins[0].sum() == len(labels) and run.bins[1].sum() == round(run.metrics['overall'] * len(labels) / 100)
    # samples of the chosen classes, at most SAMPLES_PER_CLASS of each
    features, sampled = run.samples['train']
    assert sampled.tolist() == [k for k in y.tolist() if k in (1, 9)]
    np.testing.assert_allclose(features, x[(y == 1) | (y == 9)].numpy(), atol=1e-4)

    # a training set too large for the memory is passed twice, with the same result
    monkeypatch.setattr(runs_module, 'KEPT_BYTES', 1)
    monkeypatch.setattr(runs_module, 'SAMPLES_PER_CLASS', 2)
    progress = MagicMock()
    again = evaluate_checkpoint(str(CONFIG), str(checkpoints[0]), first=run, progress=progress)
    assert [call.args[0] for call in progress.add_task.call_args_list] == [
        'ce: training images', 'ce: training images, again', 'ce: test images']
    assert again.measures == pytest.approx(run.measures, nan_ok=True)
    assert np.bincount(again.samples['train'][1]).max() == 2


def test_report_of_two_runs(checkpoints, tmp_path, capsys):
    out, story = tmp_path / 'out', tmp_path / 'pictures' / 'story.png'
    load_tool().main([str(CONFIG), str(checkpoints[0]), '--compare', str(CONFIG), str(checkpoints[1]),
                      '--out', str(out), '--story', str(story), '--classes', '0', '5', '8', '9', '--groups', '3,4,3'])
    text = capsys.readouterr().out
    for path in (out / 'report.html', out / 'report.json', story):
        assert path.is_file() and str(path) in text
    assert story.stat().st_size < 200_000
    assert 'NC1' in text and 'Few-shot classes' in text and 'ideal' in text
    saved = json.loads((out / 'report.json').read_text())
    assert [run['label'] for run in saved['runs']] == ['ce', 'allnc']
    assert saved['groups'] == dict(many=[0, 1, 2], medium=[3, 4, 5, 6], few=[7, 8, 9])
    page = (out / 'report.html').read_text()
    assert 'The classes 0, 5, 8 and 9 in the space of their means' in page and 'Training loss' not in page
    assert (out / 'training-curves.png').is_file() and str(checkpoints[1]) in page


def test_errors(checkpoints, tmp_path, capsys):
    tool = load_tool()

    def fails(*argv, out=('--out', tmp_path / 'out')):
        with pytest.raises(SystemExit) as caught:
            tool.main([str(arg) for arg in (*argv, *out)])
        assert caught.value.code
        return capsys.readouterr().err

    run = CONFIG, checkpoints[0]
    assert 'Config nowhere.py does not exist' in fails('nowhere.py', checkpoints[0])
    assert 'Checkpoint nowhere.pth does not exist' in fails(CONFIG, 'nowhere.pth')
    assert '--compare needs pairs CONFIG CHECKPOINT, up to seven, but got 1 path' in fails(*run, '--compare', 'a')
    assert '--labels needs one name for each of the 1 runs' in fails(*run, '--labels', 'a', 'b')
    assert 'all different' in fails(*run, '--compare', *run, '--labels', 'a', 'a')
    assert '--story must be a .png file' in fails(*run, '--story', 'a.jpg')
    assert '--groups must be A, B or three sizes' in fails(*run, '--groups', 'many')
    assert "there is no class 'cow'" in fails(*run, '--classes', 'cow', '1')
    assert 'does not fit the model' in fails(*run, '--cfg-options', 'model.backbone.base_channels=8',
                                             'model.head.in_channels=32')
    assert not (tmp_path / 'out').exists()


def test_labels():
    default_labels = load_tool().default_labels
    assert default_labels(['work/ce/epoch_1.pth', 'work/allnc/epoch_1.pth']) == ['ce', 'allnc']
    assert default_labels(['w/ce/epoch_1.pth', 'w/ce/epoch_2.pth']) == ['ce epoch_1', 'ce epoch_2']
    assert default_labels(['a/ce/e.pth', 'b/ce/e.pth']) == ['a/ce/e.pth', 'b/ce/e.pth']
    assert default_labels(['a/ce/e.pth', 'a/ce/e.pth']) == ['1: ce e', '2: ce e']
