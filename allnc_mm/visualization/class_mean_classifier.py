"""A trained classifier beside the class means of its own features: accuracies, and a model with the means in it."""
import math
import os

import torch
from mmengine.config import Config
from rich.table import Table
from torch import Tensor

from ..evaluation.long_tail_metric import long_tail_summary
from ..fileio import whole_file
from ..functional.collapse import ClassStatistics, pairwise_cosines
from ..functional.geometry import unit_rows
from ..functional.longtail import group_classes
from .runs import _Extractor, _groups_setting, _loaders, _trained, build_model

__all__ = ['class_mean_table', 'class_similarity', 'evaluate_class_means', 'save_class_means']

NAMES = dict(trained='trained classifier', ncc='nearest class mean (NCC)', cmf='class-mean features (CMF)')


def _linear_maps(stats: ClassStatistics, unit_stats: ClassStatistics) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight (K, d) and bias (K,) whose largest score is the nearest mean, or the largest cosine; -1e30 if absent."""
    present = stats.present
    centre = stats.means[present].mean(0)
    offset = stats.means - centre  # |x - mu|^2 from the centre of the means: a common offset costs no digits
    bias = -(offset @ centre) - offset.square().sum(1) / 2
    return dict(ncc=(offset, bias.where(present, -1e30)),
                cmf=(unit_rows(unit_stats.means), torch.zeros_like(bias).where(present, -1e30)))


def _scores(kind: str, maps: dict, features: Tensor) -> Tensor:
    """Scores (N, K) of features (N, d)."""
    weight, bias = maps[kind]
    return torch.addmm(bias, features.double() if kind == 'ncc' else unit_rows(features.double()), weight.T)


@torch.no_grad()
def evaluate_class_means(config: str, checkpoint: str, groups=None, cfg_options: dict | None = None,
                         progress=None) -> tuple[dict[str, dict[str, float]], dict]:
    """Test a checkpoint with its own classifier, the nearest class mean (NCC) and class-mean features (CMF).

    Means are those of the training images, in evaluation mode and without augmentation; features of a cosine classifier
    are taken at unit length. Classes without training
    images are never predicted by them.

    Args:
        config (str): Path of the config.
        checkpoint (str): Path of the checkpoint.
        groups (str | Sequence, optional): As in :class:`LongTailMetric`; by default those of the config, or 'A'.
        cfg_options (dict, optional): Overrides of the config.
        progress (rich.progress.Progress, optional): Where to show the progress.

    Returns:
        tuple[dict, dict]: for 'trained', 'ncc' and 'cmf', the accuracies in percent (overall, groups, ...) and the
        agreement with the trained classifier; and what :func:`save_class_means` needs.

    Raises:
        FileNotFoundError: without config or checkpoint.
        ValueError: if the checkpoint does not fit the model, or the model has no linear classifier.
    """
    cfg, model, loaders, extract = _open(config, checkpoint, cfg_options)
    test, train = loaders
    num_classes, dim = extract.map[0].shape
    stats, unit_stats = (ClassStatistics(num_classes, dim, scatter=False) for _ in range(2))
    for batch in _batches(train, 'training images', progress):
        features, labels, _ = extract(batch, predict=False)
        stats.update(features, labels)
        unit_stats.update(unit_rows(features.double()), labels)
    maps = _linear_maps(stats, unit_stats)
    labels, predicted = [], {name: [] for name in NAMES}
    for batch in _batches(test, 'test images', progress):
        features, target, samples = extract(batch, predict=True)
        labels.append(target)
        predicted['trained'].append(torch.cat([sample.pred_label for sample in samples]).cpu())
        for kind in maps:
            predicted[kind].append(_scores(kind, maps, features).argmax(1))
    labels = torch.cat(labels)
    predicted = {name: torch.cat(parts) for name, parts in predicted.items()}

    class_groups = group_classes(stats.counts.tolist(), _groups_setting(cfg) if groups is None else groups)
    total = labels.bincount(minlength=num_classes).double()
    out = {}
    for name, prediction in predicted.items():
        hit = prediction == labels
        per_class = 100 * labels[hit].bincount(minlength=num_classes) / total
        out[name] = dict(overall=100 * hit.double().mean().item(),
                         **long_tail_summary(per_class.numpy(), class_groups),
                         agreement=100 * (prediction == predicted['trained']).double().mean().item())
    return out, dict(cfg=cfg, model=model, maps=maps, test=test, stats=stats)


@torch.no_grad()
def class_similarity(config: str, checkpoint: str, cfg_options: dict | None = None, progress=None) -> Tensor:
    """Cosines of the centred class means of the training images, the similarity of :func:`assign_classes`.

    Args:
        config (str): Path of the config.
        checkpoint (str): Path of the checkpoint.
        cfg_options (dict, optional): Overrides of the config.
        progress (rich.progress.Progress, optional): Where to show the progress.

    Returns:
        Tensor: float64 of shape (K, K).

    Raises:
        FileNotFoundError: without config or checkpoint.
        ValueError: if the checkpoint does not fit the model, the model has no linear classifier, or a class has no
            training image.
    """
    _, _, (_, train), extract = _open(config, checkpoint, cfg_options)
    stats = ClassStatistics(*extract.map[0].shape, scatter=False)
    for batch in _batches(train, 'training images', progress):
        features, labels, _ = extract(batch, predict=False)
        stats.update(features, labels)
    missing = (~stats.present).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f'Classes {missing[:10]} of {config} have no training image, so they have no mean to compare; '
                         'give a similarity of your own (--similarity).')
    return pairwise_cosines(stats.means)


def _open(config: str, checkpoint: str, cfg_options: dict | None):
    """Config, model, its loaders (test, train) and what reads features."""
    for path in (config, checkpoint):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'{path} does not exist; give the config and the checkpoint of a finished run.')
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    model = _trained(build_model(cfg), checkpoint, config)
    test, train = _loaders(cfg, config)
    return cfg, model, (test, train), _Extractor(model, config)


def _batches(loader, what: str, progress):
    task = progress.add_task(what, total=len(loader)) if progress else None
    for batch in loader:
        yield batch
        if progress:
            progress.advance(task)


@torch.no_grad()
def save_class_means(path: str, kind: str, cfg, model, maps, test, stats) -> str:
    """Write the model with another classifier to ``path``, and its config beside it; returns the config's path.

    Raises:
        ValueError: if a stock head cannot hold the new classifier: the head changes the features before its classifier.
    """
    if not path.endswith('.pth'):
        raise ValueError(f'Expected --save to end in .pth, but got {path}; the config is written beside it.')
    weight, bias = (x.float() for x in maps[kind])
    head = dict(num_classes=len(weight), in_channels=weight.shape[1])
    if kind == 'ncc':
        head.update(type='LinearClsHead')
        state = {'head.fc.weight': weight, 'head.fc.bias': bias}
    else:
        head.update(type='CMFHead')
        state = {'head.weight': torch.where(stats.present[:, None], weight, 0.0)}
    new = Config(cfg.to_dict())
    new.model = dict(type='ImageClassifier', head=head,
                     **{key: cfg.model[key] for key in ('backbone', 'neck', 'data_preprocessor') if cfg.model.get(key)})
    target = build_model(new)
    state.update({k: v.cpu() for k, v in model.state_dict().items() if not k.startswith('head.')})
    try:
        target.load_state_dict(state)
        target.eval()
        batch = next(iter(test))
        found, expected = (_Extractor(m, path)(batch, predict=False)[0] for m in (target, model.cpu()))
        if kind == 'cmf':  # which sees directions alone
            found, expected = unit_rows(found), unit_rows(expected)
        same = torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    except RuntimeError:  # another trunk
        same = False
    if not same:
        raise ValueError(f'{type(model).__name__} with {type(model.head).__name__} changes the features between neck '
                         f'and classifier, which a plain head does not, so {kind} cannot be saved; leave out --save'
                         + (', or take --classifier cmf.' if kind == 'ncc' else '.'))
    config = path.removesuffix('.pth') + '.py'
    with whole_file(path) as part:
        torch.save(dict(state_dict=target.state_dict(), meta={}), part)
    with whole_file(config) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(new.pretty_text)
    return config


def class_mean_table(result: dict) -> Table:
    """Accuracies, and differences from the trained classifier."""
    out = Table(title='Accuracy on the test images, %; in brackets, the difference from the trained classifier',
                title_style='dim', title_justify='left')
    columns = ('overall', 'many', 'medium', 'few', 'worst_class', 'agreement')
    columns = [c for c in columns if not math.isnan(result['trained'][c])]  # no empty groups
    for name in ('', *columns):
        out.add_column(name, justify='right' if name else 'left', no_wrap=True)
    for name, row in result.items():
        cells = [f'{row[c]:.1f}' if name == 'trained' or c == 'agreement' else
                 f'{row[c]:.1f} ({row[c] - result["trained"][c]:+.1f})' for c in columns]
        out.add_row(NAMES[name], *cells)
    return out
