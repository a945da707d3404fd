"""Lasagne, 0.1 or master: every layer, every update. See the README here."""
import gradmod  # noqa: F401  before Theano and Lasagne

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne import layers as L
from lasagne.nonlinearities import rectify
from theano.compile.builders import OpFromGraph

from gradmod import GuidedBackprop, GuidedGradient, modified, override_in

pytestmark = pytest.mark.usefixtures('little_c_code')
MODE = theano.Mode('c|py', 'fast_compile')
ROWS, WORDS, SERIES = (4, 5), (2, 4), (3, 4, 9)
IMAGES, VOLUMES = (2, 3, 8, 8), (2, 2, 6, 6, 6)


def guided_relu(z):
    """The recipe, by nothing but Theano's own class."""
    x = z.type()
    op = OpFromGraph(
        [x], [T.nnet.relu(x)], inline=True, grad_overrides=lambda xs, gs: [
            gs[0] * T.cast((xs[0] > 0) & (gs[0] > 0), gs[0].dtype)])
    return op(z)


# Networks: the layer, the shape of its input, how it is built upon a layer
# with the rectifier f. Those of master alone are left out elsewhere.

def plainly(name, *args, **kwargs):
    return name, lambda net, f: getattr(L, name)(net, *args, nonlinearity=f,
                                                 **kwargs)


def above(name, *args, **kwargs):
    """Upon a layer with a rectifier, whose features are the second axis."""
    def build(net, f):
        net = L.NINLayer(net, 4, nonlinearity=f)
        return getattr(L, name)(net, *args, **kwargs)
    return name, build


def merging(name, **kwargs):
    def build(net, f):
        return getattr(L, name)([L.NINLayer(net, 4, nonlinearity=f),
                                 L.NINLayer(net, 4, nonlinearity=f)], **kwargs)
    return name, build


def gates(f, *names):
    return dict((name, L.Gate(nonlinearity=f, W_cell=None if name in (
        'cell', 'hidden_update') else lasagne.init.Normal(.1)))
        for name in names)


def custom_recurrent(net, f):
    inside = L.DenseLayer(L.InputLayer((None, 9)), 6, nonlinearity=f)
    hidden = L.DenseLayer(L.InputLayer((None, 6)), 6, nonlinearity=f)
    return L.CustomRecurrentLayer(net, inside, hidden, nonlinearity=f)


def transformer(net, f):
    where = L.DenseLayer(L.DenseLayer(net, 9, nonlinearity=f), 6,
                         nonlinearity=None)
    where.b.set_value(np.eye(2, 3).ravel().astype(where.b.dtype))
    return L.TransformerLayer(L.NINLayer(net, 4, nonlinearity=f), where)


NETWORKS = [
    (ROWS, *plainly('DenseLayer', 6)),
    (IMAGES, *plainly('NINLayer', 4)),
    (SERIES, *plainly('Conv1DLayer', 5, 3)),
    (IMAGES, *plainly('Conv2DLayer', 5, 3, stride=2)),
    (IMAGES, *plainly('Conv2DLayer', 5, 3, untie_biases=True)),
    (VOLUMES, *plainly('Conv3DLayer', 3, 3)),
    (IMAGES, *plainly('TransposedConv2DLayer', 4, 3, stride=2)),
    (VOLUMES, *plainly('TransposedConv3DLayer', 3, 3)),
    (IMAGES, *plainly('DilatedConv2DLayer', 4, 3, dilation=2)),
    (IMAGES, *plainly('LocallyConnected2DLayer', 4, 3)),
    (IMAGES, *plainly('NonlinearityLayer')),
    (IMAGES, 'ExpressionLayer', lambda net, f: L.ExpressionLayer(net, f)),
    (SERIES, *plainly('RecurrentLayer', 6)),
    (SERIES, *plainly('RecurrentLayer', 6, backwards=True, unroll_scan=True)),
    (SERIES, *plainly('RecurrentLayer', 6, gradient_steps=2)),
    (SERIES, 'CustomRecurrentLayer', custom_recurrent),
    (SERIES, 'LSTMLayer', lambda net, f: L.LSTMLayer(
        net, 6, nonlinearity=f, **gates(f, 'ingate', 'cell', 'outgate'))),
    (SERIES, 'GRULayer', lambda net, f: L.GRULayer(
        net, 6, **gates(f, 'hidden_update'))),
    *((IMAGES, name, lambda net, f, name=name: getattr(L, name)(
        L.NINLayer(net, 4, nonlinearity=f)))
      for name in ('batch_norm', 'layer_norm', 'instance_norm')),
    *((shape, *above(name, 2)) for name, shape in [
        ('MaxPool1DLayer', SERIES), ('MaxPool3DLayer', VOLUMES),
        ('Upscale1DLayer', SERIES), ('Upscale2DLayer', IMAGES),
        ('Upscale3DLayer', VOLUMES), ('FeaturePoolLayer', IMAGES),
        ('FeatureWTALayer', IMAGES)]),
    *((shape, *above(name, 2, mode='average_exc_pad')) for name, shape in [
        ('Pool1DLayer', SERIES), ('Pool2DLayer', IMAGES),
        ('Pool3DLayer', VOLUMES)]),
    *((IMAGES, *above(name)) for name in [
        'GlobalPoolLayer', 'DropoutLayer', 'GaussianNoiseLayer',
        'BatchNormLayer', 'StandardizationLayer', 'BiasLayer', 'ScaleLayer',
        'FlattenLayer', 'ParametricRectifierLayer']),
    (IMAGES, *above('MaxPool2DLayer', 3, stride=2)),
    (IMAGES, *above('SpatialPyramidPoolingLayer', [2, 1])),
    (IMAGES, *above('LocalResponseNormalization2DLayer', n=3)),
    (IMAGES, *above('ReshapeLayer', ([0], -1))),
    (IMAGES, *above('DimshuffleLayer', (0, 2, 3, 1))),
    (IMAGES, *above('PadLayer', 1)),
    (IMAGES, *above('SliceLayer', slice(1, 4), axis=2)),
    (IMAGES, *merging('ConcatLayer')),
    (IMAGES, *merging('ElemwiseSumLayer', coeffs=[1, -2])),
    (IMAGES, *merging('ElemwiseMergeLayer', merge_function=T.maximum)),
    (IMAGES, 'TransformerLayer', transformer),
    (WORDS, 'EmbeddingLayer', lambda net, f: L.DenseLayer(
        L.EmbeddingLayer(net, 9, 5), 8, nonlinearity=f))]


def network(shape, build, f):
    """The layer under a small classifier."""
    x = T.TensorType('int32' if shape is WORDS else theano.config.floatX,
                     [False] * len(shape))('x')
    net = build(L.InputLayer(shape, x), f)
    net = L.DenseLayer(L.FlattenLayer(net), 7, nonlinearity=f)
    return x, L.DenseLayer(net, 3, nonlinearity=None)


def copies(shape, build):
    """The plain network and one with the recipe in it, of equal parameters.

    Each as (input, output layer).
    """
    nets = [network(shape, build, f) for f in (rectify, guided_relu)]
    rng = np.random.RandomState(3)
    values = [v + .2 * rng.randn(*v.shape).astype(v.dtype)
              for v in L.get_all_param_values(nets[0][1])]
    for _, net in nets:
        L.set_all_param_values(net, values)
    return nets


def output(net):
    return L.get_output(net, deterministic=True)


def values(shape, *cases):
    """Of each (input, network, its output): the output and the gradients.

    With respect to the input, unless it is of words, and all parameters.
    """
    signs = np.random.RandomState(4).randn(*L.get_output_shape(cases[0][1]))
    X = np.random.RandomState(5).randn(*shape)
    X = np.abs(9 * X) % 9 if shape is WORDS else X
    results = []
    for x, net, out in cases:
        wrt = [x] * (shape is not WORDS) + L.get_all_params(
            net, trainable=True)
        f = theano.function([x], [out] + theano.grad((out * signs).sum(), wrt),
                            mode=MODE)
        results.append(f(X.astype(x.dtype)))
    return results


def snapshot(net):
    """What all layers hold, by identity."""
    return [(layer, [(name, id(value)) for name, value in vars(layer).items()])
            for layer in L.get_all_layers(net)]


def assert_close(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def differ(a, b):
    return any(abs(x - y).max() > 1e-3 * abs(y).max() for x, y in zip(a, b))


@pytest.mark.parametrize('shape, build', [
    pytest.param(shape, build, id=name) for shape, name, build in NETWORKS
    if hasattr(L, name)])
def test_layer(shape, build):
    (x, plain), (x2, made) = copies(shape, build)
    before = snapshot(plain)
    with modified(plain, GuidedBackprop) as report:
        swapped = output(plain)
    assert snapshot(plain) == before
    assert len(report) >= 2
    found, places = override_in(output(plain), GuidedBackprop)
    assert len(places) >= 2
    true, *guided, expected = values(
        shape, (x, plain, output(plain)), (x, plain, swapped),
        (x, plain, found), (x2, made, output(made)))
    for got in guided:
        assert_close(got, expected)
    assert_close(true[:1], expected[:1])
    assert differ(true[1:2], expected[1:2])


# Lasagne 0.1 has neither of these.
if hasattr(L, 'InverseLayer'):
    def test_inverse_layer():
        """It takes a gradient in its forward pass, which a rule changes."""
        def build(net, f):
            hidden = L.DenseLayer(net, 6, nonlinearity=f)
            return L.InverseLayer(L.DenseLayer(hidden, 6, nonlinearity=None),
                                  hidden)
        (x, plain), (x2, made) = copies(ROWS, build)
        with modified(plain, GuidedBackprop):
            swapped = output(plain)
        true, got, expected = values(
            ROWS, (x, plain, output(plain)), (x, plain, swapped),
            (x2, made, output(made)))
        assert_close(got, expected)
        assert differ(true[:1], got[:1])
        with pytest.raises(ValueError, match='gradient'):
            override_in(output(plain), GuidedBackprop)

    def test_parametric_rectifier():
        """No rectifier, unless the rule is around it."""
        x = T.matrix('x')
        net = L.prelu(L.DenseLayer(L.InputLayer((4, 5), x), 6))
        out = output(net)
        with pytest.raises(ValueError, match='found none'):
            override_in(out, GuidedBackprop)
        guided, report = override_in(out, GuidedGradient(net.get_output_for))
        assert len(report) == 1
        signs = np.random.RandomState(4).randn(4, 6)
        z = report[0].input
        f = theano.function([x], [z] + theano.grad(
            (guided * signs).sum(), [z, net.alpha]), mode=MODE)
        z, dz, dalpha = f(np.random.RandomState(5).randn(4, 5).astype(x.dtype))
        slope = net.alpha.get_value()
        np.testing.assert_allclose(
            dz, np.where(signs > 0, signs * np.where(z > 0, 1, slope), 0))
        np.testing.assert_allclose(dalpha,
                                   (signs * np.minimum(z, 0)).sum(axis=0))


# Training

def trained(x, net, update):
    """The parameters after three steps; those of the network stay."""
    params = L.get_all_params(net, trainable=True)
    values = L.get_all_param_values(net)
    target = np.random.RandomState(4).randn(4, 3)
    loss = ((L.get_output(net) - target) ** 2).mean()
    step = theano.function([x], loss, updates=update(loss, params), mode=MODE)
    for seed in range(3):
        step(np.random.RandomState(seed).randn(4, 5).astype(x.dtype))
    after = L.get_all_param_values(net)
    L.set_all_param_values(net, values)
    return after


@pytest.mark.parametrize('name', [
    name for name in ('sgd', 'momentum', 'nesterov_momentum', 'adagrad',
                      'rmsprop', 'adadelta', 'adam', 'adamax', 'amsgrad')
    if hasattr(lasagne.updates, name)])
def test_training(name):
    def update(loss, params):
        return getattr(lasagne.updates, name)(loss, params, learning_rate=.1)
    (x, plain), (x2, made) = copies(
        ROWS, lambda net, f: L.DenseLayer(net, 6, nonlinearity=f))
    before = trained(x, plain, update)
    with modified(plain, GuidedBackprop):
        under = trained(x, plain, update)
    override_in(output(plain), GuidedBackprop)
    after = trained(x, plain, update)
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a, b)
    assert_close(under, trained(x2, made, update))
    assert differ(under, before)
