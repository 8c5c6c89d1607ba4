"""Re-balance a trained linear classifier without training: ``posthoc_rebalance.py CONFIG CHECKPOINT OUT``.

tau-norm divides each classifier vector by the power tau of its length and drops the bias (Kang et al., ICLR 2020).
logit-adjustment subtracts tau times the log class prior from the logits (Menon et al., ICLR 2021).

tau is --tau, or that of 0, 0.1, .., 2 with the best mean of the class accuracies on the val_dataloader, which must not
be the test set: for the CIFAR configs with a validation split, --cfg-options val_dataloader.dataset.split=val.
OUT is a checkpoint for the same config.
"""
import argparse
import os
import pickle
import sys

import allnc_mm  # noqa: F401 isort: skip
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import default_collate
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.models.heads import LinearClsHead
from torch.utils.data import DataLoader

from allnc_mm.engine.hooks.class_counts_hook import num_per_class
from allnc_mm.fileio import whole_file
from allnc_mm.functional.margins import tau_normalize
from allnc_mm.registry import DATASETS
from allnc_mm.visualization.runs import build_model

METHODS = ('tau-norm', 'logit-adjustment')
TAUS = np.linspace(0, 2, 21).round(1)


def rebalance(weight: torch.Tensor, bias: torch.Tensor, method: str, tau: float,
              log_prior: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """New weight (K, d) and bias (K,) of the classifier."""
    if method == 'tau-norm':
        return tau_normalize(weight, tau), torch.zeros_like(bias)
    return weight, bias - tau * log_prior


def choose_tau(features: torch.Tensor, labels: torch.Tensor, classifier: tuple, method: str,
               log_prior: torch.Tensor | None) -> tuple[float, np.ndarray]:
    """The tau with the best mean of the class accuracies (the smallest of equals), and all those means in percent."""
    present, index = labels.unique(return_inverse=True)
    total = torch.bincount(index)
    scores = []
    for tau in TAUS:
        weight, bias = rebalance(*classifier, method, float(tau), log_prior)
        hit = (features @ weight.T + bias).argmax(1) == labels
        scores.append(100 * (torch.bincount(index, weights=hit.double()) / total).mean().item())
    return float(TAUS[int(np.argmax(scores))]), np.array(scores)


def validation_set(cfg: Config):
    """The data set on which tau is chosen.

    Raises:
        ValueError: if there is none, or it is the test set.
    """
    if not cfg.get('val_dataloader') or not cfg.get('test_dataloader'):
        raise ValueError('The config has no val_dataloader on which tau could be chosen, or no test_dataloader, which '
                         'must be another one: give --tau.')
    if cfg.val_dataloader.dataset == cfg.test_dataloader.dataset:
        raise ValueError('tau would be chosen on the test set: val_dataloader and test_dataloader have one '
                         'data set. Give --tau, or a validation split, for example --cfg-options '
                         'val_dataloader.dataset.split=val val_dataloader.dataset.val_per_class=N.')
    return DATASETS.build(cfg.val_dataloader.dataset)


@torch.no_grad()
def extract(model, dataset, batch_size: int, num_workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that the classifier reads (N, d), and labels (N,)."""
    model = model.to('cuda' if torch.cuda.is_available() else 'cpu')
    features, labels = [], []
    for batch in DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=default_collate):
        batch = model.data_preprocessor(batch, False)
        features.append(model.extract_feat(batch['inputs'], stage='pre_logits').float().cpu())
        labels.append(torch.cat([sample.gt_label for sample in batch['data_samples']]).cpu())
    return torch.cat(features), torch.cat(labels)


def convert(config: str, checkpoint: str, out: str, method: str = 'tau-norm', tau: float | None = None,
            cfg_options: dict | None = None) -> float:
    """Write the re-balanced checkpoint; returns tau.

    Raises:
        ValueError: if the checkpoint does not fit, or tau would be chosen on the test set.
        TypeError: for a head without a plain linear classifier.
    """
    if os.path.exists(out) and os.path.samefile(out, checkpoint):
        raise ValueError(f'OUT would overwrite {checkpoint}; choose another name.')
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    model = build_model(cfg).eval()
    if type(model.head) is not LinearClsHead:
        raise TypeError(f'Expected a model with a LinearClsHead, but got {type(model.head).__name__}; a cosine '
                        'classifier has no lengths, and other heads have no plain linear map.')
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    try:
        model.load_state_dict(loaded.get('state_dict', loaded))
    except RuntimeError as error:
        raise ValueError(f'The checkpoint is not one of this config. {error}') from error

    classifier = tuple(p.detach().clone() for p in (model.head.fc.weight, model.head.fc.bias))
    log_prior = None
    if tau is None:
        dataset = validation_set(cfg)
    if method == 'logit-adjustment':
        counts = torch.as_tensor(num_per_class(DATASETS.build(cfg.train_dataloader.dataset)), dtype=torch.float64)
        if not (counts > 0).all():
            raise ValueError('logit-adjustment needs training images of every class, but there are none of classes '
                             f'{(counts == 0).nonzero().flatten().tolist()[:10]}; use --method tau-norm.')
        log_prior = (counts / counts.sum()).log().float()
    if tau is None:
        loader = cfg.val_dataloader
        data = extract(model, dataset, loader.get('batch_size', 128), loader.get('num_workers', 0))
        tau, scores = choose_tau(*data, classifier, method, log_prior)
        for t, score in zip(TAUS, scores):
            print(f'tau {t:.1f}  mean class accuracy {score:6.2f}' + ('  <- chosen' if t == tau else ''))
    weight, bias = rebalance(*classifier, method, tau, log_prior)
    state = model.cpu().state_dict()
    state.update({'head.fc.weight': weight, 'head.fc.bias': bias})
    with whole_file(out) as part:
        torch.save(dict(state_dict=state, meta=dict(posthoc=f'{method}, tau={tau}')), part)
    return tau


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config of the training')
    parser.add_argument('checkpoint', help='path of its checkpoint')
    parser.add_argument('out', help='path of the new checkpoint')
    parser.add_argument('--method', choices=METHODS, default='tau-norm', help='default: tau-norm')
    parser.add_argument('--tau', type=float, help='default: chosen on the validation set')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    args = parser.parse_args(argv)
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    try:
        tau = convert(args.config, args.checkpoint, args.out, args.method, args.tau, args.cfg_options)
    except (ValueError, TypeError, FileNotFoundError, pickle.UnpicklingError) as error:
        print(f'{type(error).__name__}: {" ".join(str(error).split())}', file=sys.stderr)
        raise SystemExit(1) from None
    print(f'Wrote {args.out}: {args.method} with tau={tau}')


if __name__ == '__main__':
    main()
