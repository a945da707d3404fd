"""The contract of `grad`, on any tensor type, any floats and random graphs.

A few examples are drawn here, the same in each run. For a longer one:

    GRADMOD_EXAMPLES=1000 python -m pytest tests/test_contract.py
"""
import os
from collections import namedtuple
from functools import lru_cache

import numpy as np
import theano
import theano.tensor as T
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gradmod
from gradmod._theano import change_flags

from . import reference

EXAMPLES = int(os.environ.get('GRADMOD_EXAMPLES', 0))


def examples(default):
    return settings(
        max_examples=EXAMPLES or default, derandomize=not EXAMPLES,
        deadline=None, database=None,
        suppress_health_check=[
            HealthCheck.too_slow, HealthCheck.data_too_large,
            HealthCheck.filter_too_much])


# Any type, any floats

BITS = {'float16': np.uint16, 'float32': np.uint32, 'float64': np.uint64}


def arrays(pattern, dtype, count, seed):
    """Arrays of one shape, forwards or backwards in memory.

    Half of the values are special ones, half are any pattern of bits.
    """
    rng = np.random.RandomState(seed)
    longest = int(200 ** (1 / max(pattern.count(False), 1.)))
    shape = tuple(1 if b else rng.randint(1, longest + 1) * (rng.rand() > .05)
                  for b in pattern)
    step = (slice(None, None, rng.choice([1, -1])),) * len(shape)

    def draw():
        anything = rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        values = np.frombuffer(anything, BITS[dtype]).reshape(shape)
        special = reference.special(dtype).view(BITS[dtype])
        values = np.where(rng.rand(*shape) < .5, values,
                          rng.choice(special, shape))
        return np.asarray(values, BITS[dtype]).view(dtype)[step]
    return [draw() for _ in range(count)]


seeds = st.integers(0, 2 ** 32 - 2)
dtypes = st.sampled_from(['float16', 'float32', 'float64'])
patterns = st.lists(st.booleans(), max_size=5).map(tuple)


def exactly_equal(got, want):
    """The same bits, but for NaN: which one a sum of two NaN is depends, in
    numpy as in C, on where in memory they are.
    """
    assert got.dtype == want.dtype and got.shape == want.shape
    bits = BITS[str(got.dtype)]
    same = got.view(bits) == want.view(bits)
    np.testing.assert_array_equal(same | np.isnan(got) & np.isnan(want), True,
                                  '%s\n%s' % (got, want))


def first_of_product(inputs, out_grads):
    (x, y), (g,) = inputs, out_grads
    return [T.switch(y > 0, g, x), None]


RULES = [(gradmod.GuidedBackprop, T.nnet.relu, reference.guided),
         (gradmod.DeconvNet, lambda z: T.maximum(z, 0), reference.deconv),
         (gradmod.ZeroBackprop, T.tanh, reference.zero)]


@change_flags(cxx='')
@lru_cache(maxsize=None)
def compiled(dtype, pattern):
    """The plain values, and the values and the gradients of all rules."""
    type = T.TensorType(dtype, pattern)
    z, y, g = type('z'), type('y'), type('g')
    values = [rule(f)(z) for rule, f, _ in RULES]
    two = gradmod.override_gradient(
        lambda x, y: x * y, first_of_product)(z, y)
    gradients = [theano.grad(None, z, known_grads={v: g}) for v in values]
    gradients += theano.grad(None, [z, y], known_grads={two: g})
    mode = theano.Mode('py', 'fast_compile')
    return (theano.function([z, y], [f(z) for _, f, _ in RULES] + [z * y],
                            mode=mode),
            theano.function([z, y, g], values + [two] + gradients, mode=mode))


@examples(100)
@given(dtypes, patterns, seeds)
def test_any_type_and_any_floats(dtype, pattern, seed):
    plain, overridden = compiled(dtype, pattern)
    z, y, g = arrays(pattern, dtype, 3, seed)
    with np.errstate(all='ignore'):
        want = plain(z, y) + [reference.elementwise(rule, z, g)
                              for _, _, rule in RULES]
        want += [np.where(y > 0, g, z), np.asarray(g * z)]
        got = overridden(z, y, g)
    assert len(got) == len(want)
    for one, other in zip(got, want):
        exactly_equal(one, other)


# Random graphs. All numbers are integers or halves of them, so that float64
# holds each sum and product exactly, and gates see zeros and ties as they are.

SAMPLES, UNITS = 2, 3
# A step of a graph in two forms. `build` makes the result of Theano variables
# (one or two matrices, and the parameters), `forward` of numpy arrays.
# `backward` takes the arrays and the gradient g with respect to the result to
# gradients with respect to the matrices, and to parameters by name.
Step = namedtuple('Step', 'inputs build forward backward')


def gate(rule):
    return lambda z, p, g: ([reference.elementwise(rule, z, g)], {})


DECONV = gradmod.DeconvNet(T.nnet.relu)
GUIDED = gradmod.GuidedBackprop(lambda z: 2 * DECONV(z) - z)
SUB, MUL = (lambda x, y, p: x - y), (lambda x, y, p: x * y)
DOT = lambda z, p: z.dot(p['W'])
STEPS = {
    'sub': Step(2, SUB, SUB, lambda x, y, p, g: ([g, -g], {})),
    'mul': Step(2, MUL, MUL, lambda x, y, p, g: ([g * y, g * x], {})),
    'dot': Step(1, DOT, DOT, lambda z, p, g: ([g.dot(p['W'].T)],
                                              {'W': z.T.dot(g)})),
    'deconv': Step(1, lambda z, p: DECONV(z), lambda z, p: reference.relu(z),
                   gate(reference.deconv)),
    'nested': Step(1, lambda z, p: GUIDED(z), lambda z, p: abs(z),
                   gate(reference.guided)),
    # parameters, and other variables, that the rule does not see
    'prelu': Step(1, lambda z, p: gradmod.GuidedBackprop(
                      lambda z: T.switch(z > 0, z, p['slope'] * z))(z),
                  lambda z, p: np.where(z > 0, z, p['slope'] * z),
                  lambda z, p, g: (gate(reference.guided)(z, p, g)[0], {
                      'slope': np.where(z > 0, 0, g * z).sum(axis=0)})),
    'captured': Step(
        2, lambda x, y, p: gradmod.DeconvNet(lambda x: x * y)(x), MUL,
        lambda x, y, p, g: ([reference.relu(g), g * x], {}))}
PRODUCTS = 'mul', 'captured'
steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9),
                           st.integers(0, 9)), min_size=1, max_size=8).filter(
                # Theano multiplies them all out
                lambda program: sum(name in PRODUCTS
                                    for name, *_ in program) < 4)
small = st.integers(-3, 3)


def run(program, z, shared, x, params, weights):
    """The nodes of a graph, z and the result of each step of the program, in
    Theano and in numpy; the gradients, by x and the parameters, of the sum of
    the nodes times weights.
    """
    nodes, arrays, places = [z], [x], []
    for name, *picks in program:
        step = STEPS[name]
        places.append([len(nodes) - 1 - i % len(nodes)
                       for i in picks[:step.inputs]])
        nodes.append(step.build(*[nodes[i] for i in places[-1]], shared))
        arrays.append(step.forward(*[arrays[i] for i in places[-1]], params))
    gradients = [w * np.ones_like(x) for w in weights]
    of_params = {k: np.zeros_like(v) for k, v in params.items()}
    for n in range(len(program), 0, -1):
        inputs = places[n - 1]
        to_inputs, to_params = STEPS[program[n - 1][0]].backward(
            *[arrays[i] for i in inputs], params, gradients[n])
        for i, gradient in zip(inputs, to_inputs):
            gradients[i] = gradients[i] + gradient
        for k, gradient in to_params.items():
            of_params[k] = of_params[k] + gradient
    return nodes, arrays, [gradients[0]] + [of_params[k] for k in params]


@change_flags(cxx='')
@examples(40)
@given(steps, st.data(), st.sampled_from(['fast_run', 'fast_compile', None]))
def test_random_graphs(program, data, optimizer):
    def draw(*shape):
        size = int(np.prod(shape))
        return np.reshape(data.draw(st.lists(
            small, min_size=size, max_size=size)), shape).astype(float)
    x, weights = draw(SAMPLES, UNITS), draw(1 + len(program), 1)
    params = {'W': draw(UNITS, UNITS), 'slope': draw(UNITS)}
    shared = {k: theano.shared(v) for k, v in params.items()}
    z = T.dmatrix('z')
    nodes, arrays, gradients = run(program, z, shared, x, params, weights)
    want = arrays + gradients
    assume(max(abs(v).max() for v in want) < 2 ** 40)  # else not exact
    cost = sum((w * v).sum() for (w,), v in zip(weights, nodes))
    overridden = theano.grad(cost, [z] + list(shared.values()),
                             disconnected_inputs='ignore')
    f = theano.function([z], nodes + overridden,
                        mode=theano.Mode('py', optimizer))
    got = f(x)
    assert len(got) == len(want)
    for i, (one, other) in enumerate(zip(got, want)):
        np.testing.assert_array_equal(one, other, str(i))
