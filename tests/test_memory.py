"""Wrappers and graphs that are dropped leave nothing behind."""
import gc
import json
import subprocess
import sys
import weakref
from collections import Counter

import gradmod

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer, get_output

from .conftest import ROOT
from .models import PY

ROUNDS = 100  # of four wrappers each


class Keeper:
    """What lives on while wrappers come and go, and might hold them."""

    def __init__(self):
        self.x = T.dmatrix('x')
        self.slope = theano.shared(np.ones(3))
        self.net = DenseLayer(InputLayer((None, 3), self.x), 3,
                              nonlinearity=T.nnet.relu)
        self.rule = gradmod.GuidedBackprop(T.nnet.relu)
        self.plain = T.maximum(self.x, 0) * self.slope

    def round(self, i):
        """Build and drop; weak references to what should be gone then."""
        x = self.x
        parametric = lambda z: T.switch(z > 0, z, self.slope * z)
        rules = [gradmod.GuidedBackprop(parametric),
                 gradmod.GradientReversal(
                     lambda z: gradmod.DeconvNet(T.tanh)(z) + z, factor=2),
                 gradmod.override_gradient(
                     lambda z: z * x, lambda inputs, out_grads, true_grads:
                     [T.clip(true_grads[0], -1, 1)]),
                 gradmod.DeconvNet(T.tanh)]
        values = [rule(x) for rule in rules] + [self.rule(x)]
        with gradmod.modified(self.net, lambda f: rules[0]) as report:
            values.append(get_output(self.net))
        values.append(gradmod.override_in(self.plain, gradmod.DeconvNet)[0])
        cost = sum(v.sum() for v in values)
        gradients = theano.grad(cost, [x, self.slope])
        second = theano.grad(gradients[0].sum(), x,
                             disconnected_inputs='ignore')
        gone = rules + values + gradients + [second, report, parametric]
        gone += [op for rule in rules for op in rule.ops.values()]
        if i % 10 == 0:
            gone.append(theano.function([x], [cost] + gradients, mode=PY))
            gone[-1](np.ones((2, 3)))
        if i % 40 == 0:
            gone.append(gradmod.compile_saliency_function(
                values[0], input_var=x, mode=PY))
            gone[-1](np.ones((2, 3)))
        return [weakref.ref(v) for v in gone]


def measure():
    """What is left of `ROUNDS` rounds, after some to fill what is cached."""
    keeper = Keeper()

    def rounds(n):
        references = sum((keeper.round(i) for i in range(n)), [])
        gc.collect()
        built = len(references)
        alive = [repr(r()) for r in references if r() is not None]
        del references
        blocks = sys.getallocatedblocks()  # before what follows needs some
        kinds = Counter(f'{type(o).__module__}.{type(o).__name__}'
                        for o in gc.get_objects())
        return built, alive, blocks, kinds
    rounds(11)
    _, _, blocks_before, kinds_before = rounds(11)
    built, alive, blocks, kinds = rounds(ROUNDS)
    print(json.dumps({
        'built': built, 'alive': alive, 'more blocks': blocks - blocks_before,
        'more objects': {k: n - kinds_before[k] for k, n in kinds.items()
                         if n - kinds_before[k] > ROUNDS // 10}}))


@pytest.mark.slow
def test_hundreds_of_wrappers_and_graphs():
    # in a process of its own, where nobody else builds anything
    out = subprocess.check_output(
        [sys.executable, '-c', 'from tests.test_memory import measure; '
         'measure()'], cwd=ROOT)
    left = json.loads(out.decode().splitlines()[-1])
    assert left['built'] > 10 * ROUNDS
    assert left['alive'] == []
    assert left['more objects'] == {}
    # of Python's memory, for what the collector does not know of as well; the
    # counts above need some
    assert left['more blocks'] < 20 * ROUNDS
