import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import allnc_mm  # noqa: F401
from allnc_mm.visualization.runs import build_model

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'posthoc_rebalance.py'
spec = importlib.util.spec_from_file_location('posthoc_rebalance', TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

LOADER = "dict(batch_size=100, num_workers=0, dataset=dict(type='DigitsLT', size=8, split='{}', val_per_class=10, "\
         "pipeline=[dict(type='PackInputs')]))"


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Config and checkpoint of a classifier whose vectors for the first classes are too long."""
    folder = tmp_path_factory.mktemp('posthoc')
    text = f'''
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16))
train_dataloader = {LOADER.format('train')}
val_dataloader = {LOADER.format('val')}
test_dataloader = {LOADER.format('test')}
'''
    (folder / 'config.py').write_text(text)
    torch.manual_seed(0)
    model = build_model(Config.fromfile(folder / 'config.py'))
    model.head.fc.weight.data *= torch.linspace(5, 0.1, 10)[:, None]
    torch.save(dict(state_dict=model.state_dict()), folder / 'epoch_1.pth')
    return folder, model


def test_tau_normalisation(run, tmp_path):
    folder, model = run
    tool.main([str(folder / 'config.py'), str(folder / 'epoch_1.pth'), str(tmp_path / 'x' / 'out.pth'), '--tau', '1'])
    state = torch.load(tmp_path / 'x' / 'out.pth', weights_only=True)['state_dict']
    torch.testing.assert_close(state['head.fc.weight'], torch.nn.functional.normalize(model.head.fc.weight))
    assert not state['head.fc.bias'].any()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if not k.startswith('head.'))
    build_model(Config.fromfile(folder / 'config.py')).load_state_dict(state)


def test_logit_adjustment_by_the_training_counts(run, tmp_path):
    folder, model = run
    paths = (str(p) for p in (folder / 'config.py', folder / 'epoch_1.pth', tmp_path / 'out.pth'))
    tool.convert(*paths, 'logit-adjustment', 0.5)
    state = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    dataset = tool.DATASETS.build(Config.fromfile(folder / 'config.py').val_dataloader.dataset)
    prior = torch.tensor(dataset.metainfo['num_per_class']).float()
    torch.testing.assert_close(state['head.fc.bias'], model.head.fc.bias.detach() - 0.5 * (prior / prior.sum()).log())
    assert torch.equal(state['head.fc.weight'], model.head.fc.weight)


def test_tau_is_the_best_on_validation(run, tmp_path, capsys):
    folder, _ = run
    found = tool.convert(str(folder / 'config.py'), str(folder / 'epoch_1.pth'), str(tmp_path / 'out.pth'))
    out = capsys.readouterr().out
    scores = {line.split()[1]: float(line.split()[5]) for line in out.splitlines() if line.startswith('tau')}
    assert len(scores) == 21 and scores[f'{found:.1f}'] == max(scores.values())
    cfg = Config.fromfile(folder / 'config.py')
    cfg.val_dataloader.dataset.test_mode = True
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'])
    features, labels = tool.extract(model, tool.validation_set(cfg), 100, 0)
    accuracy = 100 * (model.head((features, )).argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(scores[f'{found:.1f}'], abs=0.01)  # the split is balanced


def test_choice_counts_classes_alike():
    """Nine samples of class 0, one of class 1: the classifier that has both classes half right loses."""
    features, labels = torch.eye(2)[torch.tensor([0] * 9 + [1])], torch.tensor([0] * 9 + [1])
    features[-1] = torch.tensor([1.0, 1.0])
    classifier = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.zeros(2)
    tau, scores = tool.choose_tau(features, labels, classifier, 'tau-norm', None)
    assert scores[0] == 50 and scores.max() == 100
    assert tau == pytest.approx(1.1)  # from there on |w_0|^(1 - tau) is the smaller one


def test_errors(run, tmp_path, capsys, monkeypatch):
    folder, _ = run
    config, checkpoint, out = (str(p) for p in (folder / 'config.py', folder / 'epoch_1.pth', tmp_path / 'out.pth'))
    with pytest.raises(ValueError, match='tau would be chosen on the test set.*--tau.*split=val'):
        tool.convert(config, checkpoint, out, cfg_options={'val_dataloader.dataset.split': 'test'})
    with pytest.raises(TypeError, match='LinearClsHead, but got ETFHead'):
        tool.convert(config, checkpoint, out, tau=1.0, cfg_options={'model.head': dict(
            type='ETFHead', num_classes=10, in_channels=16, _delete_=True)})
    with pytest.raises(ValueError, match='not one of this config'):
        tool.convert(config, checkpoint, out, tau=1.0, cfg_options={'model.backbone.depth': 32})
    with pytest.raises(ValueError, match='no val_dataloader.*give --tau'):
        tool.convert(config, checkpoint, out, cfg_options={'val_dataloader': None})
    monkeypatch.setattr(tool, 'num_per_class', lambda dataset: [5] * 9 + [0])
    with pytest.raises(ValueError, match=r'none of classes \[9\]; use --method tau-norm'):
        tool.convert(config, checkpoint, out, 'logit-adjustment', 1.0)
    with pytest.raises(SystemExit):
        tool.main([config, checkpoint, checkpoint])
    assert 'would overwrite' in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()
