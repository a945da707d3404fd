import subprocess
import sys
import warnings

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (DenseLayer, InputLayer, Layer, NonlinearityLayer,
                            get_all_layers, get_all_params, get_output)
from lasagne.nonlinearities import rectify, softmax
from numpy.testing import assert_allclose, assert_array_equal

import gradmod
from gradmod import GuidedBackprop, ZeroBackprop
from gradmod._theano import graph_inputs
from gradmod.sanity import (RandomizationReport, class_sensitivity, permute,
                            plot_reports, randomization_test, spearman,
                            spearman_abs, ssim)

from . import reference
from .models import PY, RULES, pairs

pytestmark = pytest.mark.usefixtures('no_compiler')
CLASSES = 4
X = np.random.RandomState(1).randn(6, 5)


@pytest.fixture
def net():
    """A network of three named layers, in float64, and a parameter in none."""
    net = InputLayer((None, 5), T.dmatrix('x'))
    rng = np.random.RandomState(3)
    for name, n in ('first', 8), ('second', 9), ('logits', CLASSES):
        net = DenseLayer(net, n, W=rng.randn(net.output_shape[1], n),
                         b=rng.randn(n), name=name,
                         nonlinearity=None if name == 'logits' else rectify)
        if name == 'second':  # a frozen layer has learned as well
            net.params[net.W].discard('trainable')
    return NonlinearityLayer(net, softmax)


def run(network, *args, mode=PY, more=(), **kwargs):
    """The test; whatever happens, all weights are the same arrays after it."""
    params = [*more, *(
        (v for v in graph_inputs([network]) if hasattr(v, 'get_value'))
        if isinstance(network, theano.Variable) else get_all_params(network))]
    before = [(p, p.get_value(borrow=True), p.get_value()) for p in params]
    try:
        return randomization_test(network, *args, mode=mode, **kwargs)
    finally:
        for p, array, values in before:
            assert p.get_value(borrow=True) is array
            assert array.tobytes() == values.tobytes()


def as_expression(net):
    """The network and the options for the same as an expression."""
    return get_output(net), dict(input_var=get_all_layers(net)[0].input_var)


# The definitions, written down once more

def slow_ranks(values):
    """1 + how many are less + half of how many others are equal."""
    return [1 + sum(w < v for w in values)
            + (sum(w == v for w in values) - 1) / 2. for v in values]


def slow_spearman(a, b, absolute):
    if absolute:
        a, b = abs(a), abs(b)
    if a.ndim > 2:
        a, b = a.sum(axis=0), b.sum(axis=0)
    return np.corrcoef(slow_ranks(a.ravel()), slow_ranks(b.ravel()))[0, 1]


def slow_ssim(a, b):
    """For maps of 11 x 11 pixels, around which there is one window."""
    a, b = [(m - m.min()) / (m.max() - m.min()) for m in (a, b)]
    w = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5 ** 2))
    w = np.outer(w, w) / w.sum() ** 2
    results = []
    for u, v in zip(a, b):
        mu, mv = (w * u).sum(), (w * v).sum()
        vu, vv, vuv = [121 / 120. * ((w * p).sum() - q) for p, q in (
            (u * u, mu ** 2), (v * v, mv ** 2), (u * v, mu * mv))]
        results.append((2 * mu * mv + .01 ** 2) * (2 * vuv + .03 ** 2)
                       / ((mu ** 2 + mv ** 2 + .01 ** 2)
                          * (vu + vv + .03 ** 2)))
    return np.mean(results)


def maps_in_numpy(values, classes, rule=None):
    return reference.mlp_backward(X, pairs(values), np.eye(CLASSES)[classes],
                                  RULES[rule])


def logits_in_numpy(values):
    return reference.mlp_forward(X, pairs(values))[1]


def slow_cosines(a, b):
    return [sum(u * v) / (sum(u ** 2) * sum(v ** 2)) ** .5
            for u, v in zip(a, b)]


@pytest.mark.parametrize('absolute', [False, True])
@pytest.mark.parametrize('shape', [(7,), (3, 4), (3, 4, 5), (2, 3, 2, 3)])
def test_spearman(shape, absolute):
    rng = np.random.RandomState(0)
    a, b = rng.randint(-3, 4, (2, 4) + shape)  # with many ties
    b += a * rng.randint(0, 2, b.shape)
    want = [slow_spearman(u, v, absolute) for u, v in zip(a, b)]
    last = [np.moveaxis(v, 1, -1) if len(shape) > 2 else v for v in (a, b)]
    for maps, where in ((a.astype('float32'), b), ()), (last, [
            'channels_last']), ((a, b), ['channels_first']):
        got = spearman(*maps, absolute, *where)
        assert got.shape == (4,) and got.dtype == 'float64'
        assert_allclose(got, want, rtol=1e-12)
        if absolute:
            assert_array_equal(got, spearman_abs(*maps, *where))


def test_spearman_undefined():
    good = np.arange(5.)
    for bad in np.zeros(5), good * np.nan, np.array([1, 2, 3, 4, np.inf]):
        with np.errstate(all='raise'):
            got = spearman([good, good, bad], [good, bad, -good])
        assert_allclose(got, [1, np.nan, np.nan])


def test_ssim():
    a, noise = np.random.RandomState(0).randn(2, 6, 2, 11, 11)
    b = a + noise
    want = [slow_ssim(u, v) for u, v in zip(a, b)]
    assert_allclose(ssim(a, b), want, rtol=1e-9)
    last = np.moveaxis(a, 1, -1), np.moveaxis(b, 1, -1)
    assert_allclose(ssim(*last, 'channels_last'), want, rtol=1e-9)
    assert_allclose(ssim(a, 7 * a + 3), 1)  # the scale is their own
    b[1], b[2] = 5, -np.inf
    b[3, 0, 0, 0], b[4, 1, 5, 5], b[5, 0, 10, 3] = np.inf, -np.inf, np.nan
    with np.errstate(all='raise'):
        for got in ssim(a, b), ssim(b, a):
            assert list(np.isnan(got)) == [False] + [True] * 5
    for shape in (2, 11, 11), (2, 1, 10, 11):
        with pytest.raises(ValueError, match='11 x 11'):
            ssim(np.zeros(shape), np.zeros(shape))


def test_where_the_channels_are_is_not_guessed():
    maps = np.random.RandomState(0).randn(2, 12, 11, 4)
    for measure in spearman, spearman_abs, ssim:
        for bad in maps, maps[..., :1]:
            with pytest.raises(ValueError, match='data_format'):
                measure(bad, bad)
        with pytest.raises(KeyError, match='last'):
            measure(maps, maps, data_format='last')
        with pytest.raises(ValueError):
            measure(maps, maps[:1], data_format='channels_last')
    for shape in (2, 3, 4, 4), (2, 8, 8, 5), (2, 4, 8, 4), (2, 8, 1, 4), (
            2, 12, 4):
        maps = np.random.RandomState(0).randn(*shape)
        assert_allclose(spearman(maps, maps), 1)


@pytest.mark.parametrize('kind, rule, cascading', [
    ('layer', None, True), ('layer', GuidedBackprop, False),
    ('expression', None, False), ('expression', GuidedBackprop, True)])
def test_restated(net, kind, rule, cascading):
    trained = [p.get_value() for p in get_all_params(net)]
    logits = logits_in_numpy(trained)
    classes, others = logits.argsort(axis=1)[:, [-1, -2]].T
    maps = maps_in_numpy(trained, classes, rule)
    steps, how = {'logits': (4, 5), 'second': (2, 3), 'first': (0, 1)}, {}
    if kind == 'expression':
        steps = {p.name: (i,) for i, p in reversed(
            list(enumerate(get_all_params(net))))}
        net, how = as_expression(net)
    report = run(net, X, rule, cascading=cascading, seed=5, keep_maps=True,
                 **how)
    assert report.names == list(steps)
    assert report.cascading is cascading and report.unchanged == []
    assert_array_equal(report.classes, classes)
    assert_array_equal(report.others, others)
    assert_allclose(report.maps[0], maps, rtol=1e-9)
    assert_allclose(report.class_cosine, slow_cosines(
        maps, maps_in_numpy(trained, others, rule)), rtol=1e-9)

    values, moved = list(trained), False
    for step, numbers in enumerate(steps.values()):
        values = list(values if cascading else trained)
        for i in numbers:
            order = np.random.RandomState([5, i]).permutation(trained[i].size)
            values[i] = trained[i].ravel()[order].reshape(trained[i].shape)
        moved |= (logits_in_numpy(values).argmax(axis=1) != classes).any()
        now = maps_in_numpy(values, classes, rule)
        assert_allclose(report.maps[1 + step], now, rtol=1e-9)
        for absolute, name in enumerate(['spearman', 'spearman_abs']):
            assert_allclose(report.similarity[name][step], [
                slow_spearman(*pair, absolute) for pair in zip(maps, now)], 1e-9)
    assert moved  # or it would not matter which class


def test_what_draw_gets(net, monkeypatch):
    calls, function = [], theano.function
    trained = [p.get_value().tobytes() for p in get_all_params(net)]

    def draw(value, rng):
        calls.append((value.tobytes(), rng.rand()))
        value[...] = 7  # which is a copy
        return np.zeros(value.shape, 'int8')
    monkeypatch.setattr(theano, 'function', lambda *args, **kwargs: (
        calls.append('compiled'), function(*args, **kwargs))[1])
    report = run(net, X, draw=draw)
    assert calls == ['compiled'] + [  # for all maps and the logits
        (trained[i], np.random.RandomState([0, i]).rand())
        for i in (4, 5, 2, 3, 0, 1)]
    assert report.undefined == 18 and not report.zero.any()
    assert report.maps is None


@pytest.mark.parametrize('kind, where, cascading', [
    ('layer', 'draw', True), ('expression', 'draw', False),
    ('layer', 'measures', False), ('expression', 'measures', True)])
def test_restores_on_exceptions(net, kind, where, cascading):
    params, how = get_all_params(net), {}
    before = [(p, p.get_value(borrow=True)) for p in params]
    if kind == 'expression':
        net, how = as_expression(net)
        how['layers'] = {'all': params, 'again': params}

    def fail(*args):
        left[0] -= any(p.get_value(borrow=True) is not a for p, a in before)
        if not left[0]:
            raise error('now')
        return permute(*args) if where == 'draw' else np.zeros(len(X))
    for error, *left in (ValueError, 1), (KeyboardInterrupt, 2):
        with pytest.raises(error, match='now'):
            run(net, X, cascading=cascading, **{where: fail}, **how)


def test_options(net):
    output, how = as_expression(net)
    scale = T.dscalar()
    how.update(method='smoothgrad', samples=3, logits=False)
    report = run(output * scale, X, target=[3, 0, 1, 1, 2, 0], keep_maps=True,
                 givens={scale: np.array(3.)}, batch_size=4, **how)
    assert_allclose(
        report.maps[0], 3 * gradmod.compile_saliency_function(
            output, mode=PY, **how)(X, [3, 0, 1, 1, 2, 0]))
    assert report.description == 'smoothgrad'


def test_targets(net):
    logits = logits_in_numpy([p.get_value() for p in get_all_params(net)])
    labels = [3, 0, 1, 1, 2, 0]
    for target, classes in (2, [2] * 6), (labels, labels), (
            'max', logits.argmax(axis=1)):
        want = run(net, X, target=target, keep_maps=True)
        assert want.classes.tolist() == list(classes)
        others = logits.copy()
        others[range(6), classes] = -np.inf
        assert (want.others == others.argmax(axis=1)).all()
    report = run(net, X, target=lambda z: z.max(axis=1), keep_maps=True)
    assert_allclose(report.maps[0], want.maps[0], rtol=1e-9)
    with pytest.raises(TypeError, match='one class for each image'):
        run(net, X, target=np.ones(logits.shape))
    one = DenseLayer(net, 1)
    for report in report, run(one, X):
        assert report.others is report.class_cosine is None
        assert 'cosine' in repr(want) and 'cosine' not in repr(report)
    assert report.classes.tolist() == [0] * 6
    for network, target in (net, lambda z: z[:, 0]), (one, None):
        with pytest.raises(TypeError, match='class'):
            class_sensitivity(network, X, target=target, mode=PY)
    report = run(DenseLayer(net, 2), X)
    assert (report.classes + report.others == 1).all()


@pytest.mark.parametrize('bad, error', [
    ('all', TypeError), ('best', TypeError), (1.5, TypeError),
    ([0, 1], ValueError), ([2], ValueError), (4, ValueError),
    ([0, 1, 2, 3, -1, 0], ValueError)])
def test_bad_classes(net, bad, error):
    for test, how in [(run, dict(target=bad)),
                      (class_sensitivity, dict(target=bad)),
                      (class_sensitivity, dict(target=1, other=bad))]:
        with pytest.raises(error, match='expected .*target'):
            test(net, X, mode=PY, **how)


def test_class_sensitivity(net):
    trained = [p.get_value() for p in get_all_params(net)]
    best, second = logits_in_numpy(trained).argsort(axis=1)[:, [-1, -2]].T
    targets, labels = [1, 2, 3, 0, 1, 0], [0, 1, 2, 3, 0, 1]
    for rule in RULES:
        def maps(classes):
            return maps_in_numpy(trained, classes, rule)
        for target, other, a, b in [
                (1, 3, [1] * 6, [3] * 6), (targets, labels, targets, labels),
                (None, None, best, second), ('max', 'max', best, second)]:
            got = class_sensitivity(net, X, rule, target, other=other, mode=PY)
            assert_allclose(got, slow_cosines(maps(a), maps(b)))
        got = class_sensitivity(net, X, rule, None, 'gradient_x_input',
                                mode=PY, batch_size=4)
        assert_allclose(got, slow_cosines(X * maps(best), X * maps(second)))
    for other in 1, labels:
        with pytest.raises(ValueError, match='another class'):
            class_sensitivity(net, X, target=1, other=other, mode=PY)


def test_class_sensitivity_of_an_expression():
    x = T.dmatrix()
    logits = T.dot(x, np.array([[3., 4, 0, 1], [4, -3, 0, 1]]))
    with np.errstate(all='raise'):
        got = class_sensitivity(logits, X[:4, :2], None, 0, 'gradient', x,
                                [1, 2, 3, 1], mode=PY)
    # The map of class 2 is 0.
    assert_allclose(got, [0, np.nan, 7 / 50 ** .5, 0], atol=1e-15)
    with pytest.raises(AssertionError):
        class_sensitivity(logits, X[:1, :2], target=4, input_var=x, mode=PY)
    with pytest.raises(TypeError, match='wrt'):  # maps of several inputs
        y = T.dmatrix()
        class_sensitivity(logits + y, [X[:1, :2], X[:1, :4]], mode=PY,
                          input_var=[x, y])


def test_layers(net):
    every = run(net, X).similarity['spearman']
    logits, second, *_ = get_all_layers(net)[:0:-1][1:]
    W, b, W2, *_ = get_all_params(net)
    some = run(net, X, layers=[logits, 'second'])
    assert some.names == ['logits', 'second']
    assert_array_equal(some.similarity['spearman'], every[:2])
    grouped = run(net, X, layers={'top': ['logits', second], 'none': [],
                                  3: 'first'})
    assert grouped.names == ['top', 'none', '3']
    assert grouped.unchanged == ['none']
    assert_array_equal(grouped.similarity['spearman'], every[[1, 1, 2]])
    net, how = as_expression(net)
    grouped = run(net, X, layers={'top': ['logits.W', ('logits.b',)], 'it': [
        'second.b', W2], 3: [W, b]}, **how)
    assert grouped.names == ['top', 'it', '3']
    assert_array_equal(grouped.similarity['spearman'], every)


def test_nothing_to_randomize(net):
    bare = NonlinearityLayer(InputLayer((None, 5), T.dmatrix()), rectify)
    for what, how in [(bare, {}), as_expression(bare),
                      (get_output(net), {})]:  # an expression of what?
        with pytest.raises(ValueError, match='nothing'):
            run(what, X, **how)
    for what in None, 3, [net]:
        with pytest.raises(TypeError):
            randomization_test(what, X)


def test_shared_weights():
    x = InputLayer((None, 5), T.dmatrix())
    one = DenseLayer(x, 5, W=X[:5], b=X[5], name='one')
    two = DenseLayer(one, 5, W=one.W, b=X[4], name='two')
    net = DenseLayer(two, 4, W=X[:5, :4], b=X[0, :4], name='top')
    changed, before = [], {p: p.get_value() for p in (
        one.W, one.b, two.b, net.W, net.b)}

    def watch(maps, now):
        changed.append([(p.get_value() != v).any() for p, v in before.items()])
        return spearman(maps, now)
    for cascading in True, False:
        report = run(net, X, cascading=cascading, measures=[watch])
        assert report.names == ['top', 'two', 'one']
    assert np.array_equal(changed, [
        [0, 0, 0, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1], [1, 0, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_a_layer_inside_of_another():
    class Holder(Layer):
        def get_output_for(self, input, **kwargs):
            return self.held.get_output_for(input)
    net = Holder(InputLayer((None, 5), T.dmatrix()))
    held = net.held = DenseLayer((None, 5), 5, W=X[:5], name='held')
    net = DenseLayer(net, 3, W=X[:5, :3], nonlinearity=None, name='top')
    assert run(net, X).names == ['top']
    report = run(net, X, layers=['held'], more=[held.W])
    assert report.unchanged == [] and report.similarity['spearman'].min() < .9


def test_the_variables_of_an_expression():
    rng = np.random.RandomState(0)
    mean, W, g, b, V, U, R, single, tied = [
        theano.shared(rng.randn(*shape), name) for *shape, name in [
            (5, None), (5, 3, 'W'), (3, None), (3, None), (3, 3, 'V'),
            (3, 3, 'U'), (3, 3, 'R'), (1, 'single'), (3, 3, 'tied')]]
    count = theano.shared(3)  # an integer, which is no weight
    x = T.dmatrix() - mean  # which is not between the input and the output
    norm = W / T.sqrt((W ** 2).sum())  # in many steps, but of the lowest layer
    h = T.tanh(T.dot(x, norm) * g + b)
    h = T.dot(T.tanh(T.dot(h, V)), tied) + T.tanh(T.dot(h, U))
    h, _ = theano.scan(lambda h, w: T.tanh(T.dot(h, w)), outputs_info=h,
                       non_sequences=R, n_steps=count)
    output = T.dot(h[-1] * single[0], tied)  # the upper of its two places
    how = dict(input_var=x, target=lambda z: z[:, 1], mode='FAST_COMPILE')
    report = run(output, X, **how)
    assert report.names[:3] == ['tied', 'single', 'R']
    assert set(report.names[3:5]) == {'U', 'V'}
    assert report.names[5:] == ['#2', '#1', 'W']
    assert report.unchanged == ['single']
    U.name = 'V'
    for steps in ['#1', U], [g, U]:
        some = run(output, X, layers=[*steps, 'single'], cascading=False,
                   keep_maps=True, **how)
        assert some.names[:2] == ['#1', 'V'] and some.unchanged == ['single']
    g.set_value(permute(g.get_value(), np.random.RandomState([0, 1])))
    assert_array_equal(
        some.maps[1], gradmod.compile_saliency_function(output, **how)(X))
    for bad, words in ('V', 'fits 2'), (mean, 'variable .*fits 0'):
        with pytest.raises(ValueError, match=words):
            run(output, X, layers=[bad], **how)


def test_channels_last():
    rng = np.random.RandomState(0)
    x, W = T.dtensor4(), theano.shared(rng.randn(12, 11, 3))
    output = T.dot(T.nnet.relu(x * W).sum(axis=(1, 2)), rng.randn(3, 4))
    images = rng.randn(2, 12, 11, 3)

    def mine(maps, others):  # to which nothing is said of channels
        return spearman(maps, others, data_format='channels_last')
    how = dict(input_var=x, keep_maps=True,
               measures=['spearman', spearman_abs, 'ssim', mine])
    with pytest.raises(ValueError, match='may have channels last'):
        run(output, images, GuidedBackprop, **how)
    report = run(output, images, GuidedBackprop, data_format='channels_last',
                 **how)
    maps, now = report.maps
    assert maps.shape == images.shape
    first = [np.moveaxis(v, -1, 1) for v in (maps, now)]
    for key, measure in dict(mine=spearman, spearman=spearman, ssim=ssim,
                             spearman_abs=spearman_abs).items():
        assert_allclose(report.similarity[key], [measure(*first)])


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(draw=lambda v, rng: v[1:]), ValueError, r'\(9, 4\) for logits.W'),
    (dict(draw=lambda v, rng: np.full(v.shape, 'x')), ValueError, 'to float'),
    (dict(measures=['pearson']), KeyError, 'pearson'),
    (dict(measures=['spearman', spearman]), ValueError, 'name spearman'),
    (dict(measures=[lambda a, b: 1]), ValueError, '<lambda>'),
    (dict(measures=[lambda a, b: a[:, :1]]), ValueError, r'\(6, 1\)'),
    (dict(measures='ssim'), ValueError, 'ssim'),
    (dict(data_format='last'), KeyError, 'last'),
    (dict(seed=-1), ValueError, 'between 0'),
    (dict(method='gradcamp'), ValueError, 'method'),
    *((dict(layers=layers), ValueError, message) for layers, message in [
        (['frst'], "meant 'first'"), ([3], "'first', 'same'"),
        ([InputLayer((1, 2))], 'got InputLayer'), (['#0 InputLayer'], 'fits 0'),
        ({'it': ['first', 'same']}, 'fits 2'), ([['first']], 'got list'),
        ({}, 'nothing to randomize')])])
def test_bad_arguments(net, kwargs, error, message):
    for layer in get_all_layers(net)[2:4]:
        layer.name = 'same'
    with pytest.raises(error, match=message):
        run(net, X, **kwargs)


def test_a_measure_cannot_change_the_maps(net):
    def sorting(maps, others):
        maps.sort()
        others[...] = maps
        return np.zeros(len(maps))
    report = run(net, X, measures=[sorting, 'spearman'], keep_maps=True)
    assert_array_equal(report.similarity['spearman'], run(
        net, X, measures=spearman).similarity['spearman'])
    alone = run(net, X, measures=[], keep_maps=True)  # for the maps alone
    assert_array_equal(report.maps, alone.maps)
    assert alone.undefined == 0 and 'randomized\nlogits\n' in repr(alone)


def report_of(values, cascading=True, zero=0, cosine=None, **others):
    """A report of values by step and image, of one measure and of others."""
    values = np.array(values)
    return RandomizationReport(
        description='gradient', cascading=cascading,
        names=['step %d' % i for i in range(len(values))], unchanged=[],
        similarity=dict(spearman=values, **others), class_cosine=cosine,
        zero=np.arange(values.shape[1]) < zero)


def test_table():
    nan = np.nan
    report = report_of([[.5, nan], [-.25, .125], [nan, nan]], zero=1, other=(
        np.array([[.5, .25], [nan, 1], [1, 2]])), cosine=np.array([.5, nan]))
    assert_array_equal(report.mean('spearman'), [.5, -.0625, nan])
    assert report.undefined == 4
    report.unchanged = ['step 0', 'step 2']
    assert repr(report) == '''\
gradient, 2 images, cascading
randomized  spearman  other
step 0       0.500     0.375
step 1      -0.062     1.000
step 2       nan       1.500
undefined for 4 of 6 maps, which are constant or not finite
zero everywhere in the trained network: 1 of 2 maps
the draws changed nothing in: step 0, step 2
cosine to the map of another class: 0.500, undefined for 1 of 2'''
    report = report_of([[.5]], False, cosine=np.array([.5]))
    assert repr(report).startswith('gradient, 1 image, one step at a time\n')
    assert repr(report).endswith('another class: 0.500')


def test_maps_that_are_zero(net):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        report = run(net, X, ZeroBackprop)
        assert report.zero.all() and report.undefined == 18
        assert repr(report).endswith('class: nan, undefined for 6 of 6')
        get_all_params(net)[1].set_value(np.full(8, -3.))  # some are dead
        report = run(net, X, keep_maps=True)
    assert 0 < report.zero.sum() < 6 and report.zero.shape == (6,)
    assert_array_equal(report.zero, (report.maps[0] == 0).all(axis=1))


def test_how_reports_are_drawn():
    own_values = [.01, .02, 0]  # of a measure of one's own
    reports = {title: report_of(np.transpose([values]), **{
        'ssim': np.transpose([[0, 0, last]]),
        'mine': np.transpose([own_values])})
        for title, values, last in [('_a\nb', [.5, .2, 0], -1.),
                                    ('c', [.4, .2, .1], .5)]}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = plot_reports(reports)
        figure.canvas.draw()
    a, b, c = [axes.get_window_extent() for axes in figure.axes]
    assert 0 < a.x0 and a.x1 < b.x0 and c.x1 < figure.bbox.width
    assert a.y0 == b.y0 > 0 and a.height > figure.bbox.height / 2
    assert figure.get_constrained_layout()  # long names have their room
    *known, own = figure.axes
    for axes, measure in zip(known, ['spearman', 'ssim']):
        assert axes.get_title() == measure
        assert axes.get_ylim() == (-1.05, 1.05)
        assert [t.get_text() for t in axes.get_xticklabels()] == [
            'trained', 'step 0', 'step 1', 'step 2']
        for line, report in zip(axes.lines, reports.values()):
            assert_array_equal(line.get_ydata(), [1, *report.mean(measure)])
            assert (line.get_marker(), line.get_linestyle()) == ('.', '-')
        assert list(axes.lines[2].get_ydata()) == [0, 0]
    # nothing is known of where it starts, and all of it is to be seen
    assert_array_equal(own.lines[0].get_ydata(), own_values)
    assert len(own.get_xticklabels()) == 3
    low, high = own.get_ylim()
    assert -.002 < low <= 0 and .02 <= high < .022
    legend = own.get_legend()
    assert [t.get_text() for t in legend.texts] == [' _a b', ' c']
    assert [h.get_color() for h in legend.get_lines()] == [
        line.get_color() for line in axes.lines[:2]]
    alone, less = report_of([[.5], [.2], [.1]], False), report_of([[0]], False)
    for bad in {}, {'a': alone, **reports}, {'a': alone, 'b': less}:
        with pytest.raises(ValueError, match='same'):
            plot_reports(bad)
    # steps that do not build on each other; many need room
    report = report_of(np.arange(20).reshape(20, 1) / 20, False)
    (axes,) = report.plot().axes
    assert axes.figure.get_size_inches()[0] > 4
    assert axes.lines[0].get_linestyle() == 'None'
    assert np.array_equal(axes.lines[0].get_ydata(), np.arange(20) / 20)
    assert list(axes.get_xticks()) == list(range(20))
    assert axes.get_legend().texts[0].get_text() == ' gradient'


def test_imports_nothing_that_it_may_not_need():
    out = subprocess.check_output([sys.executable, '-c', (
        'import gradmod, sys; before = set(sys.modules); '
        'import gradmod.network, gradmod.sanity; '
        'print([m for m in ["lasagne", "skimage", "matplotlib", "scipy.stats"]'
        ' if m in set(sys.modules) - before])')])
    assert out.strip() == b'[]'
