"""The rules besides the three of the historic recipe (see test_rules.py)."""
import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T

import gradmod
from gradmod._theano import change_flags

from . import reference
from .models import PY
from .test_rules import gradient

RNG = np.random.RandomState(0)
# all sign quadrants, zeros, ties with thresholds, infinity, NaN
Z, G = (a.ravel() for a in np.meshgrid(
    [-np.inf, -2.5, -1, -.5, 0, .5, 1, 3, np.inf, np.nan],
    [-np.inf, -4., -1, 0, .25, 1, 2, np.inf, np.nan]))


def relu(z):
    return T.maximum(z, 0)  # that of Theano gives NaN at -infinity


def leaky(z):
    return T.nnet.relu(z, .5)


def check(f, expected, dtype, rtol):
    z, g = Z.astype(dtype), G.astype(dtype)
    with np.errstate(all='ignore'):
        np.testing.assert_allclose(
            f(z, g), reference.elementwise(expected, z, g), rtol=rtol)


ELEMENTWISE = [
    (gradmod.GuidedGradient(leaky), reference.guided_leaky(.5)),
    (gradmod.BackpropThrough(relu), lambda z, g: g),
    (gradmod.BetaSmooth(relu), reference.beta_smooth(10)),
    (gradmod.BetaSmooth(relu, beta=.3), reference.beta_smooth(.3)),
    (gradmod.RectGrad(relu), reference.rect_grad(0)),
    (gradmod.RectGrad(relu, threshold=.5), reference.rect_grad(.5)),
    (gradmod.StraightThrough(T.sgn), lambda z, g: g),
    (gradmod.StraightThrough(T.sgn, bound=1), reference.straight_through(1)),
    (gradmod.StraightThrough(lambda z: T.cast(z > 0, z.dtype), bound=1),
     reference.straight_through(1)),
    (gradmod.GradientReversal(factor=.3), lambda z, g: g * -.3),
    (gradmod.GradientReversal(T.sqr), lambda z, g: -(2 * z * g)),
]


@pytest.mark.parametrize('rule, expected', ELEMENTWISE)
def test_values(rule, expected):
    for dtype, rtol in ('float32', 2e-6), ('float64', 1e-14):
        check(gradient(rule, dtype), expected, dtype, rtol)
    f = gradient(rule, mode='FAST_COMPILE')  # no check of shapes at run time
    assert not any('Assert' in str(n.op) for n in f.maker.fgraph.toposort())
    z = T.dvector('z')
    got, want = theano.function([z], [rule(z), rule.nonlinearity(z)],
                                mode=PY)(Z)
    np.testing.assert_array_equal(got, want)  # the forward pass is unchanged


PARAMETERS = [
    (gradmod.BetaSmooth, 'beta', reference.beta_smooth),
    (gradmod.RectGrad, 'threshold', reference.rect_grad),
    (gradmod.StraightThrough, 'bound', reference.straight_through),
    (gradmod.GradientReversal, 'factor',
     lambda p: lambda z, g: -p * g if z > 0 else 0.)]


@pytest.mark.parametrize('rule, name, expected', PARAMETERS)
def test_parameters(rule, name, expected):
    def closed(z):
        return T.switch(z > 0, z, 0)
    parameter = theano.shared(1.)  # float64, whatever the gradient is
    f = gradient(rule(closed, **{name: parameter}), 'float32')
    for value in 1., .25, 2.:  # without compiling again
        parameter.set_value(value)
        check(f, expected(value), 'float32', 2e-6)
    with change_flags(floatX='float32'):
        f = gradient(rule(closed, **{name: .3}))  # of all its digits
    check(f, expected(.3), 'float64', 1e-14)
    with change_flags(warn_float64='raise'):
        for value in .1, np.float64(.1), np.array([.1]):
            rule(T.nnet.relu, **{name: value})(T.fvector())
    for value in '1.5', 2j, T.zvector():
        with pytest.raises(TypeError):
            rule(closed, **{name: value})(T.vector())
    with pytest.raises(TypeError, match=f'{rule.__name__}: .*by name, got .*5'):
        rule(.5)


@pytest.mark.parametrize('rule', [
    gradmod.ZeroBackprop(), gradmod.BackpropThrough(),
    gradmod.StraightThrough(), gradmod.GradientReversal(factor=2)])
def test_the_identity_by_default_and_pickling(rule):
    z = T.dvector('z')
    rule = pickle.loads(pickle.dumps(rule))
    np.testing.assert_array_equal(rule(z).eval({z: Z}), Z)


def test_beta_smooth_has_a_second_derivative():
    z, g, v = T.dvectors('zgv')
    first = theano.grad(None, z, known_grads={
        gradmod.BetaSmooth(T.nnet.relu, beta=3)(z): g})
    f = theano.function([z, g, v], theano.grad((first * v).sum(), [z, g]),
                        mode=PY)
    Z, G, V = RNG.randn(3, 20)
    s = 1 / (1 + np.exp(-3 * Z))
    np.testing.assert_allclose(f(Z, G, V), [V * G * 3 * s * (1 - s), V * s])


@pytest.mark.parametrize('shape', [(3, 10), (2, 3, 4, 5)])
def test_rect_grad_by_quantile(shape):
    z, g = RNG.randn(2, *shape)
    q = theano.shared(.9)
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=q), ndim=len(shape))
    for value in .9, .5, 0., .99:
        q.set_value(value)
        np.testing.assert_array_equal(
            f(z, g), reference.quantile_gate(z, g, value))
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=.8))  # one sample
    np.testing.assert_array_equal(
        f(z[0].ravel(), g[0].ravel()),
        reference.quantile_gate(z[:1], g[:1], .8).ravel())


@pytest.mark.parametrize('dtype, q, n, closed', [
    ('float32', .3, 50, 15), ('float64', .07, 100, 7), ('float64', .3, 11, 4),
    ('float32', .98, 50, 49), ('float32', 1e-9, 50, 1), ('float64', .5, 2, 1)])
def test_a_quantile_that_is_rounded_up(dtype, q, n, closed):
    # ceil(q n) of the decimal q; .3 * 50 is 15.0000006 in float32
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=q), dtype)
    z = np.arange(1, n + 1).astype(dtype)
    assert (f(z, 0 * z + 1) == 0).sum() == closed


def test_guided_gradient_where_the_derivative_is_infinite():
    f = gradient(gradmod.GuidedGradient(T.sqrt))
    np.testing.assert_array_equal(f([0, 1, 1], [0, -.5, 2]), [0, 0, 1])
