"""Wrong arguments of every kind, to everything that users call.

What is refused is refused by an exception that is documented, in gradmod's own
words, and leaves nothing changed. What is not refused is in `ACCEPTED`, each
with the reason. Each argument alone gets each kind of value; then some pairs
do. For more pairs:

    GRADMOD_EXAMPLES=10000 python -m pytest tests/test_bad_arguments.py
"""
import builtins
import inspect
import itertools
import os
import random
import re
import traceback
from collections import namedtuple
from functools import partial

import gradmod

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer, NINLayer, get_all_layers
from theano import sparse
from theano.tensor.shared_randomstreams import randomstate_constructor

from gradmod import doctor, plot, saliency, sanity

HERE = os.path.dirname(gradmod.__file__)
PAIRS = int(os.environ.get('GRADMOD_EXAMPLES', 500))
PY = theano.Mode('py', 'fast_compile')

WRONG = {
    'None': lambda: None, 'True': lambda: True, '0': lambda: 0,
    '-1': lambda: -1, '7': lambda: 7, '1.5': lambda: 1.5,
    'nan': lambda: float('nan'), '-inf': lambda: -float('inf'),
    '1j': lambda: 1j, '10**30': lambda: 10 ** 30,
    "''": lambda: '', "'x'": lambda: 'x', "b'x'": lambda: b'x',
    '[]': lambda: [], '[None]': lambda: [None], '()': lambda: (),
    '{}': lambda: {}, "{'a':1}": lambda: {'a': 1}, 'set()': lambda: set(),
    'object()': object, 'module': lambda: np,
    'exception': lambda: ValueError('x'),
    'empty-array': lambda: np.zeros((0, 4)),
    'vector': lambda: np.array([.1, .2, .3]),
    'nan-matrix': lambda: np.full((2, 2), np.nan),
    '7-d': lambda: np.zeros((1,) * 7),
    'complex-array': lambda: np.zeros((3, 2, 4), complex),
    'strings-array': lambda: np.array(['a', 'b']),
    'object-array': lambda: np.array([None, {}]),
    'T.vector': T.vector, 'T.scalar': T.scalar, 'T.iscalar': T.iscalar,
    'T.imatrix': T.imatrix, 'T.zmatrix': T.zmatrix,
    'sparse': lambda: sparse.csr_matrix('s'),
    'generic': lambda: theano.gof.generic(),
    'random-state': lambda: randomstate_constructor(np.random.RandomState(1)),
    'layer': lambda: InputLayer((3, 3)),
    'layers': lambda: [DenseLayer((3, 3), 1)],
    # that can be called, and are no use
    'object': lambda: object, 'int': lambda: int, 'len': lambda: len,
    'f()': lambda: lambda: None, 'f(*)': lambda: lambda *a, **k: None,
    'type': lambda: T.dvector, 'op': lambda: T.tanh,
    'layer-class': lambda: DenseLayer, 'rule-class': lambda: gradmod.DeconvNet,
    'rule': lambda: gradmod.DeconvNet(T.tanh),
    'nonlinearity': lambda: lasagne.nonlinearities.LeakyRectify(.1),
}
CALLABLE = ('object int len f() f(*) type op layer-class rule-class rule '
            'nonlinearity')

# Where a function is expected, gradmod cannot know before it calls it that it
# is of no use. What it raises then is its own.
FUNCTIONS = ('nonlinearity function grad rule select match method target draw '
             'measures guide').split()

# Any truth value counts, as everywhere in Python; numpy refuses arrays.
FLAGS = 'logits progress absolute cascading keep_maps overlay colorbar'.split()
FLAG_VALUES = ['None', '0', "'x'", 'vector']


class World(object):
    """What the arguments that are not wrong are about."""

    def __init__(self):
        self.images = np.random.RandomState(0).rand(3, 2, 4)
        self.x = T.dtensor3('x')
        net = InputLayer((None, 2, 4), self.x)
        self.hidden = NINLayer(net, 3, name='hidden')
        self.net = DenseLayer(self.hidden, 2, name='out',
                              nonlinearity=lasagne.nonlinearities.softmax)
        self.z = T.dvector('z')
        self.rule = gradmod.GuidedBackprop(T.nnet.relu)
        self.product = gradmod.override_gradient(
            lambda x, y: x * y, lambda inputs, out_grads: inputs)
        self.source = T.nnet.relu(self.x)
        self.logits = self.source.sum(axis=2)
        self.saliency = gradmod.compile_saliency_function(self.net, mode=PY)
        gradmod.saliency_map(self.logits, self.x, method=self.keep_score)
        str(theano.config)  # which reads all flags that were not read yet

    def keep_score(self, score, x):
        self.score = score
        return x

    def state(self):
        """All that a call might change."""
        layers = get_all_layers(self.net)
        modules = gradmod, saliency, sanity, plot, gradmod.expression
        state = [
            [(k, id(v)) for v in layers for k, v in sorted(vars(v).items())],
            [p.get_value().tobytes() for v in layers for p in v.get_params()],
            [sorted(vars(f)) for f in (self.rule, self.product)],
            [str(f.ops) for f in (self.rule, self.product)],
            str(np.random.get_state()), str(np.geterr()),
            [(v.fullname, getattr(v, 'val', None))
             for v in theano.configparser._config_var_list],
            [(k, id(v), len(v) if isinstance(v, (dict, list, tuple)) else 0)
             for module in modules for k, v in sorted(vars(module).items())
             if not k.startswith('__')],  # such as the register of warnings
            os.listdir('.'), self.images.tobytes()]
        return state


@pytest.fixture(scope='module')
def world():
    return World()


def content(value):
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


Case = namedtuple('Case', 'name documented call arguments')


class Returns(gradmod.ModifiedBackprop):
    def __init__(self, value):
        super().__init__(T.nnet.relu)
        self.value = value

    def grad(self, inputs, out_grads):
        return self.value


def constructed(Rule):
    """Make a rule and apply it, which is when it reads its parameters."""
    return lambda **options: Rule(**options)(T.dmatrix())


def applied(**options):
    gradmod.apply(**options).undo()


def in_context(**options):
    with gradmod.modified(**options):
        pass


def make_cases(w):
    call = gradmod.ModifiedBackprop.__call__
    cases = [
        Case('ModifiedBackprop', gradmod.ModifiedBackprop,
             gradmod.ModifiedBackprop, dict(nonlinearity=T.tanh)),
        Case('a rule', call, lambda x: w.rule(x), dict(x=w.z)),
        Case('an overridden function', gradmod.override_gradient,
             lambda x, y: w.product(x, y), dict(x=w.z, y=w.z)),
        Case('what grad returns', call,
             lambda value: Returns(value)(T.dmatrix()), dict(value=0)),
        Case('what grad returns, in a list', call,
             lambda value: Returns([value])(T.dmatrix()), dict(value=0)),
        Case('what a nonlinearity returns', call,
             lambda value: gradmod.DeconvNet(lambda z: value)(w.z),
             dict(value=w.z)),
        Case('override_gradient', gradmod.override_gradient,
             gradmod.override_gradient,
             dict(function=T.tanh, grad=lambda inputs, out_grads: out_grads)),
        Case('check_gradient', gradmod.check_gradient, gradmod.check_gradient,
             dict(function=w.rule, dtype='float32', shape=(1,))),
        Case('modified', gradmod.modified, in_context,
             dict(network=w.net, rule=gradmod.DeconvNet, select=None)),
        Case('apply', gradmod.modified, applied,
             dict(network=w.net, rule=gradmod.DeconvNet, select=None)),
        Case('what a function of a nonlinearity returns', gradmod.modified,
             lambda value: applied(network=w.net, rule=lambda f: value),
             dict(value=w.rule)),
        Case('what select returns', gradmod.modified,
             lambda value: applied(network=w.net, rule=gradmod.DeconvNet,
                                   select=lambda place: value),
             dict(value=True)),
        Case('override_in', gradmod.override_in, gradmod.override_in,
             dict(outputs=w.logits, rule=gradmod.DeconvNet, match=None,
                  select=None)),
        Case('saliency_map of a network', gradmod.saliency_map,
             gradmod.saliency_map,
             dict(output=w.net, input_var=w.x, target=None, method='gradient',
                  rule=None, logits=True)),
        Case('saliency_map of an expression', gradmod.saliency_map,
             gradmod.saliency_map,
             dict(output=w.logits, input_var=w.x, target=None,
                  method='gradcam', rule=None, logits=True, layer=w.source)),
        Case('compile_saliency_function', gradmod.compile_saliency_function,
             gradmod.compile_saliency_function,
             dict(network=w.net, rule=None, target=None, method='gradcam',
                  input_var=None, logits=True, mode=PY, givens=None,
                  layer='hidden')),
        Case('a saliency function', saliency.SaliencyFunction.__call__,
             lambda **options: w.saliency(**options),
             dict(images=w.images, target=None, batch_size=2, progress=False,
                  out=None)),
        Case('iter of a saliency function', saliency.SaliencyFunction.iter,
             lambda **options: list(w.saliency.iter(**options)),
             dict(batches=[w.images], target=None, batch_size=2,
                  progress=False)),
        Case('gradient', saliency.gradient, saliency.gradient,
             dict(score=w.score, x=w.x)),
        Case('gradient_x_input', saliency.gradient, saliency.gradient_x_input,
             dict(score=w.score, x=w.x)),
        Case('smoothgrad', saliency.smoothgrad, saliency.smoothgrad,
             dict(score=w.score, x=w.x, samples=2, sigma=.1, seed=0)),
        Case('integrated_gradients', saliency.integrated_gradients,
             saliency.integrated_gradients,
             dict(score=w.score, x=w.x, steps=3, baseline=0)),
        Case('gradcam', saliency.gradcam, saliency.gradcam,
             dict(score=w.score, x=w.x, layer=w.source)),
        Case('guided_gradcam', saliency.guided_gradcam,
             saliency.guided_gradcam,
             dict(score=w.score, x=w.x, layer=w.source,
                  guide=gradmod.DeconvNet)),
        Case('normalize', plot.normalize, plot.normalize,
             dict(values=[1, 2], percentile=99, limit=None)),
        Case('map_to_rgb', plot.map_to_rgb, plot.map_to_rgb,
             dict(saliency=np.ones((3, 4)), mode='signed', percentile=99,
                  limit=None, cmap=None, layout=None)),
        Case('plot_saliency', plot.plot_saliency, plot.plot_saliency,
             dict(images=np.ones((2, 3, 4)), maps={'a': np.ones((2, 3, 4))},
                  titles=['t'], labels=['a', 'b'], mode='signed',
                  percentile=99, limit=None, cmap=None, overlay=False,
                  colorbar=True, layout=None, size=.1)),
        Case('permute', sanity.permute, sanity.permute,
             dict(value=np.ones(3), rng=np.random.RandomState(0))),
        Case('spearman', sanity.spearman, sanity.spearman,
             dict(maps=w.images, others=w.images, absolute=False)),
        Case('spearman_abs', sanity.spearman, sanity.spearman_abs,
             dict(maps=w.images, others=w.images)),
        Case('ssim', sanity.ssim, sanity.ssim,
             dict(maps=np.ones((1, 1, 11, 11)),
                  others=np.ones((1, 1, 11, 11)))),
        Case('randomization_test', sanity.randomization_test,
             partial(sanity.randomization_test, images=w.images),
             dict(network=w.net, target=None, cascading=True, layers=['out'],
                  measures=['spearman'], draw=sanity.permute, seed=0,
                  keep_maps=False, mode=PY)),
        Case('class_sensitivity', sanity.class_sensitivity,
             partial(sanity.class_sensitivity, images=w.images),
             dict(network=w.logits, input_var=w.x, target=None, other=None)),
        Case('plot_reports', sanity.plot_reports, sanity.plot_reports,
             dict(reports={'a': sanity.RandomizationReport(
                 'a', True, ['out'], [], {'m': np.ones((1, 3))}, None, None,
                 None, None)})),
    ]
    for name in gradmod.__all__:
        Rule = getattr(gradmod, name)
        if (inspect.isclass(Rule) and Rule is not gradmod.ModifiedBackprop
                and issubclass(Rule, gradmod.ModifiedBackprop)):
            arguments = dict(
                (k, T.nnet.relu if k == 'nonlinearity' else
                 len if k == 'record' else p.default)
                for k, p in inspect.signature(Rule).parameters.items())
            cases.append(Case(name, gradmod.ModifiedBackprop,
                              constructed(Rule), arguments))
    return cases



# What is accepted, by argument or by case and argument

NUMBERS = '0 -1 7 1.5 nan -inf'
TENSORS = '[] () empty-array vector nan-matrix T.vector T.scalar '
INTEGERS = 'T.iscalar T.imatrix '
PARAMETER = 'True ' + NUMBERS + ' ' + TENSORS + INTEGERS
ACCEPTED = {
    # Any function may be one of a variable; the first use tells.
    ('ModifiedBackprop', 'nonlinearity'): CALLABLE,
    ('override_gradient', 'function'): 'None ' + CALLABLE,  # a decorator
    ('override_gradient', 'grad'): CALLABLE,
    ('what a function of a nonlinearity returns', 'value'): CALLABLE,
    'record': CALLABLE,
    # What Theano makes tensors of; an integer has no gradient to override.
    ('a rule', 'x'): NUMBERS + ' 7-d ' + TENSORS + INTEGERS,
    # `product` gives a gradient for each, where an integer must have none.
    ('an overridden function', 'x'): '1.5 nan -inf 7-d ' + TENSORS,
    ('an overridden function', 'y'): '1.5 nan -inf 7-d ' + TENSORS,
    # A number fills the shape, any real dtype is cast, None is the true
    # gradient; where it broadcasts, the shape is checked at run time.
    ('what grad returns', 'value'):
        'True [None] empty-array nan-matrix T.imatrix ' + NUMBERS,
    ('what grad returns, in a list', 'value'):
        'None True empty-array nan-matrix T.imatrix ' + NUMBERS,
    ('what a nonlinearity returns', 'value'): 'T.vector',
    # Each of these is a nonlinearity.
    'nonlinearity': 'op rule nonlinearity',
    ('check_gradient', 'function'): 'op rule nonlinearity',
    ('check_gradient', 'shape'): '[] ()',  # no dimensions
    ('modified', 'network'): 'layers', ('apply', 'network'): 'layers',
    'rule': 'None rule-class', ('modified', 'rule'): 'rule-class',
    ('apply', 'rule'): 'rule-class', ('override_in', 'rule'): 'rule-class',
    'guide': 'None rule-class',
    # `object` is a type of all nonlinearities, and each place has a `len`.
    ('modified', 'select'): 'None [None] object len',
    ('apply', 'select'): 'None [None] object len',
    ('override_in', 'select'): 'None len',
    # What is true in Python is a yes.
    ('what select returns', 'value'): 'True -1 7 1.5 nan -inf 1j 10**30 '
    "'x' b'x' [None] {'a':1} object() module exception T.vector T.scalar "
    'T.iscalar T.imatrix T.zmatrix sparse generic random-state layer layers '
    + CALLABLE,
    ('override_in', 'match'): 'None',
    'input_var': 'None', 'layout': 'None', 'cmap': 'None', 'layers': 'None',
    'other': 'None', ('compile_saliency_function', 'mode'): 'None',
    ('randomization_test', 'mode'): 'None',
    ('saliency_map of an expression', 'input_var'): '',
    ('class_sensitivity', 'input_var'): '',
    # Class 7 of an output whose number of classes is not known, yet.
    ('saliency_map of a network', 'target'): 'None 0 7 T.iscalar',
    ('saliency_map of an expression', 'target'): 'None 0 7 T.iscalar',
    'target': 'None 0',
    ('compile_saliency_function', 'givens'): 'None {}',
    ('compile_saliency_function', 'layer'): '',
    'batch_size': '7 10**30',  # all at once
    'out': 'None complex-array',  # which holds what is real
    # No batches, no maps.
    'batches': "'' [] () {} set() empty-array",
    'samples': '7', 'steps': '7', 'sigma': 'True 0 7 1.5 10**30',
    'seed': 'True 0 7',
    'baseline': 'True 0 -1 7 1.5 [] () empty-array vector T.vector T.scalar '
                'T.iscalar T.imatrix',
    'values': 'True 0 -1 7 1.5 nan -inf [] () empty-array vector nan-matrix '
              '7-d',
    'percentile': 'True 7 1.5', 'limit': 'None True 7 1.5 10**30',
    'size': 'True 7 1.5 10**30',
    ('map_to_rgb', 'saliency'): 'nan-matrix',  # in magenta
    # As many as there are, and all that can be printed can be drawn.
    'titles': "None [None] {'a':1} 7-d layers",
    'labels': 'None nan-matrix strings-array object-array',
    ('permute', 'value'): 'empty-array vector nan-matrix 7-d complex-array '
                          'strings-array object-array',
    # NaN and infinity are numbers, of which users may have need.
    'threshold': PARAMETER, 'epsilon': PARAMETER, 'tolerance': PARAMETER,
    'bound': 'None ' + PARAMETER, 'factor': PARAMETER, 'low': PARAMETER,
    'high': PARAMETER, 'norm': PARAMETER, 'noise': PARAMETER,
    'quantile': 'None True T.scalar T.iscalar ' + NUMBERS,
    'name': ' '.join(WRONG),  # whatever it is, it is printed
}

# More than memory holds: numpy says so.
TOO_LARGE = [('smoothgrad', 'samples'), ('integrated_gradients', 'steps')]

SPEAKERS = re.compile(r'(<saliency function|(%s)\b)' % '|'.join(
    [name for module in (gradmod, saliency, sanity, plot)
     for name, value in vars(module).items() if callable(value)]
    + ['Returns']))


def documented(*objects):
    """The exceptions in the section Raises."""
    names = []
    for o in objects:
        section = re.search(r'^Raises\n------\n(.*?)(\n\n[A-Z][\w ]+\n--|\Z)',
                            inspect.getdoc(o), re.DOTALL | re.MULTILINE)
        names += re.findall(r'\w+Error', section.group(1))
    return tuple(getattr(builtins, name) for name in names
                 if hasattr(builtins, name))


def what_is_wrong(world, case, values):
    """None, or what is wrong with a refusal; 'accepted' if there is none."""
    arguments = dict(case.arguments, **values)
    before = world.state(), content(arguments)
    try:
        case.call(**arguments)
    except Exception as error:
        problem = what_is_wrong_with(error, case, values)
        if (world.state(), content(arguments)) != before:
            problem = 'something is changed after %r' % error
        return problem
    return 'accepted'


def what_is_wrong_with(error, case, values):
    where = traceback.extract_tb(error.__traceback__)[-1]
    for name, value in values.items():
        if name in FUNCTIONS and callable(value):
            return None
        if name in FLAGS and 'truth value of an array' in str(error):
            return None
    described = '%s: %s (%s, line %d)' % (
        type(error).__name__, error, where.filename, where.lineno)
    if not isinstance(error, documented(case.documented)):
        return 'not documented: ' + described
    if not (where.filename.startswith(HERE) and SPEAKERS.match(str(error))):
        return "not in gradmod's words: " + described


def kinds(case, argument):
    if argument in FLAGS:
        return FLAG_VALUES
    return [kind for kind in WRONG if not (
        kind == '10**30' and (case.name, argument) in TOO_LARGE)]


def is_accepted(case, argument, kind):
    return argument in FLAGS or kind in ACCEPTED.get(
        (case.name, argument), ACCEPTED.get(argument, '')).split()


def test_each_argument_alone(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems, count = [], 0
    for case in make_cases(world):
        for argument in case.arguments:
            for kind in kinds(case, argument):
                problem = what_is_wrong(world, case,
                                        {argument: WRONG[kind]()})
                count += 1
                if problem == 'accepted' and is_accepted(case, argument, kind):
                    continue
                if problem is None and argument not in FLAGS and (
                        is_accepted(case, argument, kind)):
                    problem = 'refused'
                if problem:
                    problems.append('%s, %s=%s: %s' % (case.name, argument,
                                                       kind, problem))
    assert not problems, '%d of %d\n%s' % (len(problems), count,
                                           '\n'.join(problems))
    assert count > 5000


def test_pairs(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, problems = random.Random(PAIRS), []
    everything = [(case, pair) for case in make_cases(world)
                  for pair in itertools.combinations(case.arguments, 2)]
    for _ in range(PAIRS):
        case, pair = draw.choice(everything)
        chosen = dict((argument, draw.choice(kinds(case, argument)))
                      for argument in pair)
        problem = what_is_wrong(world, case, dict(
            (argument, WRONG[kind]()) for argument, kind in chosen.items()))
        # Nothing else is looked at where there are no batches, and by a
        # decorator before it gets its function.
        unseen = 'batches' in chosen or (
            case.name == 'override_gradient' and chosen['function'] == 'None')
        if problem == 'accepted' and (unseen or all(
                is_accepted(case, *item) for item in chosen.items())):
            continue
        if problem:
            problems.append('%s, %s: %s' % (case.name, chosen, problem))
    assert not problems, '\n'.join(problems)


@pytest.mark.parametrize('argv', [
    ['x'], ['--x'], ['--yes'], ['--json', '--fix'], ['--fix', '--unfix'],
    ['--unfix', '--yes'], ['--json=1'], ['--fix', 'x'], ['']])
def test_command_line(argv, world, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setattr(doctor, 'fix', None)  # not to be asked
    monkeypatch.setattr(doctor, 'examine', None)
    before = world.state()
    with pytest.raises(SystemExit) as caught:
        doctor.main(argv)
    assert caught.value.code == 2
    assert 'usage: python -m gradmod' in capsys.readouterr().err
    assert world.state() == before
