import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.gof.graph import ancestors

from gradmod import (GuidedBackprop, ModifiedBackprop, ZeroBackprop,
                     override_gradient)
from gradmod.op import (GradientOverrideOp, captured_variables, conform,
                        expand_gradient_override, graft)

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
OPAQUE = theano.Mode(linker='py', optimizer=None)
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')


class Times(ModifiedBackprop):
    """g times the attribute `factor`."""

    def __init__(self, nonlinearity, factor):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        return (out_grads[0] * self.factor,)


class Through(ModifiedBackprop):
    """What the attribute `rule` makes of z and g."""

    def __init__(self, nonlinearity, rule):
        super().__init__(nonlinearity)
        self.rule = rule

    def grad(self, inputs, out_grads):
        return (self.rule(inputs[0], out_grads[0]),)


def ops_of(function):
    """All ops of a compiled function, those within scan included."""
    ops = []
    for node in function.maker.fgraph.toposort():
        ops.append(node.op)
        if isinstance(getattr(node.op, 'fn', None),
                      theano.compile.function_module.Function):
            ops.extend(ops_of(node.op.fn))
    return ops


def is_opaque(function):
    return any(isinstance(op, GradientOverrideOp) for op in ops_of(function))


# graft, conform, captured_variables

def test_graft_copies_what_lies_between_and_nothing_else():
    a, b, x = T.fmatrices('abx')
    below = T.exp(x)
    out = T.tanh(a * b + 2)
    (copy,) = graft([out], {a: below})
    assert copy is not out and copy.owner is not out.owner
    found = set(ancestors([copy]))
    assert below in found and b in found and a not in found
    # every node is new, down to the replacement, which stays as it is
    assert not found & set(v for v in ancestors([out]) if v.owner)
    # two compiled functions must not share a constant
    constants = [v for v in ancestors([out])
                 if isinstance(v, theano.Constant)]
    assert constants and not found & set(constants)
    f = theano.function([x, b], copy, mode=PY)
    np.testing.assert_allclose(f(Z, W), np.tanh(np.exp(Z) * W + 2), rtol=1e-6)


def test_graft_of_a_key_is_its_value():
    a, x = T.fmatrices('ax')
    assert graft([a, x], {a: x}) == [x, x]


def test_graft_stops_at_a_second_output():
    # theano.gof.graph.io_toposort does not, and goes on above it
    a, b, x = T.fmatrices('abx')
    maximum, argmax = T.max_and_argmax(a, axis=1)
    for output in maximum, argmax:
        value = x[0].astype(output.dtype)
        (copy,) = graft([T.exp(output) * b], {output: value})
        assert a not in ancestors([copy]) and value in ancestors([copy])


def test_graft_computes_test_values_when_asked():
    a, x = T.fmatrices('ax')
    out = T.exp(a) + 1
    x.tag.test_value = Z
    with theano.configparser.change_flags(compute_test_value='raise'):
        (copy,) = graft([out], {a: x})
    np.testing.assert_allclose(copy.tag.test_value, np.exp(Z) + 1, rtol=1e-6)


def test_conform_casts_and_matches_the_pattern():
    matrix = T.fmatrix().type
    x = T.fmatrix()
    assert conform(x, matrix) is x
    assert conform(T.dmatrix(), matrix).type == matrix
    assert conform(T.frow(), matrix).type == matrix
    row = conform(x, T.frow().type)
    assert row.type == T.frow().type
    f = theano.function([x], row, mode=PY)
    assert f(Z[:1]).shape == (1, 3)
    with pytest.raises(Exception):
        f(Z)


def test_captured_variables_are_the_nearest_that_depend_on_no_stand_in():
    a, b = T.fmatrices('ab')
    older = T.exp(a)
    x = T.fmatrix('x')
    inside = b + theano.shared(Z)
    out = x * older + inside * T.maximum(x, 0) * T.zeros((2, 3)).sum()
    assert captured_variables([x], [out]) == [older, inside]
    assert captured_variables([x], [x, x + 1]) == []
    constant = T.zeros((2, 3)) + 1  # older now, and made of constants alone
    x = T.fmatrix('x')
    assert captured_variables([x], [x * constant]) == [constant]


# expansion

@pytest.mark.parametrize('mode', ['FAST_RUN', 'FAST_COMPILE'])
def test_no_op_of_ours_is_left_in_a_compiled_function(mode):
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(T.nnet.relu)(GuidedBackprop(T.nnet.relu)(z) - 1)
    first = theano.grad((y * w).sum(), z)
    second = theano.grad((first * w).sum(), w)
    f = theano.function([z, w], [y, first, second], mode=mode)
    assert not is_opaque(f)


@pytest.mark.parametrize('mode', ['FAST_RUN', 'FAST_COMPILE'])
def test_expands_inside_scan_and_in_nested_overrides(mode):
    inner = GuidedBackprop(T.nnet.relu)
    outer = Times(lambda z: inner(z) * 2, 3)
    z = T.fmatrix('z')
    h, _ = theano.scan(lambda row, h: outer(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    f = theano.function([z], [h, theano.grad(h.sum(), z)], mode=mode)
    assert any(type(op).__name__ == 'Scan' for op in ops_of(f))
    assert not is_opaque(f)


@pytest.mark.parametrize('optimizer', [None, 'excluding'])
@pytest.mark.parametrize('linker', ['py', 'c|py', 'cvm'])
def test_modes_without_the_rewrite_run_the_op_itself(linker, optimizer):
    if optimizer == 'excluding':
        mode = theano.Mode(linker, 'fast_compile').excluding(
            'expand_gradient_override')
    else:
        mode = theano.Mode(linker, None)
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(T.nnet.relu)(z)
    f = theano.function([z, w], [y, theano.grad((y * w).sum(), z)], mode=mode)
    assert is_opaque(f)
    value, gradient = f(Z, W)
    np.testing.assert_allclose(value, np.maximum(Z, 0))
    np.testing.assert_allclose(
        gradient, reference.elementwise(reference.guided, Z, W))


def test_expansion_is_linear_in_a_residual_chain():
    # theano.clone, which OpFromGraph(inline=True) uses, copies the upstream
    # graph with each expansion: 2 ** 40 nodes here.
    rule = GuidedBackprop(T.nnet.relu)
    z = T.fmatrix('z')
    h = z
    for _ in range(40):
        h = h + rule(h)
    f = theano.function([z], theano.grad(h.sum(), z),
                        mode=theano.Mode('py', 'fast_compile'))
    assert len(f.maker.fgraph.apply_nodes) < 40 * 10
    # h grows from a positive start: every unit is open and g stays positive
    start = np.full((1, 1), 1e-12, 'float32')
    np.testing.assert_allclose(f(start), 2. ** 40)


def test_expansion_leaves_other_nodes_alone():
    x = T.fmatrix()
    assert expand_gradient_override.transform(T.exp(x).owner) in (None, False)


def test_two_functions_alive_share_one_op_with_a_constant():
    rule = GuidedBackprop(lambda z: z * T.constant(Z) + 2)
    z = T.fmatrix('z')
    gradient = theano.grad(rule(z).sum(), z)
    for mode in 'FAST_RUN', 'FAST_COMPILE', 'DebugMode':
        f = theano.function([z], [rule(z), gradient], mode=mode)
        g = theano.function([z], [gradient, rule(z)], mode=mode)
        np.testing.assert_allclose(f(W)[0], W * Z + 2)
        np.testing.assert_allclose(g(W)[0], W > 0)


@pytest.mark.parametrize('mode', [PY, OPAQUE], ids=['expanded', 'opaque'])
@pytest.mark.parametrize('f, value', [
    (lambda z: z, Z),
    (lambda z: z.zeros_like(), Z * 0),
    (lambda z: T.constant(W), W),
    (lambda z, shared=theano.shared(W): shared, W)],
    ids=['identity', 'zeros', 'constant', 'shared'])
def test_identity_and_constant_nonlinearities(f, value, mode):
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(f)(z)
    function = theano.function([z, w], [y, theano.grad((y * w).sum(), z)],
                               mode=mode)
    got, gradient = function(Z, W)
    np.testing.assert_array_equal(got, value)
    np.testing.assert_array_equal(
        gradient, reference.elementwise(reference.guided, Z, W))


def test_output_that_is_a_captured_intermediate():
    a, z = T.fmatrices('az')
    older = T.exp(a)
    y = ZeroBackprop(lambda z: older)(z)
    da, dz = theano.grad(y.sum(), [a, z])
    f = theano.function([a, z], [y, da, dz], mode=PY)
    got = f(Z, W)
    np.testing.assert_allclose(got[0], np.exp(Z), rtol=1e-6)
    np.testing.assert_allclose(got[1], np.exp(Z), rtol=1e-6)
    np.testing.assert_array_equal(got[2], W * 0)


# the op as a citizen of Theano

def test_debugprint_shows_the_rule():
    def rectify(z):
        return T.nnet.relu(z)
    y = GuidedBackprop(rectify)(T.fmatrix('z'))
    assert 'GuidedBackprop(rectify)' in theano.printing.debugprint(
        y, file='str')


def test_make_node_checks_the_number_of_inputs():
    rule = GuidedBackprop(T.nnet.relu)
    y = rule(T.fmatrix())
    with pytest.raises(ValueError, match='takes 1 inputs, got 2'):
        y.owner.op(T.fmatrix(), T.fmatrix())
    shared = theano.shared(Z)
    y = Times(lambda z: z + shared, factor=2)(T.fmatrix())
    with pytest.raises(ValueError, match='takes 1 inputs, got 3'):
        y.owner.op(T.fmatrix(), T.fmatrix(), T.fmatrix())
    with pytest.raises(TypeError):
        y.owner.op(T.fvector())


def test_a_node_with_captured_inputs_can_be_made_anew():
    slope = theano.shared(np.float32([[.5, 1, 2]]))
    y = GuidedBackprop(lambda z: T.maximum(z, T.dot(z, slope.T)))(
        T.fmatrix('z'))
    node = y.owner
    (_, transposed) = node.inputs
    assert transposed.owner.inputs == [slope]
    other = T.fmatrix('other')
    new = node.op.make_node(node.inputs[0], other)
    assert new.inputs == [node.inputs[0], other]


def test_disconnected_output_gradient_means_zeros():
    y = GuidedBackprop(T.nnet.relu)(T.fmatrix('z'))
    node = y.owner
    (gradient,) = node.op.L_op(node.inputs, node.outputs,
                               [theano.gradient.disconnected_type()])
    np.testing.assert_array_equal(
        gradient.eval({node.inputs[0]: Z}), Z * 0)


def test_connection_pattern_of_inputs_that_only_the_rule_uses():
    factor = T.fscalar('factor')
    z = T.fmatrix('z')
    y = Times(T.nnet.relu, factor)(z)
    assert y.owner.op.connection_pattern(y.owner) == [[True], [False]]
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(y.sum(), factor)
    f = theano.function([z, factor], theano.grad(y.sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z, 3), np.full_like(Z, 3))
    # the gradient itself depends on it, and can be differentiated
    g = theano.grad(theano.grad(y.sum(), z).sum(), factor)
    assert theano.function([z, factor], g, mode=PY)(Z, 3) == Z.size


def test_broadcastable_output_gradient():
    # known_grads may have a type that is more, or less, specific
    for type in T.frow().type, T.fmatrix().type:
        z = T.fmatrix('z')
        y = GuidedBackprop(T.nnet.relu)(z)
        g = type('g')
        f = theano.function([z, g], theano.grad(None, z, known_grads={y: g}),
                            mode=PY)
        np.testing.assert_array_equal(
            f(Z[:1], W[:1]),
            reference.elementwise(reference.guided, Z[:1], W[:1]))


# forward mode

@pytest.mark.parametrize('rule', [
    lambda z, g: g, lambda z, g: g * 3, lambda z, g: -g / 2 + T.exp(z) * g,
    lambda z, g: T.switch(z > 0, g, 0),
    lambda z, g: T.dot(g, np.arange(9, dtype="float32").reshape(3, 3)),
    lambda z, g: g.zeros_like()])
def test_rop_of_a_linear_override_agrees_with_lop(rule):
    z, v, u = T.fmatrices('zvu')
    y = Through(T.nnet.relu, rule)(z)
    forward = (theano.Rop(y, z, v) * u).sum()
    backward = (theano.Lop(y, z, u) * v).sum()
    f = theano.function([z, v, u], [forward, backward], mode=PY,
                        on_unused_input='ignore')
    rng = np.random.RandomState(0)
    a, b = f(*rng.randn(3, 2, 3).astype('float32'))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_rop_of_a_nonlinear_override_is_an_error():
    z, v = T.fmatrices('zv')
    for rule in GuidedBackprop, Times:
        y = (rule(T.nnet.relu) if rule is GuidedBackprop
             else Through(T.nnet.relu, lambda z, g: g ** 2))(z)
        with pytest.raises(NotImplementedError, match='relu.*not linear'):
            theano.Rop(y, z, v)


def test_rop_of_an_affine_override_is_an_error_at_run_time():
    z, v = T.fmatrices('zv')
    y = Through(T.nnet.relu, lambda z, g: g + 1)(z)
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY)
    with pytest.raises(AssertionError, match='relu.*not linear'):
        f(Z, W)
    y = Through(T.nnet.relu, lambda z, g: g + .5)(z)  # and with <1, v> = 0
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY)
    with pytest.raises(AssertionError, match='relu.*not linear'):
        f(Z, W - W.mean())


@pytest.mark.parametrize('rule', [
    lambda z, g: T.sgn(g), lambda z, g: T.round(g), lambda z, g: T.sgn(g) + g,
    lambda z, g: z * (g > 0), lambda z, g: T.switch(g > 0, z, 0.),
    lambda z, g: theano.gradient.disconnected_grad(g) * 3,
    lambda z, g: theano.gradient.grad_scale(g, 5) * 3])
def test_rop_of_what_theano_takes_for_constant_is_an_error(rule):
    z, v = T.fmatrices('zv')
    y = Through(T.nnet.relu, rule)(z)
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY,
                        on_unused_input='ignore')
    with pytest.raises(AssertionError, match='relu.*not linear'):
        f(Z, W)


@pytest.mark.parametrize('f', [
    T.nnet.softmax, lambda z: T.nnet.softmax(100 * z), lambda z: z - z.mean(0)])
def test_rop_where_only_roundings_are_left(f):
    z, v = T.fmatrices('zv')
    y = override_gradient(f, lambda inputs, gs, true_grads: true_grads)(z)
    rop = theano.function([z, v], theano.Rop(y, z, v), mode=PY)
    rng = np.random.RandomState(0)
    for shape in (1, 10), (4, 10), (0, 3):
        for along in (1, 1), (1, shape[1]), (shape[0], 1), shape:
            a = rng.randn(*shape).astype('float32')
            b = np.broadcast_to(rng.randn(*along), shape).astype('float32')
            assert abs(rop(a, b)).max(initial=0) < 100


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('broadcastable', [(), (True,), (True, False),
                                           (False, True), (False,) * 4])
def test_rop_of_any_type(dtype, broadcastable):
    z, v = (T.TensorType(dtype, broadcastable)(name) for name in 'zv')
    with theano.configparser.change_flags(
            floatX=dtype,
            warn_float64='ignore' if dtype == 'float64' else 'raise'):
        y = Through(T.tanh, lambda z, g: g * 3)(z)
        forward = theano.Rop(y, z, v)
    f = theano.function([z, v], forward, mode=PY)
    shape = [1 if b else 2 for b in broadcastable]
    a = np.random.RandomState(0).randn(2, *shape).astype(dtype)
    np.testing.assert_allclose(f(*a), 3 * a[1], rtol=1e-3)


def test_rop_at_a_pole():
    z, v = T.fvectors('zv')
    y = Through(T.sqrt, lambda z, g: g / T.sqrt(z))(z)
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY)
    np.testing.assert_array_equal(
        f(np.float32([0, 4]), np.float32([1, 3])), [np.inf, 1.5])


def test_rop_with_respect_to_captured_variables_is_the_true_one():
    z, v = T.fmatrices('zv')
    a, va = T.fvectors('a', 'va')
    k = T.lscalar('k')

    def f(z):
        return T.switch(z > 0, z, a * z) * k
    y = ZeroBackprop(f)(z)
    got = theano.function([z, a, va, k], theano.Rop(y, a, va), mode=PY)
    A, VA = np.float32([.1, .2, .3]), np.float32([1, 2, 3])
    np.testing.assert_allclose(
        got(Z, A, VA, 2), np.where(Z > 0, 0, VA * Z) * 2, rtol=1e-6)
    both = theano.function(
        [z, a, v, va, k], theano.Rop(Times(f, 3)(z), [z, a], [v, va]), mode=PY)
    np.testing.assert_allclose(
        both(Z, A, W, VA, 2), 3 * W + np.where(Z > 0, 0, VA * Z) * 2,
        rtol=1e-6)


def test_rop_through_other_operations():
    z, v = T.fmatrices('zv')
    y = T.exp(Times(T.nnet.relu, 3)(z * 2))
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY)
    np.testing.assert_allclose(
        f(Z, W), np.exp(np.maximum(2 * Z, 0)) * 3 * 2 * W, rtol=1e-6)


def test_rop_past_an_input_that_has_no_direction():
    z, v = T.fmatrices('zv')
    stopped = theano.gradient.disconnected_grad(z)
    product = override_gradient(lambda a, b: a * b, lambda inputs, gs: [
        2 * gs[0] * inputs[1], 3 * gs[0] * inputs[0]])
    for a, b, factor in (stopped, z, 3), (z, stopped, 2), (z, z, 5):
        f = theano.function([z, v], theano.Rop(product(a, b), z, v), mode=PY)
        np.testing.assert_allclose(f(Z, W), factor * Z * W)
    with pytest.raises(ValueError):  # Theano's, whose words vary
        theano.Rop(product(stopped, stopped), z, v)


def test_rop_past_what_the_gradient_alone_refers_to():
    z, v = T.fmatrices('zv')
    slope, direction = T.fscalars('slope', 'direction')
    y = Through(T.nnet.relu, lambda z, g: g * slope)(z)
    f = theano.function(
        [z, v, slope, direction],
        theano.Rop(y, [z, slope], [v, direction]), mode=PY,
        on_unused_input='ignore')
    np.testing.assert_allclose(f(Z, W, 3, 100), 3 * W)


def test_rop_past_what_has_no_direction_inside():
    z, v = T.fmatrices('zv')
    captured = theano.gradient.disconnected_grad(z)
    y = Through(lambda z: z * captured, lambda z, g: 3 * g)(z)
    f = theano.function([z, v], theano.Rop(y, z, v), mode=PY,
                        on_unused_input='ignore')
    np.testing.assert_array_equal(f(Z, W), 3 * W)


def test_rop_of_a_filled_override_is_an_error():
    z, v = T.fmatrices('zv')
    y = Through(T.nnet.relu, lambda z, g: T.fill(z, g.sum() ** 2))(z)
    with pytest.raises(NotImplementedError, match='not linear'):
        theano.Rop(y, z, v)


def test_rop_under_test_values():
    z, v = T.fmatrices('zv')
    z.tag.test_value, v.tag.test_value = Z, W
    with theano.configparser.change_flags(compute_test_value='raise'):
        forward = theano.Rop(Times(T.nnet.relu, 3)(z), z, v)
    np.testing.assert_array_equal(forward.tag.test_value, 3 * W)


def test_rop_past_integers():
    z, v = T.fmatrices('zv')
    n = T.lmatrix('n')
    y = override_gradient(lambda a, i: a * i, lambda inputs, gs: [
        gs[0] * inputs[1] * 5, None])(z, n)
    f = theano.function([z, n, v], theano.Rop(y, z, v), mode=PY,
                        on_unused_input='ignore')
    N = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(f(Z, N, W), 5 * W * N)
