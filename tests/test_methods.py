import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import get_output

from gradmod import GuidedBackprop, methods, saliency_map
from gradmod.saliency import METHODS
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
        maps, _, _, _, error = f.explain(X, LABELS, batch_size=2)
        want = [model.logits(x)[c] - model.logits(np.full(4, .5))[c] - m.sum()
                for x, c, m in zip(X, LABELS, maps)]
        np.testing.assert_allclose(error, want, atol=1e-12)
        errors[steps] = abs(error).max()
    assert errors[3] > 10 * errors[300] and errors[300] < .01

    f = compiled(net, method='integrated_gradients', target='all')
    error = f.explain(X, batch_size=3).completeness_error
    assert error.shape == (5, CLASSES) and abs(error).max() < .1
    f = compiled(net, GuidedBackprop, method='integrated_gradients')
    assert abs(f.explain(X).completeness_error).max() > .1


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
        for method in METHODS:
            cam = 'cam' in method
            options = dict(OPTIONS.get(method, {}))
            if cam:
                options['layer'] = 'convolution'
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


def test_baselines_of_several_inputs_in_closed_form():
    a, b = T.dmatrices('ab')
    A, B = np.array([[1., 2], [-1, .5]]), np.array([[3., 1], [2, 2]])
    several = np.array([[0., 1], [2, 3], [4, 4]])
    for method in 'integrated_gradients', 'deeplift':
        # of a several, and of b a variable made from b
        f = compiled(3 * a + b ** 2, input_var=[a, b], target=each,
                     method=method, baseline=[several, b / 2])
        maps = f([A, B])
        np.testing.assert_allclose(maps[0], 3 * (A - several.mean(axis=0)))
        np.testing.assert_allclose(maps[1], B ** 2 * 3 / 4)
        one, number = compiled(
            3 * a + b ** 2, input_var=[a, b], target=each, method=method,
            baseline=[several[:1], 1])([A, B])
        np.testing.assert_allclose(one, 3 * (A - several[0]))
        np.testing.assert_allclose(number, B ** 2 - 1)
        with pytest.raises(ValueError, match='each of 2 inputs, got 3'):
            saliency_map(a + b, method=method, input_var=[a, b],
                         baseline=[0, 1, 2])
        with pytest.raises(ValueError, match=r'as many .* got \[3, 2\]'):
            saliency_map(a + b, method=method, input_var=[a, b],
                         baseline=[several, several[:2]])


def test_completeness_error_in_closed_form():
    x = T.dmatrix('x')
    images = np.array([[1., 2], [-1, .5]])
    f = compiled(x ** 3 + 1, input_var=x, method='integrated_gradients',
                 target='all', steps=2, baseline=-3)
    # from b to x by two steps: the rule of the midpoint
    b, d = -3, images + 3
    value = d * 3 * ((b + .25 * d) ** 2 + (b + .75 * d) ** 2) / 2
    maps, _, _, _, error = f.explain(images)
    np.testing.assert_allclose(maps, value[:, :, np.newaxis] * np.eye(2))
    np.testing.assert_allclose(error, images ** 3 - b ** 3 - value)
    assert abs(error).min() > .1


# Grad-CAM of other shapes


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
