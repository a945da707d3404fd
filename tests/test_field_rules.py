"""The rules besides the three of the historic recipe (see test_rules.py)."""
import pickle

import numpy as np
import pytest
import theano
import theano.sparse
import theano.tensor as T
from sklearn.datasets import load_digits
from theano.sandbox.rng_mrg import MRG_RandomStreams

import gradmod

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
RNG = np.random.RandomState(0)
# all sign quadrants, zeros, ties with thresholds
Z, G = (a.ravel() for a in np.meshgrid([-2.5, -1, -.5, 0, .5, 1, 3],
                                       [-4., -1, 0, .25, 1, 2]))


def leaky(z):
    return T.nnet.relu(z, .5)


def identity(z):
    return z


def gradient(rule, dtype='float64', ndim=1, mode=PY):
    type = T.TensorType(dtype, (False,) * ndim)
    z, g = type('z'), type('g')
    out = theano.grad(None, z, known_grads={rule(z): g})
    assert out.type == type
    return theano.function([z, g], out, mode=mode, on_unused_input='ignore')


ELEMENTWISE = [
    (gradmod.GuidedGradient(leaky), reference.guided_leaky(.5)),
    (gradmod.DeconvNonlinearity(leaky), lambda z, g: g if g > 0 else .5 * g),
    (gradmod.BackpropThrough(T.nnet.relu), lambda z, g: g),
    (gradmod.RectGrad(T.nnet.relu), reference.rect_grad(0)),
    (gradmod.RectGrad(T.nnet.relu, threshold=.5), reference.rect_grad(.5)),
    (gradmod.EpsilonLRP(T.nnet.relu, epsilon=.1), reference.epsilon_lrp(.1)),
    (gradmod.StraightThrough(T.sgn), lambda z, g: g),
    (gradmod.StraightThrough(T.sgn, bound=1), reference.straight_through(1)),
    (gradmod.StraightThrough(T.round, bound=1), reference.straight_through(1)),
    (gradmod.StraightThrough(lambda z: T.cast(z > 0, z.dtype), bound=1),
     reference.straight_through(1)),
    (gradmod.ScaleGradient(factor=3), lambda z, g: 3 * g),
    (gradmod.ScaleGradient(T.sqr, factor=3), lambda z, g: 6 * z * g),
    (gradmod.GradientReversal(factor=.5), lambda z, g: -.5 * g),
    (gradmod.GradientReversal(), lambda z, g: -g),
    (gradmod.ClipGradient(low=-1, high=.5),
     lambda z, g: min(max(g, -1), .5)),
    (gradmod.ClipGradient(T.sqr), lambda z, g: min(max(2 * z * g, -1), 1)),
    (gradmod.NoisyGradient(T.sqr, noise=.25), lambda z, g: 2 * z * g + .25),
    (gradmod.GradientProbe(T.sqr, lambda g: None), lambda z, g: 2 * z * g),
    (gradmod.NaNGuard(T.sqr), lambda z, g: 2 * z * g),
]


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('rule, expected', ELEMENTWISE)
def test_values(rule, expected, dtype):
    z, g = Z.astype(dtype), G.astype(dtype)
    got = gradient(rule, dtype)(z, g)
    np.testing.assert_allclose(got, reference.elementwise(expected, z, g),
                               rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize('rule, expected', ELEMENTWISE)
def test_forward_pass_is_unchanged(rule, expected):
    z = T.dvector('z')
    f = theano.function([z], [rule(z), rule.nonlinearity(z)], mode=PY)
    got, want = f(Z)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('rule, expected', ELEMENTWISE)
def test_no_shape_check_at_run_time(rule, expected):
    z, g = T.dvectors('zg')
    f = theano.function(
        [z, g], theano.grad(None, z, known_grads={rule(z): g}),
        mode='FAST_COMPILE', on_unused_input='ignore')
    assert not any('Assert' in str(n.op) for n in f.maker.fgraph.toposort())


@pytest.mark.parametrize('make, expected', [
    (lambda p: gradmod.RectGrad(T.nnet.relu, threshold=p), reference.rect_grad),
    (lambda p: gradmod.EpsilonLRP(T.nnet.relu, epsilon=p),
     reference.epsilon_lrp),
    (lambda p: gradmod.StraightThrough(T.sgn, bound=p),
     reference.straight_through),
    (lambda p: gradmod.ScaleGradient(factor=p), lambda p: lambda z, g: p * g),
    (lambda p: gradmod.GradientReversal(factor=p),
     lambda p: lambda z, g: -p * g),
    (lambda p: gradmod.ClipGradient(low=-2 * p, high=p),
     lambda p: lambda z, g: min(max(g, -2 * p), p))])
def test_parameters_change_without_compiling_again(make, expected):
    parameter = theano.shared(1.)  # float64, whatever the gradient is
    f = gradient(make(parameter), 'float32')
    z, g = Z.astype('float32'), G.astype('float32')
    for value in 1., .25, 2.:
        parameter.set_value(value)
        np.testing.assert_allclose(
            f(z, g), reference.elementwise(expected(value), z, g), rtol=1e-6)


@pytest.mark.parametrize('shape', [(3, 10), (2, 3, 4, 5)])
def test_rect_grad_by_quantile(shape):
    z, g = RNG.randn(2, *shape)
    q = theano.shared(.9)
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=q), ndim=len(shape))
    for value in .9, .5, 0., .99:
        q.set_value(value)
        np.testing.assert_array_equal(
            f(z, g), reference.quantile_gate(z, g, value))


@pytest.mark.parametrize('dtype, q, n, closed', [
    ('float32', .3, 50, 15), ('float64', .07, 100, 7), ('float32', .98, 50, 49),
    ('float64', .3, 11, 4), ('float32', 1e-9, 50, 1), ('float64', .5, 2, 1)])
def test_a_quantile_that_is_rounded_up(dtype, q, n, closed):
    # ceil(q n) of the decimal q; .3 * 50 is 15.0000006 in float32
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=q), dtype)
    z = np.arange(1, n + 1).astype(dtype)
    assert (f(z, 0 * z + 1) == 0).sum() == closed


def test_rect_grad_by_quantile_of_a_single_sample():
    z, g = RNG.randn(2, 20)
    f = gradient(gradmod.RectGrad(T.nnet.relu, quantile=.8))
    np.testing.assert_array_equal(
        f(z, g), reference.quantile_gate(z[None], g[None], .8)[0])


def test_clip_gradient_norm():
    f = gradient(gradmod.ClipGradientNorm(norm=2))
    np.testing.assert_allclose(f([0, 0], [3, 4]), [1.2, 1.6])
    np.testing.assert_allclose(f([0, 0], [.3, .4]), [.3, .4])
    np.testing.assert_array_equal(f([0, 0], [0, 0]), [0, 0])
    f = gradient(gradmod.ClipGradientNorm(T.sqr, norm=2), ndim=2)
    t = 2 * np.array([[1., -2], [3, 4]])
    np.testing.assert_allclose(f(t / 2, t * 0 + 1),
                               t * 2 / np.sqrt((t ** 2).sum()))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_clip_gradient_norm_of_extreme_gradients(dtype):
    norm = theano.shared(np.dtype(dtype).type(1))
    f = gradient(gradmod.ClipGradientNorm(norm=norm), dtype)
    for factor in 1e20, 1e37:  # whose squares float32 does not hold
        g = np.array([3, 4], dtype) * np.dtype(dtype).type(factor)
        np.testing.assert_allclose(f(0 * g, g), [.6, .8], rtol=1e-6)
    ones = np.ones(70000, 'float16')
    many = gradient(gradmod.ClipGradientNorm(norm=np.sqrt(70000) / 2), 'float16')
    np.testing.assert_array_equal(many(ones, ones), ones / 2)
    g = np.array([3, 4], dtype) * np.dtype(dtype).type(1e-30)
    np.testing.assert_array_equal(f(g, g), g)
    assert f(g[:0], g[:0]).shape == (0,)
    assert np.isnan(f(g, g * np.array([1, np.nan], dtype))).all()
    norm.set_value(0)
    for g in np.zeros(2, dtype), np.ones(2, dtype), g[:0]:
        np.testing.assert_array_equal(f(g, g), 0 * g)


def test_noise_is_drawn_for_each_call():
    noise = MRG_RandomStreams(1).normal((1000,), std=.5, dtype='float64')
    f = gradient(gradmod.NoisyGradient(noise=noise))
    g = np.full(1000, 3.)
    first, second = f(g, g), f(g, g)
    assert (first != second).all()
    assert abs(first.mean() - 3) < .1 and abs(first.std() - .5) < .1


def test_probe_records_and_guard_names_the_layer():
    seen = []
    f = gradient(gradmod.GradientProbe(T.sqr, seen.append))
    f([1, 2], [3, 4])
    np.testing.assert_array_equal(seen, [[6, 16]])
    with pytest.raises(TypeError, match='GradientProbe.*expected record'):
        gradmod.GradientProbe(T.sqr)
    f = gradient(gradmod.NaNGuard(T.sqr, name='conv 3'))
    for bad in np.nan, np.inf:
        with pytest.raises(FloatingPointError, match=r"NaNGuard\(sqr\) "
                           "'conv 3': 1 of 2 values"):
            f([1, bad], [1, 1])


@pytest.fixture(scope='module')
def digits():
    """Images, classes, and the weights of an MLP trained on them, by hand."""
    data = load_digits()
    images, classes = data.data / 16., data.target
    rng = np.random.RandomState(3)
    weights = [(rng.randn(n, m) * (2. / n) ** .5, np.zeros(m))
               for n, m in [(64, 24), (24, 16), (16, 10)]]
    for step in range(600):
        batch = rng.randint(len(images), size=64)
        zs, out = reference.mlp_forward(images[batch], weights)
        hs = [images[batch]] + [reference.relu(z) for z in zs]
        p = np.exp(out - out.max(axis=1, keepdims=True))
        g = p / p.sum(axis=1, keepdims=True) - np.eye(10)[classes[batch]]
        for h, z, (W, b) in zip(hs[::-1], [None] + zs[::-1], weights[::-1]):
            if z is not None:
                g = g * (z > 0)
            below = g.dot(W.T)
            W -= .005 * h.T.dot(g)
            b -= .005 * g.sum(axis=0)
            g = below
    _, out = reference.mlp_forward(images, weights)
    assert (out.argmax(axis=1) == classes).mean() > .95
    return images, weights


def network(nonlinearity, weights):
    h = x = T.dmatrix('x')
    for W, b in weights[:-1]:
        h = nonlinearity(T.dot(h, W) + b)
    return x, T.dot(h, weights[-1][0]) + weights[-1][1]


def test_deeplift_rescale(digits):
    images, weights = digits
    x, out = network(gradmod.DeepLiftRescale(T.nnet.relu), weights)
    n = x.shape[0] // 2
    gradient = theano.grad(out[:n, 1].sum(), x)[:n]
    f = theano.function([x], [gradient, out], mode=PY)
    X, X0 = images[:5], images[100:105].copy()
    X0[0] = X[0]  # nothing to explain: the true gradient, times zero
    multipliers, y = f(np.concatenate([X, X0]))
    got = multipliers * (X - X0)
    want = [reference.deeplift_contributions(a, b, weights, 1)
            for a, b in zip(X, X0)]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    # completeness
    np.testing.assert_allclose(got.sum(axis=1), y[:5, 1] - y[5:, 1],
                               rtol=1e-9, atol=1e-12)


def test_epsilon_lrp(digits):
    images, weights = digits
    epsilon = 1e-3
    x, out = network(gradmod.EpsilonLRP(T.nnet.relu, epsilon=epsilon), weights)
    f = theano.function([x], theano.grad(out[:, 2].sum(), x), mode=PY)
    X = images[:4]
    want = [reference.lrp_contributions(a, weights, 2, epsilon) for a in X]
    np.testing.assert_allclose(f(X) * X, want, rtol=1e-9, atol=1e-12)


def test_epsilon_lrp_is_complete_without_biases(digits):
    images, weights = digits
    weights = [(W, 0 * b) for W, b in weights]
    x, out = network(gradmod.EpsilonLRP(T.nnet.relu, epsilon=1e-12), weights)
    f = theano.function([x], [theano.grad(out[:, 2].sum(), x), out[:, 2]],
                        mode=PY)
    multipliers, y = f(images[:9])
    np.testing.assert_allclose((multipliers * images[:9]).sum(axis=1), y,
                               rtol=1e-7)


def test_default_nonlinearity_is_the_identity_and_pickles():
    for rule in (gradmod.GradientReversal(factor=2), gradmod.ClipGradient(),
                 gradmod.ScaleGradient(), gradmod.ClipGradientNorm(),
                 gradmod.NoisyGradient(), gradmod.NaNGuard(name='a')):
        rule = pickle.loads(pickle.dumps(rule))
        z = T.dvector('z')
        np.testing.assert_array_equal(rule(z).eval({z: Z}), Z)


def test_gradient_reversal_has_a_forward_mode():
    z, v = T.dvectors('zv')
    f = theano.function([z, v], theano.Rop(
        gradmod.GradientReversal(T.sqr, factor=.5)(z), z, v), mode=PY)
    np.testing.assert_allclose(f(Z, G), -.5 * 2 * Z * G)


@pytest.mark.parametrize('value', [
    None, '1.5', 2j, object(), [1, 'a'], T.zvector(),
    theano.sparse.csr_matrix(), theano.gof.Generic()()], ids=repr)
@pytest.mark.parametrize('rule, name', [
    (gradmod.RectGrad, 'threshold'), (gradmod.RectGrad, 'quantile'),
    (gradmod.EpsilonLRP, 'epsilon'), (gradmod.DeepLiftRescale, 'tolerance'),
    (gradmod.StraightThrough, 'bound'), (gradmod.ScaleGradient, 'factor'),
    (gradmod.GradientReversal, 'factor'), (gradmod.ClipGradient, 'low'),
    (gradmod.ClipGradient, 'high'), (gradmod.ClipGradientNorm, 'norm'),
    (gradmod.NoisyGradient, 'noise')])
def test_parameters_are_real(rule, name, value):
    if value is None and name in ('quantile', 'bound'):
        return  # which means without
    with pytest.raises(TypeError, match=r'%s\(relu\): expected %s to be a real'
                       % (rule.__name__, name)):
        rule(T.nnet.relu, **{name: value})(T.vector())


@pytest.mark.parametrize('quantile', [[.5], np.ones((2, 2)), T.vector()])
def test_a_quantile_is_a_single_number(quantile):
    rule = gradmod.RectGrad(T.nnet.relu, quantile=quantile)
    with pytest.raises(TypeError, match='quantile to be a single number'):
        rule(T.matrix())


def at(rule, z, g):
    """The gradient by `rule` at vectors of float64."""
    x, v = T.dvectors('xv')
    f = theano.function([x, v], theano.grad(
        None, x, known_grads={rule(x): v}, disconnected_inputs='ignore'),
        mode=PY, on_unused_input='ignore')
    return f(np.array(z, float), np.array(g, float))


def test_guided_gradient_hides_no_nan():
    np.testing.assert_array_equal(
        at(gradmod.GuidedGradient(T.nnet.relu), [2, -2, 2], [np.nan, 1, 3]),
        [np.nan, 0, 3])


def test_guided_gradient_where_the_derivative_is_infinite():
    np.testing.assert_array_equal(
        at(gradmod.GuidedGradient(T.sqrt), [0, 1, 1], [0, -.5, 2]), [0, 0, 1])


def test_epsilon_has_the_sign_of_the_input_and_that_of_zero_is_positive():
    rule = gradmod.EpsilonLRP(lambda z: z + 1, epsilon=.5)
    np.testing.assert_array_equal(at(rule, [0, 1, -2], [1, 3, 5]), [2, 4, 2])


@pytest.mark.parametrize('n', [1, 3])
def test_deeplift_without_references(n):
    rule = gradmod.DeepLiftRescale(T.sqr)
    with pytest.raises(AssertionError, match='as many references as samples'):
        at(rule, np.ones(n), np.ones(n))
    f = gradient(rule, ndim=2)
    with pytest.raises(AssertionError, match='as many references as samples'):
        f(np.ones((n, 4)), np.ones((n, 4)))
    assert f(np.ones((4, n)), np.ones((4, n))).shape == (4, n)


def test_deeplift_at_the_tolerance():
    rule = gradmod.DeepLiftRescale(T.sqr, tolerance=.5)
    np.testing.assert_array_equal(at(rule, [1, .5], [1, 1]), [2, 1])
    np.testing.assert_array_equal(at(rule, [1.5, .5], [1, 1]), [2, 2])


def test_defaults():
    np.testing.assert_allclose(
        at(gradmod.EpsilonLRP(T.nnet.relu), [1], [1]), 1 / (1 + 1e-4))
    np.testing.assert_allclose(
        at(gradmod.ClipGradientNorm(), [0, 0], [3, 4]), [.6, .8])
    np.testing.assert_array_equal(
        at(gradmod.NoisyGradient(), [0, 0], [3, 4]), [3, 4])


def test_numbers_are_of_the_dtype_of_the_gradient():
    with theano.configparser.change_flags(warn_float64='raise'):
        for value in .1, np.float64(.1), np.array([.1]):
            gradmod.ScaleGradient(T.nnet.relu, factor=value)(T.fvector())
        gradmod.override_gradient(T.sgn, lambda inputs, gs: .5)(T.fvector())
