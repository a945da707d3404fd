import pickle
import subprocess
import sys

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (ConcatLayer, Conv2DLayer, DenseLayer, InputLayer,
                            Layer, NonlinearityLayer)
from lasagne.nonlinearities import rectify, softmax
from theano.configparser import change_flags
from theano.ifelse import ifelse

import gradmod
from gradmod import GuidedBackprop, ZeroBackprop, saliency
from gradmod.saliency import compile_saliency_function, saliency_map

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
RULES = {None: reference.plain, GuidedBackprop: reference.guided}
CLASSES = 3
rng = np.random.RandomState(1)
X = rng.randn(5, 4)
P = rng.randn(4, CLASSES)
LABELS = np.array([2, 0, 1, 1, 2])


def mlp(dtype='float64', shape=(None, 4), nonlinearity=softmax):
    """A network, and its weights for the reference."""
    lasagne.random.set_rng(np.random.RandomState(17))
    with change_flags(floatX=dtype):
        net = InputLayer(shape, T.TensorType(dtype, (False,) * len(shape))('x'))
        net = DenseLayer(net, 6, b=lasagne.init.Normal(.5), name='first')
        net = DenseLayer(net, 7, b=lasagne.init.Normal(.5), name='second')
        net = DenseLayer(net, CLASSES, nonlinearity=nonlinearity)
    values = lasagne.layers.get_all_param_values(net)
    return net, list(zip(values[::2], values[1::2]))


def compiled(*args, **kwargs):
    kwargs.setdefault('mode', PY)
    return compile_saliency_function(*args, **kwargs)


@pytest.fixture(scope='module')
def net():
    return mlp()[0]


@pytest.fixture(scope='module')
def plain(net):
    return compiled(net)


@pytest.fixture(scope='module')
def weights(net):
    values = lasagne.layers.get_all_param_values(net)
    return list(zip(values[::2], values[1::2]))


# The methods restated: for one image at a time

class Model(object):
    """An MLP in numpy: one image in, one number out."""

    def __init__(self, weights, rule=None):
        self.weights, self.rule = weights, RULES[rule]

    def logits(self, x):
        return reference.mlp_forward(x[np.newaxis], self.weights)[1][0]

    def gradient(self, x, c):
        g = np.zeros((1, len(self.logits(x))))
        g[0, c] = 1
        return reference.mlp_backward(x[np.newaxis], self.weights, g,
                                      self.rule)[0]


def restated_gradient(model, x, c):
    return model.gradient(x, c)


def restated_gradient_x_input(model, x, c):
    return x * model.gradient(x, c)


def restated_smoothgrad(model, x, c, samples=50, sigma=.15, seed=0):
    noise = np.random.RandomState(seed).normal(size=(samples,) + x.shape)
    total = 0
    for k in range(samples):
        noisy = x + sigma * (x.max() - x.min()) * noise[k]
        total = total + model.gradient(noisy.astype(x.dtype), c)
    return total / samples


def restated_integrated_gradients(model, x, c, steps=50, baseline=0):
    total = 0
    for k in range(1, steps + 1):
        point = baseline + (k - .5) / steps * (x - baseline)
        total = total + model.gradient(point.astype(x.dtype), c)
    return (x - baseline) * total / steps


OPTIONS = {
    'gradient': {},
    'gradient_x_input': {},
    'smoothgrad': dict(samples=4, sigma=.3, seed=7),
    'integrated_gradients': dict(steps=5, baseline=np.array([1, 0, -1, 2])),
}


def restated(method, model, images, classes, **options):
    function = globals()['restated_' + method]
    return np.array([function(model, x, c, **options)
                     for x, c in zip(images, classes)])


def best(model, images):
    return [model.logits(x).argmax() for x in images]


def close(got, want, dtype):
    assert got.dtype == dtype and got.shape == want.shape
    scale = abs(want).max()
    assert scale > 1e-3
    tolerance = 1e-5 if dtype == 'float32' else 1e-12
    np.testing.assert_allclose(got / scale, want / scale, atol=tolerance)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('rule', RULES, ids=['plain', 'guided'])
@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_methods(method, rule, dtype):
    net, weights = mlp(dtype)
    model, options = Model(weights, rule), OPTIONS[method]
    images = X.astype(dtype)
    every = np.array([restated(method, model, images, [c] * 5, **options)
                      for c in range(CLASSES)])
    predicted = best(model, images)
    assert len(set(predicted)) > 1

    f = compiled(net, rule, method=method, **options)
    close(f(images), every[predicted, range(5)], dtype)
    close(f(images, 'max'), every[predicted, range(5)], dtype)
    close(f(images, 1), every[1], dtype)
    close(f(images, LABELS), every[LABELS, range(5)], dtype)
    close(f(images, LABELS.tolist(), batch_size=2), every[LABELS, range(5)],
          dtype)

    f = compiled(net, rule, 'all', method, **options)
    close(f(images, batch_size=2), every.swapaxes(0, 1), dtype)


@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_a_function_as_the_target(net, weights, method):
    f = compiled(net, None, lambda z: 2 * z[:, 1] - z[:, 2], method,
                 **OPTIONS[method])
    one, two = [restated(method, Model(weights), X, [c] * 5, **OPTIONS[method])
                for c in (1, 2)]
    close(f(X), 2 * one - two, 'float64')
    if method != 'integrated_gradients':  # which needs a score for each
        g = compiled(net, None, lambda z: (2 * z[:, 1] - z[:, 2]).sum(), method,
                     **OPTIONS[method])
        close(g(X, batch_size=2), 2 * one - two, 'float64')


@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_defaults_of_methods(net, weights, method):
    want = restated(method, Model(weights), X[:2], [1, 1])
    close(compiled(net, target=1, method=method)(X[:2]), want, 'float64')
    function = getattr(saliency, method)
    close(compiled(net, target=1, method=function)(X[:2]), want, 'float64')


def test_in_c():
    net, weights = mlp('float32')
    images = X.astype('float32')
    model = Model(weights, GuidedBackprop)
    for method in sorted(OPTIONS):
        want = restated(method, model, images, best(model, images),
                        **OPTIONS[method])
        f = compiled(net, GuidedBackprop, method=method, mode='FAST_RUN',
                     **OPTIONS[method])
        close(f(images), want, 'float32')


def test_smoothgrad_keeps_the_class_of_the_image_itself():
    # one class for each pixel: the map of class c is 1 at c and 0 elsewhere
    x = T.dmatrix('x')
    image = np.array([[1., 1.01, 0, .99]])
    f = compiled(x * np.ones(4), input_var=x, method='smoothgrad', sigma=2)
    np.testing.assert_allclose(f(image), [[0, 1, 0, 0]], atol=1e-15)


def test_smoothgrad_depends_on_nothing_but_the_image(net):
    f = compiled(net, method='smoothgrad', samples=3)
    maps = f(X)
    np.testing.assert_array_equal(f(X), maps)
    np.testing.assert_allclose(f(X[3:4])[0], maps[3], rtol=1e-12)
    np.testing.assert_allclose(f(X, batch_size=2), maps, rtol=1e-12)
    other = compiled(net, method='smoothgrad', samples=3, seed=1)(X)
    assert abs(other - maps).max() > 1e-4
    still = compiled(net, method='smoothgrad', sigma=0)(X)
    np.testing.assert_allclose(still, compiled(net)(X), rtol=1e-12)


def test_smoothgrad_of_a_function_of_the_logits_looks_at_every_point():
    x = T.dmatrix('x')
    f = compiled(x * np.ones(4), input_var=x, method='smoothgrad', sigma=2,
                 samples=40, target=lambda z: z.max(axis=1))
    got = f(np.array([[1., 1.01, 0, .99]]))
    assert (got > 0).all()
    np.testing.assert_allclose(got.sum(), 1)


def test_integrated_gradients_are_complete(net, weights):
    model = Model(weights)
    errors = {}
    for steps in 3, 300:
        f = compiled(net, method='integrated_gradients', steps=steps,
                     baseline=.5)
        assert f.completeness_error is None
        maps = f(X, LABELS, batch_size=2)
        want = [model.logits(x)[c] - model.logits(np.full(4, .5))[c] - m.sum()
                for x, c, m in zip(X, LABELS, maps)]
        np.testing.assert_allclose(f.completeness_error, want, atol=1e-12)
        errors[steps] = abs(f.completeness_error).max()
    assert errors[3] > 10 * errors[300] and errors[300] < .01

    f = compiled(net, method='integrated_gradients', target='all')
    f(X, batch_size=3)
    assert f.completeness_error.shape == (5, CLASSES)
    assert abs(f.completeness_error).max() < .1
    f = compiled(net, GuidedBackprop, method='integrated_gradients')
    f(X)
    assert abs(f.completeness_error).max() > .1


@pytest.mark.parametrize('options, error, says', [
    (dict(method='smoothgrad', samples=0), ValueError,
     r'smoothgrad: expected samples to be an int from 1 up, got int \(0\)'),
    (dict(method='smoothgrad', samples=2.), ValueError, 'got float'),
    (dict(method='smoothgrad', sigma=-1), ValueError,
     'expected sigma to be a finite number from 0 up, got int'),
    (dict(method='integrated_gradients', steps=0), ValueError,
     'integrated_gradients: expected steps'),
    (dict(method='integrated_gradients', baseline=np.zeros((1, 1, 4))),
     TypeError, 'a baseline of at most 2 dimensions'),
    (dict(method='integrated_gradients', baseline=T.tensor3()),
     TypeError, 'a baseline of at most 2 dimensions'),
    (dict(method='integrated_gradients', target=lambda z: z[:, 0].sum()),
     TypeError, 'one score for each sample'),
    (dict(method='gradcam', layer='first'), TypeError,
     'layer to have as many dimensions as the input, 3 or more, got a vari'),
    (dict(method='gradient', steps=3), TypeError, "gradient.*'steps'"),
    (dict(method='gradcam'), TypeError, "gradcam.*'layer'"),
    (dict(method='smooth_grad'), ValueError,
     'a function or one of gradcam, gradient, .*smoothgrad'),
    (dict(method='guided'), ValueError, 'rule=gradmod.GuidedBackprop'),
    (dict(method=None), ValueError, 'got NoneType'),
    (dict(method=lambda score, x: 3), TypeError,
     'method to return a tensor of maps, got int'),
    (dict(method=lambda score, x: score(x).sum()), TypeError, 'of maps, got a'),
])
def test_wrong_methods_and_options(net, options, error, says):
    with pytest.raises(error, match=says):
        compiled(net, **options)


def test_a_method_of_ones_own(net):
    def strongest(score, x, scale=1):
        return scale * abs(saliency.gradient(score, x)).max(axis=1)
    want = 3 * abs(compiled(net)(X)).max(axis=1)
    f = compiled(net, method=strongest, scale=3)
    assert 'strongest' in repr(f)
    np.testing.assert_allclose(f(X, batch_size=2), want)
    f = compiled(net, method=strongest, target='all')
    assert f(X).shape == (5, CLASSES)


# Grad-CAM

IMAGES = rng.randn(3, 2, 7, 6)


class Convolution(Layer):
    """A rectified correlation, 2 x 2, of stride 2, that does not need C."""

    def __init__(self, incoming, filters, name):
        super(Convolution, self).__init__(incoming, name)
        channels = self.input_shape[1]
        self.W = self.add_param(lasagne.init.GlorotUniform(),
                                (filters, channels, 2, 2))
        self.b = self.add_param(lasagne.init.Normal(.1), (filters,))
        self.nonlinearity = rectify

    def size(self, axis):
        return self.input_shape[axis] // 2

    def get_output_shape_for(self, shape):
        return shape[0], len(self.b.get_value()), self.size(2), self.size(3)

    def get_output_for(self, x, **kwargs):
        z = self.b.dimshuffle('x', 0, 'x', 'x')
        for i, j in np.ndindex(2, 2):
            pixels = x[:, :, i:i + 2 * self.size(2):2, j:j + 2 * self.size(3):2]
            z = z + T.tensordot(pixels, self.W[:, :, i, j],
                                axes=[[1], [1]]).dimshuffle(0, 3, 1, 2)
        return self.nonlinearity(z)


def real_convolution(incoming, filters, name):
    return Conv2DLayer(incoming, filters, 2, 2, b=lasagne.init.Normal(.1),
                       name=name)


def convnet(dtype='float64', convolution=Convolution):
    lasagne.random.set_rng(np.random.RandomState(17))
    with change_flags(floatX=dtype):
        x = T.TensorType(dtype, (False,) * 4)('x')
        net = convolution(InputLayer((None, 2, 7, 6), x), 4, name='convolution')
        net = DenseLayer(net, 7, b=lasagne.init.Normal(.1))
        return DenseLayer(net, CLASSES, nonlinearity=softmax)


class ConvModel(object):
    """A convolution with rectifiers, then an MLP: in loops."""

    def __init__(self, net):
        self.W, self.b, *rest = lasagne.layers.get_all_param_values(net)
        self.weights = list(zip(rest[::2], rest[1::2]))

    def places(self, z):
        for c, i, j in np.ndindex(*z.shape):
            yield (c, i, j), (slice(None), slice(2 * i, 2 * i + 2),
                              slice(2 * j, 2 * j + 2))

    def z(self, x):
        size = [x.shape[1] // 2, x.shape[2] // 2]
        z = np.zeros([len(self.W)] + size)
        for place, window in self.places(z):
            z[place] = (x[window] * self.W[place[0]]).sum() + self.b[place[0]]
        return z

    def logits(self, x):
        A = reference.relu(self.z(x))
        return reference.mlp_forward(A[np.newaxis], self.weights)[1][0]

    def gradient_at_layer(self, x, c, rule):
        A = reference.relu(self.z(x))
        g = np.zeros((1, CLASSES))
        g[0, c] = 1
        return reference.mlp_backward(A[np.newaxis], self.weights, g, rule)[0]

    def gradient(self, x, c, rule):
        z = self.z(x)
        g = reference.elementwise(rule, z, self.gradient_at_layer(x, c, rule))
        total = np.zeros_like(x)
        for place, window in self.places(z):
            total[window] += g[place] * self.W[place[0]]
        return total


def interpolated(small, size):
    """Linear interpolation of one axis, number by number."""
    large = np.zeros(size)
    for i in range(size):
        position = (i + .5) * len(small) / size - .5
        position = min(max(position, 0), len(small) - 1)
        left = int(position)
        right = min(left + 1, len(small) - 1)
        large[i] = (small[left] * (left + 1 - position)
                    + small[right] * (position - left))
    return large


def restated_gradcam(model, x, c, rule=reference.plain):
    A = reference.relu(model.z(x))
    g = model.gradient_at_layer(x, c, rule)
    cam = np.zeros(A.shape[1:])
    for channel in range(len(A)):
        cam += g[channel].mean() * A[channel]
    cam = reference.relu(cam)
    rows = np.array([interpolated(row, x.shape[2]) for row in cam])
    both = np.array([interpolated(column, x.shape[1]) for column in rows.T]).T
    return np.array([both] * len(x))


def restated_guided_gradcam(model, x, c):
    return restated_gradcam(model, x, c) * model.gradient(
        x, c, reference.guided)


@pytest.mark.parametrize('method', ['gradcam', 'guided_gradcam'])
def test_gradcam(method):
    net = convnet()
    model = ConvModel(net)
    every = np.array([restated(method, model, IMAGES, [c] * 3)
                      for c in range(CLASSES)])
    predicted = best(model, IMAGES)
    f = compiled(net, method=method, layer='convolution')
    close(f(IMAGES), every[predicted, range(3)], 'float64')
    close(f(IMAGES, [2, 0, 1]), every[[2, 0, 1], range(3)], 'float64')
    layer = net.input_layer.input_layer
    f = compiled(net, None, 'all', method, layer=layer)
    close(f(IMAGES, batch_size=2), every.swapaxes(0, 1), 'float64')

    # the same from expressions
    output, A = lasagne.layers.get_output([net, layer])
    x = layer.input_layer.input_var
    f = compiled(output, input_var=x, method=method, layer=A)
    close(f(IMAGES), every[predicted, range(3)], 'float64')


def test_gradcam_under_a_rule():
    net = convnet()
    layer = net.input_layer.input_layer
    output, A = lasagne.layers.get_output([net, layer])
    model = ConvModel(net)
    want = np.array([restated_gradcam(model, x, 1, reference.guided)
                     for x in IMAGES])
    assert abs(want - restated('gradcam', model, IMAGES, [1] * 3)).max() > .001
    f = compiled(net, GuidedBackprop, 1, 'gradcam', layer=layer)
    close(f(IMAGES), want, 'float64')
    f = compiled(output, GuidedBackprop, 1, 'gradcam', layer=A,
                 input_var=layer.input_layer.input_var)
    close(f(IMAGES), want, 'float64')
    # with the same rule for both factors, the one object
    f = compiled(net, GuidedBackprop, 1, 'guided_gradcam', layer=layer)
    want = want * np.array([model.gradient(x, 1, reference.guided)
                            for x in IMAGES])
    close(f(IMAGES), want, 'float64')
    f = compiled(net, None, 1, 'guided_gradcam', layer=layer, guide=ZeroBackprop)
    np.testing.assert_array_equal(f(IMAGES), 0)


def test_gradcam_in_c():
    net = convnet('float32', real_convolution)
    model, images = ConvModel(net), IMAGES.astype('float32')
    model.W = model.W[:, :, ::-1, ::-1]  # Lasagne convolves
    want = restated('guided_gradcam', model, images, best(model, images))
    f = compiled(net, method='guided_gradcam', layer='convolution',
                 mode='FAST_RUN')
    close(f(images), want, 'float32')


def test_gradcam_of_one_dimension():
    x = T.tensor3('x', dtype='float64')
    sounds = rng.randn(2, 4, 9)
    A = abs(x[:, ::2, ::3] + .5)  # two channels, three steps
    z = A.mean(axis=2).dot(P[:2])
    f = theano.function([x], saliency_map(z, x, 1, 'gradcam', layer=A),
                        mode=PY)
    want = []
    for sound in sounds:
        cam = 0
        for k in range(2):
            cam = cam + P[k, 1] / 3 * abs(sound[2 * k, ::3] + .5)
        want.append([interpolated(reference.relu(cam), 9)] * 4)
    close(f(sounds), np.array(want), 'float64')


@pytest.mark.parametrize('old, new', [(1, 4), (2, 5), (4, 4), (3, 9), (7, 3)])
def test_interpolation(old, new):
    small = rng.randn(old)
    o, n = T.lscalars('on')
    matrix = theano.function([o, n], saliency._interpolation(o, n, 'float32'),
                             mode=PY)(old, new)
    assert matrix.dtype == 'float32'
    np.testing.assert_allclose(matrix.dot(small), interpolated(small, new),
                               rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('layer, error, says', [
    ('convolutoin', ValueError, r'\(there are: convolution\), got str'),
    (T.dtensor4(), ValueError, 'expected layer to be one layer of the network'),
    (InputLayer((1, 2)), ValueError, 'got InputLayer'),
])
def test_wrong_layers(layer, error, says):
    with pytest.raises(error, match=says):
        compiled(convnet(), method='gradcam', layer=layer)


def test_wrong_layers_elsewhere():
    x = T.dtensor4('x')
    with pytest.raises(ValueError, match='layer to be what the output is made'):
        saliency_map(x.flatten(2), x, method='gradcam', layer=T.exp(x))
    with pytest.raises(TypeError, match='got str'):
        saliency_map(x.flatten(2), x, method='gradcam', layer='first')
    twice = DenseLayer(DenseLayer((None, 3), 4, name='a'), 5, name='a')
    with pytest.raises(ValueError, match="there are: a, a"):
        compiled(twice, method='gradcam', layer='a')
    unnamed = DenseLayer((None, 3), 4)
    with pytest.raises(ValueError, match='there are: none'):
        compiled(unnamed, method='gradcam', layer='a')


# Targets

def test_ties_go_to_one_class():
    x = T.dmatrix('x')
    z = x.dot(np.array([[1., 1, 0], [2, 3, 0]]))  # equal where x is (1, 0)
    maps = saliency_map(z, x).eval({x: np.array([[1., 0]])})
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
    f = theano.function([x], saliency_map(output, x, target), mode=PY)
    close(f(X), want, 'float64')
    f = theano.function([x], saliency_map(
        output, x, target, 'integrated_gradients', steps=2), mode=PY)
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
        with pytest.raises(AssertionError, match='saliency_map: expected targ'):
            f(X, np.full_like(value, wrong))
    if y.ndim:
        with pytest.raises(AssertionError, match='one class for each sample'):
            f(X, value[:1])  # would broadcast


def saliency_input(net):
    return lasagne.layers.get_all_layers(net)[0].input_var


@pytest.mark.parametrize('target, error, says', [
    ('given', TypeError, "saliency_map: expected target to be None, 'max'"),
    (1.5, TypeError, r'got float \(1.5\)'),
    (True, TypeError, 'got bool'),
    (np.zeros((2, 2), int), TypeError, 'got ndarray'),
    (T.vector(), TypeError, 'scalar or a vector of integers'),
    (T.lmatrix(), TypeError, 'scalar or a vector of integers'),
    (T.lvector() > 0, TypeError, 'scalar or a vector of integers'),
    (-1, ValueError, 'a class from 0 to that of the last logit, got -1'),
    ([0, -2], ValueError, 'got -2'),
    (lambda z: z, TypeError, 'a score for each sample, or one for all'),
    (lambda z: 1, TypeError, r'got int \(1\)'),
    (lambda z: z.argmax(axis=1), TypeError, 'got a variable of type'),
])
def test_wrong_targets(net, target, error, says):
    with pytest.raises(error, match=says):
        saliency_map(net, target=target)


def test_a_class_that_does_not_exist(net):
    x = saliency_input(net)
    for target in 3, [0, 1, 3, 0, 1], [0, 1]:
        f = theano.function([x], saliency_map(net, target=target), mode=PY)
        with pytest.raises(AssertionError, match='one class for each sample'):
            f(X)
    with pytest.raises(ValueError, match='a class from 0 to 2, got 3'):
        compiled(net, target=3)
    f = compiled(lasagne.layers.get_output(net), input_var=x)
    with pytest.raises(ValueError, match='got -1'):
        f(X, -1)
    with pytest.raises(AssertionError, match='one class for each sample'):
        f(X, 3)


def test_outputs_of_other_shapes():
    x = T.dtensor4('x')
    with pytest.raises(TypeError, match='or a function for the target'):
        saliency_map(2 * x, x)
    def score(z):
        return z[:, 0].sum(axis=(1, 2))
    f = theano.function([x], saliency_map(2 * x, x, score), mode=PY)
    got = f(IMAGES)
    np.testing.assert_array_equal(got[:, 0], 2)
    np.testing.assert_array_equal(got[:, 1], 0)
    f = compiled(convnet().input_layer.input_layer, None, score)
    assert f(IMAGES).shape == IMAGES.shape and f.classes is None


def test_targets_of_compiled_functions(net, weights):
    want = restated('gradient', Model(weights), X, LABELS)
    f = compiled(net, target='given')
    close(f(X, LABELS), want, 'float64')
    with pytest.raises(TypeError, match='expected a target in the call'):
        f(X)
    f = compiled(net, target=2)
    close(f(X), restated('gradient', Model(weights), X, [2] * 5), 'float64')
    close(f(X, LABELS), want, 'float64')
    for target in 'all', lambda z: z[:, 0]:
        with pytest.raises(TypeError, match='expected no target in the call'):
            compiled(net, target=target)(X, 1)
    close(compiled(net, target=LABELS)(X), want, 'float64')
    with pytest.raises(TypeError, match='target to be None.* got a variable'):
        compiled(net, target=T.lvector())
    with pytest.raises(TypeError, match='compile_saliency_function: expected t'):
        compiled(net, target='maximum')


# Logits

B = np.array([.5, -1, 0])


@pytest.mark.parametrize('output', [
    lambda z: T.nnet.softmax(z + B),
    lambda z: T.nnet.nnet.softmax_with_bias(z, T.constant(B)),
    lambda z: T.nnet.logsoftmax(z + B),
    lambda z: T.nnet.softmax(z + B).reshape((z.shape[0], CLASSES)),
    lambda z: T.nnet.softmax((z + B).reshape((-1, CLASSES))).reshape(z.shape),
    lambda z: T.nnet.softmax(z + B).dimshuffle(0, 'x', 1).flatten(2),
    lambda z: z + B,
])
def test_softmax_is_left_out(output):
    x = T.dmatrix('x')
    y = output(x.dot(P))
    f = theano.function([x], saliency_map(y, x, LABELS), mode=PY)
    np.testing.assert_allclose(f(X), P.T[LABELS], rtol=1e-12)
    value = saliency._before_softmax(y).eval({x: X})
    np.testing.assert_allclose(value, X.dot(P) + B, rtol=1e-12)


def test_softmax_can_be_left_in(net):
    x = T.dmatrix('x')
    y = T.nnet.softmax(x.dot(P))
    f = theano.function([x], saliency_map(y, x, 1, logits=False), mode=PY)
    z = np.exp(X.dot(P))
    p = z / z.sum(axis=1, keepdims=True)
    want = [p[i, 1] * (P[:, 1] - P.dot(p[i])) for i in range(5)]
    np.testing.assert_allclose(f(X), want, rtol=1e-10)
    maps = compiled(net, logits=False)(X), compiled(net)(X)
    assert abs(maps[0] - maps[1]).max() > .01


def test_the_softmax_of_a_network(weights, plain):
    net, w = mlp(nonlinearity=None)
    lasagne.layers.set_all_param_values(net, [v for W in weights for v in W])
    output = NonlinearityLayer(net, softmax)
    for rule in RULES:
        maps = compiled(output, rule)(X)
        assert output.nonlinearity is softmax
        assert net.input_layer.nonlinearity is rectify
        np.testing.assert_array_equal(maps, compiled(net, rule)(X))
    np.testing.assert_allclose(compiled(output)(X), plain(X), rtol=1e-12)


# Networks and expressions

def test_expressions(net, weights):
    output = lasagne.layers.get_output(net)
    x = saliency_input(net)
    for rule in RULES:
        want = restated('gradient', Model(weights, rule), X,
                        best(Model(weights), X))
        f = compiled(output, rule, input_var=x)
        assert f.shape == (None, None) and f.classes is None
        close(f(X), want, 'float64')
        f = theano.function([x], saliency_map(output, x, rule=rule), mode=PY)
        close(f(X), want, 'float64')
    with gradmod.network.modified(net, GuidedBackprop):
        output = lasagne.layers.get_output(net)
    close(compiled(output, input_var=x)(X), want, 'float64')


def test_an_input_that_is_computed():
    raw = T.bmatrix('raw')
    net = DenseLayer(InputLayer((None, 4), raw / np.float32(2)), 3)
    f = compiled(net)
    assert f(X.astype(f.dtype)).shape == (5, 4)


def test_several_inputs():
    a, b = InputLayer((None, 4), T.dmatrix('a')), InputLayer((None, 2),
                                                             T.dmatrix('b'))
    net = DenseLayer(ConcatLayer([a, b]), 3, nonlinearity=None)
    with pytest.raises(ValueError, match=r'one of \[a, b\], got NoneType'):
        saliency_map(net)
    with pytest.raises(ValueError, match=r'one of \[a, b\], got a variable'):
        saliency_map(net, T.dmatrix('c'))
    f = theano.function([a.input_var, b.input_var],
                        saliency_map(net, b.input_var, 1), mode=PY)
    W = net.W.get_value()
    np.testing.assert_allclose(f(X, X[:, :2]), [W[4:, 1]] * 5)
    with pytest.raises(theano.gof.fg.MissingInputError):
        compiled(net, input_var=b.input_var)
    f = compiled(net, input_var=b.input_var, givens={a.input_var: X})
    np.testing.assert_allclose(f(X[:, :2], 1), [W[4:, 1]] * 5)


def test_givens_reach_what_the_random_numbers_need(weights):
    # Keras' way: one graph for training and test, and a variable that says
    # which; the update of the random numbers has it in its graph, too.
    x, training = T.dmatrix('x'), T.bscalar('training')
    stream = T.shared_randomstreams.RandomStreams(0)
    (A, a), (B, b), (C, c) = weights
    h = T.nnet.relu(T.dot(x, A) + a)
    h = ifelse(training, 2 * h, h)
    h = ifelse(training, h * stream.uniform(h.shape), h)
    h = T.dot(T.nnet.relu(T.dot(h, B) + b), C) + c
    lazy = theano.Mode(theano.gof.vm.VM_Linker(c_thunks=False, use_cloop=False),
                       'fast_compile')
    for rule, numbers in RULES.items():
        f = compile_saliency_function(
            T.nnet.softmax(h), rule, input_var=x, mode=lazy,
            givens={training: np.int8(0)})
        g = np.eye(CLASSES)[LABELS]
        np.testing.assert_allclose(f(X, LABELS), reference.mlp_backward(
            X, weights, g, numbers))


def test_wrong_networks(net):
    x, y = T.dmatrix('x'), T.dmatrix('y')
    with pytest.raises(TypeError, match='expected a Lasagne layer or a Theano'):
        compiled([net])
    with pytest.raises(TypeError, match='expected input_var .*got NoneType'):
        compiled(x)
    with pytest.raises(TypeError, match='expected input_var .*matrix'):
        saliency_map(1. * T.lmatrix(), T.lmatrix())
    with pytest.raises(TypeError, match='expected input_var .*vector'):
        saliency_map(x, T.dvector())
    with pytest.raises(TypeError, match='expected a score .* of a float dtype'):
        saliency_map(x > 0, x)
    with pytest.raises(ValueError, match='input_var to be what the output is ma'):
        saliency_map(2 * y, x)
    with pytest.raises(TypeError, match='modified: expected rule'):
        compiled(net, 3)
    assert net.nonlinearity is softmax


def test_other_dtypes_than_that_of_the_weights(net, weights):
    x = T.fmatrix('x')
    output = lasagne.layers.get_output(net, x)
    assert output.dtype == 'float64'
    for method in sorted(OPTIONS):
        maps = saliency_map(output, x, method=method)
        assert maps.type == x.type
        got = theano.function([x], maps, mode=PY)(X.astype('float32'))
        want = restated(method, Model(weights), X, best(Model(weights), X))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_no_float64_where_all_is_float32():
    nets = {False: mlp('float32')[0], True: convnet('float32')}
    with change_flags(floatX='float32', warn_float64='raise'):
        for method in saliency.METHODS:
            options = dict(OPTIONS.get(method, {'layer': 'convolution'}))
            cam = 'layer' in options
            saliency_map(nets[cam], method=method, **options)
            saliency_map(nets[cam], target='all', method=method, **options)


def test_weights_that_change(net, plain):
    values = lasagne.layers.get_all_param_values(net)
    new = [v[::-1] for v in values]
    try:
        lasagne.layers.set_all_param_values(net, new)
        want = restated('gradient', Model(list(zip(new[::2], new[1::2]))), X,
                        [1] * 5)
        close(plain(X, 1), want, 'float64')
    finally:
        lasagne.layers.set_all_param_values(net, values)


def test_broadcastable_inputs(net, weights):
    x = T.TensorType('float64', (True, False))('x')
    output = lasagne.layers.get_output(net, x)
    for method in sorted(OPTIONS):
        maps = saliency_map(output, x, method=method)
        assert maps.type == x.type
        got = theano.function([x], maps, mode=PY)(X[:1])
        want = restated(method, Model(weights), X[:1], best(Model(weights), X))
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_test_values(net, weights):
    with change_flags(compute_test_value='raise'):
        x = T.dmatrix('x')
        x.tag.test_value = X
        output = lasagne.layers.get_output(net, x)
        for method in sorted(OPTIONS):
            maps = saliency_map(output, x, method=method, **OPTIONS[method])
            want = restated(method, Model(weights), X,
                            best(Model(weights), X), **OPTIONS[method])
            np.testing.assert_allclose(maps.tag.test_value, want, rtol=1e-10)
        assert compiled(net, method='smoothgrad')(X).shape == X.shape


# The compiled function

def test_one_function_is_compiled(net, monkeypatch):
    calls = []
    function = theano.function
    monkeypatch.setattr(theano, 'function', lambda *args, **kwargs: calls.append(
        1) or function(*args, **kwargs))
    f = compiled(net, method='smoothgrad', samples=2)
    for target in None, 1, LABELS:
        f(X, target, batch_size=2)
    assert len(calls) == 1


def watch(f, monkeypatch):
    """A list that gets the number of samples of each batch."""
    sizes, function = [], f.function
    monkeypatch.setattr(f, 'function', lambda images, classes: (
        sizes.append(len(images)) or function(images, classes)))
    return sizes


@pytest.mark.parametrize('size, sizes', [
    (1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (4, [4, 1]), (5, [5]), (6, [5])])
def test_batches(plain, monkeypatch, size, sizes):
    want = plain(X, LABELS)
    got = watch(plain, monkeypatch)
    np.testing.assert_allclose(plain(X, LABELS, batch_size=size), want,
                               rtol=1e-12)
    assert got == sizes


def test_the_default_batch_size(plain, monkeypatch):
    want = plain(X)
    sizes = watch(plain, monkeypatch)
    np.testing.assert_allclose(plain(np.tile(X, (13, 1)))[-5:], want, rtol=1e-12)
    assert sizes == [64, 1]


@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_a_network_of_a_fixed_number_of_samples(method, monkeypatch):
    net, weights = mlp(shape=(2, 4))
    f = compiled(net, method=method)
    sizes = watch(f, monkeypatch)
    want = restated(method, Model(weights), X, LABELS)
    for batch_size in 1, 2, 64:
        close(f(X, LABELS, batch_size=batch_size), want, 'float64')
    assert set(sizes) == {2}
    if method == 'integrated_gradients':
        assert f.completeness_error.shape == (5,)


def test_out(plain, net, tmp_path):
    want = plain(X)
    out = np.full((5, 4), np.nan)
    assert plain(X, out=out) is out
    np.testing.assert_array_equal(out, want)
    out = np.memmap(str(tmp_path / 'maps'), 'float32', 'w+', shape=(5, 4))
    assert plain(X, out=out, batch_size=2) is out
    np.testing.assert_allclose(out, want, rtol=1e-6)
    images = X.copy()
    plain(images, out=images, batch_size=2)
    np.testing.assert_allclose(images, want, rtol=1e-12)

    with pytest.raises(ValueError, match=r'out .*\(5, 4\), got \(4, 5\)'):
        plain(X, out=np.zeros((4, 5)))
    with pytest.raises(ValueError, match='out .* got list'):
        plain(X, out=[1])
    with pytest.raises(TypeError, match='out .* dtype for float64, got int64'):
        plain(X, out=np.zeros((5, 4), 'int64'))
    f = compiled(net, target='all')
    assert f(X, out=np.zeros((5, CLASSES, 4)), batch_size=2).any()
    with pytest.raises(ValueError, match=r'out .*\(5, 3, 4\), got \(5, 4\)'):
        f(X, out=np.zeros((5, 4)))


def test_iter(plain, net):
    want = plain(X)
    asked = []

    def batches():
        for i in 0, 3:
            asked.append(i)
            yield X[i:i + 3]
    maps = plain.iter(batches())
    assert asked == []
    np.testing.assert_allclose(next(maps), want[:3], rtol=1e-12)
    assert asked == [0]
    np.testing.assert_allclose(next(maps), want[3:], rtol=1e-12)
    with pytest.raises(StopIteration):
        next(maps)
    want = plain(X, LABELS), plain(X, 1), plain(X)
    for got, w in zip(plain.iter([(X, LABELS), X, (X, None)], 1, batch_size=2),
                      want):
        np.testing.assert_allclose(got, w, rtol=1e-12)

    f = compiled(net, method='integrated_gradients')
    errors = [f.completeness_error.shape for _ in f.iter([X, X[:2]])]
    assert errors == [(5,), (2,)]


def test_what_is_sliced_lazily(plain):
    class Lazy(object):
        shape, dtype, slices = X.shape, X.dtype, []

        def __getitem__(self, i):
            self.slices.append(i)
            return X[i].tolist()
    np.testing.assert_allclose(plain(Lazy(), batch_size=3), plain(X),
                               rtol=1e-12)
    assert Lazy.slices == [slice(0, 3), slice(3, 5)]


def test_what_counts_as_images(plain):
    np.testing.assert_array_equal(plain(X.tolist()), plain(X))
    whole = np.arange(8).reshape(2, 4)
    for images in whole, whole.astype('uint8'), whole.astype('float32'):
        got = plain(images)
        assert got.dtype == 'float64'
        np.testing.assert_array_equal(got, plain(whole.astype(float)))
    np.testing.assert_array_equal(plain(X[:, ::-1]), plain(X[:, ::-1].copy()))
    with pytest.raises(TypeError, match=r"float64, which it cannot hold "
                       r"exactly: convert them by images.astype\('float32'\)"):
        compiled(mlp('float32')[0])(X)


@pytest.mark.parametrize('images, error, says', [
    (X[0], ValueError, r'one image or more, of shape \(None, 4\), got \(4,\)'),
    (X[:, :3], ValueError, r'\(None, 4\), got \(5, 3\)$'),
    (X[np.newaxis], ValueError, r'got \(1, 5, 4\)$'),
    (X[:0], ValueError, r'got \(0, 4\)'),
    ([['a'] * 4], TypeError, 'of dtype float64, got <U1'),
    (X + 1j, TypeError, 'got complex128'),
    (T.dmatrix(), ValueError, r'got \(\)'),
    (None, ValueError, r'got \(\)'),
])
def test_wrong_images(plain, images, error, says):
    with pytest.raises(error, match='^<saliency function: gradient of float64 '
                       r'\(None, 4\)>: expected (.*)' + says):
        plain(images)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(plain, value):
    images = X.copy()
    images[3, 1] = value
    with pytest.raises(ValueError, match='NaN or infinity in image 3'):
        plain(images)
    with pytest.raises(ValueError, match='NaN or infinity in image 3'):
        plain(images, batch_size=2)


@pytest.mark.parametrize('target, error, says', [
    (3, ValueError, 'a class from 0 to 2, got 3'),
    ([0, 1, 2, 3, 4], ValueError, 'got 3'),
    (-1, ValueError, 'got -1'),
    ([0, 1], ValueError, 'a target for each of 5 images, got 2'),
    (1., TypeError, 'got float'),
    ('all', TypeError, r"got str \('all'\)"),
    (len, TypeError, 'got builtin_function'),
])
def test_wrong_targets_in_a_call(plain, target, error, says):
    with pytest.raises(error, match=says):
        plain(X, target)


@pytest.mark.parametrize('size', [0, -1, 2.5, '3'])
def test_wrong_batch_sizes(plain, size):
    with pytest.raises(ValueError, match='expected batch_size to be an int'):
        plain(X, batch_size=size)


def test_progress(plain, capsys, monkeypatch):
    pytest.importorskip('tqdm')
    np.testing.assert_allclose(plain(X, progress=True, batch_size=1), plain(X),
                               rtol=1e-12)
    assert '5/5' in capsys.readouterr().err
    assert len(list(plain.iter([X, X, X], progress=True))) == 3
    assert '3/3' in capsys.readouterr().err
    plain(X, progress=True)
    assert '1/1' in capsys.readouterr().err
    plain(X, batch_size=1)
    assert capsys.readouterr().err == ''


def test_progress_without_tqdm(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tqdm', None)
    with pytest.raises(ImportError, match=r'pip install "gradmod\[examples\]"'):
        plain(X, progress=True)


def test_pickle_into_a_new_process(net, tmp_path):
    fs = [compiled(net, GuidedBackprop, lambda z: z[:, 1], 'smoothgrad'),
          compiled(net, method='integrated_gradients', target='all', steps=2)]
    (tmp_path / 'fs').write_bytes(pickle.dumps((fs, X)))
    (tmp_path / 'load.py').write_text(
        'import pickle, sys\n'
        'with open(sys.argv[1], "rb") as file:\n'
        '    fs, images = pickle.load(file)\n'
        'maps = [f(images, batch_size=2) for f in fs], repr(fs[0])\n'
        'with open(sys.argv[2], "wb") as file:\n'
        '    pickle.dump(maps, file)\n')
    subprocess.check_call([sys.executable, '-c', (
        'import runpy, sys; sys.path.insert(0, ""); sys.argv.pop(0); '
        'runpy.run_path(sys.argv[0])'), str(tmp_path / 'load.py'),
        str(tmp_path / 'fs'), str(tmp_path / 'maps')])
    maps, name = pickle.loads((tmp_path / 'maps').read_bytes())
    assert name == repr(fs[0])
    for f, got in zip(fs, maps):
        np.testing.assert_allclose(got, f(X), rtol=1e-12)


def test_lasagne_and_tqdm_are_not_imported():
    subprocess.check_call([sys.executable, '-c', (
        'import sys, gradmod.saliency\n'
        'assert not {"lasagne", "tqdm"} & set(sys.modules)')])


def test_a_map_that_depends_on_no_input(net):
    np.testing.assert_array_equal(compiled(net, ZeroBackprop)(X), 0 * X)
    np.testing.assert_array_equal(compiled(net, ZeroBackprop)(X, 1), 0 * X)


def test_images_that_are_not_aligned():
    x = T.dmatrix('x')
    f = gradmod.compile_saliency_function(x ** 2, input_var=x)  # in C
    raw = np.zeros(8 * 6 + 1, 'uint8')[1:].view('float64').reshape(3, 2)
    assert not raw.flags.aligned
    raw[...] = [[1, 2], [4, 3], [0, 5]]
    np.testing.assert_array_equal(f(raw), [[0, 4], [8, 0], [0, 10]])


@pytest.mark.parametrize('method, options, says', [
    ('gradcam', {}, r'method gradcam\(score, x, layer\), got none: missing'),
    ('gradient', {'select': 'h'}, r'gradient\(score, x\), got select: .*select'),
    (lambda score, x, k: x, {'n': 1}, r'<lambda>\(score, x, k\), got n')])
def test_options_that_a_method_does_not_take(net, method, options, says):
    with pytest.raises(TypeError, match=says):
        compiled(net, method=method, **options)


def test_a_method_without_a_signature():
    # as those of C extensions; its options cannot be checked
    x = T.matrix('x')
    method = np.frompyfunc(saliency.gradient_x_input, 2, 1)
    f = compiled(T.nnet.relu(x * 2), input_var=x, method=method)
    images = np.asarray([[1, 3], [2, -1]], x.dtype)
    assert np.array_equal(f(images, [1, 0]), [[0, 6], [4, 0]])
    assert np.array_equal(f(images, 1), [[0, 6], [0, 0]])


@pytest.mark.parametrize('baseline', ['x', np.nan, 1j, [0, np.inf, 0, 0]])
def test_baselines_that_are_no_finite_numbers(net, baseline):
    with pytest.raises(TypeError, match='integrated_gradients: expected a '
                       'baseline of finite'):
        saliency_map(net, method='integrated_gradients', baseline=baseline)


@pytest.mark.parametrize('seed', [-1, 2**32, 1.5, None])
def test_seeds_that_numpy_does_not_take(net, seed):
    with pytest.raises(ValueError, match=r'smoothgrad: expected seed to be an '
                       r'int from 0 to 2\*\*32 - 1, got'):
        saliency_map(net, method='smoothgrad', seed=seed)


def test_methods_called_without_a_score(net):
    kept = []
    saliency_map(net, method=lambda score, x: kept.extend([score, x]) or x)
    score, x = kept
    for name, method in sorted(saliency.METHODS.items()):
        options = {'layer': x} if name.endswith('gradcam') else {}
        name = name.replace('guided_', '')  # which calls the other one
        with pytest.raises(TypeError, match=name + ': expected a Score, got'):
            method(3, x, **options)
        with pytest.raises(TypeError, match=name + ': expected x to be a .* '
                           'got int'):
            method(score, 3, **options)


def test_wrong_compilation(net):
    for mode in 'FAST', 3, PY.linker:
        with pytest.raises(TypeError, match='compile_saliency_function: '
                           'expected mode to be a mode of Theano'):
            compile_saliency_function(net, mode=mode)
    for givens in [], {'x': 1}:
        with pytest.raises(TypeError, match='compile_saliency_function: '
                           'expected givens to be a dict whose keys are'):
            compile_saliency_function(net, mode=PY, givens=givens)


def test_batches_that_are_none(plain):
    for batches in 3, None:
        with pytest.raises(TypeError, match='expected an iterable of batches, '
                           'got'):
            next(plain.iter(batches))


def test_seeds_that_numpy_takes(net):
    maps = [compiled(net, method='smoothgrad', seed=seed, samples=2)(X)
            for seed in (100, 2**32 - 1, np.int64(3), 3)]
    assert np.array_equal(maps[2], maps[3])
    assert not np.allclose(maps[0], maps[1])
    assert not np.allclose(maps[1], maps[2])


def test_without_noise(net, plain):
    f = compiled(net, method='smoothgrad', samples=2, sigma=0)
    np.testing.assert_allclose(f(X), plain(X))
    largest = np.finfo('float64').max
    saliency_map(net, method='smoothgrad', sigma=largest)
    for sigma in np.inf, np.nan, '.3', 1j, 2 * int(largest):
        with pytest.raises(ValueError, match='sigma to be a finite number'):
            saliency_map(net, method='smoothgrad', sigma=sigma)


def test_baselines_of_their_own_for_each_sample(net):
    f = compiled(net, method='integrated_gradients', baseline=X)
    np.testing.assert_array_equal(f(X), 0 * X)
    for baseline in T.zvector(), T.tensor3():
        with pytest.raises(TypeError, match='integrated_gradients: expected a '
                           'baseline of'):
            saliency_map(net, method='integrated_gradients', baseline=baseline)


def test_classes_that_int64_does_not_hold():
    x = T.dmatrix('x')
    f = compiled(x * 2, input_var=x)
    labels = np.uint64([1, 2, 0]) - np.uint64(1)  # the last one wraps around
    for target in labels, 2**64 - 1, np.uint64(2**63):
        with pytest.raises(ValueError, match='target to be a class from 0'):
            f(X[:3], target)


def test_a_masked_array_hides_no_nan(plain):
    images = X.copy()
    images[1, 2] = np.nan
    with pytest.raises(ValueError, match='NaN or infinity in image 1'):
        plain(np.ma.masked_invalid(images))


def test_a_method_that_returns_one_map_for_all(net):
    f = compiled(net, method=lambda score, x: saliency.gradient(
        score, x).mean(axis=0, keepdims=True))
    assert f(X[:1]).shape == (1, 4)
    with pytest.raises(ValueError, match='the method to return a map for each '
                       'of 5 images, got 1'):
        f(X)
    f = compiled(net, method=lambda score, x: T.concatenate(
        2 * [saliency.gradient(score, x).mean(axis=0, keepdims=True)]))
    with pytest.raises(ValueError, match='each of 1 images, got 2'):
        f(X, batch_size=2)


def test_dropout_does_not_take_part(net, plain):
    dropped = lasagne.layers.DropoutLayer(net, .9)
    np.testing.assert_array_equal(compiled(dropped)(X), plain(X))
    with pytest.raises(TypeError, match='scalar or a vector of integers'):
        saliency_map(net, target=theano.gof.generic())


def test_a_method_that_returns_no_tensor(net):
    for result in theano.gof.generic(), theano.scalar.float64(), T.dscalar():
        with pytest.raises(TypeError, match='method to return a tensor'):
            saliency_map(net, method=lambda score, x: result)


# Small expressions whose maps can be written down

def each(z):
    """The score of a sample that every logit takes part in alike."""
    return z.sum(axis=1)


def test_defaults_in_closed_form():
    x = T.dmatrix('x')
    images = np.array([[1., 2], [-1, .5]])
    f = compiled(x ** 3, input_var=x, method='smoothgrad', target=each)
    noise = np.random.RandomState(0).normal(size=(50, 2))
    np.testing.assert_allclose(f(images), [
        (3 * (v + .15 * np.ptp(v) * noise) ** 2).mean(axis=0) for v in images],
        rtol=1e-12)
    f = compiled(x ** 3, input_var=x, method='integrated_gradients',
                 target=each)
    np.testing.assert_allclose(f(images), [
        v * np.mean([3 * ((k + .5) / 50 * v) ** 2 for k in range(50)], axis=0)
        for v in images], rtol=1e-12)


def test_completeness_error_in_closed_form():
    x = T.dmatrix('x')
    images = np.array([[1., 2], [-1, .5]])
    f = compiled(x ** 3 + 1, input_var=x, method='integrated_gradients',
                 target='all', steps=2, baseline=-3)
    # from b to x by two steps: the rule of the midpoint
    b, d = -3, images + 3
    value = d * 3 * ((b + .25 * d) ** 2 + (b + .75 * d) ** 2) / 2
    np.testing.assert_allclose(f(images), value[:, :, np.newaxis] * np.eye(2))
    np.testing.assert_allclose(f.completeness_error,
                               images ** 3 - b ** 3 - value)
    assert abs(f.completeness_error).min() > .1


def test_gradcam_in_closed_form():
    x = T.dtensor4('x')
    K = np.array([[[1., 2], [-1, 4], [0, 3]], [[-2, 1], [1, -3], [0, 0]]])
    images = np.random.RandomState(0).randn(2, 2, 3, 2)
    A = T.nnet.relu(x)
    z = (A * K).sum(axis=(1, 2, 3))
    positive = np.maximum(images, 0)
    cam = np.maximum(1.5 * positive[:, :1] - .5 * positive[:, 1:], 0)
    guided = K * (K > 0) * (images > 0)
    assert (cam * guided).any() and (cam == 0).any()
    for method, want in [('gradcam', np.repeat(cam, 2, axis=1)),
                         ('guided_gradcam', cam * guided)]:
        f = compiled(z, input_var=x, method=method, layer=A,
                     target=lambda z: z)
        np.testing.assert_allclose(f(images), want, rtol=1e-12)


def test_a_class_that_is_not_the_maximal_one():
    x = T.dmatrix('x')
    x.tag.test_value = image = np.array([[1., 3]])
    with change_flags(compute_test_value='raise'):  # the classes have none
        f = compiled(x ** 2, input_var=x)
    for target, want in (0, [2, 0]), (1, [0, 6]), (None, [0, 6]):
        np.testing.assert_array_equal(f(image, target), [want])


def test_what_functions_are_called():
    x = T.dmatrix('x')
    for rule, method, words in [
            (None, 'gradient', 'gradient'),
            (None, saliency.gradient_x_input, 'gradient_x_input'),
            (GuidedBackprop, 'gradient', 'gradient under GuidedBackprop')]:
        f = compiled(T.nnet.relu(x), rule, input_var=x, method=method)
        assert repr(f) == ('<saliency function: %s of float64 (None, None)>'
                           % words)


def test_what_fills_a_network_of_a_fixed_number_of_samples(monkeypatch):
    net = NonlinearityLayer(InputLayer((4, 2), T.dmatrix('x')), T.sqr)
    f = compiled(net)
    images, seen, function = np.arange(12.).reshape(6, 2), [], f.function
    monkeypatch.setattr(f, 'function', lambda *batch: (
        seen.append(batch) or function(*batch)))
    maps = f(images, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(maps, 2 * images * np.tile(np.eye(2), (3, 1)))
    (first, _), (last, classes) = seen
    np.testing.assert_array_equal(first, images[:4])
    np.testing.assert_array_equal(last, images[[4, 5, 5, 5]])
    np.testing.assert_array_equal(classes, [0, 1, 1, 1])


def test_defaults_of_iter(plain, monkeypatch, capsys):
    sizes = watch(plain, monkeypatch)
    (maps,) = plain.iter([np.tile(X, (13, 1))])
    assert sizes == [64, 1] and maps.shape == (65, 4)
    assert capsys.readouterr().err == ''


def test_a_baseline_beyond_the_dtype():
    x = T.fmatrix('x')
    with pytest.raises(TypeError, match='a baseline of finite'):
        saliency_map(T.nnet.relu(x), input_var=x, baseline=1e300,
                     method='integrated_gradients')


def test_iter_over_a_sequence_that_has_no_iterator(plain):
    class Batches(object):
        def __getitem__(self, i):
            return [X[:2], X[2:]][i]
    np.testing.assert_allclose(np.concatenate(list(plain.iter(Batches()))),
                               plain(X), rtol=1e-12)
