import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import NonlinearityLayer
from lasagne.nonlinearities import rectify, softmax

from gradmod import saliency_map
from gradmod.logits import SIGMOIDS, SOFTMAXES, logits_of

from .models import CLASSES, LABELS, P, PY, RULES, X, compiled, mlp

pytestmark = pytest.mark.usefixtures('no_compiler')
B = np.array([.5, -1, 0])
EPS = 1e-7


def by_hand(z):
    e = T.exp(z - z.max(axis=1).dimshuffle(0, 'x'))
    return e / T.sum(e, axis=1)[:, None]


def log_by_hand(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - T.log(T.exp(z).sum(axis=1, keepdims=True))


def minus_log_sum_exp(z):
    m = z.max(axis=1, keepdims=True)
    return z - (m + T.log(T.exp(z - m).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize('form', {**SOFTMAXES, **SIGMOIDS})
def test_what_is_looked_for(form):
    z = X.dot(P)
    sigmoid, e = 1 / (1 + np.exp(-z)), np.exp(z)
    softmax = e / e.sum(axis=1, keepdims=True)
    want = (sigmoid if form in SIGMOIDS else
            np.log(softmax) if 'log' in form else softmax)
    x = T.dmatrix('x')
    got = {**SOFTMAXES, **SIGMOIDS}[form](x).eval({x: z})
    rough = '_sigmoid' in form  # Theano's approximations
    np.testing.assert_allclose(got, want, atol=.2 if rough else 1e-12)


@pytest.mark.parametrize('output', [
    lambda z: T.nnet.softmax(z + B),
    lambda z: T.nnet.nnet.softmax_with_bias(z, T.constant(B)),
    lambda z: T.nnet.logsoftmax(z + B),
    lambda z: T.nnet.softmax(z + B).reshape((z.shape[0], CLASSES)),
    lambda z: T.nnet.softmax((z + B).reshape((-1, CLASSES))).reshape(z.shape),
    lambda z: T.nnet.softmax(z + B).dimshuffle(0, 'x', 1).flatten(2),
    lambda z: z + B,
    lambda z: T.log(by_hand(z + B)),
    lambda z: T.log(T.clip(by_hand(z + B), EPS, 1 - EPS)),
    lambda z: T.cast(T.clip(T.nnet.softmax(z + B), EPS, 1), 'float64'),
    lambda z: T.exp(T.nnet.logsoftmax(z + B)),
    lambda z: log_by_hand(z + B),
    lambda z: minus_log_sum_exp(z + B),
    lambda z: T.log(T.nnet.sigmoid(z + B)),
] + [lambda z, f=f: f(z + B) for f in {**SOFTMAXES, **SIGMOIDS}.values()])
def test_logits_are_found(output):
    x = T.dmatrix('x')
    y = output(x.dot(P))
    np.testing.assert_allclose(logits_of(y).eval({x: X}), X.dot(P) + B,
                               rtol=1e-12)
    maps = saliency_map(y, None, LABELS, input_var=x)
    f = theano.function([x], maps, mode=PY)
    np.testing.assert_allclose(f(X), P.T[LABELS], rtol=1e-12)


@pytest.mark.parametrize('output', [
    T.exp, T.sqr, T.tanh, T.nnet.relu, T.nnet.softplus,
    lambda z: T.clip(z, -1, 1), lambda z: z - z.max(axis=1, keepdims=True),
    lambda z: T.exp(z) / T.exp(z).sum(axis=0, keepdims=True),
    lambda z: T.exp(z) / T.exp(2 * z).sum(axis=1, keepdims=True),
    lambda z: z.reshape((-1, 3)), lambda z: 2 / (1 + T.exp(-z))])
def test_what_has_no_logits(output):
    y = output(T.dmatrix('z'))
    assert logits_of(y) is y


def test_what_is_no_shift():
    z = T.dmatrix('z')
    shifted = z - z.max(axis=1, keepdims=True)
    assert logits_of(T.nnet.sigmoid(shifted)) is shifted
    for type in T.dmatrix, T.dcol:
        difference = type() - type()
        for f in SOFTMAXES.values():
            assert logits_of(f(difference)) is difference


def test_softmax_can_be_left_in(net):
    x = T.dmatrix('x')
    y = T.nnet.softmax(x.dot(P))
    f = theano.function([x], saliency_map(
        y, target=1, input_var=x, logits=False), mode=PY)
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
