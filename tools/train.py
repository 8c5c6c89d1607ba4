"""Train a classification or segmentation config: ``python tools/train.py CONFIG``."""
import argparse
import os

from allnc_mm.engine.launch import (
    add_common_arguments,
    build_runner,
    latest_checkpoint,
    leave_process_group,
    load_config,
    readable_errors,
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='path of the config')
    add_common_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='continue from CHECKPOINT, or from the latest one in the work_dir')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during the training')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by batch size / auto_scale_lr.base_batch_size')
    return parser.parse_args(argv)


def merge_args(cfg, args):
    """Write the training options into the config."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None

    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        kind = getattr(kind, '__name__', kind)
        if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper'):
            raise SystemExit(f'--amp replaces optim_wrapper.type=OptimWrapper, but the config has {kind}; drop --amp.')
        if kind != 'BFloat16OptimWrapper':
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')

    if args.resume == 'auto':
        latest = latest_checkpoint(cfg.work_dir)
        if latest is None:
            print(f'Nothing to resume in {cfg.work_dir}: the training starts from its beginning.')
        else:
            cfg.resume, cfg.load_from = True, latest
    elif args.resume is not None:
        cfg.resume, cfg.load_from = True, args.resume

    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the batch '
                             'size over all processes that its learning rate was chosen for.')
        cfg.auto_scale_lr.enable = True
    return cfg


def main():
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    args = parse_args()
    with readable_errors():
        cfg = merge_args(load_config(args), args)
        build_runner(cfg).train()
        leave_process_group()


if __name__ == '__main__':
    main()
