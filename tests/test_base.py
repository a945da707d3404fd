import copy
import pickle
import subprocess
import sys
import threading

import lasagne
import numpy as np
import pytest
import theano
import theano.sparse
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams

import gradmod
from gradmod import DeconvNet, GuidedBackprop, ModifiedBackprop, ZeroBackprop
from gradmod._theano import Apply, Op, change_flags

from . import reference
from .internals import RandomStreams, generic

PY = theano.Mode(linker='py', optimizer='fast_compile')
OPAQUE = theano.Mode(linker='py', optimizer=None)
FAST = theano.Mode(linker='py', optimizer='fast_run')
modes = pytest.mark.parametrize('mode', [FAST, OPAQUE], ids=['fast', 'opaque'])
relu = lasagne.nonlinearities.rectify
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')
GUIDED = reference.elementwise(reference.guided, Z, W)


@pytest.fixture(autouse=True)
def without_c(request, monkeypatch):
    if request.node.name != 'test_acceptance':
        monkeypatch.setattr(theano.config, 'cxx', '')
        monkeypatch.setattr(theano.compile.mode, 'instantiated_default_mode',
                            FAST)


class Returns(ModifiedBackprop):
    """A rule that returns whatever the test says."""

    def __init__(self, what, nonlinearity=relu):
        super().__init__(nonlinearity)
        self.what = what

    def grad(self, inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        return self.what(z, g)


class Recipe(ModifiedBackprop):
    """A rule as written for the recipe that Lasagne users copy."""

    def grad(self, inputs, out_grads):
        (inp,) = inputs
        (grd,) = out_grads
        dtype = inp.dtype
        print('It works')
        return (grd * (inp > 0).astype(dtype) * (grd > 0).astype(dtype),)


def saliency(rule, mode=PY, dtype='float32'):
    z, w = T.matrix('z', dtype), T.matrix('w', dtype)
    gradient = theano.grad((rule(z) * w).sum(), z)
    return theano.function([z, w], gradient, mode=mode,
                           on_unused_input='ignore')


# The question that this library answers

@pytest.mark.usefixtures('no_compiler')
def test_acceptance(capsys):
    rng = np.random.RandomState(0)
    x = T.tensor3('x')
    l_in = lasagne.layers.InputLayer((4, 3, 5), input_var=x)
    l_hidden = lasagne.layers.DenseLayer(l_in, 12, nonlinearity=relu)
    l_second = lasagne.layers.DenseLayer(l_hidden, 8, nonlinearity=relu)
    l_out = lasagne.layers.DenseLayer(l_second, 5, nonlinearity=None)
    plain = theano.grad(
        lasagne.layers.get_output(l_out, deterministic=True)[3, 1], x)

    modded_relu = Recipe(relu)
    for layer in lasagne.layers.get_all_layers(l_out):
        if getattr(layer, 'nonlinearity', None) is relu:
            layer.nonlinearity = modded_relu
    out = lasagne.layers.get_output(l_out, deterministic=True)
    jacobian = theano.gradient.jacobian(out[3], x)
    single = theano.grad(out[3, 1], x)
    assert capsys.readouterr().out == 'It works\n'  # two layers of one type

    f = theano.function([x], [out, jacobian, single, plain], mode=FAST)
    X = rng.randn(4, 3, 5).astype(x.dtype)
    got_out, got_jacobian, got_single, got_plain = f(X)

    params = lasagne.layers.get_all_param_values(l_out)
    weights = list(zip(params[::2], params[1::2]))
    _, want_out = reference.mlp_forward(X, weights)
    np.testing.assert_allclose(got_out, want_out, rtol=1e-4, atol=1e-5)
    want = np.zeros((5,) + X.shape)
    for c in range(5):
        g = np.zeros_like(want_out)
        g[3, c] = 1
        want[c] = reference.mlp_backward(X, weights, g, reference.guided)
    assert got_jacobian.shape == want.shape
    np.testing.assert_allclose(got_jacobian, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got_single, want[1], rtol=1e-4, atol=1e-6)
    g = np.zeros_like(want_out)
    g[3, 1] = 1
    want_plain = reference.mlp_backward(X, weights, g, reference.plain)
    np.testing.assert_allclose(got_plain, want_plain, rtol=1e-4, atol=1e-6)
    assert np.abs(got_plain - got_single).max() > 1e-3


@pytest.mark.parametrize('rule, expected', [
    (GuidedBackprop, reference.guided), (DeconvNet, reference.deconv),
    (ZeroBackprop, reference.zero), (Recipe, reference.guided)])
@modes
def test_gradient_and_value(rule, expected, mode):
    z, w = T.fmatrices('zw')
    y = rule(relu)(z)
    f = theano.function([z, w], [y, theano.grad((y * w).sum(), z)], mode=mode,
                        on_unused_input='ignore')
    value, gradient = f(Z, W)
    np.testing.assert_array_equal(value, np.maximum(Z, 0))
    np.testing.assert_array_equal(
        gradient, reference.elementwise(expected, Z, W))


# The wrapper

def test_one_op_for_each_type_of_input():
    calls = []

    def nonlinearity(z):
        calls.append(z.type)
        return T.nnet.relu(z)
    rule = GuidedBackprop(nonlinearity)
    assert rule.ops == {} and rule.nonlinearity is nonlinearity
    types = [T.fmatrix, T.dmatrix, T.frow, T.fvector, T.fscalar, T.ftensor4]
    for type in types + types:
        assert rule(type()).ndim == type.ndim
    assert calls == types
    assert set(rule.ops) == set(types)


def test_names():
    assert repr(GuidedBackprop(relu)) == 'GuidedBackprop(rectify)'
    assert repr(DeconvNet(ZeroBackprop(relu))) == (
        'DeconvNet(ZeroBackprop(rectify))')
    leaky = lasagne.nonlinearities.LeakyRectify(.1)
    assert repr(GuidedBackprop(leaky)) == 'GuidedBackprop(LeakyRectify)'


@pytest.mark.parametrize('value', [
    2, 1.5, np.float32(-3), np.ones((2, 3), 'float32'), [[1., 2.], [3., -4.]]])
def test_call_takes_what_theano_takes(value):
    got = GuidedBackprop(relu)(value)
    np.testing.assert_array_equal(got.eval(), np.maximum(value, 0))


@pytest.mark.parametrize('value', [
    'abc', None, object(), [1, 'a'], 1 + 2j, T.zmatrix('z'), lambda z: z,
    generic('generic'), theano.sparse.csr_matrix('s', 'float32')])
def test_call_refuses_the_rest(value):
    rule = GuidedBackprop(relu)
    with pytest.raises(TypeError):
        rule(value)
    assert rule.ops == {}


def test_a_whole_number_is_a_float():
    rule = Returns(lambda z, g: 3 * g, T.sqr)
    for value in 2, True:
        y = rule(value)
        assert y.type == rule(float(value)).type
        (z,) = y.owner.inputs
        assert theano.grad(y, z).eval() == 3
    power = gradmod.override_gradient(lambda x, n: x ** n,
                                      lambda i, g: [g[0] * i[1], None])
    x = T.fscalar()
    y = power(x, 2)
    assert y.dtype == 'float32'
    assert theano.grad(y, x).eval({x: 5}) == 2


class Scaled(ModifiedBackprop):
    def __init__(self, nonlinearity, factor=1):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        return (out_grads[0] * self.factor,)


@pytest.mark.parametrize('make, message', [
    (lambda: GuidedBackprop(None), 'GuidedBackprop: expected a function'),
    (lambda: ModifiedBackprop('relu'), r"expected.*got str \('relu'\)$"),
    (lambda: Scaled(.5), r'Perhaps you meant Scaled\(rectify, factor=0.5\)'),
    (lambda: gradmod.RectGrad(.5), r'RectGrad\(rectify, threshold=0.5\)'),
    (lambda: gradmod.GradientReversal(.5),
     r'Perhaps you meant GradientReversal\(factor=0.5\)'),
    (lambda: type('Nothing', (ModifiedBackprop,), {
        '__init__': lambda self: ModifiedBackprop.__init__(self, 3)})(),
     r'Nothing: expected.*got int \(3\)$')])
def test_nonlinearity_must_be_callable(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize('name', ['L_op', 'R_op'])
def test_methods_of_theanos_ops_are_refused(name):
    # they would never be called
    with pytest.raises(TypeError, match='Mine.%s.*define grad' % name):
        type('Mine', (GuidedBackprop,), {name: lambda self, *args: None})
    Mixin = type('Mixin', (), {name: None})
    with pytest.raises(TypeError, match='define grad'):
        type('Mine', (Mixin, ModifiedBackprop), {})


def test_subclass_options_reach_the_next_class():
    class Keeper:
        def __init_subclass__(cls, key):
            cls.key = key
    Mine = type('Mine', (ModifiedBackprop, Keeper), {}, key=3)
    assert Mine.key == 3


def test_around_another_nonlinearity():
    rule = Scaled(relu, 3)
    rule(T.fmatrix())
    other = rule.around(T.tanh)
    assert other.calls == 0 and other.ops == {} and rule.nonlinearity is relu
    z = T.fmatrix('z')
    y = other(z)
    f = theano.function([z], [y, theano.grad(y.sum(), z)], mode=PY)
    for got, want in zip(f(Z), [np.tanh(Z), np.full_like(Z, 3)]):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert rule.calls == other.calls == 1 and len(rule.ops) == 1
    product = swapped_product.around(lambda x, y: x + y)
    x, y = T.fmatrices('xy')
    f = theano.function([x, y], theano.grad(product(x, y).sum(), [x, y]),
                        mode=PY)
    for got, want in zip(f(Z, W), [Z, W]):
        np.testing.assert_array_equal(got, want)
    assert pickle.loads(pickle.dumps(swapped_product.around(relu))
                        ).nonlinearity is relu


def test_calls_are_counted():
    rule = GuidedBackprop(relu)
    assert rule.calls == 0
    for x in T.fmatrix(), T.fmatrix(), T.fvector(), T.ivector(), 3:
        rule(x)
    assert rule.calls == 5
    assert copy.deepcopy(rule).calls == 0  # has no ops, either


@pytest.mark.parametrize('dtype', ['int8', 'int32', 'uint8', 'bool'])
def test_integer_input_has_no_gradient_to_override(dtype):
    # an integer is where a gradient ends: the plain nonlinearity
    if dtype not in T.discrete_dtypes:
        dtype = 'int8'  # Theano 0.9 has no bool
    z = T.matrix('z', dtype)

    def nonlinearity(z):
        return T.maximum(z.astype('float32'), 0) * np.float32(1.5)
    rule = GuidedBackprop(nonlinearity)
    f = theano.function([z], rule(z), mode=PY)
    np.testing.assert_array_equal(f(np.ones((2, 2), dtype)),
                                  np.full((2, 2), 1.5))
    assert rule.ops == {}


@pytest.mark.parametrize('returned, got', [
    (lambda z: None, 'NoneType'), (lambda z: [z, z], 'list'),
    (lambda z: z > 0, r'TensorType.*: cast it, by .astype\(x.dtype\)'),
    (lambda z: z.astype('int32'), r'int32.*\.astype'),
    (lambda z: z * 1j, r'complex128, matrix\)$'), (lambda z: 3., 'float'),
    (lambda z: np.zeros(3), 'ndarray'),
    (lasagne.nonlinearities.LeakyRectify, 'LeakyRectify')])
def test_nonlinearity_must_return_one_float_tensor(returned, got):
    with pytest.raises(TypeError, match=r'^GuidedBackprop\(.*\): expected .* '
                       'to return one float.*%s' % got):
        GuidedBackprop(returned)(T.fmatrix())


def test_nonlinearity_may_return_a_list_of_one():
    f = saliency(GuidedBackprop(lambda z: [T.nnet.relu(z)]))
    np.testing.assert_array_equal(f(Z, W), GUIDED)


# What grad may return

@pytest.mark.parametrize('returned, expected', [
    (lambda z, g: (2 * g,), 2 * W), (lambda z, g: [2 * g], 2 * W),
    (lambda z, g: 2 * g, 2 * W), (lambda z, g: 3, np.full_like(Z, 3)),
    (lambda z, g: (.5,), np.full_like(Z, .5)),
    (lambda z, g: np.float64(2), np.full_like(Z, 2)),
    (lambda z, g: np.array(2), np.full_like(Z, 2)),
    (lambda z, g: (Z * 2,), Z * 2), (lambda z, g: T.constant(Z), Z),
    (lambda z, g: z > 0, Z > 0), (lambda z, g: g.astype('float16'), W),
    (lambda z, g: g.astype('float64') * 2, 2 * W),
    (lambda z, g: T.cumsum(g, axis=0), np.cumsum(W, axis=0)),
    (lambda z, g: g[:, ::-1], W[:, ::-1])])
def test_grad_may_return(returned, expected):
    got = saliency(Returns(returned))(Z, W)
    assert got.dtype == 'float32'
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('returned, message', [
    (lambda z, g: None, 'got None: forgot to return'),
    (lambda z, g: (g, g), r'1 gradient\(s\), one for each input, got 2'),
    (lambda z, g: [], r'1 gradient\(s\), one for each input, got 0'),
    (lambda z, g: g.sum(axis=0), r'2 dimensions.*got.*float32, vector'),
    (lambda z, g: g.dimshuffle(0, 1, 'x'), '2 dimensions.*got'),
    (lambda z, g: np.zeros(3), r'2 dimensions.*got.*vector'),
    (lambda z, g: g * 1j, 'real tensor.*got.*complex'),
    (lambda z, g: 1j, 'real tensor.*got.*complex'),
    (lambda z, g: 'g', "real tensor.*got str \\('g'\\)"),
    (lambda z, g: 10 ** 30, r'real tensor.*got int \(10'),
    (lambda z, g: np.array([['g']]), 'real tensor.*got ndarray'),
    (lambda z, g: np.array([[None]]), 'real tensor.*got ndarray')])
def test_grad_may_not_return(returned, message):
    rule = Returns(returned)
    with pytest.raises(TypeError, match=r'(?s)^Returns\(rectify\)\.grad: '
                       'expected.*' + message):
        rule(T.fmatrix())
    assert rule.ops == {}


@pytest.mark.parametrize('returned', [
    lambda z, g: g[:1], lambda z, g: g.sum(axis=0, keepdims=True),
    lambda z, g: np.zeros((2, 4)), lambda z, g: g.dimshuffle(1, 0)])
@modes
def test_gradient_of_another_shape_is_an_error_at_run_time(returned, mode):
    f = saliency(Returns(returned), mode)
    with pytest.raises(AssertionError, match=r'Returns\(rectify\)\.grad.*'
                       'shape of the input: dimension'):
        f(Z, W)


def test_shape_is_not_checked_at_run_time_where_it_is_sure():
    for returned in (lambda z, g: g * (z > 0) + 1, lambda z, g: z,
                     lambda z, g: g, lambda z, g: T.exp(z).zeros_like()):
        z = T.fmatrix()
        gradient = theano.grad(Returns(returned)(z).sum(), z)
        f = theano.function([z], gradient, mode='FAST_COMPILE')
        assert not any('Assert' in str(n.op)
                       for n in f.maker.fgraph.toposort())


def test_shape_of_the_output_may_differ_from_that_of_the_input():
    # g then has another shape than z, and says nothing about the gradient's
    def nonlinearity(z):
        return T.nnet.relu(z)[:, :2]
    rule = Returns(lambda z, g: g, nonlinearity)
    z = T.fmatrix('z')
    f = theano.function([z], theano.grad(rule(z).sum(), z), mode=PY)
    with pytest.raises(AssertionError, match='dimension 1'):
        f(Z)
    row = T.frow()
    wide = Returns(lambda z, g: g, lambda z: z + theano.shared(Z))(row)
    f = theano.function([row], theano.grad(wide.sum(), row), mode=PY)
    with pytest.raises(AssertionError, match=r'Returns\(.*dimension 0'):
        f(Z[:1])
    rule = Returns(lambda z, g: T.set_subtensor(z.zeros_like()[:, :2], g),
                   nonlinearity)
    f = theano.function([z], theano.grad(rule(z).sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z), [[1, 1, 0], [1, 1, 0]])


def test_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match='ModifiedBackprop.*define'):
        ModifiedBackprop(relu)(T.fmatrix())


def test_disconnected_on_request():
    rule = Returns(lambda z, g: theano.gradient.disconnected_type())
    z = T.fmatrix('z')
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(rule(z).sum(), z)
    zeros = theano.grad(rule(z).sum(), z, disconnected_inputs='ignore')
    other = theano.grad((rule(z) + 2 * z).sum(), z)  # the other way counts
    f = theano.function([z], [zeros, other], mode=PY)
    for got, want in zip(f(Z), [0 * Z, 0 * Z + 2]):
        np.testing.assert_array_equal(got, want)


def test_an_error_in_grad_arrives_as_it_is():
    def fail(z, g):
        raise KeyError('mine')
    rule = Returns(fail)
    with pytest.raises(KeyError, match='mine'):
        rule(T.fmatrix())
    rule.what = lambda z, g: g  # and nothing is left behind
    np.testing.assert_array_equal(saliency(rule)(Z, W), W)


# What a nonlinearity and a rule may carry

@modes
def test_shared_parameter_of_the_nonlinearity(mode):
    slope = theano.shared(np.float32([.1, .2, .3]), 'slope')
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(lambda z: T.switch(z > 0, z, slope * z))(z)
    dz, dslope = theano.grad((y * w).sum(), [z, slope])
    f = theano.function([z, w], [y, dz, dslope], mode=mode)
    for value in [.1, .2, .3], [1, 2, 3]:
        slope.set_value(np.float32(value))
        got = f(Z, W)
        np.testing.assert_allclose(got[0], np.where(Z > 0, Z, Z * value),
                                   rtol=1e-6)
        np.testing.assert_array_equal(got[1], GUIDED)
        np.testing.assert_allclose(got[2], (W * Z * (Z <= 0)).sum(axis=0))


@modes
def test_symbolic_variables_in_the_closure(mode):
    threshold = T.fscalar('threshold')
    doubled = threshold * 2
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(lambda z: T.maximum(z, doubled * 3))(z)
    # with respect to the root and to the captured intermediate value
    gradients = theano.grad((y * w).sum(), [z, threshold, doubled])
    f = theano.function([z, w, threshold], [y] + gradients, mode=mode)
    got = f(Z, W, .5)
    below = Z < 3
    np.testing.assert_array_equal(got[0], np.maximum(Z, 3))
    np.testing.assert_array_equal(got[1], GUIDED)
    np.testing.assert_allclose(got[2], 6 * W[below].sum())
    np.testing.assert_allclose(got[3], 3 * W[below].sum())


@pytest.mark.usefixtures('no_compiler')
def test_variables_in_the_rule_inside_scan():
    factor, scale = T.fscalar('factor'), theano.shared(np.float32(2))
    rule = Returns(lambda z, g: g * factor * scale,
                   lambda z: T.tanh(z * scale + factor))
    z = T.fmatrix('z')
    h, _ = theano.scan(lambda row, h: rule(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    dz, dscale = theano.grad(h[-1].sum(), [z, scale])
    f = theano.function([z, factor], [dz, dscale], mode=PY)
    k = np.float32(.3)
    got = f(Z, k)
    np.testing.assert_allclose(
        got[0], np.array([[(2 * k) ** 2] * 3, [2 * k] * 3]), rtol=1e-5)
    # the true gradient with respect to scale, through the rule's own past
    h0 = np.tanh(2 * Z[0] + k)
    s1 = Z[1] + h0
    d1 = (1 - np.tanh(2 * s1 + k) ** 2) * s1
    d0 = 2 * k * (1 - h0 ** 2) * Z[0]
    np.testing.assert_allclose(got[1], (d0 + d1).sum(), rtol=1e-4)


def test_integer_variables_in_the_closure():
    n = theano.shared(np.int64(3))
    z = T.fmatrix('z')
    y = GuidedBackprop(lambda z: z * T.arange(n).astype('float32'))(z)
    f = theano.function([z], [y, theano.grad(y.sum(), z)], mode=PY)
    value, gradient = f(Z)
    np.testing.assert_array_equal(value, Z * [0, 1, 2])
    np.testing.assert_array_equal(gradient, Z > 0)


@pytest.mark.parametrize('streams', [MRG_RandomStreams, RandomStreams])
def test_random_draws(streams):
    random = streams(1)
    message = r'^%s\(.*draws random numbers.*draw outside'
    with pytest.raises(ValueError, match=message % 'GuidedBackprop'):
        GuidedBackprop(lambda z: z * random.uniform(size=z.shape))(T.fmatrix())
    with pytest.raises(ValueError, match=message % 'Returns'):
        Returns(lambda z, g: g + random.normal(size=z.shape))(T.fmatrix())
    with pytest.raises(ValueError, match=message % 'GuidedBackprop'):
        GuidedBackprop(lambda z: theano.scan(
            lambda row: row * random.uniform(size=row.shape), z)[0])(T.fmatrix())
    # a draw made outside is a captured variable
    z = T.fmatrix('z')
    mask = T.cast(random.uniform(size=(2, 3)) < .5, 'float32')
    y = GuidedBackprop(lambda z: T.nnet.relu(z) * mask)(z)
    f = theano.function([z], [y, mask], mode=PY)
    first, second = f(Z), f(Z)
    np.testing.assert_array_equal(first[0], np.maximum(Z, 0) * first[1])
    np.testing.assert_array_equal(second[0], np.maximum(Z, 0) * second[1])
    assert (first[1] != second[1]).any()


def test_updates_are_refused_where_they_are_made():
    def with_update(update):
        def nonlinearity(z):
            count = theano.shared(np.float32(0))
            count.default_update = update(count, z)
            return z * count
        return nonlinearity
    for update in (lambda count, z: count + 1,
                   lambda count, z: z.sum()):  # refers to the stand-in
        with pytest.raises(ValueError, match='has an update'):
            GuidedBackprop(with_update(update))(T.fmatrix())
        with pytest.raises(ValueError, match='has an update'):
            Returns(lambda z, g: with_update(update)(g))(T.fmatrix())


# Test values, pickles, copies, threads

@pytest.mark.parametrize('setting', ['raise', 'warn'])
@pytest.mark.usefixtures('no_compiler')
def test_test_values(setting, recwarn):
    z, w = T.fmatrices('zw')
    z.tag.test_value, w.tag.test_value = Z, W
    threshold = T.fscalar('threshold')
    threshold.tag.test_value = np.float32(.5)
    with change_flags(compute_test_value=setting):
        doubled = threshold * 2
        rule = GuidedBackprop(lambda z: T.maximum(z, doubled))
        y = rule(rule(z) - 2)
        dz, dt = theano.grad((y * w).sum(), [z, threshold])
        d2 = theano.grad((dz * w).sum(), w)
    inner = np.maximum(Z, 1) - 2
    value = np.maximum(inner, 1)
    np.testing.assert_array_equal(y.tag.test_value, value)
    gate = (inner > 0) & (W > 0) & (Z > 0)
    np.testing.assert_array_equal(dz.tag.test_value, W * gate)
    assert dt.tag.test_value.shape == ()
    np.testing.assert_array_equal(d2.tag.test_value, 2 * W * gate)
    assert not [w for w in recwarn if 'test value' in str(w.message)]


@pytest.mark.usefixtures('no_compiler')
def test_op_made_without_test_values_serves_with_them():
    rule = GuidedBackprop(relu)
    rule(T.fmatrix())
    z = T.fmatrix('z')
    z.tag.test_value = Z
    with change_flags(compute_test_value='raise'):
        dz = theano.grad(rule(z).sum(), z)
    np.testing.assert_array_equal(dz.tag.test_value, Z > 0)


@pytest.mark.usefixtures('no_compiler')
def test_a_rule_within_a_rule_leaves_theanos_flags_as_they_were():
    # change_flags as a decorator keeps the last call's old values alone
    z = T.fmatrix('z')
    z.tag.test_value = Z
    inner = GuidedBackprop(relu)
    with change_flags(compute_test_value='raise'):
        outer = DeconvNet(lambda z: inner(z) - inner(-z.sum(0)))
        y = outer(z)
        assert theano.config.compute_test_value == 'raise'
        dz = theano.grad(y.sum(), z)
    np.testing.assert_array_equal(
        y.tag.test_value, np.maximum(Z, 0) - np.maximum(-Z.sum(0), 0))
    np.testing.assert_array_equal(dz.tag.test_value, np.ones_like(Z))


def test_wrapper_pickles_before_and_after_use():
    rule = GuidedBackprop(relu)
    for _ in range(2):
        again = pickle.loads(pickle.dumps(rule))
        assert type(again) is GuidedBackprop
        assert again.nonlinearity is relu and again.ops == {}
        np.testing.assert_array_equal(saliency(again)(Z, W), GUIDED)
        assert copy.deepcopy(rule).nonlinearity is relu
        rule(T.fmatrix())
    assert len(rule.ops) == 1  # pickling leaves the original alone


@pytest.mark.parametrize('mode', [PY, OPAQUE], ids=['expanded', 'opaque'])
def test_compiled_function_pickles_into_another_process(mode, tmp_path):
    slope = theano.shared(np.float32(.5), 'slope')
    # a lambda does not pickle, but nothing of it is left in the graph
    f = saliency(GuidedBackprop(lambda z: T.maximum(z, slope * z)), mode)
    path = tmp_path / 'function.pkl'
    path.write_bytes(pickle.dumps(f, -1))
    np.testing.assert_array_equal(copy.deepcopy(f)(Z, W), GUIDED)
    code = ('import gradmod, pickle, sys, numpy as np\n'
            'f = pickle.load(open(sys.argv[1], "rb"))\n'
            'z, w = np.array(eval(sys.argv[2]), "float32")\n'
            'print(f(z, w).tolist())')
    out = subprocess.check_output(
        [sys.executable, '-c', code, str(path),
         repr([Z.tolist(), W.tolist()])])
    assert eval(out) == GUIDED.tolist()


def test_rule_that_refers_to_an_unpickled_variable():
    # its number was given by another process
    x, w = T.fmatrices('xw')
    h = T.exp(x * w)
    z = T.fmatrix('z')

    def nonlinearity(z):
        result = T.maximum(z, 0) * h
        h.auto_name = result.auto_name
        return result
    y = GuidedBackprop(nonlinearity)(z)
    assert y.owner.inputs == [z, h]
    f = theano.function([z, x, w], theano.grad((y + h ** 2).sum(), h), mode=PY)
    np.testing.assert_allclose(
        f(Z, Z, W / 10), np.maximum(Z, 0) + 2 * np.exp(Z * W / 10), rtol=1e-5)


def test_two_threads_first_use_one_wrapper():
    started = threading.Barrier(2)

    def nonlinearity(z):
        started.wait(30)  # both are inside, whatever the scheduler does
        return T.nnet.relu(z)
    rule = GuidedBackprop(nonlinearity)
    inputs = [T.fmatrix(), T.fmatrix()]
    outputs = [None, None]

    def use(i):
        outputs[i] = rule(inputs[i])
    threads = [threading.Thread(target=use, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rule.ops) == 1
    assert outputs[0].owner.op is outputs[1].owner.op
    assert theano.config.compute_test_value == 'off'
    for z, y in zip(inputs, outputs):
        w = T.fmatrix('w')
        f = theano.function([z, w], theano.grad((y * w).sum(), z), mode=PY)
        np.testing.assert_array_equal(f(Z, W), GUIDED)


@pytest.mark.usefixtures('no_compiler')
def test_test_values_of_what_a_rule_computes_from_what_it_refers_to():
    # once made while they are off; the gradients go through these, too
    z = T.fvector('z')
    z.tag.test_value = Z[0]
    slope = theano.shared(np.float64(.5))
    used = GuidedBackprop(lambda z: T.maximum(z, z * T.exp(T.sqr(slope))))
    used(T.fvector())
    with change_flags(compute_test_value='raise'):
        new = Scaled(lambda z: z, T.exp(T.sqr(slope)))
        for rule, factor in [(used, np.exp(.25)), (new, 1)]:
            y = rule(z)
            np.testing.assert_allclose(
                y.tag.test_value, np.maximum(Z[0], Z[0] * factor), rtol=1e-6)
            theano.grad(y.sum(), z).tag.test_value
        d = theano.grad(used(z).sum(), slope)
        np.testing.assert_allclose(
            d.tag.test_value,
            (Z[0] * (Z[0] > 0)).sum() * np.exp(.25), rtol=1e-6)
        y = new(z)
        np.testing.assert_allclose(theano.grad(y.sum(), z).tag.test_value,
                                   np.full(3, np.exp(.25)), rtol=1e-6)
        h = T.exp(z)
        unknown = GuidedBackprop(lambda u: u * (2 * slope * missing))
        missing = T.fscalar('missing')
        with pytest.raises(ValueError, match=r'\(missing\) of Op .*default'):
            unknown(h)
    older = T.exp(slope)  # is somebody else's
    with change_flags(compute_test_value='ignore'):
        for rule in unknown, GuidedBackprop(lambda u: u * (2 * older)):
            assert not hasattr(rule(h).tag, 'test_value')
    assert not hasattr(older.tag, 'test_value')


@modes
def test_what_is_captured_may_be_computed_from_one_another(mode):
    # the gradient with respect to one does not contain the way through another
    w = theano.shared(W[0])
    h = T.tanh(w)
    k = h * w
    rule = Returns(lambda z, g: g * k, lambda z: z * h + T.sqr(w) + k)
    z, v = T.fvector('z'), T.fvector('v')
    y = rule(z)
    first = theano.grad((v * y).sum(), [w, h, z])
    second = theano.grad(first[2].sum(), w)
    f = theano.function([z, v], first + [second], mode=mode)
    th = np.tanh(W[0])
    dh = 1 - th ** 2
    for got, want in zip(f(Z[0], Z[1]), [
            Z[1] * (Z[0] * dh + 2 * W[0] + dh * W[0] + th),
            Z[1] * (Z[0] + W[0]), Z[1] * th * W[0],
            Z[1] * (dh * W[0] + th)]):
        np.testing.assert_allclose(got, want, rtol=1e-5)


# theano.grad's ways

def test_nested_overrides():
    # the inner override is what the outer's true gradient would use
    z, w = T.fmatrices('zw')
    inner = Returns(lambda z, g: 3 * g)
    through = Returns(lambda z, g: theano.grad(
        None, z, known_grads={inner(z): g}), inner)
    f = theano.function([z, w], theano.grad((through(z) * w).sum(), z),
                        mode=FAST)
    np.testing.assert_array_equal(f(Z, W), 3 * W)
    f = saliency(DeconvNet(inner), FAST)
    np.testing.assert_array_equal(
        f(Z, W), reference.elementwise(reference.deconv, Z, W))


def test_second_and_third_derivative_differentiate_the_expression():
    # grad returns g z^2: the derivatives follow that, not the nonlinearity
    rule = Returns(lambda z, g: g * z ** 2)
    z = T.dmatrix('z')
    first = theano.grad(rule(z).sum(), z)
    second = theano.grad(first.sum(), z)
    third = theano.grad(second.sum(), z)
    f = theano.function([z], [first, second, third], mode=PY)
    got = f(Z.astype('float64'))
    for value, want in zip(got, [Z ** 2, 2 * Z, 2 + 0 * Z]):
        np.testing.assert_allclose(value, want)


# override_gradient

def _pass_on(inputs, out_grads):
    return out_grads


def _swap(inputs, out_grads):
    (x, y), (g,) = inputs, out_grads
    return [g * x, g * y]


def _product(x, y):
    return x * y


@gradmod.override_gradient(grad=_swap)
def swapped_product(x, y):
    """x y, with the gradients exchanged."""
    return x * y


@modes
def test_override_of_a_function_of_two(mode):
    x, y = T.fmatrices('xy')
    out = swapped_product(x, y)
    f = theano.function([x, y], [out] + theano.grad(out.sum(), [x, y]),
                        mode=mode)
    for got, want in zip(f(Z, W), [Z * W, Z, W]):
        np.testing.assert_array_equal(got, want)
    assert swapped_product.__doc__.startswith('x y')
    assert repr(swapped_product) == 'override_gradient(swapped_product, _swap)'


def test_none_means_the_true_gradient():
    g = gradmod.override_gradient(
        lambda x, y: x * y ** 2,
        lambda inputs, out_grads: [None, inputs[1].zeros_like()])
    x, y = T.fmatrices('xy')
    f = theano.function([x, y], theano.grad(g(x, y).sum(), [x, y]), mode=PY)
    dx, dy = f(Z, W)
    np.testing.assert_array_equal(dx, W ** 2)
    np.testing.assert_array_equal(dy, Z * 0)
    f = saliency(Returns(lambda z, g: [None]))
    np.testing.assert_array_equal(
        f(Z, W), reference.elementwise(reference.plain, Z, W))
    # an input that the function ignores is disconnected, not zero
    ignores = gradmod.override_gradient(lambda x, y: 2 * x,
                                        lambda i, g: [None, None])
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(ignores(x, y).sum(), y)


def test_true_gradients_on_request():
    def clip(inputs, out_grads, true_grads):
        return [T.clip(t, -1, 1) for t in true_grads]

    class Clip(ModifiedBackprop):
        def grad(self, inputs, out_grads, true_grads):
            return clip(inputs, out_grads, true_grads)
    x, y = T.fmatrices('xy')
    out = gradmod.override_gradient(lambda x, y: x * y, clip)(x, y)
    f = theano.function([x, y], theano.grad(out.sum(), [x, y]), mode=PY)
    dx, dy = f(Z, W)
    np.testing.assert_array_equal(dx, np.clip(W, -1, 1))
    np.testing.assert_array_equal(dy, np.clip(Z, -1, 1))
    np.testing.assert_array_equal(saliency(Clip(relu))(Z, W),
                                  np.clip(W, -1, 1) * (Z > 0))


def test_a_rule_that_extends_another():
    class Half(GuidedBackprop):
        def grad(self, inputs, out_grads):
            (g,) = super().grad(inputs, out_grads)
            return (g / 2,)
    np.testing.assert_array_equal(
        saliency(Half(relu))(Z, W),
        reference.elementwise(reference.guided, Z, W) / 2)


def test_init_without_that_of_the_base():
    class Forgetful(ModifiedBackprop):
        def __init__(self, factor):
            self.factor = factor
    with pytest.raises(TypeError, match=r'Forgetful.__init__: expected it to '
                       r'call super\(\).__init__'):
        Forgetful(2)(T.fvector())


class Product(ModifiedBackprop):
    """The gradients of x y, each times the other."""

    def grad(self, inputs, out_grads):
        assert len(inputs) == 2 and len(out_grads) == 1
        return _swap(inputs, out_grads)


@modes
def test_class_of_a_function_of_two(mode):
    rule = pickle.loads(pickle.dumps(Product(_product)))
    x, y, v = T.fmatrices('xyv')
    out = rule(x, y)
    dx, dy = theano.grad((out * v).sum(), [x, y])
    dxx, dxv = theano.grad(dx.sum(), [x, v])  # of g x
    rows, _ = theano.scan(rule, [x, y])
    scanned = theano.grad((rows * v).sum(), [x, y])
    f = theano.function([x, y, v], [out, dx, dy, dxx, dxv, rows] + scanned,
                        mode=mode, on_unused_input='ignore')
    V = Z - 2 * W
    for got, want in zip(f(Z, W, V), [Z * W, V * Z, V * W, V, Z, Z * W,
                                      V * Z, V * W]):
        np.testing.assert_array_equal(got, want)
    assert [len(key) for key in rule.ops] == [2, 2]


def test_outputs_on_request():
    x, y = T.fmatrices('xy')
    times = gradmod.override_gradient(
        lambda x, y: x * y, lambda i, g, outputs: [outputs[0] * g[0], None])
    dx, dy = theano.grad(times(x, y).sum(), [x, y])
    f = theano.function([x, y], [dx, dy], mode=PY)
    for got, want in zip(f(Z, W), [Z * W, Z]):
        np.testing.assert_array_equal(got, want)
    # also where the output is the input
    identity = gradmod.override_gradient(lambda x: x,
                                         lambda i, g, outputs: outputs)
    np.testing.assert_array_equal(saliency(identity)(Z, W), Z)


@theano.compile.ops.as_op(itypes=[T.fmatrix, T.fmatrix], otypes=[T.fmatrix])
def without_gradient(x, y):
    return np.sign(x) * y


def test_function_that_theano_cannot_differentiate():
    x, y = T.fmatrices('xy')
    g = gradmod.override_gradient(without_gradient, _swap)
    f = theano.function([x, y], theano.grad(g(x, y).sum(), [x, y]), mode=PY)
    for got, want in zip(f(Z, W), [Z, W]):
        np.testing.assert_array_equal(got, want)
    # nor with respect to what is captured, unless somebody asks for that
    g = gradmod.override_gradient(lambda x: without_gradient(x, y), _pass_on)
    f = theano.function([x, y], theano.grad(g(x).sum(), x), mode=PY,
                        on_unused_input='ignore')
    np.testing.assert_array_equal(f(Z, W), Z * 0 + 1)
    with pytest.raises(theano.gradient.NullTypeGradError,
                       match='override_gradient.*cannot be differentiated'):
        theano.grad(g(x).sum(), y)
    # an error that says so where the true gradient is asked for
    for grad in (lambda i, g: [None, None],
                 lambda i, g, true_grads: true_grads):
        g = gradmod.override_gradient(without_gradient, grad)
        with pytest.raises((AttributeError, NotImplementedError)):  # Theano's
            g(x, y)
    # but an integer needs none
    n = T.imatrix('n')
    g = gradmod.override_gradient(lambda x, n: without_gradient(
        x, n.astype('float32')), lambda i, g: [g[0], None])
    f = theano.function([x, n], theano.grad(g(x, n).sum(), x), mode=PY,
                        on_unused_input='ignore')
    np.testing.assert_array_equal(f(Z, W.astype('int32')), Z * 0 + 1)


def test_integer_inputs_of_a_function():
    x, n = T.fmatrix('x'), T.lscalar('n')
    g = gradmod.override_gradient(
        lambda x, n: x * n, lambda inputs, out_grads: [out_grads[0] * 5, None])
    f = theano.function([x, n], [g(x, n), theano.grad(
        g(x, n).sum(dtype='float64').astype('float32'), x)], mode=PY)
    value, gradient = f(Z, 3)
    np.testing.assert_array_equal(value, 3 * Z)
    np.testing.assert_array_equal(gradient, np.full_like(Z, 5))
    assert g(n, n).dtype == 'int64'  # nothing to override


def test_gradient_of_an_integer():
    x, n = T.fmatrix('x'), T.lscalar('n')

    def product(gradient):
        return gradmod.override_gradient(
            lambda x, n: x * n, lambda i, g: [g[0], gradient(i[1])])(x, n)
    for returned in (lambda n: None, lambda n: n.zeros_like(), lambda n: 0.,
                     lambda n: T.zeros(()),
                     lambda n: theano.gradient.disconnected_type()):
        dx, dn = theano.grad(product(returned).sum(dtype='float64'), [x, n])
        f = theano.function([x, n], [dx, dn], mode=PY,
                            on_unused_input='ignore')
        got, zero = f(Z, 3)
        np.testing.assert_array_equal(got, Z * 0 + 1)
        assert zero == 0 and zero.dtype == theano.config.floatX
    for returned in lambda n: .5, lambda n: n, lambda n: n * 0.:
        with pytest.raises(TypeError, match='expected None for the input of '
                           'dtype int64'):
            product(returned)


def test_gradients_are_checked_one_by_one():
    x, v = T.fmatrix(), T.fvector()
    for grad, message in [
            (lambda i, g: g, 'expected 2 gradient.*got 1'),
            (lambda i, g: [g[0], g[0]], 'expected a real tensor of 1 dim')]:
        with pytest.raises(TypeError, match=message):
            gradmod.override_gradient(lambda x, v: x + v, grad)(x, v)
    # v + x has not the shape of v, though it is made of it elementwise
    g = gradmod.override_gradient(
        lambda x, v: x * v, lambda i, g: [g[0], g[0][:, 0]])
    f = theano.function([x, v], theano.grad(g(x, v).sum(), v), mode=PY)
    with pytest.raises(AssertionError, match='dimension 0 differs'):
        f(Z, W[0])
    assert f(W[:, :2], W[0, :2]).shape == (2,)


def test_override_gradient_arguments():
    for args in [(3, _pass_on), (relu, None), (relu, 3), (), (None, 3)]:
        with pytest.raises(TypeError, match='override_gradient: expected two'):
            gradmod.override_gradient(*args)


def test_override_of_module_level_functions_pickles():
    g = gradmod.override_gradient(relu, _pass_on)
    again = pickle.loads(pickle.dumps(g))
    assert again.grad is _pass_on and again.nonlinearity is relu
    np.testing.assert_array_equal(saliency(again)(Z, W), W)
    # a decorated function stands where its name points
    assert pickle.loads(pickle.dumps(swapped_product)) is swapped_product
    assert copy.deepcopy(swapped_product) is swapped_product


@pytest.mark.parametrize('f', [
    lambda x, y: 2 * x, lambda x, y: 2 * x + y.shape[0] * 0,
    lambda x, y: 2 * x + theano.gradient.disconnected_grad(y * 0)])
def test_the_true_gradient_of_what_is_disconnected(f):
    x, y = T.fmatrices('xy')
    out = gradmod.override_gradient(f, lambda xs, gs: [gs[0] * 3, None])(x, y)
    dx, dy = theano.grad(out.sum(), [x, y], disconnected_inputs='ignore')
    values = theano.function([x, y], [out, dx, dy], mode=PY)(Z, W)
    for got, expected in zip(values, [2 * Z, np.full_like(Z, 3), 0 * W]):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(out.sum(), y)


def test_the_true_gradient_of_what_has_none():
    class NotImplementedGradient(Op):
        def make_node(self, x):
            return Apply(self, [x], [x.type()])

        def perform(self, node, inputs, outputs):
            outputs[0][0] = inputs[0] + 1

        def grad(self, inputs, gs):
            return [theano.gradient.grad_not_implemented(self, 0, inputs[0])]

    x, y = T.fmatrices('xy')
    out = gradmod.override_gradient(
        lambda x, y: x * NotImplementedGradient()(y),
        lambda xs, gs: [gs[0] * 3, None])(x, y)
    f = theano.function([x, y], [out, theano.grad(out.sum(), x)], mode=PY)
    value, gradient = f(Z, W)
    np.testing.assert_array_equal(value, Z * (W + 1))
    np.testing.assert_array_equal(gradient, np.full_like(Z, 3))
    with pytest.raises(theano.gradient.NullTypeGradError):
        theano.grad(out.sum(), y)


def test_a_name_of_its_own():
    # as Keras needs one, to find an activation again in a saved model
    rule = gradmod.GuidedBackprop(T.nnet.relu)
    assert rule.__name__ == repr(rule) == 'GuidedBackprop(relu)'
    rule.__name__ = 'guided'
    assert rule.__name__ == 'guided' and repr(rule) == 'GuidedBackprop(relu)'
    assert pickle.loads(pickle.dumps(rule)).__name__ == 'guided'
    assert gradmod.GuidedBackprop.__name__ == 'GuidedBackprop'
