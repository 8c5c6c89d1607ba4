"""Turn a model with a head of allnc_mm into a stock mmpretrain one: ``to_image_classifier.py CONFIG CHECKPOINT OUT``.

What serves the training alone (projector, predictor, second branch, moving averages, a ``ContrastiveClsHead`` around
its classifier) is left behind. An ``AllNCHead`` or ``LWSHead`` becomes a ``LinearClsHead``. A head of scaled cosines
(``AllNCHead`` with a temperature, ``ETFHead``, ``SoftmaxCodeHead``, ``SphericalHead``, ``CMFHead``) becomes an
``ArcFaceClsHead`` without margin, and its batch norm a ``LinearNeck``. Trunk and predictions stay the same; that is
checked before anything is written.

OUT.pth holds weights and class names; OUT.py the model and the test pipeline, for ``mmpretrain.apis``, whose images are
BGR, also where those of the training are RGB in memory (CIFAR). It needs allnc_mm only where the trunk or the pipeline
has a part of it.
"""
import argparse
import os
import pickle
import sys

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from allnc_mm.fileio import whole_file
from allnc_mm.models.heads import AllNCHead, ContrastiveClsHead, LWSHead
from allnc_mm.models.heads.cosine_head import CosineHead
from allnc_mm.registry import MODELS, TRANSFORMS


def build(cfg: dict) -> nn.Module:
    """Build a model as mmpretrain does, in evaluation mode."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg).eval()


def load(cfg: Config, checkpoint: dict) -> nn.Module:
    """The trained model.

    Raises:
        ValueError: if the config is not that of the checkpoint.
    """
    model_cfg = cfg.model.to_dict()
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor', Config()).to_dict() or None)
    model = build(model_cfg)
    state = checkpoint.get('state_dict', checkpoint)
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f'The checkpoint is not one of this config; give the config it was trained with. {error}') \
            from error
    return model


def stock_preprocessor(model: nn.Module, cfg: Config) -> dict:
    """The data preprocessor's settings that matter at test time."""
    settings = dict(cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {})
    for key in ('channels_last', 'mixed_views', 'batch_augments', 'to_onehot'):
        settings.pop(key, None)
    if type(model.data_preprocessor).__name__ == 'MultiViewDataPreprocessor':
        settings['type'] = 'ClsDataPreprocessor'
    data = cfg.get('test_dataloader') and cfg.test_dataloader.dataset
    if data and not any('LoadImageFromFile' in str(transform['type']) for transform in data.pipeline):
        settings['to_rgb'] = True  # the data set holds RGB images (CIFAR's); mmpretrain.apis gives BGR ones
    return settings


def cosine_head(scale: float, weight: torch.Tensor, sizes: dict) -> tuple[dict, dict]:
    """Config entry of mmpretrain's head of scaled cosines, and its unit vectors."""
    return (dict(head=dict(type='ArcFaceClsHead', scale=scale, margins=0.0, **sizes)),
            {'head.norm_product.weight': weight})


def stock_head(model: nn.Module) -> tuple[dict, dict]:
    """Config entries that replace those of the model, and the weights of what they build.

    Raises:
        TypeError: for any other head.
        ValueError: for a cosine head whose normalisation mmpretrain has no part for.
    """
    head = model.head.classifier if isinstance(model.head, ContrastiveClsHead) else model.head
    sizes = dict(num_classes=getattr(head, 'num_classes', None), in_channels=getattr(head, 'in_channels', None))
    if isinstance(head, AllNCHead) and head.temperature is not None:
        return cosine_head(1 / head.temperature, head.classifier_weight * head.temperature, sizes)
    if isinstance(head, (AllNCHead, LWSHead)) or head is not model.head and hasattr(head, 'fc'):
        weight, bias = head.predict_map() if hasattr(head, 'predict_map') else (head.fc.weight, head.fc.bias)
        return dict(head=dict(type='LinearClsHead', **sizes)), {'head.fc.weight': weight, 'head.fc.bias': bias}
    if not isinstance(head, CosineHead):
        raise TypeError('Expected a model with an AllNCHead, ETFHead, SoftmaxCodeHead, SphericalHead, CMFHead, LWSHead '
                        f'or ContrastiveClsHead, but got {type(model.head).__name__}; stock heads need no conversion, '
                        'others have no counterpart.')

    parts, state = cosine_head(float(head.scale), head.classifier_weight, sizes)
    if head.norm is None:
        return parts, state
    pooled = type(model.neck).__name__ == 'GlobalAveragePooling'
    folds = isinstance(head.norm, nn.BatchNorm1d) and head.norm.running_var is not None
    if not folds or not (pooled or model.neck is None):
        raise ValueError(f'{type(head).__name__}(norm_cfg={type(head.norm).__name__}) behind neck '
                         f'{type(model.neck).__name__} has no counterpart in mmpretrain; only BN1d behind '
                         'GlobalAveragePooling (or no neck) has one.')
    norm, size = head.norm, head.in_channels
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight
    state['neck.fc.weight'] = factor.diag()
    state['neck.fc.bias'] = (norm.bias if norm.affine else 0) - norm.running_mean * factor
    parts['neck'] = dict(type='LinearNeck', in_channels=size, out_channels=size, gap_dim=2 if pooled else 0,
                         norm_cfg=None)
    return parts, state


def of_allnc(cfg) -> bool:
    """Whether a config names a class of allnc_mm."""
    children = cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else ()
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    found = [kind] if isinstance(kind, type) else [registry.module_dict.get(kind) for registry in (MODELS, TRANSFORMS)]
    return any(c is not None and c.__module__.startswith('allnc_mm.') for c in found) or any(map(of_allnc, children))


def check(source: nn.Module, target: nn.Module) -> None:
    """Refuse a conversion that changes the trunk or, on random features, the scores.

    Raises:
        RuntimeError: naming what differs.
    """
    state = source.state_dict()
    for name, value in target.state_dict().items():
        if not name.startswith(('head.', 'neck.')) and not torch.equal(value, state[name]):
            raise RuntimeError(f'The conversion changed {name}; nothing was written.')
    z = torch.randn(256, source.head.in_channels, generator=torch.Generator().manual_seed(0))
    expected = source.head((z, ))
    if type(target.neck) is not type(source.neck):
        z = target.neck((z[:, :, None, None] if source.neck is not None else z, ))[-1]
    scores = target.head((z, ))
    if not torch.allclose(scores, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()):
        gap = (scores - expected).abs().max()
        raise RuntimeError(f'The converted head is off by {gap:.2g} on random features; nothing was written.')


@torch.no_grad()
def convert(config: str, checkpoint: str, out: str) -> tuple[str, str]:
    """Convert one model; returns the paths of the new config and checkpoint."""
    if not out.endswith('.pth'):
        raise ValueError(f'Expected OUT to end in .pth, but got {out}; the config is written beside it.')
    new_config = out.removesuffix('.pth') + '.py'
    for new, old in ((out, checkpoint), (new_config, config)):
        if os.path.exists(new) and os.path.samefile(new, old):
            raise ValueError(f'OUT would overwrite {old}; choose another name.')

    cfg = Config.fromfile(config)
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    source = load(cfg, loaded)
    parts, head_state = stock_head(source)

    model = dict(type='ImageClassifier', data_preprocessor=stock_preprocessor(source, cfg))
    model.update({key: cfg.model[key].to_dict() for key in ('backbone', 'neck') if cfg.model.get(key)})
    model.update(parts)
    stock = dict(default_scope='mmpretrain', model=model)
    if cfg.get('test_dataloader'):
        stock['test_dataloader'] = dict(dataset=dict(pipeline=cfg.test_dataloader.dataset.pipeline))
    if of_allnc(stock):
        stock['custom_imports'] = dict(imports=['allnc_mm'], allow_failed_imports=False)
    stock = Config(stock)

    target = build(stock.model.to_dict())
    trunk = {name: value for name, value in source.state_dict().items()
             if not name.startswith(('head.', 'neck.') if 'neck' in parts else 'head.')}
    target.load_state_dict({**trunk, **head_state})
    check(source, target)

    meta = loaded.get('meta', {})
    saved = dict(state_dict=target.state_dict(), meta={k: meta[k] for k in ('dataset_meta', ) if k in meta})
    with whole_file(out) as part:
        torch.save(saved, part)
    with whole_file(new_config) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(stock.pretty_text)
    return new_config, out


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config of the training')
    parser.add_argument('checkpoint', help='path of its checkpoint')
    parser.add_argument('out', help='path of the new checkpoint, ending in .pth; the config goes beside it as .py')
    args = parser.parse_args(argv)
    try:
        new_config, out = convert(args.config, args.checkpoint, args.out)
    except (ValueError, TypeError, FileNotFoundError, pickle.UnpicklingError) as error:
        print(f'{type(error).__name__}: {" ".join(str(error).split())}', file=sys.stderr)
        raise SystemExit(1) from None
    print(f'Wrote {new_config} and {out}')


if __name__ == '__main__':
    main()
