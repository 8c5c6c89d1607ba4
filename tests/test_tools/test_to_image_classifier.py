import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import allnc_mm  # noqa: F401
from allnc_mm.registry import MODELS

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'to_image_classifier.py'
spec = importlib.util.spec_from_file_location('to_image_classifier', TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

K, DIM = 5, 16
NECK = dict(type='NonLinearNeck', in_channels=DIM, hid_channels=8, out_channels=8, with_avg_pool=False,
            norm_cfg=dict(type='BN1d'))
GEOMETRY = dict(hycon=dict(type='HyConLoss'), p2p=dict(type='P2PLoss'), projector=NECK, proj_channels=8,
                predictor=dict(NECK, in_channels=8))
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=16), dict(type='PackInputs')]
OWN = dict(type='ResNetCIFAR6n2', depth=20, base_channels=DIM // 4)
STOCK = dict(type='VGG', depth=11, norm_cfg=dict(type='BN'), num_classes=-1)
CONTRASTIVE = dict(type='ContrastiveClsHead', contrast=dict(type='SupConLoss'), projector=NECK, prototypes=NECK)
HEADS = {
    'shared': dict(type='AllNCHead', **GEOMETRY),
    'mean': dict(type='AllNCHead', share_classifier=False, predict_head='mean', **GEOMETRY),
    'uniform': dict(type='AllNCHead', share_classifier=False, predict_head='uniform'),
    'cosine': dict(type='AllNCHead', temperature=0.1, **GEOMETRY),
    'etf': dict(type='ETFHead', length=9.0),
    'etf with batch norm': dict(type='ETFHead', norm_cfg=dict(type='BN1d')),
    'etf, learned': dict(type='ETFHead', loss=dict(type='CrossEntropyLoss'), learnable_length=True, rotation=True,
                         norm_cfg=dict(type='BN1d', affine=False)),
    'softmax code': dict(type='SoftmaxCodeHead', length=9.0),
    'spherical': dict(type='SphericalHead', temperature=0.2, learnable_temperature=True),
    'class means': dict(type='CMFHead'),
    'learned scales': dict(type='LWSHead'),
    'contrastive': dict(CONTRASTIVE, classifier=dict(type='LinearClsHead')),
    'contrastive, cosine': dict(CONTRASTIVE, classifier=dict(type='SphericalHead', temperature=0.2)),
}


def config(head, kind=None, backbone=OWN, **kwargs):
    kind = kind or ('AllNC' if head['type'] == 'AllNCHead' else 'ImageClassifier')
    sizes = dict(num_classes=K, in_channels=512 if backbone is STOCK else DIM)
    head = dict(head, classifier=dict(head['classifier'], **sizes)) if 'classifier' in head else dict(head, **sizes)
    model = dict(type=kind, backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head, **kwargs)
    if kind == 'AllNC':
        model.update(mixture=dict(type='MixtureViews'), num_views=2, clean_means=True)
    return Config(dict(
        default_scope='mmpretrain', custom_imports=dict(imports=['allnc_mm'], allow_failed_imports=False), model=model,
        data_preprocessor=dict(type='MultiViewDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, to_rgb=False,
                               channels_last=True, mixed_views=1),
        test_dataloader=dict(batch_size=3, dataset=dict(type='LongTailList', pipeline=PIPELINE))))


def trained(cfg):
    """A model with no weight, no statistic and no rotation as it was built."""
    torch.manual_seed(0)
    model_cfg = cfg.model.to_dict()
    model_cfg['data_preprocessor'] = cfg.data_preprocessor.to_dict()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model_cfg)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith('running_mean'):
            buffer.normal_()
        if name.endswith('running_var'):
            buffer.uniform_(0.5, 2)
        if name == 'head.weight':  # class means
            buffer.normal_()
    return model.eval()


def save(folder, cfg, model=None):
    model = model or trained(cfg)
    cfg.dump(folder / 'train.py')
    meta = dict(dataset_meta=dict(classes=tuple('abcde')), epoch=3)
    torch.save(dict(state_dict=model.state_dict(), meta=meta, optimizer=dict(lr=0.1)), folder / 'last.pth')
    return [str(folder / name) for name in ('train.py', 'last.pth', 'out/stock.pth')], model


@pytest.mark.parametrize('name', HEADS)
def test_one_trunk_one_map_the_same_predictions(name, tmp_path):
    arguments, source = save(tmp_path, config(HEADS[name]))
    new_config, new_checkpoint = tool.convert(*arguments)

    from mmpretrain.apis import get_model
    target = get_model(new_config, pretrained=new_checkpoint)
    assert type(target).__name__ == 'ImageClassifier' and type(target).__module__.startswith('mmpretrain.')
    for part in (target.head, target.neck, target.data_preprocessor):
        assert type(part).__module__.startswith('mmpretrain.')
    kinds = {type(m).__name__ for m in target.head.modules()}
    assert kinds <= {'LinearClsHead', 'Linear', 'ArcFaceClsHead', 'NormProduct', 'CrossEntropyLoss'}
    maps = [n for n, p in target.named_parameters() if not n.startswith('backbone.')]
    assert maps == dict(shared=['head.fc.weight', 'head.fc.bias']).get(name, maps)

    of_trunk = {k for k in source.state_dict() if k.startswith('backbone.')}
    assert of_trunk == {k for k in target.state_dict() if k.startswith('backbone.')}
    assert all(torch.equal(source.state_dict()[k], target.state_dict()[k]) for k in of_trunk)

    images = (torch.rand(7, 3, 16, 16) * torch.linspace(20, 255, 7)[:, None, None, None]).byte()
    with torch.no_grad():
        one, two = (model.test_step(dict(inputs=images)) for model in (source, target))
    assert [a.pred_label.item() for a in one] == [b.pred_label.item() for b in two]
    scores = torch.stack([a.pred_score for a in one])
    torch.testing.assert_close(torch.stack([b.pred_score for b in two]), scores, atol=1e-5, rtol=1e-4)
    assert scores.std(0).max() > 1e-3  # not a constant that anything would agree with

    assert sorted(os.listdir(tmp_path / 'out')) == ['stock.pth', 'stock.py']
    saved = torch.load(new_checkpoint, weights_only=True)
    assert saved['meta'] == dict(dataset_meta=dict(classes=tuple('abcde'))) and set(saved) == {'state_dict', 'meta'}


@pytest.mark.parametrize('name', ['shared', 'softmax code'])
def test_onnx_with_any_batch_size(name, tmp_path):
    """The README's lines for an export."""
    onnxruntime = pytest.importorskip('onnxruntime')
    arguments, _ = save(tmp_path, config(HEADS[name]))
    new_config, new_checkpoint = tool.convert(*arguments)

    from mmpretrain.apis import get_model
    model = get_model(new_config, pretrained=new_checkpoint).eval()
    torch.onnx.export(model, (torch.rand(2, 3, 16, 16), ), str(tmp_path / 'model.onnx'), input_names=['image'],
                      output_names=['logits'], dynamic_shapes=[{0: torch.export.Dim('batch')}], verbose=False)

    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        logits, = session.run(['logits'], dict(image=images.numpy()))
        with torch.no_grad():
            expected = model(images)
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('backbone', [OWN, STOCK])
def test_the_config_needs_allnc_only_for_its_own_parts(backbone, tmp_path):
    arguments, _ = save(tmp_path, config(HEADS['shared'], backbone=backbone))
    cfg = Config.fromfile(tool.convert(*arguments)[0])
    assert ('custom_imports' in cfg) == (backbone is OWN)
    assert cfg.default_scope == 'mmpretrain' and cfg.test_dataloader.dataset.pipeline == PIPELINE
    assert cfg.model.data_preprocessor == dict(type='ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3,
                                               to_rgb=False)
    assert not {'mixture', 'num_views', 'clean_means'} & set(cfg.model)


def test_weights_of_data_parallel_and_bare_state_dicts(tmp_path):
    arguments, model = save(tmp_path, config(HEADS['shared']))
    torch.save({f'module.{k}': v for k, v in model.state_dict().items()}, arguments[1])
    _, out = tool.convert(*arguments)
    assert torch.equal(torch.load(out, weights_only=True)['state_dict']['head.fc.weight'], model.head.fc.weight)


@pytest.mark.parametrize('head, error, message', [
    (dict(type='LinearClsHead'), TypeError, 'AllNCHead, ETFHead, .* but got LinearClsHead; stock heads need no conv'),
    (dict(type='ETFHead', norm_cfg=dict(type='LN')), ValueError, 'norm_cfg=LayerNorm.*only BN1d behind GlobalAverage'),
])
def test_heads_without_a_counterpart(head, error, message, tmp_path):
    arguments, _ = save(tmp_path, config(head))
    with pytest.raises(error, match=message):
        tool.convert(*arguments)
    assert not (tmp_path / 'out').exists()


def test_a_wrong_conversion_is_not_written(tmp_path, monkeypatch):
    arguments, _ = save(tmp_path, config(HEADS['mean']))
    monkeypatch.setattr(allnc_mm.models.AllNCHead, 'predict_map', lambda self: (self.fc.weight * 1.01, self.fc.bias))
    forward = allnc_mm.models.AllNCHead.forward
    monkeypatch.setattr(allnc_mm.models.AllNCHead, 'forward', lambda self, feats: forward(self, feats) * 1.01)
    with pytest.raises(RuntimeError, match='converted head is off by .* nothing was written'):
        tool.convert(*arguments)
    assert not (tmp_path / 'out').exists()


class Malice:

    def __reduce__(self):
        return os.mkdir, (str(Malice.trace), )


def test_a_malicious_checkpoint_is_refused(tmp_path):
    arguments, model = save(tmp_path, config(HEADS['shared']))
    Malice.trace = tmp_path / 'executed'
    torch.save(dict(state_dict=model.state_dict(), meta=Malice()), arguments[1])
    with pytest.raises(pickle.UnpicklingError):
        tool.convert(*arguments)
    assert not Malice.trace.exists() and not (tmp_path / 'out').exists()


def test_mistakes(tmp_path):
    cfg = config(HEADS['shared'])
    arguments, _ = save(tmp_path, cfg)
    with pytest.raises(ValueError, match='Expected OUT to end in .pth'):
        tool.convert(*arguments[:2], str(tmp_path / 'stock'))
    with pytest.raises(ValueError, match='would overwrite .*last.pth'):
        tool.convert(*arguments[:2], arguments[1])
    with pytest.raises(ValueError, match='would overwrite .*train.py'):
        tool.convert(*arguments[:2], str(tmp_path / 'train.pth'))
    cfg.model.head.num_classes = K + 1
    cfg.dump(arguments[0])
    with pytest.raises(ValueError, match='(?s)not one of this config; give the config it was trained.*head.fc.weight'):
        tool.convert(*arguments)


@pytest.mark.slow
def test_command_line(tmp_path):
    arguments, _ = save(tmp_path, config(HEADS['etf with batch norm']))
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'Wrote {arguments[2][:-3]}py and {arguments[2]}' in done.stdout
    arguments[1] += '.missing'
    done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith('FileNotFoundError: ') and 'Traceback' not in done.stderr


def test_images_in_memory_are_rgb_and_those_of_files_bgr(tmp_path):
    """CIFAR's arrays are RGB; mmpretrain.apis reads a file as BGR."""
    import mmcv
    from mmpretrain.apis import ImageClassificationInferencer
    cfg = config(HEADS['shared'])
    cfg.test_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    cfg.data_preprocessor.mean, cfg.data_preprocessor.std = [20.0, 90.0, 200.0], [30.0, 50.0, 70.0]
    arguments, source = save(tmp_path, cfg)
    new_config, new_checkpoint = tool.convert(*arguments)
    rgb = np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    mmcv.imwrite(rgb[..., ::-1].copy(), str(tmp_path / 'image.png'))
    expected = source.test_step(dict(inputs=torch.as_tensor(rgb).permute(2, 0, 1)[None]))[0].pred_score.tolist()
    inferencer = ImageClassificationInferencer(new_config, pretrained=new_checkpoint, device='cpu')
    for given in (str(tmp_path / 'image.png'), rgb[..., ::-1].copy()):
        assert inferencer(given)[0]['pred_scores'].tolist() == pytest.approx(expected, abs=1e-5)
