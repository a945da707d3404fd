import copy
import functools
import pickle
import subprocess
import sys
import threading

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.configparser import change_flags
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.tensor.shared_randomstreams import RandomStreams

import gradmod
from gradmod import DeconvNet, GuidedBackprop, ModifiedBackprop, ZeroBackprop

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
OPAQUE = theano.Mode(linker='py', optimizer=None)
relu = lasagne.nonlinearities.rectify
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')
GUIDED = reference.elementwise(reference.guided, Z, W)


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

def test_acceptance(capsys):
    rng = np.random.RandomState(0)
    x = T.tensor3('x')
    l_in = lasagne.layers.InputLayer((64, 20, 32), input_var=x)
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

    f = theano.function([x], [out, jacobian, single, plain], mode='FAST_RUN')
    X = rng.randn(64, 20, 32).astype(x.dtype)
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


def test_the_recipe_itself_is_ignored_here():
    # what the library exists against: assigning op.grad has no effect
    z, w = T.fmatrices('zw')
    op = theano.OpFromGraph([z], [relu(z)])
    op.grad = lambda inputs, out_grads: (out_grads[0] * 1000,)
    f = theano.function([z, w], theano.grad((op(z) * w).sum(), z), mode=PY)
    ignored = not theano.__version__.startswith('0.9')
    want = reference.elementwise(reference.plain, Z, W)
    np.testing.assert_array_equal(f(Z, W), want if ignored else 1000 * W)


@pytest.mark.parametrize('rule, expected', [
    (GuidedBackprop, reference.guided), (DeconvNet, reference.deconv),
    (ZeroBackprop, reference.zero), (Recipe, reference.guided)])
@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
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
    'abc', None, object(), [1, 'a'], {}, 1 + 2j, T.zmatrix('z'),
    theano.gof.generic('generic'), lambda z: z])
def test_call_refuses_the_rest(value):
    with pytest.raises(TypeError, match=r'^GuidedBackprop\(rectify\): '
                       'expected a real Theano tensor variable'):
        GuidedBackprop(relu)(value)


def test_call_refuses_sparse_variables():
    import theano.sparse
    with pytest.raises(TypeError, match='got a variable of type Sparse'):
        GuidedBackprop(relu)(theano.sparse.csr_matrix('s', 'float32'))


@pytest.mark.parametrize('nonlinearity', [None, 3, 'rectify', [relu]])
def test_nonlinearity_must_be_callable(nonlinearity):
    with pytest.raises(TypeError, match='GuidedBackprop: expected a function'):
        GuidedBackprop(nonlinearity)


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
    (lambda z: z > 0, 'TensorType'), (lambda z: z.astype('int32'), 'int32'),
    (lambda z: z * 1j, 'complex'), (lambda z: 3., 'float'),
    (lambda z: np.zeros(3), 'ndarray')])
def test_nonlinearity_must_return_one_float_tensor(returned, got):
    with pytest.raises(TypeError, match=r'GuidedBackprop\(<lambda>\): expected '
                       '<lambda> to return one float.*%s' % got):
        GuidedBackprop(returned)(T.fmatrix())


def test_a_class_given_for_an_instance():
    with pytest.raises(TypeError, match=r'GuidedBackprop\(LeakyRectify\).*got '
                       'LeakyRectify'):
        GuidedBackprop(lasagne.nonlinearities.LeakyRectify)(T.fmatrix())


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
@pytest.mark.parametrize('mode', ['FAST_RUN', PY], ids=['fast run', 'py'])
def test_grad_may_return(returned, expected, mode):
    got = saliency(Returns(returned), mode)(Z, W)
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
    (lambda z, g: np.array([[None]]), 'real tensor.*got ndarray'),
    (lambda z, g: theano.gradient.disconnected_type(),
     'real tensor.*got.*Disconnected')])
def test_grad_may_not_return(returned, message):
    rule = Returns(returned)
    with pytest.raises(TypeError, match=r'(?s)^Returns\(rectify\)\.grad: '
                       'expected.*' + message):
        rule(T.fmatrix())
    assert rule.ops == {}


@pytest.mark.parametrize('returned', [
    lambda z, g: g[:1], lambda z, g: g.sum(axis=0, keepdims=True),
    lambda z, g: np.zeros((2, 4)), lambda z, g: g.dimshuffle(1, 0)])
@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
def test_gradient_of_another_shape_is_an_error_at_run_time(returned, mode):
    f = saliency(Returns(returned), mode)
    with pytest.raises(AssertionError, match=r'Returns\(rectify\)\.grad.*shape '
                       'of the input: dimension'):
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
    rule = Returns(lambda z, g: T.set_subtensor(z.zeros_like()[:, :2], g),
                   nonlinearity)
    f = theano.function([z], theano.grad(rule(z).sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z), [[1, 1, 0], [1, 1, 0]])


def test_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match='ModifiedBackprop.*define'):
        ModifiedBackprop(relu)(T.fmatrix())


def test_an_error_in_grad_arrives_as_it_is():
    def fail(z, g):
        raise KeyError('mine')
    rule = Returns(fail)
    with pytest.raises(KeyError, match='mine'):
        rule(T.fmatrix())
    rule.what = lambda z, g: g  # and nothing is left behind
    np.testing.assert_array_equal(saliency(rule)(Z, W), W)


def test_grad_gets_one_input_and_one_gradient():
    seen = []
    slope = theano.shared(np.float32(.5))

    class Watch(ModifiedBackprop):
        def grad(self, inputs, out_grads):
            seen.append((len(inputs), len(out_grads), inputs[0].type,
                         out_grads[0].type))
            return inputs
    Watch(lambda z: T.maximum(z, z * slope)[0])(T.fmatrix())
    assert seen == [(1, 1, T.fmatrix, T.fvector)]


# What a nonlinearity and a rule may carry

@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
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


@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
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


@pytest.mark.parametrize('mode', ['FAST_RUN', PY], ids=['fast run', 'py'])
def test_variables_in_the_rule_inside_scan(mode):
    factor, scale = T.fscalar('factor'), theano.shared(np.float32(2))
    rule = Returns(lambda z, g: g * factor * scale,
                   lambda z: T.tanh(z * scale + factor))
    z = T.fmatrix('z')
    h, _ = theano.scan(lambda row, h: rule(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    dz, dscale = theano.grad(h[-1].sum(), [z, scale])
    f = theano.function([z, factor], [dz, dscale], mode=mode)
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


def test_adjustable_parameter_of_a_rule():
    factor = theano.shared(np.float32(2))
    f = saliency(Returns(lambda z, g: g * factor))
    np.testing.assert_array_equal(f(Z, W), 2 * W)
    factor.set_value(3)
    np.testing.assert_array_equal(f(Z, W), 3 * W)


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
        GuidedBackprop(lambda z: z * random.uniform(z.shape))(T.fmatrix())
    with pytest.raises(ValueError, match=message % 'Returns'):
        Returns(lambda z, g: g + random.normal(z.shape))(T.fmatrix())
    # a draw made outside is a captured variable
    z = T.fmatrix('z')
    mask = random.binomial((2, 3), p=.5, dtype='float32')
    y = GuidedBackprop(lambda z: T.nnet.relu(z) * mask)(z)
    f = theano.function([z], [y, mask], mode=PY)
    first, second = f(Z), f(Z)
    np.testing.assert_array_equal(first[0], np.maximum(Z, 0) * first[1])
    np.testing.assert_array_equal(second[0], np.maximum(Z, 0) * second[1])
    assert (first[1] != second[1]).any()


# Test values, pickles, copies, threads

@pytest.mark.parametrize('setting', ['raise', 'warn'])
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


def test_op_made_without_test_values_serves_with_them():
    rule = GuidedBackprop(relu)
    rule(T.fmatrix())
    z = T.fmatrix('z')
    z.tag.test_value = Z
    with change_flags(compute_test_value='raise'):
        dz = theano.grad(rule(z).sum(), z)
    np.testing.assert_array_equal(dz.tag.test_value, Z > 0)


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


def test_subclass_attributes_pickle():
    rule = Returns(_double)
    rule.note = 'mine'
    again = pickle.loads(pickle.dumps(rule))
    assert again.note == 'mine'
    np.testing.assert_array_equal(saliency(again)(Z, W), 2 * W)


def _double(z, g):
    return 2 * g


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
        [sys.executable, '-c', code, str(path), repr([Z.tolist(), W.tolist()])])
    assert eval(out) == GUIDED.tolist()


def test_network_with_a_rule_pickles():
    net = lasagne.layers.DenseLayer(
        lasagne.layers.InputLayer((None, 3)), 4,
        nonlinearity=GuidedBackprop(relu))
    x = T.matrix('x')
    X = W.astype(x.dtype)

    def evaluate(net):
        out = lasagne.layers.get_output(net, x)
        return theano.function([x], theano.grad(out.sum(), x), mode=PY)(X)
    before = evaluate(net)
    np.testing.assert_array_equal(
        evaluate(pickle.loads(pickle.dumps(net))), before)


def test_expressions_pickle():
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(lambda z: T.nnet.relu(z))(z)
    z, w, y = pickle.loads(pickle.dumps((z, w, y)))
    f = theano.function([z, w], theano.grad((y * w).sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z, W), GUIDED)


@pytest.mark.parametrize('number', ['above', 'within', 'below'])
def test_rule_that_refers_to_an_unpickled_variable(number):
    # its number was given by another process
    x, w = T.fmatrices('xw')
    h = T.exp(x * w)
    z = T.fmatrix('z')

    def nonlinearity(z):
        result = T.maximum(z, 0) * h
        if number != 'below':
            h.auto_name = ('auto_%d' % 10 ** 12 if number == 'above' else
                           result.auto_name)
        return result
    y = GuidedBackprop(nonlinearity)(z)
    assert y.owner.inputs == [z, h]
    u = T.fmatrix('u')
    f = theano.function([z, u], y, givens={h: u}, mode=PY)
    np.testing.assert_array_equal(f(Z, W), np.maximum(Z, 0) * W)
    f = theano.function([z, x, w], theano.grad((y + h ** 2).sum(), h), mode=PY)
    np.testing.assert_allclose(
        f(Z, Z, W / 10), np.maximum(Z, 0) + 2 * np.exp(Z * W / 10), rtol=1e-5)


def test_a_call_without_inputs():
    with pytest.raises(TypeError, match='expected one Theano variable or more'):
        gradmod.override_gradient(relu, _pass_on)()


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


def test_test_values_of_what_a_rule_computes_from_what_it_refers_to():
    # once made while they are off; the gradients go through these, too
    z = T.fvector('z')
    z.tag.test_value = Z[0]
    slope = theano.shared(np.float64(.5))
    used = GuidedBackprop(lambda z: T.maximum(z, z * T.exp(T.sqr(slope))))
    used(T.fvector())
    with change_flags(compute_test_value='raise'):
        new = gradmod.ScaleGradient(factor=T.exp(T.sqr(slope)))
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


@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
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

def test_clone_keeps_the_override():
    z, w, other = T.fmatrices('z', 'w', 'other')
    y = GuidedBackprop(relu)(z)
    clone = theano.clone(y, {z: other * 2})
    f = theano.function([other, w], theano.grad((clone * w).sum(), other),
                        mode=PY)
    np.testing.assert_array_equal(f(Z, W), 2 * GUIDED)


def test_applied_twice_to_one_input():
    z, w = T.fmatrices('zw')
    rule = GuidedBackprop(relu)
    f = theano.function(
        [z, w], theano.grad((rule(z) * w + rule(z) * w).sum(), z),
        mode='FAST_RUN')
    np.testing.assert_array_equal(f(Z, W), 2 * GUIDED)


def test_nested_overrides():
    # the inner override is what the outer's true gradient would use
    z, w = T.fmatrices('zw')
    inner = Returns(lambda z, g: 3 * g)
    through = Returns(lambda z, g: theano.grad(
        None, z, known_grads={inner(z): g}), inner)
    f = theano.function([z, w], theano.grad((through(z) * w).sum(), z),
                        mode='FAST_RUN')
    np.testing.assert_array_equal(f(Z, W), 3 * W)
    f = saliency(DeconvNet(inner), 'FAST_RUN')
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


@gradmod.override_gradient(grad=_swap)
def swapped_product(x, y):
    """x y, with the gradients exchanged."""
    return x * y


@pytest.mark.parametrize('mode', ['FAST_RUN', PY, OPAQUE],
                         ids=['fast run', 'py', 'opaque'])
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
    class Scaled(ModifiedBackprop):
        def __init__(self, factor):
            self.factor = factor
    with pytest.raises(TypeError, match=r'Scaled.__init__: expected it to call '
                       r'super\(\).__init__'):
        Scaled(2)(T.fvector())


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
    for grad in (lambda i, g: [None, None], lambda i, g, true_grads: true_grads):
        g = gradmod.override_gradient(without_gradient, grad)
        with pytest.raises(TypeError, match=r'override_gradient\(.*true gradient '
                           'is asked for, but Theano cannot'):
            g(x, y)


def test_integer_inputs_of_a_function():
    x, n = T.fmatrix('x'), T.lscalar('n')
    g = gradmod.override_gradient(
        lambda x, n: x * n, lambda inputs, out_grads: [out_grads[0] * 5, None])
    f = theano.function([x, n], [g(x, n), theano.grad(
        g(x, n).sum(dtype='float64').astype('float32'), x)], mode=PY)
    value, gradient = f(Z, 3)
    np.testing.assert_array_equal(value, 3 * Z)
    np.testing.assert_array_equal(gradient, np.full_like(Z, 5))
    bad = gradmod.override_gradient(lambda x, n: x * n,
                                    lambda i, g: [g[0], g[0]])
    with pytest.raises(TypeError, match='expected None for the input of dtype '
                       'int64'):
        bad(x, n)
    assert bad(n, n).dtype == 'int64'  # nothing to override


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
    for args in [(3, _pass_on), (relu, None), (relu, 3), ()]:
        with pytest.raises(TypeError, match='override_gradient: expected'):
            g = gradmod.override_gradient(*args)
            g(relu)
    for grad in None, 3:  # before there is anything to decorate
        with pytest.raises(TypeError, match='expected grad to be callable'):
            gradmod.override_gradient(grad=grad)
    with pytest.raises(TypeError, match='expected a real Theano tensor'):
        gradmod.override_gradient(relu, _pass_on)('z')


def test_override_of_module_level_functions_pickles():
    g = gradmod.override_gradient(relu, _pass_on)
    again = pickle.loads(pickle.dumps(g))
    assert again.grad is _pass_on and again._function is relu
    np.testing.assert_array_equal(saliency(again)(Z, W), W)
    # a decorated function stands where its name points
    assert pickle.loads(pickle.dumps(swapped_product)) is swapped_product
    assert copy.deepcopy(swapped_product) is swapped_product


def test_one_op_for_each_combination_of_types():
    g = gradmod.override_gradient(lambda x, y: x + y, lambda i, g: [None, None])
    x, v = T.fmatrix(), T.fvector()
    for _ in range(2):
        g(x, v), g(x, x), g(v, x)
    assert len(g.ops) == 3


def test_override_inside_scan():
    tanh = gradmod.override_gradient(
        T.tanh, lambda inputs, out_grads, true_grads: 2 * true_grads[0])
    z = T.fmatrix('z')
    h, _ = theano.scan(lambda row, h: tanh(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    f = theano.function([z], theano.grad(h[-1].sum(), z), mode=PY)
    h0 = np.tanh(Z[0])
    d1 = 2 * (1 - np.tanh(Z[1] + h0) ** 2)
    np.testing.assert_allclose(f(Z), [d1 * 2 * (1 - h0 ** 2), d1],
                               rtol=1e-5, atol=1e-6)


def test_python_and_theano_versions_are_told():
    assert gradmod.__version__.count('.') == 2


def test_grad_without_a_signature():
    # Of two lists of the same length `max` takes the first, here the inputs.
    first = functools.partial(max, key=len)
    z = T.fmatrix('z')
    y = gradmod.override_gradient(relu, first)(z)
    f = theano.function([z], theano.grad((7 * y).sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z), Z)


@pytest.mark.parametrize('f', [
    lambda x, y: 2 * x, lambda x, y: 2 * x + y.shape[0] * 0,
    lambda x, y: 2 * x + theano.gradient.disconnected_grad(y * 0)])
def test_the_true_gradient_of_what_is_disconnected(f):
    x, y, v = T.fmatrices('xyv')
    out = gradmod.override_gradient(f, lambda xs, gs: [gs[0] * 3, None])(x, y)
    dx, dy = theano.grad(out.sum(), [x, y], disconnected_inputs='ignore')
    values = theano.function([x, y], [out, dx, dy], mode=PY)(Z, W)
    for got, expected in zip(values, [2 * Z, np.full_like(Z, 3), 0 * W]):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(out.sum(), y)
    forward = theano.Rop(out, [x, y], [v, v])
    np.testing.assert_array_equal(
        theano.function([x, y, v], forward, mode=PY,
                        on_unused_input='ignore')(Z, W, W), 3 * W)


def test_the_true_gradient_of_what_has_none():
    class NotImplementedGradient(theano.Op):
        def make_node(self, x):
            return theano.gof.Apply(self, [x], [x.type()])

        def perform(self, node, inputs, outputs):
            outputs[0][0] = inputs[0] + 1

        def grad(self, inputs, gs):
            return [theano.gradient.grad_not_implemented(self, 0, inputs[0])]

    x, y, v = T.fmatrices('xyv')
    out = gradmod.override_gradient(
        lambda x, y: x * NotImplementedGradient()(y),
        lambda xs, gs: [gs[0] * 3, None])(x, y)
    f = theano.function([x, y], [out, theano.grad(out.sum(), x)], mode=PY)
    value, gradient = f(Z, W)
    np.testing.assert_array_equal(value, Z * (W + 1))
    np.testing.assert_array_equal(gradient, np.full_like(Z, 3))
    with pytest.raises(theano.gradient.NullTypeGradError):
        theano.grad(out.sum(), y)
    with pytest.raises(NotImplementedError, match='no forward mode'):
        theano.Rop(out, y, v)
