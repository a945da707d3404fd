"""Gradient overrides for Theano: guided backpropagation and its relatives."""
from . import compat  # first: makes Theano importable where it would not be
from .base import ModifiedBackprop
from .rules import DeconvNet, GuidedBackprop, ZeroBackprop

__version__ = '0.1.0'
__all__ = ['ModifiedBackprop', 'GuidedBackprop', 'DeconvNet', 'ZeroBackprop']
