import functools

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import ConcatLayer, DenseLayer, InputLayer
from lasagne.nonlinearities import softmax

import gradmod
from gradmod import GuidedBackprop, saliency_map

from .models import (CLASSES, IMAGES, LABELS, PY, RULES, X, Model, best, close,
                     compiled, convnet, restated, saliency_input)

pytestmark = pytest.mark.usefixtures('no_compiler')


def test_wrong_layers():
    x = T.dtensor4('x')
    with pytest.raises(ValueError, match='the output is not made from'):
        saliency_map(x.flatten(2), input_var=x, method='gradcam', layer=T.exp(x))
    network = convnet()
    for layer, says in [('convolutoin', "perhaps you meant 'convolution'"),
                        (T.dtensor4(), "there are 'convolution'"),
                        (InputLayer((1, 2)), 'there are')]:
        with pytest.raises(ValueError, match='^0 layers .* not 1: ' + says):
            saliency_map(network, method='gradcam', layer=layer)
    twice = InputLayer((None, 3))
    twice = DenseLayer(DenseLayer(twice, 4, name='a'), 5, name='a')
    with pytest.raises(ValueError, match="^2 layers of the network are 'a'"):
        saliency_map(twice, method='gradcam', layer='a')


def test_ties_go_to_one_class():
    x = T.dmatrix('x')
    z = x.dot(np.array([[1., 1, 0], [2, 3, 0]]))  # equal where x is (1, 0)
    maps = saliency_map(z, input_var=x).eval({x: np.array([[1., 0]])})
    np.testing.assert_array_equal(maps, [[1, 2]])
    both = theano.grad(z.max(axis=1).sum(), x).eval({x: np.array([[1., 0]])})
    np.testing.assert_array_equal(both, [[2, 5]])


@pytest.mark.parametrize('target, classes', [
    (1, [1] * 5), (np.int8(1), [1] * 5), (LABELS, LABELS),
    (list(LABELS), LABELS), (LABELS.astype('uint8'), LABELS),
    (T.constant(LABELS), LABELS), (T.constant(2), [2] * 5),
    (theano.shared(LABELS), LABELS)], ids=str)
def test_targets_of_expressions(net, weights, target, classes):
    output = lasagne.layers.get_output(net)
    x = net.input_layer.input_layer.input_layer.input_var
    want = restated('gradient', Model(weights), X, classes)
    f = theano.function([x], saliency_map(
        output, target=target, input_var=x), mode=PY)
    close(f(X), want, 'float64')
    f = theano.function([x], saliency_map(
        output, None, target, 'integrated_gradients', x, steps=2), mode=PY)
    close(f(X), restated('integrated_gradients', Model(weights), X, classes,
                         steps=2), 'float64')


@pytest.mark.parametrize('type', [
    T.lscalar, T.ivector, T.lvector, T.TensorType('uint8', (False,))], ids=str)
def test_symbolic_targets(net, weights, type):
    y = type('y')
    classes = LABELS if y.ndim else [1] * 5
    f = theano.function([saliency_input(net), y], saliency_map(net, target=y),
                        mode=PY)
    want = restated('gradient', Model(weights), X, classes)
    value = np.asarray(classes if y.ndim else 1, y.dtype)
    close(f(X, value), want, 'float64')
    for wrong in [CLASSES] + [-1] * (y.dtype != 'uint8'):
        with pytest.raises(AssertionError, match='expected target'):
            f(X, np.full_like(value, wrong))
    if y.ndim:
        with pytest.raises(AssertionError, match='expected target to be'):
            f(X, value[:1])  # would broadcast


@pytest.mark.parametrize('target, error', [
    ('given', TypeError), (1.5, TypeError), (True, TypeError),
    (np.zeros((2, 2), int), TypeError), (T.vector(), TypeError),
    (T.lmatrix(), TypeError), (T.lvector() > 0, TypeError), (-1, ValueError),
    ([0, -2], ValueError), (lambda z: z, TypeError), (lambda z: 1, TypeError),
    (lambda z: z.argmax(axis=1), TypeError)])
def test_wrong_targets(net, target, error):
    with pytest.raises(error, match='expected .*target'):
        saliency_map(net, target=target)


def test_a_class_that_does_not_exist(net):
    x = saliency_input(net)
    for target in 3, [0, 1, 3, 0, 1], [0, 1]:
        f = theano.function([x], saliency_map(net, target=target), mode=PY)
        with pytest.raises(AssertionError, match='expected target to be'):
            f(X)
    with pytest.raises(ValueError, match='a class from 0 to 2, got 3'):
        compiled(net, target=3)
    f = compiled(lasagne.layers.get_output(net), input_var=x)
    with pytest.raises(ValueError, match='got -1'):
        f(X, -1)
    with pytest.raises(AssertionError, match='expected target to be'):
        f(X, 3)


def test_outputs_of_other_shapes():
    x = T.dtensor4('x')
    with pytest.raises(TypeError, match='or a function for the target'):
        saliency_map(2 * x, input_var=x)

    def score(z):
        return z[:, 0].sum(axis=(1, 2))
    f = theano.function([x], saliency_map(
        2 * x, target=score, input_var=x), mode=PY)
    got = f(IMAGES)
    np.testing.assert_array_equal(got[:, 0], 2)
    np.testing.assert_array_equal(got[:, 1], 0)
    f = compiled(convnet().input_layer.input_layer, None, score)
    assert f(IMAGES).shape == IMAGES.shape and f.classes is None


def test_expressions(net, weights):
    output = lasagne.layers.get_output(net)
    x = saliency_input(net)
    for rule in RULES:
        want = restated('gradient', Model(weights, rule), X,
                        best(Model(weights), X))
        f = compiled(output, rule, input_var=x)
        assert f.shape == (None, None) and f.classes is None
        close(f(X), want, 'float64')
        f = theano.function([x], saliency_map(output, rule, input_var=x), mode=PY)
        close(f(X), want, 'float64')
    with gradmod.network.modified(net, GuidedBackprop):
        output = lasagne.layers.get_output(net)
    close(compiled(output, input_var=x)(X), want, 'float64')


def test_several_inputs():
    a, b = InputLayer((None, 4), T.dmatrix('a')), InputLayer((None, 2),
                                                             T.dmatrix('b'))
    net = DenseLayer(ConcatLayer([a, b]), 3, nonlinearity=None)
    with pytest.raises(ValueError, match=r'one of \[a, b\], got NoneType'):
        saliency_map(net)
    with pytest.raises(ValueError, match=r'one of \[a, b\], got a variable'):
        saliency_map(net, input_var=T.dmatrix('c'))
    f = theano.function([a.input_var, b.input_var],
                        saliency_map(net, target=1, input_var=b.input_var),
                        mode=PY)
    W = net.W.get_value()
    np.testing.assert_allclose(f(X, X[:, :2]), [W[4:, 1]] * 5)
    with pytest.raises(ValueError, match=r'depends on \[a\], too.*givens=\{a: '):
        compiled(net, input_var=b.input_var)
    f = compiled(net, input_var=b.input_var, givens={a.input_var: X})
    np.testing.assert_allclose(f(X[:, :2], 1), [W[4:, 1]] * 5)


def test_wrong_networks(net):
    x, y = T.dmatrix('x'), T.dmatrix('y')
    for network, input_var in [([net], None), (x, None), (x, T.dvector()),
                               (1. * T.lmatrix(), T.lmatrix()), (x > 0, x)]:
        with pytest.raises(TypeError, match='^expected '):
            saliency_map(network, input_var=input_var)
    with pytest.raises(ValueError, match='the output is not made from x'):
        saliency_map(2 * y, input_var=x)
    with pytest.raises(TypeError):
        compiled(net, 3)
    assert net.nonlinearity is softmax


def test_an_input_layer_of_an_expression():
    x = T.dmatrix('x')
    network = DenseLayer(InputLayer((None, 4), x * 2 - 1), 3, nonlinearity=None)
    W = network.W.get_value()
    for input_var in None, network.input_layer.input_var, x:
        f = compiled(network, input_var=input_var)
        z = (2 * X - 1).dot(W)
        np.testing.assert_allclose(f(X), 2 * W.T[z.argmax(axis=1)])
        assert f.shape == (None, None)
    for wrong in T.bmatrix('raw') / np.float32(2), x + T.dmatrix('y'):
        network = DenseLayer(InputLayer((None, 4), wrong), 3)
        with pytest.raises(ValueError, match='the input layer has an expression'):
            compiled(network)


def test_an_input_layer_of_an_expression_of_two_variables():
    x, y = T.dmatrices('xy')
    network = DenseLayer(InputLayer((None, 4), x * y), 3, nonlinearity=None)
    f = theano.function([x, y], saliency_map(network, target=1, input_var=x),
                        mode=PY)
    np.testing.assert_allclose(f(X, X), X * network.W.get_value()[:, 1])
    with pytest.raises(ValueError, match=r'one of \[.*mul.*, x, y\], got a var'):
        saliency_map(network, input_var=T.dmatrix('z'))


@pytest.mark.parametrize('rule', [
    {'first': GuidedBackprop}, {'first': lambda f: GuidedBackprop(f)}])
def test_a_rule_for_a_layer_by_its_name(net, weights, rule):
    x = saliency_input(net)
    with gradmod.modified(net, rule):
        output = lasagne.layers.get_output(net, deterministic=True)
    want = compiled(output, input_var=x)(X)
    np.testing.assert_allclose(compiled(net, rule)(X), want, rtol=1e-12)
    for every in None, GuidedBackprop:
        assert abs(compiled(net, every)(X) - want).max() > 1e-3


class Own(lasagne.layers.Layer):
    """A rectifier within."""

    def get_output_for(self, z, **kwargs):
        return T.maximum(z, 0)


@pytest.mark.parametrize('hidden', [
    lambda v: lasagne.layers.NonlinearityLayer(v, lambda z: T.maximum(z, 0)),
    lambda v: lasagne.layers.NonlinearityLayer(
        v, functools.partial(T.nnet.relu, alpha=0)),
    lambda v: lasagne.layers.NonlinearityLayer(
        v, lasagne.nonlinearities.LeakyRectify(0)),
    Own])
def test_a_rectifier_in_any_form(hidden):
    network = InputLayer((None, 4), T.dmatrix('x'))
    network = DenseLayer(network, 6, b=lasagne.init.Normal(.5))
    network = hidden(DenseLayer(network, 7, b=lasagne.init.Normal(.5),
                                nonlinearity=None))
    network = DenseLayer(network, CLASSES, nonlinearity=softmax)
    values = lasagne.layers.get_all_param_values(network)
    model = Model(list(zip(values[::2], values[1::2])), GuidedBackprop)
    want = restated('gradient', model, X, LABELS)
    close(compiled(network, GuidedBackprop)(X, LABELS), want, 'float64')


def test_classes_that_int64_does_not_hold():
    x = T.dmatrix('x')
    f = compiled(x * 2, input_var=x)
    labels = np.uint64([1, 2, 0]) - np.uint64(1)  # the last one wraps around
    for target in labels, 2**64 - 1, np.uint64(2**63):
        with pytest.raises(ValueError, match='target to be a class from 0'):
            f(X[:3], target)


def test_dropout_does_not_take_part(net, plain):
    dropped = lasagne.layers.DropoutLayer(net, .9)
    np.testing.assert_array_equal(compiled(dropped)(X), plain(X))
