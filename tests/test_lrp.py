"""Relevance against its formulas in numpy, on layers written as matrices."""
import contextlib
import inspect
import pickle

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne import layers as L
from lasagne.nonlinearities import (leaky_rectify, rectify, softmax, tanh,
                                    very_leaky_rectify)
from theano.tensor.signal.pool import pool_2d

from gradmod import GradientReversal, lrp, modified, override_in
from gradmod._theano import io_toposort

pytestmark = pytest.mark.usefixtures('little_c_code')
MODE = theano.Mode('c|py', 'fast_compile')
RNG = np.random.RandomState(3)


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    monkeypatch.setattr(theano.config, 'floatX', 'float64')
    RNG.seed(3)  # one by one, tests see what they see among all


def values(*shape):
    return RNG.randn(*shape)


def network_input(*shape):
    x = T.TensorType('float64', [False] * (len(shape) + 1))('x')
    return L.InputLayer((None,) + shape, x)


def output(net):
    return L.get_output(net, deterministic=True)


def relevance(net, composite, x, r, optimizer='fast_compile'):
    """That of the input, and the output, which the rules leave as it is."""
    (below,) = [layer for layer in L.get_all_layers(net)
                if isinstance(layer, L.InputLayer)]
    plain = output(net)
    with modified(net, composite) if composite else contextlib.ExitStack():
        z = output(net)
    result = theano.grad(None, below.input_var,
                         known_grads={z: theano.shared(r)})
    result, z, plain = theano.function(
        [below.input_var], [result, z, plain],
        mode=theano.Mode('c|py', optimizer))(x)
    np.testing.assert_allclose(z, plain, rtol=1e-9, atol=1e-11)
    return result


def close(got, wanted, tolerance=1e-10):
    assert got.shape == wanted.shape
    assert abs(got - wanted).max() <= tolerance * abs(wanted).max() > 0


# The formulas, for rows x, a matrix A, biases b and where A has connections.

def divide(a, z, eps=1e-6):
    return a / (z + np.where(z >= 0, eps, -eps))


def plus(v):
    return np.maximum(v, 0)


def minus(v):
    return np.minimum(v, 0)


def positive_part(x, A, b, r, sign=1):
    up, down = (plus, minus) if sign > 0 else (minus, plus)
    s = divide(r, plus(x) @ up(A) + minus(x) @ down(A) + up(b))
    return plus(x) * (s @ up(A).T) + minus(x) * (s @ down(A).T)


def gamma(x, A, b, r, gamma=.25):
    result = 0
    for up, down, chosen in [(plus, minus, x @ A + b > 0),
                             (minus, plus, x @ A + b < 0)]:
        A_up, A_down = A + gamma * up(A), A + gamma * down(A)
        s = divide(r * chosen, plus(x) @ A_up + minus(x) @ A_down
                   + b + gamma * up(b))
        result += plus(x) * (s @ A_up.T) + minus(x) * (s @ A_down.T)
    return result


def box(x, A, b, r, low=-2., high=3.):
    s = divide(r, x @ A + b - (low * plus(A)).sum(0) - plus(b)
               - (high * minus(A)).sum(0) - minus(b))
    return x * (s @ A.T) - low * (s @ plus(A).T) - high * (s @ minus(A).T)


def epsilon(x, A, b, r, eps=1e-6):
    return x * (divide(r, x @ A + b, eps) @ A.T)


FORMULAS = [
    (lrp.Epsilon(), lambda x, A, b, r, on: epsilon(x, A, b, r)),
    (lrp.Epsilon(.3), lambda x, A, b, r, on: epsilon(x, A, b, r, .3)),
    (lrp.Norm(), lambda x, A, b, r, on: epsilon(x, A, b, r)),
    (lrp.ZPlus(), lambda x, A, b, r, on: positive_part(x, A, b, r)),
    (lrp.AlphaBeta(2, 1), lambda x, A, b, r, on:
        2 * positive_part(x, A, b, r) - positive_part(x, A, b, r, -1)),
    (lrp.Gamma(), lambda x, A, b, r, on: gamma(x, A, b, r)),
    (lrp.WSquare(), lambda x, A, b, r, on: divide(
        r, (A ** 2).sum(0) + b ** 2) @ (A ** 2).T),
    (lrp.Flat(), lambda x, A, b, r, on: divide(r, on.sum(0)) @ on.T),
    (lrp.ZBox(-2, 3), lambda x, A, b, r, on: box(x, A, b, r)),
    (lrp.Gradient(), lambda x, A, b, r, on: r @ A.T)]
FORMULA = {repr(rule): formula for rule, formula in FORMULAS}


def matrix(layer):
    """A layer as a matrix, its biases, and where the matrix has weights."""
    shape = layer.input_shape[1:]
    x = T.TensorType('float64', [False] * (len(shape) + 1))()
    n, W = int(np.prod(shape)), layer.W.get_value()
    nonlinearity, layer.nonlinearity = layer.nonlinearity, lambda z: z
    f = theano.function([x], layer.get_output_for(x).flatten(2), mode=MODE)
    layer.nonlinearity = nonlinearity
    b = f(np.zeros((1,) + shape))[0]
    A = f(np.eye(n).reshape((n,) + shape)) - b
    layer.W.set_value(np.ones_like(W))
    on = f(np.eye(n).reshape((n,) + shape)) - b
    layer.W.set_value(W)
    return A, b, on.round()


def check_layer(layer, composite, formula):
    """A network of one layer."""
    A, b, on = matrix(layer)
    x = values(2, *layer.input_layer.shape[1:])
    r = values(2, *layer.output_shape[1:])
    got = relevance(layer, composite, x, r)
    wanted = formula(x.reshape(2, -1), A, b, r.reshape(2, -1), on)
    close(got.reshape(2, -1), wanted)


@pytest.mark.parametrize('rule, formula', FORMULAS, ids=lambda v: repr(v)[:9])
def test_rules(rule, formula):
    layer = L.DenseLayer(network_input(5), 4, W=values(5, 4), b=values(4))
    check_layer(layer, lrp.Composite({lrp.linear: rule}), formula)


def test_defaults():
    assert repr(lrp.AlphaBeta()) == 'AlphaBeta(alpha=2.0, beta=1.0)'
    assert repr(lrp.Norm()) == 'Norm()'
    assert repr(dict(lrp.Composite({}).rules)[lrp.summing]) == 'Norm()'


def test_where_the_output_is_0():
    """The stabilizer is positive there; gamma has no part of it."""
    x, W, r = np.ones((1, 2)), np.array([[2.], [-2]]), np.ones((1, 1))
    layer = L.DenseLayer(network_input(2), 1, W=W)
    for rule, wanted in (lrp.Epsilon(.5), [[4., -4]]), (lrp.Gamma(), [[0, 0]]):
        got = relevance(layer, lrp.Composite({lrp.linear: rule}), x, r)
        np.testing.assert_allclose(got, wanted)


# Of a layer: its name, the shape of its input, and its parameters.
LAYERS = [
    ('DenseLayer', (2, 3), dict(num_units=4)),
    ('NINLayer', (3, 2, 2), dict(num_units=4)),
    ('NINLayer', (3, 2), dict(num_units=4, untie_biases=True)),
    ('Conv1DLayer', (2, 7), dict(num_filters=3, filter_size=3, stride=2)),
    ('Conv2DLayer', (2, 3, 4), dict(num_filters=3, filter_size=3, pad='same')),
    ('Conv2DLayer', (2, 5, 5), dict(num_filters=2, filter_size=2, stride=2,
                                    untie_biases=True)),
    ('Conv2DLayer', (1, 4, 4), dict(num_filters=2, filter_size=3, pad='full',
                                    b=None, untie_biases=True))]
MASTER = [
    ('DenseLayer', (3, 4), dict(num_units=2, num_leading_axes=2)),
    ('Conv2DLayer', (4, 3, 3), dict(num_filters=4, filter_size=2,
                                    num_groups=2)),
    ('Conv3DLayer', (2, 2, 3, 3), dict(num_filters=2, filter_size=2)),
    ('TransposedConv2DLayer', (2, 3, 3), dict(num_filters=3, filter_size=3,
                                              stride=2, crop=1)),
    ('DilatedConv2DLayer', (2, 4, 4), dict(num_filters=3, filter_size=2,
                                           dilation=2)),
    ('LocallyConnected2DLayer', (2, 4, 4), dict(num_filters=3, filter_size=3)),
    ('LocallyConnected2DLayer', (2, 4, 4), dict(
        num_filters=2, filter_size=3, channelwise=True))]
MASTER = [] if lasagne.__version__ == '0.1' else MASTER


def of(net, kind, **kwargs):
    layer = getattr(L, kind)(net, **kwargs)
    for parameter in layer.params:
        parameter.set_value(values(*parameter.get_value().shape))
    return layer


@pytest.mark.parametrize('name, shape, kwargs', LAYERS + MASTER)
@pytest.mark.parametrize('composite', [
    lrp.EpsilonAlpha2Beta1(), lrp.EpsilonPlusFlat(),
    lrp.EpsilonGammaBox(-2, 3)])
def test_layers(name, shape, kwargs, composite):
    layer = of(network_input(*shape), name, **kwargs)
    rule = composite.rule_for(layer, 'a name')
    check_layer(layer, composite, FORMULA[repr(rule)])


# Networks.

class BatchNorm(L.Layer):
    """As people wrote it for Lasagne 0.1."""

    def __init__(self, incoming, axes=None):
        super().__init__(incoming)
        every = range(len(self.input_shape))
        self.axes = axes or [i for i in every if i != 1]
        shape = [self.input_shape[i] for i in every if i not in self.axes]
        for name in 'beta', 'gamma', 'mean', 'inv_std':  # some gammas below 0
            setattr(self, name, self.add_param(
                values(*shape).astype(theano.config.floatX), shape, name))

    def get_output_for(self, x, deterministic=False, **kwargs):
        kept = iter(range(x.ndim))
        pattern = ['x' if i in self.axes else next(kept)
                   for i in range(x.ndim)]
        mean = (self.mean.dimshuffle(pattern) if deterministic
                else x.mean(self.axes, keepdims=True))
        beta, gamma, inv_std = (p.dimshuffle(pattern) for p in (
            self.beta, self.gamma, self.inv_std))
        return (x - mean) * (gamma * inv_std) + beta

    def numbers(self):
        beta, gamma, mean, inv_std = (p.get_value() for p in (
            self.beta, self.gamma, self.mean, self.inv_std))
        return gamma * inv_std, beta - mean * gamma * inv_std


@pytest.mark.parametrize('name, shape, kwargs', [
    row for row in LAYERS + MASTER if row[0] != 'LocallyConnected2DLayer'])
def test_batch_norm_is_merged(name, shape, kwargs):
    layer = of(network_input(*shape), name, nonlinearity=None, **kwargs)
    units = kwargs.get('num_leading_axes', 1)
    axes = [i for i in range(len(layer.output_shape)) if i != units]
    norms = [BatchNorm(layer, axes)]
    if hasattr(L, 'BatchNormLayer'):
        norms.append(of(layer, 'BatchNormLayer', axes=axes))
    for norm in norms:
        scale, shift = [np.broadcast_to(
            v.reshape([-1] + [1] * sum(i > units for i in axes)),
            layer.output_shape[1:]).ravel() for v in BatchNorm.numbers(norm)]
        A, b, on = matrix(layer)
        x, r = values(2, *shape), values(2, *norm.output_shape[1:])
        got = relevance(norm, lrp.Composite({lrp.linear: lrp.ZPlus()}), x, r)
        wanted = positive_part(x.reshape(2, -1), A * scale, b * scale + shift,
                               r.reshape(2, -1))
        close(got.reshape(2, -1), wanted)


@pytest.mark.parametrize('biased', [
    False] + [True] * hasattr(L, 'BiasLayer'))  # not in Lasagne 0.1
def test_a_residual_network(biased):
    W, U, V = values(4, 6), values(6, 6), values(3, 2)
    b, c = values(6), values(2)
    first = L.DenseLayer(network_input(4), 6, W=W, b=b)
    second = L.DenseLayer(first, 6, W=U, b=None, nonlinearity=None)
    net = L.ElemwiseSumLayer([second, first], coeffs=[2, -.5])
    net = L.FeaturePoolLayer(L.NonlinearityLayer(net, tanh), 2,
                             pool_function=T.mean)
    net = L.DenseLayer(net, 2, W=V, b=None, nonlinearity=None)
    net = L.BiasLayer(net, b=c) if biased else net
    x, r = values(3, 4), values(3, 2)
    got = relevance(net, lrp.EpsilonPlus(), x, r)
    h1 = plus(x @ W + b)
    h2 = h1 @ U
    h3 = 2 * h2 - .5 * h1
    h4 = np.tanh(h3)
    h5 = h4.reshape(3, 3, 2).mean(axis=2)
    h6 = h5 @ V
    r = h6 * divide(r, h6 + c) if biased else r
    r = epsilon(h5, V, 0, r)
    r = h4 * divide(r, h5).repeat(2, 1) / 2
    s = divide(r, h3)
    close(got, epsilon(x, W, b, -.5 * h1 * s + epsilon(h1, U, 0, 2 * h2 * s)))


def test_tied_maxima_share():
    x = np.array([[[[1., 1, 0, 2], [0, 1, 2, 2], [0, 0, 5, 0], [0, 0, 0, 0]]]])
    net = L.MaxPool2DLayer(network_input(1, 4, 4), 2)
    got = relevance(net, lrp.EpsilonPlus(), x, np.full((1, 1, 2, 2), 12.))
    close(got[0, 0], np.array(
        [[4., 4, 0, 4], [0, 4, 4, 4], [3, 3, 12, 0], [3, 3, 0, 0]]))
    net = L.GlobalPoolLayer(network_input(1, 4, 4), pool_function=T.max)
    got = relevance(net, lrp.EpsilonPlus(), x, np.full((1, 1), 7.))
    close(got, 7. * (x == 5))


@pytest.mark.parametrize('width, batch_ndim, inside', [
    (1, 2, np.s_[:, :, 1:-1, 1:-1]), ([(1, 0), 2], 2, np.s_[:, :, 1:, 2:-2]),
    ([2, 0, (0, 1)], 1, np.s_[:, 2:-2, :, :-1])])
def test_a_shortcut_that_pads(width, batch_ndim, inside):
    """With its true gradient, compilation did not end."""
    below = L.NINLayer(network_input(2, 3, 3), 4, W=values(2, 4), b=None)
    padded = L.PadLayer(below, width, batch_ndim=batch_ndim)
    shape = padded.output_shape[1:]
    W = values(36, int(np.prod(shape)))
    other = L.DenseLayer(below, W.shape[1], W, b=None, nonlinearity=None)
    net = L.ElemwiseSumLayer([L.ReshapeLayer(other, ([0],) + shape), padded])
    x, r = values(2, 2, 3, 3), values(2, *shape)
    composite = lrp.EpsilonPlus(rules={below: lrp.Gradient()})
    h = plus(np.einsum('nihw,io->nohw', x, below.W.get_value()))
    total = np.zeros((2,) + shape)
    total[inside] = h
    z = (h.reshape(2, -1) @ W).reshape(r.shape)
    s = divide(r, z + total)
    flat = epsilon(h.reshape(2, -1), W, 0, (z * s).reshape(2, -1))
    wanted = np.einsum(
        'nohw,io->nihw', flat.reshape(h.shape) + (total * s)[inside],
        below.W.get_value())
    close(relevance(net, composite, x, r, 'fast_run'), wanted)


# Which layer gets what.

def small():
    net = L.DenseLayer(network_input(3), 4, name='below', W=values(3, 4))
    net = L.DenseLayer(L.DropoutLayer(net), 4, W=values(4, 4))
    return L.DenseLayer(net, 2, name='logits', W=values(4, 2),
                        nonlinearity=softmax)


def test_the_first_that_selects_a_layer_counts():
    net, flat, gamma = small(), lrp.Flat(), lrp.Gamma()
    for rules, chosen in [
            ({'below': flat}, [flat, gamma, gamma]),
            ({net: flat}, [gamma, gamma, flat]),
            ({L.DenseLayer: flat}, [flat] * 3),
            ({lambda layer: getattr(layer, 'num_units', 0) == 4: flat},
             [flat, flat, gamma]),
            ({lrp.first(lrp.dense): flat}, [flat, gamma, gamma]),
            ({lrp.convolution: flat}, [gamma] * 3),
            ({lrp.linear: gamma, 'below': flat}, [gamma] * 3)]:
        rules = lrp.Composite({**rules, lrp.linear: gamma})
        with modified(net, rules) as report:
            assert [place.rule.rule for place in report
                    if isinstance(place.layer, L.DenseLayer)] == chosen
    with pytest.raises(ValueError, match="'blow'.*perhaps you meant 'below'"):
        modified(net, lrp.EpsilonPlus(rules={'blow': flat}))


def test_composites_have_zennits_rules():
    net = L.Conv2DLayer(network_input(1, 6, 6), 2, 3, name='one')
    net = L.DenseLayer(L.Conv2DLayer(net, 2, 3, name='two'), 2, name='three')
    table = {
        lrp.EpsilonPlus(): 'ZPlus() ZPlus() Epsilon()',
        lrp.EpsilonPlusFlat(.1, .2):
            'Flat(stabilizer=0.2) ZPlus(stabilizer=0.2) '
            'Epsilon(stabilizer=0.1)',
        lrp.EpsilonAlpha2Beta1():
            'AlphaBeta(alpha=2, beta=1) AlphaBeta(alpha=2, beta=1) Epsilon()',
        lrp.EpsilonAlpha2Beta1Flat():
            'Flat() AlphaBeta(alpha=2, beta=1) Epsilon()',
        lrp.EpsilonGammaBox(0, 1):
            'ZBox(low=0, high=1) Gamma(gamma=0.25) Epsilon()',
        lrp.ExcitationBackprop(): 'ZPlus() ZPlus() ZPlus()'}
    for composite, wanted in table.items():
        with modified(net, composite) as report:
            assert ' '.join(place.cells[-1] for place in report) == wanted


class Twice(L.DenseLayer):
    def get_output_for(self, x, **kwargs):
        return 2 * super().get_output_for(x, **kwargs)


@pytest.mark.parametrize('build', [
    lambda net: L.LSTMLayer(net, 3), lambda net: Twice(net, 3),
    lambda net: L.ElemwiseMergeLayer([net, net], T.mul),
    lambda net: L.FeaturePoolLayer(net, 2, 2, pool_function=T.prod),
    lambda net: BatchNorm(net, (0, 1)),
    lambda net: BatchNorm(L.NINLayer(net, 3, nonlinearity=rectify))],
    ids='lstm own product pool norm rectified'.split())
def test_layers_without_a_rule(build):
    net = build(network_input(4, 2))
    before = vars(net).copy()
    with pytest.raises(ValueError, match=f'no rule for #. {type(net).__name__}'
                       '.*#. .*Gradient'):
        modified(net, lrp.EpsilonPlus())
    assert vars(net) == before
    with modified(net, lrp.EpsilonPlus(rules={type(net): lrp.Epsilon()})):
        assert net.get_output_for.rule.stabilizer == 1e-6
    assert vars(net) == before


def test_a_rule_for_a_layer_of_ones_own():
    W, b = values(3, 4), values(4)
    net = Twice(network_input(3), 4, W=W, b=b, nonlinearity=None)
    x, r = values(2, 3), values(2, 4)
    close(relevance(net, lrp.EpsilonPlus(rules={Twice: lrp.ZPlus()}), x, r),
          positive_part(x, 2 * W, 2 * b, r, 1))


def test_what_needs_to_be_deterministic(recwarn):
    below = L.NINLayer(network_input(3, 2), 4, nonlinearity=None)
    norm = BatchNorm(below)
    with modified(norm, lrp.EpsilonPlus()):
        output(norm)
        assert not [w for w in recwarn if 'kwargs' in str(w.message)]
        assert 'deterministic' in inspect.signature(
            norm.get_output_for).parameters
        with pytest.raises(ValueError, match='deterministic=True'):
            L.get_output(norm)
        with pytest.raises(ValueError, match='under its rule'):
            L.get_output(norm, {below: T.tensor3()}, deterministic=True)
    per_place = BatchNorm(below, (0,))
    with modified(per_place, lrp.EpsilonPlus()):
        with pytest.raises(ValueError, match='one scale for each unit'):
            output(per_place)
    net = L.DenseLayer(L.DropoutLayer(network_input(3)), 2)
    with modified(net, lrp.EpsilonPlus()):
        with pytest.raises(ValueError, match='random'):
            L.get_output(net)


# What stands in the network, and in the graph.

def test_report_and_restoration():
    net = small()
    layers = L.get_all_layers(net)
    before = [vars(layer).copy() for layer in layers]
    with modified(net, lrp.EpsilonPlus()) as report:
        output(net)
    assert [place.rule.calls for place in report] == [1] * len(report)
    assert 'left alone: its gradient' in str(report).splitlines()[1]
    assert [place.cells[-1] for place in report] == [
        'Epsilon()', 'Pass()', 'Epsilon()', 'Epsilon()']
    assert [vars(layer) for layer in layers] == before


def test_pickling_and_second_use():
    net = small()
    x, r = values(2, 3), values(2, 2)
    wanted = relevance(net, lrp.EpsilonPlus(), x, r)
    close(relevance(net, lrp.EpsilonPlus(), x, r), wanted)
    with modified(net, lrp.EpsilonPlus()):
        copies = [pickle.loads(pickle.dumps(net)) for _ in range(2)]
        output(net)
        copies.append(pickle.loads(pickle.dumps(net)))
    for copy in copies:
        close(relevance(copy, None, x, r), wanted)


def test_nonlinearities_that_keep_their_gradient():
    W, x, r = values(3, 2), values(4, 3), values(4, 2)
    net = L.DenseLayer(network_input(3), 2, W=W, nonlinearity=None)
    p = np.exp(x @ W) / np.exp(x @ W).sum(axis=1, keepdims=True)
    below = p * (r - (p * r).sum(axis=1, keepdims=True))
    above = L.NonlinearityLayer(net, softmax)
    close(relevance(above, lrp.EpsilonPlus(), x, r), epsilon(x, W, 0, below))
    net.nonlinearity = softmax
    close(relevance(net, lrp.EpsilonPlus(), x, r), epsilon(x, W, 0, below))
    net.nonlinearity = tanh
    close(relevance(net, lrp.ExcitationBackprop(), x, r),
          positive_part(x, W, np.zeros(2), r * (1 - np.tanh(x @ W) ** 2)))


def test_parameters_may_be_variables():
    net, x, r = small(), values(2, 3), values(2, 2)
    gamma, eps = theano.shared(.25), theano.shared(np.float32(1e-6))
    number, variable = [
        relevance(net, lrp.Composite({lrp.linear: rule}), x, r)
        for rule in (lrp.Gamma(), lrp.Gamma(gamma, eps))]
    np.testing.assert_allclose(number, variable, rtol=1e-6)
    low = np.array([0., -1, -2])
    close(*[relevance(net, lrp.Composite({
        lrp.first(lrp.linear): lrp.ZBox(v, 3), lrp.linear: lrp.Flat()}), x, r)
        for v in (low, theano.shared(low))])


def test_what_composites_and_rules_refuse():
    for rule, says, *wrong in [
            (lrp.Epsilon, 'stabilizer .or epsilon', [-1], [np.nan]),
            (lrp.ZPlus, 'stabilizer', [-1e-9]),
            (lrp.Gamma, 'gamma', [-.1], [T.constant(-1.)], [np.inf]),
            (lrp.AlphaBeta, 'alpha - beta = 1', [1, 1], [.5, -.5], [1.1, .2],
             ([2, 3], [1, 1])),
            (lrp.ZBox, r'low .* got \[0, 2\] and 1', ([0, 2], 1))]:
        for parameters in wrong:
            with pytest.raises(ValueError, match=says):
                rule(*parameters)
    lrp.ZBox([0, 1], 1), lrp.Gamma(0, 0), lrp.AlphaBeta([2, 3], [1, 2])
    lrp.AlphaBeta(1, 0), lrp.AlphaBeta(theano.shared(1.), 0)
    for wrong in lrp.Pass, 'Pass':
        with pytest.raises(TypeError, match='activations to be a rule'):
            lrp.Composite({}, activations=wrong)
    net = L.DenseLayer(L.InputLayer((None, 2)), 2, name='dense')
    for wrong in lrp.ZPlus, 'zplus', GradientReversal():
        with pytest.raises(TypeError, match='dense: expected a rule, such as'):
            modified(net, lrp.Composite({'dense': wrong}))
    with pytest.raises(NotImplementedError, match='relevance'):
        relevance(small(), lrp.Composite({lrp.linear: lrp.Rule()}),
                  values(1, 3), values(1, 2))


POSITIVE = [
    T.nnet.relu, abs, T.sqr, T.exp, T.nnet.sigmoid, T.nnet.softplus, softmax,
    lambda x: T.maximum(x, 0), lambda x: T.maximum(.1, x),
    lambda x: T.nnet.relu(x) * 2 + 1, lambda x: abs(x)[:, ::2],
    lambda x: T.concatenate([abs(x), T.sqr(x)], axis=1).dimshuffle(1, 0),
    lambda x: abs(x).reshape((3, 2)), lambda x: abs(x).reshape((-1,)),
    lambda x: T.zeros_like(x), lambda x: T.inc_subtensor(abs(x)[-1:], 1),
    lambda x: T.nnet.nnet.softmax_with_bias(x, x[0]),
    lambda x: abs(x).mean(axis=0), lambda x: T.max(abs(x), axis=1),
    lambda x: T.inc_subtensor(T.zeros((3, 3))[:2, :3], abs(x)),
    lambda x: T.switch(x > 0, abs(x), 0), lambda x: T.cast(abs(x), 'float32'),
    lambda x: pool_2d(abs(x), (2, 2))]
ANY = [lambda x: x, lambda x: -abs(x), lambda x: abs(x) - 1, T.tanh,
       lambda x: x + abs(x) * 2, lambda x: abs(x) * -1, leaky_rectify,
       very_leaky_rectify, lambda x: T.maximum(x, -1), T.nnet.elu,
       lambda x: T.concatenate([abs(x), x]), lambda x: abs(x).dot(x.T),
       lambda x: T.switch(x > 0, x, 0), lambda x: T.minimum(x, 0),
       lambda x: T.fill(x, x),
       lambda x: x + abs(x) - 1, lambda x: T.set_subtensor(x[:1], 1),
       lambda x: x + abs(x + 1),
       lambda x: T.set_subtensor(T.zeros((3, 3))[:2], x)]


def test_nonnegative():
    x = T.matrix()
    for f in POSITIVE + ANY:
        for y in f(x), lrp.Gradient().around(f)(x):
            assert lrp.nonnegative(y) is (f in POSITIVE)
    for v in theano.function([x], [f(x) for f in POSITIVE], mode=MODE)(
            values(2, 3)):
        assert v.min() >= 0


@pytest.mark.parametrize('rule, dots, fewer', [
    (lrp.ZPlus(), 4, 2), (lrp.AlphaBeta(2, 1), 8, 4), (lrp.Gamma(), 9, 5),
    (lrp.Epsilon(), 2, 2), (lrp.Flat(), 2, 2)])
def test_what_is_known_to_be_0_is_not_computed(rule, dots, fewer):
    """Above a rectifier; the values are the same."""
    W, V, b, c = values(3, 3), values(3, 2), values(3), values(2)
    x, r = values(5, 3), values(5, 2)
    composite = lrp.Composite({'above': rule, 'below': lrp.Epsilon()})
    for f, h, wanted in [(tanh, np.tanh(x @ W + b), dots),
                         (rectify, plus(x @ W + b), fewer)]:
        net = L.DenseLayer(network_input(3), 3, W=W, b=b, nonlinearity=f,
                           name='below')
        net = L.DenseLayer(net, 2, W=V, b=c, nonlinearity=None, name='above')
        with modified(net, composite):
            op = output(net).owner.op
        nodes = io_toposort(op.inputs + [op.output_grad], op.gradients[:1])
        assert sum(isinstance(node.op, T.Dot) for node in nodes) == wanted
        close(relevance(net, composite, x, r), epsilon(
            x, W, b, FORMULA[repr(rule)](h, V, c, r, V ** 0)))


def test_rules_of_layers_are_known_as_such():
    x = T.matrix('x')
    with pytest.raises(TypeError, match='ZPlus is for layers'):
        override_in(T.nnet.relu(x), lrp.ZPlus())
    net = L.DenseLayer(network_input(3), 4, nonlinearity=None)
    with modified(net, lrp.Composite({lrp.dense: lrp.ZPlus()})):
        assert output(net).owner.op.of_layers
