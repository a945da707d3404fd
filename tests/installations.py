"""Install gradmod in every way that is promised, and prove each with numbers.

    python3 tests/installations.py           # with all Pythons that are here
    python3 tests/installations.py --gate    # with the oldest and the newest
    python3 tests/installations.py --list
    python3 tests/installations.py --only 3.8 --keep /tmp/rows

Each row makes a virtual environment in a folder of its own, installs a copy of
the project into it, and runs `installation_check.py` and ``python -m gradmod``
there, with a home, and so a compile directory, that is empty. A row whose
outcome is an error passes if that says what it should. The exit status is 0 if
all rows pass.

Pythons are looked for on the PATH and among pyenv's. Needs nothing but a
Python, and pip's access to an index or to its cache.
"""
import argparse
import ctypes
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CHECK = os.path.join(HERE, 'installation_check.py')

# The oldest numpy and scipy within the bounds of setup.py that have a wheel.
OLDEST = {
    '3.6': ('1.16.0', '1.2.0'), '3.7': ('1.19.0', '1.2.0'),
    '3.8': ('1.19.0', '1.4.0'), '3.9': ('1.19.3', '1.5.4'),
    '3.10': ('1.21.2', '1.7.2'), '3.11': ('1.23.2', '1.9.3')}

THEANORC = ('[global]\nfloatX = float32\ndevice = cpu\nmode = FAST_RUN\n'
            '[blas]\nldflags =\n')


UNSUPPORTED = ['3.12', '3.13']
VERSIONS = [*OLDEST, *UNSUPPORTED]


class Row(types.SimpleNamespace):
    """One way to install gradmod and to run it.

    `pins` go to pip beside the project, `first` before it, and `then` to pip
    afterwards, without what it requires. `flags` are Theano's, with {folder}
    for the row's. `prepare` is called with the `Installation` before it is
    used. `expect` gives values that the check has to print; for 'blas', 'found'
    (an OpenBLAS, the default), 'not in wheels' or 'none'. `error` is what the
    check and the doctor end with, or for an unsupported Python pip. The check
    is run by as many processes at once as `together` says, each with
    `arguments`.
    """

    pins = first = then = arguments = expect = ()
    flags, folder, together, prepare, error = '', 'row', 1, None, None

    def __init__(self, name, version, **options):
        super().__init__(name=f'{version} {name}', version=version, **options)


class Failure(Exception):
    """Why a row did not pass."""


class Installation:
    """The folder of a row: project, environment, home; and what runs there."""

    def __init__(self, row, python, scratch):
        self.folder = os.path.join(
            tempfile.mkdtemp('', row.name.replace(' ', '-') + '-', scratch),
            row.folder)
        self.home = os.path.join(self.folder, 'home')
        self.empty = os.path.join(self.folder, 'empty')  # to run in
        os.makedirs(self.home)
        os.mkdir(self.empty)
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(('THEANO', 'PYTHON'))
                    # with it Python 3.6's pip ends in a traceback
                    and name != 'PIP_NO_CACHE_DIR'}
        self.env['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
        self.preexec = None

        self.project = os.path.join(self.folder, 'project')
        shutil.copytree(os.path.join(ROOT, 'gradmod'),
                        os.path.join(self.project, 'gradmod'),
                        ignore=shutil.ignore_patterns('__pycache__'))
        for name in 'setup.py', 'README.md', 'LICENSE':
            shutil.copy(os.path.join(ROOT, name), self.project)
        venv = os.path.join(self.folder, 'venv')
        self.python = os.path.join(venv, 'bin', 'python')
        self.call(python, '-m', 'venv', venv)

    def run(self, *command, together=1):
        """Pairs of output and exit status, of as many at once."""
        started = [subprocess.Popen(
            command, cwd=self.empty, env=self.env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            errors='replace', preexec_fn=self.preexec)
            for _ in range(together)]
        return [(process.communicate()[0], process.returncode)
                for process in started]

    def call(self, *command):
        """The output of what has to succeed."""
        ((output, status),) = self.run(*command)
        if status:
            raise Failure(f'exit status {status}: {" ".join(command)}\n'
                          f'{output}')
        return output

    def pip(self, *arguments):
        return (self.python, '-m', 'pip', 'install', '-q') + arguments


# What is done to an installation before it is used

def theanorc(text):
    return lambda here: Path(here.home, '.theanorc').write_text(text)


def lines_of_the_doctor(installation):
    """Do what the doctor says so that Theano may be imported first."""
    output = installation.call(installation.python, '-m', 'gradmod', '--json')
    report = json.loads(output[output.index('{'):])
    theanorc(report['facts']['theanorc'])(installation)


def hide_wheels(installation):
    """Move the libraries in wheels to where only the loader finds them."""
    hidden = Path(installation.folder, 'hidden')
    hidden.mkdir()
    site = Path(installation.folder, 'venv', 'lib')
    for package in 'numpy', 'scipy':
        for inside in f'{package}.libs', f'{package}/.libs':
            for library in site.glob(f'python*/site-packages/{inside}/*.so*'):
                library.rename(hidden / library.name)
    installation.env['LD_LIBRARY_PATH'] = str(hidden)


def read_only_home(installation):
    """Also for root, who is otherwise not held by permissions."""
    def give_up_override():  # PR_CAPBSET_DROP: CAP_DAC_OVERRIDE and the like
        for capability in 1, 2:
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
    os.chmod(installation.home, 0o500)
    installation.preexec = give_up_override


# The rows

def all_rows(versions):
    """The rows for the versions of Python that are there, in their order."""
    supported = [v for v in versions if v in OLDEST]
    rows = [Row('Theano 0.9', '3.6', pins=[
        'Theano==0.9.0', 'numpy==1.16.6', 'scipy==1.2.3'])
        for v in supported[:1] if v == '3.6']
    for version in supported:
        numpy, scipy = OLDEST[version]
        rows += [Row('oldest', version, pins=[
                     'Theano==1.0.5', f'numpy=={numpy}', f'scipy=={scipy}']),
                 Row('newest', version, pins=['Theano==1.0.5']),
                 Row('beside Theano-PyMC', version, first=[
                     'Theano-PyMC==1.1.2', 'filelock<3.4.2'],  # for Python 3.6
                     expect={'theano': '1.1.2'})]
    for version in dict.fromkeys(supported[:1] + supported[-1:]):
        rows += [
            Row('no BLAS in wheels', version, prepare=hide_wheels,
                expect={'blas': 'not in wheels'}),
            Row('odd path', version, folder='one two \xe9\u4e2d',
                expect={'blas': 'not in wheels'}),
            Row('Theano first', version, prepare=lines_of_the_doctor,
                arguments=['--theano-first'])]
    for version in supported[-1:]:
        rows += [
            Row('no BLAS', version, flags='blas.ldflags=',
                expect={'blas': 'none'}),
            Row('theanorc', version, prepare=theanorc(THEANORC),
                expect={'blas': 'none', 'floatX': 'float32', 'device': 'cpu',
                        'mode': 'FAST_RUN'}),
            Row('broken theanorc', version,
                prepare=theanorc('[global]\nfloatX float32\n'),
                error='ParsingError: Source contains parsing errors'),
            Row('numpy too new', version, then=['numpy==1.24.0'],
                error='numpy 1.24.0 is too new for Theano.'),
            Row('home read-only', version, prepare=read_only_home,
                error='Unable to create the compiledir directory'),
            Row('home read-only with base_compiledir', version,
                prepare=read_only_home,
                flags='base_compiledir={folder}/compiled'),
            Row('two processes at once', version, together=2)]
    return rows + [
        Row('unsupported', version,
            error='gradmod runs on Python 3.6 to 3.11, where Theano does; '
                  f'this is Python {version}.')
        for version in versions if version in UNSUPPORTED]


def gate_rows(versions):
    """The oldest and the newest Python that Theano runs on, and the next."""
    supported = [v for v in versions if v in OLDEST]
    wanted = [f'{supported[0]} Theano 0.9', f'{supported[0]} oldest',
              f'{supported[-1]} newest', f'{supported[-1]} Theano first',
              f'{supported[-1]} beside Theano-PyMC']
    wanted += [f'{v} unsupported' for v in versions if v in UNSUPPORTED][:1]
    return [row for row in all_rows(versions) if row.name in wanted]


def interpreters():
    """The path of a Python for each of `VERSIONS` that is there."""
    question = ('import ensurepip, sys, venv; '
                'print(sys.executable, "%d.%d" % sys.version_info[:2])')
    pyenv = os.environ.get('PYENV_ROOT', os.path.expanduser('~/.pyenv'))
    names = ['python' + version for version in VERSIONS] + ['python3']
    names += sorted(glob.glob(os.path.join(
        glob.escape(pyenv), 'versions', '3.*', 'bin', 'python')))
    found = {}
    for name in names:
        try:
            answer = subprocess.check_output(
                [name, '-c', question], stderr=subprocess.DEVNULL,
                universal_newlines=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        path, version = answer.strip().rsplit(' ', 1)
        if version in VERSIONS:
            found.setdefault(version, path)
    return found


# Running them

def run_row(row, python, scratch):
    """Return one line on what was seen; `Failure` if it is not as expected."""
    here = Installation(row, python, scratch)
    if row.first:
        here.call(*here.pip(*row.first))
    command = here.pip(here.project, *row.pins)
    if row.version in UNSUPPORTED:
        ((output, status),) = here.run(*command)
        if not status or row.error not in output:
            raise Failure(f'expected the error "{row.error}"\n{output}')
        return f'refused: {row.error}'
    here.call(*command)
    if row.then:
        here.call(*here.pip('--no-deps', *row.then))
    here.env.update(HOME=here.home, USERPROFILE=here.home)
    if row.flags:
        here.env['THEANO_FLAGS'] = row.flags.format(folder=here.folder)
    if row.prepare:
        row.prepare(here)

    results = here.run(here.python, CHECK, *row.arguments,
                       together=row.together)
    doctor = here.run(here.python, '-m', 'gradmod')
    if row.error:
        for output, status in results + doctor:
            if not status or row.error not in output:
                raise Failure(f'expected the error "{row.error}"\n{output}')
        return f'error as expected: {row.error}'
    for output, status in results + doctor:
        if status:
            raise Failure(f'exit status {status}\n{output}')
    for output, _ in results:
        seen = json.loads([line for line in output.splitlines()
                           if line.startswith('{')][-1])
        inspect(row, seen, here.folder)
    return ('Python {python}, Theano {theano}, numpy {numpy}, scipy {scipy}, '
            'Lasagne {lasagne}, blas.ldflags="{ldflags}"').format(
                **seen).replace(here.folder + os.sep, '')


def inspect(row, seen, folder):
    """Raise `Failure` if what the check has printed is not as expected."""
    expect = {'blas': 'found', **dict(row.expect)}
    expect.update(pin.lower().split('==') for pin in (*row.pins, *row.then))
    ldflags = seen['ldflags']
    if not {'found': 'openblas' in ldflags, 'none': ldflags == '',
            'not in wheels': folder not in ldflags}[expect.pop('blas')]:
        raise Failure(f'blas.ldflags = {ldflags!r}. {seen["compat"]}')
    for name, value in expect.items():
        if seen[name] != value:
            raise Failure(f'expected {name} {value!r}, got {seen[name]!r}')


def main():
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--gate', action='store_true',
                        help='the oldest and the newest Python only')
    parser.add_argument('--only', metavar='NAME', action='append',
                        help='rows whose name contains this (may be repeated)')
    parser.add_argument('--list', action='store_true',
                        help='print the rows, and run none')
    parser.add_argument('--keep', metavar='DIR',
                        help='make the rows\' folders here, and keep them')
    args = parser.parse_args()

    pythons = interpreters()
    versions = [v for v in VERSIONS if v in pythons]
    rows = [row for row in (gate_rows if args.gate else all_rows)(versions)
            if any(name in row.name for name in args.only or [''])]
    for version in VERSIONS:
        print(f'Python {version:5} {pythons.get(version, "not found")}')
    if args.list:
        print('\n'.join(row.name for row in rows))
        return 0
    if not rows:
        parser.error('no such row; --list prints them')
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
    scratch = tempfile.mkdtemp('', 'gradmod-', args.keep)
    passed = 0
    try:
        for row in rows:
            start, cpu = time.time(), sum(os.times()[2:4])
            try:
                line, outcome = run_row(row, pythons[row.version],
                                        scratch), 'passed'
                passed += 1
            except (Failure, OSError) as failure:
                line, outcome = str(failure), 'FAILED'
            cpu = sum(os.times()[2:4]) - cpu
            print(f'{outcome}  {row.name:39} {time.time() - start:4.0f} s, '
                  f'CPU {cpu:4.0f} s  {line}', flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(scratch)
    print(f'{passed} passed, {len(rows) - passed} failed')
    return int(passed < len(rows))


if __name__ == '__main__':
    sys.exit(main())
