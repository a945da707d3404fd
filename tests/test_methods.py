import numpy as np
import pytest
import theano.tensor as T
from lasagne.layers import get_output

from gradmod import GuidedBackprop, saliency_map
from gradmod.saliency import METHODS
from gradmod._theano import change_flags

from . import reference
from .models import (CLASSES, LABELS, OPTIONS, P, PY, X, Model, best, close,
                     compiled, convnet, mlp, restated, saliency_input, value)

pytestmark = pytest.mark.usefixtures('no_compiler')


@pytest.mark.parametrize('rule, dtype, mode', [
    (None, 'float64', PY), (GuidedBackprop, 'float32', PY), pytest.param(
        GuidedBackprop, 'float32', 'FAST_RUN', marks=pytest.mark.slow)],
    ids=['plain', 'guided', 'C'])
@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_methods(method, rule, dtype, mode):
    net, weights = mlp(dtype)
    model, options = Model(weights, rule), OPTIONS[method]
    images = X.astype(dtype)
    every = np.array([restated(method, model, images, [c] * 5, **options)
                      for c in range(CLASSES)])
    predicted = best(model, images)
    assert len(set(predicted)) > 1

    f = compiled(net, rule, method=method, mode=mode, **options)
    close(f(images), every[predicted, range(5)], dtype)
    close(f(images, 'max'), every[predicted, range(5)], dtype)
    close(f(images, 1), every[1], dtype)
    close(f(images, LABELS.tolist(), batch_size=2), every[LABELS, range(5)],
          dtype)
    f = compiled(net, rule, 'all', method, mode=mode, **options)
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
        close(value(maps, {saliency_input(net): X}), 2 * one - two, 'float64')


def test_smoothgrad_has_the_class_of_the_image_but_the_function_of_a_copy():
    # one class for each pixel: the map of class c is 1 at c and 0 elsewhere
    x = T.dmatrix('x')
    image = np.array([[1., 1.01, 0, .99]])
    f = compiled(x * np.ones(4), input_var=x, method='smoothgrad', sigma=2)
    np.testing.assert_allclose(f(image), [[0, 1, 0, 0]], atol=1e-15)
    f = compiled(x * np.ones(4), input_var=x, method='smoothgrad', sigma=2,
                 samples=40, target=lambda z: z.max(axis=1))
    assert (f(image) > 0).all()
    np.testing.assert_allclose(f(image).sum(), 1)


def test_smoothgrad_depends_on_nothing_but_the_image_and_the_seed(net):
    f = compiled(net, method='smoothgrad', samples=3)
    maps = f(X)
    np.testing.assert_array_equal(f(X), maps)
    np.testing.assert_allclose(f(X[3:4])[0], maps[3], rtol=1e-12)
    np.testing.assert_allclose(f(X, batch_size=2), maps, rtol=1e-12)
    last, three, same = [
        compiled(net, method='smoothgrad', samples=3, seed=seed)(X)
        for seed in (2**32 - 1, 3, np.int64(3))]
    np.testing.assert_array_equal(three, same)
    for a, b in (maps, three), (maps, last), (three, last):
        assert abs(a - b).max() > 1e-4
    still = compiled(net, method='smoothgrad', sigma=0)(X)
    np.testing.assert_allclose(still, compiled(net)(X), rtol=1e-12)


@pytest.mark.parametrize('type, images, rtol', [
    (T.fmatrix, X, 1e-4),  # the weights are of float64
    (T.TensorType('float64', (True, False)), X[:1], 1e-10)])
def test_inputs_of_other_types(net, weights, type, images, rtol):
    x = type('x')
    output = get_output(net, x)
    assert output.dtype == 'float64'
    for method in sorted(OPTIONS):
        maps = saliency_map(output, input_var=x, method=method)
        assert maps.type == x.type
        want = restated(method, Model(weights), images,
                        best(Model(weights), images))
        np.testing.assert_allclose(value(maps, {x: images.astype(x.dtype)}),
                                   want, rtol=rtol, atol=rtol / 10)


def test_no_float64_where_all_is_float32():
    mlp32, convnet32 = mlp('float32')[0], convnet('float32')
    with change_flags(floatX='float32', warn_float64='raise'):
        for method in METHODS:
            options = OPTIONS.get(method, {})
            net = mlp32
            if 'cam' in method:
                net, options = convnet32, {'layer': 'convolution'}
            for target in None, 'all':
                saliency_map(net, None, target, method, **options)


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


def each(z):
    """The score of a sample that every logit takes part in alike."""
    return z.sum(axis=1)


A, B = np.array([[1., 2], [-1, .5]]), np.array([[3., 1], [2, 2]])


def test_defaults_in_closed_form():
    x = T.dmatrix('x')
    f = compiled(x ** 3, input_var=x, method='smoothgrad', target=each)
    noise = np.random.RandomState(0).normal(size=(50, 2))
    np.testing.assert_allclose(f(A), [
        (3 * (v + .15 * np.ptp(v) * noise) ** 2).mean(axis=0) for v in A],
        rtol=1e-12)
    f = compiled(x ** 3, input_var=x, method='integrated_gradients',
                 target=each)
    np.testing.assert_allclose(f(A), [
        v * np.mean([3 * ((k + .5) / 50 * v) ** 2 for k in range(50)], axis=0)
        for v in A], rtol=1e-12)


@pytest.mark.parametrize('method', ['integrated_gradients', 'deeplift'])
def test_baselines_of_several_inputs_in_closed_form(method):
    a, b = T.dmatrices('ab')
    several = np.array([[0., 1], [2, 3], [4, 4]])
    # of a several, and of b a variable made from b; one, and a number; one for
    # both
    for baseline, *want in [
            ([several, b / 2], 3 * (A - several.mean(axis=0)), B ** 2 * 3 / 4),
            ([several[:1], 1], 3 * (A - several[0]), B ** 2 - 1),
            (1, 3 * (A - 1), B ** 2 - 1)]:
        maps = compiled(3 * a + b ** 2, input_var=[a, b], target=each,
                        method=method, baseline=baseline)([A, B])
        np.testing.assert_allclose(maps, want)
    for wrong, says in [
            ([0, 1, 2], 'each of 2 inputs, got 3'),
            ([several, several[:2]], r'as many .* got \[3, 2\]')]:
        with pytest.raises(ValueError, match=says):
            saliency_map(a + b, method=method, input_var=[a, b],
                         baseline=wrong)


def test_completeness_error_in_closed_form():
    x = T.dmatrix('x')
    f = compiled(x ** 3 + 1, input_var=x, method='integrated_gradients',
                 target='all', steps=2, baseline=-3)
    # from b to x by two steps: the rule of the midpoint
    b, d = -3, A + 3
    want = d * 3 * ((b + .25 * d) ** 2 + (b + .75 * d) ** 2) / 2
    maps, _, _, _, error = f.explain(A)
    np.testing.assert_allclose(maps, want[:, :, np.newaxis] * np.eye(2))
    np.testing.assert_allclose(error, A ** 3 - b ** 3 - want)
    assert abs(error).min() > .1
    maps = saliency_map(x ** 3 + 1, None, 'all', 'integrated_gradients', x,
                        steps=2, baseline=-3)
    np.testing.assert_allclose(value(maps.tag.completeness_error, {x: A}), error)


@pytest.mark.parametrize('options, error, says', [
    (dict(method='smoothgrad', samples=0), ValueError, 'samples'),
    (dict(method='smoothgrad', samples=2.), ValueError, 'samples'),
    (dict(method='integrated_gradients', steps=0), ValueError, 'steps'),
    (dict(method='integrated_gradients', baseline=np.zeros((1, 1, 4))),
     TypeError, 'a baseline of at most 2 dimensions'),
    (dict(method='integrated_gradients', target=lambda z: z[:, 0].sum()),
     TypeError, 'one score for each sample')])
def test_what_methods_refuse(net, options, error, says):
    with pytest.raises(error, match=says):
        saliency_map(net, **options)


def test_a_rule_that_has_made_the_input():
    # the map is of the hidden variable, whose own rectifier takes no part
    x = T.dmatrix('x')
    hidden = T.nnet.relu(x)
    output = T.dot(T.nnet.relu(T.dot(hidden, P)), P.T)
    h = reference.relu(X)
    want = reference.elementwise(
        reference.guided, h.dot(P), P[[1] * 5]).dot(P.T)
    for function in (GuidedBackprop, lambda f: GuidedBackprop(f)):
        maps = saliency_map(output, function, 1, input_var=hidden)
        np.testing.assert_allclose(value(maps, {x: X}), want)
        f = compiled(output, function, 1, input_var=hidden)
        np.testing.assert_allclose(f(h), want)
