"""Let ``import theano`` come before ``import gradmod``, and take that back.

Two files are involved, and nothing else is ever written:

- ``gradmod-import-order.pth`` in the site-packages of this environment. Python
  reads it when it starts, and from then on imports gradmod in the place of
  Theano, which imports Theano in the way of `gradmod.compat`. A program that
  never imports Theano pays for one more finder of modules.
- The user's settings of Theano, ``~/.theanorc`` or what ``THEANORC`` names,
  which get a ``blas.ldflags`` if they have none. It holds for all of the
  user's environments. So it is written only for a BLAS of the system: one in
  this environment's packages would leave with them, and is left to the
  ``.pth`` file.
"""
import configparser
import inspect
import io
import os
import re
import shutil
import sys
import sysconfig

from . import compat, finder

PTH = 'gradmod-import-order.pth'
HEAD = '# By python -m gradmod --fix; python -m gradmod --unfix removes it.\n'
LINE = (  # in a venv Python runs it twice
    "import sys; any(type(f).__name__ == 'GradmodFinder' for f in "
    "sys.meta_path) or sys.meta_path.insert(0, type('GradmodFinder', (), "
    "{{'find_spec': lambda self, name, path=None, target=None, names={{}}: "
    "None if name != 'theano' else (exec({source!r}, names), "
    "names['find_spec'](self, name, path, target))[1]}})())\n")

MARK = ('# python -m gradmod --fix wrote this {what}; --unfix removes: '
        'ldflags = {flags}')
MARKED = re.compile(
    '^' + MARK.format(what='(?P<what>file|section|line)',
                      flags='(?P<flags>.*?)')
    + r'\r?\n(?P<header>\[blas\]\r?\n)?ldflags = (?P=flags)(\r?\n|\Z)',
    re.MULTILINE)


class Refusal(Exception):
    """Why something is not done, and what to do, in words."""


class Change:
    """New bytes for a file, in the place of the old; None where it is none."""

    def __init__(self, path, before, after, words):
        self.path = path
        self.before = before
        self.after = after
        self.words = words


def read(path):
    """The bytes of a file; None if there is none."""
    try:
        with open(path, 'rb') as f:
            return f.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal('%s cannot be read: %s.' % (path, error.strerror))


def write(path, data):
    """Make the file have these bytes, or not be there, all or nothing."""
    path = os.path.realpath(path)
    if data is None:
        os.remove(path)
        return
    new = path + '.gradmod'
    try:
        with open(new, 'wb') as f:
            f.write(data)
        if os.path.exists(path):
            status = os.stat(path)
            if hasattr(os, 'geteuid') and os.geteuid() == 0:  # or it is root's
                os.chown(new, status.st_uid, status.st_gid)
            shutil.copymode(path, new)
        os.replace(new, path)
    except OSError:
        if os.path.exists(new):
            os.remove(new)
        raise


def check_writable(path):
    """Raise `Refusal` where `write` would fail, or override a protection."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise Refusal('There is no folder %s to write %s to.' % (
            folder, os.path.basename(path)))
    for name in (folder, path):
        if os.path.exists(name) and not os.access(name, os.W_OK):
            raise Refusal('%s is not yours to write.' % name)


def carry_out(changes):
    """Write all of the changes, or raise `Refusal` and leave none."""
    for change in changes:
        check_writable(change.path)
    done = []
    try:
        for change in changes:
            write(change.path, change.after)
            done.append(change)
    except OSError as error:
        for earlier in done:
            write(earlier.path, earlier.before)
        raise Refusal('%s cannot be written: %s.' % (
            change.path, error.strerror))


# The .pth file

def check_environment():
    """Raise `Refusal` in a Python that belongs to more than one environment."""
    if (sys.prefix == sys.base_prefix and not hasattr(sys, 'real_prefix')
            and not os.path.isdir(os.path.join(sys.prefix, 'conda-meta'))):
        raise Refusal(
            '%s is not in a virtual environment: a .pth file would be run by '
            'all programs of this Python. Make an environment (python -m venv '
            'FOLDER), install gradmod there, and call that one\'s python -m '
            'gradmod --fix.' % sys.executable)


def pth_file():
    """Where the ``.pth`` file of this environment is, or would be."""
    return os.path.join(sysconfig.get_path('purelib'), PTH)


def pth_text():
    """What it says: a comment and one line, as Python demands."""
    return HEAD + LINE.format(source=inspect.getsource(finder))


def add_pth(path):
    """The `Change` that writes it; None if it is there."""
    before, after = read(path), pth_text().encode()
    if before == after:
        return None
    if before is not None and not before.startswith(HEAD.encode()):
        raise Refusal('%s is not by gradmod: rename it.' % path)
    return Change(path, before, after, '%s:\n    one line, which runs the '
                  'code of %s\n    when a program first imports Theano' % (
                      path, finder.__file__))


def remove_pth(path):
    """The `Change` that deletes it; None if it is not there, or not ours."""
    before = read(path)
    if before is None or not before.startswith(HEAD.encode()):
        return None
    return Change(path, before, None, path)


# Theano's settings. As latin-1 any bytes become a text and the same bytes
# again, and what matters here is the same in other encodings.

def parse(text):
    """The options of a settings file by section; raises `configparser.Error`.

    A section `blas` without options counts as none.
    """
    parser = configparser.RawConfigParser()
    parser.read_file(io.StringIO(text, newline=None))  # as Theano's file
    options = {name: dict(parser.items(name)) for name in parser.sections()}
    if not options.get('blas', True):
        del options['blas']
    return options


def with_setting(text, flags):
    """A settings file, None if there is none, with ``blas.ldflags`` added.

    Every byte of it is kept. None is returned where that is not possible.
    """
    what = 'file' if text is None else 'section'
    text = text or ''
    expected = parse(text)
    expected.setdefault('blas', {})['ldflags'] = flags
    header = re.search(r'^\[blas\].*\n', text, re.MULTILINE)
    if header:
        what, at, new = 'line', header.end(), ''
    else:
        at, new = 0, '[blas]\n'
    result = '%s%s\n%sldflags = %s\n%s' % (
        text[:at], MARK.format(what=what, flags=flags), new, flags, text[at:])
    try:
        return result if parse(result) == expected else None
    except configparser.Error:
        return None


def without_setting(text, found):
    """Take back what `with_setting` did, also if the rest was edited since.

    `found` is where in the text that is. Raises `configparser.Error` if it
    cannot be taken out of what the text is now.
    """
    expected = parse(text)
    blas = expected.get('blas', {})
    blas.pop('ldflags', None)
    if not blas:
        expected.pop('blas', None)
    # If the user has added to our section, its first line has to stay.
    for kept in ('', found.group('header') or ''):
        result = text[:found.start()] + kept + text[found.end():]
        try:
            if parse(result) == expected:
                return result
        except configparser.Error:
            pass
    raise configparser.Error('the lines around it have changed')


def add_setting(path, flags):
    """The `Change` that gives a settings file a ``blas.ldflags``."""
    if not path:
        raise Refusal('THEANORC is set, and names no file: unset it.')
    before = read(path)
    after = with_setting(
        None if before is None else before.decode('latin-1'), flags)
    if after is None:
        raise Refusal('Cannot add to %s without changing the rest of it: put '
                      '"ldflags = %s" into its section [blas].' % (path, flags))
    return Change(path, before, after.encode('latin-1'),
                  '%s, for all of your environments:\n'
                  '    [blas]\n    ldflags = %s' % (path, flags))


def remove_setting(path):
    """The `Change` that takes ours out of a settings file; None without it."""
    before = read(path)
    text = (before or b'').decode('latin-1')
    found = MARKED.search(text)
    if not found:
        return None
    try:
        after = without_setting(text, found)
    except configparser.Error as error:
        raise Refusal('Cannot take blas.ldflags out of %s (%s): delete the '
                      'line that gradmod wrote yourself.' % (path, error))
    gone = not after and found.group('what') == 'file'
    return Change(path, before, None if gone else after.encode('latin-1'),
                  '%s: blas.ldflags = %s' % (path, found.group('flags')))


# Both

def needed():
    """Whether gradmod had to do anything to make Theano work."""
    return compat.ldflags is not None or len(compat.actions) > 1


def readied():
    """Whether Theano may be imported before gradmod."""
    return not needed() or read(pth_file()) == pth_text().encode()


def plan():
    """Return the changes that there are to make, and notes in words."""
    if not needed():
        return [], ['Nothing is in the way of import theano here.']
    pth, notes = pth_file(), []
    changes = [add_pth(pth)]
    if changes[0]:
        check_environment()
    flags = compat.ldflags
    if flags is None:
        notes.append(compat.actions[0])
    elif '-L' in flags or not flags:
        notes.append('Leaves %s alone, which is for all of your environments: '
                     'the BLAS here is this environment\'s own, and the .pth '
                     'file sees to it.' % compat.settings_files()[0])
    else:
        changes.append(add_setting(compat.settings_files()[0], flags))
    return [change for change in changes if change], notes


def fix(yes):
    """Show what would be written, or write it; return the exit status."""
    try:
        changes, notes = plan()
        for change in changes:
            check_writable(change.path)
        if changes and yes:
            carry_out(changes)
    except (Refusal, configparser.Error) as error:
        print('%s\nNothing was changed.' % error)
        return 1
    for change in changes:
        print('%s %s' % ('Wrote' if yes else 'Would write', change.words))
    for note in notes:
        print(note)
    if not changes:
        print('Nothing to do: import theano may come before import gradmod.')
    elif yes:
        print('Now import theano may come before import gradmod. Take it back '
              'with: python -m gradmod --unfix')
    else:
        print('Nothing was changed. Write it with: '
              'python -m gradmod --fix --yes')
    return 0


def unfix():
    """Take back what `fix` wrote; return the exit status."""
    settings = compat.settings_files() + [os.path.expanduser('~/.theanorc')]
    try:
        changes = [remove_pth(pth_file())]
        changes += [remove_setting(path) for path in sorted(set(settings))]
        changes = [change for change in changes if change]
        carry_out(changes)
    except Refusal as refusal:
        print('%s\nNothing was changed.' % refusal)
        return 1
    for change in changes:
        print('Removed %s' % change.words)
    if not changes:
        print('Nothing to remove: --fix has written nothing here.')
    return 0
