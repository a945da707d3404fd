"""Every way in which a gradient is taken, every mode, every type: the matrix.

Each test compares values with a restatement in numpy. All ways are taken with
guided backpropagation and with a rule that carries a shared and a symbolic
parameter; all modes with guided backpropagation. Elsewhere:

- all rules in one mode, layouts in memory, what is done in place, literals
  that do not upcast: test_rules, test_field_rules;
- functions of two variables, integers, captured variables, pickles, threads,
  test values, `None` and disconnected gradients: test_base;
- modes without the rewrite, Rop, known_grads of other types: test_op;
- all types, infinity, NaN, subnormal numbers and random graphs: test_contract;
- leaks: test_memory; another device: tests/device.
"""
import copy
import pickle
import subprocess
import sys
import types
from collections import OrderedDict

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.compile.debugmode import DebugMode
from theano.compile.nanguardmode import NanGuardMode

import gradmod
from gradmod import DeconvNet, GuidedBackprop, ModifiedBackprop
from gradmod._theano import OpFromGraph, change_flags

from . import reference
from .conftest import ROOT
from .models import PY
from .test_op import is_opaque

relu = lasagne.nonlinearities.rectify
SLOPE, FACTOR = .25, 1.5


# The rules: what each is in Theano, and a restatement in numpy

class Parametric:
    """A leaky rectifier times a factor; `slope` is shared."""

    def __init__(self, dtype):
        self.slope = theano.shared(np.asarray(SLOPE, dtype), 'slope')
        self.factor = T.scalar('factor', dtype)
        self.factor.tag.test_value = np.asarray(FACTOR, dtype)

    def __call__(self, z):
        return T.switch(z > 0, z, self.slope * z) * self.factor


class Carrying(ModifiedBackprop):
    """g (factor + slope z), of the parameters of the nonlinearity."""

    def grad(self, inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        f = self.nonlinearity
        return (g * (f.factor + f.slope * z),)


class Case(types.SimpleNamespace):
    """F(z, u) = rule(z) u. The rule's gradient is R(z, g), for f(z).

    `by_z` and `by_g` are the derivatives of R.
    """

    def value(self, z, u):
        return self.f(z) * u

    def gradients(self, z, u, g):
        return [self.R(z, g * u), self.f(z) * g] + self.by_parameters(z, g * u)

    def second(self, z, u, g, v):
        """The derivatives of <R(z, g u), v> with respect to z, u and g."""
        by_g = self.by_g(z, g * u) * v
        return self.by_z(z, g * u) * v, by_g * g, by_g * u


CASES = {
    'guided': Case(
        new=lambda dtype: GuidedBackprop(relu), f=reference.relu,
        R=lambda z, g: reference.elementwise(reference.guided, z, g),
        by_z=lambda z, g: 0 * z, by_g=lambda z, g: (z > 0) & (g > 0),
        by_parameters=lambda z, g: []),
    'carrying': Case(
        new=lambda dtype: Carrying(Parametric(dtype)),
        f=lambda z: np.where(z > 0, z, SLOPE * z) * FACTOR,
        R=lambda z, g: g * (FACTOR + SLOPE * z),
        by_z=lambda z, g: g * SLOPE, by_g=lambda z, g: FACTOR + SLOPE * z,
        by_parameters=lambda z, g: [
            (g * FACTOR * np.where(z > 0, 0, z)).sum(),
            (g * np.where(z > 0, z, SLOPE * z)).sum()])}
TOLERANCE = {'float32': 2e-4, 'float64': 1e-9}


def same(got, want, dtype):
    """Arrays of `dtype`, one by one equal to those of a list."""
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.dtype == dtype and a.shape == np.shape(b)
        scale = max(np.abs(b).max(), 1)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * scale)


def numbers(dtype, *shapes):
    rng = np.random.RandomState(0)
    return [rng.uniform(-2, 2, shape).astype(dtype) for shape in shapes]


class Problem:
    """y = F(x a, u) and cost = sum(c y), with values for all."""

    def __init__(self, case, dtype, mode):
        self.case, self.dtype, self.mode = CASES[case], dtype, mode
        self.X, self.U, self.C, self.V, self.A = numbers(
            dtype, (4, 3), (4, 5), (4, 5), (4, 3), (3, 5))
        self.Z = self.X.dot(self.A)
        self.x, self.u, self.c, self.v = (T.matrix(n, dtype) for n in 'xucv')
        self.a = theano.shared(self.A, 'a')
        self.rule = self.case.new(dtype)
        f = self.rule.nonlinearity
        self.parameters = [] if f is relu else [f.slope, f.factor]
        self.values = {
            self.x: self.X, self.u: self.U, self.c: self.C, self.v: self.V}
        for variable, value in self.values.items():
            variable.tag.test_value = value
        for parameter in self.parameters[1:]:
            self.values[parameter] = np.asarray(FACTOR, dtype)
        self.z = T.dot(self.x, self.a)
        self.y = self.F(self.z, self.u)
        self.cost = (self.c * self.y).sum()
        self.wrt = [self.x, self.u] + self.parameters
        self.want = [self.case.value(self.Z, self.U)] + self.gradients()

    def F(self, z, u):
        return self.rule(z) * u

    def function(self, outputs, inputs=None, **kwargs):
        return theano.function(
            list(self.values) if inputs is None else inputs, outputs,
            mode=self.mode, on_unused_input='ignore', **kwargs)

    def check(self, outputs, want, more=(), **kwargs):
        """Compile and compare; `more` values, or None for those left out."""
        values = {k: v for k, v in {**self.values, **dict(more)}.items()
                  if v is not None}
        f = self.function(list(outputs), list(values), **kwargs)
        same(f(*values.values()), want, self.dtype)

    def gradients(self, g=None, x=None):
        """By numpy, with respect to x, u and the parameters."""
        dz, *others = self.case.gradients(
            (self.X if x is None else x).dot(self.A), self.U,
            self.C if g is None else g)
        return [dz.dot(self.A.T)] + others

    def second(self, z, u, c, v):
        """By numpy: what <dz, v> is differentiated to, for c y^2 / 2.

        With respect to z, u and c.
        """
        y = self.case.value(z, u)
        by_z, by_u, by_g = self.case.second(z, u, c * y, v)
        through = self.case.gradients(z, u, c * by_g)  # g = c y
        return by_z + through[0], by_u + through[1], by_g * y


# The ways

def several_wrt(p):
    p.check([p.y] + theano.grad(p.cost, p.wrt), p.want)
    dz = p.case.gradients(p.Z, p.U, p.C)[0]
    p.check(theano.grad(p.cost, [p.z, p.a]), [dz, p.X.T.dot(dz)])


def jacobian(p):
    rows = [p.gradients(np.eye(4)[:, [1]] * g) for g in np.eye(5)]
    p.check(theano.gradient.jacobian(p.y[1], p.wrt),
            [np.array(column) for column in zip(*rows)])


def hessian(p):
    x = T.vector('x', p.dtype)
    y = p.F(T.dot(x, p.a), p.u[0])
    cost = (p.c[0] * y ** 2).sum() / 2
    want = [p.second(p.X[0].dot(p.A), p.U[0], p.C[0], column)[0].dot(p.A.T)
            for column in p.A]
    p.check([theano.gradient.hessian(cost, x)], [want], {x: p.X[0]})


def second_order(p):
    """What the gradient by x of c y^2 / 2 is differentiated to; by numpy."""
    first = theano.grad((p.c * p.y ** 2).sum() / 2, p.x)
    by_z, by_u, by_c = p.second(p.Z, p.U, p.C, p.V.dot(p.A))
    return (theano.grad((first * p.v).sum(), [p.x, p.u, p.c],
                        disconnected_inputs='ignore'),  # zeros do not depend
            [by_z.dot(p.A.T), by_u, by_c])


def grad_of_grad(p):
    p.check(*second_order(p))


def lop(p):
    p.check(theano.Lop(p.y, p.wrt, p.c), p.gradients())


def known_grads(p):
    p.check(theano.grad(None, p.wrt, known_grads={p.y: p.c}), p.gradients())
    # beside a cost, and of two variables on one path
    dx, du = theano.grad((p.x ** 2).sum(), [p.x, p.u], known_grads=OrderedDict(
        [(p.y, p.c), (p.z, 3 * p.z)]))
    p.check([dx, du], [2 * p.X + 3 * p.Z.dot(p.A.T), p.gradients()[1]])


def consider_constant(p):
    cost = p.cost + (p.x ** 2).sum()
    gradients = theano.grad(cost, p.wrt, consider_constant=[p.z])
    p.check(gradients, [2 * p.X] + p.gradients()[1:])
    cost = (p.x ** 2).sum()
    for stop in theano.gradient.zero_grad, theano.gradient.disconnected_grad:
        gradient = theano.grad(cost + (p.c * stop(p.y)).sum(), p.x)
        p.check([gradient], [2 * p.X])


def subgraph_grad(p):
    du, dz = theano.subgraph_grad([p.u], [p.z], cost=p.cost)
    da, dx = theano.subgraph_grad([p.a], [p.x], start=dict(zip([p.z], dz)),
                                  cost=(p.a ** 2).sum())
    want = p.case.gradients(p.Z, p.U, p.C)
    p.check(du + dz + da + dx,
            [want[1], want[0], p.X.T.dot(want[0]) + 2 * p.A,
             want[0].dot(p.A.T)])


def clone(p):
    # of the expression, and of its gradient
    other = T.matrix('other', p.dtype)
    y = theano.clone(p.y, {p.x: 2 * other})
    dx, du = theano.grad((p.c * y).sum(), [other, p.u])
    want = p.gradients(x=2 * p.X)
    more = [(p.x, None), (other, p.X)]
    p.check([dx, du], [2 * want[0], want[1]], more)
    gradients = theano.clone(theano.grad(p.cost, p.wrt), {p.x: 2 * other})
    p.check(gradients, want, more)
    # without a single input in common
    copies = theano.clone([p.y, p.cost] + list(p.values), share_inputs=False)
    f = p.function([theano.grad(copies[1], copies[2])], copies[2:])
    same(f(*p.values.values()), p.gradients()[:1], p.dtype)


def givens(p):
    shared = theano.shared(2 * p.X)
    p.check(theano.grad(p.cost, p.wrt), p.gradients(x=2 * p.X),
            {p.x: None}, givens={p.x: shared})
    dz = theano.grad(p.cost, p.z)
    p.check([dz], [p.case.gradients(p.Z - 1, p.U, p.C)[0]],
            givens={p.z: T.dot(p.x, p.a) - 1})
    for slope in p.parameters[:1]:
        p.check([p.y], [p.U * FACTOR * np.where(p.Z > 0, p.Z, p.Z / 2)],
                givens={slope: slope * 2})


def updates(p):
    # two steps of gradient descent
    da = theano.grad(p.cost, p.a)
    f = p.function([p.y], updates=[(p.a, p.a - da / 4)])
    a = p.A
    for _ in range(2):
        z = p.X.dot(a)
        same(f(*p.values.values()), [p.case.value(z, p.U)], p.dtype)
        a = a - p.X.T.dot(p.case.gradients(z, p.U, p.C)[0]) / 4
        same([p.a.get_value()], [a], p.dtype)


def twice(p):
    # nodes that merge: of one rule, and of a network that is built anew
    again = p.F(p.z, p.u) + p.F(T.dot(p.x, p.a), p.u)
    gradients = theano.grad((p.c * (again + p.y)).sum(), p.wrt)
    p.check(gradients, [3 * g for g in p.gradients()])


def nested(p):
    # the outer rule's true gradients are those of the rule within
    outer = gradmod.override_gradient(
        lambda z, u: p.F(z, u), lambda i, g, true_grads: [
            2 * t for t in true_grads])
    gradients = theano.grad((p.c * outer(p.z, p.u)).sum(), p.wrt)
    want = p.gradients()
    p.check(gradients[:2], [2 * g for g in want[:2]])
    # what it does not override, but refers to, keeps its gradient
    outer = DeconvNet(lambda z: p.F(z, p.u))
    gradients = theano.grad((p.c * outer(p.z)).sum(), p.wrt)
    p.check(gradients, [np.maximum(p.C, 0).dot(p.A.T)] + want[1:])


def inside_op_from_graph(p):
    inputs = [p.x, p.u] + p.parameters[1:]
    for options in {}, {'inline': True}:
        op = OpFromGraph(inputs, [p.y], **options)
        y = op(*inputs)
        got = theano.grad((p.c * y).sum(), inputs)
        p.check([y] + got, [w for v, w in zip([p.y] + p.wrt, p.want)
                            if v in [p.y] + inputs])


# Loops

def loop(p, truncate=-1, backwards=False):
    """By numpy: h = F(x a + h, u), over the rows, and gradients of c h."""
    order = list(range(4))[::-1] if backwards else list(range(4))
    h, zs, hs = np.zeros(5), [], []
    for t in order:
        zs.append(p.X[t].dot(p.A) + h)
        h = p.case.value(zs[-1], p.U[t])
        hs.append(h)
    dx, du, g = np.zeros((4, 3)), np.zeros((4, 5)), np.zeros(5)
    parameters = np.zeros(len(p.parameters))
    for i in range(4)[::-1][:truncate if truncate > 0 else 4]:
        t = order[i]
        dz, du[t], *more = p.case.gradients(zs[i], p.U[t], g + p.C[i])
        dx[t], g = dz.dot(p.A.T), dz
        parameters += more
    return [np.array(hs), dx, du] + list(parameters)


def scan(p, **kwargs):
    h, _ = theano.scan(
        lambda x, u, h, *_: p.F(T.dot(x, p.a) + h, u),
        sequences=[p.x, p.u], outputs_info=T.zeros((5,), p.dtype), **kwargs)
    return [h] + theano.grad((p.c * h).sum(), p.wrt)


def in_scan(p):
    p.check(scan(p), loop(p))
    p.check(scan(p, non_sequences=[p.a] + p.parameters, strict=True), loop(p))
    p.check(scan(p, truncate_gradient=3), loop(p, 3))
    p.check(scan(p, go_backwards=True), loop(p, backwards=True))


def in_nested_scan(p):
    def row(x, u, c):
        h, _ = theano.scan(lambda z, u: p.F(z, u),
                           sequences=[T.dot(x, p.a), u])
        return (c * h).sum()
    costs, _ = theano.scan(row, sequences=[p.x, p.u, p.c])
    p.check(theano.grad(costs.sum(), p.wrt), p.gradients())


def gradient_within_scan(p):
    # the step takes a gradient, and so does what is outside
    def step(x, u, c):
        return theano.grad((c * p.F(T.dot(x, p.a), u) ** 2).sum() / 2, x)
    dx, _ = theano.scan(step, sequences=[p.x, p.u, p.c])
    second = theano.grad((dx * p.v).sum(), [p.x, p.u],
                         disconnected_inputs='ignore')
    p.check([dx] + second, [p.gradients(p.C * p.case.value(p.Z, p.U))[0],
                            *second_order(p)[1][:2]])


WHOLE = theano.Mode('py', None)
C = theano.Mode('cvm', 'fast_run')
MODES = {
    'FAST_RUN': 'FAST_RUN', 'FAST_COMPILE': 'FAST_COMPILE',
    'NanGuardMode': 'NanGuardMode',
    'DebugMode py': DebugMode(check_c_code=False, stability_patience=1),
    'NanGuardMode None': NanGuardMode(True, True, True, optimizer=None),
    **{' '.join(map(str, names)): theano.Mode(*names) for names in [
        ('py', 'fast_run'), ('py', None), ('py', 'o3'), ('py', 'unsafe'),
        ('c', 'fast_run'), ('c|py', 'fast_run'), ('c|py', None),
        ('c|py_nogc', 'o2'), ('vm', 'fast_run'), ('vm', None),
        ('vm_nogc', 'fast_run_stable'), ('cvm', None), ('cvm', 'merge'),
        ('cvm_nogc', 'stabilize')]}}


@pytest.mark.parametrize('way', [
    several_wrt, jacobian, hessian, grad_of_grad, lop, known_grads,
    consider_constant, subgraph_grad, clone, givens, updates,
    twice, nested, inside_op_from_graph, in_scan, in_nested_scan,
    gradient_within_scan], ids=lambda way: way.__name__)
@pytest.mark.parametrize('case, dtype, mode', [
    ('guided', 'float64', PY), ('carrying', 'float32', WHOLE)])
@pytest.mark.usefixtures('no_compiler')
def test_ways(way, case, dtype, mode, monkeypatch):
    monkeypatch.setattr(  # that of what is within loops
        theano.compile.mode, 'instantiated_default_mode', mode)
    way(Problem(case, dtype, mode))


@pytest.mark.slow
def test_scan_in_c():
    p = Problem('carrying', 'float32', C)
    p.check(scan(p), loop(p))


@pytest.mark.parametrize('mode', [
    mode if mode.startswith(('FAST', 'py', 'Debug'))
    else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES])
def test_modes(mode):
    p = Problem('guided', 'float32', MODES[mode])
    f = p.function([p.y] + theano.grad(p.cost, p.wrt))
    same(f(*p.values.values()), p.want, 'float32')
    assert is_opaque(f) == (mode.split()[-1] in ('None', 'merge',
                                                 'fast_run_stable'))


# Test values and other settings

@pytest.mark.parametrize('case, setting', [('carrying', 'raise'),
                                           ('guided', 'warn')])
@pytest.mark.usefixtures('no_compiler')
def test_test_values(setting, case, recwarn):
    with change_flags(compute_test_value=setting):
        p = Problem(case, 'float64', PY)
        second, by_numpy = second_order(p)
        got = [p.y] + theano.grad(p.cost, p.wrt) + second
        got += scan(p, truncate_gradient=2)
        rows = theano.gradient.jacobian(p.y[1], p.x)
    same([v.tag.test_value for v in got],
         p.want + by_numpy + loop(p, 2), 'float64')
    same(rows.tag.test_value, [p.gradients(np.eye(4)[:, [1]] * g)[0]
                               for g in np.eye(5)], 'float64')
    assert not [w for w in recwarn if 'test value' in str(w.message)]


# Lasagne's loops

@pytest.mark.parametrize('options', [
    {}, {'gradient_steps': 2, 'backwards': True}, {'unroll_scan': True}],
    ids=lambda options: ''.join(options) or 'plain')
@pytest.mark.parametrize('layer', ['Recurrent', 'LSTM', 'GRU'])
@pytest.mark.usefixtures('no_compiler')
def test_lasagne_loops(layer, options):
    # a rule that Theano has as a function, too
    random = lasagne.init.Normal(.7)

    def gradient(f):
        lasagne.random.set_rng(np.random.RandomState(0))
        x = T.tensor3('x', 'float64')
        gate = lasagne.layers.Gate(random, random, None, random, f)
        net = getattr(lasagne.layers, layer + 'Layer')(
            lasagne.layers.InputLayer((2, 4, 3), input_var=x), 2, **options,
            **{'Recurrent': {'nonlinearity': f, 'W_in_to_hid': random},
               'LSTM': {'cell': gate, 'nonlinearity': f},
               'GRU': {'hidden_update': gate}}[layer])
        out = lasagne.layers.get_output(net)
        X, G = numbers('float64', (2, 4, 3), (2, 4, 2))
        return theano.function([x], [out, theano.grad((out * G).sum(), x)],
                               mode=PY)(X)
    want = gradient(lambda z: theano.gradient.grad_scale(T.tanh(z), -3))
    same(gradient(gradmod.GradientReversal(T.tanh, factor=3)), want, 'float64')
    assert abs(want[1] - gradient(T.tanh)[1]).max() > .1


# Copies, pickles, processes

def check_things(things):
    functions, expression = things
    p = Problem('carrying', 'float64', PY)
    for f in functions + [theano.function(*expression, mode=PY,
                                          on_unused_input='ignore')]:
        same(f(*p.values.values()), p.want, 'float64')


def test_copies(tmp_path):
    functions, path = [], tmp_path / 'things'
    for mode in PY, WHOLE:
        p = Problem('carrying', 'float64', mode)
        outputs = [p.y] + theano.grad(p.cost, p.wrt)
        functions.append(p.function(outputs))
    things = functions, (list(p.values), outputs)
    path.write_bytes(pickle.dumps(things, pickle.HIGHEST_PROTOCOL))
    for copied in pickle.loads(path.read_bytes()), copy.deepcopy(things):
        check_things(copied)
    subprocess.check_call([
        sys.executable, '-c', 'import gradmod, pickle, sys\n'
        'sys.path.insert(0, sys.argv[1])\n'
        'from tests.test_matrix import check_things\n'
        'check_things(pickle.load(open(sys.argv[2], "rb")))', ROOT, str(path)])
