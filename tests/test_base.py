import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import lasagne
import numpy as np
import pytest
import theano
import theano.sparse
import theano.tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams

import gradmod
from gradmod import (DeconvNet, GuidedBackprop, ModifiedBackprop, ZeroBackprop,
                     lrp)
from gradmod._theano import change_flags
from gradmod.base import check_rule, is_composite

from . import models, reference
from .internals import RandomStreams, generic
from .models import PY

pytestmark = pytest.mark.usefixtures('no_compiler')
OPAQUE = theano.Mode(linker='py', optimizer=None)
FAST = theano.Mode(linker='py', optimizer='fast_run')
modes = pytest.mark.parametrize('mode', [FAST, OPAQUE], ids=['fast', 'opaque'])
relu = lasagne.nonlinearities.rectify
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')
GUIDED = reference.elementwise(reference.guided, Z, W)
x, y = T.fmatrices('xy')


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


def saliency(rule, mode=PY):
    """The gradient with respect to z of the sum of rule(z) w."""
    z, w = T.fmatrices('zw')
    return theano.function([z, w], theano.grad((rule(z) * w).sum(), z),
                           mode=mode, on_unused_input='ignore')


def check(values, outputs, want, mode=PY, rtol=1e-7, atol=0):
    """`outputs` for `values`, a dict of those of the inputs, are as wanted."""
    f = theano.function(list(values), outputs, mode=mode,
                        on_unused_input='ignore')
    got = f(*values.values())
    assert len(got) == len(want)
    for a, b in zip(got, want):
        np.testing.assert_allclose(a, b, rtol, atol)


def test_acceptance(capsys):  # the question that this library answers
    net, weights = models.mlp('float32', (4, 3, 5), None)
    x = models.saliency_input(net)
    plain = theano.grad(lasagne.layers.get_output(net)[3, 1], x)

    modded_relu = Recipe(relu)
    for layer in lasagne.layers.get_all_layers(net):
        if getattr(layer, 'nonlinearity', None) is relu:
            layer.nonlinearity = modded_relu
    out = lasagne.layers.get_output(net)
    jacobian = theano.gradient.jacobian(out[3], x)
    single = theano.grad(out[3, 1], x)
    assert capsys.readouterr().out == 'It works\n'  # two layers of one type

    X = np.random.RandomState(0).randn(4, 3, 5).astype('float32')
    g = np.zeros((3, 4, 3))
    g[range(3), 3, range(3)] = 1
    want = np.array([reference.mlp_backward(X, weights, row, reference.guided)
                     for row in g])
    want_plain = reference.mlp_backward(X, weights, g[1], reference.plain)
    assert np.abs(want_plain - want[1]).max() > 1e-3
    check({x: X}, [out, jacobian, single, plain],
          [reference.mlp_forward(X, weights)[1], want, want[1], want_plain],
          FAST, rtol=1e-4, atol=1e-5)


def test_one_op_for_each_type_of_input():
    calls = []

    def nonlinearity(z):
        calls.append(z.type)
        return T.nnet.relu(z)
    rule = GuidedBackprop(nonlinearity)
    assert rule.nonlinearity is nonlinearity
    assert rule.ops == {} and rule.calls == 0
    types = [T.fmatrix, T.dmatrix, T.frow, T.fvector, T.fscalar, T.ftensor4]
    for type in types + types:
        assert rule(type()).ndim == type.ndim
    assert calls == types
    rule(T.ivector())  # an integer has no op
    assert set(rule.ops) == set(types) and rule.calls == 2 * len(types) + 1
    used = GuidedBackprop(relu)
    used(3)
    for again in copy.deepcopy(used), pickle.loads(pickle.dumps(used)):
        assert again.calls == 0 and again.ops == {}
        assert again.nonlinearity is relu
    assert used.calls == len(used.ops) == 1


def test_names():
    leaky = lasagne.nonlinearities.LeakyRectify(.1)
    for rule, name in [
            (GuidedBackprop(relu), 'GuidedBackprop(rectify)'),
            (DeconvNet(ZeroBackprop(T.tanh)), 'DeconvNet(ZeroBackprop(tanh))'),
            (GuidedBackprop(leaky), 'GuidedBackprop(LeakyRectify)'),
            (swapped_product, 'override_gradient(swapped_product, _swap)')]:
        assert rule.__name__ == repr(rule) == name
    # as Keras needs one of its own, to find it again in a saved model
    rule = GuidedBackprop(relu)
    rule.__name__ = 'guided'
    assert (rule.__name__, repr(rule)) == ('guided', 'GuidedBackprop(rectify)')
    assert pickle.loads(pickle.dumps(rule)).__name__ == 'guided'
    assert GuidedBackprop.__name__ == 'GuidedBackprop'
    assert swapped_product.__doc__.startswith('x y')


def test_call_takes_what_theano_takes():
    for value in 2, -1.5, np.ones((2, 3), 'float32'), [[1., 2.], [3., -4.]]:
        got = GuidedBackprop(relu)(value)
        np.testing.assert_array_equal(got.eval(), np.maximum(value, 0))
    for value in ('abc', 1 + 2j, T.zmatrix(), generic('generic'),
                  theano.sparse.csr_matrix('s', 'float32')):
        rule = GuidedBackprop(relu)
        with pytest.raises(TypeError):
            rule(value)
        assert rule.ops == {}


def test_a_whole_number_is_a_float():
    rule = Returns(lambda z, g: 3 * g, T.sqr)
    for value in 2, True:
        y = rule(value)
        assert y.type == rule(float(value)).type
        assert theano.grad(y, y.owner.inputs[0]).eval() == 3
    power = gradmod.override_gradient(lambda x, n: x ** n,
                                      lambda i, g: [g[0] * i[1], None])
    x = T.fscalar()
    y = power(x, 2)
    assert y.dtype == 'float32'
    assert theano.grad(y, x).eval({x: 5}) == 2


class Times(ModifiedBackprop):
    """g times the attribute `factor`."""

    def __init__(self, nonlinearity, factor=2):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        return (out_grads[0] * self.factor,)


@pytest.mark.parametrize('make', [
    lambda: GuidedBackprop(None), lambda: Times(.5),
    lambda: gradmod.GradientReversal(.5),
    *(lambda args=args: gradmod.override_gradient(*args)
      for args in [(3, relu), (relu, None), (), (None, 3)])])
def test_functions_must_be_callable(make):
    with pytest.raises(TypeError, match='function'):
        make()


def test_what_a_subclass_may_define():
    for name in 'L_op', 'R_op':  # Theano's would never be called
        with pytest.raises(TypeError, match=f'Mine.{name}.*define grad'):
            type('Mine', (GuidedBackprop,), {name: lambda self, *args: None})
        with pytest.raises(TypeError, match='define grad'):
            type('Mine', (type('Mixin', (), {name: None}), ModifiedBackprop),
                 {})

    class Keeper:
        def __init_subclass__(cls, key):
            cls.key = key
    assert type('Mine', (ModifiedBackprop, Keeper), {}, key=3).key == 3
    Forgetful = type('Forgetful', (ModifiedBackprop,), {
        '__init__': lambda self, factor: None, 'ops': {}})
    with pytest.raises(TypeError, match='Forgetful.*super'):
        Forgetful(2)(T.fvector())
    with pytest.raises(NotImplementedError, match='ModifiedBackprop.*define'):
        ModifiedBackprop(relu)(T.fmatrix())


def test_around_another_nonlinearity():
    rule = Times(relu, 3)
    rule(T.fmatrix())
    other = rule.around(T.tanh)
    assert other.calls == 0 and other.ops == {} and rule.nonlinearity is relu
    z = other(x)
    check({x: Z}, [z, theano.grad(z.sum(), x)],
          [np.tanh(Z), np.full_like(Z, 3)], rtol=1e-6)
    assert rule.calls == other.calls == 1 and len(rule.ops) == 1
    product = swapped_product.around(lambda x, y: x + y)
    check({x: Z, y: W}, theano.grad(product(x, y).sum(), [x, y]), [Z, W])
    assert pickle.loads(pickle.dumps(swapped_product.around(relu))
                        ).nonlinearity is relu


def test_nonlinearity_must_return_one_float_tensor():
    for returned, got in [(lambda z: [z, z], 'list'),
                          (lambda z: z * 1j, r'matrix\)$'),
                          (lambda z: z > 0, 'astype')]:
        with pytest.raises(TypeError, match=r'^GuidedBackprop\(.*' + got):
            GuidedBackprop(returned)(T.fmatrix())
    f = saliency(GuidedBackprop(lambda z: [T.nnet.relu(z)]))  # a list of one
    np.testing.assert_array_equal(f(Z, W), GUIDED)


@pytest.mark.parametrize('returned, expected', [
    (lambda z, g: (2 * g,), 2 * W), (lambda z, g: 2 * g, 2 * W),
    (lambda z, g: 3, np.full_like(Z, 3)),
    (lambda z, g: np.array(2), np.full_like(Z, 2)),
    (lambda z, g: (Z * 2,), Z * 2), (lambda z, g: T.constant(Z), Z),
    (lambda z, g: z > 0, Z > 0), (lambda z, g: g.astype('float16'), W),
    (lambda z, g: g.astype('float64') * 2, 2 * W),
    (lambda z, g: T.cumsum(g, axis=0), np.cumsum(W, axis=0)),
    (lambda z, g: [None], W * (Z > 0))])
def test_grad_may_return(returned, expected):
    got = saliency(Returns(returned))(Z, W)
    assert got.dtype == 'float32'
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('returned, got', [
    (lambda z, g: None, 'None.*return'), (lambda z, g: (g, g), '2'),
    (lambda z, g: g.sum(axis=0), 'vec'), (lambda z, g: np.zeros(3), 'vec'),
    (lambda z, g: g * 1j, 'complex'), (lambda z, g: 1j, 'complex'),
    (lambda z, g: 'g', 'str'), (lambda z, g: 10 ** 30, 'int')])
def test_grad_may_not_return(returned, got):
    rule = Returns(returned)
    with pytest.raises(TypeError, match=r'(?s)^Returns\(rectify\)\.grad: .*'
                       'got.*' + got):
        rule(T.fmatrix())
    assert rule.ops == {}


@pytest.mark.parametrize('returned', [
    lambda z, g: g[:1], lambda z, g: g.sum(axis=0, keepdims=True),
    lambda z, g: np.zeros((2, 4)), lambda z, g: g.dimshuffle(1, 0)])
@modes
def test_gradient_of_another_shape_is_an_error_at_run_time(returned, mode):
    f = saliency(Returns(returned), mode)
    with pytest.raises(AssertionError, match=r'Returns\(rectify\).*shape'):
        f(Z, W)


def test_shape_is_not_checked_at_run_time_where_it_is_sure():
    for returned in (lambda z, g: g * (z > 0) + 1, lambda z, g: z,
                     lambda z, g: g, lambda z, g: T.exp(z).zeros_like()):
        f = saliency(Returns(returned))
        assert not any('Assert' in str(n.op)
                       for n in f.maker.fgraph.toposort())


def test_shape_of_the_output_may_differ_from_that_of_the_input():
    # g then has another shape than z, and says nothing about the gradient's
    def nonlinearity(z):
        return T.nnet.relu(z)[:, :2]
    for rule, z, value, i in [
            (Returns(lambda z, g: g, nonlinearity), x, Z, 1),
            (Returns(lambda z, g: g, lambda z: z + theano.shared(Z)), T.frow(),
             Z[:1], 0)]:
        f = theano.function([z], theano.grad(rule(z).sum(), z), mode=PY)
        with pytest.raises(AssertionError, match=f'dimension {i}'):
            f(value)
    rule = Returns(lambda z, g: T.set_subtensor(z.zeros_like()[:, :2], g),
                   nonlinearity)
    check({x: Z}, [theano.grad(rule(x).sum(), x)], [[[1, 1, 0], [1, 1, 0]]])


def test_disconnected_on_request():
    rule = Returns(lambda z, g: theano.gradient.disconnected_type())
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(rule(x).sum(), x)
    zeros = theano.grad(rule(x).sum(), x, disconnected_inputs='ignore')
    other = theano.grad((rule(x) + 2 * x).sum(), x)  # the other way counts
    check({x: Z}, [zeros, other], [0 * Z, 0 * Z + 2])


def test_integer_variables_in_the_closure():
    n = theano.shared(np.int64(3))
    y = GuidedBackprop(lambda z: z * T.arange(n).astype('float32'))(x)
    check({x: Z}, [y, theano.grad(y.sum(), x)], [Z * [0, 1, 2], Z > 0])


def with_an_update(z):
    count = theano.shared(np.float32(0))
    count.default_update = z.sum()  # refers to the stand-in
    return z * count


@pytest.mark.parametrize('streams', [MRG_RandomStreams, RandomStreams])
def test_random_draws(streams):
    random, z = streams(1), T.fmatrix('z')
    for rule in [
            GuidedBackprop(lambda z: z * random.uniform(size=z.shape)),
            GuidedBackprop(with_an_update),
            Returns(lambda z, g: g + random.normal(size=z.shape)),
            GuidedBackprop(lambda z: theano.scan(
                lambda row: row * random.uniform(size=row.shape), z)[0])]:
        with pytest.raises(ValueError, match=r'^(Guided|Returns).*random'):
            rule(z)
    # a draw made outside is a captured variable
    mask = T.cast(random.uniform(size=(2, 3)) < .5, 'float32')
    y = GuidedBackprop(lambda z: T.nnet.relu(z) * mask)(z)
    f = theano.function([z], [y, mask], mode=PY)
    first, second = f(Z), f(Z)
    for got, drawn in first, second:
        np.testing.assert_array_equal(got, np.maximum(Z, 0) * drawn)
    assert (first[1] != second[1]).any()


def test_two_threads_first_use_one_wrapper():
    started = threading.Barrier(2)

    def nonlinearity(z):
        started.wait(30)  # both are inside, whatever the scheduler does
        return T.nnet.relu(z)
    rule = GuidedBackprop(nonlinearity)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(rule, [x, y]))
    assert len(rule.ops) == len({out.owner.op for out in outputs}) == 1
    assert theano.config.compute_test_value == 'off'
    w = T.fmatrix('w')
    gradients = theano.grad((sum(outputs) * w).sum(), [x, y])
    check({x: Z, y: Z, w: W}, gradients, [GUIDED, GUIDED])


def test_test_values_of_what_a_rule_computes_from_what_it_refers_to():
    # once made while they are off; the gradients go through these, too
    z = T.fvector('z')
    z.tag.test_value = Z[0]
    slope = theano.shared(np.float64(.5))
    used = GuidedBackprop(lambda z: T.maximum(z, z * T.exp(T.sqr(slope))))
    used(T.fvector())
    with change_flags(compute_test_value='raise'):
        new = Times(lambda z: z, T.exp(T.sqr(slope)))
        positive, factor = Z[0] * (Z[0] > 0), np.exp(.25)
        for computed, value in [
                (used(z), np.maximum(Z[0], Z[0] * factor)), (new(z), Z[0]),
                (theano.grad(used(z).sum(), z), Z[0] > 0),
                (theano.grad(new(z).sum(), z), np.full(3, factor)),
                (theano.grad(used(z).sum(), slope), positive.sum() * factor)]:
            np.testing.assert_allclose(computed.tag.test_value, value, 1e-6)
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
    first = theano.grad((v * rule(z)).sum(), [w, h, z])
    second = theano.grad(first[2].sum(), w)
    th = np.tanh(W[0])
    dh = 1 - th ** 2
    check({z: Z[0], v: Z[1]}, first + [second], [
        Z[1] * (Z[0] * dh + 2 * W[0] + dh * W[0] + th), Z[1] * (Z[0] + W[0]),
        Z[1] * th * W[0], Z[1] * (dh * W[0] + th)], mode, rtol=1e-5)


def test_second_and_third_derivative_differentiate_the_expression():
    # grad returns g z^2: the derivatives follow that, not the nonlinearity
    first = theano.grad(Returns(lambda z, g: g * z ** 2)(x).sum(), x)
    second = theano.grad(first.sum(), x)
    third = theano.grad(second.sum(), x)
    check({x: Z}, [first, second, third], [Z ** 2, 2 * Z, 2 + 0 * Z])


def _pass_on(inputs, out_grads):
    return out_grads


def _swap(inputs, out_grads):
    (x, y), (g,) = inputs, out_grads
    return [g * x, g * y]


@gradmod.override_gradient(grad=_swap)
def swapped_product(x, y):
    """x y, with the gradients exchanged."""
    return x * y


@modes
def test_a_function_of_two(mode):
    out = swapped_product(x, y)
    first = theano.grad(out.sum(), [x, y])
    of_squares = theano.grad((out ** 2).sum() / 2, x)  # x y x
    second = theano.grad(of_squares.sum(), [x, y])
    check({x: Z, y: W}, [out] + first + second,
          [Z * W, Z, W, Z * W + Z ** 2, Z * W], mode)
    assert [len(key) for key in swapped_product.ops] == [2]


def test_true_gradients_and_outputs_on_request():
    def clip(inputs, out_grads, true_grads):
        return [T.clip(t, -1, 1) for t in true_grads]

    class Clip(ModifiedBackprop):
        def grad(self, inputs, out_grads, true_grads):
            return clip(inputs, out_grads, true_grads)
    np.testing.assert_array_equal(saliency(Clip(relu))(Z, W),
                                  np.clip(W, -1, 1) * (Z > 0))
    for grad, want in [
            (clip, [np.clip(W, -1, 1), np.clip(Z, -1, 1)]),
            (lambda i, g: [None, i[1].zeros_like()], [W, 0 * Z]),
            (lambda i, g, outputs: [outputs[0] * g[0], None], [Z * W, Z])]:
        out = gradmod.override_gradient(lambda x, y: x * y, grad)(x, y)
        check({x: Z, y: W}, theano.grad(out.sum(), [x, y]), want)
    # also where the output is the input
    identity = gradmod.override_gradient(lambda x: x,
                                         lambda i, g, outputs: outputs)
    np.testing.assert_array_equal(saliency(identity)(Z, W), Z)


@theano.compile.ops.as_op(itypes=[T.fmatrix, T.fmatrix], otypes=[T.fmatrix])
def without_gradient(x, y):
    return np.sign(x) * y


def test_function_that_theano_cannot_differentiate():
    n = T.imatrix('n')
    values = {x: Z, y: W, n: W.astype('int32')}
    g = gradmod.override_gradient(without_gradient, _swap)
    check(values, theano.grad(g(x, y).sum(), [x, y]), [Z, W])
    # nor with respect to what is captured, unless somebody asks for that
    g = gradmod.override_gradient(lambda x: without_gradient(x, y), _pass_on)
    check(values, [theano.grad(g(x).sum(), x)], [Z * 0 + 1])
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
    g = gradmod.override_gradient(lambda x, n: without_gradient(
        x, n.astype('float32')), lambda i, g: [g[0], None])
    check(values, [theano.grad(g(x, n).sum(), x)], [Z * 0 + 1])


def test_integer_inputs_of_a_function():
    n = T.lscalar('n')

    def product(gradient):
        return gradmod.override_gradient(
            lambda x, n: x * n, lambda i, g: [g[0] * 5, gradient(i[1])])
    for returned in (lambda n: None, lambda n: n.zeros_like(), lambda n: 0.,
                     lambda n: T.zeros(()),
                     lambda n: theano.gradient.disconnected_type()):
        y = product(returned)(x, n)
        dx, dn = theano.grad(y.sum(dtype='float64'), [x, n])
        check({x: Z, n: 3}, [y, dx, dn], [3 * Z, Z * 0 + 5, 0])
        assert dn.dtype == theano.config.floatX
    y = product(returned)(n, n)  # nothing to override
    assert y.dtype == 'int64'
    check({n: 3}, [y, theano.grad(y.astype('float64'), n)], [9, 0])
    for returned in lambda n: .5, lambda n: n, lambda n: n * 0.:
        with pytest.raises(TypeError, match='None.*int64'):
            product(returned)(x, n)


def test_gradients_are_checked_one_by_one():
    v = T.fvector()
    for grad in lambda i, g: g, lambda i, g: [g[0], g[0]]:
        with pytest.raises(TypeError, match='expected'):
            gradmod.override_gradient(lambda x, v: x + v, grad)(x, v)
    # v + x has not the shape of v, though it is made of it elementwise
    g = gradmod.override_gradient(
        lambda x, v: x * v, lambda i, g: [g[0], g[0][:, 0]])
    f = theano.function([x, v], theano.grad(g(x, v).sum(), v), mode=PY)
    with pytest.raises(AssertionError, match='dimension 0 differs'):
        f(Z, W[0])
    assert f(W[:, :2], W[0, :2]).shape == (2,)


def test_override_of_module_level_functions_pickles():
    g = gradmod.override_gradient(relu, _pass_on)
    again = pickle.loads(pickle.dumps(g))
    assert again.grad is _pass_on and again.nonlinearity is relu
    np.testing.assert_array_equal(saliency(again)(Z, W), W)
    # a decorated function stands where its name points
    assert pickle.loads(pickle.dumps(swapped_product)) is swapped_product
    assert copy.deepcopy(swapped_product) is swapped_product


@pytest.mark.parametrize('mode', [PY, OPAQUE], ids=['expanded', 'opaque'])
def test_a_compiled_function_pickles(mode):
    # a lambda does not, but nothing of it is left in the graph
    slope = theano.shared(np.float32(.5))
    f = saliency(GuidedBackprop(lambda z: T.maximum(z, slope * z)), mode)
    again = pickle.loads(pickle.dumps(f, -1))
    np.testing.assert_array_equal(again(Z, W), GUIDED)


@pytest.mark.parametrize('of_y, error', [
    (lambda y: 0, theano.gradient.DisconnectedInputError),
    (lambda y: y.shape[0] * 0, theano.gradient.DisconnectedInputError),
    (lambda y: theano.gradient.disconnected_grad(y * 0),
     theano.gradient.DisconnectedInputError),
    (lambda y: theano.gradient.undefined_grad(y * 0),
     theano.gradient.NullTypeGradError)])
def test_there_may_be_no_true_gradient(of_y, error):
    out = gradmod.override_gradient(lambda x, y: 2 * x + of_y(y),
                                    lambda xs, gs: [gs[0] * 3, None])(x, y)
    check({x: Z, y: W}, [out, theano.grad(out.sum(), x)], [2 * Z, 3 + 0 * Z])
    with pytest.raises(error):
        theano.grad(out.sum(), y)  # not zero
    if error is theano.gradient.DisconnectedInputError:
        dy = theano.grad(out.sum(), y, disconnected_inputs='ignore')
        check({x: Z, y: W}, [dy], [0 * W])


def test_which_rules_are_for_layers():
    assert is_composite(lrp.EpsilonPlus())
    assert not is_composite(lrp.EpsilonPlus) and not is_composite(relu)
    for rule in lrp.EpsilonPlus(), lrp.EpsilonPlus, lrp.ZPlus(), lrp.ZPlus:
        with pytest.raises(TypeError, match='layers'):
            check_rule(rule)
