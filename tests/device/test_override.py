import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.gpuarray.type import GpuArrayType

from gradmod import (DeconvNet, GuidedBackprop, ModifiedBackprop,
                     override_gradient)
from gradmod.device import move_to_device
from gradmod.op import GradientOverrideOp

from . import graphs
from .. import reference

assert_equal = np.testing.assert_array_equal

relu = T.nnet.relu
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')
GUIDED = reference.elementwise(reference.guided, Z, W)
WHOLE = {  # modes that keep the op as it is
    'no optimizer': lambda: theano.Mode(optimizer=None),
    'no expansion': lambda: theano.compile.get_default_mode().excluding(
        'expand_gradient_override')}


class Recipe(ModifiedBackprop):
    """A rule as written for the recipe that Lasagne users copy."""

    def grad(self, inputs, out_grads):
        (inp,), (grd,) = inputs, out_grads
        dtype = inp.dtype
        return (grd * (inp > 0).astype(dtype) * (grd > 0).astype(dtype),)


def function(rule, *wrt, **kwargs):
    """A function of z and w: the rule's value, and gradients of its sum."""
    z, w = T.matrices('zw')
    y = rule(z)
    inputs = kwargs.pop('inputs', [])
    gradients = theano.grad((y * w).sum(), [z] + list(wrt))
    return theano.function([z, w] + inputs, [y] + gradients,
                           on_unused_input='ignore', **kwargs)


def check_guided(results):
    for got, want in zip(results, (reference.relu(Z), GUIDED)):
        assert_equal(got, want)


@pytest.mark.parametrize('mode', sorted(WHOLE))
def test_modes_that_keep_the_op(mode):
    f = function(GuidedBackprop(relu), mode=WHOLE[mode]())
    (node,) = [n for n in graphs.nodes(f)
               if isinstance(n.op, GradientOverrideOp)]
    for v in node.inputs + node.outputs:
        assert isinstance(v.type, GpuArrayType)
    check_guided(f(Z, W))


def test_clone():
    z, w, x = T.matrices('zwx')
    for old, new in [(z, x * 2), (move_to_device(z), move_to_device(x * 2))]:
        y = GuidedBackprop(relu)(old)
        expressions = [y, theano.grad((y * w).sum(), old)]
        f = theano.function([x, w], theano.clone(expressions, {old: new}))
        check_guided(f(Z / 2, W))


def test_identity():
    for mode in [None] + [make() for make in WHOLE.values()]:
        y, gradient = function(DeconvNet(lambda z: z), mode=mode)(Z, W)
        assert_equal(y, Z)
        assert_equal(gradient, np.maximum(W, 0))


def test_rule_of_theano_expressions():
    f = function(Recipe(relu))
    assert_equal(f(Z, W)[1], GUIDED)
    assert graphs.transfers(f)['GpuFromHost'] == 2


def test_second_derivative():
    # y = relu(z)^2, d/dz sum(w y^2) = guided(z, 2 w y), and of that
    # d/dz sum = guided(z, 2 w [z > 0] [2 w y > 0])
    z, w = T.matrices('zw')
    y = GuidedBackprop(lambda z: T.sqr(relu(z)))(z)
    first = theano.grad((w * T.sqr(y)).sum(), z)
    f = theano.function([z, w], [first, theano.grad(first.sum(), z)])
    first, second = f(Z, W)
    assert_equal(first, GUIDED * 2 * Z ** 2)
    assert_equal(second, GUIDED * 2)
    graphs.assert_free(f)


@pytest.mark.parametrize('mode', ['expanded', 'no expansion'])
def test_parameter_on_the_device_has_its_true_gradient(mode):
    slope = theano.shared(np.array([.1, .2, .3], 'float32'))
    assert isinstance(slope.type, GpuArrayType)
    rule = GuidedBackprop(lambda z: T.switch(z > 0, z, slope * z))
    f = function(rule, slope, mode=WHOLE.get(mode, lambda: None)())
    y, dz, dslope = f(Z, W)
    np.testing.assert_allclose(y, np.where(Z > 0, Z, Z * [.1, .2, .3]), 1e-6)
    assert_equal(dz, GUIDED)
    np.testing.assert_allclose(dslope, np.where(Z > 0, 0, W * Z).sum(axis=0))


def test_variables_of_the_closure():
    t = T.vector('t')
    rule = GuidedBackprop(lambda z: relu(z - t))
    y, dz, dt = function(rule, t, inputs=[t])(
        Z, W, np.array([0, 1, 7], 'float32'))
    assert_equal(y, [[0, 1, 0], [4, 0, 0]])
    assert_equal(dz, GUIDED)
    assert_equal(dt, [4, -2, 0])


def test_gradient_with_respect_to_what_comes_from_the_device():
    # h and y are copies from the device, which is where the rules take them
    h = move_to_device(T.matrix('z')).transfer('cpu')
    w = T.matrix('w')
    y = GuidedBackprop(relu)(h)
    cost = (DeconvNet(relu)(y) * w).sum()
    (z,) = [v for v in theano.gof.graph.inputs([h])]
    f = theano.function([z, w], theano.grad(cost, [y, h]))
    dy, dh = f(Z, W)
    assert_equal(dy, np.maximum(W, 0))
    assert_equal(dh, GUIDED)
    assert graphs.transfers(f) == {'GpuFromHost': 2, 'HostFromGpu': 2}


class Rows(ModifiedBackprop):
    """A gradient that Theano cannot see to have the input's shape."""

    def __init__(self, number):
        super().__init__(relu)
        self.number = number

    def grad(self, inputs, out_grads):
        return (T.concatenate(out_grads, axis=0)[:self.number],)


def test_shape_is_checked_at_run_time():
    assert_equal(function(Rows(2))(Z, W)[1], W)
    with pytest.raises(AssertionError, match=r'Rows\(relu\).grad.* dimension 0'):
        function(Rows(1))(Z, W)
    for rule in Recipe(relu), GuidedBackprop(relu), DeconvNet(relu):
        f = function(rule)  # these keep the shape
        assert not [n for n in graphs.nodes(f) if 'Assert' in str(n.op)]


def test_test_values():
    with theano.configparser.change_flags(compute_test_value='raise'):
        z, w = T.matrices('zw')
        z.tag.test_value, w.tag.test_value = Z, W
        gradient = theano.grad((GuidedBackprop(relu)(z) * w).sum(), z)
        assert_equal(gradient.tag.test_value, GUIDED)


@theano.compile.ops.as_op(itypes=[T.fmatrix], otypes=[T.fmatrix])
def host_only(z):
    return np.maximum(z, 0)


def test_values_are_host_values_as_without_a_rule():
    z = T.matrix('z')
    for nonlinearity in relu, host_only:
        y = GuidedBackprop(nonlinearity)(z)
        assert y.type == z.type
        f = theano.function([z], y)
        assert type(f(Z)) is np.ndarray
        assert_equal(f(Z), reference.relu(Z))


def test_functions_and_rules_meet_host_variables():
    # so that ops that know nothing of devices work
    f = function(GuidedBackprop(host_only))
    assert_equal(f(Z, W)[1], GUIDED)

    class Through(ModifiedBackprop):
        inner = Recipe(relu)

        def grad(self, inputs, out_grads):
            assert inputs[0].type == out_grads[0].type == T.fmatrix
            return theano.grad(None, inputs, known_grads={
                self.inner(inputs[0]): host_only(out_grads[0])})
    f = function(Through(relu))
    assert_equal(f(Z, W)[1], GUIDED)


def test_nested():
    # the outer rule's nonlinearity has an override itself, which only the
    # gradient with respect to the slope goes through
    slope = theano.shared(np.ones(3, 'float32'))
    outer = DeconvNet(lambda z: GuidedBackprop(relu)(z * slope))
    _, dz, dslope = function(outer, slope)(Z, W)
    assert_equal(dz, np.maximum(W, 0))
    assert_equal(dslope, (GUIDED * Z).sum(axis=0))


def test_inputs_of_the_host_and_of_the_device():
    # numbers without dimensions and integers stay
    product = override_gradient(
        lambda z, a, i: relu(z) * a + i,
        lambda inputs, gs: [T.clip(gs[0], 0, 9) * inputs[1], None, None])
    z, w = T.matrices('zw')
    a, i = T.scalar('a'), T.bvector('i')
    y = product(z, a, i)
    f = theano.function([z, w, a, i], [y] + theano.grad((y * w).sum(), [z, a]))
    ((types, _),) = product.ops.items()
    assert [isinstance(t, GpuArrayType) for t in types] == [True, False, False]
    y, dz, da = f(Z, W, 2, np.array([1, 2, 3], 'int8'))
    assert_equal(y, reference.relu(Z) * 2 + [1, 2, 3])
    assert_equal(dz, np.maximum(W, 0) * 2)
    assert_equal(da, (reference.relu(Z) * W).sum())


def test_scan(loops):
    rule = GuidedBackprop(relu)
    z = T.matrix('z')
    steps, _ = theano.scan(lambda h, z: rule(z + h), outputs_info=z,
                           non_sequences=z, n_steps=2)
    f = theano.function([z], theano.grad(steps[-1].sum(), z), mode=loops)
    assert_equal(f(Z), 3. * (Z > 0))
