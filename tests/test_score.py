import functools

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (ConcatLayer, DenseLayer, EmbeddingLayer,
                            InputLayer)
from lasagne.nonlinearities import softmax

import gradmod
from gradmod import GuidedBackprop, saliency_map

from . import reference
from .models import (CLASSES, IMAGES, LABELS, OPTIONS, PY, RULES, X, ConvModel,
                     Model, best, close, compiled, convnet, restated,
                     saliency_input)

pytestmark = pytest.mark.usefixtures('no_compiler')
B = np.random.RandomState(2).randn(5, 2)


def test_wrong_layers():
    x = T.dtensor4('x')
    with pytest.raises(ValueError, match='the output is not made from'):
        saliency_map(x.flatten(2), input_var=x, method='gradcam', layer=T.exp(x))
    network = convnet()
    for layer, says in [('convolutoin', "perhaps you meant 'convolution'"),
                        (T.dtensor4(), "there are '#0 InputLayer', 'conv"),
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
    (np.full((2, 2), 2), TypeError), (T.vector(), TypeError),
    (np.zeros((2, 2), int), ValueError), (np.ones((2, 2, 2)), TypeError),
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
    with pytest.raises(TypeError, match='or a function or the indices'):
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
        assert f.inputs[0].shape == (None, None) and f.classes is None
        close(f(X), want, 'float64')
        f = theano.function([x], saliency_map(output, rule, input_var=x), mode=PY)
        close(f(X), want, 'float64')
    with gradmod.network.modified(net, GuidedBackprop):
        output = lasagne.layers.get_output(net)
    close(compiled(output, input_var=x)(X), want, 'float64')


def two_inputs():
    """A network of a, of shape (n, 4), and b, of shape (n, 2), and weights."""
    a = InputLayer((None, 4), T.dmatrix('a'), name='image')
    b = InputLayer((None, 2), T.dmatrix('b'), name='age')
    net = DenseLayer(ConcatLayer([a, b]), 6, b=lasagne.init.Normal(.5))
    net = DenseLayer(net, CLASSES, nonlinearity=softmax)
    values = lasagne.layers.get_all_param_values(net)
    return net, a.input_var, b.input_var, list(zip(values[::2], values[1::2]))


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
    expressions = saliency_map(lasagne.layers.get_output(net), None, LABELS,
                               method, [b, a], **{
                                   name: value[::-1] if isinstance(value, list)
                                   else value for name, value in options.items()})
    if method != 'smoothgrad':  # whose noise depends on the order
        got = theano.function([a, b], expressions, mode=PY)(X, B)
        np.testing.assert_allclose(got[1], want[:, :4], rtol=1e-10)


def smooth_in_b(weights, both, samples, sigma, seed):
    noise, total = np.random.RandomState([seed, 1]).normal(size=(samples, 2)), 0
    for e in noise:
        at = both.copy()
        at[:, 4:] += sigma * np.ptp(B, axis=1)[:, np.newaxis] * e
        total = total + restated('gradient', Model(weights), at, LABELS)
    return total / samples


def test_one_of_several_inputs():
    net, a, b, weights = two_inputs()
    want = restated('gradient', Model(weights),
                    np.concatenate([X, B], axis=1), LABELS)
    for wrt in 'age', lasagne.layers.get_all_layers(net)[1]:
        close(compiled(net, wrt=wrt)([X, B], LABELS), want[:, 4:], 'float64')
    f = theano.function([a, b], saliency_map(net, target=LABELS, input_var=b),
                        mode=PY)
    close(f(X, B), want[:, 4:], 'float64')
    with pytest.raises(ValueError, match=r'one of \[a, b\], got a variable'):
        saliency_map(net, input_var=T.dmatrix('c'))
    with pytest.raises(ValueError, match=r'depends on \[a\], too.*givens=\{a: '):
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
    x, y = T.dmatrices('xy')
    net = ConcatLayer([InputLayer((None, 4), v, name='a') for v in (x, y)])
    f = compiled(net)
    with pytest.raises(ValueError, match=r"a dict of \['a', 'a'\], got \['a'\]"):
        f({'a': X})
    assert len(f([X, X])) == 2


def test_a_layer_that_others_have_for_their_own():
    hidden = DenseLayer(InputLayer((None, 4), T.dmatrix()), 3, name='first')
    dropped = lasagne.layers.DropoutLayer(hidden, name='drop')
    assert 'respect to first of' in repr(compiled(dropped, wrt='first'))


def words():
    """A network of the indices of words, and of a matrix; its restatement."""
    w, a = T.lmatrix('w'), T.dmatrix('a')
    net = EmbeddingLayer(InputLayer((None, 3), w, name='words'), 7, 2,
                         W=lasagne.init.Normal(1.), name='embedding')
    net = ConcatLayer([lasagne.layers.FlattenLayer(net),
                       InputLayer((None, 4), a, name='a')])
    net = DenseLayer(net, 6, b=lasagne.init.Normal(.5))
    net = DenseLayer(net, CLASSES, nonlinearity=softmax)
    table, *values = lasagne.layers.get_all_param_values(net)
    return net, w, a, table, list(zip(values[::2], values[1::2]))


WORDS = np.array([[0, 1, 2], [3, 3, 6], [5, 0, 4], [1, 1, 1], [6, 2, 0]])


@pytest.mark.parametrize('method', sorted(set(OPTIONS) - {'smoothgrad'}))
def test_embeddings(method):
    net, w, a, table, weights = words()
    options, own = {}, {}
    if method == 'integrated_gradients':
        options, own = dict(baseline=.5), dict(baseline=np.r_[[.5] * 6, X[0]])
    images = np.repeat(X[:1], 5, axis=0)
    at = np.concatenate([table[WORDS].reshape(5, 6), images], axis=1)
    want = restated(method, Model(weights), at, LABELS, **own)
    close(compiled(net, wrt='embedding', method=method, **options)(
        [WORDS, images], LABELS), want[:, :6].reshape(5, 3, 2), 'float64')
    # of integers there is no map
    f = compiled(net, method=method)
    maps = f({'words': WORDS, 'a': images}, LABELS)
    assert maps['words'] is None
    if method != 'integrated_gradients':
        close(maps['a'], want[:, 6:], 'float64')


def test_integers_say_what_to_do():
    net = lasagne.layers.get_all_layers(words()[0])[1]
    net = DenseLayer(net, 2)
    with pytest.raises(TypeError, match='say by wrt which layer'):
        saliency_map(net)
    f = compiled(net, GuidedBackprop, wrt='embedding')
    assert f(WORDS).shape == (5, 3, 2)
    assert repr(f) == ('<saliency function: gradient with respect to embedding '
                       'under GuidedBackprop of int64 (None, 3)>')
    with pytest.raises(TypeError, match='expected images of dtype int64'):
        f(WORDS + .5)
    np.testing.assert_array_equal(f(WORDS.tolist()), f(WORDS))
    with pytest.raises(TypeError, match='expected images of dtype int64'):
        f((WORDS + .5).tolist())  # which would be cut off


@pytest.mark.parametrize('rule', RULES, ids=['plain', 'guided'])
@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_hidden_layers(net, weights, method, rule):
    h = reference.relu(X.dot(weights[0][0]) + weights[0][1])
    options = dict(OPTIONS[method])
    if method == 'integrated_gradients':
        options['baseline'] = .25
    want = restated(method, Model(weights[1:], rule), h, LABELS, **options)
    f = compiled(net, rule, method=method, wrt='first', **options)
    close(f(X, LABELS, batch_size=2), want, 'float64')
    # the same of an expression
    x, first = saliency_input(net), lasagne.layers.get_all_layers(net)[1]
    hidden, output = lasagne.layers.get_output([first, net])
    f = compiled(output, rule, method=method, wrt=hidden, input_var=x, **options)
    close(f(X, LABELS), want, 'float64')
    maps = saliency_map(output, rule, LABELS, method, wrt=hidden, **options)
    close(theano.function([x], maps, mode=PY)(X), want, 'float64')
    with pytest.raises(TypeError, match='expected input_var'):
        compiled(output, rule, method=method, wrt=hidden)


def test_what_has_no_map(net):
    with pytest.raises(ValueError, match="perhaps you meant 'second'"):
        saliency_map(net, wrt='secnd')
    h = T.exp(saliency_input(net))
    with pytest.raises(ValueError, match='made from another of .*: say one by wrt'):
        saliency_map(h ** 2, input_var=[saliency_input(net), h])


@pytest.mark.parametrize('rule', RULES, ids=['plain', 'guided'])
def test_units(rule):
    net = convnet()
    model = ConvModel(net)
    layer = lasagne.layers.get_all_layers(net)[1]
    active = np.array([reference.relu(model.z(x)) for x in IMAGES])
    c, i, j = np.unravel_index(active.min(axis=0).argmax(), active.shape[1:])
    g = np.zeros(active.shape[1:])
    g[c, i, j] = 1
    want = np.array([model.from_layer(x, g, RULES[rule]) for x in IMAGES])
    for network, target in ((net, ('convolution', c, i, j)), (layer, (c, i, j)),
                            (lasagne.layers.get_output(layer), (c, i - 3, j))):
        f = compiled(network, rule, target, input_var=saliency_input(net))
        details = f.explain(IMAGES)
        close(details.maps, want, 'float64')
        assert details.logits is details.classes is None
    np.testing.assert_allclose(details.scores, active[:, c, i, j])
    g[c] = 1
    close(compiled(net, rule, ('convolution', c))(IMAGES), np.array(
        [model.from_layer(x, g, RULES[rule]) for x in IMAGES]), 'float64')


def test_units_that_do_not_exist():
    net = convnet()
    with pytest.raises(ValueError, match="perhaps you meant 'convolution'"):
        saliency_map(net, target=('convoluton', 1))
    for wrong in (1, 2, 3, 4), (1.5,), ('convolution',), ():
        with pytest.raises((IndexError, TypeError, ValueError)):
            saliency_map(net, target=wrong)
    with pytest.raises(IndexError):
        compiled(net, target=('convolution', 4, 0, 0))(IMAGES)


def test_several_classes_of_a_sample(net, weights):
    every = np.array([restated('gradient', Model(weights), X, [c] * 5)
                      for c in range(CLASSES)])
    hot = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]])
    want = np.einsum('nc,cnk->nk', hot, every)
    f = compiled(net)
    for target in hot, hot.astype(bool), hot.astype('float32'), hot.tolist():
        details = f.explain(X, target, batch_size=2)
        close(details.maps, want, 'float64')
        close(theano.function([saliency_input(net)], saliency_map(
            net, target=target), mode=PY)(X), want, 'float64')
    np.testing.assert_array_equal(details.classes, [
        [1, 2, -1], [0, -1, -1], [2, -1, -1], [0, 1, 2], [1, -1, -1]])
    np.testing.assert_allclose(details.scores,
                               (details.logits * hot).sum(axis=1))
    x = T.dmatrix('x')  # an expression, whose number of classes is not known
    g = compiled(3 * x, input_var=x)
    close(g(X, np.eye(4)[LABELS]), 3 * np.eye(4)[LABELS], 'float64')
    for columns in 1, 3, 5:
        hot_ones = np.eye(columns)[[0] * 5]
        with pytest.raises(ValueError, match=f'4 classes, got {columns} columns'):
            g(X, hot_ones)
        with pytest.raises(AssertionError, match='zeros and ones of its shape'):
            saliency_map(3 * x, None, hot_ones, input_var=x).eval({x: X})
    one_hot = np.eye(3)[LABELS]
    np.testing.assert_array_equal(f.explain(X, one_hot).classes, LABELS)
    for wrong, says in [(np.ones((5, 2)), '3 classes, got 2'),
                        (hot - [[0], [1], [0], [0], [0]] * hot, 'for sample 1'),
                        (hot[:4], 'for each of 5 images')]:
        with pytest.raises(ValueError, match=says):
            f(X, wrong)


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
        assert f.inputs[0].shape == (None, None)
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
