"""Small networks, restated in numpy for one image at a time."""
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import Conv2DLayer, DenseLayer, InputLayer, Layer
from lasagne.nonlinearities import rectify, softmax

from gradmod import GuidedBackprop, compile_saliency_function
from gradmod._theano import OpFromGraph, change_flags

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
RULES = {None: reference.plain, GuidedBackprop: reference.guided}
CLASSES = 3
rng = np.random.RandomState(1)
X = rng.randn(5, 4)
P = rng.randn(4, CLASSES)
LABELS = np.array([2, 0, 1, 1, 2])
IMAGES = rng.randn(3, 2, 7, 6)
OPTIONS = {
    'gradient': {},
    'gradient_x_input': {},
    'relevance': {},
    'smoothgrad': dict(samples=4, sigma=.3, seed=7),
    'integrated_gradients': dict(steps=5, baseline=np.array([1, 0, -1, 2])),
}


class OldRecipe:
    """ModifiedBackprop, as it was copied into many a notebook.

    Theano 1.0 ignores its gradient.
    """

    def __init__(self, nonlinearity):
        self.nonlinearity, self.ops = nonlinearity, {}

    def __call__(self, x):
        inner = x.type()
        op = OpFromGraph([inner], [self.nonlinearity(inner)])
        op.grad = self.grad
        return op(x)

    def grad(self, inputs, out_grads):
        return [7 * out_grads[0]]


def saliency_input(net):
    return lasagne.layers.get_all_layers(net)[0].input_var


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
    """By default in Python alone: so are constants folded."""
    kwargs.setdefault('mode', PY)
    with change_flags(cxx='' if kwargs['mode'] is PY else theano.config.cxx):
        return compile_saliency_function(*args, **kwargs)


class Model:
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


def restated_relevance(model, x, c):
    return model.logits(x)[c] * model.gradient(x, c)


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


class Convolution(Layer):
    """A rectified correlation, 2 x 2, of stride 2, that does not need C."""

    def __init__(self, incoming, filters, name):
        super().__init__(incoming, name)
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


class ConvModel:
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
        return self.from_layer(x, self.gradient_at_layer(x, c, rule), rule)

    def from_layer(self, x, g, rule):
        z = self.z(x)
        g = reference.elementwise(rule, z, g)
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


def restated_cam(model, x, c, weights):
    A = reference.relu(model.z(x))
    small = reference.relu((weights(A) * A).sum(axis=0))
    return np.array([enlarged(small, x.shape[1:])] * len(x))


def enlarged(small, shape):
    rows = np.array([interpolated(row, shape[1]) for row in small])
    return np.array([interpolated(column, shape[0]) for column in rows.T]).T


def restated_gradcam(model, x, c, rule=reference.plain):
    g = model.gradient_at_layer(x, c, rule)
    return restated_cam(model, x, c, lambda A: np.array(
        [[[channel.mean()]] for channel in g]))


def restated_gradcam_plus_plus(model, x, c):
    g = model.gradient_at_layer(x, c, reference.plain)

    def weights(A):
        result = np.zeros((len(A), 1, 1))
        for k, i, j in np.ndindex(*A.shape):
            if g[k, i, j]:
                alpha = 1 / (2 + g[k, i, j] * A[k].sum())
                result[k] += alpha * max(g[k, i, j], 0)
        return result
    return restated_cam(model, x, c, weights)


def restated_layercam(model, x, c):
    g = model.gradient_at_layer(x, c, reference.plain)
    return restated_cam(model, x, c, lambda A: reference.relu(g))


def restated_scorecam(model, x, c):
    def weights(A):
        scores = []
        for channel in A:
            mask = enlarged(channel, x.shape[1:])
            low, high = channel.min(), channel.max()
            scores.append(model.logits(x * (mask - low) / (high - low))[c])
        e = np.exp(np.array(scores) - max(scores))
        return (e / e.sum())[:, np.newaxis, np.newaxis]
    return restated_cam(model, x, c, weights)


def restated_guided_gradcam(model, x, c):
    return restated_gradcam(model, x, c) * model.gradient(
        x, c, reference.guided)


def value(maps, given):
    """Of an expression, where variables have these values: in Python alone."""
    return theano.function(list(given), maps, mode=PY)(*given.values())


def pairs(values):
    """Of a network of dense layers: weights, with their biases."""
    return list(zip(values[::2], values[1::2]))
