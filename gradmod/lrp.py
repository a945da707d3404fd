"""Layer-wise relevance propagation: rules for the layers of a network.

What flows down is not a gradient but the relevance r of each unit: how much of
the output is due to it. A rule says how the relevance of the linear part
z = f(x; W, b) of a layer goes to its input x; nonlinearities pass it on. A
composite says which layer gets which rule.

In the formulas v+ is max(v, 0), v- is min(v, 0), f^T(s; W) the transposed
layer, s -> d<f(x; W, b), s>/dx, and a / b is stabilized:
a / (b + eps), or a / (b - eps) where b < 0.
"""
import copy
import inspect
from functools import partial

import numpy as np
import theano
import theano.tensor as T

from ._theano import Constant, TensorVariable
from .base import ModifiedBackprop
from .device import is_transfer
from .errors import describe, name_of, perhaps
from .graphs import conform, graft, inputs_of, walk
from .network import Place
from .op import GradientOverrideOp


# What a rule makes of x, W and b.

def same(v):
    return v


def positive(v):
    return T.maximum(v, 0)


def negative(v):
    return T.minimum(v, 0)


def one(v):
    return T.ones_like(v)


def zero(v):
    """As a layer has it that has no bias."""
    return None


PLUS = (positive, positive, positive), (negative, negative, zero)
MINUS = (positive, negative, negative), (negative, positive, zero)


class Rule(ModifiedBackprop):
    """Base of the rules for layers. Subclasses define `relevance`.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        What is added to the absolute value of each denominator.

    Examples
    --------
    A rule of one's own: a layer's positive weights alone, no bias.

    >>> from gradmod import lrp
    >>> class PositiveWeights(lrp.Rule):
    ...     def relevance(self, r, z, share):
    ...         return share(r, (lrp.same, lrp.positive, lrp.zero))
    """

    def __init__(self, stabilizer=1e-6):
        super().__init__(same)
        self.stabilizer = stabilizer

    def __repr__(self):
        values = ', '.join(f'{k}={v}' for k, v in vars(self).items()
                           if k not in ('nonlinearity', 'ops'))
        return f'{type(self).__name__}({values})'

    def relevance(self, r, z, share):
        """The relevance of the input of a layer.

        Parameters
        ----------
        r, z : Variable
            The relevance of the linear part's output, and that output.
        share : callable
            ``share(r, *parts)`` divides r among parts of the layer. A part is
            a triple of functions, which say what it makes of x, W and b: `same`,
            `positive`, `negative`, `one`, `zero` or others. With z_k the
            output of the layer so changed, and s = r / (z_1 + z_2 + ...), it
            is the sum of x_k f^T(s; W_k).

        Returns
        -------
        Variable
            Of the shape of x. For a layer of several inputs a list.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define '
                                  'relevance(self, r, z, share)')

    def grad(self, inputs, out_grads, outputs):
        return self.relevance(*out_grads, *outputs,
                              partial(self._share, inputs, *outputs))

    def _share(self, inputs, z, r, *parts):
        f, pieces = self.nonlinearity, []
        for on_x, on_W, on_b in parts:
            if f.nonnegative and on_x is negative:
                continue
            if f.nonnegative and on_x is positive:
                on_x = same
            xs = [on_x(x) for x in inputs]
            pieces.append((xs, z if on_x is on_W is on_b is same
                           else f(*xs, W=on_W, b=on_b)))
        total = sum_of(z for _, z in pieces)
        s = r / (total + T.switch(total >= 0, 1, -1) * like(self.stabilizer, r))
        shares = [[x * g for x, g in zip(xs, theano.grad(
            None, xs, known_grads={z: s}))] for xs, z in pieces]
        result = [sum_of(share) for share in zip(*shares)]
        return result[0] if len(result) == 1 else result


def sum_of(variables):
    first, *others = variables
    return sum(others, first)


def like(value, variable):
    """A parameter of a rule in the dtype of `variable`, as precisely."""
    return (T.cast(value, variable.dtype) if isinstance(value, TensorVariable)
            else np.asarray(value, variable.dtype))


class Epsilon(Rule):
    """x f^T(r / z; W)."""

    def __init__(self, epsilon=1e-6):
        super().__init__(epsilon)

    def relevance(self, r, z, share):
        return share(r, (same, same, same))


class Norm(Rule):
    """x f^T(r / z)"""

    def relevance(self, r, z, share):
        return share(r, (same, same, same))


class ZPlus(Rule):
    """x+ f^T(r / z+; W+) + x- f^T(r / z+; W-)."""

    def relevance(self, r, z, share):
        return share(r, *PLUS)


class AlphaBeta(Rule):
    """alpha ZPlus - beta."""

    def __init__(self, alpha=2., beta=1., stabilizer=1e-6):
        super().__init__(stabilizer)
        self.alpha, self.beta = alpha, beta

    def relevance(self, r, z, share):
        return (like(self.alpha, r) * share(r, *PLUS)
                - like(self.beta, r) * share(r, *MINUS))


class Gamma(Rule):
    """Gamma."""

    def __init__(self, gamma=.25, stabilizer=1e-6):
        super().__init__(stabilizer)
        self.gamma = gamma

    def relevance(self, r, z, share):
        gamma = like(self.gamma, r)

        def more(v):
            return v + gamma * positive(v)

        def less(v):
            return v + gamma * negative(v)
        return (share(r * (z > 0), (positive, more, more),
                      (negative, less, zero))
                + share(r * (z < 0), (positive, less, less),
                        (negative, more, zero)))


class WSquare(Rule):
    """f^T(r / z2; W^2)"""

    def relevance(self, r, z, share):
        return share(r, (one, T.sqr, T.sqr))


class Flat(Rule):
    """f^T(r / n; 1)."""

    def relevance(self, r, z, share):
        return share(r, (one, one, zero))


class ZBox(Rule):
    """ZBox."""

    def __init__(self, low, high, stabilizer=1e-6):
        super().__init__(stabilizer)
        self.low, self.high = low, high

    def relevance(self, r, z, share):
        def filled(value):
            return lambda x: T.zeros_like(x) + like(value, x)

        def minus(on_v):
            return lambda v: -on_v(v)
        return share(r, (same, same, same),
                     (filled(self.low), minus(positive), minus(positive)),
                     (filled(self.high), minus(negative), minus(negative)))


class Pass(Rule):
    """r."""

    def relevance(self, r, z, share):
        return r


class Gradient(Rule):
    """The true gradient."""

    def grad(self, inputs, out_grads):
        return [None] * len(inputs)


class Merge(Rule):
    """Batch normalization as a part of the linear layer below it."""


# Where the input of a layer is surely not negative.

NONE, FIRST, REST, ALL = slice(0), slice(1), slice(1, None), slice(None)
PREMISES = dict(
    dict.fromkeys(['Abs', 'Sqr', 'Exp', 'ScalarSigmoid', 'ScalarSoftplus',
                   'Softmax', 'SoftmaxWithBias', 'Shape'], NONE),
    **dict.fromkeys(['DimShuffle', 'Reshape', 'Rebroadcast', 'Subtensor',
                     'Alloc', 'Pool', 'Identity', 'Cast', 'Sum', 'Max',
                     'MaxAndArgmax', 'GpuFromHost', 'HostFromGpu'], FIRST),
    **dict.fromkeys(['Join', 'Second', 'Switch'], REST),
    **dict.fromkeys(['Add', 'Mul', 'TrueDiv'], ALL), IncSubtensor=slice(2))


def nonnegative(variable):
    """Whether no value can be negative, by the graph: after a rectifier."""
    return all(premises(v) is not None for v in walk([variable], premises))


def premises(v):
    """What v is not negative if they are not; None if it may be anyway."""
    if isinstance(v, Constant):
        return [] if np.all(v.data >= 0) else None
    if v.owner is None:
        return None
    op, inputs = v.owner.op, v.owner.inputs
    if isinstance(op, GradientOverrideOp):
        return graft(op.local_outputs, dict(zip(op.local_inputs, inputs)))
    name = type(getattr(op, 'scalar_op', op)).__name__
    if name == 'Maximum' and any(map(nonnegative, inputs)):
        return []
    if name == 'Add' and any(inputs_of(a) == [b] and a.owner.op == T.abs_
                             for a, b in zip(inputs, inputs[::-1])):
        return []  # x + abs(x), as in Theano's rectifier
    return inputs[PREMISES[name]] if name in PREMISES else None


# Layers, by what is known of their types: no module of Lasagne is needed.

def is_one_of(names, layer):
    """Whether it is a layer of one of these types, with nothing of its own."""
    known = any(kind.__name__ in names for kind in type(layer).__mro__)
    methods = [getattr(type(layer), name, None)
               for name in ('get_output_for', 'convolve')]
    return known and not any(
        m and m.__module__.partition('.')[0] != 'lasagne' for m in methods)


def is_first(kind, layer):
    from lasagne.layers import get_all_layers
    return kind(layer) and not any(map(kind, get_all_layers(layer)[:-1]))


def first(kind):
    """The layers of a kind that have none of that kind below them."""
    return partial(is_first, kind)


dense = partial(is_one_of, {'DenseLayer'})
convolution = partial(is_one_of, {
    'NINLayer', 'BaseConvLayer', 'Conv1DLayer', 'Conv2DLayer', 'Conv2DMMLayer',
    'Conv2DDNNLayer'})
inputs_first = partial(is_one_of, {  # in the shape of W
    'DenseLayer', 'NINLayer', 'TransposedConv2DLayer', 'TransposedConv3DLayer',
    'DilatedConv2DLayer'})


def batch_norm(layer):
    """By its name, whoever wrote it: what it does is looked at."""
    return 'BatchNorm' in type(layer).__name__


def linear(layer):
    return dense(layer) or convolution(layer)


def pooling(layer):
    """How it pools, if it does."""
    if is_one_of({'MaxPool1DLayer', 'Pool1DLayer', 'Pool2DLayer',
                  'Pool3DLayer', 'Pool2DDNNLayer', 'Pool3DDNNLayer',
                  'FeaturePoolLayer', 'GlobalPoolLayer',
                  'SpatialPyramidPoolingLayer'}, layer):
        return getattr(layer, 'mode', getattr(layer, 'pool_function', 'max'))


def summing(layer):
    return (is_one_of({'ElemwiseSumLayer', 'BiasLayer'}, layer)
            or pooling(layer) in ('average_inc_pad', 'average_exc_pad', 'sum',
                                  T.mean, T.sum))


def moving(layer):
    return (is_one_of({
        'InputLayer', 'EmbeddingLayer', 'FlattenLayer', 'ReshapeLayer',
        'DimshuffleLayer', 'PadLayer', 'SliceLayer', 'ConcatLayer',
        'Upscale1DLayer', 'Upscale2DLayer', 'Upscale3DLayer',
        'FeatureWTALayer'}, layer) or pooling(layer) in ('max', T.max)
        or activation(layer) and is_softmax(layer.nonlinearity))


def activation(layer):
    return is_one_of({
        'NonlinearityLayer', 'ParametricRectifierLayer',
        'RandomizedRectifierLayer', 'ScaleLayer', 'DropoutLayer',
        'GaussianNoiseLayer'}, layer)


def is_softmax(f):
    return name_of(f) == 'softmax'


class Composite:
    """Which layer gets which rule.

    Parameters
    ----------
    rules : dict
        Rules, instances of `Rule`, by what selects layers: the name of a layer,
        a layer, a type of layer, or a function of a layer, such as `dense`,
        `convolution`, `linear`, ``first(linear)``. The first that matches counts.
    """

    def __init__(self, rules, *defaults, stabilizer=1e-6, activations=None):
        norm, through = Norm(stabilizer), activations or Pass()
        defaults += ({summing: norm, moving: Gradient(), activation: through,
                      batch_norm: Merge()},)
        self.activations = through
        self.rules = [pair for table in (rules or {},) + defaults
                      for pair in table.items()]

    def rule_for(self, layer, name):
        for selector, rule in self.rules:
            if (isinstance(layer, selector) if isinstance(selector, type) else
                    selector in (name, layer) or not isinstance(selector, str)
                    and callable(selector) and selector(layer)):
                return rule

    def plan(self, names):
        """What `modified` is to do, for the names of all layers."""
        for selector, _ in self.rules:
            if isinstance(selector, str) and selector not in names.values():
                raise ValueError(f'no layer {selector!r} in the network: '
                                 + perhaps(selector, list(names.values())))
        rows, refused = [], []
        for layer, name in names.items():
            rule, here, merge = self.rule_for(layer, name), layer, None
            if isinstance(rule, Merge):
                here, merge = getattr(layer, 'input_layer', None), layer
                merges = here in names and linear(here) and is_linear(
                    here.nonlinearity)
                rule = self.rule_for(here, names[here]) if merges else None
            if rule is None:
                refused.append(name)
            elif isinstance(rule, Gradient) and not linear(here):
                rows.append((Place(layer, name, None, None, None),
                             'its gradient'))
            else:
                rows.append((Place(
                    layer, name, 'get_output_for', layer.get_output_for,
                    LayerRule(here, rule, self.activations, merge)), None))
        if refused:
            raise ValueError(
                f'no rule for the relevance of {", ".join(refused)}. Give one, '
                f'such as {type(self).__name__}(rules={{{refused[0]!r}: '
                'lrp.Gradient()})')
        return rows


def is_linear(f):
    from lasagne.nonlinearities import linear
    return f is linear


class LayerRule:
    """What stands in the place of a layer's ``get_output_for``."""

    def __init__(self, layer, rule, activations, merge):
        self.layer, self.rule = layer, rule
        self.activations, self.merge, self.calls = activations, merge, 0

    @property
    def __name__(self):
        return repr(self.rule) + ' merged' * bool(self.merge)

    @property
    def __signature__(self):  # which get_output asks for its parameters
        return inspect.signature(type(self.merge or self.layer).get_output_for)

    def __call__(self, inputs, **kwargs):
        self.calls += 1
        layer, f = bare(self.layer), None
        if linear(self.layer):
            f, layer.nonlinearity = layer.nonlinearity, same
        if self.merge:
            layer = merged(bare(self.merge), layer, inputs, kwargs)
            inputs = input_of(inputs)
        z = self.rule.around(Part(layer, inputs, kwargs))(
            *inputs if isinstance(inputs, list) else [inputs])
        if self.merge or f is None or is_linear(f):
            return z
        return f(z) if is_softmax(f) else self.activations.around(f)(z)


class Part:
    """A layer, or its linear part, z = f(x; W, b)."""

    def __init__(self, layer, inputs, kwargs):
        self.layer, self.kwargs = layer, kwargs
        self.several = isinstance(inputs, list)
        self.nonnegative = all(map(nonnegative, inputs if self.several
                                   else [inputs]))
        self.__name__ = layer.name or type(layer).__name__

    def __call__(self, *xs, W=same, b=same):
        layer = copy.copy(self.layer)
        for name, change in ('W', W), ('b', b):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, change(getattr(layer, name)))
        return layer.get_output_for(list(xs) if self.several else xs[0],
                                    **self.kwargs)

def merged(norm, layer, z, kwargs):
    """The linear `layer` with `norm`, which is above it, in W and b.

    The scale and the shift of each unit are what the code of `norm` makes of
    ones and zeros.
    """
    units = z.ndim - 1 if dense(layer) else 1
    one_each = T.TensorType(z.dtype, [i != units for i in range(z.ndim)])
    x, g = one_each(), one_each()
    y = norm.get_output_for(x, **kwargs)
    scale = theano.grad(None, x, known_grads={y: g})
    if y.type != x.type or x in walk([scale], inputs_of):
        raise ValueError(
            f'{name_of(norm)} is no part of the layer below: it needs '
            'get_output(..., deterministic=True) and one scale for each unit, '
            'or a rule of its own')
    ones = np.ones([layer.output_shape[i] if i == units else 1
                    for i in range(z.ndim)], z.dtype)
    ones, zeros = [conform(T.constant(v), x.type) for v in (ones, 0 * ones)]
    scale, shift = [v.flatten() for v in graft([scale, y], {x: zeros, g: ones})]

    def spread(v, ndim, axis):
        return v.dimshuffle(*[0 if i == axis else 'x' for i in range(ndim)])
    layer = copy.copy(layer)
    layer.W = layer.W * spread(scale, layer.W.ndim, 1 if inputs_first(layer)
                               else 0)
    layer.b = shift if layer.b is None else (
        layer.b * spread(scale, layer.b.ndim, 0)
        + spread(shift, layer.b.ndim, 0))
    layer.untie_biases = layer.b.ndim > 1
    return layer


def input_of(z):
    """The input of the layer whose output is z, both under a rule."""
    while z.owner and is_transfer(z.owner.op):
        (z,) = z.owner.inputs
    if not z.owner or not isinstance(z.owner.op, GradientOverrideOp):
        raise ValueError('batch normalization: expected the output of the '
                         f'layer below, under its rule, got {describe(z)}')
    return z.owner.inputs[0]


def bare(layer):
    """A copy of a layer, without a rule."""
    layer = copy.copy(layer)
    vars(layer).pop('get_output_for', None)
    return layer


# Composites.

class EpsilonPlus(Composite):
    def __init__(self, epsilon=1e-6, stabilizer=1e-6, rules=None):
        super().__init__(rules, {convolution: ZPlus(stabilizer),
                                 dense: Epsilon(epsilon)},
                         stabilizer=stabilizer)


class EpsilonPlusFlat(Composite):
    def __init__(self, epsilon=1e-6, stabilizer=1e-6, rules=None):
        super().__init__(rules, {first(linear): Flat(stabilizer),
                                 convolution: ZPlus(stabilizer),
                                 dense: Epsilon(epsilon)},
                         stabilizer=stabilizer)


class EpsilonAlpha2Beta1(Composite):
    def __init__(self, epsilon=1e-6, stabilizer=1e-6, rules=None):
        super().__init__(
            rules, {convolution: AlphaBeta(2, 1, stabilizer),
                    dense: Epsilon(epsilon)}, stabilizer=stabilizer)


class EpsilonAlpha2Beta1Flat(Composite):
    def __init__(self, epsilon=1e-6, stabilizer=1e-6, rules=None):
        super().__init__(rules, {first(linear): Flat(stabilizer),
                                 convolution: AlphaBeta(2, 1, stabilizer),
                                 dense: Epsilon(epsilon)},
                         stabilizer=stabilizer)


class EpsilonGammaBox(Composite):
    def __init__(self, low, high, epsilon=1e-6, gamma=.25, stabilizer=1e-6,
                 rules=None):
        super().__init__(
            rules, {first(convolution): ZBox(low, high, stabilizer),
                    convolution: Gamma(gamma, stabilizer),
                    dense: Epsilon(epsilon)}, stabilizer=stabilizer)


class ExcitationBackprop(Composite):
    def __init__(self, stabilizer=1e-6, rules=None):
        super().__init__(rules, {linear: ZPlus(stabilizer)},
                         stabilizer=stabilizer, activations=Gradient())
