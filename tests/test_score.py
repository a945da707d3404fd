import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (ConcatLayer, DenseLayer, EmbeddingLayer,
                            InputLayer, get_all_layers, get_all_param_values,
                            get_output)
from lasagne.nonlinearities import softmax

import gradmod
from gradmod import GuidedBackprop, saliency_map
from gradmod.score import Score

from . import reference
from .models import (CLASSES, IMAGES, LABELS, OPTIONS, PY, RULES, X, ConvModel,
                     Model, best, close, compiled, convnet, mlp, pairs,
                     restated, saliency_input, value)

pytestmark = pytest.mark.usefixtures('no_compiler')
B = np.random.RandomState(2).randn(5, 2)


def test_wrong_layers():
    x, net = T.dtensor4('x'), convnet()
    twice = DenseLayer(DenseLayer(InputLayer((None, 3)), 4, name='a'), 5,
                       name='a')
    for network, layer, says in [
            (2 * x, T.exp(x), 'not made from'), (twice, 'a', 'fits 2'),
            (net, 'convolutoin', "fits 0.*'convolution'"),
            (net, x, 'InputLayer'), (net, InputLayer((1, 2)), 'fits 0')]:
        with pytest.raises(ValueError, match=says):
            saliency_map(network, method='gradcam', layer=layer,
                         input_var=None if network in (net, twice) else x)


def test_ties_go_to_one_class():
    x = T.dmatrix('x')
    z = x.dot(np.array([[1., 1, 0], [2, 3, 0]]))  # equal where x is (1, 0)
    maps = value(saliency_map(z, input_var=x), {x: [[1., 0]]})
    np.testing.assert_array_equal(maps, [[1, 2]])


@pytest.mark.parametrize('target, classes', [
    (1, [1] * 5), (LABELS.astype('uint8'), LABELS), (T.constant(2), [2] * 5),
    (theano.shared(LABELS), LABELS)], ids=str)
def test_targets_of_expressions(net, weights, target, classes):
    x, output = saliency_input(net), get_output(net)
    for method, options in [('gradient', {}),
                            ('integrated_gradients', {'steps': 2})]:
        maps = saliency_map(output, None, target, method, x, **options)
        close(value(maps, {x: X}), restated(
            method, Model(weights), X, classes, **options), 'float64')


@pytest.mark.parametrize('type', [
    T.lscalar, T.ivector, T.TensorType('uint8', (False,))], ids=str)
def test_symbolic_targets(net, weights, type):
    y = type('y')
    classes = np.asarray(LABELS if y.ndim else 1, y.dtype)
    f = theano.function([saliency_input(net), y], saliency_map(net, target=y),
                        mode=PY)
    close(f(X, classes), restated(
        'gradient', Model(weights), X, classes + 0 * LABELS), 'float64')
    # no classes; and one that would broadcast
    for wrong in [np.full_like(classes, CLASSES), classes[:1] if y.ndim
                  else np.int64(-1)]:
        with pytest.raises(AssertionError, match='target'):
            f(X, wrong)


def test_wrong_targets(net):
    for error, says, targets in [
            (TypeError, 'target to be None', [
                'given', 1.5, True, np.full((2, 2), 2), np.ones((2, 2, 2), int)]),
            (TypeError, 'target that is a variable', [
                T.vector(), T.lvector() > 0, T.lmatrix()]),
            (ValueError, 'no class for sample 0', [np.zeros((2, 2), int)]),
            (ValueError, 'from 0 to', [-1, [0, -2]]),
            (TypeError, 'target to give one float', [
                lambda z: z, lambda z: 1, lambda z: z.argmax(axis=1)])]:
        for target in targets:
            with pytest.raises(error, match=says):
                saliency_map(net, target=target)


def test_a_class_that_does_not_exist(net):
    x, y = saliency_input(net), T.lscalar()
    f = theano.function([x, y], saliency_map(net, target=y), mode=PY)
    for wrong in -1, CLASSES:
        with pytest.raises(AssertionError, match='target'):
            f(X, wrong)
    for target in 3, [0, 1, 3, 0, 1], [0, 1]:
        with pytest.raises(AssertionError, match='target'):
            value(saliency_map(net, target=target), {x: X})
    with pytest.raises(ValueError, match='from 0 to 2, got 3'):
        compiled(net, target=3)
    f = compiled(get_output(net), input_var=x)
    labels = np.uint64([1, 2, 0, 1, 1]) - np.uint64(1)  # one wraps around
    for target in -1, labels, 2**64 - 1, np.uint64(2**63):
        with pytest.raises(ValueError, match='from 0'):
            f(X, target)
    with pytest.raises(AssertionError, match='target'):
        f(X, 3)


def test_outputs_of_other_shapes():
    x = T.dtensor4('x')
    with pytest.raises(TypeError, match='another target'):
        saliency_map(2 * x, input_var=x)

    def score(z):
        return z[:, 0].sum(axis=(1, 2))
    got = value(saliency_map(2 * x, target=score, input_var=x), {x: IMAGES})
    np.testing.assert_array_equal(got, [[[[2]], [[0]]]] + 0 * IMAGES)
    f = compiled(convnet().input_layer.input_layer, None, score)
    assert f(IMAGES).shape == IMAGES.shape and f.classes is None


def test_expressions(net, weights):
    output, x = get_output(net), saliency_input(net)
    np.testing.assert_allclose(value(Score(net).z, {x: X}),
                               [Model(weights).logits(v) for v in X])
    for rule in RULES:
        want = restated('gradient', Model(weights, rule), X,
                        best(Model(weights), X))
        f = compiled(output, rule, input_var=x)
        assert f.inputs[0].shape == (None, None) and f.classes is None
        close(f(X), want, 'float64')
        close(value(saliency_map(output, rule, input_var=x), {x: X}), want,
              'float64')
    with gradmod.modified(net, GuidedBackprop):
        output = get_output(net)
    close(compiled(output, input_var=x)(X), want, 'float64')


def head(*inputs):
    """A network of some layers side by side."""
    net = DenseLayer(ConcatLayer(inputs), 6, b=lasagne.init.Normal(.5))
    return DenseLayer(net, CLASSES, nonlinearity=softmax)


def two_inputs():
    """A network of a, of shape (n, 4), and b, of shape (n, 2), and weights."""
    a = InputLayer((None, 4), T.dmatrix('a'), name='image')
    b = InputLayer((None, 2), T.dmatrix('b'), name='age')
    net = head(a, b)
    return net, a.input_var, b.input_var, pairs(get_all_param_values(net))


@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_several_inputs(method):
    net, a, b, weights = two_inputs()
    both, options = np.concatenate([X, B], axis=1), dict(OPTIONS[method])
    own = dict(options)
    if method == 'integrated_gradients':
        options['baseline'] = [np.array([1, 0, -1, 2]), .5]
        own['baseline'] = np.array([1, 0, -1, 2, .5, .5])
    if method == 'smoothgrad':
        # the noise of each input is its own
        options.update(sigma=[0, .3])
        want = smooth_in_b(weights, both, **own)
    else:
        want = restated(method, Model(weights), both, LABELS, **own)
    f = compiled(net, method=method, **options)
    details = f.explain([X, B], LABELS, batch_size=2)
    for k, part in enumerate(np.split(want, [4], axis=1)):
        close(details.maps[k], part, 'float64')
    maps = f({'age': B, 'image': X}, LABELS)
    assert list(maps) == ['image', 'age']
    np.testing.assert_array_equal(maps['age'], f((X, B), LABELS)[1])
    if method != 'smoothgrad':  # whose noise depends on the order
        maps = saliency_map(get_output(net), None, LABELS, method, [b, a], **{
            name: v[::-1] if isinstance(v, list) else v
            for name, v in options.items()})
        got = value(maps, {a: X, b: B})
        np.testing.assert_allclose(got[1], want[:, :4], rtol=1e-10)


def smooth_in_b(weights, both, samples, sigma, seed):
    total = 0
    for e in np.random.RandomState([seed, 1]).normal(size=(samples, 2)):
        at = both.copy()
        at[:, 4:] += sigma * np.ptp(B, axis=1)[:, np.newaxis] * e
        total = total + restated('gradient', Model(weights), at, LABELS)
    return total / samples


def test_one_of_several_inputs():
    net, a, b, weights = two_inputs()
    want = restated('gradient', Model(weights),
                    np.concatenate([X, B], axis=1), LABELS)
    for wrt in 'age', get_all_layers(net)[1]:
        close(compiled(net, wrt=wrt)([X, B], LABELS), want[:, 4:], 'float64')
    maps = saliency_map(net, target=LABELS, input_var=b)
    close(value(maps, {a: X, b: B}), want[:, 4:], 'float64')
    with pytest.raises(ValueError, match=r'\[a, b\], got a variable'):
        saliency_map(net, input_var=T.dmatrix('c'))
    with pytest.raises(ValueError, match=r'depends on \[a\].*givens=\{a: '):
        compiled(net, input_var=b)
    f = compiled(net, input_var=b, givens={a: X})
    close(f(B, LABELS), want[:, 4:], 'float64')


def test_inputs_of_one_variable():
    # as in siamese networks: the map is of the variable, once
    x = T.dtensor3('x')
    a, b = [InputLayer((None, 4), x[:, i], name='input') for i in range(2)]
    net = lasagne.layers.ElemwiseSumLayer([a, b], coeffs=[1, 2])
    f = compiled(DenseLayer(net, 2, nonlinearity=None), target=1)
    maps = f(np.array([X, X]).swapaxes(0, 1))
    assert maps.shape == (5, 2, 4) and maps.any()
    np.testing.assert_allclose(maps[:, 1], 2 * maps[:, 0])
    assert saliency_map(net, target=1).ndim == 3


def test_inputs_of_one_name():
    f = compiled(ConcatLayer([InputLayer((None, 4), T.dmatrix(), name='a')
                              for _ in range(2)]))
    with pytest.raises(TypeError, match=r"\['a', 'a'\]"):
        f({'a': X})
    assert len(f([X, X])) == 2


def test_a_layer_that_others_have_for_their_own():
    hidden = DenseLayer(InputLayer((None, 4), T.dmatrix()), 3, name='first')
    dropped = lasagne.layers.DropoutLayer(hidden, name='drop')
    assert 'respect to first of' in repr(compiled(dropped, wrt='first'))


WORDS = np.array([[0, 1, 2], [3, 3, 6], [5, 0, 4], [1, 1, 1], [6, 2, 0]])


@pytest.fixture
def embedding():
    """A layer of the indices of words."""
    return EmbeddingLayer(InputLayer((None, 3), T.lmatrix(), name='words'), 7, 2,
                          W=lasagne.init.Normal(1.), name='embedding')


def test_embeddings(embedding):
    net = head(lasagne.layers.FlattenLayer(embedding),
               InputLayer((None, 4), T.dmatrix(), name='a'))
    table, *values = get_all_param_values(net)
    images = X[[0] * 5]
    at = np.concatenate([table[WORDS].reshape(5, 6), images], axis=1)
    want = restated('gradient_x_input', Model(pairs(values)), at, LABELS)
    f = compiled(net, wrt='embedding', method='gradient_x_input')
    close(f([WORDS, images], LABELS), want[:, :6].reshape(5, 3, 2), 'float64')
    # of integers there is no map
    maps = compiled(net, method='gradient_x_input')(
        {'words': WORDS, 'a': images}, LABELS)
    assert maps['words'] is None
    close(maps['a'], want[:, 6:], 'float64')


def test_integers_say_what_to_do(embedding):
    net = DenseLayer(embedding, 2)
    with pytest.raises(TypeError, match='got a variable of type .* by wrt'):
        saliency_map(net)
    f = compiled(net, GuidedBackprop, wrt='embedding')
    assert f(WORDS).shape == (5, 3, 2)
    assert repr(f) == ('<saliency function: gradient with respect to '
                       'embedding under GuidedBackprop of int64 (None, 3)>')
    np.testing.assert_array_equal(f(WORDS.tolist()), f(WORDS))
    for wrong in WORDS + .5, (WORDS + .5).tolist():  # which would be cut off
        with pytest.raises(TypeError, match='int64'):
            f(wrong)


@pytest.mark.parametrize('method, rule', [
    (method, None) for method in sorted(OPTIONS)]
    + [('gradient', GuidedBackprop)])
def test_hidden_layers(net, weights, method, rule):
    h = reference.relu(X.dot(weights[0][0]) + weights[0][1])
    options = dict(OPTIONS[method])
    if method == 'integrated_gradients':
        options['baseline'] = .25
    want = restated(method, Model(weights[1:], rule), h, LABELS, **options)
    f = compiled(net, rule, method=method, wrt='first', **options)
    close(f(X, LABELS, batch_size=2), want, 'float64')
    # the same of an expression
    x = saliency_input(net)
    hidden, output = get_output([get_all_layers(net)[1], net])
    f = compiled(output, rule, None, method, x, wrt=hidden, **options)
    close(f(X, LABELS), want, 'float64')
    maps = saliency_map(output, rule, LABELS, method, wrt=hidden, **options)
    close(value(maps, {x: X}), want, 'float64')
    with pytest.raises(TypeError, match='expected input_var'):
        compiled(output, rule, method=method, wrt=hidden)


@pytest.mark.parametrize('rule', RULES, ids=['plain', 'guided'])
def test_units(rule):
    net = convnet()
    model = ConvModel(net)
    layer = get_all_layers(net)[1]
    active = np.array([reference.relu(model.z(x)) for x in IMAGES])
    c, i, j = np.unravel_index(active.min(axis=0).argmax(), active.shape[1:])
    g = np.zeros(active.shape[1:])
    g[c, i, j] = 1
    want = np.array([model.from_layer(x, g, RULES[rule]) for x in IMAGES])
    for network, target in [(net, ('convolution', c, i, j)),
                            (layer, (c, i, j)),
                            (get_output(layer), (c, i - 3, j))]:
        f = compiled(network, rule, target, input_var=saliency_input(net))
        details = f.explain(IMAGES)
        close(details.maps, want, 'float64')
        assert details.logits is details.classes is None
    np.testing.assert_allclose(details.scores, active[:, c, i, j])
    g[c] = 1
    close(compiled(net, rule, ('convolution', c))(IMAGES), np.array(
        [model.from_layer(x, g, RULES[rule]) for x in IMAGES]), 'float64')


def test_units_that_do_not_exist():
    twice = DenseLayer(DenseLayer(InputLayer((None, 3)), 4, name='a'), 5,
                       name='a')
    with pytest.raises(ValueError, match='fits 2'):
        saliency_map(twice, target=('a', 0))
    net = convnet()
    layer = net.input_layer.input_layer
    for target, error, says in [
            ((3,), IndexError, ''), ((-4,), IndexError, ''),
            ((0, 0), IndexError, ''), (('convolution', 4), IndexError, ''),
            ((layer, 0, 99), IndexError, ''),
            (('convolution', 0, 0, 0, 0), IndexError, ''),
            (('convoluton', 1), ValueError, "'convolution'"),
            ((1.5, 1), ValueError, '1.5'),
            (('convolution',), TypeError, 'unit'), ((), TypeError, 'unit'),
            ((0, 'a'), TypeError, 'unit')]:
        with pytest.raises(error, match=says):
            saliency_map(net, target=target)
    for target in (-3,), ('convolution', -1, 0), (layer, -1, 0):
        assert saliency_map(net, target=target).ndim == 4


def test_several_classes_of_a_sample(net, weights):
    every = np.array([restated('gradient', Model(weights), X, [c] * 5)
                      for c in range(CLASSES)])
    hot = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]])
    want = np.einsum('nc,cnk->nk', hot, every)
    f = compiled(net)
    for target in hot, hot.astype(bool), hot.astype('float32'), hot.tolist():
        details = f.explain(X, target, batch_size=2)
        close(details.maps, want, 'float64')
        maps = saliency_map(net, target=target)
        close(value(maps, {saliency_input(net): X}), want, 'float64')
    np.testing.assert_array_equal(details.classes, [
        [1, 2, -1], [0, -1, -1], [2, -1, -1], [0, 1, 2], [1, -1, -1]])
    np.testing.assert_allclose(details.scores,
                               (details.logits * hot).sum(axis=1))
    np.testing.assert_array_equal(
        f.explain(X, np.eye(3)[LABELS]).classes, LABELS)
    for wrong, says in [(np.ones((5, 2)), '3 classes, got 2'),
                        (hot * [[1], [0], [1], [1], [1]], 'for sample 1'),
                        (hot[:4], 'for each of 5 images')]:
        with pytest.raises(ValueError, match=says):
            f(X, wrong)


def test_several_classes_of_an_expression():
    x = T.dmatrix('x')  # whose number of classes is not known
    f = compiled(3 * x, input_var=x)
    close(f(X, np.eye(4)[LABELS]), 3 * np.eye(4)[LABELS], 'float64')
    for columns in 1, 3, 5:
        hot = np.eye(columns)[[0] * 5]
        with pytest.raises(ValueError, match=f'4 classes, got {columns}'):
            f(X, hot)
        with pytest.raises(AssertionError, match='ones'):
            value(saliency_map(3 * x, None, hot, input_var=x), {x: X})


def test_wrong_networks(net):
    x, y = T.dmatrix('x'), T.dmatrix('y')
    for network, options, error, says in [
            ([net], {}, TypeError, 'network'),
            (x, {}, TypeError, 'input_var'),
            (x, dict(input_var=T.dvector()), TypeError, 'input_var'),
            (1. * T.lmatrix(), dict(input_var=T.lmatrix()), TypeError, ''),
            (x > 0, dict(input_var=x), TypeError, 'float'),
            (2 * y, dict(input_var=x), ValueError, 'not made from x'),
            (net, dict(wrt='secnd'), ValueError, "'second'"),
            (T.exp(x), dict(input_var=[x, T.exp(x)]), ValueError, 'wrt'),
            (net, dict(rule=3), TypeError, '')]:
        with pytest.raises(error, match=says):
            saliency_map(network, **options)
    assert net.nonlinearity is softmax


def test_an_input_layer_of_an_expression():
    x, y = T.dmatrices('xy')
    network = DenseLayer(InputLayer((None, 4), x * 2 - 1), 3,
                         nonlinearity=None)
    W = network.W.get_value()
    for input_var in None, network.input_layer.input_var, x:
        f = compiled(network, input_var=input_var)
        z = (2 * X - 1).dot(W)
        np.testing.assert_allclose(f(X), 2 * W.T[z.argmax(axis=1)])
        assert f.inputs[0].shape == (None, None)
    for wrong in T.bmatrix('raw') / np.float32(2), x + y:
        with pytest.raises(ValueError, match='input layer has an expression'):
            compiled(InputLayer((None, 4), wrong))
    network = DenseLayer(InputLayer((None, 4), x * y), 3, W, nonlinearity=None)
    maps = saliency_map(network, target=1, input_var=x)
    np.testing.assert_allclose(value(maps, {x: X, y: X}), X * W[:, 1])
    with pytest.raises(ValueError, match=r'\[.*mul.*, x, y\], got a v'):
        saliency_map(network, input_var=T.dmatrix('z'))


@pytest.mark.parametrize('rule', [
    {'first': GuidedBackprop}, {'first': lambda f: GuidedBackprop(f)}])
def test_a_rule_for_a_layer_by_its_name(net, weights, rule):
    x = saliency_input(net)
    with gradmod.modified(net, rule):
        output = get_output(net, deterministic=True)
    want = compiled(output, input_var=x)(X)
    np.testing.assert_allclose(compiled(net, rule)(X), want, rtol=1e-12)
    for every in None, GuidedBackprop:
        assert abs(compiled(net, every)(X) - want).max() > 1e-3


def test_a_rectifier_within_a_layer():
    net, weights = mlp()
    second = net.input_layer
    linear = second.get_output_for
    second.nonlinearity = lasagne.nonlinearities.linear
    second.get_output_for = lambda z, **_: T.maximum(linear(z), 0)
    close(compiled(net, GuidedBackprop)(X, LABELS), restated(
        'gradient', Model(weights, GuidedBackprop), X, LABELS), 'float64')
