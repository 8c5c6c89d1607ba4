import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import allnc_mm  # noqa: F401
from allnc_mm.geometry_cache import cached_softmax_code
from allnc_mm.visualization.class_mean_classifier import class_similarity, evaluate_class_means
from allnc_mm.visualization.comparison import build_model

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'
COUNTS = [7, 4, 2]
HEADS = {
    'linear': dict(type='LinearClsHead'),
    'cosine': dict(type='SphericalHead', temperature=0.2),
    'norm': dict(type='ETFHead', norm_cfg=dict(type='BN1d')),
}


def load_tool(name='class_mean_classifier'):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Images of three classes, and a config and a checkpoint for each head."""
    root = tmp_path_factory.mktemp('class-means')
    rng = np.random.RandomState(0)
    for split, counts in (('train', COUNTS), ('test', [4, 4, 4])):
        for k, count in enumerate(counts):
            folder = root / split / f'class{k}'
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.randint(0, 160, (8, 8, 3)) + 40 * k
                Image.fromarray(image.astype(np.uint8)).save(folder / f'{i}.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_root=str(root / 'test'), pipeline=pipeline)
    loader = dict(batch_size=5, num_workers=0, collate_fn=dict(type='default_collate'),
                  sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
    torch.manual_seed(0)
    for name, head in HEADS.items():
        cfg = Config(dict(
            default_scope='mmpretrain', custom_imports=dict(imports=['allnc_mm'], allow_failed_imports=False),
            model=dict(type='ImageClassifier', backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=2),
                       neck=dict(type='GlobalAveragePooling'), head=dict(head, num_classes=3, in_channels=8)),
            data_preprocessor=dict(mean=[127.5] * 3, std=[60.] * 3),
            train_dataloader=dict(loader, dataset=dict(dataset, data_root=str(root / 'train'), pipeline=[
                pipeline[0], dict(type='RandomFlip', prob=1.0), pipeline[1]])),
            test_dataloader=loader, test_evaluator=dict(type='LongTailMetric', groups=(1, 1, 1))))
        cfg.dump(root / f'{name}.py')
        model = build_model(cfg)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # not the identity of a new one
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        torch.save(dict(state_dict=model.state_dict()), root / f'{name}.pth')
    return root


def features(root, name, split):
    """Features, labels and predictions of all images by a plain loop."""
    model = build_model(Config.fromfile(root / f'{name}.py')).eval()
    model.load_state_dict(torch.load(root / f'{name}.pth')['state_dict'])
    rows, labels, trained = [], [], []
    for k in range(3):
        for file in sorted((root / split / f'class{k}').glob('*.png')):
            image = torch.from_numpy(np.asarray(Image.open(file))[..., ::-1].copy()).permute(2, 0, 1).float()
            with torch.no_grad():
                feats = model.extract_feat((image[None] - 127.5) / 60)
                row = model.head.pre_logits(feats)[0].double().numpy()
                rows.append(row if name == 'linear' else row / np.linalg.norm(row))  # cosine heads see directions
                trained.append(int(model.head(feats).argmax()))
            labels.append(k)
    return np.array(rows), np.array(labels), np.array(trained)


@pytest.mark.parametrize('name', HEADS)
def test_accuracies_are_those_of_plain_loops(root, name):
    x, y, _ = features(root, name, 'train')
    test, labels, trained = features(root, name, 'test')
    means = np.array([x[y == k].mean(0) for k in range(3)])
    cmf = np.array([(x[y == k] / np.linalg.norm(x[y == k], axis=1, keepdims=True)).mean(0) for k in range(3)])
    expected = dict(ncc=[int(np.argmin([np.linalg.norm(t - m) for m in means])) for t in test],
                    cmf=[int(np.argmax([t @ m / np.linalg.norm(m) for m in cmf])) for t in test])
    result, _ = evaluate_class_means(str(root / f'{name}.py'), str(root / f'{name}.pth'))
    for kind, predicted in expected.items():
        hit = np.array(predicted) == labels
        assert result[kind]['overall'] == pytest.approx(100 * hit.mean())
        for k, group in enumerate(('many', 'medium', 'few')):
            assert result[kind][group] == pytest.approx(100 * hit[labels == k].mean())
        assert result[kind]['agreement'] == pytest.approx(100 * (trained == predicted).mean())
    assert result['trained']['agreement'] == 100
    assert result['trained']['overall'] == pytest.approx(100 * (trained == labels).mean())
    assert any(len(set(predicted)) > 1 for predicted in expected.values())  # else it would compare constants


@pytest.mark.parametrize('name, kind', [('linear', 'ncc'), ('linear', 'cmf'), ('cosine', 'cmf')])
def test_the_saved_model_has_the_class_means(root, tmp_path, name, kind, capsys):
    path, out = tmp_path / 'new.pth', tmp_path / 'numbers.json'
    config, checkpoint = str(root / f'{name}.py'), str(root / f'{name}.pth')
    load_tool().main([config, checkpoint, '--save', str(path), '--classifier', kind, '--out', str(out)])
    printed = capsys.readouterr().out.replace('\n', ' ')
    assert str(path) in printed and str(tmp_path / 'new.py') in printed and 'nearest class mean (NCC)' in printed
    numbers = json.loads(out.read_text())
    again, _ = evaluate_class_means(str(tmp_path / 'new.py'), str(path))
    assert again['trained']['overall'] == pytest.approx(numbers[kind]['overall'])
    assert again['trained']['few'] == pytest.approx(numbers[kind]['few'])
    assert type(build_model(Config.fromfile(tmp_path / 'new.py')).head).__name__ == dict(
        ncc='LinearClsHead', cmf='CMFHead')[kind]


def test_errors(root, tmp_path, capsys):
    tool = load_tool()

    def fails(*argv):
        with pytest.raises(SystemExit):
            tool.main([str(arg) for arg in argv])
        return capsys.readouterr().err

    assert 'does not exist; give the config and the checkpoint' in fails(root / 'linear.py', tmp_path / 'none.pth')
    assert 'does not fit the model' in fails(root / 'linear.py', root / 'cosine.pth')
    assert 'leave out --save' in fails(root / 'norm.py', root / 'norm.pth', '--save', tmp_path / 'x.pth')
    assert 'take --classifier cmf' in fails(root / 'cosine.py', root / 'cosine.pth', '--save', tmp_path / 'x.pth',
                                            '--classifier', 'ncc')
    assert '--save to end in .pth' in fails(root / 'linear.py', root / 'linear.pth', '--save', tmp_path / 'x.bin')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', HEADS)
def test_classes_are_assigned_by_the_means_of_a_checkpoint(root, tmp_path, name, capsys, monkeypatch):
    x, y, _ = features(root, name, 'train')
    means = np.array([x[y == k].mean(0) for k in range(3)])
    means -= means.mean(0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    similarity = class_similarity(str(root / f'{name}.py'), str(root / f'{name}.pth'))
    np.testing.assert_allclose(similarity.numpy(), means @ means.T, atol=1e-4)
    code = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])  # two near each other, one apart
    tool = load_tool('assign_classes')
    monkeypatch.setattr(tool, 'cached_softmax_code', lambda num, dim, seed: code.double())
    paths = [str(root / f'{name}.py'), str(root / f'{name}.pth')]
    tool.main([*paths, '--dim', '2', '--out', str(tmp_path / 'order.json')])
    order = json.loads((tmp_path / 'order.json').read_text())
    nearest = np.unravel_index((similarity.numpy() - 2 * np.eye(3)).argmax(), (3, 3))
    assert {order[k] for k in nearest} == {0, 1}
    printed = capsys.readouterr().out
    assert 'similar)' in printed and 'order.json' in printed


def test_classes_are_assigned_by_a_similarity_of_the_user(tmp_path, capsys):
    tool = load_tool('assign_classes')
    similarity = np.zeros((4, 4))
    similarity[1, 2] = 1
    np.save(tmp_path / 's.npy', similarity)
    tool.main(['--similarity', str(tmp_path / 's.npy'), '--dim', '2', '--out', str(tmp_path / 'order.json')])
    order = json.loads((tmp_path / 'order.json').read_text())
    assert sorted(order) == [0, 1, 2, 3]
    square = cached_softmax_code(4, 2)
    assert abs(float(square[order[1]] @ square[order[2]])) < 1e-9
    np.save(tmp_path / 'pickle.npy', np.array([print], dtype=object))
    for argv, match in [(['--dim', '2'], 'give either CONFIG'),
                        (['--similarity', str(tmp_path / 'none.npy'), '--dim', '2'], 'none.npy'),
                        (['--similarity', str(tmp_path / 'pickle.npy'), '--dim', '2'], 'pickle'),
                        (['--similarity', str(tmp_path / 's.npy'), '--dim', '0'], 'at least 1')]:
        with pytest.raises(SystemExit):
            tool.main(argv)
        assert match in capsys.readouterr().err
