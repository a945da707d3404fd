import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T

import gradmod
from gradmod import DeconvNet, GuidedBackprop, ZeroBackprop
from gradmod.rectifiers import guided_rectifier, rectifier

from . import reference

RULES = [(GuidedBackprop, reference.guided), (DeconvNet, reference.deconv),
         (ZeroBackprop, reference.zero)]
MODES = {'py': theano.Mode(linker='py', optimizer='fast_compile'),
         'c': theano.Mode(linker='cvm', optimizer='fast_run'),
         'no optimizer': theano.Mode(linker='py', optimizer=None)}
DTYPES = ['float16', 'float32', 'float64']


def special_values(dtype):
    """All pairs (z, g) of every sign, zero, subnormal, huge, infinite, NaN."""
    info = np.finfo(dtype)
    negative_nan = np.copysign(np.asarray(np.nan, dtype), np.asarray(-1, dtype))
    assert np.isnan(negative_nan) and np.signbit(negative_nan)
    values = np.array([-np.inf, info.min, -1.5, -info.tiny, -0., 0.,
                       info.tiny / 4, info.tiny, 1.5, info.max, np.inf,
                       np.nan, negative_nan], dtype)
    assert values[6] > 0  # a subnormal survived
    z, g = np.meshgrid(values, values)
    return z.ravel(), g.ravel()


def identity(z):
    return z


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('mode', sorted(MODES))
@pytest.mark.parametrize('rule, expected, nonlinearity', [
    row + (identity,) for row in RULES] + [
    (GuidedBackprop, reference.guided, T.nnet.relu)])  # looks at relu(z)
def test_values_in_all_quadrants(rule, expected, nonlinearity, mode, dtype):
    z, g = T.vector('z', dtype), T.vector('g', dtype)
    saliency = theano.grad(None, z, known_grads={rule(nonlinearity)(z): g})
    assert saliency.dtype == dtype
    f = theano.function([z, g], saliency, mode=MODES[mode],
                        on_unused_input='ignore')
    values = special_values(dtype)
    with np.errstate(invalid='ignore'):
        got, want = f(*values), reference.elementwise(expected, *values)
    np.testing.assert_array_equal(got, want)
    # 0 is +0: a closed gate leaves no sign behind
    assert not np.signbit(got[got == 0]).any()


@pytest.mark.parametrize('shape', [(7,), (3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize('dtype', DTYPES[1:])
@pytest.mark.parametrize('rule, expected', RULES)
def test_contiguous_and_strided_loops_agree(rule, expected, dtype, shape):
    # C code runs in a vectorised loop over contiguous arrays and in a scalar
    # one over others.
    rng = np.random.RandomState(0)
    z, g = rng.randn(2, *shape).astype(dtype)
    type = T.TensorType(dtype, (False,) * len(shape))
    zs, gs = type('z'), type('g')
    f = theano.function([zs, gs], theano.grad(
        None, zs, known_grads={rule(T.nnet.relu)(zs): gs}),
        mode=MODES['c'], on_unused_input='ignore')
    want = reference.elementwise(expected, z, g)
    np.testing.assert_array_equal(f(z, g), want)
    np.testing.assert_array_equal(f(z.T.copy().T, g), want)
    np.testing.assert_array_equal(
        f(z[..., ::-1], g[..., ::-1]), want[..., ::-1])


@pytest.mark.parametrize('z_dtype, g_dtype', [('float32', 'float64'),
                                              ('float64', 'float32')])
def test_mixed_dtypes(z_dtype, g_dtype):
    # a nonlinearity may change the dtype; the gradient comes back in z's
    z = T.vector('z', z_dtype)
    y = GuidedBackprop(lambda z: T.cast(T.nnet.relu(z), g_dtype))(z)
    w = T.vector('w', g_dtype)
    saliency = theano.grad((y * w).sum(), z)
    assert saliency.dtype == z_dtype
    f = theano.function([z, w], saliency, mode=MODES['c'])
    got = f(np.array([-1, 2, 3], z_dtype), np.array([5, -6, 7], g_dtype))
    np.testing.assert_array_equal(got, [0, 0, 7])


@pytest.mark.parametrize('rule, expected', RULES[:2])
def test_fused_with_the_operations_around_it(rule, expected):
    z, w = T.matrices('zw')
    saliency = theano.grad((T.exp(rule(T.nnet.relu)(z)) * w).sum(), z)
    f = theano.function([z, w], saliency, mode='FAST_RUN')
    (node,) = f.maker.fgraph.toposort()
    assert 'Composite' in str(node.op)
    rng = np.random.RandomState(1)
    Z, W = rng.randn(2, 4, 5).astype(z.dtype)
    want = reference.elementwise(expected, Z, np.exp(reference.relu(Z)) * W)
    np.testing.assert_allclose(f(Z, W), want, rtol=1e-5)


def test_infinite_gradient_of_a_closed_unit_is_zero_not_nan():
    z = T.vector('z', 'float32')
    for rule in GuidedBackprop, ZeroBackprop:
        cost = (rule(T.nnet.relu)(z) * np.float32('inf')).sum()
        f = theano.function([z], theano.grad(cost, z), mode=MODES['c'])
        np.testing.assert_array_equal(f(np.float32([-1, 0])), [0, 0])


@pytest.mark.parametrize('mode', ['py', 'c'])
def test_second_order(mode):
    # h = guided(z, g): dh/dg is 1 where both gates are open, dh/dz is 0
    z, g, v = T.dvectors('zgv')
    Z = np.array([-1., -1, 2, 2, 0, 2])
    G = np.array([-3., 3, -3, 3, 3, 0])
    V = np.arange(1., 7)
    for op, inputs, gate in [(guided_rectifier, (z, g), [0, 0, 0, 1, 0, 0]),
                             (rectifier, (g,), [0, 1, 0, 1, 1, 0])]:
        cost = (op(*inputs) * v).sum()
        dz, dg = theano.grad(cost, [z, g], disconnected_inputs='ignore')
        f = theano.function([z, g, v], [dz, dg], mode=MODES[mode],
                            on_unused_input='ignore')
        dz, dg = f(Z, G, V)
        np.testing.assert_array_equal(dz, np.zeros(6))
        np.testing.assert_array_equal(dg, V * gate)


def test_python_literals_do_not_upcast():
    with theano.configparser.change_flags(warn_float64='raise'):
        z = T.vector('z', 'float32')
        for rule, _ in RULES:
            cost = rule(identity)(z).sum(acc_dtype='float32')
            first = theano.grad(cost, z)
            assert first.dtype == 'float32'
            second = theano.grad((first * z).sum(acc_dtype='float32'), z)
            assert second.dtype == 'float32'


@pytest.mark.parametrize('dtype', ['complex64', 'complex128', 'int32'])
def test_scalar_ops_refuse_other_dtypes(dtype):
    z = T.vector('z', dtype)
    with pytest.raises(TypeError):
        rectifier(z)
    with pytest.raises(TypeError):
        guided_rectifier(T.vector('z', 'float32'), z)
    with pytest.raises(TypeError):
        guided_rectifier(z, T.vector('g', 'float32'))


def test_scalar_ops_pickle_and_compare():
    for op in guided_rectifier, rectifier:
        again = pickle.loads(pickle.dumps(op))
        assert again == op and hash(again) == hash(op)
    assert guided_rectifier.scalar_op != rectifier.scalar_op


def test_in_place_version_is_found():
    # Theano's in-place optimizer rebuilds a scalar op by its class.
    g = T.matrix('g')
    f = theano.function([g], rectifier(T.dot(g, g)), mode='FAST_RUN')
    (node,) = [n for n in f.maker.fgraph.toposort()
               if isinstance(n.op, T.Elemwise)]
    assert node.op.inplace_pattern
    G = np.array([[1, -2], [-3, 4]], g.dtype)
    np.testing.assert_array_equal(f(G), np.maximum(G.dot(G), 0))


def test_deconvnet_is_strict_for_leaky_nonlinearities():
    z = T.vector('z', 'float32')
    leaky = DeconvNet(lambda z: T.switch(z > 0, z, z * np.float32(.1)))
    got = theano.grad((leaky(z) * np.float32([-1, 1])).sum(), z).eval(
        {z: np.float32([1, -1])})
    np.testing.assert_array_equal(got, [0, 1])


def test_guided_is_zero_at_zero_where_relu_gives_a_half():
    z = T.vector('z', 'float32')
    zero = {z: np.float32([0])}
    assert theano.grad(T.nnet.relu(z).sum(), z).eval(zero) == 0.5
    assert theano.grad(GuidedBackprop(T.nnet.relu)(z).sum(), z).eval(zero) == 0


def test_zero_keeps_the_path_connected():
    z = T.vector('z', 'float32')
    y = ZeroBackprop(T.nnet.relu)(z)
    got = theano.grad(y.sum(), z, disconnected_inputs='raise')
    np.testing.assert_array_equal(got.eval({z: np.float32([1, -1])}), [0, 0])


def test_rules_are_documented():
    for rule, _ in RULES:
        for word in ('Parameters', 'Examples', '[', '>>>'):
            assert word in rule.__doc__
    assert 'hardly depends on the class' in ' '.join(
        gradmod.GuidedBackprop.__doc__.split())


def test_guided_backprop_needs_the_output_alone():
    z, g = T.fmatrices('zg')
    rule, y = GuidedBackprop(T.nnet.relu), T.nnet.relu(z)
    for more, kept in [([[y]], y), ([], z), ([[T.exp(z)]], z)]:
        (result,) = rule.grad([z], [g], *more)
        assert result.owner.inputs == [kept, g]


def test_gates_take_the_dtype_of_the_gradient():
    z, g = T.fvector(), T.dvector()
    assert guided_rectifier(z, g).dtype == 'float64'
    assert guided_rectifier(g, z).dtype == 'float32'
    with pytest.raises(TypeError, match='expected floats, got .*complex'):
        guided_rectifier(z, T.zvector())
