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
ROWS, SERIES, IMAGES, VOLUMES = (4, 5), (3, 4, 9), (2, 3, 8, 8), (2, 2, 6, 6, 6)


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
    (IMAGES, 'batch_norm', lambda net, f: L.batch_norm(
        L.NINLayer(net, 4, nonlinearity=f))),
    (IMAGES, 'layer_norm', lambda net, f: L.layer_norm(
        L.NINLayer(net, 4, nonlinearity=f))),
    (IMAGES, 'instance_norm', lambda net, f: L.instance_norm(
        L.NINLayer(net, 4, nonlinearity=f))),
    (SERIES, *above('MaxPool1DLayer', 2)),
    (IMAGES, *above('MaxPool2DLayer', 3, stride=2)),
    (VOLUMES, *above('MaxPool3DLayer', 2)),
    (SERIES, *above('Pool1DLayer', 2, mode='average_exc_pad')),
    (IMAGES, *above('Pool2DLayer', 2, mode='average_exc_pad')),
    (VOLUMES, *above('Pool3DLayer', 2, mode='average_exc_pad')),
    (IMAGES, *above('SpatialPyramidPoolingLayer', [2, 1])),
    (IMAGES, *above('FeaturePoolLayer', 2)),
    (IMAGES, *above('FeatureWTALayer', 2)),
    (IMAGES, *above('GlobalPoolLayer')),
    (SERIES, *above('Upscale1DLayer', 2)),
    (IMAGES, *above('Upscale2DLayer', 2)),
    (VOLUMES, *above('Upscale3DLayer', 2)),
    (IMAGES, *above('DropoutLayer')),
    (IMAGES, *above('GaussianNoiseLayer')),
    (IMAGES, *above('LocalResponseNormalization2DLayer', n=3)),
    (IMAGES, *above('BatchNormLayer')),
    (IMAGES, *above('StandardizationLayer')),
    (IMAGES, *above('BiasLayer')),
    (IMAGES, *above('ScaleLayer')),
    (IMAGES, *above('FlattenLayer')),
    (IMAGES, *above('ReshapeLayer', ([0], -1))),
    (IMAGES, *above('DimshuffleLayer', (0, 2, 3, 1))),
    (IMAGES, *above('PadLayer', 1)),
    (IMAGES, *above('SliceLayer', slice(1, 4), axis=2)),
    (IMAGES, *above('ParametricRectifierLayer')),
    (IMAGES, *merging('ConcatLayer')),
    (IMAGES, *merging('ElemwiseSumLayer', coeffs=[1, -2])),
    (IMAGES, *merging('ElemwiseMergeLayer', merge_function=T.maximum)),
    (IMAGES, 'TransformerLayer', transformer)]


def network(shape, build, f):
    """The layer under a small classifier."""
    x = T.TensorType(theano.config.floatX, [False] * len(shape))('x')
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


def gradients(out, x, net):
    """With respect to the input and all trainable parameters."""
    signs = np.random.RandomState(4).randn(*L.get_output_shape(net))
    return theano.grad((out * signs).sum(), [x] + L.get_all_params(
        net, trainable=True))


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
    X = np.random.RandomState(5).randn(*shape).astype(x.dtype)
    values = []
    for v, net, out in [(x, plain, output(plain)), (x, plain, swapped),
                        (x, plain, found), (x2, made, output(made))]:
        f = theano.function([v], [out] + gradients(out, v, net), mode=MODE)
        values.append(f(X))
    true, *guided, expected = values
    for got in guided:
        assert_close(got, expected)
    assert_close(true[:1], expected[:1])
    assert differ(true[1:2], expected[1:2])


def test_embedding():
    """Integers come in: the map is that of the vectors looked up."""
    nets = []
    for f in rectify, guided_relu:
        lasagne.random.set_rng(np.random.RandomState(0))
        x = T.imatrix('x')
        net = L.EmbeddingLayer(L.InputLayer((2, 4), x), 9, 5)
        nets.append((x, L.DenseLayer(L.DenseLayer(net, 7, nonlinearity=f), 3,
                                     nonlinearity=None)))
    (x, plain), (x2, made) = nets
    with modified(plain, GuidedBackprop):
        swapped = output(plain)
    found, _ = override_in(output(plain), GuidedBackprop)
    X = np.int32([[0, 1, 8, 1], [3, 3, 5, 0]])
    signs = np.float64([[1, -2, 3], [-1, 2, -3]])
    W = L.get_all_params(plain)[0]
    true, *guided, expected = [
        theano.function([v], theano.grad((out * signs).sum(), w), mode=MODE)(X)
        for v, w, out in [(x, W, output(plain)), (x, W, swapped),
                          (x, W, found),
                          (x2, L.get_all_params(made)[0], output(made))]]
    assert_close(guided, [expected] * 2)
    assert differ([true], [expected])


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
        X = np.random.RandomState(5).randn(*ROWS)
        true, got, expected = [
            theano.function([v], [out] + gradients(out, v, net), mode=MODE)(X)
            for v, net, out in [(x, plain, output(plain)), (x, plain, swapped),
                                (x2, made, output(made))]]
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
