"""Patterns and maps against their formulas in numpy, one unit at a time."""
import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne import layers as L
from lasagne.nonlinearities import leaky_rectify, rectify, softmax, tanh

from gradmod import GuidedBackprop, compile_saliency_function, lrp, modified
from gradmod.network import named_layers
from gradmod.pattern import (PatternAttribution, PatternNet, Patterns,
                             fit_patterns, parts_of, rectified)

from .test_lrp import (LAYERS, MASTER, MODE, RNG, BatchNorm, close,
                       matrix, network_input, of, plus, values)


@pytest.fixture(autouse=True)
def float64(little_c_code, monkeypatch):
    monkeypatch.setattr(theano.compile.mode, 'instantiated_default_mode', MODE)
    monkeypatch.setattr(theano.config, 'floatX', 'float64')


def maps(net, composite, images, target=None):
    return compile_saliency_function(net, composite, target, 'relevance')(
        images)


def formula(xs, ys, w, positive):
    """The pattern of one unit, of rows of its inputs and of its outputs."""
    on = ys > 0 if positive else ys == ys
    v = ((xs[on] * ys[on, None]).mean(axis=0)
         - xs[on].mean(axis=0) * ys.mean())
    return v / (w @ v)


# A network with pooling: two convolutions, a dense layer, logits.

def vgg():
    net = of(network_input(2, 6, 6), 'Conv2DLayer', num_filters=3,
             filter_size=3, pad='same', name='one')
    net = L.MaxPool2DLayer(net, 2)
    net = of(net, 'Conv2DLayer', num_filters=4, filter_size=2, name='two')
    net = of(L.DropoutLayer(net), 'DenseLayer', num_units=5, name='three')
    return of(net, 'DenseLayer', num_units=3, nonlinearity=softmax,
              name='four')


def restated(layer, images, positive):
    """Its pattern: the x of a weight is what the layer makes of it alone."""
    layer, W = copy.copy(layer), layer.W.get_value()
    layer.W, layer.nonlinearity = theano.shared(W), lambda z: z
    x = T.TensorType('float64', (False,) * images.ndim)()
    z = theano.function([x], layer.get_output_for(x), mode=MODE)
    axis = -1 if isinstance(layer, L.DenseLayer) else 1

    def rows(weights):
        layer.W.set_value(weights)
        v = np.moveaxis(z(images), axis, 0)
        return v.reshape(len(v), -1)
    ys, biases = rows(W), rows(0 * W)
    weights = [[] for _ in ys]  # of each unit: numbers and inputs
    for k in range(W.size):
        xs = rows(np.eye(W.size)[k].reshape(W.shape)) - biases
        for unit in {*np.nonzero(xs)[0]}:  # none where all x are 0
            weights[unit].append((k, xs[unit]))
    pattern = np.zeros(W.shape)
    for y, pairs in zip(ys, weights):
        k, xs = zip(*pairs)
        pattern.flat[[*k]] = formula(np.array(xs).T, y, W.flat[[*k]], positive)
    return pattern


def restated_maps(net, images, Ws):
    """By matrices: up with a layer's own weights, down with these."""
    up, down = {}, {}
    for layer in map(copy.copy, L.get_all_layers(net)):
        if layer.name:
            up[layer.name] = matrix(layer)[:2]
            layer.W = theano.shared(Ws[layer.name])
            down[layer.name] = matrix(layer)[0]
    for image in images:
        h, factors = image.ravel(), []
        for layer in L.get_all_layers(net):
            if layer.name:
                A, b = up[layer.name]
                z = h @ A + b
                h, on = plus(z), (z > 0) | (layer is net)
                factors.append(down[layer.name] * on)
            elif isinstance(layer, L.MaxPool2DLayer):
                blocks = np.arange(h.size).reshape(3, 3, 2, 3, 2).swapaxes(
                    2, 3).reshape(27, 4)
                best = blocks[range(27), h[blocks].argmax(axis=1)]
                factors.append(np.eye(h.size)[:, best])
                h = h[best]
        r = z * (z == z.max())
        for factor in factors[::-1]:
            r = factor @ r
        yield r.reshape(image.shape)


@functools.lru_cache(None)
def fitted():
    """The network, images, and its patterns of these; computed once."""
    RNG.seed(3)
    net, images = vgg(), values(40, 2, 6, 6) + .3
    return net, images, fit_patterns(net, images, batch_size=15)


def test_patterns_and_maps():
    net, images, patterns = fitted()
    layers = [layer for layer in L.get_all_layers(net) if layer.name]
    assert [*patterns] == [layer.name for layer in layers]
    for layer in layers:
        x = L.get_output(layer.input_layer, images, deterministic=True).eval()
        close(patterns[layer.name], restated(layer, x, layer is not net))
    for composite, Ws in [
            (PatternNet, patterns), (PatternAttribution, {
                v.name: v.W.get_value() * patterns[v.name] for v in layers})]:
        close(maps(net, composite(patterns), images[:3]),
              np.array([*restated_maps(net, images[:3], Ws)]))


def test_parts_of_the_data_add_up():
    net, images, whole = fitted()
    some = fit_patterns(net, (images[i:i + 7] for i in [0, 99, 7, 14]))
    both = pickle.loads(pickle.dumps(some)) + fit_patterns(net, [images[21:]])
    for name, s in whole.statistics.items():
        assert s.n == both.statistics[name].n == {
            'one': 36, 'two': 4}.get(name, 1) * 40
        close(both[name], whole[name])
        assert abs(some[name] - whole[name]).max() > .01
    with pytest.raises(ValueError, match='one network, with the same weights'):
        whole + fit_patterns(vgg(), images)


def test_saving(tmp_path):
    net, images, patterns = fitted()
    path = str(tmp_path / 'a.file')
    patterns.save(path)
    loaded = Patterns.load(path)
    both, wanted = loaded + loaded, patterns + patterns
    for name in patterns:
        np.testing.assert_array_equal(loaded[name], patterns[name])
        np.testing.assert_array_equal(both[name], wanted[name])
    assert repr(loaded) == ('<patterns of one (3, 2, 3, 3), two (4, 3, 2, 2), '
                            'three (16, 5), four (5, 3)>')
    np.savez(str(tmp_path / 'b.npz'), *L.get_all_param_values(net))
    with pytest.raises(ValueError, match='what Patterns.save wrote'):
        Patterns.load(str(tmp_path / 'b.npz'))


@pytest.mark.parametrize('f, name, shape, kwargs', [
    (tanh,) + LAYERS[0]] + [
    (rectify,) + row for row in LAYERS + MASTER
    if row[0] != 'LocallyConnected2DLayer'])
def test_layers(f, name, shape, kwargs):
    layer = of(network_input(*shape), name, nonlinearity=f, **kwargs)
    images = values(12, *shape)
    (a,) = fit_patterns(layer, images, batch_size=5).values()
    close(a, restated(layer, images, f is rectify))


@pytest.mark.parametrize('f', [rectify, tanh])
def test_batch_norm_is_merged(f):
    W, b, images = values(4, 2, 2, 2), values(4), values(9, 2, 4, 4)
    net = L.Conv2DLayer(network_input(2, 4, 4), 4, 2, W=W, b=b,
                        nonlinearity=None, name='one')
    norm = BatchNorm(net)
    scale, shift = norm.numbers()
    net = L.NonlinearityLayer(norm, f)
    plain = L.Conv2DLayer(network_input(2, 4, 4), 4, 2, nonlinearity=f,
                          W=W * scale.reshape(-1, 1, 1, 1),
                          b=b * scale + shift, name='one')
    V, results = values(36, 2), []
    for below in net, plain:
        top = L.DenseLayer(below, 2, W=V, nonlinearity=None, name='two')
        patterns = fit_patterns(top, images)
        results.append([patterns['one'], patterns['two']] + [
            maps(top, composite(patterns), images)
            for composite in (PatternNet, PatternAttribution)])
    for got, wanted in zip(*results):
        close(got, wanted)


def test_a_normalization_above_something_else_is_no_part():
    dense = L.DenseLayer(network_input(4), 3)
    pooled = L.FeaturePoolLayer(dense, 3)
    layers = L.get_all_layers([BatchNorm(dense), BatchNorm(pooled)])
    assert parts_of(layers) == {dense: None}


# What a rectifier is.

def below(f=None):
    return L.DenseLayer(network_input(3), 3, nonlinearity=f)


@pytest.mark.parametrize('wanted, build', [
    (True, lambda: below(rectify)), (True, lambda: below(T.nnet.relu)),
    (True, lambda: below(lambda z: T.maximum(z, 0))),
    (True, lambda: below(GuidedBackprop(rectify))),
    (True, lambda: L.NonlinearityLayer(below())),
    (True, lambda: L.NonlinearityLayer(L.DropoutLayer(BatchNorm(below())))),
    (True, lambda: L.NonlinearityLayer(L.GaussianNoiseLayer(below()))),
    (False, below), (False, lambda: below(tanh)),
    (False, lambda: below(softmax)), (False, lambda: below(leaky_rectify)),
    (False, lambda: BatchNorm(below())),
    (False, lambda: L.NonlinearityLayer(below(tanh))),
    (False, lambda: L.NonlinearityLayer(L.ElemwiseSumLayer([below()] * 2))),
    (False, lambda: (lambda v: L.ElemwiseSumLayer(
        [v, L.NonlinearityLayer(v)]))(below())),
    (False, lambda: L.NonlinearityLayer(L.FeaturePoolLayer(below(), 3)))])
def test_what_follows(wanted, build):
    layers = L.get_all_layers(build())
    assert rectified(layers[1], layers) is wanted


@pytest.mark.parametrize('f, at_0, at_4', [
    (rectify, 0, 1), (lambda z: T.maximum(z, 0), 0, 1),
    (GuidedBackprop(rectify), 0, 1), (leaky_rectify, .505, 1),
    (tanh, 1, 1 - np.tanh(4) ** 2)], ids=range(5))
def test_the_gate(f, at_0, at_4):
    """At 0 a rectifier is closed; others have the gradient of theirs."""
    W = np.array([[1., 1], [-1, 1]])
    net = L.DenseLayer(network_input(2), 2, W=W, b=None, nonlinearity=f)
    net = L.DenseLayer(net, 1, W=np.ones((2, 1)), nonlinearity=None)
    patterns = fit_patterns(net, values(30, 2))
    a, b = patterns.values()
    got = compile_saliency_function(net, PatternNet(patterns))(
        np.array([[2., 2]]))
    close(got, (a @ (b[:, 0] * [at_0, at_4]))[None])


def test_sums_and_averages_keep_their_gradient():
    one = of(network_input(2, 4, 4), 'Conv2DLayer', num_filters=2,
             filter_size=3, nonlinearity=None, name='one')
    two = of(one.input_layer, 'Conv2DLayer', num_filters=2, filter_size=3,
             nonlinearity=None, name='two')
    net = L.GlobalPoolLayer(L.ElemwiseSumLayer([one, two], coeffs=[2, -1]))
    images = values(20, 2, 4, 4)
    patterns = fit_patterns(net, images)
    got = compile_saliency_function(net, PatternNet(patterns), target=1)(
        images[:1])
    wanted = np.zeros((1, 2, 4, 4))
    for name, factor in ('one', 2), ('two', -1):
        for i, j in np.ndindex(2, 2):
            wanted[0, :, i:i + 3, j:j + 3] += (
                factor / 4 * patterns[name][1, :, ::-1, ::-1])
    close(got, wanted)


def test_rules_of_ones_own_come_first():
    net, images, patterns = fitted()
    rows = PatternNet(patterns, {'one': lrp.Flat()}).plan(named_layers(net))
    rules = {place.name: place.cells[-1] for place, _ in rows}
    assert [rules[name] for name in patterns] == ['Flat()'] + ['Signal()'] * 3
    assert rules['#2 MaxPool2DLayer'] == 'Winner()'


# What data there may be.

@pytest.mark.parametrize('batch_size', [10, 5000])
def test_float32_with_large_values(batch_size):
    """Sums over batches lose nothing, nor does a mean far from 0."""
    theano.config.floatX = 'float32'
    W = values(6, 4).astype('float32')
    net = L.DenseLayer(L.InputLayer((None, 6)), 4, W=W, nonlinearity=None)
    images = (1000 + 10 * values(5000, 6)).astype('float32')
    (a,) = fit_patterns(net, images, batch_size).values()
    xs = images.astype(float)
    close(a, np.transpose([formula(xs, xs @ w, w, False)
                           for w in W.T.astype(float)]), 1e-5)


def test_an_input_with_an_expression():
    x, W = T.dmatrix('x'), values(3, 2)
    net = L.DenseLayer(L.InputLayer((None, 3), 2 * x - 1), 2, W=W)
    plain = L.DenseLayer(network_input(3), 2, W=W)
    images = values(20, 3)
    close(fit_patterns(net, images)['#1 DenseLayer'],
          fit_patterns(plain, 2 * images - 1)['#1 DenseLayer'])


def test_layers_that_share_their_weights():
    W, images = theano.shared(values(3, 3)), values(20, 3)
    results = []
    for other in W, W.get_value():
        net = L.DenseLayer(network_input(3), 3, W=W)
        net = L.DenseLayer(net, 3, W=other, nonlinearity=None)
        results.append(fit_patterns(net, images))
    for name in results[0]:
        close(results[0][name], results[1][name])


def test_progress(capsys):
    net, images, _ = fitted()
    fit_patterns(net, images, batch_size=10, progress=True)
    assert '4/4' in capsys.readouterr().err
    fit_patterns(net, images)
    assert not capsys.readouterr().err


@pytest.mark.parametrize('build, images, message', [
    (below, [], 'expected images, got none'),
    (below, [np.ones((0, 3))], 'expected images, got none'),
    (below, np.full((2, 3), np.nan), 'finite'),
    (lambda: L.NonlinearityLayer(network_input(3)), np.eye(3), 'with weights'),
    (lambda: L.ConcatLayer([below(), below()]), np.eye(3), 'one input'),
    (lambda: L.DenseLayer(L.DenseLayer(network_input(3), 3, name='a'), 3,
                          name='a'), np.eye(3), r"names, got \['a', 'a'\]")])
def test_what_does_not_fit(build, images, message):
    with pytest.raises(ValueError, match=message):
        fit_patterns(build(), images)


def test_patterns_of_another_network():
    net, images, patterns = fitted()
    with pytest.raises(TypeError, match='what fit_patterns returns'):
        PatternNet(dict(patterns))
    other = of(network_input(2, 6, 6), 'Conv2DLayer', num_filters=3,
               filter_size=2, name='one')
    with pytest.raises(ValueError, match=r'one of the shape .*\(3, 2, 2, 2\)'):
        modified(other, PatternNet(patterns))
    other.name = 'once'
    with pytest.raises(ValueError, match="'once': perhaps you meant 'one'"):
        modified(other, PatternAttribution(patterns))
    with modified(other, PatternNet(patterns, {'once': lrp.Epsilon()})) as m:
        L.get_output(other)
    assert len(m) == 1
    with pytest.warns(UserWarning, match='weights of one, two.* fit them') as w:
        with modified(vgg(), PatternNet(patterns)):
            pass
    assert [v.filename for v in w if 'fit them' in str(v.message)] == [__file__]


def test_weights_that_differ_by_rounding_alone_are_the_same():
    net = below()
    ((name, s),) = fit_patterns(net, values(9, 3)).statistics.items()
    W = net.W.get_value() * 1e-3
    for factor, differs in (1, False), (1 + 2e-6, False), (1 + 2e-5, True):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            Patterns({name: s._replace(W=W)}).check({name: factor * W})
        assert any('fit them' in str(w.message) for w in seen) == differs


def test_units_without_a_pattern():
    W, images = np.array([[-1., 0, 2], [-1, 1, 2], [0, 1, 0]]), abs(values(9, 3))
    net = L.DenseLayer(network_input(3), 3, W=W, name='one')
    patterns = fit_patterns(net, images)
    np.testing.assert_array_equal(patterns['one'][:, 0], 0)
    close(patterns['one'][:, 1], formula(images, images @ W[:, 1], W[:, 1],
                                         True))
    with pytest.warns(UserWarning, match=r'pattern: one \(1 of 3\)') as seen:
        with modified(net, PatternNet(patterns)):
            pass
    assert {w.filename for w in seen} == {__file__}
    dead = L.DenseLayer(network_input(3), 3, W=-abs(W), name='one')
    with pytest.raises(ValueError, match='no unit of one has a pattern'):
        modified(dead, PatternNet(fit_patterns(dead, images)))


def test_a_unit_that_is_constant_has_none():
    """What is left is rounding, of any direction."""
    images = np.concatenate([values(50, 2), np.full((50, 1), .1)], axis=1)
    W = np.array([[0., 1], [0, 1], [3, 1]])
    net = L.DenseLayer(network_input(3), 2, W=W, name='one')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        patterns = fit_patterns(net, images, batch_size=7)
    np.testing.assert_array_equal(patterns['one'][:, 0], 0)
    assert abs(patterns['one'][:, 1]).min() > 0


if MASTER:
    def test_weights_of_one_place_have_no_pattern():
        net = of(network_input(2, 4, 4), 'LocallyConnected2DLayer',
                 num_filters=3, filter_size=3, name='one')
        net = of(net, 'DenseLayer', num_units=2, name='two')
        patterns = fit_patterns(net, values(20, 2, 4, 4))
        assert [*patterns] == ['two']
        with pytest.raises(ValueError, match="no pattern of layer 'one'"):
            modified(net, PatternNet(patterns))
