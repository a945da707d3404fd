"""What is explained: the score of each sample, from a network and its input."""
from collections.abc import Mapping
from contextlib import ExitStack
from copy import copy

import numpy as np
import theano.tensor as T

from ._theano import Assert, Constant, Variable, ancestors, graph_inputs
from .errors import describe, is_float_tensor, perhaps
from .expression import override_in
from .graphs import graft, nodes_above
from .logits import logits_of
from .network import modified

# Lasagne is imported inside of functions: expressions do not need it.


class Score:
    """The score of each sample, as a function of the input.

    ``score(point)`` is the score at `point`, a variable of x's type. A class
    stays the one that was asked for at x: where x is taken for a cat, this is
    the logit of the cat at any point.

    Parameters
    ----------
    network, rule, target, input_var, layer, logits
        As for `gradmod.saliency_map`, but for the target 'all'.
    divided : bool
        Whether samples come in batches that somebody divides: then a rule that
        relates samples to each other is a ValueError.

    Attributes
    ----------
    x : Variable
        The input.
    shape : tuple of int or None
        Its shape, as far as it is known.
    layer : Variable or None
        The output of the layer that was asked for.
    data_format : str or None
        Where the network's library has its channels, if it is known.
    z : Variable
        The logits at x, or the output.
    classes : Variable or None
        The class of each sample; None if the target is a function.
    value : Variable
        The score at x: a vector of one number for each sample; a scalar, if
        that is what a function given as the target returns.
    fixed : list of Variable
        What depends on x but is the same at all points. In ``theano.scan``, it
        belongs to the `non_sequences`.
    """

    def __init__(self, network, rule=None, target=None, input_var=None,
                 layer=None, logits=True, divided=False):
        self._network, self._layers = network, [] if layer is None else [layer]
        self._target, self._logits = target, logits
        self._divided = divided
        self.x, self.shape, self.data_format = input_var, None, None
        if not isinstance(network, Variable):
            self._open()
        if not (is_float_tensor(self.x) and self.x.ndim > 1):
            raise TypeError('expected input_var (which an expression needs) to '
                            'be a float variable of shape (samples, ...), got '
                            f'{describe(self.x)}')
        self.shape = self.shape or (None,) * self.x.ndim
        self.classes = None
        self._build(rule)
        if not callable(target):
            if self.z.ndim != 2:
                raise TypeError(
                    'expected an output of shape (samples, classes), or a '
                    f'function for the target, got {describe(self.z)}')
            self.classes = self._checked(target)
        self._choose()

    def _open(self):
        """Find the input and the layer in a Lasagne network."""
        from lasagne.layers import InputLayer, Layer, get_all_layers
        if not isinstance(self._network, Layer):
            raise TypeError('expected network to be a Lasagne layer or a Theano '
                            f'variable, got {describe(self._network)}')
        layers = get_all_layers(self._network)
        inputs = {v.input_var: v.shape for v in layers
                  if isinstance(v, InputLayer)}
        if self.x is None and len(inputs) == 1:
            (self.x,) = inputs
        known = [*inputs, *_roots([v for v in inputs if v.owner])]
        if self.x not in known:
            raise ValueError('expected input_var to be an input of the network, '
                             f'one of {known}, got {describe(self.x)}')
        if self.x.owner:  # an expression, whose values nobody has
            roots = _roots([self.x])
            if len(roots) != 1 or not is_float_tensor(roots[0]):
                raise ValueError(
                    f'the input layer has an expression of {roots} rather than '
                    'of one float variable: explain that expression, or say '
                    'which by input_var')
            (self.x,) = roots
        elif self.x in inputs:
            self.shape = tuple(inputs[self.x])
        self.data_format = 'channels_first'
        for i, wanted in enumerate(self._layers):
            found = [v for v in layers if wanted is v or
                     isinstance(wanted, str) and wanted == v.name]
            if len(found) != 1:
                names = [v.name for v in layers if v.name]
                raise ValueError(f'{len(found)} layers of the network are '
                                 f'{wanted!r}, not 1: {perhaps(wanted, names)}')
            self._layers[i] = found[0]

    def _build(self, rule):
        """The logits and the layer, with a rule on the way to x."""
        outputs = [self._network] + self._layers
        if not isinstance(self._network, Variable):
            from lasagne.layers import get_output
            on_layers = isinstance(rule, Mapping) or hasattr(rule, 'plan')
            with (modified(self._network, rule) if on_layers
                  else ExitStack()):
                outputs = get_output(outputs, deterministic=True)
            rule = None if on_layers else rule
        for source in [self.x] + outputs[1:]:
            if source not in ancestors(outputs[:1]):
                raise ValueError(f'the output is not made from {source}')
        if rule is not None:
            *outputs, x = override_in(outputs + [self.x], rule)[0]
            if x is not self.x:  # one that a rectifier has made
                outputs = graft(outputs, {x: self.x})
        for node in nodes_above(outputs[:1]) if self._divided else ():
            if getattr(node.op, 'couples_samples', False):
                raise ValueError(f'{node.op} relates the samples of a batch to '
                                 'each other, and a saliency function divides '
                                 'arrays into batches: compile the expression '
                                 'that saliency_map returns')
        self.z = logits_of(outputs[0]) if self._logits else outputs[0]
        self.layer = outputs[1] if self._layers else None

    def _checked(self, target, maximal=False):
        """A target as the classes, which fail where one is none of z.

        With `maximal`, a class below 0 is the maximal one.
        """
        if is_word(target, None, 'max'):
            return self.z.argmax(axis=1)
        if not isinstance(target, Variable):
            target = T.constant(as_classes(target))
        elif not (target.dtype in T.int_dtypes + T.uint_dtypes
                  and target.ndim < 2):
            raise TypeError('expected a target that is a variable to be a scalar '
                            f'or a vector of integers, got {describe(target)}')
        if target.ndim:
            target = Assert('expected target to be one class for each sample, '
                            'each row of the output')(
                                target, T.eq(target.shape[0], self.z.shape[0]))
        if maximal:
            target = T.switch(target < 0, self.z.argmax(axis=1), target)
        return Assert('expected target to be a class, from 0 to that of the last '
                      'logit')(target, T.ge(target, 0).all(),
                               T.lt(target, self.z.shape[1]).all())

    def _choose(self):
        """The value and what is fixed, from z and the classes."""
        if callable(self._target):
            self.fixed, self.value = [], self._target(self.z)
        else:
            self.fixed = [self.classes]
            rows = T.arange(self.z.shape[0]) if self.classes.ndim else slice(None)
            self.value = self.z[rows, self.classes]
        if not (is_float_tensor(self.value) and self.value.ndim < 2):
            raise TypeError('expected the target to give one float for each '
                            f'sample, a vector, got {describe(self.value)}')

    def __call__(self, point):
        if point is self.x:
            return self.value
        memo = {v: v for v in self.fixed}
        memo[self.x] = point
        (value,) = graft([self.value], memo)
        return value

    def under(self, rule):
        """The same score of the same network, with the gradient of `rule`."""
        other = copy(self)
        other._build(rule)
        other._choose()
        return other

    def of(self, classes, maximal=False):
        """The same score, of other classes: a scalar or a vector.

        With `maximal`, a class below 0 in the vector is the maximal one.
        """
        other = copy(self)
        other.classes = self._checked(classes, maximal)
        other._choose()
        return other


def _roots(variables):
    """What they are made from, but for constants and shared variables."""
    return [v for v in graph_inputs(variables)
            if not (isinstance(v, Constant) or hasattr(v, 'get_value'))]


def is_word(target, *words):
    """Whether a target is None or a string, and one of some."""
    return (target is None or isinstance(target, str)) and target in words


def as_classes(target, count=None):
    """Classes, an int or a vector of ints, as an int64 array.

    Those of -1 would count from the end, and some of uint64 wrap around.
    """
    classes = np.asarray(target)
    if classes.dtype.kind not in 'iu' or classes.ndim > 1:
        raise TypeError("expected target to be None, 'max', 'all', a class as an "
                        'int, a vector of ints or a function of the logits, got '
                        f'{describe(target)}')
    wrong = classes.astype('int64') < 0
    if count is not None:
        wrong |= classes >= count
    if wrong.any():
        raise ValueError(
            'expected target to be a class from 0 to '
            f'{"that of the last logit" if count is None else count - 1}, got '
            f'{classes[wrong].flat[0]}')
    return classes.astype('int64')
