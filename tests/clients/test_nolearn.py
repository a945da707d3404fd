"""nolearn, which trains Lasagne's networks. See the README here."""
import pickle

import gradmod  # before Theano and Lasagne

import lasagne
import numpy as np
import pytest
import sklearn.base
import theano
from lasagne.layers import (Conv2DLayer, DenseLayer, InputLayer,
                            MaxPool2DLayer)
from lasagne.nonlinearities import rectify, softmax
from nolearn.lasagne import BatchIterator, NeuralNet, TrainSplit
from sklearn.datasets import load_digits

from gradmod import DeconvNet, GuidedBackprop, modified

from .. import reference

CLASSES = 10
RULES = [(GuidedBackprop, reference.guided), (DeconvNet, reference.deconv)]


def digits():
    bunch = load_digits()
    images = bunch.images[:, None].astype(theano.config.floatX)
    return images / 16, bunch.target.astype('int32')


def neural_net(hidden, **kwargs):
    layers = [(InputLayer, dict(name='input', shape=(None, 1, 8, 8))), *hidden,
              (DenseLayer, dict(name='output', num_units=CLASSES,
                                nonlinearity=softmax))]
    return NeuralNet(layers, update=lasagne.updates.sgd, **kwargs)


def dense(relu=rectify):
    return [(DenseLayer, dict(name=name, num_units=30, nonlinearity=relu))
            for name in ('first', 'second')]


@pytest.fixture(scope='module')
def net():
    lasagne.random.set_rng(np.random.RandomState(0))
    x, y = digits()
    net = neural_net(dense(), update_learning_rate=.3, max_epochs=20)
    net.fit(x[:1500], y[:1500])
    assert net.score(x[1500:], y[1500:]) > .85
    return net


def weights(net):
    """The pairs (W, b) of all dense layers."""
    values = lasagne.layers.get_all_param_values(net.layers_[-1])
    return list(zip(values[::2], values[1::2]))


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * abs(b).max())


@pytest.mark.parametrize('rule, numbers', RULES + [(None, reference.plain)])
def test_maps(net, rule, numbers):
    x = digits()[0][1500:1520]
    before = net.predict_proba(x)
    maps = gradmod.compile_saliency_function(net.layers_[-1], rule)(x)
    g = np.eye(CLASSES)[before.argmax(axis=1)]
    assert_close(maps, reference.mlp_backward(x, weights(net), g, numbers))
    np.testing.assert_array_equal(net.predict_proba(x), before)


@pytest.mark.parametrize('rule, numbers', RULES)
def test_its_own_saliency_maps(net, rule, numbers):
    from nolearn.lasagne import visualize  # which imports matplotlib
    x = digits()[0][1500:1501]
    plain = visualize.saliency_map_net(net, x)
    with modified(net.layers_, rule) as report:
        guided = visualize.saliency_map_net(net, x)
    assert [place.name for place in report] == ['first', 'second']
    p = net.predict_proba(x)
    g = np.eye(CLASSES)[p.argmax(axis=1)] - p  # of log p, at the logits
    for map, numbers in (guided, numbers), (plain, reference.plain):
        restated = reference.mlp_backward(x, weights(net), g, numbers)
        assert_close(map, abs(restated)[0, 0])
    np.testing.assert_array_equal(visualize.saliency_map_net(net, x), plain)


def test_training_uses_the_rule():
    x, y = digits()
    x, y = x[:100], y[:100]
    net = neural_net(
        dense(GuidedBackprop(rectify)), update_learning_rate=1, max_epochs=1,
        train_split=TrainSplit(0), batch_iterator_train=BatchIterator(len(x)))
    net.initialize()
    before = weights(net)
    net.fit(x, y)
    zs, logits = reference.mlp_forward(x, before)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    g = (p - np.eye(CLASSES)[y]) / len(x)
    for z, (W, _) in zip(zs[::-1], before[:0:-1]):
        g = reference.elementwise(reference.guided, z, g.dot(W.T))
    step = x.reshape(len(x), -1).T.dot(g)
    assert abs(step).max() > .01
    assert_close(before[0][0] - weights(net)[0][0], step)


def test_a_convolutional_net():
    """The map of a trained net equals that of one made with the rule."""
    x, y = digits()

    def convolutional(relu):
        return neural_net([
            (Conv2DLayer, dict(name='conv', num_filters=8, filter_size=3,
                               nonlinearity=relu)),
            (MaxPool2DLayer, dict(name='pool', pool_size=2)),
            *dense(relu)], update_learning_rate=.1, max_epochs=2)

    net = convolutional(rectify).fit(x[:500], y[:500])
    made = convolutional(GuidedBackprop(rectify))
    made.initialize()
    made.load_params_from(net)
    maps, expected, plain = [
        gradmod.compile_saliency_function(n.layers_[-1], rule)(x[:20])
        for n, rule in [(net, GuidedBackprop), (made, None), (net, None)]]
    assert_close(maps, expected)
    assert abs(maps - plain).max() > .1 * abs(plain).max()


def test_cloned_and_pickled(net):
    """As grid searches and joblib do it, with a rule in the net."""
    x, y = digits()
    made = neural_net(dense(GuidedBackprop(rectify)), max_epochs=1,
                      update_learning_rate=.1)
    sklearn.base.clone(made).fit(x[:200], y[:200])
    made.initialize()
    made.load_params_from(net)
    for n in made, pickle.loads(pickle.dumps(made)):
        maps = gradmod.compile_saliency_function(n.layers_[-1])(x[:5])
        expected = gradmod.compile_saliency_function(
            net.layers_[-1], GuidedBackprop)(x[:5])
        assert_close(maps, expected)
