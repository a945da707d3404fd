"""Gradient overrides for Theano: guided backpropagation and its relatives."""
from . import compat  # first: makes Theano importable where it would not be
from .base import ModifiedBackprop, override_gradient
from .check import check_gradient
from .expression import RECTIFIERS, override_in
from .network import modified
from .rules import (BackpropThrough, BetaSmooth, DeconvNet,
                    GradientReversal, GuidedBackprop, GuidedGradient, RectGrad,
                    StraightThrough, ZeroBackprop)
from .saliency import compile_saliency_function, saliency_map

__version__ = '0.2.0'
__all__ = [
    'ModifiedBackprop', 'override_gradient', 'check_gradient',
    'modified', 'override_in', 'RECTIFIERS',
    'saliency_map', 'compile_saliency_function',
    'GuidedBackprop', 'DeconvNet', 'ZeroBackprop', 'GuidedGradient',
    'BackpropThrough', 'RectGrad', 'BetaSmooth', 'StraightThrough',
    'GradientReversal']
