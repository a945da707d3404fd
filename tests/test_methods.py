import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import get_output

from gradmod import GuidedBackprop, ZeroBackprop, methods, saliency_map
from gradmod._theano import change_flags

from . import reference
from .models import (CLASSES, IMAGES, LABELS, OPTIONS, P, PY, RULES, X,
                     ConvModel, Model, best, close, compiled, convnet,
                     interpolated, mlp, real_convolution, restated,
                     restated_gradcam, rng, saliency_input)

pytestmark = pytest.mark.usefixtures('no_compiler')


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


@pytest.mark.parametrize('method', sorted(set(OPTIONS) - {'relevance'}))
def test_a_function_as_the_target(net, weights, method):
    f = compiled(net, None, lambda z: 2 * z[:, 1] - z[:, 2], method,
                 **OPTIONS[method])
    one, two = [restated(method, Model(weights), X, [c] * 5, **OPTIONS[method])
                for c in (1, 2)]
    close(f(X, batch_size=2), 2 * one - two, 'float64')
    if method != 'integrated_gradients':  # which needs a score for each
        maps = saliency_map(net, None, lambda z: (2 * z[:, 1] - z[:, 2]).sum(),
                            method, **OPTIONS[method])
        got = theano.function([saliency_input(net)], maps, mode=PY)(X)
        close(got, 2 * one - two, 'float64')


@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_defaults_of_methods(net, weights, method):
    want = restated(method, Model(weights), X[:2], [1, 1])
    close(compiled(net, target=1, method=method)(X[:2]), want, 'float64')
    function = getattr(methods, method)
    close(compiled(net, target=1, method=function)(X[:2]), want, 'float64')


@pytest.mark.slow
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
    output, A = get_output([net, layer])
    x = layer.input_layer.input_var
    f = compiled(output, input_var=x, method=method, layer=A,
                 data_format='channels_first')
    close(f(IMAGES), every[predicted, range(3)], 'float64')


def test_gradcam_under_a_rule():
    net = convnet()
    layer = net.input_layer.input_layer
    output, A = get_output([net, layer])
    model = ConvModel(net)
    want = np.array([restated_gradcam(model, x, 1, reference.guided)
                     for x in IMAGES])
    assert abs(want - restated('gradcam', model, IMAGES, [1] * 3)).max() > .001
    f = compiled(net, GuidedBackprop, 1, 'gradcam', layer=layer)
    close(f(IMAGES), want, 'float64')
    f = compiled(output, GuidedBackprop, 1, 'gradcam', layer=A,
                 input_var=layer.input_layer.input_var,
                 data_format='channels_first')
    close(f(IMAGES), want, 'float64')
    # with the same rule for both factors, the one object
    f = compiled(net, GuidedBackprop, 1, 'guided_gradcam', layer=layer)
    want = want * np.array([model.gradient(x, 1, reference.guided)
                            for x in IMAGES])
    close(f(IMAGES), want, 'float64')
    f = compiled(net, None, 1, 'guided_gradcam', layer=layer, guide=ZeroBackprop)
    np.testing.assert_array_equal(f(IMAGES), 0)


@pytest.mark.slow
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
    f = theano.function([x], saliency_map(
        z, target=1, method='gradcam', input_var=x, layer=A,
        data_format='channels_first'),
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
    matrix = theano.function([o, n], methods.interpolation(o, n, 'float32'),
                             mode=PY)(old, new)
    assert matrix.dtype == 'float32'
    np.testing.assert_allclose(matrix.dot(small), interpolated(small, new),
                               rtol=1e-5, atol=1e-6)


def test_other_dtypes_than_that_of_the_weights(net, weights):
    x = T.fmatrix('x')
    output = get_output(net, x)
    assert output.dtype == 'float64'
    for method in sorted(OPTIONS):
        maps = saliency_map(output, input_var=x, method=method)
        assert maps.type == x.type
        got = theano.function([x], maps, mode=PY)(X.astype('float32'))
        want = restated(method, Model(weights), X, best(Model(weights), X))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_no_float64_where_all_is_float32():
    nets = {False: mlp('float32')[0], True: convnet('float32')}
    with change_flags(floatX='float32', warn_float64='raise'):
        for method in methods.METHODS:
            options = dict(OPTIONS.get(method, {'layer': 'convolution'}))
            cam = 'layer' in options
            saliency_map(nets[cam], method=method, **options)
            saliency_map(nets[cam], target='all', method=method, **options)


def test_broadcastable_inputs(net, weights):
    x = T.TensorType('float64', (True, False))('x')
    output = get_output(net, x)
    for method in sorted(OPTIONS):
        maps = saliency_map(output, input_var=x, method=method)
        assert maps.type == x.type
        got = theano.function([x], maps, mode=PY)(X[:1])
        want = restated(method, Model(weights), X[:1], best(Model(weights), X))
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_test_values(net, weights):
    with change_flags(compute_test_value='raise', cxx=''):
        x = T.dmatrix('x')
        x.tag.test_value = X
        output = get_output(net, x)
        for method in sorted(OPTIONS):
            maps = saliency_map(output, input_var=x, method=method,
                                **OPTIONS[method])
            want = restated(method, Model(weights), X,
                            best(Model(weights), X), **OPTIONS[method])
            np.testing.assert_allclose(maps.tag.test_value, want, rtol=1e-10)
        assert compiled(net, method='smoothgrad')(X).shape == X.shape


def test_seeds_that_numpy_takes(net):
    maps = [compiled(net, method='smoothgrad', seed=seed, samples=2)(X)
            for seed in (100, 2**32 - 1, np.int64(3), 3)]
    assert np.array_equal(maps[2], maps[3])
    assert not np.allclose(maps[0], maps[1])
    assert not np.allclose(maps[1], maps[2])


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
                     target=lambda z: z, data_format='channels_first')
        np.testing.assert_allclose(f(images), want, rtol=1e-12)


# Grad-CAM of other shapes

CONVOLUTION = rng.randn(4, 2, 2, 2)


def channels_last(x):
    """As Keras does it: a convolution of channels first between two moves."""
    z = T.nnet.conv2d(x.dimshuffle(0, 3, 1, 2), CONVOLUTION)
    return T.nnet.relu(z.dimshuffle(0, 2, 3, 1) + 1)


@pytest.mark.parametrize('given', [None, 'channels_last'])
@pytest.mark.slow
def test_gradcam_with_channels_last(given):
    x, first = T.dtensor4s(2)
    A = channels_last(x)
    B = T.nnet.relu(T.nnet.conv2d(first, CONVOLUTION) + 1)
    K = np.arange(4.) - 1
    images = IMAGES.transpose(0, 2, 3, 1)
    want = compiled((B.sum(axis=(2, 3)) * K).sum(axis=1), input_var=first,
                    target=lambda z: z, method='gradcam', layer=B, mode=None)
    got = compiled((A.sum(axis=(1, 2)) * K).sum(axis=1), input_var=x,
                   target=lambda z: z, method='gradcam', layer=A, mode=None,
                   data_format=given)
    close(got(images), want(IMAGES).transpose(0, 2, 3, 1), 'float64')


def test_gradcam_at_the_size_of_the_layer():
    network = convnet()
    x = saliency_input(network)
    cam, A = [theano.function([x], v, mode=PY)(IMAGES) for v in (
        saliency_map(network, None, 1, 'gradcam', layer='convolution',
                     resize=False),
        get_output(network.input_layer.input_layer))]
    model = ConvModel(network)
    for image, small, a in zip(IMAGES, cam, A):
        g = model.gradient_at_layer(image, 1, reference.plain)
        assert small.shape == a.shape[1:]
        np.testing.assert_allclose(small, reference.relu(
            sum(g[c].mean() * a[c] for c in range(len(a)))))
    # a layer of another rank than the input has no other map
    words = T.dmatrix('words')
    A = words.dimshuffle(0, 'x', 1) * np.array([[[1.], [2.]]])
    options = dict(target=lambda z: z, method='gradcam', input_var=words,
                   layer=A, data_format='channels_first')
    f = compiled(A[:, 1].sum(axis=1), resize=False, **options)
    np.testing.assert_allclose(f(X), 2 * reference.relu(X))
    with pytest.raises(TypeError, match='pass resize=False'):
        compiled(A[:, 1].sum(axis=1), **options)


def test_what_gradcam_refuses():
    x = T.dtensor4('x')
    A = channels_last(x)
    z = A.sum(axis=(1, 2, 3))
    options = dict(target=lambda z: z, method='gradcam', input_var=x)
    with pytest.raises(ValueError, match='has channels_last, not channels_first'):
        saliency_map(z, layer=A, data_format='channels_first', **options)
    A = x ** 2
    for wrong in None, 'last':
        with pytest.raises(ValueError, match="expected data_format='channels_fi"):
            saliency_map(A.sum(axis=(1, 2, 3)), layer=A, data_format=wrong,
                         **options)
    with pytest.raises(TypeError, match='expected a layer of shape .*NoneType'):
        saliency_map(convnet(), method='gradcam')
    with pytest.raises(TypeError, match='expected a layer of shape .*matrix'):
        saliency_map(mlp()[0], method='gradcam', layer='first')


def disagreement():
    """A layer whose channels are the second axis, those of x the last one."""
    x = T.dtensor4('x')
    z = T.nnet.conv2d(x.dimshuffle(0, 3, 1, 2), CONVOLUTION, border_mode='full')
    A = T.nnet.relu(z[:, :, 1:, 1:])
    options = dict(target=lambda z: z, method='gradcam', input_var=x, layer=A)
    return x, A, A.sum(axis=(1, 2, 3)), options


def test_gradcam_where_layer_and_input_disagree():
    _, _, z, options = disagreement()
    for given in None, 'channels_first':
        with pytest.raises(ValueError, match='the input has not: pass resize=F'):
            saliency_map(z, data_format=given, **options)
    with pytest.raises(ValueError, match='has channels_first, not channels_la'):
        saliency_map(z, data_format='channels_last', **options)


@pytest.mark.slow
def test_gradcam_of_such_a_layer_at_its_own_size():
    x, A, z, options = disagreement()
    images = IMAGES.transpose(0, 2, 3, 1)
    cam, a = [v.eval({x: images}) for v in (
        saliency_map(z, resize=False, **options), A)]
    np.testing.assert_allclose(cam, a.sum(axis=1))


@pytest.mark.parametrize('options, error, says', [
    (dict(method='smoothgrad', samples=0), ValueError, 'samples to be a positi'),
    (dict(method='smoothgrad', samples=2.), ValueError, 'got float'),
    (dict(method='integrated_gradients', steps=0), ValueError, 'steps'),
    (dict(method='integrated_gradients', baseline=np.zeros((1, 1, 4))),
     TypeError, 'a baseline of at most 2 dimensions'),
    (dict(method='integrated_gradients', target=lambda z: z[:, 0].sum()),
     TypeError, 'one score for each sample'),
])
def test_what_methods_refuse(net, options, error, says):
    with pytest.raises(error, match=says):
        saliency_map(net, **options)


def test_a_rule_that_has_made_the_input():
    # the map is of the hidden variable, and its own rectifier has no part in it
    x = T.dmatrix('x')
    hidden = T.nnet.relu(x)
    output = T.dot(T.nnet.relu(T.dot(hidden, P)), P.T)
    h = reference.relu(X)
    z, g = h.dot(P), np.zeros((5, 4))
    g[:, 1] = 1
    want = reference.elementwise(reference.guided, z, g.dot(P)).dot(P.T)
    for function in (GuidedBackprop, lambda f: GuidedBackprop(f)):
        maps = saliency_map(output, function, 1, input_var=hidden)
        np.testing.assert_allclose(
            theano.function([x], maps, mode=PY)(X), want)
        f = compiled(output, function, 1, input_var=hidden)
        np.testing.assert_allclose(f(h), want)
