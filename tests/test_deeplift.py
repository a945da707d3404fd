import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer
from theano.tensor.signal.pool import pool_2d

from gradmod import GuidedBackprop, modified, saliency_map
from gradmod.deeplift import deeplift
from gradmod.graphs import nodes_above

from . import reference
from .models import (CLASSES, LABELS, X, close, compiled, mlp, rng,
                     saliency_input, value)

pytestmark = pytest.mark.usefixtures('no_compiler')
BASELINES = rng.randn(3, 4)


def restated(weights, images, classes, baseline):
    return np.array([reference.deeplift_contributions(x, baseline, weights, c)
                     for x, c in zip(images, classes)])


def explained(y, x, images, target=1, **options):
    """Maps of an expression, and their errors."""
    maps, _, _, _, error = compiled(y, None, target, 'deeplift', x,
                                    **options).explain(images)
    return maps, error


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_rescale(dtype):
    net, weights = mlp(dtype)
    images = X.astype(dtype)
    images[0] = BASELINES[0]  # nothing to explain: the derivative, times zero
    every = np.array([[restated(weights, images, [c] * 5, b)
                       for c in range(CLASSES)] for b in BASELINES])
    f = compiled(net, method='deeplift', baseline=BASELINES[0])
    maps, scores, _, _, error = f.explain(images, LABELS, batch_size=2)
    close(maps, every[0][LABELS, range(5)], dtype)
    assert not maps[0].any() and (abs(error) < 1e-5 * abs(scores).max()).all()
    # several baselines: the mean; all classes
    f = compiled(net, None, 'all', 'deeplift', baseline=BASELINES)
    maps, scores, _, _, error = f.explain(images, batch_size=2)
    close(maps, every.mean(axis=0).swapaxes(0, 1), dtype)
    assert (abs(error) < 1e-5 * abs(scores).max()).all()
    # a variable may be another one for each image
    x = saliency_input(net)
    mirrored = saliency_map(net, target=1, method=deeplift, baseline=-x)
    close(value(mirrored, {x: images}), np.array([
        reference.deeplift_contributions(v, -v, weights, 1)
        for v in images.astype('float64')]), dtype)


@pytest.mark.parametrize('f', [
    T.tanh, T.nnet.elu, T.nnet.softplus, lambda z: z * T.nnet.sigmoid(z),
    lambda z: T.nnet.relu(z, .2), lambda z: T.maximum(z, .1 * z),
    lambda z: T.clip(z, 0, 1), lambda z: z * (z > 0), lambda z: z ** 3 / 2,
    lambda z: z + T.nnet.relu(-z), lambda z: z * z, lambda z: 1 / (z + 9)])
def test_nonlinearities_of_any_form(f):
    net = DenseLayer(InputLayer((None, 4), T.dmatrix('x')), 5, nonlinearity=f)
    W, images, b = net.W.get_value(), X[:4], X[4]
    net = DenseLayer(net, 2, nonlinearity=lambda z: f(z) - f(z[:, ::-1]))
    V = net.W.get_value()
    maps, scores, _, _, error = compiled(
        net, method='deeplift', target=1, baseline=b).explain(images)

    def numbers(z):
        v = T.dmatrix()
        return value(f(v), {v: z})

    def ratio(z, z0):
        return (numbers(z) - numbers(z0)) / (z - z0)
    z, z0 = images.dot(W), b.dot(W)[np.newaxis]
    m = ratio(numbers(z).dot(V), numbers(z0).dot(V)) * [-1, 1]
    want = (m.dot(V.T) * ratio(z, z0)).dot(W.T) * (images - b)
    np.testing.assert_allclose(maps, want, rtol=1e-9)
    np.testing.assert_allclose(error, 0, atol=1e-12 * abs(scores).max())


def test_a_maximum():
    # it rises where x has its maximum, and falls where the baseline has it
    for factor, baseline, images, want in [
            (3, [2., 1, 0, 0], [[1., 4, 0, 0], [1, 1.5, 0, 0], [0, 5, 5, 5]],
             [[0, 6, 0, 0], [-1.5, 0, 0, 0], [0, 3, 3, 3]]),
            (1, [7., 7, 0, 0], [[1., 4, 3, 0]], [[-1.5, -1.5, 0, 0]])]:
        x = T.dmatrix('x')
        maps, _ = explained(x.max(axis=1), x, images, lambda z: factor * z,
                            baseline=baseline)
        np.testing.assert_allclose(maps, want)


def test_maximal_pooling_alone_has_a_rule():
    x = T.dtensor4('x')
    for mode in 'max', 'average_inc_pad':
        z = pool_2d(x, (2, 2), ignore_border=True, mode=mode).sum(axis=(2, 3))
        ops = {str(node.op) for node in nodes_above([
            saliency_map(z, target=0, method='deeplift', input_var=x)])}
        assert (mode == 'max') == any('RescaleMaximum' in op for op in ops)


@pytest.mark.slow
def test_max_pooling_is_complete():
    x = T.dtensor4('x')
    K = rng.randn(2, 2, 2)
    z = (pool_2d(x, (2, 2), ignore_border=True) * K).sum(axis=(2, 3))
    images = rng.randint(0, 3, (4, 2, 4, 4)).astype('float64')  # with ties
    b = rng.randint(0, 3, (2, 4, 4)).astype('float64')
    maps, error = explained(z, x, images, baseline=b, mode='FAST_RUN')
    np.testing.assert_allclose(error, 0, atol=1e-12)
    assert not maps[:, 0].any()

    def windows(images):  # each has what its maximum changes by
        return images.reshape(-1, 2, 2, 2, 2, 2)
    change = windows(images).max(axis=(3, 5)) - windows(b).max(axis=(3, 5))
    np.testing.assert_allclose(
        windows(maps).sum(axis=(3, 5))[:, 1], (change * K)[:, 1])


@pytest.mark.parametrize('target', [
    lambda z: T.tanh(z[:, 1]), lambda z: z.max(axis=1) - z[:, 0] ** 3])
def test_a_function_of_the_logits_is_covered(net, target):
    details = compiled(net, method='deeplift', target=target,
                       baseline=BASELINES).explain(X)
    np.testing.assert_allclose(details.completeness_error, 0, atol=1e-12)
    assert abs(details.maps).max() > .01


def test_what_is_broadcast_has_rules_too():
    x = T.TensorType('float64', (False, True))('x')
    maps, _ = explained(abs(x - np.arange(3.)), x, [[1.], [5]], 2)
    np.testing.assert_allclose(maps, [[-1.], [1]])


def test_the_derivative_where_hardly_anything_changes():
    x = T.dmatrix('x')
    maps, _ = explained(T.tanh(x), x, X[:1] + 2e-8, baseline=X[0])
    np.testing.assert_allclose(maps[0, 1] / (X[0, 1] + 2e-8 - X[0, 1]),
                               1 - np.tanh(X[0, 1] + 2e-8) ** 2, rtol=1e-12)
    # up to the tolerance
    maps, _ = explained(x ** 2, x, [[1e-6, 1.001e-6]], 'all')
    np.testing.assert_allclose(maps[0].diagonal(), [2e-12, 1.001e-6 ** 2])


def test_integers_and_flags_have_derivatives_of_zero():
    x = T.dmatrix('x')
    rows = x.shape[0] // 1
    y = T.nnet.relu(x).reshape((rows, 4)) + (x > 9).sum(axis=1, keepdims=True)
    maps, error = explained(y, x, X)
    np.testing.assert_array_equal(maps, reference.relu(X) * np.eye(4)[1])
    np.testing.assert_array_equal(error, 0)


def test_what_it_does_not_cover_is_in_the_error():
    x = T.dmatrix('x')
    _, error = explained((x * x[:, ::-1])[:, :3], x, X, None)
    assert abs(error).min() > .01


def test_what_is_refused(net):
    x = T.dmatrix('x')
    for network, rule, target, error, says in [
            (net, GuidedBackprop, None, ValueError, 'pass rule=None'),
            (theano.map(T.tanh, [x])[0], None, None, ValueError, 'a loop'),
            (x ** 2, None, lambda z: z.sum(), TypeError, 'for each sample')]:
        with pytest.raises(error, match=says):
            saliency_map(network, rule, target, 'deeplift',
                         None if network is net else x)
    with modified(net, GuidedBackprop):
        with pytest.raises(ValueError, match='or another rule, GuidedBackprop'):
            saliency_map(net, method='deeplift')


def test_with_respect_to_a_layer(net, weights):
    f = compiled(net, target=1, method='deeplift', wrt='first', baseline=.25)
    h = reference.relu(X.dot(weights[0][0]) + weights[0][1])
    want = restated(weights[1:], h, [1] * 5, np.full(6, .25))
    close(f(X), want, 'float64')
