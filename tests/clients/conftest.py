"""Each client is run by its name alone, in its environment: see the README."""
collect_ignore_glob = ['test_*.py']
