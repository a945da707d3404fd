import subprocess
import sys
import warnings

import lasagne
import numpy as np
import pytest
import scipy.stats
import theano
import theano.tensor as T
from lasagne.layers import (Conv2DLayer, CustomRecurrentLayer, DenseLayer,
                            DropoutLayer, ElemwiseSumLayer, InputLayer,
                            LSTMLayer, NonlinearityLayer, get_all_params)
from lasagne.nonlinearities import rectify, softmax, tanh

import gradmod
from gradmod import DeconvNet, GuidedBackprop
from gradmod.sanity import (RandomizationReport, class_sensitivity, permute,
                            plot_reports, randomization_test, spearman,
                            spearman_abs, ssim)

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
RULES = {None: reference.plain, GuidedBackprop: reference.guided}
CLASSES = 4
X = np.random.RandomState(1).randn(6, 5)


def mlp():
    """A network of three named layers, in float64, and a parameter in none."""
    net = InputLayer((None, 5), T.dmatrix('x'))
    rng = np.random.RandomState(3)
    for name, n in ('first', 8), ('second', 9), ('logits', CLASSES):
        net = DenseLayer(net, n, W=rng.randn(net.output_shape[1], n),
                         b=rng.randn(n), name=name,
                         nonlinearity=None if name == 'logits' else rectify)
    return NonlinearityLayer(net, softmax)


def run(*args, **kwargs):
    return randomization_test(*args, mode=PY, **kwargs)


@pytest.fixture
def net():
    return mlp()


def snapshot(net):
    """The values of a network: the arrays themselves, and what is in them."""
    return [(p, p.get_value(borrow=True), p.get_value().tobytes())
            for p in get_all_params(net)]


def assert_as_before(before):
    for p, array, content in before:
        now = p.get_value(borrow=True)
        assert now is array and now.tobytes() == content


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


def maps_in_numpy(values, classes, rule):
    weights = list(zip(values[::2], values[1::2]))
    g = np.eye(CLASSES)[classes]
    return reference.mlp_backward(X, weights, g, RULES[rule])


def logits_in_numpy(values):
    return reference.mlp_forward(X, list(zip(values[::2], values[1::2])))[1]


def slow_cosines(a, b):
    return [sum(u * v) / (sum(u ** 2) * sum(v ** 2)) ** .5
            for u, v in zip(a, b)]


# Measures

@pytest.mark.parametrize('absolute', [False, True])
@pytest.mark.parametrize('shape', [(7,), (3, 4), (3, 4, 5), (2, 3, 2, 3)])
def test_spearman(shape, absolute):
    rng = np.random.RandomState(0)
    a, b = rng.randint(-3, 4, (2, 4) + shape)  # with many ties
    b += a * rng.randint(0, 2, b.shape)
    got = spearman(a.astype('float32'), b, absolute)
    assert got.shape == (4,) and got.dtype == 'float64'
    want = [slow_spearman(u, v, absolute) for u, v in zip(a, b)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    if absolute:
        np.testing.assert_array_equal(got, spearman_abs(a, b))
        a, b = abs(a), abs(b)
    if len(shape) > 2:
        a, b = a.sum(axis=1), b.sum(axis=1)
    np.testing.assert_allclose(got, [
        scipy.stats.spearmanr(u.ravel(), v.ravel())[0] for u, v in zip(a, b)],
        rtol=1e-12)


@pytest.mark.parametrize('bad', [np.zeros(5), np.full(5, np.nan),
                                 np.array([1, 2, 3, 4, np.inf])])
def test_spearman_undefined(bad):
    good = np.arange(5.)
    got = spearman([good, good, bad], [good, bad, -good])
    np.testing.assert_allclose(got, [1, np.nan, np.nan])


def slow_ssim(a, b):
    """For maps of 11 x 11 pixels, around which there is one window."""
    a, b = [(m - m.min()) / (m.max() - m.min()) for m in (a, b)]
    d = np.arange(-5, 6)
    w = np.exp(-d ** 2 / (2 * 1.5 ** 2))
    w = np.outer(w, w) / w.sum() ** 2
    results = []
    for u, v in zip(a, b):
        mu, mv = (w * u).sum(), (w * v).sum()
        sample = 121 / 120.  # scikit-image's correction
        vu, vv, vuv = [sample * ((w * p).sum() - q) for p, q in (
            (u * u, mu ** 2), (v * v, mv ** 2), (u * v, mu * mv))]
        results.append((2 * mu * mv + .01 ** 2) * (2 * vuv + .03 ** 2)
                       / ((mu ** 2 + mv ** 2 + .01 ** 2)
                          * (vu + vv + .03 ** 2)))
    return np.mean(results)


def test_ssim():
    rng = np.random.RandomState(0)
    a = rng.randn(3, 2, 11, 11)
    b = a + rng.randn(3, 2, 11, 11)
    got = ssim(a, b)
    np.testing.assert_allclose(got, [slow_ssim(u, v) for u, v in zip(a, b)],
                               rtol=1e-9)
    np.testing.assert_allclose(ssim(a, 7 * a + 3), 1)  # the scale is their own
    b[1] = 5
    b[2, 0, 0, 0] = np.inf
    assert list(np.isnan(ssim(a, b))) == [False, True, True]
    for shape in (2, 11, 11), (2, 1, 10, 11):
        with pytest.raises(ValueError, match='ssim: expected maps of shape .* '
                                             '11 x 11 pixels or more, got'):
            ssim(np.zeros(shape), np.zeros(shape))


def test_ssim_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage.metrics', None)
    with pytest.raises(ImportError, match=r'scikit-image: pip install'):
        ssim(np.zeros((1, 1, 11, 11)), np.zeros((1, 1, 11, 11)))


# Randomization

@pytest.mark.parametrize('cascading', [True, False])
@pytest.mark.parametrize('rule', RULES, ids=['plain', 'guided'])
def test_restated(net, rule, cascading):
    before = snapshot(net)
    trained = [p.get_value() for p in get_all_params(net)]
    logits = logits_in_numpy(trained)
    classes, others = logits.argsort(axis=1)[:, [-1, -2]].T
    maps = maps_in_numpy(trained, classes, rule)

    report = run(net, X, rule, cascading=cascading, seed=5, keep_maps=True)
    assert_as_before(before)
    assert report.names == ['logits', 'second', 'first']
    np.testing.assert_array_equal(report.classes, classes)
    np.testing.assert_array_equal(report.others, others)
    np.testing.assert_allclose(report.maps[0], maps, rtol=1e-9)
    np.testing.assert_allclose(report.class_cosine, slow_cosines(
        maps, maps_in_numpy(trained, others, rule)), rtol=1e-9)

    values, moved = list(trained), False
    for step, numbers in enumerate([(4, 5), (2, 3), (0, 1)]):
        values = list(values if cascading else trained)
        for i in numbers:
            order = np.random.RandomState([5, i]).permutation(trained[i].size)
            values[i] = trained[i].ravel()[order].reshape(trained[i].shape)
        moved |= (logits_in_numpy(values).argmax(axis=1) != classes).any()
        now = maps_in_numpy(values, classes, rule)
        np.testing.assert_allclose(report.maps[1 + step], now, rtol=1e-9)
        for absolute, name in enumerate(['spearman', 'spearman_abs']):
            np.testing.assert_allclose(
                report.similarity[name][step],
                [slow_spearman(a, b, absolute) for a, b in zip(maps, now)],
                rtol=1e-9)
    assert moved  # or it would not matter which class


def test_seed(net):
    def values(**kwargs):
        return run(net, X, **kwargs).similarity['spearman']
    default = values()
    np.testing.assert_array_equal(values(seed=0), default)
    assert (values(seed=1) != default).any(axis=1).all()
    np.random.seed(7)  # of no influence, and not influenced
    state = np.random.get_state()[1].tolist()
    np.testing.assert_array_equal(values(), default)
    assert np.random.get_state()[1].tolist() == state
    alone = values(cascading=False)
    np.testing.assert_array_equal(alone[0], default[0])
    np.testing.assert_array_equal(
        values(layers=['second', 'first'], cascading=False), alone[1:])


def test_compiles_as_often_whatever_the_number_of_layers(net, monkeypatch):
    calls = []
    function = theano.function

    def count(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)
    monkeypatch.setattr('gradmod.saliency.theano.function', count)
    run(net, X)
    n = len(calls)
    run(net, X, layers=['first'])
    assert len(calls) == 2 * n and n == 2  # the maps and the logits


def test_what_draw_gets(net):
    before = snapshot(net)
    calls = []

    def draw(value, rng):
        calls.append((value.tobytes(), rng.rand()))
        value[...] = 7  # which is a copy
        return np.zeros(value.shape, 'int8')
    report = run(net, X, draw=draw, cascading=True)
    assert_as_before(before)
    assert calls == [(before[i][2], np.random.RandomState([0, i]).rand())
                     for i in (4, 5, 2, 3, 0, 1)]
    assert np.isnan(report.similarity['spearman']).all()  # of weights of 0
    assert 'undefined for 18 of 18 maps' in repr(report)


def test_permute():
    value = np.random.RandomState(0).randn(4, 3, 2).astype('float32')
    got = permute(value, np.random.RandomState(0))
    assert got.shape == value.shape and got.dtype == value.dtype
    assert (got != value).any()
    np.testing.assert_array_equal(np.sort(got, None), np.sort(value, None))


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize('when', range(6))
@pytest.mark.parametrize('cascading', [True, False])
def test_restores_on_exceptions(net, error, when, cascading):
    before = snapshot(net)
    for where in 'draw', 'measure':
        calls = []

        def fail(*args):
            calls.append(args)
            if len(calls) == 1 + (when if where == 'draw' else when // 2):
                assert where == 'draw' or any(
                    p.get_value(borrow=True) is not a for p, a, _ in before)
                raise error('now')
            return permute(*args) if where == 'draw' else np.zeros(len(X))
        more = {'draw': fail} if where == 'draw' else {'measures': [fail]}
        with pytest.raises(error, match='now'):
            run(net, X, cascading=cascading, **more)
        assert_as_before(before)


def test_restores_when_a_map_fails(net, monkeypatch):
    before = snapshot(net)
    call = gradmod.saliency.SaliencyFunction.__call__

    def fail(self, *args, **kwargs):
        if any(p.get_value(borrow=True) is not a for p, a, _ in before):
            raise KeyboardInterrupt
        return call(self, *args, **kwargs)
    monkeypatch.setattr('gradmod.saliency.SaliencyFunction.__call__', fail)
    with pytest.raises(KeyboardInterrupt):
        run(net, X)
    assert_as_before(before)


def test_restores_every_bit(net):
    odd = np.array([-0., np.nan, 5e-324, 1, 2, 3, 4, 5, 6])
    odd.view('int64')[1] |= 12345  # one NaN of many
    for layer in lasagne.layers.get_all_layers(net):
        if layer.name == 'second':
            layer.b.set_value(odd)
    before = snapshot(net)
    run(net, X)
    assert_as_before(before)


# Targets

def test_targets(net):
    trained = [p.get_value() for p in get_all_params(net)]
    labels = [3, 0, 1, 1, 2, 0]
    logits = logits_in_numpy(trained)
    for target, classes in (2, [2] * 6), (labels, labels), (
            'max', logits.argmax(axis=1)):
        report = run(net, X, target=target, keep_maps=True)
        assert report.classes.tolist() == list(classes)
        np.testing.assert_allclose(
            report.maps[0], maps_in_numpy(trained, classes, None), rtol=1e-9)
        logits_of_others = logits.copy()
        logits_of_others[range(6), classes] = -np.inf
        assert (report.others == logits_of_others.argmax(axis=1)).all()
    report = run(net, X, target=lambda z: z[:, 2], keep_maps=True)
    np.testing.assert_allclose(
        report.maps[0], maps_in_numpy(trained, [2] * 6, None), rtol=1e-9)
    assert report.classes is report.others is report.class_cosine is None
    assert 'cosine' not in repr(report)


def test_one_class():
    report = run(DenseLayer(DenseLayer(
        InputLayer((None, 5), T.dmatrix()), 6, W=np.random.randn(5, 6)), 1,
        W=np.random.randn(6, 1), nonlinearity=None), X)
    assert report.classes.tolist() == [0] * 6
    assert report.others is report.class_cosine is None


@pytest.mark.parametrize('target, error, message', [
    ('all', TypeError, 'target to be None, a class as an int, or a vector .* '
                       'one for each of 6 images, got str'),
    (1.5, TypeError, 'target to be None'),
    ([0, 1], TypeError, 'target to be None'),
    (4, ValueError, 'target to be a class from 0 to 3, got 4'),
    ([0, 1, 2, 3, -1, 0], ValueError, 'from 0 to 3, got -1')])
def test_bad_targets(net, target, error, message):
    with pytest.raises(error, match='^randomization_test: expected .*%s'
                       % message):
        run(net, X, target=target)
    with pytest.raises(error, match='^class_sensitivity: expected .*%s'
                       % message):
        class_sensitivity(net, X, target=target, mode=PY)


# Class sensitivity

def test_class_sensitivity(net):
    trained = [p.get_value() for p in get_all_params(net)]
    for rule in RULES:
        every = [maps_in_numpy(trained, [c] * 6, rule) for c in range(CLASSES)]
        got = class_sensitivity(net, X, rule, 1, 3, mode=PY)
        np.testing.assert_allclose(got, slow_cosines(every[1], every[3]))
        others = [0, 1, 2, 3, 0, 1]
        got = class_sensitivity(net, X, rule, [1, 2, 3, 0, 1, 0], others,
                                mode=PY)
        np.testing.assert_allclose(got, slow_cosines(
            [every[c][i] for i, c in enumerate([1, 2, 3, 0, 1, 0])],
            [every[c][i] for i, c in enumerate(others)]))
        got = class_sensitivity(net, X, rule, method='gradient_x_input',
                                mode=PY, batch_size=4)
        best, second = logits_in_numpy(trained).argsort(axis=1)[:, [-1, -2]].T
        np.testing.assert_allclose(got, slow_cosines(
            X * maps_in_numpy(trained, best, rule),
            X * maps_in_numpy(trained, second, rule)))


def test_class_sensitivity_of_an_expression():
    x = T.dmatrix()
    logits = T.dot(x, np.array([[3., 4, 0, 1], [4, -3, 0, 1]]))
    got = class_sensitivity(logits, X[:4, :2], target=0, other=[1, 2, 3, 1],
                            input_var=x, mode=PY)
    # The map of class 2 is 0.
    np.testing.assert_allclose(got, [0, np.nan, 7 / 50 ** .5, 0], atol=1e-15)


def test_bad_others(net):
    for other, error, message in [
            ('second', TypeError, 'expected other to be None'),
            (9, ValueError, 'other to be a class from 0 to 3, got 9'),
            (1, ValueError, 'other to be another class than target, got 1')]:
        with pytest.raises(error, match='^class_sensitivity: .*' + message):
            class_sensitivity(net, X, target=1, other=other, mode=PY)
    with pytest.raises(TypeError, match='expected target to be a class, got'):
        class_sensitivity(net, X, target=lambda z: z[:, 0])
    x = T.dmatrix()
    with pytest.raises(ValueError, match='another class than target, got 0'):
        class_sensitivity(x[:, :1], X, input_var=x, mode=PY)


# Layers

def layer(net, name):
    return [v for v in lasagne.layers.get_all_layers(net) if v.name == name][0]


def test_layers(net):
    every = run(net, X)
    some = run(net, X, layers=[layer(net, 'logits'), 'second'])
    assert some.names == ['logits', 'second']
    np.testing.assert_array_equal(some.similarity['spearman'],
                                  every.similarity['spearman'][:2])
    grouped = run(net, X, layers={
        'top': ['logits', layer(net, 'second')], 3: 'first'})
    assert grouped.names == ['top', '3']
    np.testing.assert_array_equal(grouped.similarity['spearman'],
                                  every.similarity['spearman'][1:])
    upwards = run(net, X, layers=['first', 'second', 'logits'])
    np.testing.assert_array_equal(upwards.similarity['spearman'][-1],
                                  every.similarity['spearman'][-1])


@pytest.mark.parametrize('layers, error, message', [
    (['secnd'], ValueError, "no layer is named 'secnd', perhaps you meant "
                            "'second'"),
    ([3], TypeError, 'expected layers to have layers or their names, got int'),
    ('first', TypeError, 'expected layers to be a list or a dict .* got str'),
    ([], ValueError, 'expected layers with parameters, got none'),
    ({}, ValueError, 'expected layers with parameters, got none'),
    ({'it': []}, ValueError, "layers with parameters, got none in 'it'"),
    (['same'], ValueError, "names of one layer each, got 'same', of 2"),
    ({'it': ['same']}, ValueError, "of one layer each, got 'same', of 2"),
    (['#0 InputLayer'], ValueError, '#0 InputLayer in layers has no param'),
    ([InputLayer((1, 2))], ValueError, 'layer InputLayer .* is not part')])
def test_bad_layers(net, layers, error, message):
    net = DenseLayer(DenseLayer(net, 3, name='same'), 3, name='same')
    before = snapshot(net)
    with pytest.raises(error, match='^randomization_test: .*' + message):
        run(net, X, layers=layers)
    assert_as_before(before)


def test_nothing_to_randomize():
    x = InputLayer((None, 5), T.dmatrix())
    with pytest.raises(ValueError, match='expected layers with parameters'):
        run(NonlinearityLayer(x, rectify), X)


def test_no_change_is_said():
    net = DenseLayer(InputLayer((None, 5), T.dmatrix()), 4, name='constant',
                     W=np.ones((5, 4)))
    net = DenseLayer(net, 3, W=np.random.RandomState(0).randn(4, 3), name='top',
                     nonlinearity=None)
    for cascading, names in (True, ['constant']), (False, ['constant']):
        report = run(net, abs(X), cascading=cascading)
        assert report.unchanged == names
        assert repr(report).count('changed nothing in: constant\n') == 1
    assert run(mlp(), X).unchanged == []


def test_untrainable_parameters_count(net):
    second = layer(net, 'second')
    for p in second.get_params():
        second.params[p].discard('trainable')
    frozen = run(net, X)
    np.testing.assert_array_equal(frozen.similarity['spearman'],
                                  run(mlp(), X).similarity['spearman'])


def test_shared_weights():
    rng = np.random.RandomState(0)
    x = InputLayer((None, 5), T.dmatrix())
    one = DenseLayer(x, 5, W=rng.randn(5, 5), b=rng.randn(5), name='one')
    two = DenseLayer(one, 5, W=one.W, b=rng.randn(5), name='two')
    net = DenseLayer(two, 3, W=rng.randn(5, 3), nonlinearity=None, name='top')
    seen = []

    def watch(maps, now):
        seen.append([p.get_value().tobytes() for p in (one.W, one.b, two.b)])
        return spearman(maps, now)
    before = snapshot(net)
    W, b, b2 = [p.get_value().tobytes() for p in (one.W, one.b, two.b)]
    for cascading in True, False:
        report = run(net, X, cascading=cascading, measures=[watch])
        assert report.names == ['top', 'two', 'one']
        assert_as_before(before)
    (_, down_to_two, down_to_one), (_, only_two, only_one) = seen[:3], seen[3:]
    assert down_to_two[0] == down_to_one[0] == only_two[0] == only_one[0] != W
    assert down_to_two[1] == b != down_to_one[1] == only_one[1]
    assert only_one[2] == b2 != only_two[2]


def recurrent(kind):
    x = InputLayer((2, 2, 4), T.tensor3('x', dtype=theano.config.floatX))
    if kind is CustomRecurrentLayer:
        net = kind(x, DenseLayer(InputLayer((None, 4)), 5, name='in'),
                   DenseLayer(InputLayer((None, 5)), 5, nonlinearity=tanh,
                              name='hid'), unroll_scan=True, name='outer')
    else:
        net = kind(x, 5, unroll_scan=True, name='outer')
    return DenseLayer(net, 3, nonlinearity=None, name='top')


@pytest.mark.parametrize('kind', [CustomRecurrentLayer, LSTMLayer])
def test_recurrent(kind):
    net = recurrent(kind)
    before = snapshot(net)
    images = np.random.RandomState(0).randn(2, 2, 4).astype(
        theano.config.floatX)
    report = run(net, images)
    assert_as_before(before)
    assert report.names == ['top', 'outer']
    assert (report.similarity['spearman'] < 1).all()
    if kind is CustomRecurrentLayer:  # a layer within
        report = run(net, images, layers=['in'])
        assert report.names == ['in'] and report.unchanged == []
        assert_as_before(before)


@pytest.mark.parametrize('how', [
    dict(method='gradient_x_input'), dict(method='smoothgrad', samples=3),
    dict(method='integrated_gradients', steps=3), dict(rule=DeconvNet),
    dict(rule={'second': GuidedBackprop}), dict(logits=False)],
    ids=lambda how: '-'.join(how))
def test_any_method(net, how):
    before = snapshot(net)
    report = run(net, X, keep_maps=True, **how)
    assert_as_before(before)
    direct = gradmod.compile_saliency_function(net, mode=PY, **how)
    np.testing.assert_array_equal(report.maps[0], direct(X, report.classes))
    assert report.maps.shape == (4,) + X.shape
    for step in range(3):
        np.testing.assert_array_equal(
            report.similarity['spearman'][step],
            spearman(report.maps[0], report.maps[1 + step]))


def test_convolutional():
    x = InputLayer((None, 2, 11, 11), T.tensor4(dtype=theano.config.floatX))
    one = Conv2DLayer(x, 3, 3, pad='full', name='conv')
    net = ElemwiseSumLayer([Conv2DLayer(one, 3, 3, pad='full'),
                            Conv2DLayer(DropoutLayer(one), 3, 3, pad='full')])
    net = DenseLayer(net, 4, nonlinearity=softmax)
    images = np.random.RandomState(0).rand(3, 2, 11, 11).astype(
        theano.config.floatX)
    before = snapshot(net)
    report = randomization_test(
        net, images, method='guided_gradcam', layer='conv', keep_maps=True,
        measures=['spearman', 'ssim', spearman_abs])
    assert_as_before(before)
    assert report.names == ['#6 DenseLayer', '#4 Conv2DLayer',
                            '#2 Conv2DLayer', 'conv']
    assert list(report.similarity) == ['spearman', 'ssim', 'spearman_abs']
    for name, f in ('spearman', spearman), ('ssim', ssim):
        for step in range(4):
            np.testing.assert_array_equal(
                report.similarity[name][step],
                f(report.maps[0], report.maps[1 + step]))
    assert (report.similarity['ssim'] < 1).any()


def test_a_network_that_is_under_a_rule(net):
    want = run(net, X, GuidedBackprop)
    plain = run(net, X)
    applied = gradmod.apply(net, GuidedBackprop)
    rules = [place.rule for place in applied]
    got = run(net, X)
    np.testing.assert_array_equal(got.similarity['spearman'],
                                  want.similarity['spearman'])
    assert (plain.similarity['spearman'] != want.similarity['spearman']).any()
    run(net, X, DeconvNet)
    assert [place.layer.nonlinearity for place in applied] == rules


# Other arguments

@pytest.mark.parametrize('network', [
    None, {}, [InputLayer((1, 2))], T.dmatrix(), {'out': InputLayer((1, 2))}])
def test_no_network(network):
    with pytest.raises(TypeError, match='randomization_test: expected network '
                                        'to be a Lasagne layer, the output'):
        randomization_test(network, X)


@pytest.mark.parametrize('kwargs, error, message', [
    (dict(draw=3), TypeError, 'draw to be a function'),
    (dict(draw=lambda v, rng: v[1:]), ValueError, 'draw to return numbers '
     r'of shape \(9, 4\) for logits.W, got ndarray'),
    (dict(draw=lambda v, rng: None), ValueError, 'draw to return'),
    (dict(measures=['pearson']), ValueError, 'measures to be functions or some '
     'of spearman, spearman_abs, ssim, got str'),
    (dict(measures=[]), ValueError, 'a measure, got none'),
    (dict(measures=['spearman', spearman]), ValueError, 'measures of different '
     'names, got two called spearman'),
    (dict(measures=[lambda a, b: 1]), ValueError, 'to return a number for each '
     'of 6 images, got'),
    (dict(seed=-1), ValueError, 'seed to be an int from 0'),
    (dict(seed='x'), ValueError, 'seed to be an int from 0')])
def test_bad_arguments(net, kwargs, error, message):
    before = snapshot(net)
    with pytest.raises(error, match='^randomization_test: .*expected .*'
                       + message):
        run(net, X, **kwargs)
    assert_as_before(before)


def test_what_the_saliency_function_refuses(net):
    before = snapshot(net)
    with pytest.raises(ValueError, match='expected method to be'):
        run(net, X, method='gradcamp')
    with pytest.raises(ValueError, match='expected one image or more'):
        run(net, X[:, :2])
    with pytest.raises(ValueError, match='ssim: expected maps of shape'):
        run(net, X, measures='ssim')
    assert_as_before(before)


# The report

TABLE = '''
gradient under GuidedBackprop, 6 images, one layer at a time
randomized  spearman  spearman_abs
logits %s
second %s
first  %s
cosine to the map of another class: %.3f
'''


def test_table(net):
    report = run(net, X, GuidedBackprop, cascading=False, seed=1)
    rows = [''.join(('%.3f' % report.similarity[m][i].mean()).rjust(w)
                    for m, w in (('spearman', 13), ('spearman_abs', 14)))
            for i in range(3)]
    assert repr(report) == TABLE.strip() % tuple(
        rows + [report.class_cosine.mean()])
    report.similarity['spearman'][0, :5] = np.nan
    assert report.mean('spearman')[0] == report.similarity['spearman'][0, 5]
    report.similarity['spearman_abs'][:, 0] = np.nan
    assert report.undefined == 7
    assert 'undefined for 7 of 18 maps' in repr(report)


def test_plot(net):
    reports = {'one\nline': run(net, X), 'other': run(net, X, GuidedBackprop)}
    figure = plot_reports(reports)
    figure.canvas.draw()
    for axes, measure in zip(figure.axes, ['spearman', 'spearman_abs']):
        assert axes.get_title() == measure
        assert [t.get_text() for t in axes.get_xticklabels()] == [
            'trained', 'logits', 'second', 'first']
        for line, report in zip(axes.lines, reports.values()):
            assert line.get_ydata()[0] == 1
            np.testing.assert_array_equal(line.get_ydata()[1:],
                                          report.mean(measure))
    assert [t.get_text() for t in figure.axes[-1].get_legend().texts] == [
        'one line', 'other']
    alone = run(net, X, cascading=False)
    axes = alone.plot().axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(),
                                  alone.mean('spearman'))
    assert len(axes.get_xticklabels()) == 3
    for bad, error in [(alone, TypeError), ({'a': 3}, TypeError),
                       ({}, ValueError), (dict(reports, a=alone), ValueError)]:
        with pytest.raises(error, match='^plot_reports: expected reports'):
            plot_reports(bad)


def test_imports_nothing_that_it_may_not_need():
    code = ('import gradmod, sys; before = set(sys.modules); '
            'import gradmod.sanity; print([m for m in ("lasagne", "matplotlib",'
            ' "skimage", "scipy.stats") if m in set(sys.modules) - before])')
    out = subprocess.check_output([sys.executable, '-c', code],
                                  universal_newlines=True)
    assert out.strip() == '[]'


def test_a_measure_cannot_change_the_maps(net):
    def sorting(maps, others):
        maps.sort()
        return np.zeros(len(maps))
    with pytest.raises(ValueError, match='read-only'):
        run(net, X, measures=[sorting])


def test_ssim_of_what_has_none_does_not_warn():
    good = np.random.RandomState(0).randn(1, 1, 11, 11)
    for bad in np.ones_like(good), good + np.inf, good * np.nan:
        with np.errstate(all='raise'):
            assert np.isnan(ssim(good, bad)) and np.isnan(ssim(bad, good))


def report_of(values, cascading=True, **others):
    """A report of values by step and image, of one measure and of others."""
    from collections import OrderedDict
    values = np.array(values)
    return RandomizationReport(
        'gradient', cascading, ['step %d' % i for i in range(len(values))], [],
        OrderedDict([('spearman', values)] + sorted(others.items())), None,
        None, None, None)


def test_numbers_of_images():
    for n, words in (1, '1 image,'), (2, '2 images,'), (3, '3 images,'):
        lines = repr(report_of(np.ones((2, n)))).splitlines()
        assert lines[0] == 'gradient, %s each layer with those before it' % words
        assert len(lines) == 4
    nan = np.nan
    assert 'undefined for 3 of 4 maps' in repr(
        report_of([[nan, nan], [1, nan]]))
    assert 'undefined for 2 of 4 maps' in repr(
        report_of([[nan, 0], [1, 1]], other=np.array([[1, nan], [0, 1]])))


def test_how_reports_are_drawn():
    figure = plot_reports({
        'a': report_of([[.5], [.2], [-.2]], ssim=np.array([[0], [0], [-.6]])),
        'b': report_of([[.4], [.2], [.1]], ssim=np.array([[0], [0], [1.]]))})
    assert tuple(figure.get_size_inches()) == (7, 4)
    assert figure.get_constrained_layout()
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 and boxes[0].y0 == boxes[1].y0
    assert boxes[0].height > figure.bbox.height / 2
    for axes, low in zip(figure.axes, [-.55, -1.05]):
        assert axes.get_ylim() == (low, 1.05)
        assert [line.get_marker() for line in axes.lines] == ['.', '.', 'None']
        assert [line.get_linestyle() for line in axes.lines] == ['-'] * 3
        assert list(axes.lines[2].get_ydata()) == [0, 0]
    # many steps need room; those that do not build on each other, no line
    figure = plot_reports({'a': report_of(np.zeros((20, 2)), False)})
    assert tuple(figure.get_size_inches()) == (5, 4)
    (axes,) = figure.axes
    assert axes.lines[0].get_linestyle() == 'None'
    assert list(axes.get_xticks()) == list(range(20))


def test_how_measures_of_ones_own_are_drawn():
    for values in [0., 1112, -50], [.01, .02, 0]:
        values = np.array(values)[:, np.newaxis]
        figure = plot_reports({'a': report_of([[.5], [.2], [.1]], mine=values)})
        known, own = figure.axes
        assert known.get_ylim() == (-.55, 1.05)
        # nothing is known of where it starts, and all of it is to be seen
        np.testing.assert_array_equal(own.lines[0].get_ydata(), values[:, 0])
        assert [t.get_text() for t in own.get_xticklabels()] == [
            'step 0', 'step 1', 'step 2']
        low, high = own.get_ylim()
        assert low <= values.min() and values.max() <= high
        assert high - low < 1.2 * np.ptp(values)


def test_titles_that_begin_with_an_underscore():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    report = report_of([[.5], [.2]])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = plot_reports({'_a\nb': report, 'c': report_of([[.1], [0]])})
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert [t.get_text() for t in legend.texts] == ['_a b', 'c']
    assert [h.get_color() for h in legend.get_lines()] == [
        line.get_color() for line in axes.lines[:2]]
    box, *texts = (v.get_window_extent(canvas.get_renderer())
                   for v in [legend] + list(legend.texts))
    assert all(0 < text.width < box.width for text in texts)


def test_defaults():
    net = NonlinearityLayer(DenseLayer(
        InputLayer((None, 3), T.dmatrix('x')), 2, nonlinearity=None), softmax)
    report = run(net, X[:, :3])
    assert report.cascading is True and report.maps is None
    assert list(report.similarity) == ['spearman', 'spearman_abs']
    # the classes are two: enough for another one
    assert (report.classes + report.others == 1).all()
    assert report.class_cosine.shape == (6,)


def test_what_is_no_array_of_maps():
    good = np.ones((2, 1, 11, 11))
    for measure in spearman, spearman_abs, ssim:
        for bad, error, words in [
                (good.astype(str), TypeError, 'expected maps of real numbers'),
                (good * 1j, TypeError, 'expected maps of real numbers, got'),
                (good[:1], ValueError, r'maps of one shape, got '
                 r'\(2, 1, 11, 11\) and \(1, 1, 11, 11\)')]:
            with pytest.raises(error, match=words):
                measure(good, bad)
    with pytest.raises(ValueError, match='spearman: expected maps of one'):
        spearman(1, 2)
    with pytest.raises(TypeError, match='permute: expected an array, got list'):
        permute([1, 2], np.random.RandomState(0))
    with pytest.raises(TypeError, match='permute: expected rng to be a Random'):
        permute(np.ones(2), np.random)


def test_a_panel_has_the_whole_height():
    figure = plot_reports({'a': report_of([[.5], [.2]])})
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    assert box.height > figure.bbox.height / 2


def test_one_measure_alone():
    net = DenseLayer(InputLayer((None, 5), T.dmatrix('x')), 2, W=X[:5, :2],
                     nonlinearity=None)
    want = run(net, X, measures=[spearman_abs]).similarity['spearman_abs']
    for measure in 'spearman_abs', spearman_abs:
        report = run(net, X, measures=measure)
        assert list(report.similarity) == ['spearman_abs']
        np.testing.assert_array_equal(report.similarity['spearman_abs'], want)


def test_one_image():
    x = T.dmatrix('x')
    logits = T.dot(x, np.array([[3., 4, 0], [4, -3, 1]]))
    image = np.array([[1., 2]])  # of the logits 11, -2 and 2
    got = class_sensitivity(logits, image, input_var=x, mode=PY)
    np.testing.assert_allclose(got, [.8])
    with pytest.raises(ValueError, match='class_sensitivity: expected other to '
                       'be another class than target, got 0 for both'):
        class_sensitivity(logits, image, other=0, input_var=x, mode=PY)


def test_a_cosine_that_is_undefined_does_not_warn():
    x = T.dmatrix('x')
    logits = T.dot(x, np.array([[1., 0], [1, 0]]))  # one map is 0
    with np.errstate(all='raise'):
        assert np.isnan(spearman([[1, 2]], [[3, 3]])).all()
        assert np.isnan(class_sensitivity(
            logits, np.ones((2, 2)), input_var=x, mode=PY)).all()


def test_one_image_and_one_class():
    x = T.matrix('x', dtype='float32')
    logits = T.dot(x, np.float32([[3, 4], [4, -3]]))
    with pytest.raises(ValueError, match='another class than target, got 1'):
        class_sensitivity(logits, np.float32([[1, 2]]), target=1, other=1,
                          input_var=x, mode=PY)
    with np.errstate(all='raise'):
        assert np.isnan(spearman(np.ones((1, 3)), np.arange(3.)[np.newaxis]))
