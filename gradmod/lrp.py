"""Layer-wise relevance propagation: rules for the layers of a network.

What flows down is not a gradient but relevance: how much of the output is due
to each unit. A *rule* says how the relevance r of the linear part
z = f(x; W, b) of a layer is divided among its inputs x. Nonlinearities pass
relevance on as it is. A *composite* says which layer gets which rule [1]_:

>>> import gradmod
>>> import lasagne, numpy as np, theano, theano.tensor as T
>>> from gradmod import lrp
>>> from lasagne.layers import DenseLayer, InputLayer
>>> x = T.matrix('x')
>>> net = DenseLayer(InputLayer((None, 3), x), 2, b=None, nonlinearity=None,
...                  W=np.array([[1, 2], [3, 4], [5, 6]], x.dtype))
>>> with gradmod.modified(net, lrp.EpsilonPlus()):
...     z = lasagne.layers.get_output(net, deterministic=True)
>>> r = theano.grad(None, x, known_grads={z: z})
>>> print(r.eval({x: np.array([[1, -1, 2]], x.dtype)}).round(3))
[[ 3. -7. 22.]]

In the formulas v+ is max(v, 0) and v- is min(v, 0); f^T(s; W) is the layer
transposed, the gradient of the sum of s f(x; W, b) with respect to x; a / z is
stabilized: a / (z + eps), or a / (z - eps) where z < 0.

The relevance of a layer's inputs sums to that of its outputs but for what goes
to biases and into eps. To start, the relevance of an output is its value.

Where only positive contributions count, relevance hardly depends on the later
layers: products of nonnegative matrices converge to one of rank 1. `ZPlus`,
and `AlphaBeta` in deep networks, then show what the first layers respond to,
whatever the class [2]_.

References
----------
.. [1] Montavon, Binder, Lapuschkin, Samek, Mueller (2019): Layer-Wise
   Relevance Propagation: An Overview. In: Explainable AI.
.. [2] Sixt, Granz, Landgraf (2020): When Explanations Lie: Why Many Modified
   BP Attributions Fail. ICML.
"""
import copy
import inspect
from functools import partial

import numpy as np
import theano
import theano.tensor as T

from ._theano import Constant, Variable
from .base import ModifiedBackprop
from .device import is_transfer
from .errors import describe, name_of
from .graphs import conform, graft, inputs_of, walk
from .network import Place, find_layers
from .op import GradientOverrideOp, expanded
from .rules import like

# Lasagne is imported inside of functions: gradmod does not need it otherwise.


# What a part of a rule makes of x, W or b.

def same(v):
    return v


def positive(v):
    return T.maximum(v, 0)


def negative(v):
    return T.minimum(v, 0)


def one(v):
    return T.ones_like(v)


def zero(v):
    """None: what a layer has in the place of a bias that is not there."""


PLUS = (positive, positive, positive), (negative, negative, zero)
MINUS = (positive, negative, negative), (negative, positive, zero)


# Rules.

def check(holds, expected, *values):
    """Refuse numbers for which it does not hold; nobody knows of variables."""
    known = [v.data if isinstance(v, Constant) else v for v in values]
    if any(isinstance(v, Variable) for v in known):
        return
    numbers = [np.asarray(v) for v in known]
    if not (np.all(holds(*numbers)) and all(np.isfinite(v).all() for v in numbers)):
        raise ValueError(f'expected {expected}, got '
                         + ' and '.join(map(str, values)))


class Rule(ModifiedBackprop):
    """Base of the rules for layers. Subclasses define `relevance`.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.

    Raises
    ------
    ValueError
        If a parameter, of this or another rule, is a number that makes no
        sense: a stabilizer, epsilon or gamma below 0, low above high.

    Examples
    --------
    Positive weights alone, and no bias:

    >>> from gradmod import lrp
    >>> class PositiveWeights(lrp.Rule):
    ...     def relevance(self, r, z, share):
    ...         return share(r, (lrp.same, lrp.positive, lrp.zero))
    >>> PositiveWeights()
    PositiveWeights()
    """

    of_layers = True

    def __init__(self, stabilizer=1e-6):
        super().__init__(same)
        check(lambda v: v >= 0, 'a stabilizer (or epsilon) not below 0',
              stabilizer)
        self.stabilizer = stabilizer

    def __repr__(self):
        values = [f'{name}={value}' for name, value in vars(self).items()
                  if name not in ('nonlinearity', 'ops', 'calls')
                  and (name, value) != ('stabilizer', 1e-6)]
        return f'{type(self).__name__}({", ".join(values)})'

    def _make_op(self, types):
        op = super()._make_op(types)
        op.of_layers = True
        return op

    def relevance(self, r, z, share):
        """The relevance of a layer's input.

        Parameters
        ----------
        r, z : Variable
            The relevance of the output of the linear part, and that output.
        share : callable
            ``share(r, *parts)`` divides r among parts of the layer, each a
            triple of functions: what the part has in the place of x, of W and
            of b. There are `same`, `positive`, `negative`, `one` and `zero`.
            With z_k the output of part k and s = r / (z_1 + z_2 + ...) it is
            x_1 f^T(s; W_1) + x_2 f^T(s; W_2) + ...

        Returns
        -------
        Variable
            Of the shape of x. Of a layer with several inputs, a list.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define '
                                  'relevance(self, r, z, share)')

    def grad(self, inputs, out_grads, outputs):
        return self.relevance(*out_grads, *outputs,
                              partial(self._share, inputs))

    def _share(self, inputs, r, *parts):
        f, results = self.nonlinearity, []
        for on_x, on_W, on_b in parts:
            if not (f.nonnegative and on_x is negative):
                if f.nonnegative and on_x is positive:
                    on_x = same
                xs = [on_x(x) for x in inputs]
                results.append((xs, f(*xs, W=on_W, b=on_b)))
        total = add(z for _, z in results)
        s = r / (total + like(r, self.stabilizer)
                 * T.switch(total >= 0, like(r, 1), like(r, -1)))
        shares = [[x * g for x, g in
                   zip(xs, theano.grad(None, xs, known_grads={z: s}))]
                  for xs, z in results]
        shares = [add(share) for share in zip(*shares)]
        return shares[0] if len(shares) == 1 else shares


def add(variables):
    first, *others = variables
    return sum(others, first)


class Epsilon(Rule):
    """The epsilon rule: x f^T(r / z; W).

    Parameters
    ----------
    epsilon : float or scalar variable, optional
        eps: not only a stabilizer, the larger it is the less of small
        contributions is left. 0 gives LRP-0.

    Notes
    -----
    Bach et al. (2015), On Pixel-Wise Explanations for Non-Linear Classifier
    Decisions by Layer-Wise Relevance Propagation, PLoS ONE. In all layers of a
    network of rectifiers without biases it is gradient times input.
    """

    def __init__(self, epsilon=1e-6):
        super().__init__(epsilon)

    def relevance(self, r, z, share):
        return share(r, (same, same, same))


class Norm(Epsilon):
    """In proportion to the contribution: x f^T(r / z).

    For what has no weights: sums, averages.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.
    """

    def __init__(self, stabilizer=1e-6):
        super().__init__(stabilizer)


class ZPlus(Rule):
    """The z+ rule: x+ f^T(s; W+) + x- f^T(s; W-).

    s = r / (f(x+; W+, b+) + f(x-; W-, 0)). Positive contributions alone count.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.

    Notes
    -----
    Montavon, Lapuschkin, Binder, Samek, Mueller (2017), Explaining nonlinear
    classification decisions with deep Taylor decomposition, Pattern
    Recognition, for x >= 0; with x < 0 it is `AlphaBeta` with alpha 1, beta 0.

    From layer to layer it multiplies nonnegative matrices, whose product
    converges to one of rank 1: in deep networks the map hardly depends on the
    class or on the weights of the later layers (Sixt et al. 2020).
    """

    def relevance(self, r, z, share):
        return share(r, *PLUS)


class AlphaBeta(Rule):
    """alpha times the positive contributions, minus beta times the negative.

    alpha (x+ f^T(s; W+) + x- f^T(s; W-))
    - beta (x+ f^T(t; W-) + x- f^T(t; W+))
    with s = r / (f(x+; W+, b+) + f(x-; W-, 0)) and
    t = r / (f(x+; W-, b-) + f(x-; W+, 0)).

    Parameters
    ----------
    alpha, beta : float or scalar variable, optional
        Not below 0; alpha - beta = 1, else the sum is not conserved.
    stabilizer : float or scalar variable, optional
        eps.

    Raises
    ------
    ValueError
        If they are numbers and alpha - beta is not 1, or one is below 0.

    Notes
    -----
    Bach et al. (2015). A unit that has no negative contributions passes on
    alpha r, not r. Like `ZPlus` it hardly depends on the later layers of a
    deep network (Sixt et al. 2020).
    """

    def __init__(self, alpha=2., beta=1., stabilizer=1e-6):
        super().__init__(stabilizer)
        check(lambda a, b: (b >= 0) & (abs(a - b - 1) < 1e-9),
              'alpha - beta = 1 and neither below 0', alpha, beta)
        self.alpha, self.beta = alpha, beta

    def relevance(self, r, z, share):
        return (like(r, self.alpha) * share(r, *PLUS)
                - like(r, self.beta) * share(r, *MINUS))


class Gamma(Rule):
    """The gamma rule: positive contributions count 1 + gamma times.

    Where z > 0: x+ f^T(s; W + gamma W+) + x- f^T(s; W + gamma W-) with
    s = r / (f(x+; W + gamma W+, b + gamma b+) + f(x-; W + gamma W-, 0)). Where
    z < 0 the same with W+ and W-, b+ and b- exchanged.

    Parameters
    ----------
    gamma : float or scalar variable, optional
        0 is `Epsilon`; as it grows, `ZPlus` (for x >= 0 and z > 0).
    stabilizer : float or scalar variable, optional
        eps.

    Notes
    -----
    Montavon et al. (2019), for x >= 0; Andeol, Kawakami, Wada, Kanamori,
    Mueller, Montavon (2021), Learning domain invariant representations by
    joint Wasserstein distance minimization, for any x. The bias is in the part
    of x+ alone.
    """

    def __init__(self, gamma=.25, stabilizer=1e-6):
        super().__init__(stabilizer)
        check(lambda v: v >= 0, 'gamma not below 0', gamma)
        self.gamma = gamma

    def relevance(self, r, z, share):
        def more(v):
            return v + like(v, self.gamma) * positive(v)

        def less(v):
            return v + like(v, self.gamma) * negative(v)

        return (share(r * (z > 0), (positive, more, more),
                      (negative, less, zero))
                + share(r * (z < 0), (positive, less, less),
                        (negative, more, zero)))


class WSquare(Rule):
    """By the squared weights: f^T(r / f(1; W^2, b^2); W^2).

    For first layers with inputs of any real value.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.

    Notes
    -----
    Montavon et al. (2017).
    """

    def relevance(self, r, z, share):
        return share(r, (one, T.sqr, T.sqr))


class Flat(Rule):
    """In equal parts to all inputs of a unit: f^T(r / f(1; 1, 0); 1).

    For first layers, and to see where the later ones look.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.

    Notes
    -----
    Lapuschkin, Waeldchen, Binder, Montavon, Samek, Mueller (2019), Unmasking
    Clever Hans predictors and assessing what machines really learn, Nature
    Communications.
    """

    def relevance(self, r, z, share):
        return share(r, (one, one, zero))


class ZBox(Rule):
    """For a first layer with inputs between bounds l and h.

    x f^T(s; W) - l f^T(s; W+) - h f^T(s; W-) with
    s = r / (f(x; W, b) - f(l; W+, b+) - f(h; W-, b-)).

    Parameters
    ----------
    low, high : float, numpy array or Variable
        l and h: the smallest and the largest value that an input can have, for
        the data as the network gets it. Broadcast against x: an array of shape
        (3, 1, 1) or (1, 3, 1, 1) has one for each channel.
    stabilizer : float or scalar variable, optional
        eps.

    Notes
    -----
    Montavon et al. (2017).
    """

    def __init__(self, low, high, stabilizer=1e-6):
        super().__init__(stabilizer)
        check(np.less_equal, 'low not above high', low, high)
        self.low, self.high = low, high

    def relevance(self, r, z, share):
        def filled(value):
            return lambda x: T.zeros_like(x) + like(x, value)

        def minus(on_v):
            return lambda v: -on_v(v)

        return share(r, (same, same, same),
                     (filled(self.low), minus(positive), minus(positive)),
                     (filled(self.high), minus(negative), minus(negative)))


class Winner(Rule):
    """To the largest input, in equal parts where several are as large.

    The gradient of max-pooling, but that Theano's, on the CPU, gives each of
    those all of r: relevance would grow where an image is flat. It takes one
    more pass, which ``rules={lrp.maximum: lrp.Gradient()}`` saves.
    """

    def grad(self, inputs, out_grads, outputs):
        (x,), (r,), (z,) = inputs, out_grads, outputs
        g = theano.grad(None, x, known_grads={z: r})
        count = theano.grad(g.sum(), r)  # of those to which z belongs
        return theano.grad(None, x, known_grads={z: r / count})


class Crop(Rule):
    """The gradient of a layer that pads.

    With Theano's own, compilation would not end: after a product, an
    optimization makes the shape of the layer's input depend on itself.
    """

    def grad(self, inputs, out_grads):
        layer, (r,) = self.nonlinearity.layer, out_grads
        widths = layer.width
        if isinstance(widths, int):
            widths = [widths] * (r.ndim - layer.batch_ndim)
        ends = [np.broadcast_to(width, 2).tolist() for width in widths]
        return r[(slice(None),) * layer.batch_ndim + tuple(
            slice(low, -high or None) for low, high in ends)]


class Pass(Rule):
    """As it is: r. For what keeps the shape of its input."""

    def relevance(self, r, z, share):
        return r


class Gradient(Rule):
    """The true gradient of the layer. For what only moves values."""

    def grad(self, inputs, out_grads):
        return [None] * len(inputs)


class Merge(Rule):
    """As a part of the linear layer below it, whose rule counts.

    For batch normalization: W' = W scale, b' = (b - mean) scale + beta, with
    scale = gamma inv_std, and the rule of the layer below for W' and b'.
    """


# Where no input of a layer can be negative, half of most rules is 0.

NONE, FIRST, REST, ALL = slice(0), slice(1), slice(1, None), slice(None)
PREMISES = dict(
    dict.fromkeys(['Abs', 'Sqr', 'Exp', 'Sigmoid', 'Softplus', 'Softmax',
                   'SoftmaxWithBias', 'Shape'], NONE),
    **dict.fromkeys(['DimShuffle', 'Reshape', 'Rebroadcast', 'Subtensor',
                     'Alloc', 'Pool', 'Identity', 'Cast', 'Sum', 'Max',
                     'MaxAndArgmax', 'GpuFromHost', 'HostFromGpu'], FIRST),
    **dict.fromkeys(['Join', 'Second', 'Switch'], REST),
    **dict.fromkeys(['Add', 'Mul', 'TrueDiv'], ALL), IncSubtensor=slice(2))


def nonnegative(variable):
    """Whether no value can be negative, as the graph has it."""
    return all(premises(v) is not None for v in walk([variable], premises))


def premises(v):
    """What must not be negative for v not to be; None if it may be anyway."""
    if isinstance(v, Constant):
        return [] if np.all(np.asarray(v.data) >= 0) else None
    if v.owner is None:
        return None
    op, inputs = v.owner.op, v.owner.inputs
    if isinstance(op, GradientOverrideOp):
        return expanded(v.owner)
    name = type(getattr(op, 'scalar_op', op)).__name__.replace('Scalar', '')
    if name == 'Maximum' and any(map(nonnegative, inputs)) or (
            name == 'Add' and len(inputs) == 2 and any(
                a.owner and a.owner.op == T.abs_ and a.owner.inputs == [b]
                for a, b in (inputs, inputs[::-1]))):  # as in T.nnet.relu
        return []
    return inputs[PREMISES[name]] if name in PREMISES else None


# Kinds of layers, as functions of a layer: those of all versions, by name.

def is_one_of(names, layer):
    """Whether it is of one of these types and computes nothing of its own."""
    code = [getattr(type(layer), name, None)
            for name in ('get_output_for', 'convolve')]
    return (any(kind.__name__ in names for kind in type(layer).__mro__)
            and all(f is None or f.__module__.startswith('lasagne.')
                    for f in code))


dense = partial(is_one_of, {'DenseLayer'})
convolution = partial(is_one_of, {
    'NINLayer', 'BaseConvLayer', 'Conv1DLayer', 'Conv2DLayer', 'Conv2DMMLayer',
    'Conv2DDNNLayer'})
activation = partial(is_one_of, {
    'NonlinearityLayer', 'ParametricRectifierLayer', 'ScaleLayer',
    'RandomizedRectifierLayer', 'DropoutLayer', 'GaussianNoiseLayer'})
padding = partial(is_one_of, {'PadLayer'})


def linear(layer):
    return dense(layer) or convolution(layer)


def pools(by, layer):
    """Whether it pools by one of these modes or functions."""
    return is_one_of({
        'Pool1DLayer', 'MaxPool1DLayer', 'Pool2DLayer', 'Pool3DLayer',
        'FeaturePoolLayer', 'GlobalPoolLayer', 'SpatialPyramidPoolingLayer'},
        layer) and getattr(layer, 'mode', getattr(
            layer, 'pool_function', 'max')) in by


maximum = partial(pools, ('max', T.max))
average = partial(pools, ('average_inc_pad', 'average_exc_pad', 'sum', T.mean,
                          T.sum))


def summing(layer):
    return (average(layer)
            or is_one_of({'ElemwiseSumLayer', 'BiasLayer'}, layer))


def moving(layer):
    """Also the softmax: relevance should start at the logits before it."""
    return is_one_of({
        'InputLayer', 'EmbeddingLayer', 'FlattenLayer', 'ReshapeLayer',
        'DimshuffleLayer', 'SliceLayer', 'ConcatLayer',
        'Upscale1DLayer', 'Upscale2DLayer', 'Upscale3DLayer',
        'FeatureWTALayer'}, layer) or (
            activation(layer)
            and is_softmax(getattr(layer, 'nonlinearity', None)))


def batch_norm(layer):
    """By the name of its type, whoever wrote it: see `merged`."""
    return 'BatchNorm' in type(layer).__name__


def first(kind):
    """The layers of a kind that have none of that kind below."""
    return partial(is_first, kind)


def is_first(kind, layer):
    from lasagne.layers import get_all_layers
    return kind(layer) and not any(map(kind, get_all_layers(layer)[:-1]))


def is_linear(f):
    from lasagne.nonlinearities import linear
    return f is linear


def is_softmax(f):
    return name_of(f) == 'softmax'


# Composites.

class Composite:
    """Which layer gets which rule; for `gradmod.modified` in a rule's place.

    Parameters
    ----------
    rules : dict
        Rules by what selects their layers: the name of a layer, a layer, a
        type of layer, or a function of a layer. Such are `dense`,
        `convolution` (with NIN and locally connected layers), `linear` (both),
        `maximum`, `average`, `summing`, `activation`, `batch_norm`, `moving`,
        and ``first(linear)``, the layers with no linear one below. The first
        that matches counts.
    stabilizer : float or scalar variable, optional
        eps of `Norm` for sums and averages.
    activations : Rule, optional
        For nonlinearities, `Pass` by default.

    Raises
    ------
    TypeError
        When applied: if what `rules` has for a layer is no rule.
    ValueError
        When applied: if `rules` names a layer that is not there, or if there
        are layers without a rule. At get_output: if batch normalization
        computes statistics, or random numbers are drawn; it needs
        ``deterministic=True``.

    Notes
    -----
    Without a rule of yours, sums of layers, with their coefficients, biases
    that are layers, and average pooling have `Norm`, max-pooling `Winner`,
    batch normalization above a linear layer without a nonlinearity `Merge`,
    nonlinearities, scales and dropout `Pass`. Layers that move values, and the
    softmax, keep their gradient (`Crop` is that of padding). All others are
    refused: recurrent layers, local response normalization, gates by product,
    types of your own that compute by themselves. A rule of yours for those is
    one for the whole layer.

    Examples
    --------
    >>> from gradmod import lrp
    >>> from lasagne.layers import Conv2DLayer
    >>> composite = lrp.Composite({
    ...     'conv1': lrp.ZBox(low=0, high=1), Conv2DLayer: lrp.Gamma(),
    ...     lrp.linear: lrp.Epsilon()})
    """

    def __init__(self, rules, *defaults, stabilizer=1e-6, activations=None):
        self.activations = Pass() if activations is None else activations
        if not isinstance(self.activations, Rule):
            raise TypeError('expected activations to be a rule, such as '
                            f'lrp.Pass(), got {describe(activations)}')
        self.rules = [pair for table in (rules or {},) + defaults + ({
            summing: Norm(stabilizer), maximum: Winner(), padding: Crop(),
            moving: Gradient(), activation: self.activations,
            batch_norm: Merge(),
        },) for pair in table.items()]

    def rule_for(self, layer, name):
        """The rule for a layer, or None."""
        for key, rule in self.rules:
            if (isinstance(layer, key) if isinstance(key, type) else
                    key in (layer, name) if not callable(key) else key(layer)):
                return rule

    def plan(self, names):
        """Rows of (place, reason), for `gradmod.modified`.

        Parameters
        ----------
        names : dict
            The names of all layers, by layer.
        """
        for key, _ in self.rules:
            if not callable(key):
                find_layers(key, names)
        rows, refused = [], []
        for layer, name in names.items():
            rule, here, norm = self.rule_for(layer, name), layer, None
            if isinstance(rule, Merge):
                here, norm = getattr(layer, 'input_layer', None), layer
                rule = linear(here) and is_linear(here.nonlinearity) and (
                    self.rule_for(here, names[here]))
            if not rule:
                refused.append(name)
            elif not isinstance(rule, Rule):
                raise TypeError(f'{name}: expected a rule, such as lrp.ZPlus(), '
                                f'got {describe(rule)}')
            elif isinstance(rule, Gradient) and not linear(here):
                rows.append((Place(layer, name, None, None, None),
                             'its gradient'))
            else:
                new = LayerRule(here, rule, self.activations, norm)
                rows.append((Place(layer, name, 'get_output_for',
                                   layer.get_output_for, new), None))
        if refused:
            raise ValueError(
                f'no rule for {", ".join(refused)}. Give each one, such as '
                f'{{{refused[0]!r}: lrp.Gradient()}} in lrp.EpsilonPlus(rules=...)')
        return rows


class EpsilonPlus(Composite):
    """`Epsilon` for dense layers, `ZPlus` for convolutions.

    Parameters
    ----------
    epsilon, stabilizer : float or scalar variable, optional
        eps of `Epsilon`; of the other rules.
    rules : dict, optional
        Rules of your own, which come first; see `Composite`.
    """

    def __init__(self, epsilon=1e-6, stabilizer=1e-6, rules=None):
        super().__init__(rules, self.table(epsilon, stabilizer),
                         stabilizer=stabilizer)

    def table(self, epsilon, stabilizer):
        return {convolution: ZPlus(stabilizer), dense: Epsilon(epsilon)}


class EpsilonAlpha2Beta1(EpsilonPlus):
    """`Epsilon` for dense layers, `AlphaBeta` for convolutions.

    Parameters are those of `EpsilonPlus`.
    """

    def table(self, epsilon, stabilizer):
        return {convolution: AlphaBeta(2, 1, stabilizer),
                dense: Epsilon(epsilon)}


class EpsilonPlusFlat(EpsilonPlus):
    """`EpsilonPlus`, but `Flat` for the first layer.

    Parameters are those of `EpsilonPlus`.
    """

    def table(self, epsilon, stabilizer):
        return {first(linear): Flat(stabilizer),
                **super().table(epsilon, stabilizer)}


class EpsilonAlpha2Beta1Flat(EpsilonAlpha2Beta1):
    """`EpsilonAlpha2Beta1`, but `Flat` for the first layer.

    Parameters are those of `EpsilonPlus`.
    """

    def table(self, epsilon, stabilizer):
        return {first(linear): Flat(stabilizer),
                **super().table(epsilon, stabilizer)}


class EpsilonGammaBox(Composite):
    """`Epsilon` for dense layers, `Gamma` for convolutions, first `ZBox`.

    Parameters
    ----------
    low, high : float, numpy array or Variable
        The smallest and the largest value of each input; see `ZBox`.
    epsilon, gamma, stabilizer : float or scalar variable, optional
        eps of `Epsilon`; gamma; eps of the other rules.
    rules : dict, optional
        Rules of your own, which come first; see `Composite`.

    Notes
    -----
    `ZBox` is for the first convolution: a network without one does not use
    `low` and `high`.
    """

    def __init__(self, low, high, epsilon=1e-6, gamma=.25, stabilizer=1e-6,
                 rules=None):
        super().__init__(
            rules, {first(convolution): ZBox(low, high, stabilizer),
                    convolution: Gamma(gamma, stabilizer),
                    dense: Epsilon(epsilon)}, stabilizer=stabilizer)


class ExcitationBackprop(Composite):
    """`ZPlus` for all linear layers; nonlinearities keep their gradient.

    Parameters
    ----------
    stabilizer : float or scalar variable, optional
        eps.
    rules : dict, optional
        Rules of your own, which come first; see `Composite`.

    Notes
    -----
    Zhang, Lin, Brandt, Shen, Sclaroff (2016), Top-down Neural Attention by
    Excitation Backprop, ECCV.
    """

    def __init__(self, stabilizer=1e-6, rules=None):
        super().__init__(rules, {linear: ZPlus(stabilizer)},
                         stabilizer=stabilizer, activations=Gradient())


class LayerRule:
    """A rule for a layer, in the place of its ``get_output_for``."""

    calls = 0

    def __init__(self, layer, rule, activations, norm=None):
        self.layer, self.rule = layer, rule
        self.activations, self.norm = activations, norm

    @property
    def __name__(self):
        return f'{self.rule!r}{", merged" if self.norm else ""}'

    @property
    def __signature__(self):  # get_output asks for the names of parameters
        return inspect.signature(type(self.norm or self.layer).get_output_for)

    def __call__(self, inputs, **kwargs):
        self.calls += 1
        layer, f = bare(self.layer), None
        if linear(layer):
            f, layer.nonlinearity = layer.nonlinearity, same
        if self.norm:
            layer = merged(bare(self.norm), layer, inputs, kwargs)
            inputs = input_of(inputs)
        xs = inputs if isinstance(inputs, list) else [inputs]
        part = Part(layer, xs, isinstance(inputs, list), kwargs)
        z = self.rule.around(part)(*xs)
        if f is None or is_linear(f):
            return z
        return f(z) if is_softmax(f) else self.activations.around(f)(z)


class Part:
    """z = f(x; W, b), as a function of x and of what to make of W and b."""

    def __init__(self, layer, xs, several, kwargs):
        self.layer, self.several, self.kwargs = layer, several, kwargs
        self.nonnegative = all(map(nonnegative, xs))
        self.__name__ = layer.name or type(layer).__name__

    def __call__(self, *xs, W=same, b=same):
        layer = copy.copy(self.layer)
        for name, change in ('W', W), ('b', b):
            if getattr(layer, name, None) is not None:
                setattr(layer, name, change(getattr(layer, name)))
        return layer.get_output_for(list(xs) if self.several else xs[0],
                                    **self.kwargs)


def axis_of_units(layer):
    """That of the W of a linear layer."""
    return int(is_one_of({
        'DenseLayer', 'NINLayer', 'TransposedConv2DLayer',
        'TransposedConv3DLayer', 'DilatedConv2DLayer'}, layer))


def bare(layer):
    """A copy of a layer, under no rule."""
    layer = copy.copy(layer)
    vars(layer).pop('get_output_for', None)
    return layer


def input_of(z):
    """The input of the layer whose output, under a rule, is z."""
    while z.owner and is_transfer(z.owner.op):
        (z,) = z.owner.inputs
    if not z.owner or not isinstance(z.owner.op, GradientOverrideOp):
        raise ValueError('batch normalization: expected what the layer below '
                         f'makes of floats, under its rule, got {describe(z)}')
    return z.owner.inputs[0]


def merged(norm, layer, z, kwargs):
    """`layer`, whose output is z, with the W and b that make `norm` a part.

    Its scale and shift of each unit are what its code makes of ones and zeros:
    its gradient has to be constant, and one for each unit.
    """
    units = z.ndim - 1 if dense(layer) else 1
    a_unit = T.TensorType(z.dtype, [i != units for i in range(z.ndim)])
    x, g = a_unit(), a_unit()
    y = norm.get_output_for(x, **kwargs)
    scale = theano.grad(None, x, known_grads={y: g})
    if y.type != x.type or x in walk([scale], inputs_of):
        raise ValueError(
            f'{norm.name or type(norm).__name__} is no part of the layer '
            'below: it needs get_output(..., deterministic=True) and one scale'
            ' for each unit, or a rule of its own')
    ones = np.ones([layer.output_shape[i] if i == units else 1
                    for i in range(z.ndim)], z.dtype)
    memo = {x: conform(T.constant(0 * ones), x.type),
            g: conform(T.constant(ones), x.type)}
    scale, shift = [v.flatten() for v in graft([scale, y], memo)]

    def spread(v, ndim, axis):
        return v.dimshuffle([0 if i == axis else 'x' for i in range(ndim)])

    layer, b = copy.copy(layer), layer.b
    layer.W *= spread(scale, layer.W.ndim, axis_of_units(layer))
    layer.b = shift if b is None else (
        b * spread(scale, b.ndim, 0) + spread(shift, b.ndim, 0))
    layer.untie_biases = layer.b.ndim > 1
    return layer
