"""Mutants that no test can or should tell from the original, with the reason.

`run.py` does not run them, and counts them as survivors.
"""
import re

ONE = 'there is one'
FIRST = 'its place decides the time that it takes, not the values'
STYLE = 'how it looks: any value close by does'
WORDS = 'the wording of an error'
DEVICE = 'the same on the host; tests/device tells, on a device'

STYLES = re.compile(
    r'\b(extendfrac|fontsize|labelpad|labelsize|length|linewidth|pad|rotation'
    r'|width)=[-.\d]+')

# The matrices with which `compat.multiplies` tries a BLAS.
SIZES = re.compile(r'^(m,n,k=|[ab]=np\.asfortranarray)')

# By module: the line before, the line after, why. Blanks do not matter.
EQUIVALENT = {
    'base': [
        ('key = types if len(types) > 1 else types[0]',
         'key = types if len(types) > 1 else types[-1]', ONE),
        ('stand_ins, [y if inputs == stand_ins else move_to_device(y)],',
         'stand_ins, [y if inputs != stand_ins else move_to_device(y)],',
         DEVICE),
        ('stand_ins, [y if inputs == stand_ins else move_to_device(y)],',
         'stand_ins, [y if not inputs == stand_ins else move_to_device(y)],',
         DEVICE),
    ],
    'op': [
        ('return lambda v: (v.owner.inputs if v.owner and first <= number(v) <= '
         'last',
         'return lambda v: (v.owner.inputs if v.owner and first < number(v) <= '
         'last', 'the first is a stand-in, which has no owner'),
        ('return lambda v: (v.owner.inputs if v.owner and first <= number(v) <= '
         'last',
         'return lambda v: (v.owner.inputs if v.owner and first <= number(v) < '
         'last', 'the last is of a variable that is thrown away'),
        ('parents = parents_since(inputs[0])',
         'parents = parents_since(inputs[-1])',
         'nothing is made between the stand-ins'),
        ('rounding = float(100 * np.finfo(g.dtype).eps)',
         'rounding = float(101 * np.finfo(g.dtype).eps)', 'some roundings'),
        ('rounding = float(100 * np.finfo(g.dtype).eps)',
         'rounding = float(99 * np.finfo(g.dtype).eps)', 'some roundings'),
        ("-0.01, 'fast_compile', 'fast_run')",
         "+0.01, 'fast_compile', 'fast_run')", FIRST),
        ("-0.01, 'fast_compile', 'fast_run')",
         "-1.01, 'fast_compile', 'fast_run')", FIRST),
        ("-0.01, 'fast_compile', 'fast_run')",
         "--0.99, 'fast_compile', 'fast_run')", FIRST),
    ],
    'rules': [
        ('scale = norm / T.switch(T.eq(bound, 0), 1, bound)',
         'scale = norm / T.switch(T.eq(bound, 0), 2, bound)',
         '0, by any number but 0'),
        ('g.ndim > 1) else threshold[0]', 'g.ndim >= 1) else threshold[0]',
         'of a vector, one value: broadcast or not'),
        ('g.ndim > 1) else threshold[0]', 'g.ndim > 0) else threshold[0]',
         'of a vector, one value: broadcast or not'),
        ('g.ndim > 1) else threshold[0]', 'g.ndim > 1) else threshold[-1]',
         ONE),
    ],
    'rectifiers': [
        ('return (4,)', 'return (5,)', 'the number of a version'),
        ('return (4,)', 'return (3,)', 'the number of a version'),
        ("if node.outputs[0].type.dtype == 'float64' else",
         "if node.outputs[-1].type.dtype == 'float64' else", ONE),
    ],
    'compat': [
        ('if sys.version_info < (3, 11) or name in sys.modules:',
         'if sys.version_info <= (3, 11) or name in sys.modules:',
         'a version has more parts than two'),
    ],
    'graph': [
        ('error = made[-1] if made and not patterns else None',
         'error = made[-0] if made and not patterns else None', WORDS),
        ('return (new[0] if single else new), Report(p for p, _ in chosen)',
         'return (new[-1] if single else new), Report(p for p, _ in chosen)',
         ONE),
        ("SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}",
         "SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 1}",
         'a matter of time'),
        ("SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}",
         "SCRATCH = {'compute_test_value': 'off', 'traceback.limit': -1}",
         'a matter of time'),
        ('if _scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):',
         'if _scalar_op(node.outputs[-1]) not in (scalar.add, scalar.sub):',
         'all outputs have one op'),
        ('if {pattern.x, g} <= set(gof.graph.ancestors([term])) and '
         'term.owner:',
         'if {pattern.x, g} < set(gof.graph.ancestors([term])) and '
         'term.owner:', 'the term is among them, too'),
    ],
    'network': [
        ('(caller, _name(r), matching[0].name))',
         '(caller, _name(r), matching[-1].name))',
         'all that match a layer or a name have one name'),
        ('close = difflib.get_close_matches(name, known, 1)',
         'close = difflib.get_close_matches(name, known, 2)',
         'the first is taken'),
        ("+ ('perhaps you meant %r' % close[0] if close else",
         "+ ('perhaps you meant %r' % close[-1] if close else", ONE),
    ],
    'check': [
        ('for a in finite for b in finite + [.5, 1e3])',
         'for a in finite for b in finite + [.5, 1001.0])',
         'any large number does'),
        ('for a in finite for b in finite + [.5, 1e3])',
         'for a in finite for b in finite + [.5, 999.0])',
         'any large number does'),
        ('rtol=20 * np.finfo(dtype).eps)', 'rtol=21 * np.finfo(dtype).eps)',
         'some roundings'),
        ('rtol=20 * np.finfo(dtype).eps)', 'rtol=19 * np.finfo(dtype).eps)',
         'some roundings'),
    ],
    'sanity': [
        ('n = values[0].shape[1]', 'n = values[-1].shape[1]',
         'all are of one shape'),
        ("'not finite' % (self.undefined, values[0].size))",
         "'not finite' % (self.undefined, values[-1].size))",
         'all are of one shape'),
        ('seed=0, keep_maps=False, batch_size=64, **options):',
         'seed=0, keep_maps=False, batch_size=65, **options):',
         'a matter of time'),
        ('seed=0, keep_maps=False, batch_size=64, **options):',
         'seed=0, keep_maps=False, batch_size=63, **options):',
         'a matter of time'),
        ("method='gradient', batch_size=64, **options):",
         "method='gradient', batch_size=65, **options):", 'a matter of time'),
        ("method='gradient', batch_size=64, **options):",
         "method='gradient', batch_size=63, **options):", 'a matter of time'),
        ('p.set_value(random.astype(value.dtype), borrow=True)',
         'p.set_value(random.astype(value.dtype), borrow=False)',
         'one more copy'),
        ('return not np.array_equal(p.get_value(borrow=True), value)',
         'return not np.array_equal(p.get_value(borrow=False), value)',
         'one more copy'),
        ('axes.set_ylim(-1.05 if axes.get_ylim()[0] < -.5 else -.55, 1.05)',
         'axes.set_ylim(-1.05 if axes.get_ylim()[0] <= -.5 else -.55, 1.05)',
         STYLE),
        ("'%d' % (caller, name, count - 1, wrong[0]))",
         "'%d' % (caller, name, count - 1, wrong[-1]))", WORDS),
        ('classes[classes == besides][0]))',
         'classes[classes == besides][-1]))', WORDS),
    ],
    'saliency': [
        ("if (getattr(target, 'ndim', 2) > 1",
         "if (getattr(target, 'ndim', 3) > 1", 'any number above 1 does'),
        ('return [np.full(n, -1)]', 'return [np.full(n, -2)]',
         'any number below 0 does'),
        ('finite = np.isfinite(images).reshape(n, -1).all(axis=1)',
         'finite = np.isfinite(images).reshape(n, -2).all(axis=1)',
         'numpy takes any number below 0'),
        ('if classes.ndim == 0:', 'if classes.ndim == -1:',
         'what follows does as much, in more time'),
        ('conditions.append(T.eq(target.shape[0], z.shape[0]))',
         'conditions.append(T.eq(target.shape[-1], z.shape[0]))', ONE),
        ("v.name for v in everything if v.name) or 'none'), layers[0]))",
         "v.name for v in everything if v.name) or 'none'), layers[-1]))",
         ONE),
        ('options = dict(options, layer=layer[0])',
         'options = dict(options, layer=layer[-1])', ONE),
    ],
    'doctor': [
        ('gradient = gradient * (gradient > 0)',
         'gradient = gradient * (gradient >= 0)', 'where it is 0, it is 0'),
        ('return [g * (z > 0).astype(z.dtype) * (g > 0).astype(z.dtype)]',
         'return [g * (z > 0).astype(z.dtype) * (g >= 0).astype(z.dtype)]',
         'where it is 0, it is 0'),
        ('random = np.random.RandomState(0)',
         'random = np.random.RandomState(1)', 'any numbers do'),
        ('a = random.randn(5, 8).astype(dtype)',
         'a = random.randn(6, 8).astype(dtype)', 'any size does'),
        ('a = random.randn(5, 8).astype(dtype)',
         'a = random.randn(4, 8).astype(dtype)', 'any size does'),
        ('weights = [random.randn(8, 8).astype(dtype) for _ in range(2)]',
         'weights = [random.randn(8, 8).astype(dtype) for _ in range(3)]',
         'any depth from 2 up does'),
        ('return T.switch(z > 0, z, 0)', 'return T.switch(z >= 0, z, 0)',
         'no z is 0'),
    ],
    'fix': [
        ('if changes[0]:', 'if changes[-1]:', ONE),
        ("'file sees to it.' % compat.settings_files()[0])",
         "'file sees to it.' % compat.settings_files()[-1])", WORDS),
    ],
    'plot': [
        ('n, h, w = columns[0].shape[:3]', 'n, h, w = columns[1].shape[:3]',
         'all columns are of one size'),
        ('n, h, w = columns[0].shape[:3]', 'n, h, w = columns[-1].shape[:3]',
         'all columns are of one size'),
        ('artist = figure.text(0, 0, text, fontsize=9)',
         'artist = figure.text(1, 0, text, fontsize=9)', 'it is only measured'),
        ('artist = figure.text(0, 0, text, fontsize=9)',
         'artist = figure.text(-1, 0, text, fontsize=9)',
         'it is only measured'),
        ('artist = figure.text(0, 0, text, fontsize=9)',
         'artist = figure.text(0, 1, text, fontsize=9)', 'it is only measured'),
        ('artist = figure.text(0, 0, text, fontsize=9)',
         'artist = figure.text(0, -1, text, fontsize=9)',
         'it is only measured'),
        ('rgb = np.repeat((scaled + 1) / 2, 3 // scaled.shape[3], axis=3)',
         'rgb = np.repeat((scaled + 1) / 2, 3 / scaled.shape[3], axis=3)',
         'a whole number'),
        ("return rgb if 'N' in layout else rgb[0]",
         "return rgb if 'N' in layout else rgb[-1]", ONE),
        ('grey = columns[0].dot(LUMA)[..., np.newaxis]',
         'grey = columns[-1].dot(LUMA)[..., np.newaxis]', ONE),
        ('if not -0.001 <= low <= high <= 1.001:  # rounding errors are no '
         'errors',
         'if not -0.001 < low <= high <= 1.001:  # rounding errors are no '
         'errors', 'any small number does'),
        ('if not -0.001 <= low <= high <= 1.001:  # rounding errors are no '
         'errors',
         'if not -0.001 <= low <= high < 1.001:  # rounding errors are no '
         'errors', 'any small number does'),
        ('columns = [np.repeat(images, 3 // channels, axis=3)]',
         'columns = [np.repeat(images, 3 / channels, axis=3)]',
         'a whole number'),
    ],
}


def reason(module, before, after):
    """Why two lines are said to do the same; None if they are not."""
    before, after = before.replace(' ', ''), after.replace(' ', '')
    if STYLES.sub('', before) == STYLES.sub('', after):
        return STYLE
    if module == 'compat' and SIZES.match(before) and SIZES.match(after):
        return 'any sizes and small whole numbers do'
    for old, new, why in EQUIVALENT.get(module, ()):
        if (before, after) == (old.replace(' ', ''), new.replace(' ', '')):
            return why
    return None


def stale(module, changes):
    """The lines given here of which there is no mutant any more."""
    changes = set(tuple(line.replace(' ', '') for line in change)
                  for change in changes)
    return [new for old, new, _ in EQUIVALENT.get(module, ())
            if (old.replace(' ', ''), new.replace(' ', '')) not in changes]
