"""What is explained: the score of each sample, from a network and its input."""
import numbers
from collections.abc import Mapping
from contextlib import ExitStack
from copy import copy

import numpy as np
import theano.tensor as T

from ._theano import Assert, Variable, ancestors
from .base import is_composite
from .cam import last_layer
from .errors import describe, is_float_tensor
from .expression import override_in
from .graphs import graft, roots
from .logits import logits_of
from .methods import as_list
from .network import find_layers, modified, named_layers

# Lasagne is imported inside of functions: expressions do not need it.


class Score:
    """The score of each sample, as a function of the input.

    ``score(point)`` is the score at `point`, a variable of x's type. A class
    stays the one that was asked for at x: where x is taken for a cat, this is
    the logit of the cat at any point.

    Parameters
    ----------
    network, rule, target, input_var, wrt, layer, logits
        As for `gradmod.saliency_map`, but for the target 'all'.

    Attributes
    ----------
    x : Variable, or list of Variable
        What the map is of: `wrt`, or the float inputs. A list where there are
        several inputs; then a point is a list, too.
    inputs : list of Variable
        The inputs, those of integers included; none, for an expression without
        an `input_var`.
    names : list of str or None
        The names of their layers, or their own.
    shapes : list of tuple of int or None
        Their shapes, as far as they are known.
    several : bool
        Whether the maps are those of several inputs.
    layer : Variable or None
        The output of the layer that was asked for; by default, the last one of
        more than two dimensions, and as many as x, that comes from a
        convolution or a pooling.
    layer_name, wrt_name : str
        The names of that layer and of x.
    data_format : str or None
        Where the network's library has its channels, if it is known.
    rule : optional
        That of the network.
    z : Variable
        The logits at x, or the output.
    classes : Variable or None
        The class of each sample; on a second axis if it may have several, -1
        where it has fewer. None if the target is a function or a unit.
    value : Variable
        The score at x: a vector of one number for each sample; a scalar, if
        that is what a function given as the target returns.
    fixed : list of Variable
        What depends on x but is the same at all points. In ``theano.scan``, it
        belongs to the `non_sequences`.
    """

    def __init__(self, network, rule=None, target=None, input_var=None,
                 wrt=None, layer=None, logits=True):
        self._network, self._target, self._logits = network, target, logits
        self._wrt, self._layer, self._layers = wrt, layer, {}
        self.rule, self.x, self.data_format = rule, None, None
        self.inputs = as_list(input_var)
        self.names = [v.name for v in self.inputs]
        self.shapes = [(None,) * v.ndim for v in self.inputs]
        self.several = wrt is None and isinstance(input_var, (list, tuple))
        if not isinstance(network, Variable):
            self._open()
        if isinstance(self._target, tuple) and not (self._target and all(
                isinstance(i, numbers.Integral) for i in self._target)):
            raise TypeError('expected a target that is a tuple to have the '
                            f'indices of a unit, got {self._target}')
        if isinstance(self._target, tuple) and self._layers:
            shape = self._network.output_shape[1:]
            if len(self._target) > len(shape) or any(
                    isinstance(n, numbers.Integral) and not -n <= i < n
                    for i, n in zip(self._target, shape)):
                raise IndexError('expected the indices of a unit, in a layer of '
                                 f'shape {shape}, got {self._target}')
        self._build(rule)
        self.classes = None
        if has_classes(target):
            if self.z.ndim != 2:
                raise TypeError('expected an output of shape (samples, classes) or '
                                f'another target, got {describe(self.z)}')
            self.classes = self._checked(target)
        self._choose()

    def _open(self):
        """Find the inputs and the layers in a Lasagne network."""
        from lasagne.layers import InputLayer, Layer, get_all_layers
        if not isinstance(self._network, Layer):
            raise TypeError('expected network to be a Lasagne layer or a Theano '
                            f'variable, got {describe(self._network)}')
        names = named_layers(self._network)  # those inside of layers, too
        self._layers = {v: names[v] for v in get_all_layers(self._network)}
        if isinstance(self._target, tuple) and not all(
                isinstance(i, numbers.Integral) for i in self._target[:1]):
            (self._network,) = find_layers(
                self._target[0], self._layers, one=True)
            self._target = self._target[1:]
            self._layers = {v: names[v] for v in get_all_layers(self._network)}
        self._wrt, self._layer = [
            v if v is None else find_layers(
                v, self._layers, 'the layers below what is explained', one=True)[0]
            for v in (self._wrt, self._layer)]
        known = {v.input_var: (v.name, tuple(v.shape)) for v in self._layers
                 if isinstance(v, InputLayer)}
        wanted, found = self.inputs or list(known), {}
        for v in roots([v for v in known if v.owner]):
            known.setdefault(v, (v.name, (None,) * v.ndim))
        for v in wanted:
            if v not in known:
                raise ValueError('expected input_var to be one of the inputs '
                                 f'{list(known)}, got {describe(v)}')
            if v.owner:  # an expression, whose values nobody has
                above = roots([v])
                if len(above) != 1 or not is_float_tensor(above[0]):
                    raise ValueError(
                        f'the input layer has an expression of {above}, not of one '
                        'float variable: explain that, or say which by input_var')
                (v,) = above
            found[v] = known[v]  # once, where layers have parts of one variable
        if not self.inputs:
            self.several = len(found) > 1 and self._wrt is None
        self.inputs = list(found)
        self.names, self.shapes = map(list, zip(*found.values()))
        self.data_format = 'channels_first'

    def _build(self, rule):
        """The logits and the layer, with a rule on the way to x."""
        outputs, names = {}, {}
        if self._layers:
            from lasagne.layers import get_output
            on_layers = isinstance(rule, Mapping) or is_composite(rule)
            with (modified(self._network, rule) if on_layers
                  else ExitStack()):
                outputs = get_output(list(self._layers), deterministic=True)
            rule = None if on_layers else rule
            outputs = dict(zip(self._layers, outputs))
            # The first name, where dropout has its input for an output.
            names = {outputs[v]: self._layers[v] for v in reversed([*outputs])}
        z, wrt, layer = [outputs.get(v, v) for v in (
            self._network, self._wrt, self._layer)]
        x = [v for v in self.inputs if is_float_tensor(v)] if wrt is None else [
            wrt]
        if self.x is None:
            self._check_input(x)
        above = {*ancestors([z])}
        layer = last_layer(x, z, names or above) if layer is None else layer
        self.layer_name, self.wrt_name = [
            ', '.join(names.get(v, str(v)) for v in some) for some in ([layer], x)]
        outputs = [v for v in (z, layer) if v is not None]
        for source in x + outputs[1:]:
            if source not in above:
                raise ValueError(f'the output is not made from {source}')
        if rule is not None:
            new = override_in(outputs + x, rule)[0]
            outputs, x = new[:len(outputs)], new[len(outputs):]
        # x stays itself, whatever a rule may have made of it.
        memo = {v: old for v, old in zip(x, as_list(self.x)) if v is not old}
        z, *layers = graft(outputs, memo) if memo else outputs
        self.z = logits_of(z) if self._logits else z
        self.layer = layers[0] if layers else None

    def _check_input(self, x):
        """Set x, if these are variables that a map can be of."""
        if not x:
            raise TypeError(
                'expected input_var (which an expression needs) to be a float '
                f'variable, got {", ".join(map(describe, self.inputs)) or None}. '
                'Of indices of words, say by wrt which layer has the embeddings')
        for v in x:
            if not (is_float_tensor(v) and v.ndim > 1):
                raise TypeError('expected input_var (or wrt) to be floats of shape '
                                f'(samples, ...), got {describe(v)}')
            above = {*ancestors([v])}
            if sum(u in above for u in x) > 1:
                raise ValueError(f'{v} is made from another of {x}, or is one: '
                                 'say one by wrt')
        self.x = x if self.several else x[0]

    def _checked(self, target, maximal=False):
        """A target as the classes, which fail where one is none of z.

        With `maximal`, the class -2 is the maximal one, and -1 none.
        """
        if is_word(target, None, 'max'):
            return self.z.argmax(axis=1)
        columns = []
        if not isinstance(target, Variable):
            columns = np.shape(target)[1:]
            target = T.constant(as_classes(target))
        elif not (target.dtype in T.int_dtypes + T.uint_dtypes
                  and target.ndim < 2 + maximal):
            raise TypeError('expected a target that is a variable to be a scalar '
                            f'or a vector of integers, got {describe(target)}')
        if target.ndim:
            target = Assert('expected target to be one class for each sample, '
                            'each row of the output, or zeros and ones of its '
                            'shape')(
                                target, T.eq(target.shape[0], self.z.shape[0]),
                                *[T.eq(self.z.shape[1], n) for n in columns])
        if maximal:
            target = T.switch(T.eq(target, -2),
                              self.z.argmax(axis=1).dimshuffle(0, 'x'), target)
        lowest = -1 if target.ndim == 2 else 0
        return Assert('expected target to be a class, from 0 to that of the last '
                      'logit')(target, T.ge(target, lowest).all(),
                               T.lt(target, self.z.shape[1]).all())

    def _choose(self):
        """The value and what is fixed, from z and the classes."""
        z, classes = self.z, self.classes
        self.fixed = [] if classes is None else [classes]
        if callable(self._target):
            self.value = self._target(z)
        elif classes is None:
            self.value = z[(slice(None),) + self._target]
            self.value = self.value.sum(axis=tuple(range(1, self.value.ndim)))
        elif classes.ndim == 2:
            rows = T.arange(z.shape[0]).dimshuffle(0, 'x')
            self.value = T.switch(T.lt(classes, 0), 0, z[
                rows, T.maximum(classes, 0)]).sum(axis=1)
        else:
            rows = T.arange(z.shape[0]) if classes.ndim else slice(None)
            self.value = z[rows, classes]
        if not (is_float_tensor(self.value) and self.value.ndim < 2):
            raise TypeError('expected the target to give one float for each '
                            f'sample, a vector, got {describe(self.value)}')

    def __call__(self, point):
        if point is self.x:
            return self.value
        memo = {v: v for v in self.fixed}
        memo.update(zip(as_list(self.x), as_list(point)))
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

        With `maximal` a matrix, in which -2 is the maximal class and -1 none.
        """
        other = copy(self)
        other.classes = self._checked(classes, maximal)
        other._choose()
        return other


def has_classes(target):
    """Whether a target is one of classes, no function and no unit."""
    return not (callable(target) or isinstance(target, tuple))


def is_word(target, *words):
    """Whether a target is None or a string, and one of some."""
    return (target is None or isinstance(target, str)) and target in words


def as_classes(target, count=None):
    """Classes, an int or a vector of ints, as an int64 array.

    A matrix has a row for each sample, with a 1 (or True) for each of its
    classes; the result is then a matrix of classes, filled up with -1. Classes
    of -1 would count from the end, and some of uint64 wrap around.
    """
    classes = np.asarray(target)
    if classes.ndim == 2 and classes.size and np.isin(classes, [0, 1]).all():
        counts = (classes != 0).sum(axis=1, keepdims=True)
        if not counts.all():
            raise ValueError('expected a target for each sample, got no class '
                             f'for sample {counts.argmin()}')
        if count is not None and classes.shape[1] != count:
            raise ValueError(f'expected a target of {count} classes, got '
                             f'{classes.shape[1]} columns')
        first = np.argsort(classes == 0, axis=1, kind='mergesort')  # stable
        return np.where(np.arange(counts.max()) < counts,
                        first[:, :counts.max()], -1)
    if classes.dtype.kind not in 'iu' or classes.ndim > 1:
        raise TypeError(
            "expected target to be None, 'max', an int, a vector of ints or a "
            "matrix of zeros and ones (or, when it is compiled, 'all', a tuple of "
            f'indices or a function of the logits), got {describe(target)}')
    wrong = classes.astype('int64') < 0
    if count is not None:
        wrong |= classes >= count
    if wrong.any():
        raise ValueError(
            'expected target to be a class from 0 to '
            f'{"that of the last logit" if count is None else count - 1}, got '
            f'{classes[wrong].flat[0]}')
    return classes.astype('int64')
