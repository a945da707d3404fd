"""Mutants that no test can or should tell from the original, with the reason.

`run.py` does not run them, and counts them as survivors.
"""
import re

ONE = 'there is one'
UNKNOWN = 'numpy takes any number below 0'
FIRST = 'its place decides the time that it takes, not the values'
WORDS = 'the wording of an error'
STYLE = 'how it looks: any value close by does'
DEVICE = 'the same on the host; tests/device tells, on a device'

STYLES = re.compile(
    r'\b(extendfrac|fontsize|labelpad|labelsize|length|linewidth|pad|rotation'
    r'|width)=[-.\d]+')

# The numbers in the matrices with which `compat.multiplies` tries a BLAS.
NUMBERS = re.compile(r'(?<=\))[-+%]\d[-+]\d(?=\))')

# By module: the line, why, and what it may become. Blanks do not matter.
EQUIVALENT = {
    'base': [
        ("first = ['rectify'] * (parameters[0].default is parameters[0].empty)",
         'all have one', *(
             "first = ['rectify'] * (parameters[0].default is parameters["
             f'{i}].empty)' for i in (1, -1))),
        ('key = types if len(types) > 1 else types[0]', ONE,
         'key = types if len(types) > 1 else types[-1]'),
        ('stand_ins, [y if inputs == stand_ins else move_to_device(y)],',
         DEVICE,
         'stand_ins, [y if inputs != stand_ins else move_to_device(y)],',
         'stand_ins, [y if not inputs == stand_ins else move_to_device(y)],'),
    ],
    'compat': [
        ('if (sys.version_info < (3, 11) or ext in sys.modules or not '
         'source.exists()', 'a version has more parts than two',
         'if (sys.version_info <= (3, 11) or ext in sys.modules or not '
         'source.exists()'),
    ],
    'errors': [
        ('close = difflib.get_close_matches(str(name), known, 1)',
         'the first is taken',
         'close = difflib.get_close_matches(str(name), known, 2)'),
        ("return (f'perhaps you meant {close[0]!r}' if close else", ONE,
         "return (f'perhaps you meant {close[-1]!r}' if close else"),
    ],
    'expression': [
        ('return (new[0] if single else new), report', ONE,
         'return (new[-1] if single else new), report'),
        ('return graft([output], memo)[0]', ONE,
         'return graft([output], memo)[-1]'),
    ],
    'graphs': [
        ('return lambda v: inputs_of(v) if first <= number(v) <= last else []',
         'the first is a stand-in, the last is thrown away',
         'return lambda v: inputs_of(v) if first < number(v) <= last else []',
         'return lambda v: inputs_of(v) if first <= number(v) < last else []'),
    ],
    'logits': [
        ('return inputs[0]', ONE, 'return inputs[-1]'),
    ],
    'lrp': [
        ('* T.switch(total >= 0, like(r, 1), like(r, -1)))', 'by 1 or -1',
         '/ T.switch(total >= 0, like(r, 1), like(r, -1)))'),
        ('return shares[0] if len(shares) == 1 else shares', ONE,
         'return shares[-1] if len(shares) == 1 else shares'),
        ('min(alpha, beta) < 0 or abs(alpha - beta - 1) > 1e-9):',
         'any small number does',
         'min(alpha, beta) < 0 or abs(alpha - beta - 1) >= 1e-9):'),
        ("f'rules={{{refused[0]!r}: lrp.Gradient()}}')", WORDS,
         "f'rules={{{refused[-1]!r}: lrp.Gradient()}}')"),
        ('self.__name__ = layer.name or type(layer).__name__', WORDS,
         'self.__name__ = layer.name and type(layer).__name__'),
        ("f'{norm.name or type(norm).__name__} is no part of the layer '",
         WORDS,
         "f'{norm.name and type(norm).__name__} is no part of the layer '"),
        ('return layer.get_output_for(list(xs) if self.several else xs[0],',
         ONE,
         'return layer.get_output_for(list(xs) if self.several else xs[-1],'),
        ('memo = {x: conform(T.constant(0 * ones), x.type),', '0 as well',
         'memo = {x: conform(T.constant(0 / ones), x.type),'),
    ],
    'matching': [
        ("SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}",
         'a matter of time', *(
             "SCRATCH = {'compute_test_value': 'off', 'traceback.limit': "
             f'{n}}}' for n in (1, -1))),
        ("continue  # only an upper bound, as in Keras' max_value",
         'no other is made by a clip',
         "break  # only an upper bound, as in Keras' max_value"),
        ('if scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):',
         'all outputs have one op',
         'if scalar_op(node.outputs[-1]) not in (scalar.add, scalar.sub):'),
        ('self._sums[node.outputs[0]] = x, v, w', ONE,
         'self._sums[node.outputs[-1]] = x, v, w'),
        ('if {x, g} <= set(ancestors([term])) and term.owner:',
         'the term is among them, too',
         'if {x, g} < set(ancestors([term])) and term.owner:'),
        ('value = _constant(v.owner.inputs[0])', ONE,
         'value = _constant(v.owner.inputs[-1])'),
    ],
    'op': [
        ('parents = parents_since(inputs[0])',
         'nothing is made between the stand-ins',
         'parents = parents_since(inputs[-1])'),
        ("-0.01, 'fast_compile', 'fast_run')", FIRST,
         "+0.01, 'fast_compile', 'fast_run')",
         "-1.01, 'fast_compile', 'fast_run')",
         "--0.99, 'fast_compile', 'fast_run')"),
    ],
    'rectifiers': [
        ('return (5,)', 'the number of a version',
         'return (6,)', 'return (4,)'),
        ("if node.outputs[0].type.dtype == 'float64' else (32, '0xff800000'))",
         ONE, "if node.outputs[-1].type.dtype == 'float64' else (32, "
         "'0xff800000'))"),
    ],
    'sanity': [
        ('batch_size=64, **options):', 'a matter of time',
         'batch_size=65, **options):', 'batch_size=63, **options):'),
        ('zero=~maps.reshape(len(maps), -1).any(axis=1),', UNKNOWN,
         'zero=~maps.reshape(len(maps), -2).any(axis=1),'),
        ("_cosine(*np.array([a, b], 'float64').reshape(2, -1))", UNKNOWN,
         "_cosine(*np.array([a, b], 'float64').reshape(2, -2))"),
        ('p.set_value(random.astype(value.dtype), borrow=True)',
         'one more copy',
         'p.set_value(random.astype(value.dtype), borrow=False)'),
        ('return not np.array_equal(p.get_value(borrow=True), value)',
         'one more copy',
         'return not np.array_equal(p.get_value(borrow=False), value)'),
        ('return found[0]', ONE, 'return found[-1]'),
        ('axes.set_ylim(-1.05 if axes.get_ylim()[0] < -.5 else -.55, 1.05)',
         STYLE,
         'axes.set_ylim(-1.05 if axes.get_ylim()[0] <= -.5 else -.55, 1.05)'),
    ],
    'saliency': [
        ('return [np.full(n, -1)]', 'any number below 0 does',
         'return [np.full(n, -2)]'),
        ('finite = np.isfinite(images).reshape(n, -1).all(axis=1)',
         UNKNOWN,
         'finite = np.isfinite(images).reshape(n, -2).all(axis=1)'),
    ],
    'doctor': [
        ('random = np.random.RandomState(0)', 'any numbers do',
         'random = np.random.RandomState(1)'),
        ('arrays = [random.randn(n, 8).astype(dtype) for n in (5, 8, 8)]',
         'any size does', *(
             'arrays = [random.randn(n, 8).astype(dtype) for n in '
             f'({n}, 8, 8)]' for n in (4, 6))),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)', 'no z is 0',
         'g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z >= 0)'),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)',
         'where that is 0, no z is above 0',
         'g = (np.maximum(z, 0).dot(w) >= 0).dot(w.T) * (z > 0)'),
        ('return T.switch(z > 0, z, 0)', 'no z is 0',
         'return T.switch(z >= 0, z, 0)'),
    ],
    'plot': [
        ('n, h, w = columns[0].shape[:3]', 'all columns are of one size',
         'n, h, w = columns[1].shape[:3]', 'n, h, w = columns[-1].shape[:3]'),
        ('artist = figure.text(0, 0, text, fontsize=9)',
         'it is only measured', *(
             f'artist = figure.text({place}, text, fontsize=9)'
             for place in ('1, 0', '-1, 0', '0, 1', '0, -1'))),
        ('grey = columns[0].dot(LUMA)[..., np.newaxis]', ONE,
         'grey = columns[-1].dot(LUMA)[..., np.newaxis]'),
    ],
}


def reason(module, before, after):
    """Why two lines are said to do the same; None if they are not."""
    before, after = before.replace(' ', ''), after.replace(' ', '')
    if STYLES.sub('', before) == STYLES.sub('', after):
        return STYLE
    if NUMBERS.sub('', before) == NUMBERS.sub('', after):
        return 'any whole numbers do'
    for line, why, *others in EQUIVALENT.get(module, ()):
        if before == line.replace(' ', '') and after in [
                other.replace(' ', '') for other in others]:
            return why
    return None


def stale(module, changes):
    """The lines given here of which there is no mutant any more."""
    changes = set(tuple(line.replace(' ', '') for line in change)
                  for change in changes)
    return [other for line, _, *others in EQUIVALENT.get(module, ())
            for other in others
            if (line.replace(' ', ''), other.replace(' ', '')) not in changes]
