"""Makes the links through which libgpuarray finds CUDA: a part of install.sh.

    python cuda_libraries.py FOLDER [PYTHON ...]

libgpuarray opens libcuda.so, libnvrtc.so and libcublas.so by these names, which
the driver and CUDA have with a version behind them, in folders that the loader
may not know. FOLDER gets links of these names to what is found where the loader
looks, in CUDA's usual folders, and in NVIDIA's wheels among the packages of
each PYTHON. Prints on stderr what it links, and on stdout what LD_LIBRARY_PATH
needs. Ends with status 3 where no driver answers, and with status 4, and the
names of wheels on stdout, where there is no CUDA that the driver takes.
"""
import ctypes
import glob
import os
import re
import subprocess
import sys

USUAL = ['/usr/local/nvidia/lib64', '/usr/local/nvidia/lib', '/usr/lib/*-gnu',
         '/usr/lib/*-gnu/nvidia*', '/usr/lib/wsl/lib', '/usr/local/cuda*/lib64',
         '/usr/local/cuda*/targets/*/lib', '/opt/cuda*/lib64']


def lines(*command):
    """What a command prints; nothing if there is no such command."""
    try:
        return subprocess.check_output(
            command, universal_newlines=True).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def found(name, folders):
    """All files of a library, in the order of the folders."""
    return [path for folder in folders if os.path.basename(folder) != 'stubs'
            for path in sorted(glob.glob(os.path.join(folder, name + '.so*')))
            if re.search(r'\.so[.\d]*$', path)]


def ask(path, function, numbers):
    """The numbers that a function of a library writes; none without it."""
    values = [ctypes.c_int() for _ in range(numbers)]
    try:
        failed = getattr(ctypes.CDLL(path), function)(
            *map(ctypes.byref, values))
    except (OSError, AttributeError):  # of another processor, or broken
        return ()
    return () if failed else tuple(v.value for v in values)


def version(path):
    """(13, 0) of libcublas.so.13.0; () of libcublas.so."""
    name = os.path.basename(os.path.realpath(path))
    return tuple(map(int, re.findall(r'\d+', name)))


def main(target, *pythons):
    loader = [os.path.dirname(path) for line in lines('/sbin/ldconfig', '-p')
              for path in re.findall(r'=> (/\S+)', line)]
    packages = [package for python in pythons for package in
                lines(python, '-c', r'import sys; print(*sys.path, sep="\n")')]
    patterns = USUAL + [os.path.join(package, 'nvidia', '*', 'lib')
                        for package in packages if package]
    folders = list(dict.fromkeys(
        [f for f in os.environ.get('LD_LIBRARY_PATH', '').split(':') if f]
        + loader + [f for p in patterns for f in sorted(glob.glob(p))]))
    # The driver first in the order that the loader has; of CUDA, the newest
    # that the driver takes.
    drivers = [(path, ask(path, 'cuDriverGetVersion', 1))
               for path in found('libcuda', folders)]
    driver, number = next((d for d in drivers if d[1]), (None, (0,)))
    if not driver:
        sys.exit(3)
    cuda = number[0] // 1000, number[0] % 1000 // 10
    compilers = [(ask(path, 'nvrtcVersion', 2), path)
                 for path in found('libnvrtc', folders)]
    compilers = [c for c in compilers if c[0] and c[0] <= cuda]
    algebra = [(version(path), path) for path in found('libcublas', folders)]
    algebra = [a for a in algebra if a[0] and a[0][0] <= cuda[0]]
    print('the driver takes CUDA up to %d.%d' % cuda, file=sys.stderr)
    if not compilers or not algebra:
        suffix = '-cu%d' % cuda[0] if cuda[0] < 13 else ''
        print('nvidia-cuda-nvrtc%s==%d.%d.*' % ((suffix,) + cuda),
              'nvidia-cublas%s==%d.*' % (suffix, cuda[0]))
        sys.exit(4)
    os.makedirs(target, exist_ok=True)
    needed = [target]
    for path in driver, max(compilers)[1], max(algebra)[1]:
        link = os.path.join(
            target, os.path.basename(path).split('.so')[0] + '.so')
        if os.path.lexists(link):
            os.remove(link)
        os.symlink(path, link)
        print('%s -> %s' % (link, path), file=sys.stderr)
        if os.path.dirname(path) not in loader + needed:
            needed.append(os.path.dirname(path))
    print(':'.join(needed))


if __name__ == '__main__':
    main(*sys.argv[1:])
