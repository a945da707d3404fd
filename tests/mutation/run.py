"""Mutation testing of gradmod, with the operators of cosmic-ray.

    python tests/mutation/run.py [--scratch FOLDER] [--workers N] [MODULE ...]

Each mutant is one change to one module of a copy of gradmod, and is killed if
a test of `TESTS` then fails. Theano, Lasagne and pytest are imported once: a
mutant is a fork of that process. Of the tests that run the changed statement
the fastest come first, up to the first failure. Results are kept in FOLDER: an
interrupted run goes on where it was, and a changed module starts anew.
"""
import argparse
import ast
import contextlib
import gc
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import sys
import time
import types
from pathlib import Path

from equivalent import reason, stale

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

# By module, the tests that have to kill its mutants, if not its own alone.
TESTS = {name: [name] for name in (
    'device', 'check', 'network', 'lrp', 'pattern', 'cam', 'deeplift', 'logits',
    'methods', 'sanity', 'plot')}
TESTS.update({
    'base': ['base', 'expression'],
    'errors': ['errors', 'base', 'network'],
    'graphs': ['graphs', 'op', 'base', 'expression'],
    'report': ['network', 'expression', 'saliency'],
    'op': ['op', 'base'],
    'compat': ['compat', 'main'],
    'rectifiers': ['rules'],
    'rules': ['rules', 'field_rules'],
    'matching': ['matching', 'expression'],
    'expression': ['expression', 'matching'],
    'score': ['score', 'saliency', 'methods', 'cam'],
    'saliency': ['saliency', 'score', 'methods'],
    'doctor': ['main']})

# These need a C++ compiler. All else is quicker without one: each process would
# compile anew some of what it runs.
COMPILED = {'compat', 'rectifiers', 'rules', 'lrp', 'pattern', 'doctor'}

# Of cosmic-ray's operators, those used: each arithmetic operator becomes one
# other (of a string's % that shows whether a test reads the message), each
# comparison its opposite and its neighbour, each number one more and one less.
# Strings, docstrings and annotations stay: wording is not behaviour.
OPERATORS = re.compile('|'.join('core/%s$' % name for name in [
    'ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div'
    '|Mod_Sub|Pow_Mul|BitOr_BitAnd|BitAnd_BitOr)',
    'ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is|Lt_LtE'
    '|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt)',
    'ReplaceUnaryOperator_(USub_UAdd|Delete_Invert|Delete_Not)',
    'ReplaceTrueWithFalse', 'ReplaceFalseWithTrue', 'ReplaceAndWithOr',
    'ReplaceOrWithAnd', 'ReplaceBreakWithContinue', 'ReplaceContinueWithBreak',
    'AddNot', 'ExceptionReplacer', 'NumberReplacer', 'RemoveDecorator',
    'ZeroIterationForLoop']))


def mutants(source):
    """Yield (key, name, first line, last line, mutated source).

    The key stays where only other parts of the module change.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names
    operators = [(name, get_operator(name)())
                 for name in filter(OPERATORS.match, operator_names())]
    lines = source.splitlines(True)
    # One statement of the module at a time, which is parsed in no time.
    starts = [min([node.lineno] + [d.lineno for d in getattr(
        node, 'decorator_list', ())]) - 1 for node in ast.parse(source).body]
    for start, end in zip(starts, starts[1:] + [len(lines)]):
        part = ''.join(lines[start:end])
        seen = {ast.dump(ast.parse(part))}
        nodes = list(ast_nodes(get_ast(part)))
        for name, operator in operators:
            places = [place for node in nodes
                      for place in operator.mutation_positions(node)]
            for i, ((first, _), (last, _)) in enumerate(places):
                try:
                    mutated = mutate_code(part, operator, i)
                    tree = ast.dump(ast.parse(mutated))
                except (AttributeError, SyntaxError):  # `except a.B`; no code
                    continue
                if tree not in seen and 'not not ' not in mutated:
                    seen.add(tree)
                    yield (hashlib.sha1(mutated.encode()).hexdigest(),
                           name[len('core/'):], start + first, start + last,
                           ''.join(lines[:start]) + mutated
                           + ''.join(lines[end:]))


def statement(source, first, last):
    """The lines of the statement around; None if it is run at the import."""
    best, inside = (first, last), False
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt):
            continue
        end = node.end_lineno
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if (isinstance(node, ast.FunctionDef)
                    and node.body[0].lineno <= first <= end):
                inside = True
            continue
        if getattr(node, 'body', None):
            end = node.body[0].lineno - 1
        if node.lineno <= first <= max(end, node.lineno):
            best = node.lineno, max(end, last)
    return range(best[0], best[1] + 1) if inside else None


class Selection:
    """A plugin of pytest: these tests alone, the quick ones first.

    Ends the process by SIGPROF where a test takes 5 seconds of CPU time and
    ten times its own.
    """

    def __init__(self, seconds):
        self.seconds = seconds

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if i.nodeid in self.seconds),
                          key=lambda item: self.seconds[item.nodeid])

    def pytest_runtest_logstart(self, nodeid):
        signal.setitimer(signal.ITIMER_PROF, 5 + 10 * self.seconds[nodeid])


class Survey:
    """A plugin of pytest: the lines that each test runs, and its CPU time."""

    def __init__(self, coverage):
        self.coverage, self.seconds, self.processes = coverage, {}, set()
        self.failed = []

    def pytest_runtest_logstart(self, nodeid):
        import subprocess
        self.coverage.switch_context(nodeid)
        self.start = sum(os.times()[:4])
        popen = getattr(subprocess.Popen, 'plain', subprocess.Popen.__init__)

        def init(*args, **kwargs):
            self.processes.add(nodeid)
            return popen(*args, **kwargs)
        subprocess.Popen.plain, subprocess.Popen.__init__ = popen, init

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = sum(os.times()[:4]) - self.start

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


class Worker:
    """One module at a time, in a copy of the tree of its own."""

    def __init__(self, scratch, module, seconds):
        self.module, self.scratch, self.seconds = module, scratch, seconds
        self.copy = os.path.join(scratch, 'copy-' + module)
        self.path = Path(self.copy, 'gradmod', module + '.py')
        self.log = os.path.join(scratch, module + '.log')
        shutil.rmtree(self.copy, ignore_errors=True)
        for name in ('gradmod', 'tests', 'examples'):
            shutil.copytree(os.path.join(ROOT, name),
                            os.path.join(self.copy, name),
                            ignore=shutil.ignore_patterns('__pycache__'))
        for name in ('setup.py', 'README.md'):
            shutil.copy(os.path.join(ROOT, name), self.copy)
        self.source = self.path.read_text('utf-8')
        self.files = [f'tests/test_{name}.py' for name in TESTS[module]]
        os.chdir(self.copy)
        self.digest = hashlib.sha1((self.source + ''.join(
            Path(path).read_text('utf-8')
            for path in self.files)).encode()).hexdigest()
        sys.path.insert(0, self.copy)
        if module not in COMPILED:
            os.environ['THEANO_FLAGS'] = ','.join(filter(None, [
                os.environ.get('THEANO_FLAGS'), 'cxx=']))
        import hypothesis  # noqa: F401
        import numpy  # noqa: F401
        import pytest  # noqa: F401
        if module != 'compat':  # which is about what is not yet imported
            package = types.ModuleType('gradmod')
            package.__path__ = [os.path.join(self.copy, 'gradmod')]
            sys.modules['gradmod'] = package
            import gradmod.compat  # noqa: F401
            import lasagne  # noqa: F401
            import matplotlib.figure  # noqa: F401
            import scipy.stats  # noqa: F401
            import skimage.metrics  # noqa: F401
            del sys.modules['gradmod']
        gc.freeze()  # as nothing of this goes

    def fork(self, run, seconds):
        """The exit status of `run` in a fork; -SIGALRM if it takes longer."""
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                os.setpgid(0, 0)
                signal.alarm(int(seconds) + 1)
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for fd in (1, 2):
                    os.dup2(log, fd)
                status = run()
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        try:
            _, status = os.waitpid(pid, 0)
            return (os.WEXITSTATUS(status) if os.WIFEXITED(status)
                    else -os.WTERMSIG(status))
        finally:  # and what it has started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def test(self, files, plugin, *options):
        if 'gradmod.compat' in sys.modules:
            import gradmod
            gradmod.compat = sys.modules['gradmod.compat']
        import pytest
        return int(pytest.main(
            ['-q', '-p', 'no:cacheprovider', '--assert', 'plain',
             '--rootdir', self.copy, *options, *files], plugins=[plugin]))

    def survey(self):
        """By line, the tests that run it; by test, its seconds."""
        path = os.path.join(self.scratch, self.module + '.survey')

        def run():
            from coverage import Coverage
            coverage = Coverage(data_file=None, include=[str(self.path)])
            survey = Survey(coverage)
            coverage.start()
            status = self.test(self.files, survey)
            coverage.stop()
            lines = coverage.get_data().contexts_by_lineno(str(self.path))
            with open(path, 'wb') as f:
                pickle.dump((self.digest, status, lines, survey.seconds,
                             survey.processes, survey.failed), f)
            return status

        def found():
            with open(path, 'rb') as f:
                return pickle.load(f)
        if not os.path.exists(path) or found()[0] != self.digest:
            for _ in range(2 if self.module in COMPILED else 1):
                self.fork(run, 3600)  # with all that can be compiled in place
        _, status, lines, seconds, processes, failed = found()
        if status not in (0, 1) or len(failed) > len(seconds) / 5:
            sys.exit('%s: without a mutant, the tests fail: see %s' % (
                self.module, self.log))
        for name in failed:
            print('%s: left out, as it fails without a mutant: %s' % (
                self.module, name), flush=True)
            seconds.pop(name, None)
        return lines, seconds, processes

    def run(self):
        os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'
        os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
        sys.dont_write_bytecode = False
        lines, seconds, processes = self.survey()
        sys.dont_write_bytecode = True
        os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
        for path in self.path.parent.glob(f'__pycache__/{self.module}.*'):
            path.unlink()
        if self.outcome(self.source, seconds, seconds) != 'survived':
            sys.exit('%s: what is no mutant is killed: see %s' % (
                self.module, self.log))
        results = os.path.join(self.scratch, self.module + '.jsonl')
        old = records(results)
        with open(results, 'a') as f:
            for key, name, first, last, mutated in mutants(self.source):
                if key in old and (
                        old[key]['outcome'] != 'survived' or
                        old[key]['digest'] == [self.digest, self.seconds]):
                    continue
                run = statement(self.source, first, last)
                tests = set(seconds) if run is None else processes.union(
                    *(lines.get(line, ()) for line in run)) & set(seconds)
                start = time.time()
                outcome = 'equivalent' if known(
                    self.module, self.source, mutated) else self.outcome(
                        mutated, tests, seconds)
                json.dump({'key': key, 'digest': [self.digest, self.seconds],
                           'mutant': name, 'line': first, 'outcome': outcome,
                           'diff': diff(self.source, mutated),
                           'seconds': round(time.time() - start, 2)}, f)
                f.write('\n')
                f.flush()

    def outcome(self, mutated, tests, seconds):
        chosen, total, functions = {}, 0, {}
        for name in sorted(tests, key=seconds.get):
            functions.setdefault(name.split('[')[0], []).append(name)
        for names in itertools.zip_longest(*functions.values()):
            for name in filter(None, names):
                total += seconds[name]
                if total <= self.seconds:
                    chosen[name] = seconds[name]
        if not chosen:
            return 'survived'
        files = sorted(set(name.split('::')[0] for name in chosen))

        def run():
            signal.setitimer(signal.ITIMER_PROF, 10)  # for the import
            return self.test(files, Selection(chosen), '-x')
        self.path.write_text(mutated, 'utf-8')
        try:
            for _ in range(2):
                status = self.fork(run, 30 + 10 * total)
                if status not in (-signal.SIGALRM, -signal.SIGPROF):
                    # 5: the tests are no longer there
                    return 'survived' if status in (0, 5) else 'killed'
            return 'timeout'
        finally:
            self.path.write_text(self.source, 'utf-8')


def records(path):
    """The last result of each mutant, by its key."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {r['key']: r for r in map(json.loads, f)}


def diff(before, after):
    pairs = zip(before.split('\n'), after.split('\n'))
    return [[a.strip(), b.strip()] for a, b in pairs if a != b][:3]


def known(module, before, after):
    """Why a mutant is said to be equivalent; None if it is not."""
    change = diff(before, after)
    return reason(module, *change[0]) if len(change) == 1 else None


def summary(scratch, modules):
    """Print the counts, and the survivors."""
    from collections import Counter
    total = Counter()
    for module in modules:
        source = Path(ROOT, 'gradmod', module + '.py').read_text('utf-8')
        now, changes = {}, []
        for key, _, _, _, mutated in mutants(source):
            now[key] = known(module, source, mutated)
            changes += diff(source, mutated)
        for line in stale(module, changes):
            print('%s: equivalent.py names what is no mutant: %s' % (
                module, line))
        last = records(os.path.join(scratch, module + '.jsonl'))
        rows = [last[key] for key in now if key in last]
        for r in rows:
            if r['outcome'] == 'survived' and now[r['key']]:
                r['outcome'] = 'equivalent'
        counts = Counter(r['outcome'] for r in rows)
        counts['mutants'] = len(now)
        counts['not run'] = len(now) - len(rows)
        total += counts
        print('\n%s: %s; %d seconds' % (module, words(counts), sum(
            r['seconds'] for r in rows)))
        for r in sorted(rows, key=lambda r: r['line']):
            if r['outcome'] == 'survived':
                print('  line %d, %s' % (r['line'], r['mutant']))
                for before, after in r['diff']:
                    print('    - %s\n    + %s' % (before, after))
    done = max(1, total['mutants'] - total['not run'])
    killed = total['killed'] + total['timeout']
    print('\nall: %s\nkilled: %.1f %%' % (words(total), 100. * killed / done))


def words(counts):
    return ', '.join('%d %s' % (n, name)
                     for name, n in sorted(counts.items()) if n)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--scratch', default='/tmp/gradmod-mutation')
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--seconds', type=float, default=20, help='CPU time of '
                        'the tests of a mutant: those beyond are not run')
    parser.add_argument('--summary', action='store_true',
                        help='print what there is, and run nothing')
    parser.add_argument('modules', nargs='*', default=sorted(TESTS))
    args = parser.parse_args()
    scratch = os.path.abspath(args.scratch)
    os.makedirs(scratch, exist_ok=True)
    waiting, running = [] if args.summary else list(args.modules), {}
    while waiting or running:
        while waiting and len(running) < args.workers:
            module = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                Worker(scratch, module, args.seconds).run()
                os._exit(0)
            running[pid] = module
        pid, status = os.wait()
        print('%s: exit status %d' % (running.pop(pid), status), flush=True)
    summary(scratch, args.modules)


if __name__ == '__main__':
    main()
