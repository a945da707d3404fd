"""Gradient overrides for Theano: guided backpropagation and its relatives."""
from . import compat  # first: makes Theano importable where it would not be
from .base import ModifiedBackprop, override_gradient
from .check import check_gradient
from .graph import RECTIFIERS, override_in
from .rules import DeconvNet, GuidedBackprop, ZeroBackprop

__version__ = '0.1.0'
__all__ = ['ModifiedBackprop', 'override_gradient',
           'override_in', 'RECTIFIERS', 'check_gradient',
           'GuidedBackprop', 'DeconvNet', 'ZeroBackprop']
