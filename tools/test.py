"""Evaluate a checkpoint of a classification or segmentation config: ``python tools/test.py CONFIG CHECKPOINT``."""
import argparse
import os

import mmengine
from mmengine.evaluator import DumpResults

from allnc_mm.engine.launch import add_common_arguments, build_runner, leave_process_group, load_config, readable_errors


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    add_common_arguments(parser)
    parser.add_argument('--out', help='file for the predictions or metrics (.pkl; metrics also .json or .yaml)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], default='pred', help='what --out holds')
    parser.add_argument('--show', action='store_true', help='show classified images with their predictions in a window')
    parser.add_argument('--show-dir', help='folder for classified images with their predictions')
    parser.add_argument('--interval', type=int, default=1, help='every so manieth image is shown')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for which a window shows')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation: tta_model and tta_pipeline of the config; for classification the '
                             'mean of the scores of an image and its mirror image by default')
    args = parser.parse_args(argv)
    kinds = ('.pkl', '.json', '.yaml', '.yml') if args.out_item == 'metrics' else ('.pkl', )
    if args.out and not args.out.endswith(kinds):
        parser.error(f'--out must end in {" or ".join(kinds)} for --out-item {args.out_item}, but is {args.out}')
    if args.tta and (args.show or args.show_dir):
        parser.error("--tta and --show or --show-dir exclude each other: mmpretrain's VisualizationHook draws one view")
    return args


def set_up_tta(cfg):
    """Wrap the model, and give the test data their views.

    Raises:
        ValueError: for segmentation without ``tta_model`` and ``tta_pipeline``.
    """
    pipeline = cfg.test_dataloader.dataset.pipeline
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.setdefault('tta_pipeline', [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pipeline[-1]]])])
    if not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise ValueError('--tta needs `tta_model` and `tta_pipeline` in the config; add them, or leave out --tta.')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)


def main():
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    args = parse_args()
    with readable_errors():
        cfg = load_config(args)
        cfg.load_from = args.checkpoint
        if args.amp:
            cfg.test_cfg.fp16 = True
        if args.show or args.show_dir:
            if cfg.get('default_scope') != 'mmpretrain':
                raise ValueError('--show and --show-dir draw classifications; for segmentation use the default hook '
                                 'SegVisualizationHook(draw=True).')
            cfg.setdefault('visualizer', dict(type='UniversalVisualizer'))
            cfg.default_hooks.setdefault('visualization', dict(type='VisualizationHook'))
            cfg.default_hooks.visualization.update(enable=True, show=args.show, wait_time=args.wait_time,
                                                   out_dir=args.show_dir, interval=args.interval)
        if args.tta:
            set_up_tta(cfg)
        runner = build_runner(cfg)
        if args.out and args.out_item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
        if args.out and args.out_item == 'metrics' and runner.rank == 0:
            mmengine.dump(metrics, args.out)
        leave_process_group()


if __name__ == '__main__':
    main()
