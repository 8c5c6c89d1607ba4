"""Lazy configs: ``with read_base(): from allnc_mm.configs.allnc.resnet20_digits_lt import *``.

A lazy config can only inherit lazy ones. These are the digits configs of ``configs/``, setting by setting (a test
compares them), to start a lazy config of one's own from.
"""
